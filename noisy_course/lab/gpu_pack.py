"""One folder to carry to a machine that has PyTorch and nothing else, one command there, one folder back."""
import argparse
import json
import math
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from email import message_from_bytes
from hashlib import sha256
from importlib.metadata import requires
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import noisy_course
from noisy_course import data
from noisy_course.basics import atomic_write, require
from noisy_course.lab.batch import interrupt_on_signals, run_blocks
from noisy_course.lab.carried import pack_data, place_of, unpack_data
from noisy_course.lab.comparison import published_tables
from noisy_course.lab.grid import blocks, plan
from noisy_course.lab.incoming import import_results
from noisy_course.lab.job import block_from, check_device, data_of, parameters
from noisy_course.lab.papers import TABLES
from noisy_course.lab.results import WORKFLOW, missing, results_folder, sources, tree


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


# Wheels

# “PyTorch and nothing else” means: no pandas, no papermill, and no registry to get them from. pip can fetch
# wheels for another Python than its own, but it asks its own Python about conditions such as
# `python_version == "3.12"`. So what a wheel needs *there* is read from its metadata, until nothing is
# lacking.
AT_HOME = "torch", "torchvision"

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
    with TemporaryFile(dir=parts) as whole:
        with tarfile.open(fileobj=whole, mode="w") as archive:
            for file in sorted(f for f in source.rglob("*") if f.is_file()):
                archive.add(file, file.relative_to(source), filter=_anonymous)
        whole.seek(0)
        pieces = iter(lambda: whole.read(int(megabytes * 1e6)), b"")
        return dict(_written(parts / f"{source.name}.{i}", raw) for i, raw in enumerate(pieces, 1))

def _anonymous(member):
    member.mtime = member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member

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
    minutes: float = 30., # that its command takes, unless it is given others
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
    needed = dict(minutes=minutes, torch=_least_torch(), needs=needs(), groups=groups)
    _describe(folder, kept, needed | made_for | tree())
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

def _describe(folder, kept, pack):
    shutil.copy(SCRIPT, folder / "run.py")
    planned = {block.name: parameters(block, "", "") for block in kept}
    (folder / "plan.json").write_text(json.dumps(planned, indent=1))
    with atomic_write(folder / "pack.json") as part: part.write_text(json.dumps(pack, indent=1))

def _least_torch():
    return next(s.version for r in map(Requirement, requires("noisy_course")) if r.name == "torch"
                for s in r.specifier)


# From the command line

# A pack is written from a clean tree only: what comes from a changed one would be refused when it is back.
def main(
    argv: list | None = None, # words of the command line; those of the process if none
) -> None:
    "Write a pack, run one, or import results: python -m noisy_course.lab.gpu_pack pack|run|import ..."
    parser = argparse.ArgumentParser(prog="python -m noisy_course.lab.gpu_pack",
                                     description="Results from a rented GPU.")
    commands = parser.add_subparsers(dest="command", required=True)
    pack = commands.add_parser("pack", help="write a pack").add_argument
    pack("folder", type=Path, help="of the pack")
    pack("--minutes", type=float, default=30., help="that its command takes, unless it is given others")
    pack("--scale", default="paper", help="smoke, laptop or paper")
    pack("--python", default=f"3.{sys.version_info.minor}", help="version of the other machine's Python")
    pack("--machine", default="x86_64", help="its processor, or aarch64")
    pack("--megabytes", type=float, default=59., help="of a part, at most")
    run = commands.add_parser("run", help="train the blocks of an unpacked one").add_argument
    run("plan", type=Path)
    run("--work", type=Path, required=True, help="folder with the unpacked groups")
    run("--results", type=Path, required=True)
    run("--until", type=float, required=True, help="when to end, in seconds since 1970")
    run("--device", default="")
    run("--workers", type=int, default=1)
    back = commands.add_parser("import", help="add results that came back").add_argument
    back("folder", type=Path, help="that came back")
    back("--to", type=Path, default=_published(), help="folder to add to")
    options = parser.parse_args(argv)
    try: dict(pack=_pack, run=_run, **{"import": _import})[options.command](options)
    except (ValueError, OSError) as error: raise SystemExit(str(error)) from None

def _published(): return COURSE / "results" if (COURSE / "results").is_dir() else results_folder()


# Each says in a line or two what it did, and what to do next:
def _check_pack(options):
    for name in ("minutes", "megabytes"):
        require(0 < getattr(options, name) < math.inf, name, "a number above 0", getattr(options, name))
    python = re.fullmatch(r"3\.(\d+)", options.python)
    require(python and int(python[1]) >= 10, "python", "a version from 3.10 on, as 3.12",
            repr(options.python))
    require(options.machine in ("x86_64", "aarch64"), "machine", "x86_64 or aarch64", repr(options.machine))
    version = tree()
    require(not version["dirty"] and version["commit"] != "unknown", "tree",
            "a repository with everything committed",
            f"commit {version['commit']}{', changed' * version['dirty']}")

def _pack(options):
    _check_pack(options)
    todo = most_valuable([COURSE / "results", results_folder()], options.scale)
    written = write_pack(options.folder, todo, options.minutes, options.python, options.machine,
                         options.megabytes)
    for name, n in written["left_out"].items():
        print(f"left out: {n} blocks that need {name}, which is not on this machine")
    print(f"{options.folder}: {written['blocks']} blocks; megabytes: "
          f"{', '.join(f'{group} {size:g}' for group, size in written['megabytes'].items())}")
    print(f"On a machine with PyTorch and Python {options.python}: python run.py --minutes "
          f"{options.minutes:g}. Then bring its folder results back.")


# On the other machine `run.py`, which uses nothing but Python's own library, compares checksums, unpacks,
# makes an environment around the Python that has PyTorch, and hands over to `run`, which trains as any
# batch does, until the time is over. With the results folder the same command goes on, on any machine.
def _run(options):
    interrupt_on_signals()
    require(math.isfinite(options.until), "until", "seconds since 1970", options.until)
    if options.device: check_device(options.device)
    require(options.device or torch.cuda.is_available(), "device",
            "a GPU that PyTorch can use (--device cpu trains without one)", "none")
    for name in data.LAYOUTS | data.HUMAN_LAYOUTS:
        if (options.work / name).is_dir() and not place_of(name):
            unpack_data(name, options.work / name, options.work / "data")
    device = options.device or "cuda"
    print(f"training on {device}", flush=True)
    todo = [block_from(one, set())[0] for one in json.loads(options.plan.read_text()).values()]
    minutes = (options.until - time.time()) / 60
    try: run_blocks(todo, options.results, device, options.workers, minutes=minutes)
    except SystemExit as unfinished: print(unfinished)
    print(f"{len(todo) - len(missing(todo, options.results))} of {len(todo)} blocks are finished; bring the "
          f"folder {options.results.name} back")

def _import(options):
    outcome = import_results(options.folder, options.to)
    print(outcome.to_string(index=False))
    if (outcome.outcome == "refused").any(): raise SystemExit(1)


if __name__ == "__main__": main()
