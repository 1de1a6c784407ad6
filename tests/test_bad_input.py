"""Bad values for every argument of every public function, found by inspection: a clear error that names the
argument, and never silence.

A new public function is in it by itself. Its arguments are taken by their names from `GOOD`; a name that
is not there fails the test, and so does a function that cannot be called with good values."""
import importlib
import inspect
import io
import math
import re
import struct
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models

from noisy_course import data, image_files
from noisy_course.basics import SETTING
from noisy_course.data import Dataset
from noisy_course.lab.results import COLUMNS
from noisy_course.losses import cross_entropy
from noisy_course.method import Method, Recipe, Run

MODULES = ("basics", "noise", "losses", "models", "loss_correction", "generalized_cross_entropy",
           "symmetric_cross_entropy", "nnaqc", "joint_optimization",
           "data", "image_files", "plots", "head_to_head", "distributed", "method", "training")
C, N, F64 = 4, 6, torch.float64

def seeded(): return torch.Generator().manual_seed(0)

Z, Y = torch.randn(N, C, generator=seeded()), torch.arange(N) % C
P, T = Z.softmax(-1), torch.eye(C, dtype=F64) * .6 + .1
NUMBER, COUNT, CHOICE, FLAG = "number", "count", "choice", "flag"
TENSOR, CALL, OTHER = "tensor", "call", "other"

PLAIN = Method("plain", cross_entropy)
SMALL = Dataset("small", torch.zeros(20, 3), torch.arange(20) % C, torch.zeros(8, 3), torch.arange(8) % C,
                tuple("abcd"), extra=dict(train_checked=torch.arange(20) < 9))

def a_function(*args): return None

HOOKS = ("loss_arguments", "sample_state", "run_state", "on_batch_end",
         "on_epoch_end", "penalty", "batch", "estimate", "relabel", "samples",
         "augment", "epoch_metrics", "final_metrics", "schedule", "progress")

GOOD = { # argument → (kind, a good value)
    "logits": (TENSOR, Z), "noisy_logits": (TENSOR, Z), "log_p": (TENSOR, P.log()),
    "both": (TENSOR, torch.stack([Z, Z], -2)), "target": (TENSOR, Y), "soft_target": (TENSOR, P),
    "labels": (TENSOR, Y), "y": (TENSOR, Y), "clean": (TENSOR, Y), "noisy": (TENSOR, Y),
    "T": (TENSOR, T), "T_inverse": (TENSOR, T.inverse()), "probs": (TENSOR, P),
    "probabilities": (TENSOR, P), "p": (TENSOR, P), "q": (NUMBER, .5), "past": (TENSOR, P.expand(3, N, C)),
    "prior": (TENSOR, torch.full((C,), 1 / C)), "lids": (TENSOR, torch.tensor([5., 4, 3, math.nan])),
    "x": (TENSOR, torch.randn(N, 3, generator=seeded())),
    "features": (TENSOR, torch.randn(N, 3, generator=seeded())), "images": (TENSOR, torch.zeros(N, 1, 2, 2)),
    "outside": (TENSOR, torch.ones(N, 1, 2, 2)), "votes": (TENSOR, torch.stack([Y, Y, Y], 1)),
    "losses": (TENSOR, Z[:, 0]), "counts": (TENSOR, torch.ones(N)),
    "kept": (TENSOR, torch.ones(N, dtype=torch.bool)), "weight": (TENSOR, torch.ones(C)),
    "n_classes": (COUNT, C), "C": (COUNT, C), "n_targets": (COUNT, 2), "k": (COUNT, 2),
    "top": (COUNT, 0), "start": (COUNT, 1), "stop": (COUNT, 0), "every": (COUNT, 2),
    "window": (COUNT, 1), "epochs": (COUNT, 3), "seed": (COUNT, 0), "ndim": (COUNT, 2),
    "hidden": (COUNT, 3), "inputs": (COUNT, 3), "n_words": (COUNT, 20),
    "length": (COUNT, 7), "size": (COUNT, 8), "depth": (COUNT, 8), "width": (COUNT, 4),
    "channels": (COUNT, 1), "stride": (COUNT, 1), "outputs": (COUNT, 4),
    "low": (COUNT, 1), "high": (COUNT, 5), "rate": (NUMBER, .3), "alpha": (NUMBER, .3), "beta": (NUMBER, .3),
    "A": (NUMBER, -4.), "smoothing": (NUMBER, .1), "clip": (NUMBER, 1e-7), "amount": (NUMBER, .1),
    "percentile": (NUMBER, 97), "trace": (NUMBER, .1), "speed": (NUMBER, 1.), "scale": (NUMBER, 1.),
    "dropout": (NUMBER, .2), "value": (NUMBER, 1.), "reduction": (CHOICE, "mean"), "kind": (CHOICE, "random"),
    "on": (CHOICE, "weights"), "dataset": (CHOICE, "mnist"), "generator": (OTHER, None),
    "layer": (CALL, None), "make": (CALL, None), "fit": (CALL, lambda loss: lambda x: x),
    "correction": (CALL, lambda logits, labels, T: 0), "network": (CALL, None),
    "model": (CALL, None), "flips": (OTHER, [(0, 1)]), "classes": (OTHER, [0, 1, 2]),
    "edges": (OTHER, (1., .5, 0.)), "path": (OTHER, None), "ignore_index": (COUNT, -100),
    **dict.fromkeys(HOOKS, (CALL, a_function)), "loss": (CALL, cross_entropy),
    "build": (CALL, lambda g: nn.Linear(3, C)),
    "optimizer": (CALL, lambda parameters: torch.optim.SGD(parameters, lr=.1)),
    "name": (CHOICE, "a name"), "title": (CHOICE, "a title"), "purpose": (CHOICE, "order"),
    "select": (CHOICE, "valid_loss"), "precision": (CHOICE, "fp32"),
    "method": (OTHER, PLAIN), "first": (OTHER, PLAIN), "hyperparameters": (OTHER, {}),
    "first_stage": (OTHER, None), "recipe": (OTHER, Recipe(epochs=1)), "folder": (OTHER, None),
    "init_state": (OTHER, {"x": Z}), "parameters": (OTHER, [nn.Parameter(Z)]),
    "runs": (OTHER, [Run(PLAIN, torch.arange(20) % C)]), "min_epochs": (COUNT, 0),
    "split_seed": (COUNT, 0), "batch_size": (COUNT, 8), "runs_at_once": (COUNT, 1),
    "valid_fraction": (NUMBER, .2), "lr": (NUMBER, .1), "eps": (NUMBER, 1e-6), "found_labels": (TENSOR, P),
    "dim": (COUNT, -1), "device": (OTHER, "cpu"), "dtype": (OTHER, torch.float32)}
OWN = { # where a name means something else
    **{(f, "dataset"): (OTHER, SMALL) for f in ("verified_mask", "unverified_mask", "train")},
    ("Method", "network"): (CALL, lambda build: build),
    ("Method", "layer"): (CALL, lambda C: nn.Identity()), ("Run", "labels"): (TENSOR, Y),
    ("DropoutNoiseLayer", "p"): (NUMBER, .5), ("Dropout", "p"): (NUMBER, .5),
    ("log_labels", "q"): (TENSOR, P), ("moved", "x"): (TENSOR, T), ("exact", "x"): (TENSOR, T),
    ("truncated_gce", "k"): (NUMBER, .5), ("weighted_gce", "k"): (NUMBER, .5),
    ("TruncatedGCELoss", "k"): (NUMBER, .5), ("check_k", "k"): (NUMBER, .5), ("pruned", "k"): (NUMBER, .5),
    ("LinearNoiseLayer", "start"): (NUMBER, .9), ("weighted_gce", "weight"): (TENSOR, torch.ones(N)),
    ("asymmetric", "kind"): (CHOICE, "sentence"),
    ("by_certainty", "target"): (TENSOR, P), ("ImageResNet", "depth"): (COUNT, 18),
    ("negative_log_likelihood", "logits"): (TENSOR, P.log()), ("two_stage", "x"): (TENSOR, Z),
    ("n_parameters", "model"): (CALL, nn.Linear(2, 2)), ("total", "p"): (TENSOR, P)}

# Arguments of data, pictures, figures and tables; paths are below the folder that `places` makes.

SWITCH, GENERATOR, TEXT, NAME, PATH, FOLDER, FILE, LIST, DICT, BYTES = (
    "switch", "generator", "text", "name", "path", "folder", "file", "list", "dict", "bytes")
ARRAY, IMAGES, LABELS, FLOATS, FRAME, COLUMN, DATASET = (
    "array", "images", "labels", "floats", "frame", "column", "dataset")
PIXELS, GIVEN = torch.arange(4 * 3 * 8 * 8, dtype=torch.uint8).view(4, 3, 8, 8), torch.tensor([0, 1, 0, 1])
TINY = data.Dataset("tiny", PIXELS, GIVEN, PIXELS, GIVEN, ("a", "b"))
FORM = data.Layout({"f": "0" * 64}, list)
IDX = struct.pack(">BBBBI", 0, 0, 8, 1, 3) + bytes(3)
POINTS = pd.DataFrame(dict(a=[1., 2], b=[1., 2], c=["p", "q"], d=[0, 1], e=[.1, .2]))
RUNS = pd.DataFrame([("mnist", "mlp", "symmetric", .1 * i, m, s, "lr=1") for i in range(3)
                     for m in ("cross_entropy", "savage", "unhinged") for s in range(3)],
                    columns=[*SETTING, "method", "seed", "variant"])
RUNS = RUNS.assign(**{c: np.random.default_rng(i).uniform(10, 90, len(RUNS))
                      for i, c in enumerate(("valid", "test", "last"))})
def runs(*more): return (FRAME, RUNS[[*SETTING, "method", *more]])

def measured(**changes):
    "Rows as `read_results` gives them, one of each metric."
    known = dict(paper="course", dataset="mnist", model="mlp", noise="none", rate=0., method="forward",
                 samples=0, seed=0, scale="smoke", variant="lr=1", lr=.1)
    row = dict.fromkeys(COLUMNS) | known | changes
    values = dict(valid_accuracy=50., accuracy_best_valid_accuracy=60., accuracy_last=55.)
    columns = ["paper", "table", *SETTING, "method", "seed", "scale", "variant", "lr", "metric", "value"]
    return pd.DataFrame([row | dict(metric=m, value=v) for m, v in values.items()])[columns]

IN = { # module → argument → (kind, a good value), where it means something else there
    "data": {"mean": (FLOATS, torch.zeros(3, 8, 8)), "x": (IMAGES, PIXELS), "contrast": (NUMBER, 1.),
             "turn": (FLOATS, torch.eye(192)), "name": (CHOICE, "mnist"), "train_x": (IMAGES, PIXELS),
             "train_y": (LABELS, GIVEN), "test_x": (IMAGES, PIXELS), "test_y": (LABELS, GIVEN),
             "classes": (LIST, ("a", "b")), "normalise": (CALL, data.Pixels()), "extra": (DICT, {}),
             "raw": (BYTES, IDX), "like": (NAME, "0" * 64), "path": (FILE, "f"),
             "expected": (NAME, data.digest(IDX)), "check": (SWITCH, True),
             "download": (SWITCH, False), "files": (DICT, {"f": "0" * 64}),
             "read": (CALL, list), "parse": (CALL, bytes), "key": (CHOICE, "data"), "default": (TEXT, "x"),
             "folder": (FOLDER, "data"), "device": (NAME, "cpu"), "text": (TEXT, "a b"),
             "reviews": (LIST, ["a b", "b"]), "size": (COUNT, 5), "numbers": (DICT, {"a": 3}),
             "length": (COUNT, 4), "make": (CALL, dict), "sheet": (ARRAY, np.zeros((2, 1024, 3), np.uint8)),
             "labels": (LABELS, GIVEN), "layouts": (LIST, (FORM,)), "n": (COUNT, 2), "n_test": (COUNT, 2),
             "fraction": (NUMBER, .5), "generator": (GENERATOR, None), "index": (LABELS, GIVEN),
             "down": (LABELS, GIVEN), "right": (LABELS, GIVEN), "fill": (CHOICE, "zero"),
             "padding": (COUNT, 2), "width": (NUMBER, .2), "height": (NUMBER, .2), "root": (PATH, "data")},
    "image_files": {"files": (LIST, ["0.png", "1.png"]), "resized": (COUNT, 16), "side": (COUNT, 8),
                    "squash": (SWITCH, True), "device": (NAME, torch.device("cpu")),
                    "file": (FILE, "keys.txt"), "dim": (COUNT, 0), "rows": (LABELS, torch.tensor([1, 0])),
                    "size": (COUNT, 1), "noisy": (DICT, dict(a=0, b=1)), "clean": (DICT, dict(a=0, b=1)),
                    "without": (LIST, []), "true": (LABELS, GIVEN), "given": (LABELS, GIVEN),
                    "x": (IMAGES, PIXELS), "images": (IMAGES, PIXELS), "folder": (FOLDER, "data"),
                    "part": (CHOICE, "noisy"), "name": (NAME, "w-01234567.pth"), "check": (SWITCH, True),
                    "others": (LIST, []), "published": (CHOICE, "ResNet50_Weights.IMAGENET1K_V1"),
                    "weights": (DICT, None), "generator": (GENERATOR, None), "network": (CHOICE, "alexnet"),
                    "batch_size": (COUNT, 2), "cache": (PATH, None), "dataset": (DATASET, TINY)},
    "plots": {
        "name": (TEXT, "forward"), "names": (LIST, ["forward", "savage"]),
        "frame": (FRAME, POINTS[["a", "b", "c", "e"]]), "x": (COLUMN, "a"),
        "y": (COLUMN, "b"), "by": (COLUMN, "c"), "error": (COLUMN, "e"),
        **dict.fromkeys(("title", "x_label", "y_label", "z_label", "label"), (TEXT, "t")),
        "log_x": (SWITCH, False), "log_y": (SWITCH, False), "signed": (SWITCH, False), "bins": (COUNT, 3),
        "classes": (LIST, ["p", "q"]), "T": (ARRAY, np.eye(2)), "Ts": (LIST, [np.eye(2)]),
        "titles": (LIST, ["t"]), "limit": (NUMBER, 3.), "half": (NUMBER, .5), "captions": (LIST, ["p", "q"]),
        "columns": (COUNT, 2), "p": (ARRAY, np.eye(3)), "points": (ARRAY, [[.5, .2]]),
        "groups": (DICT, dict(a=np.eye(3))), "corners": (LIST, ("p", "q", "r")),
        "function": (CALL, lambda p: p[..., 0]), "z": (ARRAY, np.zeros((3, 2)))},
    "head_to_head": {
        "scale": (CHOICE, "smoke"), "tables": (LIST, ("head_to_head",)), "noise": (TEXT, "symmetric"),
        "dataset": (TEXT, "mnist"), "without": (LIST, ("forward",)), "p": (ARRAY, np.array([.01, .5])),
        "rival": (CHOICE, "cross_entropy"), "k": (COUNT, 3), "n": (COUNT, 4), "alpha": (NUMBER, .05),
        "first": (COUNT, 2), "runs": runs("seed", "test", "valid"), "picked": runs("seed", "test")},
    "distributed": {"device": (CHOICE, "cpu"), "program": (LIST, ["-c", "pass"]), "processes": (COUNT, 1)}}
OWN |= {
    ("Dataset", "name"): (TEXT, "d"), ("Dataset.to", "device"): (NAME, "cpu"),
    ("unpickled", "raw"): (BYTES, b"]."), ("kept", "path"): (PATH, "kept"),
    ("human_labels", "name"): (CHOICE, "cifar10"), ("human_labels", "check"): (SWITCH, False),
    ("folder_setting", "key"): (CHOICE, "data"), ("unpack_sheet", "labels"): (LABELS, torch.tensor([1, 2])),
    ("torch_loaded", "raw"): (BYTES, None), ("digest", "raw"): (BYTES, b"x"),
    ("ImageFiles.read", "file"): (FILE, "0.png"), ("read_labels", "file"): (FILE, "labels.txt"),
    ("read_weights", "file"): (FILE, "w.pth"), ("read_clothing1m", "folder"): (FOLDER, "data/clothing1m"),
    **{(f, "folder"): (FOLDER, "data") for f in ("feature_network", "pretrained_features", "as_features")},
    ("pretrained_features", "side"): (COUNT, 64),
    **{(f, "check"): (SWITCH, False)
       for f in ("imagenet_weights", "feature_network", "pretrained_features", "as_features")},
    ("numbered_points", "frame"): (FRAME, POINTS[["a", "b", "d"]]),
    ("numbered_points", "by"): (COLUMN, "d"), ("histogram", "frame"): (FRAME, POINTS[["a", "c"]]),
    ("bars", "frame"): (FRAME, POINTS[["c", "b", "d", "e"]]),
    ("bars", "x"): (COLUMN, "d"), ("gains", "frame"): (FRAME, POINTS[["a", "b"]]),
    ("ranks", "frame"): (FRAME, pd.DataFrame(dict(rank=[1., 2], kind=["p", "q"]))),
    ("images", "x"): (ARRAY, np.zeros((2, 4, 4), np.uint8)),
    ("landscape", "x"): (ARRAY, [0., 1]), ("landscape", "y"): (ARRAY, [0., 1, 2]),
    ("tried", "results"): (FRAME, measured(table="head_to_head").drop(columns="lr")),
    ("few_checked", "results"): (FRAME, measured(table="noisy_only").drop(columns="variant")),
    ("mean_ranks", "runs"): runs("test"),
    **{(f, "runs"): runs("seed", "valid") for f in ("chosen", "free_choice")}}
MADE = dict(generator=seeded, layer=lambda: nn.Identity(), make=lambda: lambda n: nn.Identity(),
            network=lambda: nn.Linear(3, 2), model=lambda: nn.Linear(2, 2))
MADE |= {("fine_tuned", "weights"): lambda: residual(), ("frozen_alexnet", "weights"): lambda: convolutions(),
         ("torch_loaded", "raw"): lambda: saved(torch.ones(2))}

def saved(content):
    torch.save(content, file := io.BytesIO())
    return file.getvalue()

@cache
def convolutions():
    return {n: v for n, v in models.alexnet().state_dict().items() if n.startswith("features")}

@cache
def residual(): return models.resnet50().state_dict()

def write(file, content):
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_bytes(content if isinstance(content, bytes) else content.encode())

def picture(file):
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 20), (9, 99, 200)).save(file)

def shop(folder, keys=tuple(f"images/{i}.png" for i in range(14))):
    "Clothing1M's layout with one picture a class, the last one for testing."
    for key in keys: picture(f"{folder}/{key}")
    for name, part in zip(image_files.LISTS, (keys[:-1], keys[-1:], keys, keys, keys[:-1])):
        write(f"{folder}/{name}",
              "".join(f"{k}{f' {i}' * name.endswith('kv.txt')}\n" for k in part for i in [keys.index(k)]))

@pytest.fixture(scope="module")
def places(tmp_path_factory):
    "A folder with a file of every kind that functions read."
    folder = tmp_path_factory.mktemp("places")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shop("data/clothing1m")
        for part in ("train", "val"): picture(f"data/imagenet/{part}/cat/0.png")
        for file, content in {"f": IDX, "keys.txt": "0.png\n", "labels.txt": "0.png 1\n",
                              "empty": b"", "damaged": b"\x93\xff\x00\xfe" * 9,
                              "w.pth": saved(dict(w=torch.ones(2)))}.items():
            write(file, content)
        for i in range(2): picture(f"{i}.png")
        write("data/resnet50-0676ba61.pth", saved(dict(w=torch.ones(2))))
        write("data/alexnet_imagenet_features.pth", saved(convolutions()))
        write("data/cifar-n/CIFAR-10_human.pt", saved(dict(clean_label=np.array([1, 2]))))
    return folder

@pytest.fixture(autouse=True)
def in_place(places, monkeypatch):
    "No test sees the settings, data or cache of the person who runs it, and none downloads."
    def refuse(*_, **__): raise AssertionError("would download")
    monkeypatch.chdir(places)
    monkeypatch.delenv("NOISY_COURSE_DATA", raising=False)
    monkeypatch.setenv("NOISY_COURSE_CACHE", str(places / "cache"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(data, "_download", refuse)

NOT_FOR_USERS = { # name → why bad values of it are not tried
    "pick": "tables: test_bad_input_lab",
    **dict.fromkeys(("require", "check_frame", "check_number", "check_count", "kind", "tolerance", "total",
                     "atomic_write", "skip_checks", "checks_skipped", "check_values", "loss_function",
                     "LossModule", "prepared", "reduce", "classes_last", "check_rate", "check_labels",
                     "check_transition", "check_target", "check_tensors", "check_logits", "check_weight",
                     "check_q", "check_k", "check_A", "check_weights", "check_smoothing",
                     "check_lids", "check_prior", "check_probabilities", "check_percentile", "finest",
                     "moved", "exact", "box_cox", "log_labels", "examples"), "what the checks are made of"),
    **dict.fromkeys(("class_accuracy", "confidence", "true_positives", "beliefs", "dimensionality",
                     "embedding", "prune", "relabel", "recovery", "label_accuracy",
                     "labels_found", "step_one_loss", "step_two_loss", "nnaqc_of_both", "Beside",
                     "turned", "label_weight"), "called by the engine with what it made itself"),
    **dict.fromkeys(("save_noise", "load_noise", "recorded"), "files: test_noise"),
    **dict.fromkeys(("stages", "TrainingState", "Trainer", "Trained", "partition", "train_together",
                     "same_run", "first_stage_runs", "first_stage_of", "with_first_stage",
                     "rounds", "has_first_stages", "run_epochs", "train_rounds", "counter", "check_runs",
                     "check_run", "check_method", "check_recipe", "check_epochs"), "what `train` is made of"),
    **dict.fromkeys(("AddChannel", "ResidualBlock", "last_hidden"), "parts of networks"),
    **dict.fromkeys(("gathered", "DistributedTrainer", "joined", "train_distributed", "check_distributed"),
                    "in processes that torchrun started, with what the engine checked: test_distributed")}

def methods(module, name):
    "The methods of a class of data: name → function of an object that is made anew."
    made, here = getattr(module, name), f"{name}."
    found = {n: f for n, f in vars(made).items()
             if inspect.isfunction(f) and (n == "__call__" or not n.startswith("_"))}
    def bound(n): return lambda **kwargs: getattr(made(**good(name)), n)(**kwargs)
    for n, f in found.items():
        call = bound(n)
        call.__signature__ = inspect.Signature(list(inspect.signature(f).parameters.values())[1:])
        if call.__signature__.parameters: yield here + n, call

def public():
    "Functions and classes by name, with their modules."
    for short in MODULES:
        module = importlib.import_module(f"noisy_course.{short}")
        for name in module.__all__:
            thing = getattr(module, name)
            if not (inspect.isfunction(thing) or inspect.isclass(thing)) or name in NOT_FOR_USERS: continue
            yield name, (thing, short)
            if short in ("data", "image_files") and inspect.isclass(thing):
                yield from ((n, (f, short)) for n, f in methods(module, name))

FOUND = dict(public())
PUBLIC, MODULE = ({name: pair[i] for name, pair in FOUND.items()} for i in (0, 1))

def arguments(name):
    "The arguments of a function: name → (kind, good value, default)."
    here = GOOD | IN.get(MODULE[name], {})
    named = (p for p in inspect.signature(PUBLIC[name]).parameters.values()
             if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
    known = {p.name: (OWN.get((name, p.name)) or here.get(p.name), p.default) for p in named}
    flags = {a for a, (good, default) in known.items()
             if isinstance(default, bool) and not (good and good[0] == SWITCH)}
    return {a: (*(good or (FLAG, default)), default)
            for a, (good, default) in known.items() if a not in flags}

def made(name, a, value):
    "A good value of an argument, made anew where it has a state."
    make = MADE.get((name, a)) or MADE.get(a)
    return make() if value is None and make else value

def good(name):
    "Good values for a function's arguments."
    return {a: made(name, a, value) for a, (_, value, _) in arguments(name).items()}

NOTHING = dict(none=None, number=3.5, list=[3.5], imaginary=1j, thing=object())
PATHS = NOTHING | dict(empty="", zero="a\0b")
BAD = {NUMBER: dict(none=None, text="x", nan=math.nan, imaginary=1j, list=[.5],
                    tensor=torch.rand(3), infinite=math.inf, low=-1e9),
       COUNT: dict(none=None, text="x", nan=math.nan, half=2.5, list=[1], low=-3),
       CHOICE: dict(none=None, text="no such thing", number=3), CALL: dict(none=None, number=3, text="x"),
       TENSOR: dict(none=None, text="x", number=3., list=[1, 2], array=np.zeros(3),
                    imaginary=torch.zeros(2, dtype=torch.complex64), bool=torch.tensor(True)),
       OTHER: dict(none=None, number=3.5, text="x"), SWITCH: NOTHING | dict(text="no", one=1),
       GENERATOR: NOTHING | dict(seed=0, text="x", numpy=np.random.default_rng(0)),
       TEXT: NOTHING | dict(bytes=b"x"), NAME: NOTHING | dict(empty="", text="no such thing"),
       PATH: PATHS, FOLDER: PATHS | dict(missing="no such folder", file="f"),
       FILE: PATHS | dict(missing="no such file", folder="data", nothing="empty", damaged="damaged"),
       LIST: NOTHING | dict(text="x", mapping={"x": 1}, bool=[True], tensor=torch.tensor(1.)),
       DICT: NOTHING | dict(text="x", keys={3: 1}, values={"a": None}, pairs=[("a", 1)]),
       BYTES: NOTHING | dict(text="x", empty=b"", damaged=b"\x93\xff\x00\xfe" * 9),
       DATASET: NOTHING | dict(text="mnist", tensor=PIXELS),
       ARRAY: dict(none=None, text="x", thing=object(), empty=[],
                   ragged=[[1.], [1., 2]], words=[["a", "b"]], mapping={"a": 1.}),
       COLUMN: dict(number=3, list=["a"], text="no such column", thing=object()),
       **dict.fromkeys((IMAGES, LABELS, FLOATS),
                       dict(none=None, text="x", number=3., list=[1, 2], array=np.zeros(3),
                            series=pd.Series([0, 1, 0, 1]), bool=torch.tensor(True))),
       FRAME: NOTHING | dict(text="x", mapping={"a": [1]}, array=np.zeros((2, 2)), nothing=pd.DataFrame(),
                             series=pd.Series([1.]))}

def spoiled(frame):
    "A table without one column, with gaps or words in one, and without rows."
    yield "rows", frame.head(0)
    for c in frame:
        yield f"without {c}", frame.drop(columns=c)
        yield f"gaps in {c}", frame.assign(**{c: None})
        if pd.api.types.is_float_dtype(frame[c]):
            for word, value in (("NaN", math.nan), ("infinity", math.inf), ("words", "x")):
                yield f"{word} in {c}", frame.assign(**{c: value})

def spoiled_numbers(x):
    "Numbers with another shape, or not finite."
    x = np.asarray(x, float)
    yield from {"NaN": x * np.nan, "infinite": x + np.inf, "imaginary": x + 1j,
                "flat": x.flatten()[0], "too many": np.stack([np.stack([x] * 7)] * 3),
                "gradient": torch.tensor(x, requires_grad=True)}.items()

def spoiled_tensors(kind, x):
    "Tensors of another type or shape."
    yield from {"complex": x.to(torch.complex64), "truth": x > 0, "flat": x.flatten()[:1].reshape(()),
                "none of it": x[:0]}.items()
    if kind != LABELS: yield "NaN", x * math.nan
    if kind == LABELS:
        yield from {"floats": x.float(), "negative": x - 9, "high": x + 99, "column": x[:, None],
                    "longer": x.repeat(3)}.items()
    if kind == FLOATS: yield from {"infinite": x + math.inf, "whole": x.long()}.items()

def bad(kind, value):
    """Bad values for an argument, by a word for each; of a tensor also the good one with
    another shape, or with NaN."""
    yield from BAD.get(kind, {}).items()
    if kind == FRAME: yield from spoiled(value)
    if kind == ARRAY: yield from spoiled_numbers(value)
    if kind in (IMAGES, LABELS, FLOATS): yield from spoiled_tensors(kind, value)
    if kind == LIST and value:
        yield from {"none of it": type(value)(), "things": type(value)([object()] * len(value)),
                    "one too many": type(value)([*value, value[0], value[0]])}.items()
    if kind == BYTES and value: yield "cut", value[:-1]
    if kind == TENSOR:
        yield "flat", value.flatten()[:1].reshape(())
        yield "too many", torch.stack([torch.stack([value] * 7)] * 3)
        if value.is_floating_point() and not value.isnan().any():
            yield "whole", value.long()
            yield "NaN", value * math.nan
            yield "infinite", value + math.inf

FINE = { # (function or *, argument, word): a bad value that is a good one there
    ("mix_with_identity", "T", "too many"), ("invert", "T", "too many"),
    ("estimate_transition", "probs", "too many"), ("update_soft", "past", "flat"),
    ("*", "name", "text"), ("*", "title", "text"), ("*", "purpose", "text"), ("train", "folder", "text"),
    ("generator", "seed", "low"), ("Run", "seed", "low"), ("Run", "split_seed", "low"),
    *(("Run", "found_labels", word) for word in ("NaN", "infinite")), # of a first stage that diverged
    ("*", "ignore_index", "low"), ("*", "dim", "low"), ("*", "A", "low"),
    ("*", "x", "too many"), ("*", "scale", "low"), ("entropy_loss", "logits", "too many"),
    ("prior_loss", "logits", "too many"), ("*", "losses", "any"), ("realised", "clean", "flat"),
    ("corrupt", "labels", "flat"), ("corrupt", "labels", "too many"),
    ("standard_error", "clean", "flat"), ("standard_error", "clean", "too many"),
    ("weighted_gce", "weight", "whole"), ("ForwardCrossEntropyLoss", "T", "too many"),
    ("BackwardCrossEntropyLoss", "T", "too many"), ("open_set", "images", "whole"),
    ("open_set", "outside", "whole"), ("by_certainty", "edges", "text"),
    *(("*", a, "one too many")
      for a in ("files", "reviews", "layouts", "names", "without", "classes", "tables")), # longer lists
    *(("*", a, "none of it") for a in ("files", "reviews", "names", "without")), # nothing is made of nothing
    *((f, "x", word) for f in ("Pixels.__call__", "Whitened.__call__", "shift", "random_crop",
                               "random_flip", "random_shift", "imagenet_colours")
      for word in ("none of it", "NaN")), # empty batches; a data set with NaN is refused when it is made
    *((f, a, word) for f, a in (("shift", "down"), ("shift", "right"), ("batches", "index"))
      for word in ("negative", "high")), ("batches", "index", "longer"), ("batches", "index", "none of it"),
    ("devices", "device", "text"), ("launch", "program", "one too many"), ("Pixels.__call__", "x", "flat"),
    ("Dataset", "extra", "values"), *(("digest", "raw", word) for word in ("empty", "damaged", "cut")),
    ("Layout", "read", "none"), ("unpack_sheet", "labels", "list"),
    *(("ImageFiles.index_select", "rows", word) for word in ("truth", "none of it", "longer")),
    ("checksum_of", "name", "text"),
    *((f, "name", word) for f in ("pretty", "method_style")
      for word in ("none", "number", "imaginary", "thing", "bytes")), # whatever a column may hold
    *(("method_styles", "names", word) for word in ("list", "mapping", "bool", "things")),
    *((f, "classes", "things") for f in ("numbered_points", "matrices", "matrix")),
    ("matrices", "titles", "mapping"), ("images", "captions", "things"), ("images", "captions", "none"),
    *(("gains", "frame", f"{word} {c}") for word in ("without", "gaps in", "NaN in") for c in "ab"),
    ("to_triangle", "p", "too many"), ("from_triangle", "points", "too many"),
    ("two_stage", "percentile", "none"), ("two_stage", "T", "too many"),
    *(("two_stage", "x", word) for word in ("too many", "imaginary", "whole", "NaN", "infinite"))}

CASES = [(name, a, word) for name in PUBLIC for a, (kind, value, default) in arguments(name).items()
         for word, wrong in dict(bad(kind, value)).items()
         if not (wrong is None and default is None) and not {(name, a, word), ("*", a, word)} & FINE]

def clear(error, a, value):
    "Whether an error names the argument, or the file that it is."
    if f"expected the columns [{value!r}]" in str(error): return True
    message = str(error).split("\n")[0][:300]
    file = isinstance(value, str) and re.search(rf"(^|[\b/']){re.escape(value)}\b", str(error))
    if isinstance(error, OSError): return bool(file)
    return (isinstance(error, (ValueError, TypeError))
            and bool(file or re.search(rf"\b{a.removeprefix('soft_')}\b", message)))

def outcome(name, a, word):
    "What comes of a bad value: named, obscure or silent."
    kind, value, _ = arguments(name)[a]
    kwargs = good(name) | {a: dict(bad(kind, value))[word]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            got = PUBLIC[name](**kwargs)
            if inspect.isgenerator(got): list(got)
        except Exception as error:
            return "named" if clear(error, a, kwargs[a]) else f"obscure: {error!r:.150}"
    return "silent"

@pytest.mark.parametrize("name", PUBLIC)
def test_good_values_are_taken(name):
    unknown = [a for a, (kind, value, default) in arguments(name).items()
               if kind == FLAG and default is inspect.Parameter.empty]
    assert unknown == [], "say in GOOD what these are"
    got = PUBLIC[name](**good(name))
    if inspect.isgenerator(got): list(got)

@pytest.mark.parametrize("name", PUBLIC)
def test_bad_values_are_refused_by_name(name):
    wrong = {(a, word): got for n, a, word in CASES if n == name and (got := outcome(n, a, word)) != "named"}
    assert wrong == {}

def test_every_public_function_is_tried():
    assert len(PUBLIC) >= 140 and len(CASES) >= 4300

def test_silence_is_heard(monkeypatch):
    monkeypatch.setitem(PUBLIC, "symmetric", lambda n_classes, rate: None)
    assert outcome("symmetric", "rate", "nan") == "silent"
    monkeypatch.setitem(PUBLIC, "read_keys", lambda file: Path(file).read_text(encoding="utf-8"))
    assert outcome("read_keys", "file", "nothing") == "silent"
    assert outcome("read_keys", "file", "missing") == "named"
    assert outcome("read_keys", "file", "damaged").startswith("obscure: UnicodeDecodeError")
