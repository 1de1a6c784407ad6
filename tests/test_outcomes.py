"""What the code computes is recorded, so that it cannot change without a version: `Method.version`, or
`ENGINE` for what all runs share.

The records are of short trainings in float64, which agree to five digits between processors, and of draws,
which are whole numbers. A record that fails says which version to raise; RECORD=1 then writes the new
ones. Without a raised version it refuses to."""
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from noisy_course import data, models, noise
from noisy_course.data import Dataset
from noisy_course.lab.identity import ENGINE
from noisy_course.lab.protocols import METHODS, crop_and_flip, method, milestones, shift_and_flip
from noisy_course.method import stages
from noisy_course.models import MODELS, initialise
from noisy_course.training import Recipe, Run, generator, train

FILE = Path(__file__).with_name("outcomes.json")
CLASSES, SAMPLES, EPOCHS = 4, 80, 16

pytestmark = pytest.mark.usefixtures("one_thread")


# --- what is trained ---

def pixels():
    "Six pixels for each of four classes that overlap; the labels of the first quarter are verified."
    g = generator(0, "pixels")
    y = torch.randint(CLASSES, (2 * SAMPLES,), generator=g)
    x = (100 * torch.eye(CLASSES, 6, dtype=torch.uint8)[y]
         + torch.randint(156, (2 * SAMPLES, 6), dtype=torch.uint8, generator=g))
    verified = torch.arange(SAMPLES) < SAMPLES // 4
    return Dataset("pixels", x[:SAMPLES], y[:SAMPLES], x[SAMPLES:], y[SAMPLES:], tuple("abcd"),
                   extra=dict(train_checked=verified))

class Double(torch.nn.Module):
    "Pixels in float64, spread out; the loop has them in float32, from 0 to 1."
    def forward(self, x): return 4 * x.double()

def small(g):
    "A network of two layers, in float64."
    net = torch.nn.Sequential(Double(), torch.nn.Linear(6, 16), torch.nn.ReLU(), models.Dropout(.2, 16),
                              torch.nn.Linear(16, CLASSES)).double()
    for tensor in net.parameters(): torch.nn.init.normal_(tensor, std=.5, generator=g)
    return net

class Float(torch.nn.Module):
    "Logits in float32, for a layer that keeps statistics in it."
    def forward(self, x): return x.float()

def in_double(method):
    "The method, whose layer is in float64 in every stage, unless it keeps statistics."
    def layer(n):
        own = method.layer(n)
        return torch.nn.Sequential(Float(), own) if isinstance(own, torch.nn.BatchNorm1d) else own.double()
    return replace(method, layer=method.layer and layer,
                   first_stage=method.first_stage and in_double(method.first_stage))

def as_if_turned(run, n, epochs):
    "Dimensionalities that have jumped, for D2L to begin with."
    return dict(lids=1 + .1 * torch.arange(epochs) ** 2.)

NUMBERS = dict(epochs=EPOCHS, prune_start=1, prune_every=1, label_start=1, label_stop=3, top=5)
RECIPE = Recipe(epochs=EPOCHS, batch_size=16, optimizer=partial(torch.optim.SGD, lr=.01),
                schedule=milestones(12))

def outcome(method):
    """What a method makes of the pixels: its curves, the last predictions, an estimated T,
    labels that it found."""
    dataset = pixels()
    T = noise.random_simplex(CLASSES, .4, generator(0, "T"))
    run = Run(in_double(method), noise.corrupt(dataset.train_y, T, generator(0, "noise")), T, seed=0)
    trained = train(dataset, [run], small, RECIPE)
    curves = trained.curves[~trained.curves.metric.str.contains("seconds")]
    numbers = {metric: part.value.tolist() for metric, part in curves.groupby("metric")}
    numbers["probabilities"] = (trained.training_state(0).probabilities("last", dataset.test_x[:3])
                                .flatten().tolist())
    if method.estimate: numbers["T"] = trained.runs[0].T.flatten().tolist()
    if method.relabel: numbers["labels"] = trained.runs[0].found_labels[:5].flatten().tolist()
    return numbers


# --- what all runs share ---

def sums(x): return [x.double().sum().item(), x.double().square().sum().item()]

def images(): return torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8, generator=generator(0, "images"))

def draws():
    "Noise, noisy labels, a split of the data, augmented images."
    y = torch.arange(50) % 10
    matrices = dict(symmetric=noise.symmetric(10, .3), redrawn=noise.symmetric(10, .3, include_true=True),
                    asymmetric=noise.asymmetric("mnist", .3),
                    simplex=noise.random_simplex(10, .3, generator(0, "simplex")),
                    sparse=noise.sparse(10, .3, 3, generator(0, "sparse")))
    for name, T in matrices.items():
        yield name, [*sums(T @ torch.arange(10.).to(T.dtype)),
                     *noise.corrupt(y, T, generator(0, "noise")).tolist()]
    yield "split", torch.cat(data.split(50, .2, generator(0, "split"))).tolist()
    for augment in (crop_and_flip, shift_and_flip):
        yield augment.__name__, augment(images(), generator(0, "augment")).long().sum((1, 2, 3)).tolist()

INPUTS = dict(mlp=(784,), lenet=(1, 28, 28), cnn4=(1, 28, 28), embedding=None, lstm=None)

def network(name):
    "A network's first parameters, in sum, and its logits for noise."
    run = initialise(MODELS[name](10), generator(0, "network")).eval()
    shape = INPUTS.get(name, (3, 32, 32))
    x = (torch.randint(1, 100, (2, 400), generator=generator(0, "words")) if shape is None
         else torch.randn(2, *shape, generator=generator(0, "inputs")))
    with torch.no_grad(): logits = run(x)
    return dict(parameters=sums(torch.cat([p.flatten() for p in run.parameters()])),
                logits=logits.flatten().tolist())


# --- the records ---

def records():
    "Everything recorded: name → (version, numbers by name, relative tolerance)."
    for name in METHODS:
        one = method(name, NUMBERS)
        if name == "d2l": one = replace(one, run_state=as_if_turned) # a short training never gets there
        yield f"method {name}", ([ENGINE, *(stage.version for stage in stages(one))],
                                 lambda one=one: outcome(one),
                                 1e-3 if name in ("unhinged", "sigmoid") else 1e-5)
    yield "engine draws", (ENGINE, lambda: dict(draws()), 1e-6)
    for name in MODELS: yield f"engine network {name}", (ENGINE, lambda name=name: network(name), 1e-3)

RECORDS = dict(records())
KNOWN = json.loads(FILE.read_text()) if FILE.exists() else {}

def close(found, known, rtol):
    "Whether some numbers are others, as far as the largest of them allows."
    return len(found) == len(known) and np.allclose(found, known, rtol=0, atol=rtol * np.abs(known).max(),
                                                    equal_nan=True)

def differs(found, known, rtol):
    "The first of some numbers that is another one."
    return next((name for name in {**known, **found}
                 if name not in found or name not in known or not close(found[name], known[name], rtol)), "")

def rounded(numbers): return {name: [float(f"{x:.9g}") for x in values] for name, values in numbers.items()}

@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RECORDS)
def test_what_is_computed_changes_only_with_a_version(name):
    version, compute, rtol = RECORDS[name]
    found, known = compute(), KNOWN.get(name, dict(version=None, numbers={}))
    other = differs(found, known["numbers"], rtol)
    if os.environ.get("RECORD") and known["version"] != version:
        records = json.loads(FILE.read_text() if FILE.exists() else "{}")
        records[name] = dict(version=version, numbers=rounded(found))
        FILE.write_text(json.dumps(dict(sorted(records.items())), indent=0) + "\n")
        return
    assert known["version"] == version, f"{name} has a new version: RECORD=1 writes its record"
    assert not other, (f"{name} computes another {other}: raise its version (ENGINE, "
                       f"if cross-entropy changed too), or find out why")

def test_nothing_is_recorded_that_is_gone(): assert KNOWN.keys() <= RECORDS.keys()

def test_a_wrong_number_is_seen():
    known = KNOWN["method cross_entropy"]["numbers"]
    assert differs(known, known, 1e-6) == ""
    assert differs(known, {**known, "valid_loss": [1.00001 * x for x in known["valid_loss"]]},
                   1e-6) == "valid_loss"
    assert differs(known, {k: v for k, v in known.items() if k != "valid_loss"}, 1e-6) == "valid_loss"
    tiny = dict(logits=[1e-6, -2e-6])
    assert differs(tiny, dict(logits=[1e-6, -2.1e-6]), 1e-3) == "logits"
