"""What a result is the result of: setting and recipe, methods and hyper-parameters, versions of the code.

A result file is named after its setting: data, noise, network, size and recipe. Its rows belong to runs,
and each run carries the identity of its method. So a table that gains a method trains that method alone,
and a changed recipe no longer finds the old numbers. What no definition can say, that the same words come
to compute something else, is said by two versions: `ENGINE` for what all runs share (the loop, the data,
the noise, the networks), and `Method.version` for one method. A test holds recorded outcomes against both."""
import json
from functools import partial
from hashlib import sha256

import torch

from noisy_course.basics import kind, require
from noisy_course.method import Method, Recipe, stages

ENGINE = 1 # goes up when the runs of every method come to compute something else


def identity(
    definition: list, # of numbers, words and lists of them
) -> str: # eight hexadecimal digits
    "A short name that another definition hardly has."
    return sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:8]


# A recipe has functions in it. What they do is asked of them: the optimizer's numbers of an optimizer that it
# makes, the schedule's factors of every epoch. How an optimizer goes about it (fused, one by one) is not its
# definition, and a number that is 0 or None says nothing, so that a new PyTorch may add some.
HOW = "params", "fused", "foreach", "capturable", "differentiable"

def recipe_definition(
    recipe: Recipe | None, # of a table, or of a first stage
) -> list | None: # of numbers and words; none for none
    "What a recipe does to a run."
    if recipe is None: return None
    schedule = [round(recipe.schedule(epoch), 9) for epoch in range(recipe.epochs)]
    return [recipe.epochs, recipe.batch_size, recipe.valid_fraction, recipe.select, recipe.precision,
            _optimizer(recipe), schedule, _function(recipe.augment), recipe_definition(recipe.first_stage)]

def _optimizer(recipe):
    made = recipe.optimizer([torch.nn.Parameter(torch.zeros(1))])
    group, = made.param_groups
    return [type(made).__name__, {name: value for name, value in group.items() if value and name not in HOW}]

def _function(f):
    if f is None: return None
    if isinstance(f, partial): return [_function(f.func), list(f.args), f.keywords]
    name = getattr(f, "__qualname__", type(f).__name__)
    require("<lambda>" not in name, "augment", "a function with a name, by which its results are found again",
            "a lambda")
    return name


def method_definition(
    method: Method, # with the hyper-parameters of an experiment
) -> list: # of the method and all that are trained before it
    "What a method is: the name, version and hyper-parameters of each of its stages."
    require(isinstance(method, Method), "method", "a Method", kind(method))
    return [[stage.name, stage.version, dict(stage.hyperparameters)] for stage in stages(method)]
