"""Pictures on disk against the same pictures in memory, and Clothing1M in a small folder of
its published layout."""
import os, shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator
from torchvision import models

from noisy_course import image_files, training
from noisy_course.lab import grid, job, protocols
from noisy_course.data import Dataset
from noisy_course.image_files import (LISTS, ImageFiles, both_labels, clothing1m, fine_tuned,
                                      imagenet_weights, read_clothing1m, read_labels, read_weights)
from noisy_course.loss_correction import METHODS
from noisy_course.models import DigitCNN, initialise
from noisy_course.noise import realised
from noisy_course.training import Recipe, Run, train


def pictures(folder, n, size=(40, 40), seed=0):
    "PNG files of noise: what comes back must be what was written."
    pixels = np.random.default_rng(seed).integers(256, size=(n, *size, 3), dtype=np.uint8)
    files = [folder / f"{i}.png" for i in range(n)]
    for x, file in zip(pixels, files): Image.fromarray(x).save(file)
    return files, torch.from_numpy(pixels).permute(0, 3, 1, 2)

def test_files_behave_like_a_tensor(tmp_path):
    files, pixels = pictures(tmp_path, 7)
    images, rows = ImageFiles(files, 40, 40), torch.tensor([6, 0, 0, 3])
    assert images.shape == pixels.shape and len(images) == 7
    assert (images.ndim, images.dtype) == (pixels.ndim, pixels.dtype)
    assert images.device == pixels.device and images.is_floating_point() == pixels.is_floating_point()
    assert torch.equal(images.index_select(0, rows), pixels.index_select(0, rows))
    assert [torch.equal(a, b) for a, b in zip(images.split(3), pixels.split(3), strict=True)] == [True] * 3
    assert torch.equal(images[2:5].index_select(0, torch.arange(3)), pixels[2:5])
    assert torch.equal(images[rows].index_select(0, torch.arange(4)), pixels[rows])
    assert torch.equal(ImageFiles(files, 40, 30).index_select(0, rows), pixels[rows][..., 5:35, 5:35])

@pytest.mark.parametrize("size, kept", [((80, 80), (36, 32)), ((30, 90), (36, 32)), ((40, 40), (41, 40))])
def test_pictures_are_resized_before_their_centre_is_cut(tmp_path, size, kept):
    files, _ = pictures(tmp_path, 1, size)
    edge = (kept[0] - kept[1]) // 2
    expected = np.asarray(Image.open(files[0]).resize((kept[0],) * 2, Image.Resampling.BILINEAR))[
        edge:edge + kept[1], edge:edge + kept[1]]
    assert np.array_equal(ImageFiles(files, *kept).read(files[0]).permute(1, 2, 0), expected)

def test_grey_and_transparent_pictures_become_colour(tmp_path):
    for mode in ("L", "RGBA", "P", "CMYK"):
        file = tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (20, 20)).save(file)
        assert ImageFiles([file], 20, 20).index_select(0, torch.tensor([0])).shape == (1, 3, 20, 20)

@pytest.mark.parametrize("raw", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_a_broken_or_missing_file_is_named(tmp_path, raw):
    (tmp_path / "broken.png").write_bytes(raw)
    for name in ("broken.png", "missing.png"):
        with pytest.raises(ValueError, match=f"{name}: expected a picture"):
            ImageFiles([tmp_path / name]).read(tmp_path / name)

def test_a_network_learns_the_same_from_files_and_from_memory(tmp_path):
    files, pixels = pictures(tmp_path, 60, (28, 28))
    y, tested = torch.arange(60) % 3, slice(40, 60)
    resident = Dataset("toy", pixels[:40], y[:40], pixels[tested], y[tested], tuple("abc"))
    images = ImageFiles(files, 28, 28)
    on_disk = Dataset("toy", images[:40], y[:40], images[tested], y[tested], tuple("abc"))
    build, recipe = (lambda g: initialise(DigitCNN(3, channels=3), g),
                     Recipe(epochs=2, batch_size=9, runs_at_once=1))
    one, other = (train(data, [Run(METHODS["cross_entropy"], y[:40])], build, recipe)
                  for data in (resident, on_disk))
    a, b = (t.curves[~t.curves.metric.str.contains("seconds")].value.to_numpy() for t in (one, other))
    np.testing.assert_array_equal(a, b)
    for p, q in zip(one.module(0).parameters(), other.module(0).parameters(), strict=True):
        assert torch.equal(p, q)
    # another memory order
    torch.testing.assert_close(one.training_state(0).probabilities("last"),
                               other.training_state(0).probabilities("last"))

def shop(folder, n=56, n_test=14):
    """Clothing1M's layout: file names with commas and folders, labels by people for every second picture,
    every fourth label from the text wrong."""
    keys = [f"images/{i % 10}/{i},{7 * i}.jpg" for i in range(n + n_test)]
    for i, key in enumerate(keys):
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (50, 60), (17 * (i % 14), 255 - 17 * (i % 14), 100)).save(folder / key)
    write = lambda name, lines: (folder / name).write_text("".join(f"{line}\n" for line in lines))
    for name, part in zip(LISTS, (keys[:n], keys[n:])): write(name, part)
    write(LISTS[2], [f"{key} {(i % 14 + (i % 4 == 0)) % 14}" for i, key in enumerate(keys)])
    write(LISTS[3], [f"{key} {i % 14}" for i, key in enumerate(keys) if i % 2 == 0 or i >= n])
    write(LISTS[4], keys[:n:2])
    return folder

def test_clothing1m_in_its_layout(tmp_path):
    data = read_clothing1m(shop(tmp_path), 36, 32)
    assert data.train_x.shape == (56, 3, 32, 32) and data.test_x.shape == (14, 3, 32, 32)
    assert data.n_classes == 14
    assert data.train_y.tolist() == [(i % 14 + (i % 4 == 0)) % 14 for i in range(56)]
    assert data.test_y.tolist() == list(range(14))
    assert data.extra["wrong"].item() == .5
    true = torch.tensor([i % 14 for i in range(0, 56, 2)])
    assert torch.equal(data.extra["T"], realised(true, data.train_y[::2], 14))
    first = data.train_x.index_select(0, torch.tensor([3])).float()[0, :, 16, 16]
    assert torch.allclose(first, torch.tensor([51., 204, 100]), atol=4)
    small = data.head(10, 5)
    assert small.train_x.shape[0] == 10 == len(small.train_y)
    assert torch.equal(small.extra["T"], data.extra["T"])

def test_clothing1m_is_found_or_asked_for(tmp_path):
    (tmp_path / "clothing1m").mkdir()
    with pytest.raises(FileNotFoundError, match="noisy_train_key_list.txt.*settings.ini"):
        clothing1m(tmp_path)
    shop(tmp_path / "clothing1m")
    assert clothing1m(tmp_path).train_x.shape == (56, 3, 224, 224)

def test_labels_need_a_picture_with_both(tmp_path):
    (tmp_path / "kv").write_text("images/1/2,3.jpg 4\nimages/a b.jpg 13\n")
    assert read_labels(tmp_path / "kv") == {"images/1/2,3.jpg": 4, "images/a b.jpg": 13}
    with pytest.raises(ValueError, match="^clean: expected labels of some pictures"):
        both_labels(dict(a=1), dict(b=1))
    with pytest.raises(ValueError, match="^clean: expected"): both_labels(dict(a=1), dict(a=1), ["a"])

@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(models.resnet50().state_dict(), folder / "resnet50-0676ba61.pth")
    return imagenet_weights(folder=folder, check=False)

def test_only_the_last_layer_is_new(weights):
    one, other = (fine_tuned(14, weights, Generator().manual_seed(seed)) for seed in (0, 1))
    state = one.state_dict()
    assert ({n for n, v in weights.items() if state[n].shape != v.shape or not torch.equal(state[n], v)}
            == {"fc.weight", "fc.bias"})
    assert state["fc.weight"].shape == (14, 2048) and not torch.equal(state["fc.weight"], other.fc.weight)

def test_a_block_of_table_3_trains(tmp_path, monkeypatch, weights):
    shop(tmp_path)
    monkeypatch.setitem(image_files.LOADERS, "clothing1m",
                        lambda part: read_clothing1m(tmp_path, 36, 32, part))
    monkeypatch.setitem(job.PRETRAINED, "resnet50", (lambda: weights, fine_tuned))
    block = next(iter(grid.blocks(grid.plan("wang2019", "table3", "smoke"))))
    assert (block.noise, block.rate, block.samples, len(block.methods)) == ("real", .385, 1000, 6)
    block = job.replace(block, samples=0, methods=("forward", "d2l"))
    data = job.block_data(block)
    runs = job.block_runs(block, data)
    assert all(torch.equal(run.labels, data.train_y) and torch.equal(run.T, data.extra["T"]) for run in runs)
    rows = job.result_rows(block, data, runs, job.train_block(block, data, runs))
    assert (rows[rows.metric == "accuracy_last"].value.between(0, 100)).sum() == 2
    assert rows.realised_rate.unique().tolist() == [.5]
    assert rows[rows.metric == "realised_T[0,1]"].value.iloc[0] == data.extra["T"][0, 1].item()

def test_three_training_sets_of_clothing1m(tmp_path):
    noisy, clean, both = (read_clothing1m(shop(tmp_path), 36, 32, part)
                          for part in ("noisy", "clean", "both"))
    assert [len(d.train_x) for d in (noisy, clean, both)] == [56, 28, 84]
    assert clean.train_y.tolist() == [i % 14 for i in range(0, 56, 2)]
    assert torch.equal(clean.extra["T"], torch.eye(14).double()) and clean.extra["wrong"] == 0
    assert torch.equal(both.extra["T"], noisy.extra["T"])
    turns = [file for i, given in enumerate(noisy.train_x.files)
             for file in (given, *clean.train_x.files[i:i + 1])]
    assert both.train_x.files == turns
    assert (both.extra["train_checked"].tolist()
            == [True if i % 2 else False for i in range(56)] + [False] * 28)
    assert both.train_y[both.extra["train_checked"]].tolist() == clean.train_y.tolist()
    assert both.train_y[~both.extra["train_checked"]].tolist() == noisy.train_y.tolist()
    assert not noisy.extra["train_checked"].any() and clean.extra["train_checked"].all()
    assert both.head(8, 2).extra["train_checked"].sum() == 4
    with pytest.raises(ValueError, match="part: expected 'noisy', 'clean' or 'both', got 'all'"):
        read_clothing1m(tmp_path, part="all")

def test_a_network_is_fine_tuned_on_checked_labels(tmp_path, monkeypatch, weights):
    """Table 4 of Jindal et al., #5 and #10: both methods learn from noisy labels only, cross-entropy goes
    on with checked ones only."""
    shop(tmp_path)
    monkeypatch.setitem(image_files.LOADERS, "clothing1m",
                        lambda part: read_clothing1m(tmp_path, 36, 32, part))
    monkeypatch.setitem(job.PRETRAINED, "resnet50", (lambda: weights, fine_tuned))
    block = next(iter(grid.blocks(grid.plan("jindal2019", "table4", "smoke", noise="real_then_clean_50k"))))
    assert block.methods == ("cross_entropy_after_forward_estimated", "cross_entropy_after_nnaqc")
    assert (block.samples, block.rate) == (1000, .385)
    block = job.replace(block, samples=60)
    recipe = job.replace(grid.block_recipe(block), valid_fraction=.2)
    monkeypatch.setattr(grid, "block_recipe", lambda block: recipe)
    data = job.block_data(block)
    checked = data.extra["train_checked"]
    trained = job.train_block(block, data, runs := job.block_runs(block, data))
    assert checked.sum() == 28 and data.train_y[checked].tolist() == [i % 14 for i in range(0, 56, 2)]
    for i, before in enumerate(("forward_estimated", "nnaqc")):
        (trainer, _), first = trained.trainers[i], trained.first_stage(i)
        learnt = first.trainers[0][0]
        assert first.runs[0].method.name == before and not checked[learnt.train_rows].any()
        assert checked[trainer.train_rows].all() and checked[trainer.valid_rows].all()
        for n, v in first.module(0)[0].state_dict().items():
            assert torch.equal(trained.runs[i].init_state[n], v)
    rows = job.result_rows(block, data, runs, trained)
    assert set(rows.method) == set(block.methods)
    assert rows[rows.metric == "first_test_accuracy"].value.between(0, 100).sum() == 2
    assert rows.realised_rate.unique().tolist() == [.5]
    assert (rows[rows.metric == "accuracy_last"].value.between(0, 100)).sum() == 2

def test_every_row_of_table_4_begins_where_the_paper_says():
    "The column “init” of Table 4: another row's network, or ImageNet's; and on which labels."
    stages = lambda name: [(m.name, getattr(m.samples, "__name__", "all"))
                           for m in training.stages(protocols.method(name))]
    assert stages("cross_entropy_after_nnaqc") == [("cross_entropy_after_nnaqc", "verified_mask"),
                                                   ("nnaqc", "unverified_mask")]
    assert (stages("cross_entropy_after_forward_estimated")
            == [("cross_entropy_after_forward_estimated", "verified_mask"),
                ("forward_estimated", "unverified_mask"), ("cross_entropy", "unverified_mask")])
    assert (stages("linear_noise_layer_after_cross_entropy")
            == [("linear_noise_layer_after_cross_entropy", "all"), ("cross_entropy", "verified_mask")])

def test_a_picture_may_keep_its_shape(tmp_path):
    files, pixels = pictures(tmp_path, 1, (30, 60))
    assert torch.equal(ImageFiles(files, 30, 20, squash=False).index_select(0, torch.tensor([0])),
                       pixels[..., 5:25, 20:40])

def photographs(folder, n=30, classes=6):
    for part, many in (("train", n), ("val", 2 * classes)):
        for i in range(many):
            place = folder / "imagenet" / part / f"n{i % classes:08d}"
            place.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (260, 240),
                      (40 * (i % classes), 100, 255 - 40 * (i % classes))).save(place / f"{i}.JPEG")
    return folder

def test_imagenet_in_its_layout(tmp_path):
    with pytest.raises(FileNotFoundError, match="imagenet is not here.*settings.ini"):
        image_files.imagenet(tmp_path)
    data = image_files.imagenet(photographs(tmp_path))
    assert data.train_x.shape == (30, 3, 224, 224) and data.classes == tuple(f"n{c:08d}" for c in range(6))
    assert len(data.test_y) == 12
    (tmp_path / "imagenet" / "val" / "n9").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "imagenet" / "val" / "n9" / "x.jpg")
    with pytest.raises(ValueError, match="val: expected the 6 classes of train"):
        image_files.imagenet(tmp_path)

def test_a_block_of_imagenet_trains_what_is_not_frozen(tmp_path, monkeypatch):
    photographs(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = {n: v for n, v in models.alexnet().state_dict().items() if n.startswith("features")}
    monkeypatch.setitem(image_files.LOADERS, "imagenet", lambda: image_files.imagenet(tmp_path, 72, 64))
    monkeypatch.setitem(job.PRETRAINED, "alexnet", (lambda: weights, image_files.frozen_alexnet))
    monkeypatch.setattr(job.noise, "sparse",
                        lambda C, rate, n, g: realised(torch.arange(C), torch.arange(C), C))
    recipe = grid.block_recipe
    monkeypatch.setattr(grid, "block_recipe", lambda block: job.replace(recipe(block), valid_fraction=.2))
    block = next(b for b in grid.blocks(grid.plan("jindal2019", "table3", "smoke")) if b.rate == .5)
    block = job.replace(block, samples=0, methods=("cross_entropy", "nnaqc_dropout"))
    data = job.block_data(block)
    trained = job.train_block(block, data, job.block_runs(block, data))
    rows = job.result_rows(block, data, job.block_runs(block, data), trained)
    assert rows[rows.metric == "accuracy_top5"].value.between(0, 100).sum() == 2
    state = trained.module(0, "last").state_dict()
    same = {n for n in weights if torch.equal(weights[n], state[f"0.{n}"])}
    assert same == {n for n in weights if int(n.split(".")[1]) < 10}

@pytest.fixture
def alone(tmp_path, monkeypatch):
    "No weights but those in a folder, and no way to fetch others."
    for key in ("DATA", "CACHE"):
        monkeypatch.setenv(f"NOISY_COURSE_{key}", str(tmp_path / key) if key == "CACHE" else "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    def unreachable(url, *_, **__): raise OSError(f"no route to {url}")
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    return tmp_path

@pytest.mark.parametrize("network, files",
                         [("resnet50", "resnet50-0676ba61.pth"),
                          ("alexnet", "alexnet-owt-7be5be79.pth or alexnet_imagenet_features.pth")])
def test_weights_that_cannot_be_had_are_asked_for_and_no_others_are_taken(alone, network, files):
    (alone / "pretrained").mkdir()
    for file in ("resnet50-0676ba61.pth", "alexnet_imagenet_features.pth"):
        if file not in files: (alone / "pretrained" / file).write_bytes(b"the other network's")
    with pytest.raises(FileNotFoundError, match=f"^{files} is not here and cannot be fetched .no route to "
                                                "https://download.*pretrained.*settings.ini"):
        image_files.feature_network(network, alone)

def saved(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, file)
    return file

def test_weights_are_checked_by_the_name_of_their_file(alone):
    mine = saved(alone / "pretrained" / "mine.pth", dict(a=torch.ones(1)))
    begins = sha256(mine.read_bytes()).hexdigest()
    for digits in (8, 12, 64): shutil.copy(mine, alone / f"net-{begins[:digits]}.pth")
    for file in (mine, *alone.glob("net-*.pth")): assert read_weights(file)["a"].item() == 1
    assert imagenet_weights(folder=alone, others=["mine.pth"])["a"].item() == 1
    for name in ("net-00000000.pth", "resnet50-0676ba61.pth", "alexnet_imagenet_features.pth"):
        shutil.copy(mine, alone / name)
        with pytest.raises(ValueError,
                           match=f"{name}: expected a file whose SHA-256 begins .*got {begins[:8]}"):
            read_weights(alone / name)
        assert read_weights(alone / name, check=False)["a"].item() == 1
    with pytest.raises(ValueError, match="resnet50-0676ba61.pth: expected"): imagenet_weights(folder=alone)

def test_a_download_that_was_altered_since_is_refused(alone):
    saved(alone / "torch" / "hub" / "checkpoints" / "resnet50-0676ba61.pth", dict(a=torch.ones(1)))
    with pytest.raises(ValueError,
                       match="resnet50-0676ba61.pth: expected a file whose SHA-256 begins 0676ba61"):
        imagenet_weights()

class Command:
    def __init__(self, file): self.file = file
    def __reduce__(self): return os.mkdir, (str(self.file),)

@pytest.mark.parametrize("harm, message", [
    (lambda file: file.write_bytes(b""), "cannot be read"),
    (lambda file: file.write_bytes(b"text"), "cannot be read"),
    (lambda file: file.write_bytes(file.read_bytes()[:200]), "cannot be read"),
    (lambda file: saved(file, [torch.ones(1)]), "expected a dictionary, name → tensor"),
    (lambda file: saved(file, dict(a=1)), "expected a dictionary, name → tensor"),
    (lambda file: saved(file, dict(a=Command(file.parent / "run"))), r"mkdir, which was not run"),
])
def test_what_are_no_weights_is_said_and_not_run(alone, harm, message):
    harm(saved(alone / "own.pth", dict(a=torch.ones(1))))
    with pytest.raises(ValueError, match=rf"own.pth.*{message}"): read_weights(alone / "own.pth")
    assert not (alone / "run").exists()

@pytest.fixture
def networks(alone, weights):
    "Both networks' weights, made up."
    saved(alone / "resnet50-0676ba61.pth", weights)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        saved(alone / "alexnet_imagenet_features.pth",
              {n: v for n, v in models.alexnet().state_dict().items() if n.startswith("features")})
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8, generator=Generator().manual_seed(0))
    def seen(network, images=images, **more):
        return image_files.pretrained_features(images, network, alone, 64, check=False, **more)
    return seen

def test_features_are_of_the_network_that_was_named(networks, alone):
    "Both networks' weights are there; one by one or in a batch, the features are the same."
    for network, width in (("alexnet", 256), ("resnet50", 2048)):
        seen = networks(network)
        torch.testing.assert_close(seen, networks(network, batch_size=1), atol=1e-4, rtol=1e-4)
        assert seen.shape == (3, width) and (seen != 0).any() and seen.isfinite().all()
    x = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    dataset = Dataset("few", x, torch.tensor([0, 1]), x, torch.tensor([0, 1]), ("a", "b"))
    for network in ("alexnet", "resnet50"):
        assert image_files.as_features(dataset, network, alone, check=False).extra["features"] == network

def test_the_network_has_no_default_and_no_other_name(networks, alone):
    for bad in ("ResNet50", "", None, 50):
        with pytest.raises(ValueError, match="network: expected resnet50 or alexnet"): networks(bad)
    with pytest.raises(TypeError, match="network"): image_files.feature_network()

def test_features_are_kept_sealed(networks, tmp_path, monkeypatch, capsys):
    cache = tmp_path / "kept"
    seen = networks("alexnet", cache=cache)
    (kept,) = cache.iterdir()
    assert kept.name.startswith("alexnet-") and kept.suffix == ".npz"
    with monkeypatch.context() as m:
        m.setattr(image_files, "_seen", lambda *_: pytest.fail("computed again"))
        assert torch.equal(networks("alexnet", cache=cache), seen)
    raw = kept.read_bytes()
    for bad in (raw[:-1], raw[:300] + bytes([raw[300] ^ 1]) + raw[301:], b""):
        kept.write_bytes(bad)
        assert torch.equal(networks("alexnet", cache=cache), seen) and kept.read_bytes() == raw
    assert "is made anew" in capsys.readouterr().err
    (tmp_path / "file").write_text("in place of a folder")
    assert torch.equal(networks("alexnet", cache=tmp_path / "file" / "below"), seen)
    assert "is not kept" in capsys.readouterr().err

def test_the_recorded_checksum_is_that_of_the_file_beside_the_data():
    file = next((root / "pretrained" / "alexnet_imagenet_features.pth"
                 for root in [Path(os.environ.get("NOISY_COURSE_DATA") or "none")]))
    if not file.exists():
        pytest.skip("no alexnet_imagenet_features.pth in a configured data folder (NOISY_COURSE_DATA)")
    assert len(read_weights(file)) == 10
    assert len(read_weights(file.with_name("efficientnet-lite0-57934424.pth"))) > 10

# ---- arguments ----

def test_rows_are_chosen_as_in_a_tensor(tmp_path):
    files, pixels = pictures(tmp_path, 5)
    images, mask = ImageFiles(files, 40, 40), torch.tensor([True, False, True, True, False])
    assert images[mask].files == [files[0], files[2], files[3]] and len(images[mask & ~mask]) == 0
    assert torch.equal(images[mask].index_select(0, torch.arange(3)), pixels[mask])
    for rows in (torch.tensor([5]), torch.tensor([-1]), torch.tensor([0.]), torch.tensor([True]), [0], 0,
                 np.array([0]), None, torch.tensor(0)):
        with pytest.raises(ValueError, match="^rows: expected"): images[rows]

@pytest.mark.parametrize("line",
                         ["images/1.jpg", "images/1.jpg x", "images/1.jpg -1", "images/1.jpg 1.5", " 3"])
def test_a_line_without_a_class_is_named(tmp_path, line):
    (tmp_path / "kv").write_text(f"images/0.jpg 3\n\n{line}\n")
    with pytest.raises(ValueError,
                       match=f"kv: expected a picture, a space and its class a line, got '{line}'"):
        read_labels(tmp_path / "kv")

@pytest.mark.parametrize("part", ["noisy", "clean", "both"])
@pytest.mark.parametrize("lists, labels", [(0, 2), (1, 3), (4, 3)])
def test_a_picture_without_a_label_is_named(tmp_path, part, lists, labels):
    shop(tmp_path)
    with open(tmp_path / LISTS[lists], "a") as file: file.write("images/forgotten.jpg\n")
    with pytest.raises(ValueError,
                       match=f"{LISTS[labels]}: expected the class of images/forgotten.jpg, got none"):
        read_clothing1m(tmp_path, 36, 32, part)
