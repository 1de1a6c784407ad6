"""Train what this pack brings: python run.py [--minutes 30] [--device cuda] [--workers 1].

It needs a Python that has PyTorch, and no internet. Bring the folder `results` back, finished or not: `make import-results` adds
what is finished, and where it lies beside this file again, the same command goes on from its checkpoints.
"""
import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import venv
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile

HERE = Path(__file__).resolve().parent
WORK, PARTS = HERE / "work", HERE / "parts"
ENV = WORK / "env"


def say(line): print(f"run.py: {line}", flush=True)


def checked(name, expected):
    "A part of the pack, if it has arrived whole."
    if not (PARTS / name).exists(): raise SystemExit(f"parts/{name} is missing: bring it too")
    raw = (PARTS / name).read_bytes()
    if sha256(raw).hexdigest() != expected: raise SystemExit(f"parts/{name}: truncated or altered; bring it again")
    return raw


def unpack(group, parts):
    "Unpack a group of parts, unless it is there already."
    done = WORK / f"{group}.json"
    if done.exists() and json.loads(done.read_text()) == parts: return
    say(f"unpacking {group}")
    WORK.mkdir(exist_ok=True)
    shutil.rmtree(WORK / group, ignore_errors=True)
    with TemporaryFile(dir=WORK) as whole:
        for name, expected in parts.items(): whole.write(checked(name, expected))
        whole.seek(0)
        with tarfile.open(fileobj=whole) as archive: archive.extractall(WORK / group, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    done.write_text(json.dumps(parts))


def needs_torch(least):
    "Stop where this Python has no PyTorch, or one that is too old."
    try: found = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError: raise SystemExit(f"{sys.executable} has no PyTorch: start run.py with the Python that has it") from None
    if tuple(map(int, found.split(".")[:2])) < tuple(map(int, least.split(".")[:2])): raise SystemExit(f"PyTorch {least} or newer is needed, {sys.executable} has {found}")


def install(*words):
    "Install wheels of the pack into its environment, by the pip that the pack brings."
    command = [ENV / "bin" / "python", "-m", "pip", "--isolated", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-warn-script-location", *words]
    pip = next((WORK / "wheels").glob("pip-*.whl"))
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(pip)}, check=True)


def has_torchvision():
    "Whether the environment's torchvision fits its PyTorch: only a try can tell."
    return subprocess.run([ENV / "bin" / "python", "-c", "import torchvision"], capture_output=True).returncode == 0


def environment(pack):
    "A Python that has what this Python has, and what the wheels of the pack bring."
    if "wheels" not in pack["groups"]: return sys.executable
    ready, made_of = ENV / "ready.json", json.dumps([pack["groups"]["wheels"], sys.executable])
    if ready.exists() and ready.read_text() == made_of: return ENV / "bin" / "python"
    say("making an environment around this Python, without internet; half a minute")
    venv.create(ENV, system_site_packages=True, clear=True, symlinks=True)
    around = [place for place in sys.path if place.endswith(("site-packages", "dist-packages"))]
    next(ENV.glob("lib/python*/site-packages")).joinpath("around.pth").write_text("\n".join(around))
    install("--find-links", str(WORK / "wheels"), *pack["needs"])
    wheels = sorted(map(str, (WORK / "wheels").glob("torchvision-*.whl")))
    while not has_torchvision():
        if not wheels: raise SystemExit("no torchvision of the pack fits this PyTorch: install the one that does, then start again")
        install("--no-deps", "--force-reinstall", wheels.pop())
    ready.write_text(made_of)
    return ENV / "bin" / "python"


def main():
    began, pack = time.monotonic(), json.loads((HERE / "pack.json").read_text())
    parser = argparse.ArgumentParser(prog="run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=pack["minutes"], help=f"when to stop, counted from now; {pack['minutes']:g} if not given")
    parser.add_argument("--device", default="", help="cpu or cuda; a GPU if there is one")
    parser.add_argument("--workers", type=int, default=1, help="blocks that share the device; more than one pays where blocks are small")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where results go; beside run.py if not given")
    given = parser.parse_args()
    needs_torch(pack["torch"])
    for group, parts in pack["groups"].items(): unpack(group, parts)
    python = environment(pack)
    own = dict(PYTHONPATH=os.pathsep.join(filter(None, [str(WORK / "course"), os.environ.get("PYTHONPATH")])),
               NOISY_COURSE_DATA=str(WORK / "data"), NOISY_COURSE_CACHE=str(WORK / "data"), PYTHONUNBUFFERED="1")
    left = given.minutes - (time.monotonic() - began) / 60
    words = ["run", HERE / "plan.json", "--work", WORK, "--results", given.results.resolve(), "--minutes", left, "--workers", given.workers]
    command = [python, "-m", "noisy_course.gpu_pack", *words, *(["--device", given.device] if given.device else [])]
    os.chdir(WORK)
    os.execve(python, list(map(str, command)), {**os.environ, **own})


if __name__ == "__main__": main()
