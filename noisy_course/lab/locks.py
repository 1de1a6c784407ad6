"""Locks and places that the operating system gives back when their holder ends, however it ends.

One lock keeps a second batch out of a results folder; a block's own makes a new batch wait for a block
that an orphan of a killed one is still training. A place on a GPU is a lock too."""
import platform
import time
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import torch

from noisy_course import data
from noisy_course.basics import require


try: import fcntl
except ModuleNotFoundError: fcntl = None # Windows


def _needs_locks():
    require(fcntl, "system", "Linux or macOS, with whose locks a batch works (on Windows: WSL)",
            platform.system())


@contextmanager
def lock(
    path: str | Path, # a file that only serves as a lock
    wait: bool, # for whoever holds it; else a ValueError
): # the lock's file descriptor: a child process that is given it holds the lock too
    "Hold a lock that the operating system releases when its holders end, however they end."
    _needs_locks()
    with _opened(Path(path)) as file:
        folder = Path(path).parent.parent
        try: fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            require(False, "results", "a folder that no other batch is using", f"{folder}, in use")
        except OSError as error:
            require(False, "results", "a folder on a file system with locks", f"{folder} ({error.strerror})")
        yield file.fileno()

def _opened(path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a")
    except OSError as error:
        require(False, "results", "a folder that can be written to",
                f"{path.parent.parent} ({error.strerror})")


# Several GPUs

# On a machine with several GPUs, `cuda` means any of them. Each has as many places as its share of the
# `workers`: with four workers on four GPUs a block has a GPU of its own; with eight, two blocks share one,
# which pays where blocks are small. A place is a lock too, so that a killed block gives it back. Whoever
# looks for one takes for a moment all that are free, keeps one on the GPU with most of them, and lets the
# others go:
def _take_place(folder, gpus, share):
    with lock(folder / "search", wait=True):
        places = [[folder / f"{gpu}_{i}" for i in range(share)] for gpu in range(gpus)]
        free = [[file for file in map(_locked, own) if file] for own in places]
        gpu = max(range(gpus), key=lambda gpu: len(free[gpu]))
        taken = free[gpu].pop() if free[gpu] else None
        for file in chain(*free): file.close()
    return taken and (gpu, taken)

def _locked(path):
    _needs_locks()
    file = _opened(path)
    try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError: return file.close()
    return file


# It waits. A single GPU, or one that is named, as `cuda:1`, is left as it is:
@contextmanager
def place(
    device: str, # "cuda" for any GPU; anything else stands for itself
    results: str | Path, # folder, which keeps the places
): # the device to train on, e.g. "cuda:1"
    "A place on the least loaded of several GPUs, for as long as the context lasts."
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    if gpus < 2:
        yield device
        return
    folder, share = (Path(results) / "locks" / f"gpus_{platform.node()}",
                     -(-int(data.setting("workers", "2")) // gpus))
    while not (found := _take_place(folder, gpus, share)): time.sleep(1)
    gpu, taken = found
    with taken: yield f"cuda:{gpu}"
