"""Which runs a table asks for, and which of them train together: plans, blocks and their names.

Rows of a plan that share data, network, noise and size are a block. Its name ends in a hash of its
setting: change a number or the recipe, and the old result is no longer found, hence never reused by
mistake. Its methods and seeds are not in the name: a table that gains one trains the new runs alone."""
import math
import re
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, partial
from itertools import product

import numpy as np
import pandas as pd

from noisy_course import noise
from noisy_course.basics import check_frame, require
from noisy_course.lab import identity, protocols
from noisy_course.lab.papers import KNOWN, QUOTED, TABLES
from noisy_course.lab.protocols import (DATASETS, NETWORKS, NOISES, OPTIMIZERS, SCALES, USUAL, Grid,
                                        as_in_the_code, at_scale, scaled, shortened, standing_in)
from noisy_course.method import Recipe


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
    for name, word in dict(paper=paper, table=table, scale=scale, precision=precision).items():
        require(isinstance(word, str), name, "a word", repr(word))
    require(scale in SCALES, "scale", f"one of {', '.join(SCALES)}", repr(scale))
    require(precision in ("fp32", "bf16"), "precision", "'fp32' or 'bf16'", repr(precision))
    rows = pd.DataFrame(_rows(paper, table, scale)).assign(precision=precision)
    for column, value in only.items():
        require(column in rows, column, f"one of the columns {', '.join(rows)}", repr(value))
        require(value is None or np.isscalar(value), column, "one value", repr(value))
        known, quoted = rows[column].drop_duplicates(), column == "method" and (paper, table, value) in QUOTED
        require(not quoted, column, f"a method that {paper} {table} can be run with",
                f"{value!r}, which the paper quotes and did not run")
        if value is not None: rows = rows[rows[column] == value]
        require(len(rows) > 0, column, f"one that {paper} {table} has: {', '.join(map(str, known))}",
                repr(value))
    if precision != "fp32":
        rows = rows.assign(variant=rows.variant.where(rows.variant == "", rows.variant + ", ") + precision)
    return rows.reset_index(drop=True)


# Each row carries its hyper-parameters, so that nothing about a run is hidden in code:
def grid(
    paper: str, # e.g. "zhang2018"
    table: str, # e.g. "table1"
) -> Grid:
    "What a table or figure is made of."
    for name, word in dict(paper=paper, table=table).items():
        require(isinstance(word, str), name, "a word", repr(word))
    require(paper in KNOWN, "paper", f"one of {', '.join(KNOWN)}", repr(paper))
    require((paper, table) in TABLES, "table", f"one of {', '.join(map(' '.join, TABLES))}",
            f"{paper} {table}")
    return TABLES[paper, table]

def _rows(paper, table, scale):
    for part in grid(paper, table).parts:
        small = at_scale(part, scale)
        where = dict(paper=paper, table=table, dataset=small.dataset, model=small.model,
                     samples=small.samples, scale=scale, network=small.network)
        usual = USUAL | dict(epochs=small.epochs or small.recipe.epochs) | small.usual
        for (kind, rate), (variant, of_all) in product(small.noises, grid(paper, table).variants):
            shrunk = scaled(variant, small)
            cell = (where | dict(noise=kind, rate=rate,
                                 variant=", ".join(f"{k}={v if isinstance(v, str) else f'{v:g}'}"
                for k, v in variant.items())) | usual | shrunk)
            yield from (cell | dict(method=method, seed=seed) for method in small.methods or of_all
                        for seed in range(small.seeds))


# From a plan to blocks

# Rows that share data, network, noise and size train together: that is what makes the engine fast. A
# block's name ends in a hash of its setting, recipe and engine, so that what is found under a name was
# computed in this way. A field that is added later has a default and counts only where it differs, so that
# adding it does not disown older results. The seed of open-set noise is part of the setting: it chooses
# which images are replaced.
@dataclass(frozen=True)
class Block:
    "Runs that train together, and the numbers that define them."
    paper: str # e.g. "patrini2017"
    table: str # e.g. "table2"
    dataset: str # e.g. "mnist"
    model: str # e.g. "mlp"
    noise: str # one of DRAWN or HUMAN; or a key of REAL, for the labels that come with the data
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
    inputs: str = "" # "whitened" as MatConvNet prepares CIFAR-10; "features" of ImageNet's AlexNet
    lr: float = 0. # learning rate of the first step, or of the only one; the recipe's if 0
    first_epochs: int = 0 # passes through the data in the first step of joint optimization
    label_start: int = 0 # first epoch after which it updates labels
    label_stop: int = 0 # epoch from which they stay; 0 for none
    top: int = 0 # how many hard labels change an epoch; 0 for all
    prior: str = "" # "labels" counts the classes on the given labels; else all are as frequent
    optimizer: str = "" # a key of OPTIMIZERS in place of the recipe's own
    checked: float = 0. # share of the training samples, the first ones, whose labels are true and known to be

    def __post_init__(self):
        for field in fields(self):
            object.__setattr__(self, field.name, _valid(field, getattr(self, field.name)))
        _check_together(self)

    @cached_property
    def name(self) -> str: # of the result file, without its ending
        "A readable name with a hash of the setting; a field at its default does not count."
        own = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default
               and f.name not in ("methods", "seeds")}
        images = self.seeds[0] if self.noise == "open_set" else None
        setting = identity.identity([identity.ENGINE, own, images,
                                     identity.recipe_definition(block_recipe(self))])
        words = [self.paper, self.table, self.dataset, self.model, self.noise, f"{self.rate:g}",
                 self.variant.replace(", ", "-"), self.scale, setting]
        return "_".join(w for w in words if w)

    @cached_property
    def identities(self) -> dict: # name of a method → identity
        "What the runs of each method are known by: its hyper-parameters and its version."
        return {method.name: identity.identity(identity.method_definition(method))
                for method in block_methods(self)}

    @property
    def checkpoints(self) -> str: # folder, below the one of all checkpoints
        "Where a training of just these runs leaves its checkpoints."
        return f"{self.name}/{identity.identity([[*self.identities.items()], self.seeds])}"


# Whoever makes a block, a plan or a person, is told of a value that means nothing: a misspelt kind of noise
# would otherwise train some other noise under the misspelt name. Words are one of a few:
WORDS = dict(
    dataset=DATASETS, model=NETWORKS, noise=NOISES, scale=[*SCALES], precision=["fp32", "bf16"],
    network=["", *NETWORKS], decay=["weights", "rate"], outside=["", *DATASETS],
    inputs=["", "whitened", "features"], optimizer=["", *OPTIMIZERS],
    prior=["", "labels"])

def _word(name, value):
    require(isinstance(value, str), name, "a word", repr(value))
    require(value in WORDS.get(name, [value]), name, f"one of {', '.join(map(repr, WORDS.get(name, [])))}",
            repr(value))
    return value


# Numbers lie in an interval. A whole number where a fraction is meant is made one, so that `rate=0` and
# `rate=0.` are the same block:
SHARE, POSITIVE = pd.Interval(0, 1, closed="both"), pd.Interval(0, math.inf, closed="left")
INTERVALS = dict(
    rate=SHARE, checked=SHARE, dropout=pd.Interval(0, 1, closed="left"),
    clip=pd.Interval(0, 1, closed="left"),
    q=pd.Interval(0, 1, closed="right"), percentile=pd.Interval(0, 100, closed="both"),
    epochs=pd.Interval(1, math.inf, closed="left"), A=pd.Interval(-math.inf, 0, closed="neither"))

def _number(name, value, kind):
    within, whole = INTERVALS.get(name, POSITIVE), (int, np.integer)
    real = (isinstance(value, whole if kind is int else (float, np.floating, *whole))
            and not isinstance(value, bool))
    require(real and value in within, name, f"a {'whole ' * (kind is int)}number in {within}", repr(value))
    return kind(value)


# Methods and seeds are tuples, without repetition:
def _is_method(value): return isinstance(value, str) and value in protocols.METHODS
def _is_seed(value):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= 0
SEVERAL = dict(methods=(_is_method, f"one of {', '.join(protocols.METHODS)}"),
               seeds=(_is_seed, "a whole number from 0"))

def _several(name, value):
    good, one = SEVERAL[name]
    require(isinstance(value, tuple) and len(value) > 0, name, f"a tuple; each item is {one}", repr(value))
    odd = [item for item in value if not good(item)]
    require(not odd, name, one, ", ".join(map(repr, odd)))
    require(len(set(value)) == len(value), name, "different ones", repr(value))
    return tuple(item if isinstance(item, str) else int(item) for item in value)


# Some words depend on others: the maps of asymmetric noise are a data set's own, and open-set noise needs
# images from outside.
def _valid(field, value):
    if field.name in SEVERAL: return _several(field.name, value)
    return _word(field.name, value) if field.type is str else _number(field.name, value, field.type)

def _check_together(block):
    grid(block.paper, block.table)
    maps = ["", *noise.FLIPS.get(block.dataset, ())]
    require(block.flips in maps, "flips", f"one of {', '.join(map(repr, maps))} on {block.dataset}",
            repr(block.flips))
    outside = bool(block.outside) or block.noise != "open_set"
    require(outside, "outside", f"one of {', '.join(DATASETS)}, as the noise is open-set",
            repr(block.outside))
    plain = re.fullmatch(r"[\w.=, -]{0,100}", block.variant)
    require(plain, "variant", "up to 100 letters, digits and . = , - or blanks", repr(block.variant))


# A plan is cut where anything but method and seed differs:
def blocks(
    plan: pd.DataFrame, # as `plan` gives it
) -> list: # of Block
    "Cut a plan into blocks; open-set noise changes the images, so that its seeds cannot share them."
    shared = [f.name for f in fields(Block) if f.name not in ("methods", "seeds")]
    check_frame(plan, "plan", [*shared, "method", "seed"])
    cuts = plan.groupby([*shared, plan.seed.where(plan.noise == "open_set", -1)], sort=False)
    return [Block(**dict(zip(shared, key)), methods=tuple(part.method.unique()),
                  seeds=tuple(map(int, part.seed.unique()))) for key, part in cuts]


def block_methods(
    block: Block, # to train
) -> list: # of Method
    "The methods of a block, with its hyper-parameters."
    numbers = {k: v for k, v in asdict(block).items() if k in USUAL}
    return [protocols.method(name, numbers) for name in block.methods]


def block_recipe(
    block: Block, # to train
) -> Recipe:
    "How a block is trained: the protocol of its table at its scale."
    part = at_scale(grid(block.paper, block.table).part(block.dataset, block.model), block.scale)
    recipe = standing_in(part.recipe, block.network, block.optimizer)
    if block.decay == "rate": recipe = as_in_the_code(recipe)
    recipe = replace(shortened(recipe, block.epochs), precision=block.precision)
    if not recipe.first_stage:
        return recipe if not block.lr else replace(recipe, optimizer=partial(recipe.optimizer, lr=block.lr))
    first = replace(shortened(recipe.first_stage, block.first_epochs), precision=block.precision,
                    optimizer=partial(recipe.first_stage.optimizer, lr=block.lr))
    return replace(recipe, first_stage=first)
