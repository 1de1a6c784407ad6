"""One folder to carry to a machine that has PyTorch and nothing else, one command there, one folder of results to bring back."""
import argparse
import json
import math
import re
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from contextlib import suppress
from ctypes import CDLL
from email import message_from_bytes
from hashlib import sha256
from importlib.metadata import requires
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

import numpy as np
import pandas as pd
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image
from tqdm import tqdm

import noisy_course
from noisy_course import data
from noisy_course.basics import atomic_write, require
from noisy_course.lab import batch
from noisy_course.lab.comparison import published_tables
from noisy_course.lab.batch import check_workers
from noisy_course.lab.grid import blocks, plan
from noisy_course.lab.incoming import import_results
from noisy_course.lab.job import block_from, check_device, data_of, parameters
from noisy_course.lab.locks import lock
from noisy_course.lab.results import WORKFLOW, missing, results_folder, set_aside, sources, tree
from noisy_course.lab.papers import TABLES


# What is worth most

# Minutes are few, so the order decides. First comes what the papers' main tables lack most and a laptop
# cannot give; then all the rest of those tables, as the papers have it.
FIRST = (("patrini2017", "table2", "cifar10", "resnet14"), ("patrini2017", "table2", "cifar10", "resnet32"),
         ("patrini2017", "table2", "imdb", "lstm"), ("wang2019", "table1", "mnist", "cnn4"),
         *(("jindal2019", table, "mnist", "lenet") for table in ("table1", "table1b", "table1c")),
         *(("wang2019", table, "cifar10", "cnn8") for table in ("table1", "table2")),
         ("zhang2018", "table1", "fashion_mnist", "resnet18"),
         *(("tanaka2018", table, "cifar10", "preact32") for table in ("table1", "table2")))

def value_order() -> list: # of (paper, table, dataset, model)
    "The parts of the papers' main tables, the most valuable first."
    rest = [(*key, part.dataset, part.model) for key, grid in TABLES.items() if key in published_tables()
            for part in grid.parts]
    return list(dict.fromkeys([*FIRST, *rest]))


# A block that has a result file in one of some folders need not be trained again:
def most_valuable(
    results: list, # folders with result files
    scale: str = "paper", # "smoke", "laptop" or "paper"
) -> list: # of Block
    "The blocks of the main tables that have no result yet, the most valuable first."
    todo = [block for paper, table, dataset, model in value_order()
            for block in blocks(plan(paper, table, scale, dataset=dataset, model=model))]
    for folder in results: todo = missing(todo, folder)
    return todo


# Data to carry

# What a block needs is known by name: its data set, the images that open-set noise brings in, labels that
# people gave. A data set that is not on this machine cannot be packed.
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


# Wheels

# “PyTorch and nothing else” means: no pandas, no papermill, and no registry to get them from. pip can fetch
# wheels for another Python than its own, but it asks its own Python about conditions such as
# `python_version == "3.12"`. So what a wheel needs *there* is read from its metadata, until nothing is
# lacking.
AT_HOME = ("torch", "torchvision", "snakemake")

def needs() -> list: # of requirements
    "What training a block needs besides PyTorch, by the package's metadata: its core, and the extra `lab`."
    ours = [r for r in map(Requirement, requires("noisy_course")) if not r.marker
            or r.marker.evaluate(dict(extra="lab"))]
    return [f"{r.name}{r.specifier}" for r in ours if r.name not in AT_HOME]

def lacking(
    folder: Path, # with wheels
    python: str, # of the other machine, e.g. "3.12"
) -> list: # of requirements
    "What the wheels in a folder need there, and none of them is."
    wheels, there = (sorted(folder.glob("*.whl")),
                     dict(python_version=python, python_full_version=f"{python}.0", extra=""))
    have = {canonicalize_name(wheel.name.split("-")[0]) for wheel in wheels} | {"torch"}
    asked = [Requirement(line) for wheel in wheels for line in _metadata(wheel).get_all("Requires-Dist", [])]
    return sorted({f"{r.name}{r.specifier}" for r in asked if canonicalize_name(r.name) not in have
                   and (not r.marker or r.marker.evaluate(there))})

def _metadata(wheel):
    with zipfile.ZipFile(wheel) as files:
        return message_from_bytes(files.read(next(n for n in files.namelist()
            if n.endswith(".dist-info/METADATA"))))


# PyTorch itself stays where it is, and torchvision must fit it: its version, and its build for CUDA or for
# processors. Most machines with PyTorch have it too; for those that have not, one wheel for each PyTorch
# since 2.11 comes along, and `run.py` takes the first that can be imported. Where none can, only the blocks
# fail whose networks are torchvision's (ResNet-18, 34 and 50, AlexNet).
TORCHVISION = ("torchvision==0.26.0", "torchvision==0.27.0", "torchvision==0.27.1", "torchvision==0.28.0",
               "torchvision>=0.29")

def download_wheels(
    folder: Path, # to write to
    python: str, # of the other machine, e.g. "3.12"
    machine: str = "x86_64", # its processor, or "aarch64"
) -> None:
    "Fetch wheels of all that a machine lacks which has PyTorch alone, pip among them."
    systems = ([f"manylinux_2_{n}_{machine}" for n in range(28, 4, -1)]
               + [f"manylinux{year}_{machine}" for year in (2014, 2010, 1)])
    options = ["--only-binary=:all:", "--python-version", python,
               *(f"--platform={system}" for system in systems), "--dest", str(folder)]
    pip = lambda *words: subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *options,
                                         *words], check=True)
    for version in TORCHVISION: pip("--no-deps", version)
    pip("pip", *needs())
    while lacks := lacking(folder, python): pip(*lacks)


# Parts

# A group is put into one archive, and the archive is cut. The same files give the same parts, so that after
# a change of the course only its own part has to be sent again.
def cut(
    source: Path, # folder of a group
    parts: Path, # folder to write to
    megabytes: float = 59., # of a part, at most
) -> dict: # part → SHA-256
    "A folder as one archive in parts."
    own = lambda member: member.replace(mtime=0, uid=0, gid=0, uname="", gname="", deep=False)
    with TemporaryFile(dir=parts) as whole:
        with tarfile.open(fileobj=whole, mode="w") as archive:
            for file in sorted(f for f in source.rglob("*") if f.is_file()):
                archive.addfile(own(archive.gettarinfo(file, file.relative_to(source))), open(file, "rb"))
        whole.seek(0)
        pieces = iter(lambda: whole.read(int(megabytes * 1e6)), b"")
        return dict(_written(parts / f"{source.name}.{i}", raw) for i, raw in enumerate(pieces, 1))

def _written(path, raw):
    with atomic_write(path) as part: part.write_bytes(raw)
    return path.name, sha256(raw).hexdigest()


# The pack

# The course is its modules, their assets and the notebooks, and a note of the commit: results say where
# they come from, and there will be no git to ask.
COURSE = Path(noisy_course.__file__).parent.parent
SCRIPT = WORKFLOW / "run_pack.py"

def copy_course(
    folder: Path, # to write to
) -> None:
    "The course without tests and results, and a note of its commit."
    for name in ("noisy_course", "nbs"):
        shutil.copytree(COURSE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    (folder / "packed.json").write_text(json.dumps(tree() | dict(sources=sources())))


# `pack.json` is written last: a pack without it is none, and with it, it is whole. Blocks whose data are
# not on this machine are left out, and named.
def write_pack(
    folder: str | Path, # of the pack
    todo: list, # of Block, the most valuable first
    minutes: float = 30., # that its command takes, if it is not told otherwise
    python: str | None = None, # of the other machine, e.g. "3.12"; none: it has all packages that are needed
    machine: str = "x86_64", # its processor, or "aarch64"
    megabytes: float = 59., # of a part, at most
) -> dict: # blocks, left_out (data set → blocks), megabytes (group → size)
    "Write a folder that trains blocks on a machine with PyTorch and without internet."
    require(todo, "todo", "blocks that have no result yet", "none: there is nothing to train")
    folder, absent = Path(folder), {name for block in todo for name in data_of(block) if not place_of(name)}
    kept = [block for block in todo if not data_of(block) & absent]
    require(kept, "todo", f"blocks whose data are on this machine, which has no {', '.join(sorted(absent))}",
            f"{len(todo)} others")
    _emptied(folder)
    with TemporaryDirectory(dir=folder, prefix=".staged-") as staged:
        _stage(Path(staged), kept, python, machine)
        groups = {group.name: cut(group, folder / "parts", megabytes)
                  for group in sorted(Path(staged).iterdir())}
    made_for = dict(python=python, machine=machine) if python else {}
    _tell(folder, kept, dict(minutes=minutes, torch=_least_torch(), needs=needs(), groups=groups) | made_for
          | tree())
    size = lambda parts: round(sum((folder / "parts" / name).stat().st_size for name in parts) / 1e6, 1)
    left_out = {name: sum(name in data_of(block) for block in todo) for name in sorted(absent)}
    return dict(blocks=len(kept), left_out=left_out,
                megabytes={group: size(parts) for group, parts in groups.items()})


OWN = "run.py", "plan.json", "pack.json", "parts", "work", "results"

def _emptied(folder):
    other = [path.name for path in folder.glob("[!.]*") if path.name not in OWN] if folder.exists() else []
    require(not other, "folder", "a new folder, or a pack to write anew",
            f"{folder} with {', '.join(other[:3])}")
    (folder / "pack.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "parts", ignore_errors=True)
    (folder / "parts").mkdir(parents=True)

def _stage(staged, kept, python, machine):
    copy_course(staged / "course")
    for name in {name for block in kept for name in data_of(block)}:
        if place_of(name)[1] != data.ASSETS: pack_data(name, staged / name)
    if python: download_wheels(staged / "wheels", python, machine)

def _tell(folder, kept, pack):
    shutil.copy(SCRIPT, folder / "run.py")
    planned = {block.name: parameters(block, "", "") for block in kept}
    (folder / "plan.json").write_text(json.dumps(planned, indent=1))
    with atomic_write(folder / "pack.json") as part: part.write_text(json.dumps(pack, indent=1))

def _least_torch():
    return next(s.version for r in map(Requirement, requires("noisy_course")) if r.name == "torch"
                for s in r.specifier)


# Against the clock

# `run.py` uses nothing but Python's own library: it compares checksums, unpacks, makes an environment
# around the Python that has PyTorch, and hands over to what follows. Blocks are trained in the plan's
# order, each in its notebook and its own process. When the time is over, those that still train are
# interrupted; their checkpoints lie in the results folder, and with that folder the same command goes on,
# on any machine.
def run_plan(
    file: str | Path, # plan.json of a pack
    results: str | Path, # folder
    minutes: float, # when to be at the end, counted from now; the last `LAST` seconds are for stopping
    device: str = "cpu", # where to train
    workers: int = 1, # blocks at a time
) -> list: # result files of the plan
    "Train a plan's missing blocks, the most valuable first, until the time is over."
    check_workers(workers)
    results, ends, given = (Path(results).resolve(), time.monotonic() + 60 * minutes - LAST,
                            json.loads(Path(file).read_text()))
    planned = [block_from(one, set())[0] for one in given.values()]
    with lock(results / "locks" / "batch", wait=False):
        here = {name: one | dict(device=device, results=str(results)) for name, one in given.items()}
        with atomic_write(results / "plan.json") as part: part.write_text(json.dumps(here, indent=1))
        with batch._environment(workers, results): _train(planned, results, ends, workers)
    return [results / f"{block.name}.parquet" for block in planned if not missing([block], results)]


def _train(planned, results, ends, workers):
    todo, running = missing(planned, results), {}
    set_aside(todo, results)
    waiting = list(todo)
    with tqdm(desc=_clock(ends), unit="run-epoch", smoothing=.05,
              mininterval=1 if sys.stderr.isatty() else 20) as bar:
        try:
            while (waiting or running) and time.monotonic() < ends:
                while waiting and len(running) < workers: _start(waiting.pop(0), results, running, bar, ends)
                time.sleep(.5)
                _look(todo, results, running, bar, ends)
        except KeyboardInterrupt: bar.write("stopping")
        finally: _stop(running, bar, results)

def _clock(ends): return f"{max(0, ends - time.monotonic()) / 60:.1f} minutes left"

def _look(todo, results, running, bar, ends):
    done, bar.total = map(sum, zip(*batch._done(todo, results)))
    bar.set_description(_clock(ends), refresh=False)
    bar.update(done - bar.n)
    for name in [name for name, process in running.items() if process.poll() is not None]:
        outcome = ("done" if running.pop(name).returncode == 0
                   else f"failed, see {results / 'logs' / name}.log")
        bar.write(f"{_clock(ends)}: {name} {outcome}")


# A block's process is started in a session of its own, so that Ctrl-C reaches it once, from here. A
# notebook is given half a minute to go.
PRCTL = getattr(CDLL(None), "prctl", None) if sys.platform == "linux" else None
LAST, TRAIN = (30.,
               "import sys; from noisy_course.lab.job import execute_planned; execute_planned(*sys.argv[1:])")

def _start(block, results, running, bar, ends):
    bar.write(f"{_clock(ends)}: {block.name} begins")
    log = results / "logs" / f"{block.name}.log"
    log.parent.mkdir(exist_ok=True)
    with open(log, "w") as said:
        command = [sys.executable, "-c", TRAIN, str(results / "plan.json"), block.name]
        running[block.name] = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True,
                                               preexec_fn=_hearing)

def _hearing():
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if PRCTL: PRCTL(1, signal.SIGINT)

def _stop(running, bar, results):
    for process in running.values(): process.send_signal(signal.SIGINT)
    until = time.monotonic() + LAST - 5
    for name, process in running.items():
        try: process.wait(max(0, until - time.monotonic()))
        except subprocess.TimeoutExpired: process.kill()
        kept = list((results / "checkpoints" / name).rglob("*.pt"))
        told = "the same command goes on from its checkpoint" if kept else "it had no checkpoint yet"
        with suppress(OSError): bar.write(f"{name} stopped; {told}")


# From the command line

# A pack is written from a clean tree only: what comes from a changed one would be refused when it is back.
def main(
    argv: list | None = None, # words of the command line; those of the process if none
) -> None:
    "Write a pack, run one, or import results: python -m noisy_course.lab.gpu_pack pack|run|import ..."
    parser = argparse.ArgumentParser(prog="python -m noisy_course.lab.gpu_pack",
                                     description="Results from a rented GPU.")
    commands = parser.add_subparsers(dest="command", required=True)
    add = lambda name, **options: commands.add_parser(name, help=options.pop("help")).add_argument
    pack, run, back = (add(name, help=text)
                       for name, text in (("pack", "write a pack"),
                                          ("run", "train the blocks of an unpacked one"),
                                          ("import", "add results that came back")))
    pack("folder", type=Path, help="of the pack")
    pack("--minutes", type=float, default=30., help="that its command takes, if it is not told otherwise")
    pack("--scale", default="paper", help="smoke, laptop or paper")
    pack("--python", default=f"3.{sys.version_info.minor}", help="version of the other machine's Python")
    pack("--machine", default="x86_64", help="its processor, or aarch64")
    pack("--megabytes", type=float, default=59., help="of a part, at most")
    run("plan", type=Path)
    run("--work", type=Path, required=True, help="folder with the unpacked groups")
    run("--results", type=Path, required=True)
    run("--until", type=float, required=True, help="when to end, in seconds since 1970")
    run("--device", default="")
    run("--workers", type=int, default=1)
    back("folder", type=Path, help="that came back")
    back("--to", type=Path, default=_published(), help="folder to add to")
    given = parser.parse_args(argv)
    try: dict(pack=_pack, run=_run, **{"import": _import})[given.command](given)
    except (ValueError, OSError) as error: raise SystemExit(str(error)) from None

def _published(): return COURSE / "results" if (COURSE / "results").is_dir() else results_folder()


# Each says in a line or two what it did, and what to do next:
def _check_pack(given):
    for name in ("minutes", "megabytes"):
        require(0 < getattr(given, name) < math.inf, name, "a number above 0", getattr(given, name))
    python = re.fullmatch(r"3\.(\d+)", given.python)
    require(python and int(python[1]) >= 10, "python", "a version from 3.10 on, as 3.12", repr(given.python))
    require(given.machine in ("x86_64", "aarch64"), "machine", "x86_64 or aarch64", repr(given.machine))


def _pack(given):
    _check_pack(given)
    said = tree()
    require(not said["dirty"] and said["commit"] != "unknown", "tree",
            "a repository with everything committed", f"commit {said['commit']}{', changed' * said['dirty']}")
    todo = most_valuable([COURSE / "results", results_folder()], given.scale)
    told = write_pack(given.folder, todo, given.minutes, given.python, given.machine, given.megabytes)
    for name, n in told["left_out"].items():
        print(f"left out: {n} blocks that need {name}, which is not on this machine")
    print(f"{given.folder}: {told['blocks']} blocks; megabytes: "
          f"{', '.join(f'{group} {size:g}' for group, size in told['megabytes'].items())}")
    print(f"On a machine with PyTorch and Python {given.python}: python run.py --minutes {given.minutes:g}. "
          "Then bring its folder results back.")

def _run(given):
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if stop == signal.SIGINT or signal.getsignal(stop) != signal.SIG_IGN:
            signal.signal(stop, signal.default_int_handler)
    require(math.isfinite(given.until), "until", "seconds since 1970", given.until)
    if given.device: check_device(given.device)
    require(given.device or torch.cuda.is_available(), "device",
            "a GPU that PyTorch can use (--device cpu trains without one)", "none")
    for name in data.LAYOUTS | data.HUMAN_LAYOUTS:
        if (given.work / name).is_dir() and not place_of(name):
            unpack_data(name, given.work / name, given.work / "data")
    device = given.device or "cuda"
    print(f"training on {device}", flush=True)
    finished = run_plan(given.plan, given.results, (given.until - time.time()) / 60, device, given.workers)
    print(f"{len(finished)} of {len(json.loads(given.plan.read_text()))} blocks are finished; bring the "
          f"folder {given.results.name} back")

def _import(given):
    outcome = import_results(given.folder, given.to)
    print(outcome.to_string(index=False))
    if (outcome.outcome == "refused").any(): raise SystemExit(1)


if __name__ == "__main__": main()
