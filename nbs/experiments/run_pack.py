"""Train what this pack brings: python run.py [--minutes 30] [--device cuda] [--workers 1].

It needs a Python that has PyTorch, and no internet. Bring the folder `results` back, finished or not:
`make import-results` adds what is finished, and where it lies beside this file again, the same command goes
on from its checkpoints.
"""
import argparse
import importlib.metadata
import json
import os
import platform
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
    if sha256(raw).hexdigest() != expected:
        raise SystemExit(f"parts/{name}: truncated or altered; bring it again")
    return raw


def extract(archive, folder):
    "Unpack plain files, and nothing that lies outside of the folder: also on a Python without filters."
    folder.mkdir(parents=True)
    for member in archive:
        place = (folder / member.name).resolve()
        if not member.isreg() or folder.resolve() not in place.parents:
            raise SystemExit(f"{member.name}: expected a file of the pack, got something else; make the pack "
                             "again")
        place.parent.mkdir(parents=True, exist_ok=True)
        with archive.extractfile(member) as source, open(place, "wb") as file:
            shutil.copyfileobj(source, file)


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
        with tarfile.open(fileobj=whole) as archive: extract(archive, WORK / group)
    done.write_text(json.dumps(parts))


def needs_torch(least):
    "Stop where this Python has no PyTorch, or one that is too old."
    try: found = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit(f"{sys.executable} has no PyTorch: start run.py with the Python that has "
                         "it") from None
    version = lambda text: tuple(map(int, text.split(".")[:2]))
    if version(found) < version(least):
        raise SystemExit(f"PyTorch {least} or newer is needed, {sys.executable} has {found}")


def install(*words):
    "Install wheels of the pack into its environment, by the pip that the pack brings."
    command = [ENV / "bin" / "python", "-m", "pip", "--isolated", "--disable-pip-version-check", "install",
               "--quiet", "--no-index", "--no-warn-script-location", *words]
    pip = next((WORK / "wheels").glob("pip-*.whl"))
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(pip)}, check=True)


def fits(pack):
    "Stop where the wheels of the pack are for another Python or another processor."
    here = dict(python="{}.{}".format(*sys.version_info), machine=platform.machine())
    if "python" in pack and here != {k: pack[k] for k in here}:
        raise SystemExit("this pack is for Python {python} on {machine}, ".format(**pack)
                         + "{} is Python {python} on {machine}: make one for it, make gpu-pack "
                           "TARGET={python} MACHINE={machine}".format(sys.executable, **here))


def torchvision_fault():
    "Why the environment's torchvision cannot be imported: only a try can tell whether it fits its PyTorch."
    tried = subprocess.run([ENV / "bin" / "python", "-c", "import torch, torchvision"], capture_output=True,
                           text=True)
    return (tried.stderr.strip().splitlines() or ["?"])[-1] if tried.returncode else ""


def register_kernel():
    "Let notebooks run in the environment, whatever kernels the user has."
    spec = dict(argv=[str(ENV / "bin" / "python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                display_name="python3", language="python")
    place = ENV / "share" / "jupyter" / "kernels" / "python3"
    place.mkdir(parents=True, exist_ok=True)
    (place / "kernel.json").write_text(json.dumps(spec))


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
    register_kernel()
    wheels = sorted(map(str, (WORK / "wheels").glob("torchvision-*.whl")))
    while (fault := torchvision_fault()) and wheels:
        install("--no-deps", "--force-reinstall", wheels.pop())
    if fault:
        say("no torchvision of the pack fits this PyTorch, so ResNet-18, 34, 50 and AlexNet cannot be "
            f"trained ({fault})")
    ready.write_text(made_of)
    return ENV / "bin" / "python"


def read_options(pack):
    "What the command line says."
    parser = argparse.ArgumentParser(prog="run.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--minutes", type=float, default=pack["minutes"],
        help=f"when to be at the end, counted from now; {pack['minutes']:g} if not given")
    add("--device", default="", help="cpu or cuda; a GPU if it is not given")
    add("--workers", type=int, default=1,
        help="blocks that share the device; more than one pays where blocks are small")
    add("--results", type=Path, default=HERE / "results", help="where results go; beside run.py if not given")
    options = parser.parse_args()
    if not 0 < options.minutes < float("inf"):
        parser.error(f"--minutes: expected a number above 0, got {options.minutes}")
    if options.workers < 1: parser.error(f"--workers: expected at least 1, got {options.workers}")
    return options


def main():
    began, pack = time.time(), json.loads((HERE / "pack.json").read_text())
    options = read_options(pack)
    needs_torch(pack["torch"])
    fits(pack)
    for group, parts in pack["groups"].items(): unpack(group, parts)
    python, data = environment(pack), WORK / "data"
    data.mkdir(exist_ok=True)
    path = os.pathsep.join(filter(None, [str(WORK / "course"), os.environ.get("PYTHONPATH")]))
    own = dict(JUPYTER_PREFER_ENV_PATH="1", PYTHONPATH=path, NOISY_COURSE_DATA=str(data),
               NOISY_COURSE_CACHE=str(data), PYTHONUNBUFFERED="1")
    command = [python, "-m", "noisy_course.lab.gpu_pack", "run", HERE / "plan.json", "--work", WORK,
               "--results", options.results.resolve(), "--until", began + 60 * options.minutes,
               "--workers", options.workers, *(["--device", options.device] if options.device else [])]
    os.chdir(WORK)
    os.execve(python, list(map(str, command)), {**os.environ, **own})


if __name__ == "__main__": main()
