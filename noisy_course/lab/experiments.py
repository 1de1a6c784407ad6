"""A paper's table is a grid of runs. Plan it, cut it into blocks, train each block in a notebook, keep one result file a block."""
import argparse
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, partial
from hashlib import sha256
from itertools import chain, product
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
import torch
from fastcore.basics import patch
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import noisy_course
from noisy_course import data, noise
from noisy_course.basics import expect, whole_file
from noisy_course.distributed import check_team, check_there, devices, launch, train_team
from noisy_course.image_files import LOADERS, alexnet_weights, as_features, fine_tuned, frozen_alexnet, imagenet_weights, pretrained_features
from noisy_course.joint_optimization import pseudo_labels
from noisy_course.lab import protocols
from noisy_course.lab.comparison import flaw
from noisy_course.lab.protocols import SCALES, TABLES, USUAL, Grid, as_in_the_code, at_scale, scaled, shortened
from noisy_course.losses import trusted
from noisy_course.models import MODELS, initialise
from noisy_course.training import SELECT, Recipe, Run, Trained, checked, generator, run_epochs, train, unchecked


# From a table to a plan

# A table is a grid, as the protocols have it: data sets with their networks, noise settings, methods,
# seeds. A plan writes one row for each run. A scale shortens the grid, and says so in every row.
def plan(
    paper: str, # e.g. "patrini2017"
    table: str, # "table2", "figure1" or "ablation"
    scale: str = "laptop", # "smoke", "laptop" or "paper"
    precision: str = "fp32", # or "bf16", which makes a variant of its own
    **only, # columns to restrict, e.g. dataset="mnist", method="forward" or rate=.6; None restricts nothing
) -> pd.DataFrame: # one row a run
    "All runs of a table at a scale."
    expect(scale in SCALES, "scale", f"one of {', '.join(SCALES)}", repr(scale))
    expect(precision in ("fp32", "bf16"), "precision", "'fp32' or 'bf16'", repr(precision))
    rows = pd.DataFrame(_rows(paper, table, scale)).assign(precision=precision)
    for column, value in only.items():
        expect(column in rows, column, f"one of the columns {', '.join(rows)}", repr(value))
        known, quoted = rows[column].drop_duplicates(), column == "method" and (paper, table, value) in protocols.QUOTED
        expect(not quoted, column, f"a method that {paper} {table} can be run with", f"{value!r}, which the paper quotes and did not run")
        if value is not None: rows = rows[rows[column] == value]
        expect(len(rows) > 0, column, f"one that {paper} {table} has: {', '.join(map(str, known))}", repr(value))
    if precision != "fp32": rows = rows.assign(variant=rows.variant.where(rows.variant == "", rows.variant + ", ") + precision)
    return rows.reset_index(drop=True)


# Each row carries its hyper-parameters, so that nothing about a run is hidden in code:
def grid(
    paper: str, # e.g. "zhang2018"
    table: str, # e.g. "table1"
) -> Grid:
    "What a table or figure is made of."
    expect((paper, table) in TABLES, "table", f"one of {', '.join(map(' '.join, TABLES))}", f"{paper} {table}")
    return TABLES[paper, table]

def _rows(paper, table, scale):
    for part in grid(paper, table).parts:
        small = at_scale(part, scale)
        where = dict(paper=paper, table=table, dataset=small.dataset, model=small.model, samples=small.samples, scale=scale, network=small.network)
        usual = USUAL | dict(epochs=small.epochs or small.recipe.epochs) | small.usual
        for (kind, rate), (variant, of_all) in product(small.noises, grid(paper, table).variants):
            shrunk = scaled(variant, small)
            cell = where | dict(noise=kind, rate=rate, variant=", ".join(f"{k}={v if isinstance(v, str) else f'{v:g}'}" for k, v in variant.items())) | usual | shrunk
            yield from (cell | dict(method=method, seed=seed) for method in small.methods or of_all for seed in range(small.seeds))


# From a plan to blocks

# Rows that share data, network, noise and size train together: that is what makes the engine fast. A
# block's name ends in a hash of its definition. Change a number, and the old result is no longer found,
# hence never reused by mistake. What the numbers do not say, the recipe of a table (its optimizer,
# schedule, augmentation), is pinned by a test, which asks for a new `DEFINITION` where it changes. A field
# that is added later has a default and counts only where it differs, so that adding it does not disown
# older results.
DEFINITION = 1


# That number goes up when the same definition comes to mean something else.
@dataclass(frozen=True)
class Block:
    "Runs that train together, and the numbers that define them."
    paper: str # e.g. "patrini2017"
    table: str # e.g. "table2"
    dataset: str # e.g. "mnist"
    model: str # e.g. "mlp"
    noise: str # "none", "symmetric", "redrawn", "asymmetric", "simplex", "sparse", "open_set" or "pseudo"; one of HUMAN; or a key of REAL, for the labels that come with the data
    rate: float # probability of a wrong label, as the paper states it
    samples: int # training samples; 0 for all
    scale: str # "smoke", "laptop" or "paper"
    epochs: int # passes through the training part
    dropout: float # of the network, where it has dropout
    percentile: float # of the estimate of T; 100 takes the most probable example
    variant: str # what differs from the paper, if anything
    methods: tuple # names
    seeds: tuple # one run a method and seed
    clip: float = 0. # smallest probability that backward correction counts; 0 for none
    precision: str = "fp32" # of the network's matrix products, or "bf16"
    network: str = "" # what stands in for the paper's network, if anything does
    q: float = .7 # of the generalized cross entropy
    prune_start: int = 0 # epochs before samples are pruned, for the truncated loss
    prune_every: int = 0 # epochs between two prunings
    alpha: float = .1 # weight of cross-entropy in symmetric cross entropy
    beta: float = 1. # weight of reverse cross entropy
    A: float = -4. # stands for log 0 in it
    decay: str = "weights" # or "rate", what decays as in the code of Wang et al.
    flips: str = "" # which map of asymmetric noise, where there are several
    outside: str = "" # data set of the images that open-set noise brings in
    inputs: str = "" # "whitened" as MatConvNet prepares CIFAR-10; "features" of an AlexNet trained on ImageNet
    lr: float = 0. # learning rate of the first step, or of the only one; the recipe's if 0
    first_epochs: int = 0 # passes through the data in the first step of joint optimization
    label_start: int = 0 # first epoch after which it updates labels
    label_stop: int = 0 # epoch from which they stay; 0 for none
    top: int = 0 # how many hard labels change an epoch; 0 for all
    prior: str = "" # "labels" counts the classes on the given labels; else all are as frequent
    checked: float = 0. # share of the training samples, the first ones, whose labels are true and known to be

    def __post_init__(self):
        for field in fields(self): object.__setattr__(self, field.name, _valid(field, getattr(self, field.name)))
        _check_together(self)


# Whoever makes a block, a plan or a person, is told of a value that means nothing: a misspelt kind of noise
# would otherwise train some other noise under the misspelt name. Words are one of a few:
REAL = dict(real="noisy", clean_50k="clean", real_and_clean_50k="both", real_then_clean_50k="both")
HUMAN = "aggre", "random1", "random2", "random3", "worse"
DRAWN = "none", "symmetric", "redrawn", "asymmetric", "simplex", "sparse", "open_set", "pseudo"
PRETRAINED = dict(resnet50=(imagenet_weights, fine_tuned), alexnet=(alexnet_weights, frozen_alexnet))
NETWORKS = [*MODELS, *PRETRAINED]
DATASETS = ["mnist", "fashion_mnist", "cifar10", "cifar100", "imdb", *LOADERS]
WORDS = dict(
    dataset=DATASETS, model=NETWORKS, noise=[*DRAWN, *HUMAN, *REAL], scale=[*SCALES], precision=["fp32", "bf16"],
    network=["", *NETWORKS], decay=["weights", "rate"], outside=["", *DATASETS], inputs=["", "whitened", "features"],
    prior=["", "labels"])

def _word(name, value):
    expect(isinstance(value, str), name, "a word", repr(value))
    expect(value in WORDS.get(name, [value]), name, f"one of {', '.join(map(repr, WORDS.get(name, [])))}", repr(value))
    return value


# Numbers lie in an interval. A whole number where a fraction is meant is made one, so that `rate=0` and
# `rate=0.` are the same block:
SHARE, POSITIVE = pd.Interval(0, 1, closed="both"), pd.Interval(0, math.inf, closed="left")
INTERVALS = dict(
    rate=SHARE, checked=SHARE, dropout=pd.Interval(0, 1, closed="left"), clip=pd.Interval(0, 1, closed="left"),
    q=pd.Interval(0, 1, closed="right"), percentile=pd.Interval(0, 100, closed="both"),
    epochs=pd.Interval(1, math.inf, closed="left"), A=pd.Interval(-math.inf, 0, closed="neither"))

def _number(name, value, kind):
    within, whole = INTERVALS.get(name, POSITIVE), (int, np.integer)
    real = isinstance(value, whole if kind is int else (float, np.floating, *whole)) and not isinstance(value, bool)
    expect(real and value in within, name, f"a {'whole ' * (kind is int)}number in {within}", repr(value))
    return kind(value)


# Methods and seeds are tuples, without repetition:
def _is_method(value): return isinstance(value, str) and value in protocols.METHODS
def _is_seed(value): return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= 0
SEVERAL = dict(methods=(_is_method, f"one of {', '.join(protocols.METHODS)}"), seeds=(_is_seed, "a whole number from 0"))

def _several(name, value):
    good, one = SEVERAL[name]
    expect(isinstance(value, tuple) and len(value) > 0, name, f"a tuple; each item is {one}", repr(value))
    odd = [item for item in value if not good(item)]
    expect(not odd, name, one, ", ".join(map(repr, odd)))
    expect(len(set(value)) == len(value), name, "different ones", repr(value))
    return tuple(item if isinstance(item, str) else int(item) for item in value)


# Some words depend on others: the maps of asymmetric noise are a data set's own, and open-set noise needs
# images from outside.
def _valid(field, value):
    if field.name in SEVERAL: return _several(field.name, value)
    return _word(field.name, value) if field.type is str else _number(field.name, value, field.type)

def _check_together(block):
    grid(block.paper, block.table)
    maps = ["", *noise.FLIPS.get(block.dataset, ())]
    expect(block.flips in maps, "flips", f"one of {', '.join(map(repr, maps))} on {block.dataset}", repr(block.flips))
    outside = bool(block.outside) or block.noise != "open_set"
    expect(outside, "outside", f"one of {', '.join(DATASETS)}, as the noise is open-set", repr(block.outside))
    plain = re.fullmatch(r"[\w.=, -]{0,100}", block.variant)
    expect(plain, "variant", "up to 100 letters, digits and . = , - or blanks", repr(block.variant))


# Its name is what a person reads, and a hash of what it means:
@patch(as_prop=True)
def name(self: Block) -> str: # of the result file, without its ending
    "A readable name with a hash of the definition; a field at its default does not count."
    own = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
    definition = json.dumps([DEFINITION, own], sort_keys=True)
    words = [self.paper, self.table, self.dataset, self.model, self.noise, f"{self.rate:g}", self.variant.replace(", ", "-"), self.scale]
    return "_".join(w for w in words if w) + "_" + sha256(definition.encode()).hexdigest()[:8]


# A plan is cut where anything but method and seed differs:
def blocks(
    plan: pd.DataFrame, # as `plan` gives it
) -> list: # of Block
    "Cut a plan into blocks; open-set noise changes the images, so that its seeds cannot share them."
    shared = [f.name for f in fields(Block) if f.name not in ("methods", "seeds")]
    cuts = plan.groupby([*shared, plan.seed.where(plan.noise == "open_set", -1)], sort=False)
    return [Block(**dict(zip(shared, key)), methods=tuple(part.method.unique()), seeds=tuple(map(int, part.seed.unique()))) for key, part in cuts]


# Training a block

# Three steps, each a function, so that the notebook which trains a block can show them one by one: the
# data, the runs, the rows. All methods of one seed see the same noisy labels; seeds differ in labels, split
# and initialisation.
SEES = "alexnet" # whose features the blocks are of that have inputs="features" or noise="pseudo"
def _kept(): return data.cache_folder() / "features"

def clustered(
    dataset: data.Dataset, # colour images
) -> dict: # for its `extra`: train_given, and of which network the features were
    "Pseudo-labels by clusters of features (Tanaka et al., PL-CIFAR)."
    features = pretrained_features(dataset.train_x, SEES, cache=_kept())
    labels = pseudo_labels(features, dataset.train_y.cpu(), dataset.n_classes)
    return dict(train_given=labels, features=SEES)

def first_share(
    n: int, # samples
    share: float, # of them, in (0, 1)
) -> torch.Tensor: # (n,) bool
    "The first of some samples, whose labels are checked."
    expect(0 < round(n * share) < n, "checked", f"a share that leaves some of {n} samples on either side", share)
    return torch.arange(n) < round(n * share)


# The data come first, as many as the block says, with labels or images that are not drawn by a T where it
# asks for them:
def block_data(
    block: Block, # to train
) -> data.Dataset: # with as many training samples as it says
    "The data of a block, with labels that no T has drawn where it has them, or images from outside where its noise is open-set."
    own = dict(part=REAL[block.noise]) if block.noise in REAL else {}
    dataset = LOADERS.get(block.dataset, partial(data.load, block.dataset))(**own)
    if block.noise in HUMAN: dataset = replace(dataset, extra=dataset.extra | dict(train_given=data.human_labels(block.dataset)[block.noise]))
    if block.samples: dataset = dataset.head(block.samples)
    expect(not block.checked or block.noise not in (*REAL, "open_set"), "checked", "0 where labels come with the data or images from outside", block.checked)
    if block.checked: dataset = replace(dataset, extra=dataset.extra | dict(train_checked=first_share(len(dataset.train_y), block.checked)))
    if block.noise == "pseudo": return replace(dataset, extra=dataset.extra | clustered(dataset))
    if block.inputs == "whitened": dataset = dataset.whitened()
    if block.inputs == "features": dataset = as_features(dataset, SEES, cache=_kept())
    if block.noise != "open_set": return dataset
    images, replaced = noise.open_set(dataset.train_x, data.load(block.outside).train_x, block.rate, generator(block.seeds[0], "open set"))
    return replace(dataset, train_x=images, extra=dataset.extra | dict(train_outside=replaced))


def block_T(
    block: Block, # to train
    dataset: data.Dataset, # its data
) -> torch.Tensor: # (C, C)
    "The noise matrix of a block; in open-set noise no class is taken for another, and real noise is what was counted."
    if block.noise in REAL: return dataset.extra["T"]
    if "train_given" in dataset.extra: return noise.realised(dataset.train_y.cpu(), dataset.extra["train_given"].cpu(), dataset.n_classes)
    if block.noise == "redrawn": return noise.symmetric(dataset.n_classes, block.rate, include_true=True)
    if block.noise == "sparse": return noise.sparse(dataset.n_classes, block.rate, 10, generator(0, "sparse"))
    if block.noise == "simplex": return noise.random_simplex(dataset.n_classes, block.rate, generator(0, "simplex"))
    if block.noise == "asymmetric": return noise.asymmetric(block.dataset, block.rate, block.flips or None, generator(0, "flips"))
    return noise.symmetric(dataset.n_classes, 0 if block.noise == "open_set" else block.rate)


# The noisy labels are drawn once a seed and shared by all methods:
def block_methods(
    block: Block, # to train
) -> list: # of Method
    "The methods of a block, with its hyper-parameters."
    numbers = {k: v for k, v in asdict(block).items() if k in USUAL}
    return [protocols.method(name, numbers) for name in block.methods]

def block_runs(
    block: Block, # to train
    dataset: data.Dataset, # its data
) -> list: # of Run, one a method and seed
    "The runs of a block: every method on the same noisy labels, seed by seed."
    T, same = block_T(block, dataset), dataset.train_y if block.noise in REAL else dataset.extra.get("train_given")
    drawn = lambda seed: noise.corrupt(dataset.train_y, T, generator(seed, "noise"))
    labels = {seed: drawn(seed) if same is None else same for seed in block.seeds}
    if block.checked: labels = {seed: torch.where(checked(dataset), dataset.train_y, given) for seed, given in labels.items()}
    return [Run(method, labels[seed], T, seed) for method in block_methods(block) for seed in block.seeds]


# A network is made as the block says: with its dropout, for images as deep as they are. Then the block is
# trained by the one loop:
def network_of(
    name: str, # one of NETWORKS
    dataset: data.Dataset, # its data
    dropout: float = 0., # where the network has dropout
): # generator → initialised network
    "How a network for some data is made."
    own, shape = {}, dataset.train_x.shape
    if name in PRETRAINED:
        weights, make = PRETRAINED[name]
        return partial(make, dataset.n_classes, weights())
    if name in ("mlp", "embedding"): own = dict(dropout=dropout)
    if name == "mlp": own |= dict(inputs=dataset.train_x[0].numel())
    if name in ("resnet18", "resnet34", "cnn4"): own = dict(channels=shape[1] if len(shape) == 4 else 1)
    if name == "cnn4": own |= dict(size=shape[-1])
    return lambda g: initialise(MODELS[name](dataset.n_classes, **own), g)

def block_network(
    block: Block, # to train
    dataset: data.Dataset, # its data
): # generator → initialised network
    "How the networks of a block are made."
    return network_of(block.network or block.model, dataset, block.dropout)


def block_recipe(
    block: Block, # to train
) -> Recipe:
    "How a block is trained: the protocol of its table at its scale."
    part = at_scale(grid(block.paper, block.table).part(block.dataset, block.model), block.scale)
    recipe = part.recipe if block.decay == "weights" else as_in_the_code(part.recipe)
    recipe = replace(shortened(recipe, block.epochs), precision=block.precision)
    if not recipe.first: return recipe if not block.lr else replace(recipe, optimizer=partial(recipe.optimizer, lr=block.lr))
    first = replace(shortened(recipe.first, block.first_epochs), precision=block.precision, optimizer=partial(recipe.first.optimizer, lr=block.lr))
    return replace(recipe, first=first)

def train_block(
    block: Block, # to train
    dataset: data.Dataset, # its data
    runs: list, # its runs
    device: str = "cpu", # where to train
    folder: str | Path | None = None, # for checkpoints
    progress=None, # (run-epochs done, of how many) → None
) -> Trained:
    "Train all runs of a block, or read what is trained already from its checkpoints."
    return train(dataset, runs, block_network(block, dataset), block_recipe(block), devices(device)[0], folder, progress)


# What a result file holds

# Tidy rows: the plan's columns, a metric, a value, and where it comes from. What a recipe wants of the
# `final` network is one row each. Which epoch is reported is part of a table's definition, so all three
# candidates are kept: the epoch of the lowest noisy-validation loss (Patrini's rule, `accuracy`), of the
# highest noisy-validation accuracy (Zhang & Sabuncu's), and the last. `epoch_chosen` is the one that the
# recipe selects by. The test set chooses nothing.
def provenance(
    device: str = "cpu", # the runs were trained on
    version: dict | None = None, # from `tree` before the training; as it is now if none
) -> dict:
    "Where numbers come from: commit, whether anything but results differs from it, versions, machine."
    return (version or tree()) | dict(torch=torch.__version__, python=platform.python_version(), device=device, machine=machine(device))

def _git(*words):
    if not shutil.which("git"): return ""
    asked = subprocess.run(["git", *words], cwd=Path(noisy_course.__file__).parent, capture_output=True, text=True)
    return "" if asked.returncode else asked.stdout.strip()

def _is_a_checkout(): return bool(_git("ls-files", "__init__.py"))

def machine(
    device: str = "cpu", # "cpu", or a GPU
) -> str: # its processor and number of cores, or the GPU
    "What trains on a device."
    return torch.cuda.get_device_name(devices(device)[0]) if device.startswith("cuda") else _processor()

def _processor():
    known = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = next((line.split(": ")[1] for line in known.splitlines() if line.startswith("model name")), platform.processor())
    return f"{name.strip()}, {os.cpu_count()} cores"


# A copy of the course that has left git behind (`make gpu-pack`) has a note of its commit beside the
# package, and of what its files were:
NOTE = Path(noisy_course.__file__).parent.parent / "packed.json"

def sources() -> str: # in hexadecimal
    "A checksum of the modules and of the notebook that trains a block."
    files = [*sorted(PACKAGE.rglob("*.py")), NOTEBOOK]
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()

def tree() -> dict: # commit, and dirty: whether anything but results differs from it
    "Which version of the course this is: as its note says, else as git says."
    if NOTE.exists():
        note = json.loads(NOTE.read_text())
        return dict(commit=note["commit"], dirty=note["dirty"] or note["sources"] != sources())
    commit = _git("rev-parse", "HEAD") if _is_a_checkout() else ""
    changed = commit and _git("status", "--porcelain", "--untracked-files=no", ":/", ":!/results")
    return dict(commit=commit or "unknown", dirty=bool(changed) or not commit)


# One run gives its curves and, once each, what is reported of it:
def result_rows(
    block: Block, # trained
    dataset: data.Dataset, # its data
    runs: list, # its runs, as planned
    trained: Trained, # their outcome
    device: str = "cpu", # they were trained on
    version: dict | None = None, # from `tree` before the training; as it is now if none
) -> pd.DataFrame: # tidy
    "The rows of a block's result file."
    final = block_recipe(block).final
    with trusted(): last = [final(trained.moment(i)) if final else {} for i in range(len(runs))]
    tables = [_run_rows(block, dataset, run, trained, i, last[i]) for i, run in enumerate(runs)]
    shared = {k: v for k, v in asdict(block).items() if k not in ("methods", "seeds")}
    known = dict(features=dataset.extra["features"]) if "features" in dataset.extra else {}
    rows = pd.concat(tables, ignore_index=True).assign(**shared, **known, block=block.name, **provenance(device, version))
    return rows.astype({"epoch": "Int64", "seed": "int64"})


def _run_rows(block, dataset, run, trained, i, final):
    curves, first = trained.curves.query("run == @i"), trained.first(i)
    wide = _wide(curves)
    epochs = {"accuracy": wide.valid_loss.fillna(torch.inf).idxmin(), "accuracy_last": wide.index[-1]}
    epochs |= {f"accuracy_best_{v}": wide[v].idxmax() for v in SELECT[1:] if v in wide}
    select = block_recipe(block).select
    reported = "accuracy" if select == "valid_loss" else f"accuracy_best_{select}"
    wrong, realised = _realised(block, dataset, run.labels)
    values = {name: wide.test_accuracy[epoch] for name, epoch in epochs.items()} | final
    if run.method.relabel and "label_accuracy" in set(first.curves.metric): values |= _recovered(_wide(first.curves), select)
    if dataset.n_classes <= 100: values |= _entries("true_T", run.T) | _entries("realised_T", realised)
    if run.method.estimate: values |= _entries("estimated_T", trained.runs[i].T)
    single = pd.DataFrame({"metric": list(values), "value": list(values.values())})
    shown = run.method.relabel or run.method.warm_start
    before = first.curves.assign(metric="first_" + first.curves.metric) if shown else curves[:0]
    rows = pd.concat([part[["epoch", "metric", "value"]] for part in (curves, before)] + [single], ignore_index=True)
    seconds = wide.seconds.sum() + (_seconds(first) if shown else 0)
    return rows.assign(method=run.method.name, seed=run.seed, realised_rate=wrong, epoch_chosen=int(epochs[reported]), seconds=seconds)

def _seconds(one): return _wide(one.curves).seconds.sum() + _seconds(one.first(0)) if one else 0

def _wide(curves): return curves.pivot(index="epoch", columns="metric", values="value")
def _recovered(wide, select): return dict(recovery_best=wide.label_accuracy[wide[select].idxmax()], recovery_last=wide.label_accuracy.iloc[-1])

def _realised(block, dataset, labels):
    if block.noise in REAL: return dataset.extra["wrong"].item(), dataset.extra["T"]
    wrong = dataset.wrong(labels.to(dataset.train_y.device)).double().mean().item()
    return wrong, noise.realised(dataset.train_y.cpu(), labels, dataset.n_classes)

def _entries(name, T): return {f"{name}[{i},{j}]": T[i, j].item() for i in range(len(T)) for j in range(len(T))}


# The file is compressed, typed, has checksums, and is written whole or not at all:
def write_result(
    rows: pd.DataFrame, # as `result_rows` gives them
    folder: str | Path, # of the results
) -> Path:
    "Write a block's result file, whole or not at all."
    path = Path(folder) / f"{rows.block.iloc[0]}.parquet"
    with whole_file(path) as part: rows.to_parquet(part, index=False, compression="zstd", write_page_checksum=True)
    return path


# One notebook a block

# `experiments/train_block.ipynb` is run by papermill with a block's numbers as its parameters. Papermill
# only warns of a parameter that the notebook does not know, and goes on with the default: a misspelt sweep
# would run and be wrong. So the notebook builds its `Block` from what it was given, and refuses anything it
# does not know:
def block_from(
    given: dict, # the notebook's variables, its parameters among them
    before: set, # names that were there before the parameters
) -> tuple: # (Block, settings)
    "The block and the settings that a notebook was given; a ValueError for an unknown or missing parameter."
    given = {k: v for k, v in given.items() if k not in before and not k.startswith("_")}
    names, own = [f.name for f in fields(Block)], ("device", "results", "block_name")
    unknown, missing = set(given) - set(names) - set(own), (set(names) | set(own)) - set(given)
    expect(not unknown, ", ".join(sorted(unknown)), f"only the parameters {', '.join(names)}, {', '.join(own)}", "an unknown parameter")
    expect(not missing, ", ".join(sorted(missing)), "a value", "none")
    block = Block(**{k: tuple(given[k]) if isinstance(given[k], list) else given[k] for k in names})
    expect(given["block_name"] in ("", block.name), "block_name", f"{block.name}, the name of these parameters", given["block_name"])
    return block, {k: given[k] for k in own}


# The way back, from a block to literals:
def parameters(
    block: Block, # to train
    device: str, # where
    results: str | Path, # folder
) -> dict: # literals
    "A block as papermill parameters."
    lists = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(block).items()}
    return lists | dict(device=device, results=str(results), block_name=block.name)


# Several devices

# A block whose runs train one by one, as those on photographs do, may have several devices:
# `cuda:0,cuda:1`. Its notebook then starts a process for each before it trains, and finds all runs trained
# in their checkpoints.
def train_on_several(
    block: Block, # to train
    device: str, # where; nothing happens for a single one
    results: str | Path, # folder: the checkpoints are below it
) -> None:
    "Train a block in a process for each device, up to its checkpoints."
    check_team(device, block_recipe(block))
    if (n := len(devices(device))) == 1: return
    expect(results, "results", f"a folder, in which {n} processes leave what they train", repr(results))
    code = "import sys; from noisy_course.lab.experiments import train_part; train_part(sys.argv[1])"
    launch(["-c", code, json.dumps(parameters(block, device, results))], n)

def train_part(
    given: str, # a block as papermill parameters, in JSON
) -> None:
    "What each of the processes does."
    torch.set_num_threads(1)
    block, settings = block_from(json.loads(given), set())
    dataset, folder = block_data(block), Path(settings["results"])
    train_team(dataset, block_runs(block, dataset), block_network(block, dataset), block_recipe(block), settings["device"],
               folder / "checkpoints" / block.name, note_progress(folder, block.name))


# A batch

# Snakemake decides which blocks are missing, runs as many at a time as there are workers, retries, and can
# hand them to a cluster. What is ours: the list of blocks, a progress bar, and two locks. One keeps a
# second batch out of the same results folder; the other, a block's own, makes a new batch wait for a block
# that an orphan of a killed one is still training.
try: import fcntl
except ModuleNotFoundError: fcntl = None # Windows


def _needs_locks():
    expect(fcntl, "system", "Linux or macOS, with whose locks a batch works (on Windows: WSL)", platform.system())


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
        except BlockingIOError: expect(False, "results", "a folder that no other batch is using", f"{folder}, in use")
        except OSError as error: expect(False, "results", "a folder on a file system with locks", f"{folder} ({error.strerror})")
        yield file.fileno()

def _opened(path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a")
    except OSError as error: expect(False, "results", "a folder that can be written to", f"{path.parent.parent} ({error.strerror})")


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
    folder, share = Path(results) / "locks" / f"gpus_{platform.node()}", -(-int(data.setting("workers", "2")) // gpus)
    while not (found := _take_place(folder, gpus, share)): time.sleep(1)
    gpu, taken = found
    with taken: yield f"cuda:{gpu}"


# A block and its notebook

# A block is trained in its own notebook, which stays beside the results as a record. The notebook and the
# workflow lie beside the lessons in a checkout, and in the package where that was installed from a wheel:
PACKAGE = Path(noisy_course.__file__).parent
WORKFLOW = next(f for f in (PACKAGE / "workflow", PACKAGE.parent / "nbs" / "experiments") if f.is_dir())
NOTEBOOK, SNAKEFILE = WORKFLOW / "train_block.ipynb", WORKFLOW / "Snakefile"


# A notebook asks for a kernel by name, `python3`, and Jupyter looks that name up: in folders that a
# computing centre or another project may have filled with its own. Ours is always the interpreter that is
# running, whatever is found under the name:
class OwnKernel(AsyncKernelManager):
    "A kernel of the interpreter that is running."
    def _kernel_spec_manager_default(self): return KernelSpecManager(kernel_dirs=[])


# IPython and Jupyter keep notes in the user's home, which may be full or closed to writing. Here they keep
# them in the results folder, unless they are told another place. Papermill takes a path for a pattern with
# its own braces, so that ours are doubled.
@contextmanager
def _notes_in(results):
    own = dict(IPYTHONDIR="ipython", JUPYTER_RUNTIME_DIR="runtime", JUPYTER_CONFIG_DIR="config", JUPYTER_DATA_DIR="data")
    with _set({k: str(results / ".home" / v) for k, v in own.items() if k not in os.environ}): yield

@contextmanager
def _set(environment):
    old = {k: os.environ.get(k) for k in environment}
    os.environ.update(environment)
    try: yield
    finally: [os.environ.pop(k) if v is None else os.environ.update({k: v}) for k, v in old.items()]

def _literally(path): return re.sub("([{}])", r"\1\1", str(path))


def execute_block(
    block: Block, # to train
    results: str | Path, # folder
    device: str = "cpu", # where to train
) -> Path: # the result file
    "Train a block in its notebook, unless its result is already there."
    results = Path(results).resolve()
    path = results / f"{block.name}.parquet"
    with lock(results / "locks" / block.name, wait=True):
        if not missing([block], results): return path
        with place(device, results) as free, _notes_in(results): _execute(parameters(block, free, results), results)
        shutil.rmtree(results / "checkpoints" / block.name, ignore_errors=True)
    return path

def _execute(given, results):
    unknown = set(given) - set(papermill.inspect_notebook(_literally(NOTEBOOK)))
    expect(not unknown, ", ".join(sorted(unknown)), f"parameters of {NOTEBOOK.name}", "unknown ones")
    executed = results / "notebooks" / f"{given['block_name']}.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    options = dict(kernel_name="python3", kernel_manager_class=OwnKernel, progress_bar=False, start_timeout=600)
    papermill.execute_notebook(_literally(NOTEBOOK), _literally(executed), given, **options)


# Snakemake calls this with a batch's plan and a block's name:
def execute_planned(
    plan: str | Path, # the batch's plan.json
    name: str, # of the block
) -> Path: # the result file
    "Train one block of a batch's plan; what Snakemake calls."
    given = json.loads(Path(plan).read_text(encoding="utf-8"))[name]
    block, settings = block_from(given, set())
    return execute_block(block, settings["results"], settings["device"])


# While it trains, it leaves word of how far it is:
def note_progress(
    results: str | Path, # folder
    name: str, # of the block
): # (run-epochs done, of how many) → None
    "A progress function that leaves its numbers where the batch's bar finds them."
    path = Path(results) / "progress" / f"{name}.json"
    def note(done, total):
        "Write both numbers."
        with whole_file(path) as part: part.write_text(json.dumps([done, total]))
    return note


# A batch checks what it can before the first block starts, and brings the data here once: jobs on a cluster
# may have no internet, and twenty of them should not fetch the same file.
def data_of(
    block: Block, # to train
) -> set: # names
    "The data sets that a block needs."
    return {block.dataset} | ({block.outside} if block.outside else set()) | ({f"{block.dataset}n"} if block.noise in HUMAN else set())

def bring_data(
    blocks: list, # of Block
) -> None:
    "Bring data and pretrained weights to this machine, or say what is missing."
    for name in sorted({name for block in blocks for name in data_of(block)} - set(LOADERS)): data.fetch(name)
    for name, kind in sorted({(b.dataset, b.noise) for b in blocks if b.dataset in LOADERS}): LOADERS[name](**(dict(part=REAL[kind]) if kind in REAL else {}))
    for name in sorted({b.network or b.model for b in blocks} & set(PRETRAINED)): PRETRAINED[name][0]()


def missing(
    blocks: list, # of Block
    results: str | Path, # folder
) -> list: # of Block
    "The blocks that have no result yet, or a damaged one."
    return [block for block in blocks if _lack(Path(results) / f"{block.name}.parquet")]

def _lack(file): return flaw(file) if file.exists() else "is not there"

def set_aside(
    blocks: list, # of Block, to be trained
    results: str | Path, # folder
) -> None:
    "Rename results that are damaged, and say so: they are trained again."
    for file in [file for file in (Path(results) / f"{block.name}.parquet" for block in blocks) if file.exists()]:
        kept = file.with_suffix(".damaged")
        print(f"{file} {flaw(file)}; it is trained again, and kept as {kept.name}", file=sys.stderr)
        file.replace(kept)



def run_blocks(
    blocks: list, # of Block
    results: str | Path, # folder
    device: str = "cpu", # where to train; several with commas between them
    workers: int = 2, # blocks at a time
    profile: str | None = None, # a Snakemake profile, for a cluster
) -> list: # result files
    "Train all blocks that have no result yet, with Snakemake; a killed batch goes on where it was."
    results = Path(results).resolve()
    todo = missing(blocks, results)
    _check_batch(todo, device, workers, profile)
    bring_data(todo)
    if todo:
        with lock(results / "locks" / "batch", wait=False) as held:
            set_aside(todo, results)
            _snakemake(todo, results, device, workers, profile, held)
    for block in blocks: _clear(block.name, results)
    return [results / f"{block.name}.parquet" for block in blocks]


# What kills have left of finished blocks goes: checkpoints, and files that were half written.
MOST = 4 # workers that share a core; each keeps one busy, and its memory

def check_workers(
    workers: int, # blocks at a time
) -> None:
    "Refuse a number of workers that is none, or far above what this machine can serve."
    most = MOST * (os.cpu_count() or 1)
    expect(1 <= workers <= most, "workers", f"1 to {most} on this machine, which has {os.cpu_count()} cores", workers)

def _check_batch(todo, device, workers, profile):
    check_workers(workers)
    for block in todo: block_methods(block)
    for block in todo if len(devices(device)) > 1 else (): check_team(device, block_recipe(block))
    if profile: profile_folder(profile)
    else: check_there(device)
    expect(profile or workers == 1 or len(devices(device)) == 1, "workers", "1 where a run has several devices", workers)


def _clear(name, results):
    shutil.rmtree(results / "checkpoints" / name, ignore_errors=True)
    for part in (*results.glob(f".{name}.*.part"), *results.glob(f"progress/.{name}.*.part")): part.unlink(missing_ok=True)


# Snakemake is told what is missing, in a file of plain parameters. It starts afresh each time, without the
# locks and notes of a killed one. Blocks do not wait for one another, so the simple scheduler will do,
# which writes no files of its own. A finished block is a mark among those notes, since Snakemake removes
# the output of a job that fails, and a job that is killed at its end has a whole result:
def _snakemake(todo, results, device, workers, profile, held):
    plan = results / "plan.json"
    with whole_file(plan) as part: part.write_text(json.dumps({b.name: parameters(b, device, results) for b in todo}, indent=1))
    shutil.rmtree(results / ".snakemake", ignore_errors=True)
    where = ["--profile", str(profile_folder(profile))] if profile else ["--cores", str(workers), "--retries", "1"]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(results), "--keep-going", "--scheduler", "greedy", *where]
    with open(results / "snakemake.log", "w") as log, _environment(workers, results): _watch(subprocess.Popen(command, stdout=log, stderr=log, pass_fds=[held]), todo, results)


# A cluster

# On a cluster the blocks become jobs, in any number: a job trains one block, in a notebook, as a worker
# would. How many at a time, on which partition, with how much memory, with which retries: all that stands
# in a Snakemake profile, not in `workers`. Ours is for Slurm (`PROFILE=slurm`); copy it, put in your
# account, and name the copy.
def profile_folder(
    profile: str | Path, # a folder, or the name of one of ours
) -> Path: # absolute
    "A Snakemake profile: a folder of the user's, or `slurm`, which comes with the course."
    folder = next((p for p in (Path(profile), SNAKEFILE.parent / "profiles" / profile) if any(p.glob("config*.yaml"))), None)
    expect(folder is not None, "profile", "a folder with a config.yaml, or slurm", profile)
    return folder.resolve()


# Wherever a block is trained, it keeps to one thread. It starts in the results folder, perhaps on another
# machine, so that the settings it needs go with it. Weights of PyTorch stay where they are; what Snakemake
# keeps in the user's cache goes to the results too:
def _environment(workers, results):
    ours = dict(NOISY_COURSE_DATA=str(data.folder_setting("data") or ""), NOISY_COURSE_CACHE=str(data.cache_folder()))
    theirs = dict(TORCH_HOME=str(Path(torch.hub.get_dir()).parent), XDG_CACHE_HOME=str(results / ".home" / "cache"))
    return _set(dict(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", NOISY_COURSE_WORKERS=str(workers)) | ours | theirs)


# The bar adds up what the blocks report. Ctrl-C reaches Snakemake and its notebooks too, since they belong
# to the same terminal; every block keeps its last checkpoint.
@cache
def _size(block): return n_run_epochs(block)

def _done(todo, results):
    for block in todo:
        total = _size(block)
        if (results / f"{block.name}.parquet").exists(): yield total, total
        else:
            note = results / "progress" / f"{block.name}.json"
            yield json.loads(note.read_text()) if note.exists() else (0, total)


# The bar itself looks once a second:
def _watch(process, todo, results):
    with tqdm(desc=f"{len(todo)} blocks", unit="run-epoch", smoothing=.05) as bar:
        try:
            while process.poll() is None:
                done, bar.total = map(sum, zip(*_done(todo, results)))
                bar.update(done - bar.n)
                time.sleep(1)
        except KeyboardInterrupt:
            process.wait()
            raise SystemExit("stopped; the same command goes on from the last checkpoints") from None
        done, bar.total = map(sum, zip(*_done(todo, results)))
        bar.update(done - bar.n)
    failed = missing(todo, results)
    if failed: raise SystemExit(f"{len(failed)} of {len(todo)} blocks failed, first {failed[0].name}; " + _why(results, failed[0].name))

def _why(results, name):
    log = results / "logs" / f"{name}.log"
    said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return f"it said: {said[-1]}\nAll of it is in {log}" if said else f"see {results / 'snakemake.log'}"


# How long it will take

# Every run in a result file says how long it took, and where. An epoch passes each training image forwards
# and backwards, about three times the work of a forward pass, and each test image forwards; divided by
# that, seconds from runs of different sizes can be compared.
CLOTHES = dict(clean_50k=50_000, real_and_clean_50k=1_050_000, real_then_clean_50k=1_050_000) # training samples of Clothing1M's other parts
SIZES = dict(mnist=(60_000, 10_000), fashion_mnist=(60_000, 10_000), cifar10=(50_000, 10_000), cifar100=(50_000, 10_000), imdb=(25_000, 25_000),
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
    runs = pd.concat([pd.read_parquet(f, filters=[("metric", "==", "accuracy")]) for f in files], ignore_index=True)
    runs = runs[~runs.method.isin([name for name, m in protocols.METHODS.items() if m.warm_start])]
    runs = runs.reindex(columns=[*SPEED, "model", "samples", "epochs", "first_epochs", "seconds"]).fillna(dict(precision="fp32", first_epochs=0))
    runs = runs.assign(network=runs.network.fillna("").where(lambda n: n != "", runs.model), epochs=runs.epochs + runs.first_epochs)
    each = [seconds / work(dataset, samples, epochs) for dataset, samples, epochs, seconds in runs[["dataset", "samples", "epochs", "seconds"]].itertuples(index=False)]
    return runs.assign(each=each).groupby(SPEED).each.median()


# What a block will take is an extrapolation: from the same data and network if they have been run on this
# machine, else from the same network on other data. And a network that never ran here? PyTorch can count
# its arithmetic, and networks of a kind do about as much of it a second:
SHAPES = dict(mnist=((28, 28), 10), fashion_mnist=((28, 28), 10), cifar10=((3, 32, 32), 10), cifar100=((3, 32, 32), 100), imdb=((400,), 2),
              clothing1m=((3, 224, 224), 14), imagenet=((3, 224, 224), 1000)) # of an input, and number of classes

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
        with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter: run(x)
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
    return run_epochs([Run(method, nothing, None, seed) for method in block_methods(block) for seed in block.seeds], block_recipe(block), weigh)

def seconds_each(
    block: Block, # to train
    speed: pd.Series, # from `recorded_speed`
    machine: str, # that trains it, as `machine` calls it
) -> tuple: # (seconds a sample, nan if nothing ever ran here; whether they come from other networks)
    "How fast a block's network is on a machine, by what was recorded there."
    network = block.network or block.model
    here = speed[[k[2:] == (block.precision, machine) for k in speed.index]].droplevel(["precision", "machine"])
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
    share, samples = block.checked or CLOTHES["clean_50k"] / CLOTHES["real_then_clean_50k"], block.samples or CLOTHES.get(block.noise, 0)
    weigh = lambda method: {checked: share, unchecked: 1 - share}.get(method.samples, 1)
    passes = work(block.dataset, samples, n_run_epochs(block, weigh)) + SIZES[block.dataset][1] * (n_run_epochs(block) - n_run_epochs(block, weigh))
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
    todo, ours = missing(blocks, results), missing(blocks, shipped)
    rows = pd.DataFrame([dict(table=f"{b.paper} {b.table}", dataset=b.dataset, network=b.network or b.model, blocks=1, done=b not in todo, published=b not in ours,
        run_epochs=n_run_epochs(b) if b in todo else 0, hours=estimate(b, speed, machine) / 3600 / min(workers, len(todo)) if b in todo else 0.,
        guessed=b in todo and seconds_each(b, speed, machine)[1]) for b in blocks])
    found = rows.groupby(["table", "dataset", "network"], sort=False).agg(lambda c: c.sum(skipna=False)).reset_index()
    return found.assign(guessed=found.guessed > 0)


# From the command line

# `make run` and `make table` come here: settings from `settings.ini`, environment and arguments, in rising
# order of weight.
def results_folder() -> Path: # absolute
    "Where results go: the setting `results`."
    return data.folder_setting("results") or Path.cwd() / "runs"

def main(
    argv: list | None = None, # words of the command line; those of the process if none
) -> None:
    "Train what a table needs: python -m noisy_course.lab.experiments PAPER TABLE [--dataset mnist] [--scale paper] ..."
    parser = argparse.ArgumentParser(prog="python -m noisy_course.lab.experiments", description="Train the runs of a paper's table.")
    for name, example in (("paper", "patrini2017"), ("table", "table2")): parser.add_argument(name, nargs="?", help=f"e.g. {example}; every one, with --plan, if none is named")
    for name in ("dataset", "model", "method", "noise", "variant"): parser.add_argument(f"--{name}", help=f"only this {name}")
    parser.add_argument("--rate", type=float, help="only this noise rate")
    parser.add_argument("--scale", default=data.setting("scale", "laptop"), help="smoke, laptop or paper")
    parser.add_argument("--precision", default="fp32", help="fp32 or bf16")
    parser.add_argument("--device", default=data.setting("device", "cpu"), help="cpu, cuda, or several: cuda:0,cuda:1")
    parser.add_argument("--workers", type=int, default=data.setting("workers", "2"), help="blocks at a time")
    parser.add_argument("--results", type=Path, default=results_folder(), help="folder of the results")
    parser.add_argument("--profile", help="a Snakemake profile, for a cluster")
    parser.add_argument("--plan", action="store_true", help="only say what would run")
    given = parser.parse_args(argv)
    only = {k: getattr(given, k) for k in ("dataset", "model", "method", "noise", "variant", "rate")}
    try: _run_table(given, {k: v for k, v in only.items() if v is not None})
    except ValueError as error: raise SystemExit(str(error)) from None
    except OSError as error: raise SystemExit(f"{error.filename or given.results}: {error.strerror}" if error.strerror else str(error)) from None

def _check_options(given):
    check_workers(given.workers)
    check_device(given.device)
    if given.profile: profile_folder(given.profile)
    expect(given.results.is_dir() or not given.results.exists(), "results", "a folder", f"{given.results}, a file")

def check_device(
    device: str, # one, or several with commas between them
) -> None:
    "Refuse a word that names no device; whether this machine has it is another question."
    for name in devices(device): expect(re.fullmatch(r"cpu|mps|cuda(:\d+)?", name), "device", "cpu, cuda, cuda:1, cuda:0,cuda:1 or mps", repr(device))


# It says first what it is going to do. A plan without a paper is one of all tables:
def _run_table(given, only):
    _check_options(given)
    expect(given.table or given.plan, "table", "the names of a paper and of a table", given.paper or "none")
    names = [(given.paper, given.table)] if given.table else [name for name in TABLES if given.paper in (None, name[0])]
    expect(names, "paper", f"one of {', '.join(dict.fromkeys(paper for paper, _ in TABLES))}", repr(given.paper))
    rows = list(_planned(names, given, only)) or [plan(*names[0], given.scale, given.precision, **only)]
    chosen = [b for frame in rows for b in blocks(frame)]
    here = torch.cuda.is_available() or not given.device.startswith("cuda")
    if not here: print(f"device: this machine has no GPU that PyTorch can use, so {given.device} is planned for another machine")
    seen = outlook(chosen, given.results, machine(given.device) if here else "a GPU elsewhere", given.workers)
    who = f"{given.paper} {given.table}" if given.table else f"{len(rows)} tables and figures"
    print(f"{who}, scale {given.scale}: {sum(map(len, rows))} runs in {len(chosen)} blocks, {len(chosen) - seen.done.sum()} to train "
          f"({seen.run_epochs.sum()} run-epochs, {_told_time(seen)})")
    if given.plan: print(_told_plan(seen))
    else: run_blocks(chosen, given.results, given.device, given.workers, given.profile)

def _planned(names, given, only):
    for name in names:
        try: yield plan(*name, given.scale, given.precision, **only)
        except ValueError:
            if len(names) == 1: raise

def _span(hours):
    minutes = round(60 * hours)
    if hours > 48: return f"{hours / 24:,.0f} days"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(1, minutes)} min"

def _told_time(seen):
    if not seen.run_epochs.sum(): return "no time"
    if seen.hours.isna().any(): return "time unknown: nothing ran on this machine yet"
    guessed = seen.hours[seen.guessed].sum()
    return f"about {_span(seen.hours.sum())}" + (f", of which {_span(guessed)} reckoned from other networks, marked ~" if guessed else "")

def _told_plan(seen):
    hours = ["unknown" if pd.isna(h) else f"{'~' * g}{h:.1f}" for h, g in zip(seen.hours, seen.guessed)]
    columns = dict(done="there", published="with the repository", run_epochs="run-epochs to go")
    return seen.assign(hours=hours).drop(columns="guessed").rename(columns=columns).to_string(index=False)


if __name__ == "__main__": main()
