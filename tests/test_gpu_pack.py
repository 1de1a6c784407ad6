"""The pack for a rented GPU: what is worth most, what travels, the clock, and what is refused at home."""
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from noisy_course import data
from noisy_course.lab import batch, carried, gpu_pack, identity, job, protocols, results
from noisy_course.data import Layout
from noisy_course.lab.grid import Block, blocks, plan
from noisy_course.lab.results import joined, missing, read_file, tree, write_result
from noisy_course.lab.batch import run_blocks
from noisy_course.lab.carried import OFFICIAL, pack_data, place_of, unpack_data
from noisy_course.lab.gpu_pack import (FIRST, copy_course, cut, download_wheels, lacking, main, most_valuable,
                                       needs, value_order, write_pack)
from noisy_course.lab.job import data_of
from noisy_course.lab.incoming import defined_block, fault, import_results
from noisy_course.lab.papers import TABLES

def tiny(**changes):
    "A block of seconds: cross-entropy, and forward correction with an estimate, on 300 digits."
    return replace(Block("patrini2017", "table2", "mnist", "mlp", "asymmetric", .6, samples=300, epochs=8,
                         scale="smoke", dropout=.5, percentile=97., variant="",
                         methods=("cross_entropy", "forward_estimated"), seeds=(0,)), **changes)

def trained(block):
    dataset = job.block_data(block)
    runs = job.block_runs(block, dataset)
    return job.result_rows(block, dataset, runs, job.train_block(block, dataset, runs))

def same_numbers(a, b):
    "All values but times."
    keys = ["method", "seed", "metric", "epoch", "value", "epoch_chosen", "realised_rate", "block"]
    a, b = (rows[~rows.metric.str.contains("seconds")][keys].sort_values(keys[:4]).reset_index(drop=True)
            for rows in (a, b))
    pd.testing.assert_frame_equal(a, b, check_exact=True)

pytestmark = pytest.mark.usefixtures("one_thread")

@pytest.fixture(scope="module")
def rows():
    "As they come from a clean tree of this repository, if it is one."
    return trained(tiny()).assign(dirty=False, commit=tree()["commit"].replace("unknown", "0" * 40))

@pytest.fixture
def clean(monkeypatch):
    "A tree in which everything is committed."
    version = dict(commit=tree()["commit"].replace("unknown", "0" * 40), dirty=False)
    monkeypatch.setattr(gpu_pack, "tree", lambda: version)
    return version


# --- what is worth most ---

def test_the_order_of_value():
    order = value_order()
    assert tuple(order[:len(FIRST)]) == FIRST and len(set(order)) == len(order)
    parts = [(p[:-4], d, m) for p, _, d, m in order]
    firsts = [("patrini", "cifar10", "resnet14"), ("patrini", "cifar10", "resnet32"),
              ("patrini", "imdb", "lstm"), ("wang", "mnist", "cnn4"),
              ("jindal", "mnist", "lenet"), ("wang", "cifar10", "cnn8"),
              ("zhang", "fashion_mnist", "resnet18"), ("tanaka", "cifar10", "preact32")]
    ranks = [parts.index(one) for one in firsts]
    assert ranks == sorted(ranks) and set(parts[:len(FIRST)]) == set(firsts)

def test_all_main_tables_are_there():
    tables = {("patrini2017", "table2"), ("zhang2018", "table1"), ("zhang2018", "table2"),
              ("wang2019", "table1"), ("wang2019", "table2"), ("tanaka2018", "table1")}
    there = {one[:2] for one in value_order()}
    assert tables < there and ("patrini2017", "ablation") not in there
    assert ("tanaka2018", "figure2") not in there
    for paper, table, dataset, model in value_order(): assert TABLES[paper, table].part(dataset, model)

def test_blocks_with_results_are_not_missing(tmp_path, monkeypatch):
    class Every:
        "All runs."
        def __contains__(self, run): return True
    # empty files stand for results
    monkeypatch.setattr(results, "_examined", lambda file, *version: ("", Every()))
    one, two = tmp_path / "one", tmp_path / "two"
    todo = most_valuable([])
    assert {b.scale for b in todo} == {"paper"}
    assert (todo[0].dataset, todo[0].model) == ("cifar10", "resnet14")
    keys = [(b.paper, b.table, b.dataset, b.model) for b in todo]
    assert list(dict.fromkeys(keys)) == value_order()
    for folder, block in ((one, todo[0]), (two, todo[5])):
        folder.mkdir()
        (folder / f"{block.name}.parquet").touch()
    assert most_valuable([one, two]) == [b for b in todo if b not in (todo[0], todo[5])]


# --- data ---

def test_what_a_block_needs():
    assert data_of(tiny()) == {"mnist"}
    assert data_of(tiny(noise="open_set", outside="cifar100")) == {"mnist", "cifar100"}
    assert data_of(tiny(dataset="cifar10", noise="worse")) == {"cifar10", "cifar10n"}

def made(shape, n=60):
    g = torch.Generator().manual_seed(0)
    x = lambda n: torch.randint(256, (n, *shape), dtype=torch.uint8, generator=g)
    return data.Dataset("made", x(n), torch.arange(n) % 10, x(12), torch.arange(12) % 10, tuple("abcdefghij"))

@pytest.mark.parametrize("name, shape", [("fashion_mnist", (28, 28)), ("cifar10", (3, 32, 32))])
def test_images_travel_as_images(tmp_path, monkeypatch, name, shape):
    "And are the official files again: what is read from them is what was packed."
    dataset = made(shape)
    monkeypatch.setattr(carried, "place_of", lambda name: (None, tmp_path))
    monkeypatch.setattr(data, "load", lambda name, download: dataset)
    pack_data(name, tmp_path / "sheets")
    assert {file.suffix for file in (tmp_path / "sheets").iterdir()} == {".png", ".npy"}
    unpack_data(name, tmp_path / "sheets", tmp_path / "data")
    monkeypatch.undo()
    monkeypatch.setattr(data, "ASSETS", tmp_path / "nothing")
    monkeypatch.setenv("NOISY_COURSE_CACHE", str(tmp_path / "nothing"))
    monkeypatch.setenv("NOISY_COURSE_DATA", str(tmp_path / "data"))
    again = data.load(name, download=False, check=False)
    for field in ("train_x", "train_y", "test_x", "test_y"):
        assert torch.equal(getattr(again, field), getattr(dataset, field)), field
    with pytest.raises(ValueError, match="truncated or altered"): data.load(name, download=False)

def test_more_images_than_fit_a_sheet(tmp_path):
    dataset = made((28, 28), 20_100)
    carried._pack_images(dataset, tmp_path / "sheets")
    files = sorted(file.name for file in (tmp_path / "sheets").glob("train*"))
    assert files == ["train-0.png", "train-1.png", "train-2.png", "train.npy"]
    unpack_data("fashion_mnist", tmp_path / "sheets", tmp_path / "data")
    images = (tmp_path / "data/FashionMNIST/raw/train-images-idx3-ubyte").read_bytes()
    assert torch.equal(data.read_idx(images), dataset.train_x)

def test_official_files_are_official():
    "Those made of digits are, but for their folder, the bytes of MNIST's own."
    digits = data.load("mnist", download=False)
    ours = OFFICIAL["fashion_mnist"](digits.train_x, digits.train_y, digits.test_x, digits.test_y)
    theirs = {file.split("/")[-1]: md5 for file, md5 in data.MNIST[1].files.items()}
    for name, raw in ours.items():
        expected = theirs[name.split("/")[-1]]
        assert data.digest(raw, expected) == expected

def test_other_data_travel_as_files(tmp_path, monkeypatch):
    (tmp_path / "data/imdb").mkdir(parents=True)
    (tmp_path / "data/imdb/reviews.xz").write_bytes(b"reviews")
    layout = Layout({"imdb/reviews.xz": data.digest(b"reviews")}, None)
    monkeypatch.setitem(data.LAYOUTS, "imdb", (layout,))
    monkeypatch.setenv("NOISY_COURSE_DATA", str(tmp_path / "data"))
    assert place_of("imdb") == (layout, tmp_path / "data")
    pack_data("imdb", tmp_path / "files")
    unpack_data("imdb", tmp_path / "files", tmp_path / "there")
    assert (tmp_path / "there/imdb/reviews.xz").read_bytes() == b"reviews"
    (tmp_path / "data/imdb/reviews.xz").write_bytes(b"rev1ews")
    with pytest.raises(ValueError, match="truncated or altered"): pack_data("imdb", tmp_path / "files")


# --- wheels ---

def wheel(folder, name, *needs):
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name.replace('-', '_')}-1.0-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}-1.0.dist-info/METADATA",
                      f"Name: {name}\n" + "".join(f"Requires-Dist: {need}\n" for need in needs))

def test_what_is_needed_is_without_torch():
    named = {need.split(">")[0] for need in needs()}
    assert {"pandas", "pyarrow", "papermill", "pillow", "ipykernel"} <= named
    assert not {"torch", "torchvision", "snakemake", "pytest"} & named

def test_what_wheels_lack(tmp_path):
    wheel(tmp_path, "a", "Big.Name>=2", "torch==2.11.0", 'old; python_version < "3.11"',
          'extra-thing; extra == "all"')
    assert lacking(tmp_path, "3.10") == ["Big.Name>=2", "old"]
    assert lacking(tmp_path, "3.12") == ["Big.Name>=2"]
    wheel(tmp_path, "big-name")
    assert lacking(tmp_path, "3.12") == []

def test_wheels_are_fetched_until_nothing_is_lacking(tmp_path, monkeypatch):
    asked = []
    def pip(command, check):
        words = command[command.index("--dest") + 2:]
        asked.append(words)
        assert command[command.index("--python-version") + 1] == "3.12"
        assert "--platform=manylinux2014_aarch64" in command
        if "papermill>=2.6" in words: wheel(tmp_path, "papermill", 'aiohttp>=3; python_version == "3.12"')
        if words == ["aiohttp>=3"]: wheel(tmp_path, "aiohttp", "multidict")
        if words == ["multidict"]: wheel(tmp_path, "multidict")
    monkeypatch.setattr(gpu_pack.subprocess, "run", pip)
    download_wheels(tmp_path, "3.12", "aarch64")
    assert asked[-2:] == [["aiohttp>=3"], ["multidict"]]
    assert all(words[0] == "--no-deps" for words in asked if "torchvision" in words[-1])
    assert not [word for words in asked for word in words if word.startswith(("torch>", "torch="))]


# --- parts ---

def test_parts_are_small_and_make_the_folder_again(tmp_path):
    source = tmp_path / "group"
    (source / "below").mkdir(parents=True)
    raws = {"a.bin": np.random.default_rng(0).bytes(2_500_000), "below/b.txt": b"text"}
    for name, raw in raws.items(): (source / name).write_bytes(raw)
    (tmp_path / "parts").mkdir()
    parts = cut(source, tmp_path / "parts", megabytes=1)
    files = [tmp_path / "parts" / name for name in parts]
    assert [file.name for file in files] == ["group.1", "group.2", "group.3"]
    assert all(file.stat().st_size <= 1e6 for file in files)
    with tarfile.open(fileobj=BytesIO(b"".join(file.read_bytes() for file in files))) as archive:
        assert {m.name: archive.extractfile(m).read() for m in archive} == raws
    os.utime(source / "a.bin", (1, 1))
    assert cut(source, tmp_path / "parts", megabytes=1) == parts

def test_a_pack_names_what_it_leaves_out(tmp_path):
    todo = [tiny(), tiny(dataset="clothing1m"), tiny(noise="open_set", outside="imagenet")]
    written = write_pack(tmp_path / "pack", todo, minutes=7)
    assert written["left_out"] == dict(clothing1m=1, imagenet=1) and written["blocks"] == 1
    pack, planned = (json.loads((tmp_path / "pack" / name).read_text())
                     for name in ("pack.json", "plan.json"))
    assert list(planned) == [tiny().name] and pack["minutes"] == 7 and pack["commit"] == tree()["commit"]
    assert set(pack["groups"]) == {"course"}
    files = {file.name for file in (tmp_path / "pack").iterdir()}
    assert files == {"run.py", "pack.json", "plan.json", "parts"}

def test_a_pack_of_nothing_is_refused(tmp_path):
    lacks = "^todo: expected blocks whose data are on this machine, which has no clothing1m"
    with pytest.raises(ValueError, match=lacks): write_pack(tmp_path / "pack", [tiny(dataset="clothing1m")])
    with pytest.raises(ValueError, match="^todo: expected blocks that have no result yet, got none"):
        write_pack(tmp_path / "pack", [])
    assert not (tmp_path / "pack").exists()

def test_only_a_pack_is_written_over(tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    full = "^folder: expected a new folder, or a pack to write anew, got .* with thesis.tex"
    with pytest.raises(ValueError, match=full): write_pack(tmp_path, [tiny()])
    assert (tmp_path / "thesis.tex").read_text() == "years"

def test_a_pack_that_was_not_finished_is_none(tmp_path, monkeypatch):
    write_pack(tmp_path / "pack", [tiny()])
    monkeypatch.setattr(gpu_pack, "cut", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt): write_pack(tmp_path / "pack", [tiny()])
    assert not (tmp_path / "pack/pack.json").exists() and not list((tmp_path / "pack").glob(".staged*"))
    monkeypatch.undo()
    assert write_pack(tmp_path / "pack", [tiny()])["blocks"] == 1

def test_the_packed_course_says_its_commit(tmp_path):
    copy_course(tmp_path)
    note = json.loads((tmp_path / "packed.json").read_text())
    assert note == tree() | dict(sources=results.sources())
    (tmp_path / "packed.json").write_text(json.dumps(note | dict(commit="c" * 40, dirty=False)))
    asked = """if True:
        from noisy_course.lab.results import provenance
        print(*(provenance()[k] for k in ("commit", "dirty")))
        open("noisy_course/noise.py", "a").write("# changed over there")
        print(*(provenance()[k] for k in ("commit", "dirty")))"""
    done = subprocess.run([sys.executable, "-c", asked], cwd=tmp_path, capture_output=True, text=True,
                          env=os.environ | dict(PYTHONPATH=str(tmp_path)), check=True)
    assert done.stdout.splitlines() == ["c" * 40 + " False", "c" * 40 + " True"]


# --- run.py ---

@pytest.fixture
def script(tmp_path, monkeypatch):
    "The pack's script as a module, in a folder of its own."
    own = shutil.copy(gpu_pack.SCRIPT, tmp_path / "run.py")
    spec = importlib.util.spec_from_file_location("run_pack", own)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def test_damaged_and_missing_parts_are_named(tmp_path, script):
    (tmp_path / "group").mkdir()
    (tmp_path / "group/a.bin").write_bytes(bytes(2_000_000))
    (tmp_path / "parts").mkdir()
    parts = cut(tmp_path / "group", tmp_path / "parts", megabytes=1)
    second = (tmp_path / "parts/group.2").read_bytes()
    (tmp_path / "parts/group.2").write_bytes(second[:-1])
    with pytest.raises(SystemExit, match="parts/group.2: truncated or altered"): script.unpack("group", parts)
    (tmp_path / "parts/group.2").unlink()
    with pytest.raises(SystemExit, match="parts/group.2 is missing"): script.unpack("group", parts)
    (tmp_path / "parts/group.2").write_bytes(second)
    script.unpack("group", parts)
    assert (tmp_path / "work/group/a.bin").stat().st_size == 2_000_000
    shutil.rmtree(tmp_path / "parts")
    script.unpack("group", parts)

@pytest.mark.parametrize("filters", [True, False])
@pytest.mark.parametrize("name, kind",
                         [("../outside", tarfile.REGTYPE), ("/outside", tarfile.REGTYPE),
                          ("link", tarfile.SYMTYPE), ("device", tarfile.CHRTYPE)])
def test_an_archive_that_leaves_its_folder_is_refused(tmp_path, script, monkeypatch, name, kind, filters):
    if not filters: monkeypatch.delattr(script.tarfile, "data_filter", raising=False)
    (tmp_path / "parts").mkdir()
    member, raw = tarfile.TarInfo(name), BytesIO()
    member.type, member.linkname = kind, "/etc/passwd"
    with tarfile.open(fileobj=raw, mode="w") as archive: archive.addfile(member)
    _, checksum = gpu_pack._written(tmp_path / "parts/group.1", raw.getvalue())
    with pytest.raises(SystemExit, match="expected a file of the pack"):
        script.unpack("group", {"group.1": checksum})
    assert not (tmp_path / "outside").exists() and not (tmp_path / "work/outside").exists()

def test_an_old_or_missing_torch_is_named(script, monkeypatch):
    script.needs_torch(".".join(torch.__version__.split(".")[:2]))
    with pytest.raises(SystemExit, match="PyTorch 99.1 or newer is needed"): script.needs_torch("99.1")
    def lost(name): raise script.importlib.metadata.PackageNotFoundError
    monkeypatch.setattr(script.importlib.metadata, "version", lost)
    with pytest.raises(SystemExit, match="has no PyTorch"): script.needs_torch("2.11")

def test_an_environment_around_this_python(tmp_path, script, monkeypatch, capsys):
    "It sees the PyTorch that is here, takes the newest torchvision that can be imported, and is made once."
    installed, wheels = [], tmp_path / "work/wheels"
    wheels.mkdir(parents=True)
    for version in ("0.26.0", "0.28.0", "0.29.2"):
        (wheels / f"torchvision-{version}-py3-none-any.whl").touch()
    monkeypatch.setattr(script, "install", lambda *words: installed.append(Path(words[-1]).name))
    fault = lambda: "" if installed[-1].startswith("torchvision-0.28") else "nms does not exist"
    monkeypatch.setattr(script, "torchvision_fault", fault)
    pack = dict(groups=dict(wheels={"wheels.1": "sum"}), needs=["pandas>=2.2"])
    python = script.environment(pack)
    assert installed == ["pandas>=2.2", "torchvision-0.29.2-py3-none-any.whl",
                         "torchvision-0.28.0-py3-none-any.whl"]
    asked = [python, "-c", "import torch; print(torch.__version__)"]
    assert subprocess.run(asked, capture_output=True, text=True).stdout.strip() == torch.__version__
    assert script.environment(pack) == python and len(installed) == 3
    kernel = json.loads((tmp_path / "work/env/share/jupyter/kernels/python3/kernel.json").read_text())
    assert kernel["argv"][0] == str(python)
    monkeypatch.setattr(script, "torchvision_fault", lambda: "nms does not exist")
    assert script.environment(pack | dict(groups=dict(wheels={"wheels.1": "other"}))) == python
    assert ("no torchvision of the pack fits this PyTorch, so ResNet-18, 34, 50 and AlexNet cannot be "
            "trained (nms does not exist)") in capsys.readouterr().out

def test_without_torchvision_only_its_own_networks_are_missing():
    code = """if True:
        import sys
        sys.modules["torchvision"] = None
        from noisy_course.lab import gpu_pack, job
        from noisy_course.models import MODELS
        for name, make in MODELS.items():
            try: make(10)
            except ImportError: print(name)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["resnet18", "resnet34"]

def test_a_pack_for_another_python_is_named(script):
    here = dict(python="{}.{}".format(*sys.version_info), machine=platform.machine())
    script.fits({})
    script.fits(here)
    for other in (dict(python="3.99"), dict(machine="riscv64")):
        message = "this pack is for Python .*{}.*TARGET={python} MACHINE={machine}"
        with pytest.raises(SystemExit, match=message.format(*other.values(), **here)):
            script.fits(here | other)


# --- against the clock ---

@pytest.fixture
def quick(monkeypatch):
    "Blocks that take no time: a line of Python in the results folder, which knows the block's name."
    class Every:
        "All runs."
        def __contains__(self, run): return True
    monkeypatch.setattr(results, "_examined", lambda file, *version: ("", Every())) # empty files are results
    begin = ("import sys, time; from pathlib import Path; name = sys.argv[2]; "
             "print(name, file=open('begun', 'a'))")
    return lambda line: monkeypatch.setattr(batch, "TRAIN", ("-c", f"{begin}; {line}"))

FINISH = "Path(name + '.parquet').touch()"
four = [tiny(rate=rate) for rate in (.1, .2, .3, .4)]
names = [block.name for block in four]

def finished(folder): return [name for name in names if (folder / f"{name}.parquet").exists()]

@pytest.mark.parametrize("workers", [1, 2])
def test_blocks_are_trained_in_order(tmp_path, quick, workers):
    quick(f"time.sleep(.2); {FINISH}; assert Path('logs', name + '.log').exists()")
    paths = run_blocks(four, tmp_path, workers=workers, minutes=5)
    order = (tmp_path / "begun").read_text().split()
    assert [path.stem for path in paths] == names == finished(tmp_path) and sorted(order) == sorted(names)
    assert order == names if workers == 1 else set(order[:2]) == set(names[:2])
    planned = json.loads((tmp_path / "plan.json").read_text())
    assert list(planned) == names and planned[names[0]] == job.parameters(four[0], "cpu", tmp_path)

def test_a_failed_block_is_tried_twice_and_does_not_stop_the_others(tmp_path, quick, capsys):
    quick(f"name != {names[1]!r} or 1 / 0; {FINISH}")
    why = f"^1 of 4 blocks failed, first {names[1]}; it said: ZeroDivisionError"
    with pytest.raises(SystemExit, match=why): run_blocks(four, tmp_path, workers=1)
    assert (tmp_path / "begun").read_text().split() == [names[0], names[1], names[1], *names[2:]]
    assert finished(tmp_path) == [names[0], *names[2:]]
    assert f"{names[1]} failed, see {tmp_path / 'logs' / names[1]}.log" in capsys.readouterr().err

class Clock:
    "One on which an hour passes when a file appears."
    def __init__(self, file): self.monotonic, self.sleep = lambda: 3600. * file.exists(), time.sleep

def test_at_the_end_of_the_time_everything_stops(tmp_path, quick, monkeypatch):
    "The first block is done, the second is interrupted, the third is not begun; the same call goes on."
    quick(f"name == {names[0]!r} or (Path('late').touch(), time.sleep(600)); {FINISH}")
    monkeypatch.setattr(batch, "time", Clock(tmp_path / "late"))
    over = "^the time is over; the same command goes on from the last checkpoints"
    with pytest.raises(SystemExit, match=over): run_blocks(four, tmp_path, workers=1, minutes=5)
    assert finished(tmp_path) == names[:1] and (tmp_path / "begun").read_text().split() == names[:2]
    assert "KeyboardInterrupt" in (tmp_path / f"logs/{names[1]}.log").read_text()
    (tmp_path / "late").unlink()
    quick(FINISH)
    assert len(run_blocks(four, tmp_path, minutes=5)) == 4 and finished(tmp_path) == names

def test_a_block_that_does_not_listen_is_killed(tmp_path, quick, monkeypatch):
    quick("from signal import *; signal(SIGINT, SIG_IGN); Path('late').touch(); time.sleep(600)")
    monkeypatch.setattr(batch, "time", Clock(tmp_path / "late"))
    monkeypatch.setattr(batch, "PATIENCE", .5)
    started, real = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(real(*a, **k)) or started[-1])
    with pytest.raises(SystemExit, match="^the time is over"): run_blocks(four[:1], tmp_path, minutes=5)
    assert [process.wait() for process in started] == [-signal.SIGKILL]

def test_no_time_at_all(tmp_path, quick):
    quick("1 / 0")
    with pytest.raises(SystemExit, match="^the time is over"): run_blocks(four, tmp_path, minutes=.5)
    assert not (tmp_path / "logs").exists()

def planned(folder, *chosen):
    (folder / "planned.json").write_text(json.dumps({b.name: job.parameters(b, "", "") for b in chosen}))
    return folder / "planned.json"

def run_words(folder, **changes):
    "The command that `run.py` hands over to."
    usual = dict(work=folder, results=folder / "results", until=time.time() + 600, device="cpu", workers=1)
    words = [word for name, value in (usual | changes).items() for word in (f"--{name}", str(value))]
    return ["run", str(planned(folder, four[0])), *words]

def table_words(folder):
    "The same block from the command that trains tables."
    part = ["patrini2017", "table2", "--dataset", "mnist", "--scale", "smoke"]
    return [*part, "--results", str(folder / "results")]

@pytest.mark.parametrize("module, words, how",
                         [("gpu_pack", run_words, signal.SIGHUP), ("gpu_pack", run_words, signal.SIGKILL),
                          ("batch", table_words, signal.SIGTERM), ("batch", table_words, signal.SIGINT)])
def test_nothing_trains_on_when_a_batch_ends(tmp_path, module, words, how):
    "The connection is lost, or the batch is stopped or killed; also where nohup has made these tests deaf."
    line = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)"
    code = f"from noisy_course.lab import batch, {module}; batch.TRAIN = '-c', {line!r}; {module}.main()"
    listening = lambda: [signal.signal(sent, signal.SIG_DFL) for sent in (signal.SIGHUP, signal.SIGINT)]
    with open(tmp_path / "output", "w") as output:
        process = subprocess.Popen([sys.executable, "-c", code, *words(tmp_path)], preexec_fn=listening,
                                   stdout=output, stderr=output)
    pid = tmp_path / "results/pid"
    try:
        while not (pid.exists() and pid.read_text()): assert process.poll() is None and not time.sleep(.05)
        child = psutil.Process(int(pid.read_text()))
        process.send_signal(how)
        process.wait()
        assert psutil.wait_procs([child], timeout=60)[1] == []
    finally: process.kill()
    stopped = "stopped; the same command goes on from the last checkpoints"
    assert (stopped in (tmp_path / "output").read_text()) == (how != signal.SIGKILL)

def test_a_gpu_is_not_replaced_in_silence(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="^device: expected a GPU that PyTorch can use"):
        main(run_words(tmp_path, device=""))


# --- what comes back ---

def test_a_block_is_known_from_its_rows(rows):
    assert defined_block(rows) == tiny()
    assert defined_block(rows.drop(columns="lr")) == tiny()
    with pytest.raises(ValueError, match="^rows: expected one block, got several values of rate"):
        defined_block(rows.assign(rate=[.1] + [.2] * (len(rows) - 1)))

def test_a_block_is_known_from_an_older_file_with_newer_runs(rows):
    "What was no column yet when the file was written is the same in all of the block's rows."
    newer = rows.assign(seed=rows.seed + 1, commit="f" * 40)
    both = joined(rows.drop(columns=["lr", "optimizer", "checked"]), newer)
    assert defined_block(both) == replace(tiny(), seeds=(0, 1)) and len(both) == 2 * len(rows)
    assert set(both[both.seed == 0].commit) == set(rows.commit)

def test_published_results_are_sound_or_say_why():
    files = sorted((gpu_pack.COURSE / "results").glob("*.parquet"))[::12]
    if not files: pytest.skip("no published results here")
    faults = {fault(file).split(", which")[0].split(" commit")[0] for file in files}
    assert faults <= {"", "comes from a changed tree", "comes from"}

def damaged(rows):
    one = (rows.method == "forward_estimated")
    single = lambda metric: one & (rows.metric == metric)
    without = lambda lost: rows[~lost]
    changed = lambda where, value: rows.assign(value=rows.value.mask(where, value))
    run = "forward_estimated's seed 0"
    yield without(single("accuracy")), f"lacks {run}, accuracy, epoch 0"
    yield without(single("test_accuracy") & (rows.epoch == 3)), f"lacks {run}, test_accuracy, epoch 3"
    yield (rows.assign(identity=rows.identity.mask(one, "0" * 8)),
           "comes from another version, or other hyper-parameters, of forward_estimated")
    yield pd.concat([rows, rows[single("accuracy_last")]]), f"has {run}, accuracy_last, epoch 0 twice"
    yield changed(single("accuracy"), np.nan), "has accuracies that are no percentages"
    yield changed(single("test_accuracy"), 101.), "has accuracies that are no percentages"
    yield rows.assign(epochs=9), "is not what its name says: its rows define"
    yield rows.assign(block="other"), "is not what its name says"
    yield rows.assign(rate=[.1] + [.6] * (len(rows) - 1)), "is no result of one block"
    yield changed(single("accuracy"), 99.9), f"says 99.9 for {run}, accuracy; its curve has"
    yield rows.drop(columns="method"), "is no result of one block"
    yield rows.assign(dirty=True), "comes from a changed tree"
    yield rows.assign(commit="unknown"), "comes from an unknown commit"
    yield (rows.assign(commit=rows.commit.mask(rows.method == "cross_entropy", "unknown")),
           "comes from an unknown commit")

def test_unsound_results_are_refused(tmp_path, rows):
    for i, (bad, why) in enumerate(damaged(rows)):
        folder = tmp_path / str(i)
        folder.mkdir()
        bad.to_parquet(folder / f"{tiny().name}.parquet")
        outcome = import_results(folder, tmp_path / "results")
        assert outcome.outcome.tolist() == ["refused"]
        assert outcome.why[0].startswith(why), (why, outcome.why[0])
    assert i == 13 and not (tmp_path / "results").exists()

def test_files_that_are_no_results_are_refused(tmp_path, rows):
    write_result(rows, tmp_path / "back")
    (tmp_path / f"back/{tiny().name}.parquet").rename(tmp_path / "back/renamed.parquet")
    (tmp_path / "back/text.parquet").write_text("no table")
    (tmp_path / "back/.half.parquet").write_text("half")
    outcome = import_results(tmp_path / "back", tmp_path / "results").set_index("block").why
    assert outcome["renamed"] == f"is not what its name says: its rows define {tiny().name}"
    assert outcome["text"].startswith("cannot be read") and len(outcome) == 2
    for empty in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ValueError, match="^folder: expected a folder with result files"):
            import_results(empty, tmp_path / "results")

def test_a_commit_of_another_repository_is_refused(tmp_path, rows):
    if tree()["commit"] == "unknown": pytest.skip("git is missing")
    file = write_result(rows.assign(commit="f" * 40), tmp_path)
    assert fault(file) == f"comes from commit {'f' * 40}, which this repository does not have"

def test_a_result_of_an_older_engine_or_method_is_refused(tmp_path, rows, monkeypatch):
    file = write_result(rows, tmp_path)
    assert fault(file) == ""
    with monkeypatch.context() as patch:
        patch.setattr(identity, "ENGINE", identity.ENGINE + 1)
        assert fault(file).startswith("is not what its name says")
    method, *_ = tiny().methods
    monkeypatch.setitem(protocols.METHODS, method, replace(protocols.METHODS[method], version=2))
    assert fault(file) == f"comes from another version, or other hyper-parameters, of {method}"

def test_results_are_added_once_and_never_replaced(tmp_path, rows):
    file = write_result(rows, tmp_path / "back/results")
    def outcome():
        return import_results(tmp_path / "back", tmp_path / "results")[["outcome", "why"]].iloc[0].tolist()
    assert outcome() == ["added", ""] and (tmp_path / "results" / file.name).read_bytes() == file.read_bytes()
    assert outcome() == ["there already", ""]
    write_result(rows.assign(seconds=1.), tmp_path / "back/results")
    before = (tmp_path / "results" / file.name).read_bytes()
    assert outcome() == ["refused", "results has another result of these runs"]
    assert (tmp_path / "results" / file.name).read_bytes() == before
    assert [f.name for f in (tmp_path / "results").iterdir()] == [file.name]

def test_a_result_may_gain_runs(tmp_path, rows):
    first, second = tiny().methods
    file = write_result(rows[rows.method == first], tmp_path / "results")
    write_result(rows[rows.method == second], tmp_path / "back")
    assert import_results(tmp_path / "back", tmp_path / "results").outcome.tolist() == ["added"]
    pd.testing.assert_frame_equal(read_file(file), rows, check_exact=True)
    assert import_results(tmp_path / "back", tmp_path / "results").outcome.tolist() == ["there already"]


# --- the commands ---

def test_a_changed_tree_is_not_packed(tmp_path, clean):
    clean["dirty"] = True
    changed = "^tree: expected a repository with everything committed, got commit .*, changed"
    with pytest.raises(SystemExit, match=changed): main(["pack", str(tmp_path / "pack")])
    assert not (tmp_path / "pack").exists()

@pytest.mark.parametrize("option, value", [("minutes", 0), ("minutes", "nan"), ("megabytes", 0),
                                           ("megabytes", "inf"), ("python", "3.9"), ("python", "three"),
                                           ("machine", "vax"), ("scale", "papr")])
def test_bad_options_are_named(tmp_path, clean, option, value):
    with pytest.raises(SystemExit, match=f"^{option}: expected"):
        main(["pack", str(tmp_path / "pack"), f"--{option}", str(value)])
    assert not (tmp_path / "pack").exists()

@pytest.mark.parametrize("option, value",
                         [("workers", 0), ("workers", -1), ("device", "gpu"), ("until", "nan")])
def test_bad_options_of_a_run_are_named(tmp_path, option, value):
    with pytest.raises(SystemExit, match=f"^{option}: expected"): main(run_words(tmp_path, **{option: value}))

def test_what_is_packed_is_printed(tmp_path, clean, monkeypatch, capsys):
    fetched = []
    todo = lambda folders, scale: [tiny(scale=scale), tiny(dataset="clothing1m")]
    fetch = lambda folder, *where: (wheel(folder, "toy"), fetched.append(where))
    monkeypatch.setattr(gpu_pack, "most_valuable", todo)
    monkeypatch.setattr(gpu_pack, "download_wheels", fetch)
    main(["pack", str(tmp_path / "pack"), "--python", "3.12", "--minutes", "8", "--scale", "smoke"])
    printed = capsys.readouterr().out
    lines = "left out: 1 blocks that need clothing1m", "1 blocks; megabytes: course", "run.py --minutes 8"
    assert all(line in printed for line in lines)
    assert fetched == [("3.12", "x86_64")]
    assert set(json.loads((tmp_path / "pack/pack.json").read_text())["groups"]) == {"course", "wheels"}

def test_a_refused_result_fails_the_command(tmp_path, rows, capsys):
    write_result(rows, tmp_path / "back")
    main(["import", str(tmp_path / "back"), "--to", str(tmp_path / "results")])
    assert "added" in capsys.readouterr().out
    (tmp_path / "back/text.parquet").write_text("no table")
    with pytest.raises(SystemExit, match="1"):
        main(["import", str(tmp_path / "back"), "--to", str(tmp_path / "results")])
    assert "cannot be read" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="^folder: expected"):
        main(["import", str(tmp_path / "none"), "--to", str(tmp_path / "results")])

def in_second_stage(results, block):
    note = results / "progress" / f"{block.name}.json"
    return note.exists() and json.loads(note.read_text())[0] > block.epochs

def test_there_and_back(tmp_path, rows, clean):
    "A pack moves away, is interrupted inside of a block and goes on; back come the numbers of this machine."
    write_pack(tmp_path / "pack", [tiny()])
    away = shutil.move(tmp_path / "pack", tmp_path / "away")
    command = [sys.executable, str(away / "run.py"), "--device", "cpu", "--minutes", "30"]
    place = dict(cwd=tmp_path, env=os.environ | dict(OMP_NUM_THREADS="1"))
    output = tmp_path / "output"
    with open(output, "w") as file: process = subprocess.Popen(command, stdout=file, stderr=file, **place)
    try:
        while not in_second_stage(away / "results", tiny()):
            assert process.poll() is None, output.read_text()
            time.sleep(.02)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0, output.read_text()
    finally: process.kill()
    assert "stopped; the same command goes on from the last checkpoints" in output.read_text()
    assert missing([tiny()], away / "results") and list((away / "results/checkpoints").rglob("*.pt"))
    done = subprocess.run(command, capture_output=True, text=True, check=True, **place)
    assert "1 of 1 blocks are finished" in done.stdout and "unpacking" not in done.stdout
    assert (away / f"results/notebooks/{tiny().name}.ipynb").exists()
    back = read_file(away / f"results/{tiny().name}.parquet")
    same_numbers(back, rows)
    assert back.commit.unique().tolist() == [clean["commit"]] and not back.dirty.any()
    assert import_results(away, tmp_path / "results").outcome.tolist() == ["added"]
