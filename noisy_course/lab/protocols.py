"""The words in which a paper is written down: parts, grids, scales, methods, and the paper itself.

A file of `noisy_course.lab.papers` says in them what one paper did. Whoever misspells a key or gives a
value that means nothing is told which."""
import re
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Integral, Real

import torch
from torch import Tensor

from noisy_course import (data, generalized_cross_entropy, joint_optimization, loss_correction, nnaqc,
    symmetric_cross_entropy)
from noisy_course.basics import check_number, require
from noisy_course.image_files import LOADERS, alexnet_weights, fine_tuned, frozen_alexnet, imagenet_weights
from noisy_course.losses import loss_function
from noisy_course.models import MODELS
from noisy_course.symmetric_cross_entropy import reverse_cross_entropy
from noisy_course.method import (Method, Recipe, fine_tuned_after, restricted_to, stages, unverified_mask,
    verified_mask)


# How networks are trained

# Residual networks are trained by SGD with a learning rate that falls at milestones, on images that are
# cropped and flipped at random.
def milestones(
    *epochs: int, # after which the learning rate is divided by ten
): # epoch → factor
    "A learning rate that falls tenfold at each milestone."
    return lambda epoch: .1 ** sum(epoch >= m for m in epochs)

def sgd(
    parameters: list, # tensors to train
    lr: float = .01, # learning rate
    weight_decay: float = 1e-4, # of all parameters
) -> torch.optim.Optimizer: # momentum 0.9
    "Stochastic gradient descent as the papers use it for convolutional networks."
    return torch.optim.SGD(parameters, lr=lr, momentum=.9, weight_decay=weight_decay)

OPTIMIZERS = dict(adam=torch.optim.Adam, sgd=partial(sgd, weight_decay=0.)) # in place of a paper's own

def crop_and_flip(
    x, # images, (B, C, height, width)
    generator, # of the draws
): # the same shape
    "The augmentation of He et al.: random crops after padding by 4, and flips."
    return data.random_flip(data.random_crop(x, 4, generator), generator)

def shift_and_flip(
    x, # images, (B, C, height, width)
    generator, # of the draws
): # the same shape
    "Shifts of width and height by up to a fifth, as in the code of Wang et al., and flips."
    return data.random_flip(data.random_shift(x, .2, .2, generator), generator)


# A shorter run goes through the same schedule faster: with a third of the epochs, every milestone comes at
# a third of its time.
def shortened(
    recipe: Recipe, # of the paper
    epochs: int, # passes through the data
) -> Recipe: # with its schedule scaled to them
    "A recipe with another number of epochs."
    return replace(recipe, epochs=epochs,
                   schedule=lambda epoch: recipe.schedule(epoch * recipe.epochs / epochs))


# A grid, and its parts

@dataclass(frozen=True)
class Part:
    "One data set with one network, and how it is trained."
    dataset: str # e.g. "mnist"
    model: str # the paper's network, a key of `MODELS`
    noises: tuple # (kind, rate) pairs
    recipe: Recipe # with the paper's epochs
    seeds: int = 5 # runs of each cell
    usual: dict = field(default_factory=dict) # the paper's hyper-parameters, where they are not ours
    laptop: dict = field(default_factory=dict) # what is smaller below its scale: seeds, epochs, samples …
    epochs: int | None = None # passes through the data; the recipe's if none
    samples: int = 0 # training samples; 0 for all
    network: str = "" # what stands in for the paper's network, if anything does
    methods: tuple = () # names of the only ones, where they are not the grid's

    def __post_init__(self):
        for name, known in (("dataset", DATASETS), ("model", NETWORKS), ("network", ["", *NETWORKS])):
            require(getattr(self, name) in known, name, f"one of {', '.join(map(repr, known))}",
                    repr(getattr(self, name)))
        for noise in self.noises:
            require(_is_noise(noise), "noises",
                    f"pairs of a kind among {', '.join(NOISES)} and a rate in [0, 1]", noise)
        require(isinstance(self.recipe, Recipe), "recipe", "a Recipe", repr(self.recipe))
        for name, least in (("seeds", 1), ("samples", 0), ("epochs", 1)):
            value = getattr(self, name)
            fine = isinstance(value, Integral) and not isinstance(value, bool) and value >= least
            require(fine or (name == "epochs" and value is None), name, f"a whole number from {least}",
                    repr(value))
        _known_keys("usual", self.usual, USUAL)
        _known_keys("laptop", self.laptop, ("seeds", "epochs", "samples", "network", "recipe", "usual"))
        _known_methods("methods", self.methods)

def _is_noise(n):
    return (isinstance(n, tuple) and len(n) == 2 and n[0] in NOISES and isinstance(n[1], Real) and 0 <= n[1]
            <= 1)

def _known_keys(name, value, known):
    require(isinstance(value, dict), name, "a dict", repr(value))
    odd = [key for key in value if key not in known]
    require(not odd, name, f"keys among {', '.join(known)}", ", ".join(map(repr, odd)))

def _known_methods(name, value):
    require(isinstance(value, tuple), name, "a tuple of names of methods", repr(value))
    odd = [method for method in value if method not in METHODS]
    require(not odd, name, f"names among {', '.join(METHODS)}", ", ".join(map(repr, odd)))


@dataclass(frozen=True)
class Grid:
    "A table or a figure of a paper."
    parts: tuple # of Part
    variants: tuple # (hyper-parameters that differ from the paper's, names of methods) pairs

    def __post_init__(self):
        parts = (isinstance(self.parts, tuple) and self.parts
                 and all(isinstance(part, Part) and part.noises for part in self.parts))
        require(parts, "parts", "a tuple of Part, each with some noises", repr(self.parts))
        pairs = (isinstance(self.variants, tuple) and self.variants
                 and all(isinstance(v, tuple) and len(v) == 2 for v in self.variants))
        require(pairs, "variants", "a tuple of (hyper-parameters, names of methods) pairs",
                repr(self.variants))
        for numbers, methods in self.variants:
            _known_keys("variants", numbers, [*USUAL, *SIZES])
            _known_methods("variants", methods)

    def part(self,
        dataset: str, # e.g. "mnist"
        model: str, # the paper's network
    ) -> Part:
        "The part with this data set and network."
        found = [p for p in self.parts if (p.dataset, p.model) == (dataset, model)]
        require(found, "model", "one of " + ", ".join(f"{p.model} on {p.dataset}" for p in self.parts),
                f"{model} on {dataset}")
        return found[0]


@dataclass(frozen=True)
class Paper:
    "What a paper did, what it concludes, and what its figures show."
    title: str # e.g. "Patrini et al. 2017"
    tables: dict # name → Grid
    chapter: str = "" # the notebook that follows it, e.g. "10_loss_correction"
    findings: dict = field(default_factory=dict) # published table → [(letter, claim, where, value, limits)]
    conclusions: dict = field(default_factory=dict) # name of such a table → what the paper says of it
    note: str = "" # on all of its tables
    quoted: tuple = () # (table, method) pairs that the paper took from elsewhere and did not run
    figures: dict = field(default_factory=dict) # table → [(page, title, function that gives its sections)]

    def __post_init__(self):
        for name in ("title", "chapter", "note"):
            require(isinstance(getattr(self, name), str), name, "text", repr(getattr(self, name)))
        for name in ("tables", "findings", "conclusions", "figures"):
            require(isinstance(getattr(self, name), dict), name, "a dict by the names of tables",
                    repr(getattr(self, name)))
        require(self.title, "title", "some text", repr(self.title))
        for name, grid in self.tables.items():
            require(isinstance(name, str) and re.fullmatch(r"[a-z]\w*", name), "tables",
                    "names of small letters, digits and _", repr(name))
            require(isinstance(grid, Grid), f"tables[{name!r}]", "a Grid", repr(grid))
        for name in ("findings", "conclusions", "figures"):
            odd = [table for table in getattr(self, name) if table not in self.tables]
            require(not odd, name, f"tables among {', '.join(self.tables)}", ", ".join(map(repr, odd)))
        for table, claims in self.findings.items():
            for claim in claims:
                require(_is_claim(claim), f"findings[{table!r}]",
                        "(letter, claim, where, value, (low, high)) tuples", claim)
        for table, pages in self.figures.items():
            for page in pages:
                require(_is_page(page), f"figures[{table!r}]", "(name, title, function) tuples", page)
        odd = [pair for pair in self.quoted if len(pair) != 2 or pair[0] not in self.tables]
        require(not odd, "quoted", f"(table, method) pairs with tables among {', '.join(self.tables)}", odd)

def _is_claim(c):
    return isinstance(c, tuple) and len(c) == 5 and callable(c[2]) and callable(c[3]) and len(c[4]) == 2
def _is_page(p): return isinstance(p, tuple) and len(p) == 3 and isinstance(p[0], str) and callable(p[2])


# Three scales. What a part says of the laptop goes before what the scale says; a smoke test is small
# whatever it says. Numbers of epochs among the hyper-parameters shrink with the run.
COUNTED = "prune_start", "prune_every", "first_epochs", "label_start", "label_stop"
SCALES = {"smoke": dict(seeds=1, epochs=1, samples=1000), "laptop": dict(seeds=2, epochs=6), "paper": {}}

def scaled(
    numbers: dict, # hyper-parameters at the paper's scale
    part: Part, # as small as its scale has made it
) -> dict: # those that count epochs in proportion to the part's
    "Hyper-parameters at a smaller scale."
    share = (part.epochs or part.recipe.epochs) / part.recipe.epochs
    return {k: max(1, round(v * share)) if k in COUNTED and v else v for k, v in numbers.items()}

def at_scale(
    part: Part, # of a grid
    scale: str, # "smoke", "laptop" or "paper"
) -> Part:
    "A part, made as small as the scale wants it."
    require(scale in SCALES, "scale", f"one of {', '.join(SCALES)}", repr(scale))
    if scale == "paper": return part
    own = part.laptop | dict(usual=part.usual | part.laptop.get("usual", {}))
    small = replace(part, **(own | SCALES[scale] if scale == "smoke" else SCALES[scale] | own))
    return replace(small, usual=scaled(small.usual, small))


REAL = dict(real="noisy", clean_50k="clean", real_and_clean_50k="both", real_then_clean_50k="both")
HUMAN = "aggre", "random1", "random2", "random3", "worse"
DRAWN = "none", "symmetric", "redrawn", "asymmetric", "simplex", "sparse", "open_set", "pseudo"
PRETRAINED = dict(resnet50=(imagenet_weights, fine_tuned), alexnet=(alexnet_weights, frozen_alexnet))
NOISES = [*DRAWN, *HUMAN, *REAL]
NETWORKS = [*MODELS, *PRETRAINED]
DATASETS = ["mnist", "fashion_mnist", "cifar10", "cifar100", "imdb", *LOADERS]


# Methods

# All methods of all papers by name. Some take numbers from the experiment: the percentile of the estimate
# of $T$, the clip of backward correction, $q$, when to prune, the weights of symmetric cross entropy. These
# are their usual values; each method says itself which of them it takes:
METHODS = (loss_correction.METHODS | generalized_cross_entropy.METHODS | symmetric_cross_entropy.METHODS
           | nnaqc.METHODS | joint_optimization.METHODS)
USUAL = dict(epochs=50, dropout=0., percentile=97., clip=0., q=.7, prune_start=0, prune_every=0, alpha=.1,
             beta=1., A=-4., decay="weights", flips="", outside="", inputs="", lr=0., first_epochs=0,
             label_start=0, label_stop=0, top=0, prior="", checked=0., optimizer="")
SIZES = "samples", "network" # which candidates for a smaller scale try, beside hyper-parameters

COLUMNS = dict(start="prune_start", every="prune_every") # hyper-parameters that a table names otherwise

def method(
    name: str, # a key of `METHODS`
    values: dict = {}, # hyper-parameters that are not as in `USUAL`
) -> Method:
    "A method with the hyper-parameters of an experiment."
    require(name in METHODS, "method", f"one of {', '.join(METHODS)}", repr(name))
    known, usual = METHODS[name], USUAL | values
    if name in joint_optimization.METHODS: return _joint(name, usual)
    wanted = {n: COLUMNS.get(n, n) for stage in stages(known) for n in stage.hyperparameters}
    return known.with_hyperparameters(**{n: usual[column] for n, column in wanted.items() if column in usual})


# One method of Wang et al. joins what belongs to two chapters, reverse cross entropy on top of forward
# correction:
def _joint(name, given):
    options = dict(start=given["label_start"], stop=given["label_stop"], alpha=given["alpha"],
                   beta=given["beta"], uniform=given["prior"] != "labels")
    if name == "joint_labels": return joint_optimization.joint_labels(**options)
    return joint_optimization.joint_optimization(**options, top=given["top"] if "hard" in name else None)


@loss_function
def forward_sl(
    logits: Tensor, # (..., B, C)
    target: Tensor, # labels, (..., B)
    T: Tensor, # noise matrix, (..., C, C)
    beta: float = 1., # weight of reverse cross entropy
    A: float = -4., # stands for log 0
) -> Tensor: # one a sample, (..., B)
    "Forward correction plus β times reverse cross entropy (Wang et al., §5.2)."
    check_number(beta, "beta", "[0, inf)")
    return (loss_correction.forward_cross_entropy.each(logits, target, T) + beta
            * reverse_cross_entropy.each(logits, target, A))


# Jindal et al.'s “genie-aided (QC)” adds quasi-clustering to forward correction with the true $T$:
@loss_function
def forward_qc(
    logits: Tensor, # (..., B, C)
    target: Tensor, # labels, (..., B)
    T: Tensor, # the true noise matrix, (..., C, C)
    alpha: float = .9, # weight of forward correction
    beta: float = .9, # weight of predictions in quasi-clustering
) -> Tensor: # one a sample, (..., B)
    "Forward correction with quasi-clustering, “genie-aided (QC)” (Jindal et al., §4.1)."
    check_number(alpha, "alpha", "[0, 1]")
    corrected, clustered = (loss_correction.forward_cross_entropy.each(logits, target, T),
                            nnaqc.quasi_clustering.each(logits, target, beta))
    return alpha * corrected + (1 - alpha) * clustered


# Both are forward correction with another loss:
METHODS |= {"forward_sl": replace(METHODS["forward"], name="forward_sl", loss=forward_sl,
                                  title="forward + SL", hyperparameters=dict(beta=1., A=-4.)),
            "forward_qc": replace(METHODS["forward"], name="forward_qc", loss=forward_qc,
                                  title="forward, T, + QC")}


# Three rows of their Table 4 go on with the network of another: cross-entropy on checked labels after a
# method on the others, and a linear layer on all after cross-entropy on the checked ones. The first of
# these is ours, for comparison.
CHECKED = restricted_to(METHODS["cross_entropy"], verified_mask)
HANDED_ON = ([fine_tuned_after(restricted_to(METHODS[name], unverified_mask), CHECKED)
              for name in ("cross_entropy", "forward_estimated", "nnaqc")]
             + [fine_tuned_after(CHECKED, METHODS["linear_noise_layer"])])
METHODS |= {m.name: m for m in HANDED_ON}


RESIDUAL = Recipe(optimizer=sgd, augment=crop_and_flip, runs_at_once=1)
EARLY, LATE = dict(epochs=120, schedule=milestones(40, 80)), dict(epochs=150, schedule=milestones(80, 120))


# What a laptop does instead of the paper is chosen among candidates, and by cross-entropy alone: it should
# learn without noise, and memorise with it, as much as the paper's. Then all methods are trained so.
def candidates(
    part: Part, # of the paper's table
    noises: tuple, # (kind, rate) pairs: without noise, and the two highest rates
    *ways: dict, # samples, epochs, optimizer, lr … of each candidate
) -> Grid: # of cross-entropy alone, one run each
    "What might stand for a part of a table on a laptop: the fully connected network, in some ways."
    numbers = [dict(network="mlp") | way for way in ways]
    own = {name: value for name in ("samples", "epochs") if (value := getattr(part, name))}
    whole = replace(part, noises=noises, seeds=1, laptop=own)
    return Grid((whole,), tuple((n, ("cross_entropy",)) for n in numbers))

# Another network may stand in for the paper's. One without convolutions wants no crops and flips, and trains
# beside others; and it may want another optimizer. (A first step is part of its method, and keeps its own.)
def standing_in(
    recipe: Recipe | None, # of the paper; or none, as of a first stage
    network: str, # what stands in, if anything does
    optimizer: str, # a key of `OPTIMIZERS`, or nothing
) -> Recipe | None: # for that network
    "How a network that stands in for the paper's is trained."
    if recipe is None: return None
    recipe = replace(recipe, first_stage=standing_in(recipe.first_stage, network, ""))
    if network == "mlp": recipe = replace(recipe, augment=None, runs_at_once=None)
    return replace(recipe, optimizer=OPTIMIZERS[optimizer]) if optimizer else recipe

def as_in_the_code(
    recipe: Recipe, # of the text
    steps: int = 469, # an epoch
) -> Recipe: # of the code of Wang et al. on MNIST
    "No weight decay; a learning rate that falls a little with every step instead."
    return replace(recipe, optimizer=partial(sgd, lr=.1, weight_decay=0.),
                   schedule=lambda epoch: recipe.schedule(epoch) / (1 + 1e-4 * steps * epoch))
