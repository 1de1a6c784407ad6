"""Data sets as they travel: packed here, and made again, to the last bit, on a machine without internet.

What a block needs is known by name: its data set, the images that open-set noise brings in, labels that
people gave. A data set that is not on this machine cannot be packed."""
import shutil
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from noisy_course import data
from noisy_course.basics import atomic_write


def place_of(
    name: str, # of a data set
) -> tuple | None: # (layout, folder); none if it is not on this machine
    "Where a data set lies, and in which layout."
    layouts = (data.LAYOUTS | data.HUMAN_LAYOUTS).get(name)
    return data.find(layouts) if layouts else None


# Images travel as images. PNG loses nothing, and two neighbouring rows tell it more of each other than they
# tell gzip: ten thousand images below one another are one picture.
def sheet(
    x: torch.Tensor, # images, (N, H, W) or (N, 3, H, W) uint8
) -> Image.Image: # W wide, N·H high
    "Images below one another, as one picture."
    return Image.fromarray((x.permute(0, 2, 3, 1) if x.ndim == 4 else x).flatten(0, 1).contiguous().numpy())

def images_of(
    picture: Image.Image, # as `sheet` made it
) -> torch.Tensor: # (N, W, W) or (N, 3, W, W) uint8
    "The square images in a sheet."
    x = torch.from_numpy(np.array(picture)).unflatten(0, (-1, picture.width))
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x


# Over there the official files are made of them again, to the last bit: `data.load` will compare their
# published checksums. Fashion-MNIST has the format of MNIST, CIFAR-10 rows of a label and three planes.
def idx_bytes(
    x: torch.Tensor, # any shape, uint8
) -> bytes: # as `data.read_idx` reads it
    "An array as an IDX file."
    return struct.pack(f">4B{x.ndim}I", 0, 0, 8, x.ndim, *x.shape) + x.numpy().tobytes()

def _idx_files(train_x, train_y, test_x, test_y):
    return {f"FashionMNIST/raw/{name}": idx_bytes(x.byte())
            for name, x in zip(data.IDX_FILES, (train_x, train_y, test_x, test_y))}

def _bin_files(train_x, train_y, test_x, test_y):
    train, test = (torch.cat([y[:, None].byte(), x.flatten(1)], 1)
                   for x, y in ((train_x, train_y), (test_x, test_y)))
    return {f"cifar-10-batches-bin/{name}.bin": rows.numpy().tobytes()
            for name, rows in zip(data.CIFAR10_FILES, (*train.chunk(5), test))}

OFFICIAL = dict(fashion_mnist=_idx_files, cifar10=_bin_files)


# Everything else travels as the files that it is. MNIST is part of the course.
def pack_data(
    name: str, # of a data set that is on this machine
    folder: Path, # to write to
) -> None:
    "Write a data set as it travels: sheets of images with labels, or its files."
    layout, root = place_of(name)
    if name in OFFICIAL: return _pack_images(data.load(name, download=False), folder)
    for file, checksum in layout.files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data.verify_checksum(root / file, checksum))

def _pack_images(dataset, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for split, x, y in (("train", dataset.train_x, dataset.train_y),
                        ("test", dataset.test_x, dataset.test_y)):
        np.save(folder / f"{split}.npy", y.byte().numpy())
        for i, some in enumerate(x.split(10_000)): sheet(some).save(folder / f"{split}-{i}.png")


# And on the other side:
def unpack_data(
    name: str, # of a data set
    folder: Path, # as `pack_data` wrote it
    to: Path, # data folder
) -> None:
    "Make the files that `data.load` looks for."
    if name not in OFFICIAL: return shutil.copytree(folder, to, dirs_exist_ok=True)
    sides = [_unpacked(folder, split) for split in ("train", "test")]
    for file, raw in OFFICIAL[name](*sides[0], *sides[1]).items():
        with atomic_write(to / file) as part: part.write_bytes(raw)

def _unpacked(folder, split):
    pictures = sorted(folder.glob(f"{split}-*.png"))
    return (torch.cat([images_of(Image.open(picture)) for picture in pictures]),
            torch.from_numpy(np.load(folder / f"{split}.npy")))
