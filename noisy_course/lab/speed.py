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
from importlib.metadata import PackageNotFoundError, version
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
from noisy_course.lab.forecast import SHAPES, arithmetic
from noisy_course.lab.results import provenance
from noisy_course.lab.papers.jindal2019 import NINE
from noisy_course.lab.papers.patrini2017 import TEN
from noisy_course.lab.papers.wang2019 import SEVEN
from noisy_course.lab.papers.zhang2018 import SIX
from noisy_course.lab.protocols import METHODS
from noisy_course.models import MLP, MODELS, initialise
from noisy_course.method import Recipe, Run, generator
from noisy_course.stacked import channels_last
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

# Where one thread computes we count its processor's time, which others on the machine disturb less.
def _clock(device="cpu"):
    alone = torch.device(device).type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter

def _timed(steps, n, device="cpu"):
    for _ in range(3): next(steps)
    _wait(device)
    clock = _clock(device)
    start = clock()
    for _ in range(n): next(steps)
    _wait(device)
    return (clock() - start) / n


# The side of the engine

# As many runs as asked for, spread over the methods of a paper: the ten of Patrini et al., the six of Zhang
# & Sabuncu, the seven of Wang et al., the nine of Jindal et al., or those that Tanaka et al. compare
# (methods that estimate T are given it, since only their second network differs from cross-entropy; of
# joint optimization it is the first step, where labels change), and cross-entropy alone, which is what the
# plain loop and JAX train. Each run has its own labels, order and
# dropout masks. Only training is counted here, and an epoch is 60,000 samples on both sides although a run
# holds a tenth back; what scoring adds is measured beside it.
LOSSES = {"patrini2017": TEN, "zhang2018": SIX, "wang2019": SEVEN, "jindal2019": NINE,
          "tanaka2018": ("cross_entropy", "forward", "joint_labels"), "cross_entropy": ("cross_entropy",)}

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
    clock = _clock()
    start = clock()
    trainer.evaluate()
    return dict(training=training / R, evaluation=(clock() - start) / R,
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


# JAX

# The strongest public alternative for many small networks: one step of one run, `vmap` over the runs, `scan`
# over the batches, `jit` over all of it. Every run has its own labels, order and dropout masks, whose bytes
# come from JAX's generator rbg. JAX is no dependency: where it is missing, it is not measured.
JAX_ALONE = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" # as XLA_FLAGS: one thread

def jax_version() -> str | None: # none where it is not installed
    "Which JAX is there to be measured."
    try: return version("jax")
    except PackageNotFoundError: return None

def _jax_losses(weights, x, y, bits):
    import jax
    for k, (w, b) in enumerate(weights):
        x = x @ w + b
        if k < 2: x = jax.nn.relu(x) * jax.numpy.where(bits[k] >= 128, 2., 0.)
    return -jax.numpy.take_along_axis(jax.nn.log_softmax(x), y[:, None], -1).mean()

def jax_epoch(
    x: "jax.Array", # (N, 784), which all runs share
): # state, labels (R, N), rows (R, steps, B) → state and losses (R, steps)
    "Several steps of every run, as one compiled function."
    import jax
    def step(labels, state, rows):
        "One step of one run: dropout, cross-entropy and AdaGrad."
        weights, sums, key = state
        key, own = jax.random.split(key)
        bits = jax.random.bits(own, (2, len(rows), 128), jax.numpy.uint8)
        loss, g = jax.value_and_grad(_jax_losses)(weights, x[rows], labels[rows], bits)
        sums = jax.tree.map(lambda s, g: s + g * g, sums, g)
        move = lambda w, g, s: w - .01 * g / (jax.numpy.sqrt(s) + 1e-6)
        return (jax.tree.map(move, weights, g, sums), sums, key), loss
    return jax.jit(jax.vmap(lambda state, labels, rows: jax.lax.scan(partial(step, labels), state, rows)),
                   donate_argnums=0)

def jax_seconds(
    trainer: Trainer, # whose weights, labels and orders JAX is given
    batches: int, # how many to time
) -> float: # seconds of a run-epoch of 60,000 samples
    "Time of an epoch of one of the runs that JAX trains together."
    import jax
    array = lambda t: jax.numpy.asarray(t.detach().numpy())
    R, B, p = len(trainer.runs), trainer.recipe.batch_size, trainer.network.parameters
    weights = [(array(p[f"{k}.weight"]), array(p[f"{k}.bias"])) for k in (1, 4, 7)]
    zeros = jax.tree.map(jax.numpy.zeros_like, weights)
    state = weights, zeros, jax.random.split(jax.random.key(0, impl="rbg"), R)
    rows = array(trainer.orders()[:, :batches * B].int()).reshape(R, batches, B)
    epoch, labels = jax_epoch(array(trainer.normalised.flatten(1))), array(trainer.labels.int())
    state, losses = jax.block_until_ready(epoch(state, labels, rows))
    start = time.process_time()
    jax.block_until_ready(epoch(state, labels, rows))
    return (time.process_time() - start) / batches * 60_000 / B / R


# All in turn

# A machine's speed drifts, so the sides take turns, each in fresh processes, and we quote the median of the
# ratios. Two workers of one thread each train side by side, as a batch does; the plain loop has the machine
# to itself, once with one thread and once with all.
def _worker(kind, threads, **options):
    command = [sys.executable, "-m", "noisy_course.lab.speed", "--worker", kind,
               *(f"--{k}={v}" for k, v in options.items())]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                            env=os.environ | dict(OMP_NUM_THREADS=str(threads), XLA_FLAGS=JAX_ALONE))

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
        jax = (statistics.mean(_answers(*[_worker("jax", 1, runs=n_runs) for _ in range(workers)])) / workers
               if jax_version() and precision == "fp32" else float("nan"))
        rows.append(dict(plain=plain, plain_threads=threaded, engine=training, products=floor, jax=jax,
                         ratio=plain / training, ratio_threads=threaded / training,
                         ratio_jax=jax / training, reached=floor / training,
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
    return _write(rounds, SETTINGS, "medians", path)

def write_networks(
    rounds: pd.DataFrame, # from `bench_networks`
    path: str | Path, # a JSON file
) -> pd.DataFrame: # what the file has now
    "The same for networks with convolutions."
    return _write(rounds, ["network", "precision"], "networks", path)

def _write(rounds, settings, part, path):
    said, groups = provenance(), rounds.groupby(settings, sort=False)
    medians = groups.median(numeric_only=True).round(4).reset_index().assign(rounds=groups.size().values)
    before = json.loads(Path(path).read_text()) if Path(path).exists() else {}
    known = pd.DataFrame([dict(commit=before["commit"]) | row for row in before.get(part, [])])
    merged = pd.concat([known, medians.assign(commit=said["commit"])]).drop_duplicates(settings, keep="last")
    rows = [{k: v for k, v in row.items() if v == v} for row in merged.to_dict("records")]
    with atomic_write(path) as file:
        file.write_text(json.dumps(before | {part: rows} | said | dict(jax=jax_version()), indent=1) + "\n")
    return merged


# Networks with convolutions

# These train one at a time. Their floor is what convolutions and dense layers take alone: outputs, gradients
# of weights, and, but for the first, gradients of inputs, with images and weights in the memory order that
# convolutions like best.
SMALL = {"cnn4": "mnist", "lenet": "mnist", "quick": "cifar10", "lc_cnn": "cifar10", "resnet14": "cifar10"}

def convolution_steps(
    network: nn.Module, # any
    x: torch.Tensor, # a batch of normalised images
): # a step at a time, without end
    "A network's convolutions and dense layers, forwards and backwards, with nothing around them."
    seen, layers = [], [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    def note(layer, inputs, out): seen.append((layer, *(channels_last(t.detach()) for t in (*inputs, out))))
    handles = [layer.register_forward_hook(note) for layer in layers]
    network(x)
    for handle in handles: handle.remove()
    network.to(memory_format=torch.channels_last)
    for _, inputs, _ in seen[1:]: inputs.requires_grad_()
    while True:
        for layer, inputs, out in seen:
            wanted = [t for t in (*layer.parameters(), inputs) if t.requires_grad]
            torch.autograd.grad(layer(inputs), wanted, out)
        yield

def bench_networks(
    rounds: int = 5, # how often the sides take turns
    batches: int = 10, # of 128 images, to time on each side
) -> pd.DataFrame: # one row a round and network
    "What the processor's convolutions allow for each small network, and how much of it the engine reaches."
    rows = [_answers(_worker("network", 1, network=name, batches=batches))[0]
            for _ in tqdm(range(rounds), desc="networks") for name in SMALL]
    return pd.DataFrame(rows)


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
def random_images(
    n: int, # images
    dataset: str = "cifar10", # whose shape they have
) -> data.Dataset: # of ten classes
    "Images of random pixels: speed does not depend on what they show."
    x = torch.randint(256, (n, *SHAPES[dataset][0]), dtype=torch.uint8, generator=generator(0, "images"))
    y = torch.arange(n) % 10
    return data.Dataset(dataset, x, y, x[:1000], y[:1000], tuple("0123456789"))

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


# One network; of a data set only the shape counts, and an epoch is 50,000 images:
def network_seconds(
    name: str, # of a network, a key of `MODELS`
    device: str = "cpu", # to train on
    precision: str = "bf16", # of the engine; the plain loop has PyTorch's defaults
    batches: int = 50, # how many to time on each side
    peak: float = float("nan"), # from `peak_rate`
) -> dict: # seconds of an epoch, and the share of the peak
    "The engine beside the plain loop, one run of one network."
    shape, steps = SMALL.get(name, "cifar10"), 50_000 / 128
    dataset, build = random_images(128 * (batches + 10), shape), lambda g: initialise(MODELS[name](10), g)
    recipe = Recipe(optimizer=partial(torch.optim.SGD, lr=.01, momentum=.9), precision=precision,
                    runs_at_once=1)
    one = Trainer(dataset.to(device), [Run(METHODS["cross_entropy"], dataset.train_y)], build, recipe)
    ours = steps * _timed(engine_steps(one), batches, device)
    plain = steps * _timed(plain_steps(build(generator(0, "network")).to(device), dataset, device), batches,
                           device)
    return dict(network=name, precision=precision, engine=ours, plain=plain, ratio=plain / ours,
                share=3 * 50_000 * arithmetic(shape, name) / ours / peak)

def reached_seconds(
    name: str, # of a network, a key of `SMALL`
    batches: int, # how many to time on each side
) -> dict: # seconds of an epoch, and the share of what convolutions allow
    "The engine beside its convolutions alone, and beside the plain loop."
    network, images = initialise(MODELS[name](10), generator(0, "network")), random_images(128, SMALL[name])
    alone = convolution_steps(network, images.normalise(images.train_x))
    floor = 50_000 / 128 * _timed(alone, batches)
    row = network_seconds(name, precision="fp32", batches=batches) | dict(convolutions=floor)
    del row["share"]
    return row | dict(reached=floor / row["engine"], samples_a_second=50_000 / row["engine"])


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
    for name, default in dict(worker="", precision="fp32", paper="patrini2017", network="").items():
        parser.add_argument(f"--{name}", default=default, help=argparse.SUPPRESS)
    for name, default in (("runs", 20), ("compiled", 0)):
        parser.add_argument(f"--{name}", type=int, default=default, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker: return print(json.dumps(_measured(args)))
    try: check_there(args.device)
    except ValueError as error: raise SystemExit(str(error)) from None
    if args.device != "cpu": return print(bench_gpu(args.device).round(3).to_string(index=False))
    others = [dict(paper=paper, precision=precision) for paper in list(LOSSES)[1:]
              for precision in ("fp32", "bf16")]
    settings = [dict(), dict(n_runs=40), dict(precision="bf16"), *others]
    settings = [setting for setting in settings if setting.get("paper", "patrini2017") in args.papers]
    if args.compile: settings += [dict(compiled=True), dict(precision="bf16", compiled=True)]
    if not jax_version(): print("JAX is not installed and so not measured: pip install jax")
    medians = write_bench(pd.concat([bench(args.rounds, **setting) for setting in settings]), args.file)
    print(medians.to_string(index=False))
    print(write_networks(bench_networks(args.rounds), args.file).to_string(index=False))

def _measured(args):
    if args.worker == "network": return reached_seconds(args.network, args.batches)
    if args.worker == "products": return product_seconds(args.runs, args.batches, args.precision)
    mnist = data.load("mnist")
    if args.worker == "plain": return plain_seconds(mnist, 3 * args.batches)
    if args.worker == "jax": return jax_seconds(trainer(mnist, args.runs, "cross_entropy"), args.batches)
    options = dict(precision=args.precision, compiled=bool(args.compiled))
    return trainer_seconds(trainer(mnist, args.runs, args.paper, **options), args.batches)


if __name__ == "__main__": main()
