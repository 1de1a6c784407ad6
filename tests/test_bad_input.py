"""Bad values for every argument of every public function, found by inspection: a clear error that names the argument, and never silence.

A new public function is in it by itself. Its arguments are taken by their names from `GOOD`; a name that is not there fails the test, and so does
a function that cannot be called with good values.
"""
import importlib
import inspect
import math
import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn

MODULES = ("basics", "noise", "losses", "models", "loss_correction", "generalized_cross_entropy", "symmetric_cross_entropy", "nnaqc", "joint_optimization")
C, N, F64 = 4, 6, torch.float64

def seeded(): return torch.Generator().manual_seed(0)

Z, Y = torch.randn(N, C, generator=seeded()), torch.arange(N) % C
P, T = Z.softmax(-1), torch.eye(C, dtype=F64) * .6 + .1
NUMBER, COUNT, CHOICE, FLAG, TENSOR, CALL, OTHER = "number", "count", "choice", "flag", "tensor", "call", "other"

GOOD = { # argument → (kind, a good value)
    "logits": (TENSOR, Z), "noisy_logits": (TENSOR, Z), "log_p": (TENSOR, P.log()), "both": (TENSOR, torch.stack([Z, Z], -2)),
    "target": (TENSOR, Y), "soft_target": (TENSOR, P), "labels": (TENSOR, Y), "y": (TENSOR, Y), "clean": (TENSOR, Y), "noisy": (TENSOR, Y),
    "T": (TENSOR, T), "T_inverse": (TENSOR, T.inverse()), "probs": (TENSOR, P), "probabilities": (TENSOR, P), "p": (TENSOR, P), "q": (NUMBER, .5),
    "past": (TENSOR, P.expand(3, N, C)), "prior": (TENSOR, torch.full((C,), 1 / C)), "lids": (TENSOR, torch.tensor([5., 4, 3, math.nan])),
    "x": (TENSOR, torch.randn(N, 3, generator=seeded())), "features": (TENSOR, torch.randn(N, 3, generator=seeded())),
    "images": (TENSOR, torch.zeros(N, 1, 2, 2)), "outside": (TENSOR, torch.ones(N, 1, 2, 2)), "votes": (TENSOR, torch.stack([Y, Y, Y], 1)),
    "losses": (TENSOR, Z[:, 0]), "counts": (TENSOR, torch.ones(N)), "kept": (TENSOR, torch.ones(N, dtype=torch.bool)), "weight": (TENSOR, torch.ones(C)),
    "n_classes": (COUNT, C), "C": (COUNT, C), "n_targets": (COUNT, 2), "k": (COUNT, 2), "top": (COUNT, 0), "start": (COUNT, 1), "stop": (COUNT, 0), "every": (COUNT, 2),
    "window": (COUNT, 1), "epochs": (COUNT, 3), "seed": (COUNT, 0), "ndim": (COUNT, 2), "hidden": (COUNT, 3), "inputs": (COUNT, 3), "n_words": (COUNT, 20),
    "length": (COUNT, 7), "size": (COUNT, 8), "depth": (COUNT, 8), "width": (COUNT, 4), "channels": (COUNT, 1), "stride": (COUNT, 1), "outputs": (COUNT, 4),
    "low": (COUNT, 1), "high": (COUNT, 5),
    "rate": (NUMBER, .3), "alpha": (NUMBER, .3), "beta": (NUMBER, .3), "A": (NUMBER, -4.), "smoothing": (NUMBER, .1), "clip": (NUMBER, 1e-7), "amount": (NUMBER, .1),
    "percentile": (NUMBER, 97), "trace": (NUMBER, .1), "speed": (NUMBER, 1.), "scale": (NUMBER, 1.), "dropout": (NUMBER, .2), "value": (NUMBER, 1.),
    "reduction": (CHOICE, "mean"), "kind": (CHOICE, "random"), "on": (CHOICE, "weights"), "dataset": (CHOICE, "mnist"),
    "generator": (OTHER, None), "layer": (CALL, None), "make": (CALL, None), "fit": (CALL, lambda loss: lambda x: x), "correction": (CALL, lambda logits, labels, T: 0), "network": (CALL, None),
    "model": (CALL, None), "flips": (OTHER, [(0, 1)]), "classes": (OTHER, [0, 1, 2]), "edges": (OTHER, (1., .5, 0.)), "path": (OTHER, None), "ignore_index": (COUNT, -100),
    "dim": (COUNT, -1), "device": (OTHER, "cpu"), "dtype": (OTHER, torch.float32)}
OWN = { # where a name means something else
    ("DropoutNoiseLayer", "p"): (NUMBER, .5), ("Dropout", "p"): (NUMBER, .5), ("log_labels", "q"): (TENSOR, P), ("moved", "x"): (TENSOR, T), ("exact", "x"): (TENSOR, T),
    ("truncated_gce", "k"): (NUMBER, .5), ("weighted_gce", "k"): (NUMBER, .5), ("TruncatedGCELoss", "k"): (NUMBER, .5), ("check_k", "k"): (NUMBER, .5), ("pruned", "k"): (NUMBER, .5),
    ("LinearNoiseLayer", "start"): (NUMBER, .9), ("weighted_gce", "weight"): (TENSOR, torch.ones(N)), ("asymmetric", "kind"): (CHOICE, "sentence"),
    ("by_certainty", "target"): (TENSOR, P), ("ImageResNet", "depth"): (COUNT, 18), ("negative_log_likelihood", "logits"): (TENSOR, P.log()), ("two_stage", "x"): (TENSOR, Z), ("n_parameters", "model"): (CALL, nn.Linear(2, 2)), ("total", "p"): (TENSOR, P)}
MADE = dict(generator=seeded, layer=lambda: nn.Identity(), make=lambda: lambda n: nn.Identity(), network=lambda: nn.Linear(3, 2), model=lambda: nn.Linear(2, 2))

NOT_FOR_USERS = { # name → why bad values of it are not tried
    **dict.fromkeys(("expect", "check_number", "check_count", "kind", "tolerance", "total", "whole_file", "trusted", "trusting", "look", "loss_function", "LossModule",
                     "prepared", "reduce", "classes_last", "check_rate", "check_labels", "check_transition", "check_target", "check_tensors", "check_logits", "check_weight",
                     "check_q", "check_k", "check_A", "check_weights", "check_smoothing", "check_lids", "check_prior", "check_probabilities", "check_percentile", "finest",
                     "moved", "exact", "box_cox", "log_labels", "examples"), "what the checks are made of"),
    **dict.fromkeys(("class_accuracy", "confidence", "true_positives", "beliefs", "dimensionality", "embedding", "prune", "relabel", "recovery", "label_accuracy",
                     "labels_found", "step_one_loss", "step_two_loss", "nnaqc_of_both", "Beside", "turned", "label_weight"), "called by the engine with what it made itself"),
    **dict.fromkeys(("save_noise", "load_noise", "recorded"), "files: test_noise"),
    **dict.fromkeys(("AddChannel", "ResidualBlock", "last_hidden"), "parts of networks")}

def public():
    "Functions and classes by name."
    for module in map(importlib.import_module, (f"noisy_course.{m}" for m in MODULES)):
        for name in module.__all__:
            thing = getattr(module, name)
            if (inspect.isfunction(thing) or inspect.isclass(thing)) and name not in NOT_FOR_USERS: yield name, thing

PUBLIC = dict(public())

def arguments(name):
    "The arguments of a function: name → (kind, good value, default)."
    named = (p for p in inspect.signature(PUBLIC[name]).parameters.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
    known = {p.name: (OWN.get((name, p.name)) or GOOD.get(p.name), p.default) for p in named}
    flags = {a for a, (_, default) in known.items() if isinstance(default, bool)}
    return {a: (*(good or (FLAG, default)), default) for a, (good, default) in known.items() if a not in flags}

def good(name):
    "Good values for a function's arguments."
    return {a: MADE[a]() if a in MADE else value for a, (_, value, _) in arguments(name).items()}

BAD = {
    NUMBER: dict(none=None, text="x", nan=math.nan, imaginary=1j, list=[.5], tensor=torch.rand(3), infinite=math.inf, low=-1e9),
    COUNT: dict(none=None, text="x", nan=math.nan, half=2.5, list=[1], low=-3),
    CHOICE: dict(none=None, text="no such thing", number=3),
    CALL: dict(none=None, number=3, text="x"),
    TENSOR: dict(none=None, text="x", number=3., list=[1, 2], array=np.zeros(3), imaginary=torch.zeros(2, dtype=torch.complex64), bool=torch.tensor(True)),
    OTHER: dict(none=None, number=3.5, text="x")}

def bad(kind, value):
    "Bad values for an argument, by a word for each; of a tensor also the good one with another shape, or with NaN."
    yield from BAD.get(kind, {}).items()
    if kind == TENSOR:
        yield "flat", value.flatten()[:1].reshape(())
        yield "too many", torch.stack([torch.stack([value] * 7)] * 3)
        if value.is_floating_point() and not value.isnan().any():
            yield "whole", value.long()
            yield "NaN", value * math.nan
            yield "infinite", value + math.inf

FINE = { # (function or *, argument, word): a bad value that is a good one there
    ("mix_with_identity", "T", "too many"), ("invert", "T", "too many"), ("estimate_transition", "probs", "too many"), ("update_soft", "past", "flat"),
    ("*", "ignore_index", "low"), ("*", "dim", "low"), ("*", "A", "low"), ("*", "x", "too many"), ("*", "scale", "low"),
    ("entropy_loss", "logits", "too many"), ("prior_loss", "logits", "too many"), ("*", "losses", "any"), ("realised", "clean", "flat"),
    ("corrupt", "labels", "flat"), ("corrupt", "labels", "too many"), ("standard_error", "clean", "flat"), ("standard_error", "clean", "too many"),
    ("weighted_gce", "weight", "whole"), ("ForwardCrossEntropyLoss", "T", "too many"), ("BackwardCrossEntropyLoss", "T", "too many"), ("open_set", "images", "whole"),
    ("open_set", "outside", "whole"), ("by_certainty", "edges", "text"),
    ("two_stage", "percentile", "none"), ("two_stage", "T", "too many"), *(("two_stage", "x", word) for word in ("too many", "imaginary", "whole", "NaN", "infinite"))}

CASES = [(name, a, word) for name in PUBLIC for a, (kind, value, default) in arguments(name).items()
         for word, wrong in bad(kind, value) if not (wrong is None and default is None) and not {(name, a, word), ("*", a, word)} & FINE]

def outcome(name, a, word):
    "What comes of a bad value: named, obscure or silent."
    kind, value, _ = arguments(name)[a]
    given = good(name) | {a: dict(bad(kind, value))[word]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try: PUBLIC[name](**given)
        except (ValueError, TypeError) as error: return "named" if re.search(rf"\b{a.removeprefix('soft_')}\b", str(error).split("\n")[0][:200]) else f"obscure: {error!r:.150}"
        except Exception as error: return f"obscure: {error!r:.150}"
    return "silent"

@pytest.mark.parametrize("name", PUBLIC)
def test_good_values_are_taken(name):
    unknown = [a for a, (kind, value, default) in arguments(name).items() if kind == FLAG and default is inspect.Parameter.empty]
    assert unknown == [], "say in GOOD what these are"
    PUBLIC[name](**good(name))

@pytest.mark.parametrize("name", PUBLIC)
def test_bad_values_are_refused_by_name(name):
    wrong = {(a, word): got for n, a, word in CASES if n == name and (got := outcome(n, a, word)) != "named"}
    assert wrong == {}

def test_every_public_function_is_tried():
    assert len(PUBLIC) >= 60 and len(CASES) >= 1500

def test_silence_is_heard(monkeypatch):
    monkeypatch.setitem(PUBLIC, "symmetric", lambda n_classes, rate: None)
    assert outcome("symmetric", "rate", "nan") == "silent"
