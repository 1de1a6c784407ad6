"""How fast the engine is beside the loop anyone would write: a ratio, both sides in turn on one machine."""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from noisy_course import data, noise
from noisy_course.basics import atomic_write, require
from noisy_course.distributed import check_there
from noisy_course.lab.forecast import arithmetic
from noisy_course.lab.results import provenance
from noisy_course.lab.papers.jindal2019 import NINE
from noisy_course.lab.papers.patrini2017 import TEN
from noisy_course.lab.papers.wang2019 import SEVEN
from noisy_course.lab.papers.zhang2018 import SIX
from noisy_course.lab.protocols import METHODS
from noisy_course.models import MLP, MODELS, initialise
from noisy_course.method import Recipe, Run, generator
from noisy_course.trainer import Trainer


# The plain side

# This is what a careful user writes: the images already floats in memory, the library's own loader and
# optimizer.
def plain_seconds(
    dataset: data.Dataset, # to train on
    batches: int, # how many to time
) -> float: # seconds an epoch
    "Time of an epoch of the plain loop, from the first `batches` of it."
    x, y = dataset.normalise(dataset.train_x), dataset.train_y
    loader = DataLoader(TensorDataset(x, y), batch_size=128, shuffle=True)
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Dropout(.5), nn.Linear(128, 128),
                            nn.ReLU(), nn.Dropout(.5), nn.Linear(128, 10))
    optimizer = torch.optim.Adagrad(network.parameters(), lr=.01)
    return _timed((_plain_step(network, optimizer, *batch) for batch in loader), batches) * len(y) / 128

def _plain_step(network, optimizer, x, y):
    optimizer.zero_grad()
    cross_entropy(network(x), y).backward()
    optimizer.step()

def _wait(device):
    if torch.device(device).type == "cuda": torch.cuda.synchronize(device)

def _timed(steps, n, device="cpu"):
    for _ in range(3): next(steps)
    _wait(device)
    start = time.perf_counter()
    for _ in range(n): next(steps)
    _wait(device)
    return (time.perf_counter() - start) / n


# The side of the engine

# As many runs as asked for, spread over the methods of a paper: the ten of Patrini et al., the six of Zhang
# & Sabuncu, the seven of Wang et al., the nine of Jindal et al., or those that Tanaka et al. compare
# (methods that estimate T are given it, since only their second network differs from cross-entropy; of
# joint optimization it is the first step, where labels change). Each run has its own labels, order and
# dropout masks. Only training is counted here, and an epoch is 60,000 samples on both sides although a run
# holds a tenth back; what scoring adds is measured beside it.
LOSSES = {"patrini2017": TEN, "zhang2018": SIX, "wang2019": SEVEN, "jindal2019": NINE,
          "tanaka2018": ("cross_entropy", "forward", "joint_labels")}

def trainer(
    dataset: data.Dataset, # to train on
    n_runs: int, # R
    paper: str = "patrini2017", # whose methods, a key of `LOSSES`
    **recipe, # e.g. precision="bf16", compiled=True
) -> Trainer: # ready to train
    "Runs with all methods of a paper, ready to train together."
    T, methods = noise.asymmetric("mnist", .4), [METHODS[name] for name in LOSSES[paper]]
    runs = [Run(methods[i * len(methods) // n_runs], noise.corrupt(dataset.train_y, T, generator(i, "noise")),
                T, i) for i in range(n_runs)]
    return Trainer(dataset, runs, lambda g: initialise(MLP(), g), Recipe(**recipe))

def trainer_seconds(
    trainer: Trainer, # to time
    batches: int, # how many to time
) -> dict: # seconds of a run-epoch, and what evaluation adds to them
    "Time of an epoch of one of the runs that train together, from the first `batches` of it."
    trainer.training_mode(True)
    n, R = len(trainer.dataset.train_x), len(trainer.runs)
    order = trainer.orders().split(trainer.recipe.batch_size, dim=1)
    steps = zip(order, trainer.masks(len(order)))
    training = _timed((trainer.step(*step) for step in steps), batches) * n / trainer.recipe.batch_size
    start = time.perf_counter()
    trainer.evaluate()
    return dict(training=training / R, evaluation=(time.perf_counter() - start) / R,
                memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


# The floor

# No engine can be faster than its matrix products. So we time these alone: for every layer its output, the
# gradient of its weights, and, but for the first, the gradient of its input.
def product_seconds(
    n_runs: int, # R
    batches: int, # how many to time
    precision: str = "fp32", # or "bf16"
    batch_size: int = 128, # B
    widths: tuple = (784, 128, 128, 10), # of the layers
) -> float: # seconds of a run-epoch of 60,000 samples
    "Time of an epoch's matrix products, with nothing around them."
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x = [torch.randn(n_runs, batch_size, width).to(dtype) for width in widths]
    w = [torch.randn(n_runs, a, b).to(dtype) for a, b in zip(widths, widths[1:])]
    def step(_):
        "All products of one batch."
        for k in range(len(w)):
            x[k] @ w[k]
            x[k].mT @ x[k + 1]
            if k: x[k + 1] @ w[k].mT
    return _timed(map(step, range(batches + 3)), batches) * 60000 / batch_size / n_runs

def operations(
    batch_size: int = 128, # B
    widths: tuple = (784, 128, 128, 10), # of the layers
) -> int: # additions and multiplications of a step's matrix products
    "What the products of one step cost one network."
    return sum(2 * batch_size * a * b * (3 if k else 2) for k, (a, b) in enumerate(zip(widths, widths[1:])))


# All in turn

# A machine's speed drifts, so the sides take turns, each in fresh processes, and we quote the median of the
# ratios. Two workers of one thread each train side by side, as a batch does; the plain loop has the machine
# to itself, once with one thread and once with all.
def _worker(kind, threads, **options):
    command = [sys.executable, "-m", "noisy_course.lab.speed", "--worker", kind,
               *(f"--{k}={v}" for k, v in options.items())]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                            env=os.environ | dict(OMP_NUM_THREADS=str(threads)))

def _answers(*workers):
    texts = [worker.communicate()[0] for worker in workers]
    require(all(worker.returncode == 0 for worker in workers), "workers", "processes that finish",
            [w.returncode for w in workers])
    return [json.loads(text.splitlines()[-1]) for text in texts]

def bench(
    rounds: int = 5, # how often the two sides take turns
    workers: int = 2, # trainers side by side
    n_runs: int = 20, # runs of each trainer
    precision: str = "fp32", # or "bf16"
    compiled: bool = False, # whether torch.compile is used
    paper: str = "patrini2017", # whose methods
) -> pd.DataFrame: # one row a round
    "The engine beside the plain loop, in turn."
    rows = []
    for _ in tqdm(range(rounds), desc=f"{paper} {precision}{' compiled' if compiled else ''}"):
        [plain], [threaded] = _answers(_worker("plain", 1)), _answers(_worker("plain", os.cpu_count()))
        ours = _answers(*[_worker("engine", 1, runs=n_runs, precision=precision, compiled=int(compiled),
                                  paper=paper) for _ in range(workers)])
        floor = (statistics.mean(_answers(*[_worker("products", 1, runs=n_runs, precision=precision)
                                            for _ in range(workers)])) / workers)
        training = statistics.mean(o["training"] for o in ours) / workers
        rows.append(dict(plain=plain, plain_threads=threaded, engine=training, products=floor,
                         ratio=plain / training, ratio_threads=threaded / training,
                         evaluation=statistics.mean(o["evaluation"] / o["training"] for o in ours),
                         memory=max(o["memory"] for o in ours)))
    return pd.DataFrame(rows).assign(paper=paper, precision=precision, compiled=compiled, workers=workers,
                                     n_runs=n_runs)


# The medians go to a file, with the machine they were taken on:
SETTINGS = ["paper", "precision", "compiled", "workers", "n_runs"]

def write_bench(
    rounds: pd.DataFrame, # from `bench`, of one or several settings
    path: str | Path, # a JSON file
) -> pd.DataFrame: # what the file has now
    "Write a benchmark's medians and the machine's description; what the file has of other settings stays."
    said, medians = (provenance(), rounds.groupby(SETTINGS,
        sort=False).median(numeric_only=True).round(4).reset_index())
    medians["rounds"] = rounds.groupby(SETTINGS, sort=False).size().values
    before = json.loads(Path(path).read_text()) if Path(path).exists() else dict(medians=[])
    known = pd.DataFrame([dict(commit=before["commit"]) | row for row in before["medians"]])
    merged = pd.concat([known, medians.assign(commit=said["commit"])]).drop_duplicates(SETTINGS, keep="last")
    with atomic_write(path) as part:
        part.write_text(json.dumps(dict(medians=merged.to_dict("records"), **said), indent=1) + "\n")
    return merged


# On a GPU

# A GPU trains the papers' convolutional networks, and digits by the hundreds together. There the question
# is how much of the chip is at work: the arithmetic of an epoch, three times that of all forward passes,
# over its time, beside the rate of one large product of bfloat16 matrices. (Three times is a little too
# much, as the first layer needs no gradient of its input.) The plain loop stands beside it, with the same
# network and a `DataLoader`.
def peak_rate(
    device: str, # to measure
    side: int = 8192, # of the matrices
    precision: str = "bf16", # or "fp32"
) -> float: # floating-point operations a second
    "The rate of a product of two square matrices."
    a, b = (torch.randn(side, side,
                        device=device).to(torch.bfloat16 if precision == "bf16" else torch.float32)
            for _ in range(2))
    return 2 * side**3 / _timed(iter(lambda: a @ b, None), 10, device)


# Speed does not depend on what images show, so theirs are random pixels. Both sides are endless series of
# steps:
def coloured_noise(
    n: int, # images
) -> data.Dataset: # of CIFAR-10's shape
    "Images of random pixels: speed does not depend on what they show."
    x, y = (torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator(0, "images")),
            torch.arange(n) % 10)
    return data.Dataset("cifar10", x, y, x[:1000], y[:1000], tuple("0123456789"))

def engine_steps(
    trainer: Trainer, # ready to train
): # a step at a time, without end
    "The steps of a trainer, epoch after epoch."
    trainer.training_mode(True)
    while True:
        order = trainer.orders().split(trainer.recipe.batch_size, dim=1)[:-1]
        for step in zip(order, trainer.masks(len(order))): yield trainer.step(*step)

def plain_steps(
    network: nn.Module, # on its device
    dataset: data.Dataset, # on the CPU
    device: str, # to train on
): # a step at a time, without end
    "The loop that a user would write for a GPU."
    loader = DataLoader(TensorDataset(dataset.normalise(dataset.train_x), dataset.train_y), batch_size=128,
                        shuffle=True, drop_last=True, pin_memory=device != "cpu")
    optimizer = torch.optim.SGD(network.parameters(), lr=.01, momentum=.9)
    while True:
        for x, y in loader:
            yield _plain_step(network, optimizer, x.to(device, non_blocking=True),
                              y.to(device, non_blocking=True))


# One network on images of CIFAR-10's shape:
def network_seconds(
    name: str, # of a network for CIFAR-10, a key of `MODELS`
    device: str = "cpu", # to train on
    precision: str = "bf16", # of the engine; the plain loop has PyTorch's defaults
    batches: int = 50, # how many to time on each side
    peak: float = float("nan"), # from `peak_rate`
) -> dict: # seconds of an epoch of 50,000 images, and the share of the peak
    "The engine beside the plain loop, one run of one network."
    dataset, steps = coloured_noise(128 * (batches + 10)), 50_000 / 128
    recipe = Recipe(optimizer=partial(torch.optim.SGD, lr=.01, momentum=.9), precision=precision,
                    runs_at_once=1)
    one = Trainer(dataset.to(device), [Run(METHODS["cross_entropy"], dataset.train_y)],
                  lambda g: initialise(MODELS[name](10), g), recipe)
    ours = steps * _timed(engine_steps(one), batches, device)
    plain = (steps * _timed(plain_steps(initialise(MODELS[name](10), generator(0, "network")).to(device),
                                        dataset, device), batches, device))
    return dict(network=name, precision=precision, engine=ours, plain=plain, ratio=plain / ours,
                share=3 * 50_000 * arithmetic("cifar10", name) / ours / peak)


# And a trainer of two hundred runs on digits:
def sweep_seconds(
    device: str = "cpu", # to train on
    n_runs: int = 200, # trained together
    precision: str = "bf16", # of the engine
    batches: int = 50, # how many to time on each side
    peak: float = float("nan"), # from `peak_rate`
) -> dict: # as `network_seconds`, of a run-epoch of 60,000 digits
    "A sweep of the first paper's digits beside the plain loop."
    mnist, steps = data.load("mnist"), 60_000 / 128
    runs = trainer(mnist.to(device), n_runs, precision=precision)
    ours = steps * _timed(engine_steps(runs), batches, device) / n_runs
    plain = (steps * _timed(plain_steps(initialise(MLP(), generator(0, "network")).to(device), mnist, device),
                            batches, device))
    return dict(network=f"mlp, {n_runs} runs", precision=precision, engine=ours, plain=plain,
                ratio=plain / ours, share=3 * 60_000 * arithmetic("mnist", "mlp") / ours / peak)


# All of it, in both precisions:
NETWORKS = "resnet14", "resnet32", "resnet34", "cnn8"

def bench_gpu(
    device: str = "cuda", # to measure
    path: str | Path = "results/bench_gpu.json", # to write
) -> pd.DataFrame: # a row a network and precision
    "Measure every network on a GPU, and write it down with the GPU's name."
    rows, peak = [], peak_rate(device)
    for precision in ("fp32", "bf16"):
        rows += ([network_seconds(name, device, precision, peak=peak) | dict(peak=peak) for name in NETWORKS]
                 + [sweep_seconds(device, precision=precision, peak=peak) | dict(peak=peak)])
    with atomic_write(path) as part:
        part.write_text(json.dumps(dict(rows=rows, **provenance(device)), indent=1) + "\n")
    return pd.DataFrame(rows)


def main(
    argv: list | None = None, # words of the command line; those of the process if none
) -> None:
    "Measure and write: python -m noisy_course.lab.speed FILE"
    parser = argparse.ArgumentParser(prog="python -m noisy_course.lab.speed",
                                     description="How fast the engine is beside a plain loop.")
    parser.add_argument("file", nargs="?", default="results/bench.json", help="where the medians go")
    parser.add_argument("--rounds", type=int, default=5, help="how often the two sides take turns")
    parser.add_argument("--papers", nargs="+", default=list(LOSSES), help="whose methods")
    parser.add_argument("--batches", type=int, default=60, help="batches to time in each process")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too")
    parser.add_argument("--device", default=data.setting("device", "cpu"),
                        help="cpu, or a GPU: its networks are measured, written to results/bench_gpu.json")
    for name, default in (("worker", ""), ("precision", "fp32"), ("paper", "patrini2017")):
        parser.add_argument(f"--{name}", default=default, help=argparse.SUPPRESS)
    for name, default in (("runs", 20), ("compiled", 0)):
        parser.add_argument(f"--{name}", type=int, default=default, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.worker: return _answer(given)
    try: check_there(given.device)
    except ValueError as error: raise SystemExit(str(error)) from None
    if given.device != "cpu": return print(bench_gpu(given.device).round(3).to_string(index=False))
    others = [dict(paper=paper, precision=precision) for paper in list(LOSSES)[1:]
              for precision in ("fp32", "bf16")]
    settings = [dict(), dict(n_runs=40), dict(precision="bf16"), *others]
    settings = [setting for setting in settings if setting.get("paper", "patrini2017") in given.papers]
    if given.compile: settings += [dict(compiled=True), dict(precision="bf16", compiled=True)]
    medians = write_bench(pd.concat([bench(given.rounds, **setting) for setting in settings]), given.file)
    print(medians.to_string(index=False))

def _answer(given):
    mnist = data.load("mnist")
    if given.worker == "plain": print(json.dumps(plain_seconds(mnist, 3 * given.batches)))
    elif given.worker == "products":
        print(json.dumps(product_seconds(given.runs, given.batches, given.precision)))
    else:
        print(json.dumps(trainer_seconds(trainer(mnist, given.runs, given.paper, precision=given.precision,
            compiled=bool(given.compiled)), given.batches)))


if __name__ == "__main__": main()
