"""One block of runs: its data, noise and networks, how it is trained, and the notebook that trains it.

Papermill only warns of a parameter that a notebook does not know, and goes on with the default: a misspelt
sweep would run and be wrong. So the notebook builds its `Block` from what it was given, and refuses what
it does not know."""
import json
import os
import re
import shutil
import sys
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path

import pandas as pd
import papermill
import torch
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager

from noisy_course import data, noise
from noisy_course.basics import atomic_write, require
from noisy_course.distributed import check_distributed, devices, launch, train_distributed
from noisy_course.image_files import LOADERS, as_features, pretrained_features
from noisy_course.joint_optimization import pseudo_labels
from noisy_course.lab import grid
from noisy_course.lab.grid import Block, block_methods
from noisy_course.lab.locks import lock, place
from noisy_course.lab.protocols import HUMAN, PRETRAINED, REAL
from noisy_course.lab.results import NOTEBOOK, check_folder, missing, provenance
from noisy_course.losses import skip_checks
from noisy_course.models import MODELS, initialise
from noisy_course.training import SELECT, Run, Trained, generator, train, verified_mask


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
    require(0 < round(n * share) < n, "checked", f"a share that leaves some of {n} samples on either side",
            share)
    return torch.arange(n) < round(n * share)


# The data come first, as many as the block says, with labels or images that are not drawn by a T where it
# asks for them:
def block_data(
    block: Block, # to train
) -> data.Dataset: # with as many training samples as it says
    "The data of a block; with labels that no T has drawn, or images from outside, where it has them."
    own = dict(part=REAL[block.noise]) if block.noise in REAL else {}
    dataset = LOADERS.get(block.dataset, partial(data.load, block.dataset))(**own)
    if block.noise in HUMAN:
        dataset = replace(dataset, extra=dataset.extra
                          | dict(train_given=data.human_labels(block.dataset)[block.noise]))
    if block.samples: dataset = dataset.head(block.samples)
    require(not block.checked or block.noise not in (*REAL, "open_set"), "checked",
            "0 where labels come with the data or images from outside", block.checked)
    if block.checked:
        dataset = replace(dataset, extra=dataset.extra
                          | dict(train_checked=first_share(len(dataset.train_y), block.checked)))
    if block.noise == "pseudo": return replace(dataset, extra=dataset.extra | clustered(dataset))
    if block.inputs == "whitened": dataset = dataset.whitened()
    if block.inputs == "features": dataset = as_features(dataset, SEES, cache=_kept())
    if block.noise != "open_set": return dataset
    images, replaced = noise.open_set(dataset.train_x, data.load(block.outside).train_x, block.rate,
                                      generator(block.seeds[0], "open set"))
    return replace(dataset, train_x=images, extra=dataset.extra | dict(train_outside=replaced))


def block_T(
    block: Block, # to train
    dataset: data.Dataset, # its data
) -> torch.Tensor: # (C, C)
    "The noise matrix of a block; the identity for open-set noise, and what was counted for real noise."
    if block.noise in REAL: return dataset.extra["T"]
    if "train_given" in dataset.extra:
        return noise.realised(dataset.train_y.cpu(), dataset.extra["train_given"].cpu(), dataset.n_classes)
    if block.noise == "redrawn": return noise.symmetric(dataset.n_classes, block.rate, include_true=True)
    if block.noise == "sparse": return noise.sparse(dataset.n_classes, block.rate, 10, generator(0, "sparse"))
    if block.noise == "simplex":
        return noise.random_simplex(dataset.n_classes, block.rate, generator(0, "simplex"))
    if block.noise == "asymmetric":
        return noise.asymmetric(block.dataset, block.rate, block.flips or None, generator(0, "flips"))
    return noise.symmetric(dataset.n_classes, 0 if block.noise == "open_set" else block.rate)


def block_runs(
    block: Block, # to train
    dataset: data.Dataset, # its data
) -> list: # of Run, one a method and seed
    "The runs of a block: every method on the same noisy labels, seed by seed."
    T, same = (block_T(block, dataset),
               dataset.train_y if block.noise in REAL else dataset.extra.get("train_given"))
    drawn = lambda seed: noise.corrupt(dataset.train_y, T, generator(seed, "noise"))
    labels = {seed: drawn(seed) if same is None else same for seed in block.seeds}
    if block.checked:
        labels = {seed: torch.where(verified_mask(dataset), dataset.train_y, given)
                  for seed, given in labels.items()}
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


def train_block(
    block: Block, # to train
    dataset: data.Dataset, # its data
    runs: list, # its runs
    device: str = "cpu", # where to train
    folder: str | Path | None = None, # for checkpoints
    progress=None, # (run-epochs done, of how many) → None
) -> Trained:
    "Train all runs of a block, or read what is trained already from its checkpoints."
    return train(dataset, runs, block_network(block, dataset), grid.block_recipe(block), devices(device)[0],
                 folder, progress)


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
    final = grid.block_recipe(block).final_metrics
    with skip_checks(): last = [final(trained.training_state(i)) if final else {} for i in range(len(runs))]
    tables = [_run_rows(block, dataset, run, trained, i, last[i]) for i, run in enumerate(runs)]
    shared = {k: v for k, v in asdict(block).items() if k not in ("methods", "seeds")}
    known = dict(features=dataset.extra["features"]) if "features" in dataset.extra else {}
    rows = pd.concat(tables, ignore_index=True).assign(**shared, **known, block=block.name,
        **provenance(device, version))
    rows = rows.assign(identity=rows.method.map(block.identities))
    return rows.astype({"epoch": "Int64", "seed": "int64"})


def _run_rows(block, dataset, run, trained, i, final):
    curves, first = trained.curves.query("run == @i"), trained.first_stage(i)
    wide = _wide(curves)
    epochs = {"accuracy": wide.valid_loss.fillna(torch.inf).idxmin(), "accuracy_last": wide.index[-1]}
    epochs |= {f"accuracy_best_{v}": wide[v].idxmax() for v in SELECT[1:] if v in wide}
    select = grid.block_recipe(block).select
    reported = "accuracy" if select == "valid_loss" else f"accuracy_best_{select}"
    wrong, realised = _realised(block, dataset, run.labels)
    values = {name: wide.test_accuracy[epoch] for name, epoch in epochs.items()} | final
    if run.method.relabel and "label_accuracy" in set(first.curves.metric):
        values |= _recovered(_wide(first.curves), select)
    if dataset.n_classes <= 100: values |= _entries("true_T", run.T) | _entries("realised_T", realised)
    if run.method.estimate: values |= _entries("estimated_T", trained.runs[i].T)
    single = pd.DataFrame({"metric": list(values), "value": list(values.values())})
    shown = run.method.relabel or run.method.warm_start
    before = first.curves.assign(metric="first_" + first.curves.metric) if shown else curves[:0]
    rows = pd.concat([part[["epoch", "metric", "value"]] for part in (curves, before)] + [single],
                     ignore_index=True)
    seconds = wide.seconds.sum() + (_seconds(first) if shown else 0)
    return rows.assign(method=run.method.name, seed=run.seed, realised_rate=wrong,
                       epoch_chosen=int(epochs[reported]), seconds=seconds)

def _seconds(one): return _wide(one.curves).seconds.sum() + _seconds(one.first_stage(0)) if one else 0

def _wide(curves): return curves.pivot(index="epoch", columns="metric", values="value")
def _recovered(wide, select):
    return dict(recovery_best=wide.label_accuracy[wide[select].idxmax()],
                recovery_last=wide.label_accuracy.iloc[-1])

def _realised(block, dataset, labels):
    if block.noise in REAL: return dataset.extra["wrong"].item(), dataset.extra["T"]
    wrong = dataset.wrong(labels.to(dataset.train_y.device)).double().mean().item()
    return wrong, noise.realised(dataset.train_y.cpu(), labels, dataset.n_classes)

def _entries(name, T):
    return {f"{name}[{i},{j}]": T[i, j].item() for i in range(len(T)) for j in range(len(T))}


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
    require(not unknown, ", ".join(sorted(unknown)),
            f"only the parameters {', '.join(names)}, {', '.join(own)}", "an unknown parameter")
    require(not missing, ", ".join(sorted(missing)), "a value", "none")
    block = Block(**{k: tuple(given[k]) if isinstance(given[k], list) else given[k] for k in names})
    require(given["block_name"] in ("", block.name), "block_name",
            f"{block.name}, the name of these parameters", given["block_name"])
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
    check_distributed(device, grid.block_recipe(block))
    if (n := len(devices(device))) == 1: return
    require(results, "results", f"a folder, in which {n} processes leave what they train", repr(results))
    code = "import sys; from noisy_course.lab.job import train_part; train_part(sys.argv[1])"
    launch(["-c", code, json.dumps(parameters(block, device, results))], n)

def train_part(
    given: str, # a block as papermill parameters, in JSON
) -> None:
    "What each of the processes does."
    torch.set_num_threads(1)
    block, settings = block_from(json.loads(given), set())
    dataset, folder = block_data(block), Path(settings["results"])
    train_distributed(dataset, block_runs(block, dataset), block_network(block, dataset),
                      grid.block_recipe(block), settings["device"],
                      folder / "checkpoints" / block.checkpoints, note_progress(folder, block.name))


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
    own = dict(IPYTHONDIR="ipython", JUPYTER_RUNTIME_DIR="runtime", JUPYTER_CONFIG_DIR="config",
               JUPYTER_DATA_DIR="data")
    home = results / ".home"
    home.mkdir(exist_ok=True)
    with _set({k: str(home / v) for k, v in own.items() if k not in os.environ}): yield

@contextmanager
def _set(environment):
    old = {k: os.environ.get(k) for k in environment}
    os.environ.update(environment)
    try: yield
    finally: [os.environ.pop(k) if v is None else os.environ.update({k: v}) for k, v in old.items()]

def _literally(path): return re.sub("([{}])", r"\1\1", str(path))


def check_device(
    device: str, # one, or several with commas between them
) -> None:
    "Refuse a word that names no device; whether this machine has it is another question."
    require(isinstance(device, str), "device", "a word", repr(device))
    for name in devices(device):
        require(re.fullmatch(r"cpu|mps|cuda(:\d+)?", name), "device",
                "cpu, cuda, cuda:1, cuda:0,cuda:1 or mps", repr(device))

def execute_block(
    block: Block, # to train
    results: str | Path, # folder
    device: str = "cpu", # where to train
) -> Path: # the result file
    "Train what a block's result lacks, in its notebook."
    require(isinstance(block, Block), "block", "a Block", repr(block))
    check_folder(results, "results")
    check_device(device)
    results = Path(results).resolve()
    path = results / f"{block.name}.parquet"
    with lock(results / "locks" / block.name, wait=True):
        todo = missing([block], results)
        if not todo: return path
        with place(device, results) as free, _notes_in(results):
            _execute(parameters(*todo, free, results), results)
        shutil.rmtree(results / "checkpoints" / block.name, ignore_errors=True)
    return path

def _execute(given, results):
    unknown = set(given) - set(papermill.inspect_notebook(_literally(NOTEBOOK)))
    require(not unknown, ", ".join(sorted(unknown)), f"parameters of {NOTEBOOK.name}", "unknown ones")
    executed = results / "notebooks" / f"{given['block_name']}.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    options = dict(kernel_name="python3", kernel_manager_class=OwnKernel, progress_bar=False,
                   start_timeout=600)
    papermill.execute_notebook(_literally(NOTEBOOK), _literally(executed), given, **options)


# A worker of a batch calls this with the batch's plan and a block's name:
def execute_planned(
    plan: str | Path, # the batch's plan.json
    name: str, # of the block
) -> Path: # the result file
    "Train one block of a batch's plan: python -m noisy_course.lab.job PLAN NAME"
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
        with atomic_write(path) as part: part.write_text(json.dumps([done, total]))
    return note


# A batch checks what it can before the first block starts, and brings the data here once: jobs on a cluster
# may have no internet, and twenty of them should not fetch the same file.
def data_of(
    block: Block, # to train
) -> set: # names
    "The data sets that a block needs."
    return ({block.dataset} | ({block.outside} if block.outside else set())
            | ({f"{block.dataset}n"} if block.noise in HUMAN else set()))

def bring_data(
    blocks: list, # of Block
) -> None:
    "Bring data and pretrained weights to this machine, or say what is missing."
    for name in sorted({name for block in blocks for name in data_of(block)} - set(LOADERS)): data.fetch(name)
    for name, kind in sorted({(b.dataset, b.noise) for b in blocks if b.dataset in LOADERS}):
        LOADERS[name](**(dict(part=REAL[kind]) if kind in REAL else {}))
    for name in sorted({b.network or b.model for b in blocks} & set(PRETRAINED)): PRETRAINED[name][0]()


if __name__ == "__main__": execute_planned(*sys.argv[1:])
