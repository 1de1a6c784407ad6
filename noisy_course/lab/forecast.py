"""How long blocks take on a machine: from what was recorded there, else from their networks' arithmetic.

An epoch passes each training image forwards and backwards, about three times the work of a forward pass,
and each test image forwards; divided by that, seconds from runs of different sizes can be compared."""
import warnings
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from noisy_course import data
from noisy_course.lab import protocols
from noisy_course.lab.grid import Block, block_methods, block_recipe
from noisy_course.lab.job import network_of
from noisy_course.lab.protocols import PRETRAINED
from noisy_course.lab.results import missing
from noisy_course.training import Run, generator, run_epochs, unverified_mask, verified_mask


# How long it will take

# Clothing1M has parts with other numbers of training samples.
CLOTHES = dict(clean_50k=50_000, real_and_clean_50k=1_050_000, real_then_clean_50k=1_050_000)
SIZES = dict(mnist=(60_000, 10_000), fashion_mnist=(60_000, 10_000), cifar10=(50_000, 10_000),
             cifar100=(50_000, 10_000), imdb=(25_000, 25_000),
             clothing1m=(1_000_000, 10_526), imagenet=(1_281_167, 50_000)) # training and test samples
SPEED = ["dataset", "network", "precision", "machine"]

def work(
    dataset: str, # a key of `SIZES`
    samples: int, # training samples; 0 for all
    epochs: float, # of all runs and all their stages
) -> float: # samples; a training sample counts three times
    "How many samples runs pass forwards, or backwards at twice the price."
    train, test = SIZES[dataset]
    return epochs * (3 * (samples or train) + test)

def recorded_speed(
    folders: list, # of results
) -> pd.Series: # median seconds a sample, by the columns SPEED
    "How fast runs were, from the results in some folders."
    files = sorted({f for folder in folders for f in Path(folder).glob("*.parquet")})
    if not files: return pd.Series(dtype=float, index=pd.MultiIndex.from_arrays([[]] * 4, names=SPEED))
    runs = pd.concat([pd.read_parquet(f, filters=[("metric", "==", "accuracy")]) for f in files],
                     ignore_index=True)
    runs = runs[~runs.method.isin([name for name, m in protocols.METHODS.items() if m.warm_start])]
    runs = runs.reindex(columns=[*SPEED, "model", "samples", "epochs", "first_epochs",
                                 "seconds"]).fillna(dict(precision="fp32", first_epochs=0))
    runs = runs.assign(network=runs.network.fillna("").where(lambda n: n != "", runs.model),
                       epochs=runs.epochs + runs.first_epochs)
    columns = runs[["dataset", "samples", "epochs", "seconds"]].itertuples(index=False)
    each = [seconds / work(dataset, samples, epochs) for dataset, samples, epochs, seconds in columns]
    return runs.assign(each=each).groupby(SPEED).each.median()


# What a block will take is an extrapolation: from the same data and network if they have been run on this
# machine, else from the same network on other data. And a network that never ran here? PyTorch can count
# its arithmetic, from the shape of an input and the number of classes, and networks of a kind do about as
# much of it a second:
SHAPES = dict(mnist=((28, 28), 10), fashion_mnist=((28, 28), 10), cifar10=((3, 32, 32), 10),
              cifar100=((3, 32, 32), 100), imdb=((400,), 2), clothing1m=((3, 224, 224), 14),
              imagenet=((3, 224, 224), 1000))

def _blank(dataset):
    shape, n = SHAPES[dataset]
    x, y = torch.zeros(1, *shape, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    return data.Dataset(dataset, x, y, x, y, tuple(map(str, range(n))))

@cache
def arithmetic(
    dataset: str, # a key of `SHAPES`
    network: str, # of the papers
) -> int: # floating-point operations
    "What one input costs a network forwards, as PyTorch counts it."
    make = partial(_untrained, network) if network in PRETRAINED else network_of(network, _blank(dataset))
    x = torch.zeros(1, *SHAPES[dataset][0], dtype=torch.int64 if dataset == "imdb" else torch.float32)
    run = make(generator(0, "network")).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
            with FlopCounterMode(display=False) as counter: run(x)
    return counter.get_total_flops()

def _untrained(name, _):
    from torchvision import models
    return getattr(models, name)()


# Most lie within a factor of two; the embedding looks words up and hardly calculates, so it stands apart,
# and the median does not mind. Such an estimate is marked.
def n_run_epochs(
    block: Block, # to train
    weigh=lambda method: 1, # method → what an epoch of it counts
) -> float: # of all its runs, in all their stages
    "How many epochs the runs of a block have together."
    nothing = torch.zeros(1, dtype=torch.int64)
    return run_epochs([Run(method, nothing, None, seed) for method in block_methods(block)
                       for seed in block.seeds], block_recipe(block), weigh)

def seconds_each(
    block: Block, # to train
    speed: pd.Series, # from `recorded_speed`
    machine: str, # that trains it, as `machine` calls it
) -> tuple: # (seconds a sample, nan if nothing ever ran here; whether they come from other networks)
    "How fast a block's network is on a machine, by what was recorded there."
    network = block.network or block.model
    here = speed[[k[2:] == (block.precision, machine) for k in speed.index]]
    here = here.droplevel(["precision", "machine"])
    same = here[[n == network for _, n in here.index]]
    if len(same): return same.get((block.dataset, network), same.median()), False
    costs = [arithmetic(*k) if k[0] in SHAPES and k != ("cifar10", "mlp") else np.nan for k in here.index]
    return (here / costs).median() * (arithmetic(block.dataset, network) if len(here) else 1), True

def estimate(
    block: Block, # to train
    speed: pd.Series, # from `recorded_speed`
    machine: str, # that trains it, as `machine` calls it
) -> float: # seconds; nan if unknown
    "How long a block takes on a machine."
    share, samples = (block.checked or CLOTHES["clean_50k"] / CLOTHES["real_then_clean_50k"],
                      block.samples or CLOTHES.get(block.noise, 0))
    weigh = lambda method: {verified_mask: share, unverified_mask: 1 - share}.get(method.samples, 1)
    passes = (work(block.dataset, samples, n_run_epochs(block, weigh)) + SIZES[block.dataset][1]
              * (n_run_epochs(block) - n_run_epochs(block, weigh)))
    return seconds_each(block, speed, machine)[0] * passes


# The outlook puts it together, a row for each network on its data: what there is in your results, what came
# with the repository, what is missing, and how long that takes.
def outlook(
    blocks: list, # of Block
    results: str | Path, # folder they go to
    machine: str, # that trains them, as `machine` calls it
    workers: int = 2, # blocks at a time
) -> pd.DataFrame: # a row a table, data set and network; `guessed` where hours come from other networks
    "What is there, what would run, and how long it takes."
    shipped = (data.settings_file() or Path("settings.ini")).parent / "results"
    speed = recorded_speed([results, shipped])
    todo, ours = ({b.name: b for b in missing(blocks, folder)} for folder in (results, shipped))
    rows = pd.DataFrame([_row(b, todo.get(b.name), speed, machine, min(workers, len(todo)))
                         | dict(published=b.name not in ours) for b in blocks])
    found = rows.groupby(["table", "dataset", "network"],
                         sort=False).agg(lambda c: c.sum(skipna=False)).reset_index()
    return found.assign(guessed=found.guessed > 0)

def _row(block, todo, speed, machine, workers):
    "A block, and what of it is to do."
    row = dict(table=f"{block.paper} {block.table}", dataset=block.dataset,
               network=block.network or block.model, blocks=1, done=todo is None)
    if todo is None: return row | dict(published=False, run_epochs=0, hours=0., guessed=False)
    hours, guessed = estimate(todo, speed, machine) / 3600 / workers, seconds_each(todo, speed, machine)[1]
    return row | dict(published=False, run_epochs=n_run_epochs(todo), hours=hours, guessed=guessed)
