"""From a paper's table to result files: plans, blocks, papermill, and any of them killed."""
import errno
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
import psutil
import pytest
import torch
from hypothesis import given, settings, strategies as st

from noisy_course import training
from noisy_course.lab import batch, forecast, grid, identity, job, papers, protocols, results
from noisy_course.lab.batch import main, run_blocks
from noisy_course.lab.grid import Block, block_recipe, blocks, plan
from noisy_course.lab.job import (block_data, block_from, block_runs, execute_block, execute_planned,
                                  note_progress, parameters, train_block)
from noisy_course.lab.locks import lock
from noisy_course.lab.job import result_rows
from noisy_course.lab.results import NOTEBOOK, missing, provenance, write_result
from noisy_course.lab.papers import TABLES
from noisy_course.lab.papers.patrini2017 import PATRINI, TEN
from noisy_course.lab.protocols import METHODS, SCALES
from noisy_course.lab.cells import ASSETS, published
from noisy_course.lab.comparison import published_tables
from noisy_course.lab.results import flaw, read_file, read_results
from noisy_course.data import Dataset

TABLE2 = ("patrini2017", "table2")
COLUMNS = {"paper", "table", "dataset", "model", "method", "noise", "rate",
           "samples", "seed", "scale", "block", "metric", "epoch", "value", "commit",
           "dirty", "torch", "python", "device", "machine", "seconds", "realised_rate", "epoch_chosen"}

COLUMNS_SAID = sorted(COLUMNS - {"commit", "torch", "python", "machine"})

def tiny(**changes):
    "A block of a second: cross-entropy, and forward correction with an estimate, on 300 digits."
    return replace(Block(*TABLE2, "mnist", "mlp", "asymmetric", .6, samples=300,
                         scale="smoke", epochs=2, dropout=.5, percentile=97., variant="",
                         methods=("cross_entropy", "forward_estimated"), seeds=(0,)), **changes)

def trained(block):
    "A block's rows, trained right here."
    dataset = block_data(block)
    runs = block_runs(block, dataset)
    return result_rows(block, dataset, runs, train_block(block, dataset, runs))

pytestmark = pytest.mark.usefixtures("one_thread")

@pytest.fixture(scope="module")
def rows(): return trained(tiny())

def same_numbers(a, b):
    "All values but times."
    keys = ["method", "seed", "metric", "epoch", "value", "epoch_chosen", "realised_rate", "block"]
    a, b = (rows[~rows.metric.str.contains("seconds")][keys].sort_values(keys[:4]).reset_index(drop=True)
            for rows in (a, b))
    pd.testing.assert_frame_equal(a, b, check_exact=True)

class Process:
    "A process that trains nothing."
    def __init__(self, *_, on_poll=lambda: 1, **__):
        self.poll, self.waited, self.environment = on_poll, False, dict(os.environ)
    def wait(self, timeout=None): self.waited = True
    def send_signal(self, sent): self.sent = sent

def never(*_, **__): raise AssertionError("called")


# --- plans ---

def test_the_first_papers_mnist_block():
    rows = plan(*TABLE2, "paper", dataset="mnist")
    assert len(rows) == 200
    assert (rows.groupby(["method", "noise", "rate"]).seed.apply(list)
            .map(lambda seeds: seeds == [0, 1, 2, 3, 4]).all())
    assert set(rows.method) == set(TEN) and (rows.epochs == 40).all() and (rows.samples == 0).all()
    assert [len(b.methods) * len(b.seeds) for b in blocks(rows)] == [50] * 4

def test_the_whole_table():
    rows = plan(*TABLE2, "paper")
    runs = {(p.dataset, p.model): 40 * (5 if p.dataset in ("mnist", "imdb") else 1) for p in PATRINI}
    assert len(PATRINI) == 6 and rows.groupby(["dataset", "model"]).size().to_dict() == runs
    assert len(rows) == 720
    cells = ["dataset", "model", "method", "noise", "rate"]
    assert (set(rows[cells].itertuples(index=False, name=None))
            == set(published(*TABLE2)[cells].itertuples(index=False, name=None)))

@pytest.mark.parametrize("table, n", [("figure1", 5 * (5 * 8 + 2 * 5 * 5 + 3 * 8)), ("text", 5 * 4 * 10),
                                      ("ablation", 2 * 4 * (10 + 2 + 2))])
def test_other_tables(table, n): assert len(plan("patrini2017", table, "paper")) == n

def test_the_second_papers_tables():
    for table, n in (("table1", 144 * 5), ("table2", 2 * 5 * 5), ("open_set", 2 * 5 * 5),
                     ("figure1", 5 * 5 * 3), ("figure2", 5 * (3 + 5) * 7)):
        assert len(plan("zhang2018", table, "paper")) == n
    cells = ["dataset", "model", "method", "noise", "rate"]
    ours = lambda table: set(plan("zhang2018", table, "paper")[cells].itertuples(index=False, name=None))
    theirs = lambda table: set(published("zhang2018", table)[cells].itertuples(index=False, name=None))
    assert ours("table1") == theirs("table1")
    assert {cell[2] for cell in theirs("table2") - ours("table2")} == {"wang2018"}
    fields = ["epochs", "prune_start", "prune_every", "flips", "network"]
    paper = plan("zhang2018", "table1", "paper").groupby("dataset")[fields].agg(lambda c: c.unique().item())
    assert paper.loc["cifar100"].tolist() == [150, 80, 10, "circle", ""]
    assert paper.loc["fashion_mnist"].tolist() == [120, 40, 10, "", ""]

def test_the_fourth_papers_tables():
    cells = ["dataset", "model", "method", "noise", "rate"]
    for table in ("table1", "table1b", "table1c", "table2", "table5"):
        ours, theirs = (set(frame[cells].itertuples(index=False, name=None))
                        for frame in (plan("jindal2019", table, "paper"), published("jindal2019", table)))
        assert theirs <= ours and {cell[:3] for cell in ours - theirs} <= {("mnist", "lenet", "forward_qc")}
    samples = lambda table: plan("jindal2019", table, "paper").groupby("dataset").samples.unique()
    sizes = {table: sorted(samples(table).map(lambda s: s.item()).items())
             for table in ("table1", "table1b", "table1c")}
    assert sizes == dict(table1=[("cifar10", 0), ("mnist", 0)],
                         table1b=[("cifar10", 30000), ("mnist", 40000)],
                         table1c=[("cifar10", 10000), ("mnist", 20000)])

def test_noise_on_the_simplex_is_one_matrix_of_a_block():
    block = tiny(paper="jindal2019", table="table1", model="lenet", noise="simplex", rate=.3, seeds=(0, 1))
    data = block_data(block)
    T = job.block_T(block, data)
    assert torch.allclose(T.diagonal(), torch.full((10,), .7).double())
    assert torch.allclose(T.sum(1), torch.ones(10).double()) and len(T[0].unique()) == 10
    assert all(torch.equal(run.T, T) for run in block_runs(block, data))

def test_the_third_papers_tables():
    cells = ["dataset", "model", "method", "noise", "rate"]
    for table in ("table1", "table2"):
        rows = plan("wang2019", table, "paper")
        assert (set(rows[cells].itertuples(index=False, name=None))
                == set(published("wang2019", table)[cells].itertuples(index=False, name=None)))
        assert not rows.duplicated([*cells, "seed"]).any() and (rows.groupby(cells).size() == 5).all()
    rows = (plan("wang2019", "table1", "paper", method="symmetric_cross_entropy")
            .set_index(["dataset", "noise", "rate"])[["alpha", "beta", "A"]].sort_index())
    told = {key: tuple(rows.loc[key].iloc[0])
            for key in (("mnist", "none", 0), ("cifar10", "asymmetric", .3), ("cifar10", "asymmetric", .4),
                        ("cifar100", "symmetric", .8), ("cifar100", "asymmetric", .4))}
    assert list(told.values()) == [(.01, 1, -4), (.1, 1, -4), (.1, 5, -4), (6, .1, -4), (2, .1, -4)]

def test_the_fifth_papers_tables():
    cells = ["dataset", "model", "method", "noise", "rate"]
    for table in ("table1", "table2", "table3"):
        ours, theirs = (set(frame[cells].itertuples(index=False, name=None))
                        for frame in (plan("tanaka2018", table, "paper"), published("tanaka2018", table)))
        assert ours <= theirs
        assert {cell[2] for cell in theirs - ours} <= {"cnn_crf", "cross_entropy_quoted", "forward_quoted"}
        assert set(published("tanaka2018", f"{table}_best").method) <= {cell[2] for cell in theirs}
    numbers = (plan("tanaka2018", "table1", "paper", method="joint_optimization").drop_duplicates("rate")
               .set_index("rate"))
    five = pd.read_csv(ASSETS/"appendix"/"tanaka2018_table5.csv").set_index("rate")
    pd.testing.assert_frame_equal(numbers[["alpha", "beta", "lr"]], five[["alpha", "beta", "lr"]],
                                  check_names=False)
    assert (numbers.epochs == 120).all() and (numbers.first_epochs == 200).all()
    assert (numbers.label_start == 70).all()
    small = plan("tanaka2018", "table1", "laptop").iloc[0]
    assert (small.epochs, small.first_epochs, small.label_start) == (60, 100, 35)
    assert (small.network, small.samples, small.inputs) == ("mlp", 10000, "features")

def test_the_fifth_papers_parameters():
    "Tables 6 to 11: every printed setting is planned, three runs each, and nothing else."
    keys = ["noise", "rate", "alpha", "beta", "lr", "label_start", "label_stop"]
    printed = pd.read_csv(ASSETS/"appendix"/"tanaka2018_parameters.csv").groupby("table")
    for table, part in printed:
        ours = plan("tanaka2018", table, "paper").assign(
            label_stop=lambda rows: rows.label_stop.where(rows.label_stop > 0, rows.first_epochs))
        assert (set(ours[keys].itertuples(index=False, name=None))
                == set(part[keys].itertuples(index=False, name=None))), table
        assert (ours.groupby(keys).size() == 3).all()

@pytest.fixture
def two_steps(monkeypatch):
    "A block of joint optimization on digits, tiny."
    part = replace(papers.tanaka2018.DRESSES, dataset="mnist", noises=(("redrawn", .5),),
                   usual=papers.tanaka2018.STEPS | dict(alpha=1.2, beta=.8, lr=.05))
    variants = ({}, ("cross_entropy", "joint_optimization")), (dict(top=3), ("joint_hard_optimization",))
    monkeypatch.setitem(TABLES, ("tanaka2018", "toy"), protocols.Grid((part,), variants))
    return [replace(b, samples=300, epochs=2, first_epochs=3, label_start=1, seeds=(0,))
            for b in blocks(plan("tanaka2018", "toy", "smoke"))]

def test_two_steps_in_one_result(two_steps):
    soft, hard = two_steps
    data = block_data(soft)
    runs = block_runs(soft, data)
    assert torch.allclose(runs[0].T.diagonal(), torch.full((10,), .55).double())
    assert block_recipe(soft).first_stage.epochs == 3
    trained_ = job.train_block(soft, data, runs)
    rows = job.result_rows(soft, data, runs, trained_).set_index("metric")
    joint, plain = (rows[rows.method == m] for m in ("joint_optimization", "cross_entropy"))
    labels = joint.loc["first_label_accuracy"]
    assert labels.epoch.tolist() == [1, 2, 3] and joint.loc["test_accuracy"].epoch.tolist() == [1, 2]
    assert joint.loc["recovery_last"].value == labels.value.iloc[-1]
    assert joint.loc["recovery_best"].value in labels.value.tolist()
    assert joint.filter(like="number[", axis=0).value.sum() == 270
    assert "first_label_accuracy" not in plain.index
    found, train_rows = trained_.runs[1].found_labels, trained_.training_state(1).train_rows
    assert labels.value.iloc[-1] == pytest.approx(
        100 * (found.argmax(1) == data.train_y)[train_rows].double().mean().item())
    assert joint.seconds.iloc[0] == pytest.approx(joint.loc["seconds"].value.sum()
                                                  + joint.loc["first_seconds"].value.sum())
    assert block_runs(hard, data)[0].method.first_stage.hyperparameters["top"] == 3

def test_learning_rates_of_one_step_and_of_two(two_steps):
    part = TABLES["tanaka2018", "figure2"].part("fashion_mnist", "mlp")
    one = next(b for b in blocks(plan("tanaka2018", "figure2", "laptop", dataset="fashion_mnist",
                                      variant="lr=0.2")))
    assert part.recipe.first_stage is None
    assert block_recipe(one).optimizer([torch.zeros(1, requires_grad=True)]).defaults["lr"] == .2
    recipe = block_recipe(replace(two_steps[0], lr=.07))
    assert [r.optimizer([torch.zeros(1, requires_grad=True)]).defaults["lr"]
            for r in (recipe, recipe.first_stage)] == [.05, .07]

def photos(labels):
    "A dataset of black pictures with these true labels."
    y, x = torch.tensor(labels), torch.zeros(len(labels), 3, 32, 32, dtype=torch.uint8)
    return Dataset("cifar10", x, y, x[:1], y[:1], tuple("abcdefghij"))

def test_labels_that_people_gave(monkeypatch):
    people = torch.tensor([0, 0, 1, 2, 2, 9, 9, 9])
    monkeypatch.setattr(job.data, "human_labels", lambda name: dict(worse=people, clean=None))
    monkeypatch.setattr(job.data, "load", lambda name: photos([0, 1, 1, 2, 2, 2, 3, 3]))
    block = tiny(paper="tanaka2018", table="human", dataset="cifar10", model="preact32", network="cnn4",
                 noise="worse", rate=.402, samples=6, methods=("cross_entropy", "forward"))
    dataset = block_data(block)
    runs = block_runs(block, dataset)
    assert len(dataset.train_y) == 6 and all(torch.equal(run.labels, people[:6]) for run in runs)
    assert runs[1].T[1, :2].tolist() == [.5, .5] and runs[1].T[2, 9] == pytest.approx(1 / 3)

def test_labels_of_clusters(monkeypatch):
    "Three images are in a wrong cluster; the result says whose features these were."
    y = torch.arange(60) % 10
    seen = torch.where(torch.arange(60) < 3, (y + 1) % 10, y)
    monkeypatch.setattr(job, "pretrained_features", lambda images, network, cache: 20 * torch.eye(10)[seen])
    monkeypatch.setattr(job.data, "load", lambda name: photos(y.tolist()))
    block = tiny(paper="tanaka2018", table="figure5", dataset="cifar10", model="preact32", network="cnn4",
                 noise="pseudo", rate=.375, samples=60, methods=("cross_entropy",), epochs=1, first_epochs=1)
    dataset = block_data(block)
    runs = block_runs(block, dataset)
    assert torch.equal(runs[0].labels, seen) and runs[0].T[0, 1] == pytest.approx(1 / 6)
    rows = job.result_rows(block, dataset, runs, job.train_block(block, dataset, runs))
    assert rows.features.unique().tolist() == ["alexnet"] and rows.realised_rate.unique().tolist() == [.05]

def test_numbers_of_the_third_paper_reach_their_methods():
    z, y = torch.tensor([[1., 0., 0.]]), torch.tensor([0])
    numbers = dict(alpha=.3, beta=2., A=-5., epochs=7)
    p = z.softmax(-1)[0, 0].item()
    assert (protocols.method("symmetric_cross_entropy", numbers).hook("loss")(z, y).item()
            == pytest.approx(-.3 * np.log(p) + 10 * (1 - p), rel=1e-5))
    assert (protocols.method("forward_sl", numbers).hook("loss")(z, y, T=torch.eye(3)).item()
            == pytest.approx(-np.log(p) + 10 * (1 - p), rel=1e-5))
    smooth = np.full(3, .1 / 3) + np.array([.9, 0, 0])
    q = z.softmax(-1)[0].numpy()
    assert protocols.method("label_smoothing_sl", numbers).hook("loss")(z, y).item() == pytest.approx(
        -.3 * (smooth * np.log(q)).sum() - 2 * (q * np.log(smooth)).sum(), rel=1e-5)
    assert protocols.method("d2l", numbers).hook("run_state")(None, 10)["lids"].shape == (7,)

def test_a_stand_in_is_named_and_keeps_the_schedule():
    block = blocks(plan("zhang2018", "table1", "laptop", dataset="fashion_mnist"))[0]
    assert (block.model, block.network) == ("resnet18", "mlp")
    assert (block.epochs, block.prune_start, block.prune_every) == (40, 13, 3)
    factors = [round(block_recipe(block).schedule(e), 6) for e in (0, 13, 14, 26, 27, 39)]
    assert factors == [1, 1, .1, .1, .01, .01] and block_recipe(block).select == "valid_accuracy"

def test_smaller_scales():
    laptop, smoke = plan(*TABLE2, "laptop", dataset="mnist"), plan(*TABLE2, "smoke", dataset="mnist")
    assert len(laptop) == 120 and (laptop.epochs < 40).all() and (laptop.samples == 0).all()
    assert len(smoke) == 40 and (smoke.epochs == 1).all() and (smoke.samples == 1000).all()

def test_restrictions():
    rows = plan(*TABLE2, "paper", dataset="cifar10", model="resnet14", method="forward",
                noise="asymmetric", rate=.6)
    assert (rows[["dataset", "model", "method", "noise", "rate"]].drop_duplicates().to_numpy().tolist()
            == [["cifar10", "resnet14", "forward", "asymmetric", .6]])
    assert len(plan(*TABLE2, dataset=None, rate=None)) == len(plan(*TABLE2))

@pytest.mark.parametrize("given, argument", [
    (dict(datset="mnist"), "datset"), (dict(dataset="minst"), "dataset"), (dict(method="foreward"), "method"),
    (dict(rate=.25), "rate"), (dict(rate=".6"), "rate"), (dict(dataset="mnist", model="lstm"), "model"),
    (dict(noise="asymetric"), "noise"), (dict(scale="Paper"), "scale"), (dict(metod=None), "metod")])
def test_a_misspelt_restriction_is_refused(given, argument):
    with pytest.raises(ValueError, match=f"^{argument}: expected"): plan(*TABLE2, **given)

def test_checked_labels_are_true_and_the_others_as_without():
    block = replace(tiny(), checked=.1, samples=300, noise="symmetric", rate=.5)
    data, plain = block_data(block), block_data(replace(block, checked=0.))
    checked = data.extra["train_checked"]
    assert checked.tolist() == [True] * 30 + [False] * 270 and "train_checked" not in plain.extra
    for run, without in zip(block_runs(block, data),
                            block_runs(replace(block, checked=0.), plain), strict=True):
        assert torch.equal(run.labels[checked], data.train_y[checked])
        assert torch.equal(run.labels[~checked], without.labels[~checked])
        assert (without.labels != data.train_y)[checked].sum() > 5
    for share in (.001, .999, 1.):
        expected = "^checked: expected a share that leaves some of 300 samples on either side"
        with pytest.raises(ValueError, match=expected):
            block_data(replace(block, checked=share))

@pytest.mark.parametrize("noise, more",
                         [("real", dict(dataset="clothing1m")), ("open_set", dict(outside="fashion_mnist"))])
def test_labels_that_are_not_true_cannot_be_checked(noise, more, monkeypatch):
    monkeypatch.setitem(job.LOADERS, "clothing1m", lambda part: block_data(tiny()))
    expected = "^checked: expected 0 where labels come with the data or images from outside, got 0.1"
    with pytest.raises(ValueError, match=expected):
        block_data(replace(tiny(), noise=noise, checked=.1, **more))

def test_numbers_reach_the_early_stages():
    made = protocols.method("cross_entropy_after_forward_estimated", dict(percentile=91.))
    assert made.first_stage.hyperparameters["percentile"] == 91
    assert [m.samples for m in training.stages(made)] == [training.verified_mask, training.unverified_mask,
                                                          training.unverified_mask]
    assert (protocols.method("linear_noise_layer_after_cross_entropy").first_stage.samples
            is training.verified_mask)

def test_an_estimate_weighs_what_a_stage_sees():
    "Half of the epochs of NNAQC, then cross-entropy, are on one sample in ten; all test images score."
    block = replace(tiny(), methods=("cross_entropy_after_nnaqc",), checked=.1, samples=300, epochs=4)
    speed = pd.Series({("mnist", "mlp", "fp32", "m"): 1e-3}).rename_axis(forecast.SPEED)
    assert forecast.estimate(block, speed, "m") == pytest.approx(1e-3 * 4 * (3 * 270 + 3 * 30 + 2 * 10_000))
    plain = replace(block, methods=("cross_entropy", "forward_estimated"), checked=0.)
    assert forecast.estimate(plain, speed, "m") == pytest.approx(1e-3 * 8 * (3 * 300 + 10_000))
    clothes = blocks(plan("jindal2019", "table4", "paper", noise="real_then_clean_50k",
                          method="cross_entropy_after_nnaqc"))[0]
    other = pd.Series({("clothing1m", "resnet50", "fp32", "m"): 1.}).rename_axis(forecast.SPEED)
    assert forecast.estimate(clothes, other, "m") == pytest.approx(10 * (3 * 1_050_000 + 2 * 10_526))

@pytest.mark.parametrize("methods, epochs",
                         [(("cross_entropy", "forward_estimated"), 4), (("forward_estimated",), 4),
                          (("cross_entropy_after_nnaqc", "cross_entropy_after_forward_estimated"), 10)])
def test_a_plan_counts_the_epochs_that_are_trained(methods, epochs):
    block, told = replace(tiny(), checked=.1, samples=300, methods=methods, seeds=(0, 1)), []
    data = block_data(block)
    train_block(block, data, block_runs(block, data), progress=lambda *numbers: told.append(numbers))
    assert told[-1] == (2 * epochs, 2 * epochs) and forecast.n_run_epochs(block) == 2 * epochs

def test_a_method_that_goes_on_records_its_first_run():
    block = replace(tiny(), checked=.1, samples=300, methods=("cross_entropy", "cross_entropy_after_nnaqc"))
    rows = trained(block)
    first = rows[rows.metric.str.startswith("first_")]
    assert set(first.method) == {"cross_entropy_after_nnaqc"}
    assert {"first_valid_accuracy", "first_test_accuracy", "first_seconds"} <= set(first.metric)
    both = rows[rows.metric.isin(["seconds", "first_seconds"]) & (rows.method == "cross_entropy_after_nnaqc")]
    assert (set(rows[rows.method == "cross_entropy_after_nnaqc"].seconds.round(6))
            == set(both.groupby("seed").value.sum().round(6)))

@pytest.mark.parametrize("table, told",
                         [(("patrini2017", "table3"), "^table: expected one of .*patrini2017 table2"),
                          (("patrini", "table2"), "^paper: expected one of patrini2017,")])
def test_an_unknown_table_is_refused(table, told):
    with pytest.raises(ValueError, match=told): plan(*table)


# --- blocks ---

every_block = [block for paper, table in TABLES for scale in SCALES
               for block in blocks(plan(paper, table, scale))]

def test_blocks_are_the_plan_cut_in_pieces():
    for paper, table in TABLES:
        rows = plan(paper, table, "paper")
        shared = [f.name for f in fields(Block) if f.name not in ("methods", "seeds")]
        pieces = [tuple(getattr(b, k) for k in shared) + (m, s) for b in blocks(rows) for m in b.methods
                  for s in b.seeds]
        assert sorted(pieces) == sorted(rows[[*shared, "method", "seed"]].itertuples(index=False, name=None))

def test_names_are_distinct_and_fit_for_files():
    names = [block.name for block in every_block]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[\w.=-]{1,130}", name) for name in names)

def test_names_are_stable(monkeypatch):
    """A published result must be found again: this name may only change with ENGINE, with the recipe or
    with the fields of a block."""
    monkeypatch.setattr(identity, "ENGINE", 1)
    block = next(b for b in blocks(plan(*TABLE2, "smoke", dataset="mnist", rate=.6)))
    assert block.name == "patrini2017_table2_mnist_mlp_asymmetric_0.6_smoke_c7ac0c27"
    assert block.identities["forward_estimated"] == "db0ed151"

CHANGES = dict(paper="zhang2018", table="figure1", dataset="fashion_mnist", model="lstm",
               noise="symmetric", rate=.2, samples=301, scale="paper", epochs=3,
               dropout=.2, percentile=100., variant="dropout=0.2", methods=("cross_entropy",), seeds=(0, 1),
               clip=1e-7, precision="bf16", network="lstm", q=.5, prune_start=1, prune_every=1, alpha=.2,
               beta=2., A=-6., decay="rate", flips="sentence", outside="fashion_mnist", inputs="whitened",
               lr=.2, first_epochs=2, label_start=1, label_stop=2, top=5, prior="labels", optimizer="sgd",
               checked=.1)

def test_every_field_has_a_change(): assert list(CHANGES) == [f.name for f in fields(Block)]

@pytest.mark.parametrize("field", sorted(CHANGES.keys() - {"methods", "seeds"}))
def test_the_name_changes_with_every_field_of_the_setting(field, monkeypatch):
    monkeypatch.setattr(grid, "block_recipe", lambda block: training.Recipe()) # whatever the field does to it
    assert tiny(**{field: CHANGES[field]}).name != tiny().name == tiny().name

@pytest.mark.parametrize("field", ["methods", "seeds"])
def test_what_is_run_in_a_setting_is_no_part_of_its_name_but_of_its_checkpoints(field):
    other = tiny(**{field: CHANGES[field]})
    assert other.name == tiny().name and other.checkpoints != tiny().checkpoints == tiny().checkpoints

def test_the_seed_of_open_set_noise_is_part_of_its_setting():
    assert len({tiny(noise="open_set", outside="fashion_mnist", seeds=(seed,)).name for seed in (0, 1)}) == 2

RECIPE_CHANGES = dict(batch_size=512, optimizer=partial(protocols.sgd, lr=1.),
                      schedule=lambda epoch: 1 / (1 + epoch), augment=protocols.crop_and_flip,
                      valid_fraction=.5, select="valid_accuracy")

@pytest.mark.parametrize("field", RECIPE_CHANGES)
def test_a_changed_recipe_finds_no_older_result(field, monkeypatch, tmp_path, rows):
    write_result(rows, tmp_path)
    assert missing([tiny()], tmp_path) == []
    part = TABLES[TABLE2].part("mnist", "mlp")
    changed = replace(part, recipe=replace(part.recipe, **{field: RECIPE_CHANGES[field]}))
    parts = tuple(changed if p is part else p for p in TABLES[TABLE2].parts)
    monkeypatch.setitem(TABLES, TABLE2, replace(TABLES[TABLE2], parts=parts))
    assert missing([tiny()], tmp_path) == [tiny()]

def test_how_fast_a_recipe_is_trained_is_no_part_of_a_name():
    recipe = training.Recipe()
    assert (identity.recipe_definition(replace(recipe, runs_at_once=1, compiled=True))
            == identity.recipe_definition(recipe))
    assert (identity.recipe_definition(replace(recipe, first_stage=recipe))
            != identity.recipe_definition(recipe))
    fused = replace(recipe, optimizer=partial(torch.optim.SGD, lr=.1, fused=True))
    plain = replace(recipe, optimizer=partial(torch.optim.SGD, lr=.1))
    assert identity.recipe_definition(fused) == identity.recipe_definition(plain)

def test_an_augmentation_has_a_name():
    with pytest.raises(ValueError, match="^augment: expected a function with a name"):
        identity.recipe_definition(training.Recipe(augment=lambda x, g: x))
    assert (["crop_and_flip", [], {}]
            in identity.recipe_definition(training.Recipe(augment=partial(protocols.crop_and_flip))))

def test_a_method_of_another_version_is_trained_again_alone(monkeypatch, tmp_path, rows):
    write_result(rows, tmp_path)
    assert missing([tiny()], tmp_path) == []
    monkeypatch.setitem(METHODS, "forward_estimated", replace(METHODS["forward_estimated"], version=2))
    assert missing([tiny()], tmp_path) == [tiny(methods=("forward_estimated",))]

def test_every_stage_and_every_number_is_part_of_what_a_method_is():
    method = METHODS["joint_optimization"]
    others = [method, replace(method, version=2),
              replace(method, first_stage=replace(method.first_stage, version=2)),
              method.with_hyperparameters(alpha=7.)]
    assert len({identity.identity(identity.method_definition(m)) for m in others}) == 4

def test_a_block_that_gains_a_method_trains_it_alone_and_keeps_its_rows(tmp_path, rows):
    write_result(rows, tmp_path)
    more = tiny(methods=(*tiny().methods, "savage"))
    assert missing([more], tmp_path) == [tiny(methods=("savage",))]
    assert missing([tiny(seeds=(0, 1))], tmp_path) == [tiny(seeds=(1,))]
    path, = run_blocks([more], tmp_path)
    assert missing([more], tmp_path) == [] and path.name == f"{tiny().name}.parquet"
    def same(frame):
        kept = frame[~frame.metric.str.contains("seconds")]
        return kept.drop(columns=["seconds", "commit", "dirty"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(same(read_file(path)), same(trained(more)), check_exact=True)

BAD = dict(paper=["patrini"], table=["table3"], dataset=["minst", "cifar100_partial"],
           model=["mpl", ""], noise=["asymetric", ""], scale=["Paper", ""],
           precision=["fp16", ""], network=["mpl"], decay=["wieghts", ""], flips=["x", "circle"],
           outside=["mnst"], inputs=["whitend"], prior=["label"], optimizer=["adm"],
           variant=["a/b", "x" * 101, "{x}"],
           rate=[-.1, 1.1], samples=[-1, 2.5, 1e9], epochs=[0, -1, 1.5, True, "3"],
           dropout=[-.1, 1.], percentile=[-1, 101], clip=[-.1, 1], q=[0, 1.1], prune_start=[-1, .5],
           prune_every=[-1], alpha=[-1, np.inf], beta=[-1, np.inf], A=[0, 1, -np.inf], lr=[-.1, np.inf],
           first_epochs=[-1], label_start=[-1], label_stop=[-1], top=[-1], checked=[-.1, 1.1],
           methods=["forward", (), ["forward"], ("foreward",), ("forward", "forward"), (1,)],
           seeds=[1, (), [0], (0, 0), (-1,), (.5,), ("0",), (True,)])
NUMERIC = [f.name for f in fields(Block) if f.type in (int, float)]

@pytest.mark.parametrize("field", CHANGES)
def test_a_block_that_means_nothing_cannot_be_made(field):
    "By nobody: not by a person, not from papermill's parameters; the message names the field."
    for bad in [*BAD[field], None, *([np.nan, "x", True, 1j] if field in NUMERIC else [7])]:
        given = parameters(tiny(), "cpu", "") | {field: bad, "block_name": ""}
        for make in (lambda: tiny(**{field: bad}), lambda: block_from(given, set())):
            # papermill's lists are tuples
            if isinstance(bad, list) and make.__code__.co_names[:1] == ("block_from",): continue
            with pytest.raises(ValueError, match=f"^{field}: expected .*, got "): make()

def test_open_set_noise_needs_images_from_outside():
    with pytest.raises(ValueError, match="^outside: expected one of mnist"): tiny(noise="open_set")

def test_whole_numbers_and_numpys_make_the_same_block():
    assert tiny(rate=1) == tiny(rate=1.)
    assert tiny(rate=1).name == tiny(rate=1.).name == tiny(rate=np.float64(1)).name
    assert tiny(epochs=np.int64(3), seeds=(np.int64(4),)).name == tiny(epochs=3, seeds=(4,)).name

def test_published_results_are_of_blocks_that_can_be_made():
    files = sorted((Path(__file__).parents[1] / "results").glob("*.parquet"))
    bf16 = [block for key in TABLES for scale in SCALES for block in blocks(plan(*key, scale, "bf16"))]
    names = {block.name for block in [*every_block, *bf16]}
    assert {file.stem for file in files} <= names
    assert max(file.stat().st_size for file in files) < 60_000

def test_a_result_of_an_older_engine_is_not_reused(tmp_path, monkeypatch, rows):
    write_result(rows, tmp_path)
    assert missing([tiny()], tmp_path) == []
    monkeypatch.setattr(identity, "ENGINE", identity.ENGINE + 1)
    assert missing([tiny()], tmp_path) == [tiny()]

def test_every_published_run_is_one_that_a_table_plans():
    "Rows whose method has another identity now would be trained again, and nobody would be told."
    bf16 = [block for key in TABLES for scale in SCALES for block in blocks(plan(*key, scale, "bf16"))]
    planned = {block.name: block for block in [*every_block, *bf16]}
    for file in (Path(__file__).parents[1] / "results").glob("*.parquet"):
        runs = pd.read_parquet(file, columns=["method", "identity"]).drop_duplicates()
        assert (dict(runs.itertuples(index=False, name=None)).items()
                <= planned[file.stem].identities.items()), file.name

def test_every_published_cell_can_be_planned_or_says_why_not():
    cells, lost, total = ["dataset", "model", "method", "noise", "rate"], Counter(), 0
    for paper, name in published_tables():
        theirs = published(paper, name)
        table = theirs.grid.iloc[0]
        ours = set(plan(paper, table, "paper")[cells].itertuples(index=False, name=None))
        lost.update((paper, table, cell[2]) for cell in theirs[cells].itertuples(index=False, name=None)
                    if cell not in ours)
        total += len(theirs)
    assert set(lost) == papers.QUOTED and (total, sum(lost.values())) == (1156, 25)
    for paper, table, method in lost:
        with pytest.raises(ValueError, match=f"^method: expected a method that {paper} {table} can be run "
                                             f"with, got '{method}', which the paper quotes"):
            plan(paper, table, method=method)

def test_all_methods_of_a_seed_see_the_same_labels():
    block = tiny(methods=("cross_entropy", "forward", "savage"), seeds=(0, 1))
    data = block_data(block)
    assert len(data.train_y) == 300
    runs = block_runs(block, data)
    labels = {run.seed: run.labels for run in runs}
    assert ([(run.method.name, run.seed) for run in runs]
            == [(m, s) for m in block.methods for s in block.seeds])
    assert all(torch.equal(run.labels, labels[run.seed]) for run in runs)
    assert not torch.equal(labels[0], labels[1])
    assert torch.equal(block_runs(tiny(methods=("savage",), seeds=(1,)), data)[0].labels, labels[1])

def test_the_percentile_reaches_the_method():
    data = block_data(tiny())
    probabilities = torch.rand(50, 10, dtype=torch.float64).softmax(-1)
    estimates = [block_runs(tiny(percentile=p), data)[1].method.hook("estimate")(probabilities)
                 for p in (97., 100.)]
    assert not torch.equal(*estimates)

def test_the_clip_reaches_backward_correction_alone():
    block, sure = tiny(methods=("cross_entropy", "backward"), clip=1e-2), torch.tensor([[20., 0.]])
    for name, changed in (("cross_entropy", False), ("backward", True)):
        told = dict(T=torch.eye(2)) if name == "backward" else {}
        clipped, plain = (m.hook("loss")(sure, torch.tensor([1]), **told).item()
                          for m in (protocols.method(name, dict(clip=block.clip)), METHODS[name]))
        assert plain == pytest.approx(20) and clipped == pytest.approx(-np.log(1e-2) if changed else 20)


def test_q_and_pruning_reach_their_methods():
    even = torch.zeros(1, 4)
    def loss(name, **numbers):
        return protocols.method(name, numbers).hook("loss")(even, torch.tensor([0])).item()
    assert loss("generalized_cross_entropy", q=1.) == pytest.approx(.75)
    assert loss("generalized_cross_entropy") == pytest.approx((1 - .25 ** .7) / .7)
    assert loss("truncated_gce", q=1.) == pytest.approx(.5)
    assert (protocols.method("truncated_gce", dict(prune_start=3, prune_every=2)).hyperparameters
            == dict(start=3, every=2, q=.7, k=.5))

def open_set(**changes):
    "Digits among digits: half of the images come from the same data set."
    return tiny(paper="zhang2018", table="open_set", dataset="fashion_mnist",
                model="resnet18", network="mlp", noise="open_set", rate=.5, outside="mnist",
                dropout=0., methods=("cross_entropy", "forward"), **changes)

def test_open_set_noise_changes_images_and_no_labels(monkeypatch):
    digits = job.data.load("mnist")
    clothes = replace(digits, name="fashion_mnist", train_x=255 - digits.train_x)
    monkeypatch.setattr(job.data, "load", lambda name: clothes if name == "fashion_mnist" else digits)
    block = open_set()
    dataset, same, other = block_data(block), block_data(block), block_data(replace(block, seeds=(1,)))
    outside = dataset.extra["train_outside"]
    assert torch.equal(dataset.train_x, same.train_x)
    assert not torch.equal(outside, other.extra["train_outside"])
    assert torch.equal(dataset.train_x[~outside], 255 - digits.train_x[:300][~outside])
    assert .4 < outside.double().mean() < .6
    runs = block_runs(block, dataset)
    assert torch.equal(runs[0].labels, dataset.train_y)
    assert torch.equal(runs[1].T, torch.eye(10, dtype=torch.float64))
    rows = result_rows(block, dataset, runs, train_block(block, dataset, runs))
    assert rows.realised_rate.unique().tolist() == [outside.double().mean().item()]
    best = (rows[rows.metric == "valid_accuracy"]
            .pivot(index="epoch", columns="method", values="value").idxmax())
    assert (rows.groupby("method").epoch_chosen.unique().map(list).to_dict()
            == {m: [e] for m, e in best.items()})

def test_open_set_seeds_do_not_share_a_block():
    cut = blocks(plan("zhang2018", "open_set", "laptop"))
    assert [(b.noise, b.seeds) for b in cut] == [("open_set", (0,)), ("open_set", (1,)),
                                                 ("symmetric", (0, 1))]

def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError,
                       match="^model: expected one of .*resnet18 on fashion_mnist, got mlp on fashion_mnist"):
        block_recipe(replace(open_set(), model="mlp"))

@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_precision_is_a_variant(precision):
    if precision == "fp16":
        with pytest.raises(ValueError, match="^precision: expected"): plan(*TABLE2, precision=precision)
    else:
        assert set(plan(*TABLE2, precision=precision).variant) == {"bf16"}
        assert block_recipe(blocks(plan(*TABLE2, precision=precision))[0]).precision == "bf16"


# --- results ---

def test_the_rows_of_a_result(rows):
    assert COLUMNS <= set(rows) and rows.epoch.dtype == "Int64"
    assert not rows.drop(columns="epoch").isna().any().any()
    curves, single = rows[rows.epoch.notna()], rows[rows.epoch.isna()]
    assert set(curves.metric) >= {"train_loss", "valid_loss", "valid_accuracy", "test_accuracy"}
    assert (curves.groupby(["method", "seed", "metric"]).epoch.apply(list)
            .map(lambda epochs: epochs == [1, 2]).all())
    assert set(single.metric.str.replace(r"\[.*", "", regex=True)) == {
        "accuracy", "accuracy_last", "accuracy_best_valid_accuracy", "true_T", "realised_T", "estimated_T"}
    assert rows[rows.metric.str.contains("accuracy")].value.between(0, 100).all()
    assert set(rows[rows.metric.str.startswith("estimated_T")].method) == {"forward_estimated"}
    assert not rows.duplicated(["method", "seed", "metric", "epoch"]).any()
    assert set(rows.block) == {tiny().name}

def test_matrices_in_a_result(rows):
    data = block_data(tiny())
    matrix = rows.metric.str.extract(r"(\w+_T)\[", expand=False)
    for name, part in rows[rows.metric.str.contains("_T")].groupby(matrix):
        for _, one in part.groupby("method"):
            T = one.value.to_numpy().reshape(10, 10)
            assert one.metric.tolist() == [f"{name}[{i},{j}]" for i in range(10) for j in range(10)]
            np.testing.assert_allclose(T.sum(1), 1)
            if name == "true_T": assert T[7, 1] == pytest.approx(.6) and T[1, 7] == 0
    wrong = (block_runs(tiny(), data)[0].labels != data.train_y).double().mean().item()
    assert rows.realised_rate.unique().tolist() == [wrong] and .1 < wrong < .4

def test_the_chosen_epoch_is_that_of_the_lowest_validation_loss(rows):
    for _, part in rows.groupby("method"):
        value = lambda metric, epoch: part[(part.metric == metric) & (part.epoch == epoch)].value.item()
        single = lambda metric: part[part.metric == metric].value.item()
        chosen = part.epoch_chosen.unique().item()
        assert chosen == min((1, 2), key=lambda epoch: value("valid_loss", epoch))
        assert single("accuracy") == value("test_accuracy", chosen)
        assert single("accuracy_last") == value("test_accuracy", 2)
        best = max((1, 2), key=lambda epoch: (value("valid_accuracy", epoch), -epoch))
        assert single("accuracy_best_valid_accuracy") == value("test_accuracy", best)

def test_a_result_survives_its_file(tmp_path, rows):
    path = write_result(rows, tmp_path)
    assert path == tmp_path / f"{tiny().name}.parquet"
    pd.testing.assert_frame_equal(read_file(path), rows)

def flawed(rows):
    one = (rows.method == "cross_entropy") & (rows.metric == "accuracy")
    at = lambda metric: (rows.method == "cross_entropy") & (rows.metric == metric)
    changed = lambda where, *value: rows.assign(value=rows.value.mask(where, *value))
    yield changed(one, 99.9), "says 99.9 for cross_entropy's seed 0, accuracy; its curve has"
    yield changed(one, 1e9), "says 1e\\+09 for cross_entropy's seed 0, accuracy, which is no percentage"
    yield (changed(rows.metric == "accuracy"),
           "says nan for cross_entropy's seed 0, accuracy, which is no percentage")
    yield (changed(at("accuracy_best_valid_accuracy"), 1.),
           "says 1 for cross_entropy's seed 0, accuracy_best_valid_accuracy")
    yield changed(at("test_accuracy") & (rows.epoch == 2), 1.), "its curve has 1 there, after epoch 2"
    yield (rows.assign(epoch_chosen=7),
           "reports an epoch of cross_entropy 0 that is neither the best nor the last")
    yield rows[~rows.metric.str.startswith("valid_loss")], "lacks curves of test_accuracy and valid_loss"
    yield pd.concat([rows, rows[one]]), "says cross_entropy's seed 0, accuracy, epoch <NA> twice"
    yield rows[~one], "says nan for cross_entropy's seed 0, accuracy; its curve has"
    yield rows.drop(columns="method"), "is without the columns method"
    yield rows.assign(value="high"), "has something else than numbers in value"

def written_unchecked(rows, folder):
    "A result file as another program may write it."
    folder.mkdir()
    file = folder / f"{rows.block.iloc[0]}.parquet"
    rows.to_parquet(file, index=False, compression="zstd", write_page_checksum=True)
    return file

def test_a_result_that_contradicts_itself_is_not_read(tmp_path, rows):
    for i, (bad, why) in enumerate(flawed(rows)):
        file = written_unchecked(bad, tmp_path / str(i))
        assert re.search(why, flaw(file)), flaw(file)
        with pytest.raises(
                ValueError,
                match=f"^folders: expected .*{file.name}.*; delete it or move it away, and train it again"):
            read_results(tmp_path / str(i))
        assert missing([tiny()], tmp_path / str(i)) == [tiny()]
    assert i == 10 and flaw(write_result(rows, tmp_path)) == ""

def test_a_flipped_byte_is_found_or_changes_nothing(tmp_path, rows):
    """In the pages by their checksums; a byte of the description that is not understood has no meaning.
    (It may name another type for a column, with the same values.)"""
    said = lambda frame: frame[COLUMNS_SAID].astype(object).where(frame[COLUMNS_SAID].notna(), None)
    file = write_result(rows, tmp_path)
    raw, rng, found = file.read_bytes(), np.random.default_rng(0), 0
    for i in rng.choice(len(raw), 60, replace=False):
        file.write_bytes(raw[:i] + bytes([raw[i] ^ 1 << rng.integers(8)]) + raw[i + 1:])
        if flaw(file): found += 1
        else: pd.testing.assert_frame_equal(said(read_file(file)), said(rows))
    assert found > 20

def test_a_truncated_result_is_trained_again(tmp_path, monkeypatch, rows, capsys):
    file, started = write_result(rows, tmp_path), []
    whole = file.read_bytes()
    for raw in (whole[:-100], b"", b"no table"):
        file.write_bytes(raw)
        assert missing([tiny()], tmp_path) == [tiny()]
    monkeypatch.setattr(batch, "_watch", lambda poll, stop, todo, *_: started.append((todo, file.exists())))
    run_blocks([tiny()], tmp_path)
    assert started == [([tiny()], False)] and file.with_suffix(".damaged").read_bytes() == b"no table"
    assert re.search(f"{file.name} cannot be read .*; it is trained again, and kept as {file.stem}.damaged",
                     capsys.readouterr().err)

def test_an_interrupt_that_python_drops_stops_a_batch_too(tmp_path):
    "What a handler raises is lost while a process is being forked."
    asked = []
    def poll():
        with suppress(KeyboardInterrupt):
            if not asked: signal.raise_signal(signal.SIGTERM)
        asked.append(len(asked))
        return 0 if len(asked) > 3 else None
    before = {sent: signal.getsignal(sent) for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        batch.interrupt_on_signals()
        with pytest.raises(SystemExit, match="^stopped; the same command goes on"):
            batch._watch(poll, lambda: None, [tiny()], tmp_path, math.inf)
    finally:
        for sent, handler in before.items(): signal.signal(sent, handler)
    assert asked == [0]

def test_a_run_that_diverged_has_a_result_too(monkeypatch):
    lost = replace(METHODS["savage"], name="lost",
                   loss=lambda *args, **more: METHODS["savage"].loss(*args, **more) * torch.inf)
    monkeypatch.setitem(METHODS, "lost", lost)
    rows = trained(tiny(methods=("cross_entropy", "lost"), samples=100, epochs=1))
    assert (rows.groupby("method").metric.apply(lambda metrics: "accuracy" in set(metrics)).to_dict()
            == dict(cross_entropy=True, lost=True))
    assert not np.isfinite(rows[(rows.method == "lost") & (rows.metric == "train_loss")].value).any()

def test_without_git_the_commit_is_unknown(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance()["commit"] == "unknown" and provenance()["dirty"] is True

def full_disk(frame, path, **_):
    Path(path).write_bytes(b"PAR1 half of it")
    raise OSError(errno.ENOSPC, "No space left on device")

@pytest.mark.parametrize("old", [True, False])
def test_a_full_disk_leaves_the_old_result_or_none(tmp_path, monkeypatch, rows, old):
    path = write_result(rows, tmp_path) if old else None
    before = path and path.read_bytes()
    monkeypatch.setattr(pd.DataFrame, "to_parquet", full_disk)
    with pytest.raises(OSError, match="No space left"): write_result(rows, tmp_path)
    assert list(tmp_path.iterdir()) == [path] * old and (not old or path.read_bytes() == before)

def test_a_results_folder_that_is_a_file(tmp_path, monkeypatch):
    (tmp_path / "results").write_text("no folder")
    monkeypatch.setattr(subprocess, "Popen", never)
    for folder in (tmp_path / "results", tmp_path / "results" / "mine"):
        with pytest.raises(ValueError, match=f"^results: expected a folder.*{re.escape(str(tmp_path))}"):
            run_blocks([tiny()], folder)
    with pytest.raises(SystemExit, match="^results: expected a folder"):
        main([*TABLE2, "--dataset", "mnist", "--scale", "smoke", "--results", str(tmp_path / "results")])
    assert (tmp_path / "results").read_text() == "no folder"


# --- parameters ---

def test_the_notebook_takes_what_a_block_has():
    assert set(papermill.inspect_notebook(NOTEBOOK)) == set(parameters(tiny(), "cpu", "results"))

def test_parameters_and_back():
    for block in every_block:
        given = json.loads(json.dumps(parameters(block, "cuda:1", "there")))
        assert (block_from(given, set())
                == (block, dict(device="cuda:1", results="there", block_name=block.name)))

@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1), st.integers(0, 10**6),
       st.lists(st.sampled_from(list(METHODS)), min_size=1, unique=True),
       st.lists(st.integers(0, 99), min_size=1, unique=True))
def test_any_block_keeps_its_name_through_json(rate, samples, methods, seeds):
    block = tiny(rate=rate, samples=samples, methods=tuple(methods), seeds=tuple(seeds))
    assert block_from(json.loads(json.dumps(parameters(block, "cpu", ""))), set())[0].name == block.name

@pytest.mark.parametrize("name", [f.name for f in fields(Block)] + ["device", "results", "block_name"])
def test_a_missing_parameter_is_named(name):
    given = parameters(tiny(), "cpu", "")
    given.pop(name)
    with pytest.raises(ValueError, match=f"^{name}: expected a value"): block_from(given, set())

def test_an_unknown_parameter_is_named():
    with pytest.raises(ValueError, match="^epoch: expected only the parameters .*epochs"):
        block_from(parameters(tiny(), "cpu", "") | dict(epoch=3), set())

def test_a_name_of_other_parameters_is_refused():
    with pytest.raises(ValueError, match="^block_name: expected"):
        block_from(parameters(tiny(), "cpu", "") | dict(epochs=3), set())
    unnamed = parameters(tiny(), "cpu", "") | dict(epochs=3, block_name="")
    assert block_from(unnamed, set())[0] == tiny(epochs=3)

def test_papermill_with_a_misspelt_parameter(tmp_path):
    given = dict(epoch=1, samples=200, methods=["cross_entropy"], results=str(tmp_path / "results"))
    with pytest.raises(papermill.PapermillExecutionError, match="epoch: expected only the parameters"):
        papermill.execute_notebook(NOTEBOOK, tmp_path / "out.ipynb", given, kernel_name="python3",
                                   progress_bar=False)
    assert not (tmp_path / "results").exists()

def test_a_block_whose_notebook_does_not_know_a_parameter(tmp_path, monkeypatch):
    monkeypatch.setattr(papermill, "execute_notebook", never)
    monkeypatch.setattr(job, "parameters", lambda *given: parameters(*given) | dict(epoch=1))
    with pytest.raises(ValueError, match="^epoch: expected parameters of train_block.ipynb"):
        execute_block(tiny(), tmp_path)

def test_a_planned_block_is_found_by_name(tmp_path, monkeypatch):
    (tmp_path / "plan.json").write_text(
        json.dumps({b.name: parameters(b, "cuda", tmp_path) for b in (tiny(), tiny(rate=.2))}))
    monkeypatch.setattr(job, "execute_block", lambda *given: given)
    assert (execute_planned(tmp_path / "plan.json", tiny(rate=.2).name)
            == (tiny(rate=.2), str(tmp_path), "cuda"))


# --- locks ---

fork = multiprocessing.get_context("fork")

@pytest.fixture
def holder(tmp_path):
    "Another process that holds the batch's lock until it is killed."
    def hold():
        with lock(tmp_path / "locks" / "batch", wait=False):
            held.set()
            time.sleep(60)
    held = fork.Event()
    process = fork.Process(target=hold)
    process.start()
    assert held.wait(30)
    yield process
    process.kill()
    process.join()

def test_a_second_batch_in_the_same_folder_is_refused(tmp_path, monkeypatch, holder):
    monkeypatch.setattr(subprocess, "Popen", never)
    with pytest.raises(ValueError, match="^results: expected a folder that no other batch is using, "
                                         f"got {re.escape(str(tmp_path))}"):
        run_blocks([tiny()], tmp_path)
    assert not (tmp_path / "plan.json").exists()

def test_a_killed_batch_leaves_the_folder_free(tmp_path, holder):
    holder.kill()
    holder.join()
    with lock(tmp_path / "locks" / "batch", wait=False): pass

def test_a_block_waits_for_its_lock(tmp_path, holder):
    killed = []
    threading.Timer(.3, lambda: (killed.append(True), holder.kill())).start()
    with lock(tmp_path / "locks" / "batch", wait=True): assert killed

def test_an_error_gives_the_lock_back(tmp_path):
    with pytest.raises(KeyError), lock(tmp_path / "lock", wait=False): raise KeyError
    with lock(tmp_path / "lock", wait=False): pass

def test_the_folder_is_in_use_as_long_as_snakemake_lives(tmp_path):
    "On a cluster, kill the batch but not its Snakemake: a second batch must not start another one beside it."
    def batch():
        real = subprocess.Popen
        def popen(command, **given):
            sleeper = real(["sleep", "60"], **given)
            pids.put(sleeper.pid)
            return sleeper
        subprocess.Popen = popen
        run_blocks([tiny()], tmp_path, profile="slurm")
    pids = fork.Queue()
    process = fork.Process(target=batch)
    process.start()
    snakemake = pids.get(timeout=30)
    process.kill()
    process.join()
    try:
        with pytest.raises(ValueError, match="^results: expected a folder that no other batch is using"):
            run_blocks([tiny()], tmp_path)
    finally: os.kill(snakemake, signal.SIGKILL)
    with lock(tmp_path / "locks" / "batch", wait=True): pass


# --- the command, with processes that train nothing ---

def test_the_plan_is_told(capsys, tmp_path):
    main([*TABLE2, "--scale", "smoke", "--dataset", "mnist", "--results", str(tmp_path / "none"), "--plan"])
    said = capsys.readouterr().out
    assert said.startswith(
        "patrini2017 table2, scale smoke: 40 runs in 4 blocks, 4 to train (40 run-epochs, ")
    assert said.splitlines()[1].endswith("run-epochs to go hours")
    assert said.splitlines()[2].split()[:6] == ["patrini2017", "table2", "mnist", "mlp", "4", "0"]
    assert not (tmp_path / "none").exists()

@pytest.mark.parametrize("words, message", [(["--dataset", "minst"], "dataset: expected"),
                                            (["--rate", "0.25"], "rate: expected"),
                                            (["--scale", "huge"], "scale: expected one of smoke")])
def test_a_misspelt_word_is_told_without_a_traceback(tmp_path, words, message):
    with pytest.raises(SystemExit, match=f"^{message}"):
        main([*TABLE2, "--results", str(tmp_path), "--plan", *words])

@pytest.mark.parametrize("plan_only", [[], ["--plan"]])
@pytest.mark.parametrize("words, message", [
    (["--workers", "0"], "workers: expected 1 to"), (["--workers", "-1"], "workers: expected 1 to"),
    (["--workers", "1000"], "workers: expected 1 to .*, got 1000"),
    (["--device", "gpu"], "device: expected cpu, cuda"),
    (["--device", "cuda:x"], "device: expected cpu, cuda"),
    (["--device", "cuda,cpu"], "device: expected"), (["--device", ""], "device: expected"),
    (["--profile", "nowhere"], "profile: expected"), (["--precision", "fp8"], "precision: expected"),
    (["--rate", "nan"], "rate: expected"), (["--results", __file__], "results: expected a folder")])
def test_a_bad_option_is_told_in_one_line(tmp_path, monkeypatch, words, message, plan_only):
    monkeypatch.setattr(subprocess, "Popen", never)
    with pytest.raises(SystemExit, match=f"^{message}"):
        main([*TABLE2, "--results", str(tmp_path), *words, *plan_only])

def test_a_plan_for_a_gpu_that_is_not_here_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    main([*TABLE2, "--scale", "smoke", "--dataset", "mnist", "--results", str(tmp_path), "--plan",
          "--device", "cuda"])
    assert capsys.readouterr().out.startswith(
        "device: this machine has no GPU that PyTorch can use, so cuda is planned for another machine")
    with pytest.raises(SystemExit, match="^device: expected a GPU"):
        main([*TABLE2, "--scale", "smoke", "--dataset", "mnist", "--results", str(tmp_path),
              "--device", "cuda"])

def test_a_full_disk_is_told_in_one_line(tmp_path, monkeypatch):
    def full(*_): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(batch, "_write_plan", full)
    with pytest.raises(SystemExit, match=f"^{re.escape(str(tmp_path))}: No space left on device$"):
        main([*TABLE2, "--scale", "smoke", "--dataset", "mnist", "--results", str(tmp_path)])

def test_without_fcntl_all_can_be_imported_and_only_batches_are_refused(tmp_path):
    "As on Windows."
    code = """if True:
        import sys
        sys.modules["fcntl"] = None
        from noisy_course.lab import batch, gpu_pack, grid, report, site, speed
        blocks = grid.blocks(grid.plan("patrini2017", "table2", "smoke", dataset="mnist"))
        try: batch.run_blocks(blocks, sys.argv[1])
        except ValueError as error: print(error)"""
    said = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True,
                          check=True).stdout
    assert said.startswith(
        "system: expected Linux or macOS, with whose locks a batch works (on Windows: WSL), got ")

def test_an_unknown_profile_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", never)
    with pytest.raises(ValueError, match="^profile: expected a folder"):
        run_blocks([tiny()], tmp_path, profile="slurmm")

def test_a_failed_block_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", Process)
    with pytest.raises(SystemExit,
                       match=f"1 of 1 blocks failed, first {tiny().name}; see .*{tiny().name}.log"):
        run_blocks([tiny()], tmp_path)
    with lock(tmp_path / "locks" / "batch", wait=False): pass

def test_ctrl_c_waits_and_says_how_to_go_on(tmp_path, monkeypatch):
    def interrupted(): raise KeyboardInterrupt
    processes = []
    monkeypatch.setattr(subprocess, "Popen",
                        lambda *a, **k: processes.append(Process(on_poll=interrupted)) or processes[0])
    with pytest.raises(SystemExit, match="the same command goes on"): run_blocks([tiny()], tmp_path)
    assert processes[0].waited and processes[0].sent == signal.SIGINT
    with lock(tmp_path / "locks" / "batch", wait=False): pass

def test_a_worker_has_one_thread_and_the_batch_what_it_had(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    processes = []
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: processes.append(Process()) or processes[0])
    with pytest.raises(SystemExit): run_blocks([tiny()], tmp_path)
    assert {processes[0].environment[k] for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")} == {"1"}
    assert os.environ["OMP_NUM_THREADS"] == "7" and "MKL_NUM_THREADS" not in os.environ

def test_an_unknown_method_is_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", never)
    with pytest.raises(ValueError, match="^methods: expected one of cross_entropy, .*got 'no such method'"):
        run_blocks([tiny(), tiny(methods=("no such method",))], tmp_path)

def test_progress_is_seen_by_the_bar(tmp_path, rows):
    done = lambda: list(batch._done([tiny(), tiny(rate=.2)], tmp_path))
    assert done() == [(0, 4), (0, 4)]
    note_progress(tmp_path, tiny().name)(3, 4)
    assert done() == [[3, 4], (0, 4)]
    write_result(rows, tmp_path)
    assert done() == [(4, 4), (0, 4)]


# --- end to end ---

def test_a_batch(tmp_path, monkeypatch, rows):
    """Two blocks through papermill; a second batch has nothing to do and starts nothing. The folder has an
    odd name, the home cannot be written to, and Jupyter knows a `python3` that does not exist."""
    (tmp_path / "kernels/python3").mkdir(parents=True)
    (tmp_path / "kernels/python3/kernel.json").write_text(
        json.dumps(dict(argv=["/nowhere/python"], display_name="python3", language="python")))
    (tmp_path / "file").touch()
    for name, value in dict(JUPYTER_PATH=tmp_path, HOME=tmp_path / "file/home").items():
        monkeypatch.setenv(name, str(value))
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR",
                 "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    results = tmp_path / "some/a{x} %y #1 $z 'p' \"q\" ü"
    chosen = [tiny(), tiny(noise="symmetric", rate=.2, methods=("cross_entropy",))]
    paths = run_blocks(chosen, results)
    assert (paths == [results / f"{block.name}.parquet" for block in chosen]
            == sorted(results.glob("*.parquet"), key=paths.index))
    same_numbers(read_file(paths[0]), rows)
    for block in chosen:
        notebook = json.loads((results / "notebooks" / f"{block.name}.ipynb").read_text())
        assert not [o for cell in notebook["cells"] for o in cell.get("outputs", [])
                    if o["output_type"] == "error"]
        assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert (results / ".home/ipython").is_dir()
    assert not list((results / "checkpoints").glob("*")) and not list(results.glob(".*.part"))
    for module, name in ((subprocess, "Popen"), (papermill, "execute_notebook")):
        monkeypatch.setattr(module, name, never)
    assert run_blocks(chosen, results) == paths and execute_block(chosen[0], results) == paths[0]

@pytest.mark.parametrize("word",
                         ["a#b", "a$b", "a'b", 'a"b', "a b", "a`id`", "$(id)", "$(shell id)", "ü;{x}%&|"])
def test_make_passes_any_word(tmp_path, word):
    (tmp_path / "probe.mk").write_text(
        "probe:\n\t@printf '%s\\n' \"$$NOISY_COURSE_RESULTS\" \"$$SAID_SITE\" $(call options,DATASET)\n")
    command = ["make", "--silent", "-f", "Makefile", "-f", tmp_path / "probe.mk", "probe",
               *(f"{key}={word}" for key in ("RESULTS", "SITE", "DATASET"))]
    said = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True,
                          check=True).stdout.splitlines()
    assert said == [word, word, "--dataset", word]

def test_make_refuses_a_venv_that_make_cannot_name():
    for word in ("a b", "a'b", "a$b"):
        done = subprocess.run(["make", f"VENV={word}", "help"], cwd=Path(__file__).parents[1],
                              capture_output=True, text=True)
        assert done.returncode == 2 and "VENV: expected a folder without blanks" in done.stderr

@pytest.mark.parametrize("words, told", [
    ([], "batch patrini2017 table2 --dataset"), (["VARIANT=text"], "batch patrini2017 text --dataset"),
    (["VARIANT=text"], "report patrini2017 text --beside table2"),
    (["VARIANT=code"], "VARIANT: expected text")])
def test_make_run_follows_the_code_or_the_text(words, told):
    done = subprocess.run(["make", "--dry-run", "run", "READY=", *words], cwd=Path(__file__).parents[1],
                          capture_output=True, text=True, env=os.environ | dict(VARIANT="of the shell"))
    assert told in done.stdout + done.stderr and (done.returncode == 0) == ("expected" not in told)

def kill_all(process):
    "This process and all that it started."
    for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        try: one.kill()
        except psutil.NoSuchProcess: pass
    process.wait()

def in_second_stage(results, block):
    note = results / "progress" / f"{block.name}.json"
    return note.exists() and json.loads(note.read_text())[0] > block.epochs

def test_kill_9_in_the_middle_of_a_block(tmp_path):
    """The first stage is read from its checkpoint, the second is trained again, the numbers are those of
    an undisturbed block."""
    block = tiny(epochs=8)
    command = "import json, sys; from noisy_course.lab.job import *; execute_planned(*sys.argv[1:])"
    (tmp_path / "plan.json").write_text(json.dumps({block.name: parameters(block, "cpu", tmp_path)}))
    process = subprocess.Popen([sys.executable, "-c", command, str(tmp_path / "plan.json"), block.name],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not in_second_stage(tmp_path, block):
            assert process.poll() is None
            time.sleep(.02)
    finally: kill_all(process)
    checkpoint = torch.load(tmp_path / "checkpoints" / block.checkpoints / "first" / "0.pt",
                            weights_only=True)
    assert checkpoint["epoch"] == block.epochs and missing([block], tmp_path) == [block]
    rows = read_file(execute_block(block, tmp_path))
    same_numbers(rows, trained(block))
    seconds = (rows[(rows.method == "cross_entropy") & (rows.metric == "seconds")].sort_values("epoch")
               .value.tolist())
    assert seconds == [scores["seconds"][0].item() for scores in checkpoint["curves"]]
    assert not (tmp_path / "checkpoints" / block.name).exists()


# --- protocols ---

def test_numbers_of_epochs_shrink_with_the_run():
    part = papers.zhang2018.CIFAR100
    assert protocols.at_scale(part, "paper") is part
    small = protocols.at_scale(part, "laptop")
    numbers = [small.usual[name] for name in ("prune_start", "prune_every", "percentile")]
    assert [small.epochs, *numbers] == [6, 3, 1, 100]
    with pytest.raises(ValueError, match="^scale: expected one of smoke, laptop, paper, got 'tiny'"):
        protocols.at_scale(part, "tiny")

@pytest.mark.parametrize("key", TABLES, ids=" ".join)
def test_every_method_of_every_table_can_be_made(key):
    for names in [*(names for _, names in TABLES[key].variants),
                  *(part.methods for part in TABLES[key].parts)]:
        for name in names: assert protocols.method(name, dict(prune_start=1, prune_every=1)).name == name

def test_every_loss_of_every_table_works_with_the_usual_numbers():
    z, y = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0])
    T = job.noise.symmetric(4, .3)
    for name in METHODS:
        made = protocols.method(name, dict(prune_start=1, prune_every=1))
        given = made.loss_arguments(T[None]) if made.loss_arguments else {}
        layer = made.layer(4).eval() if made.layer else torch.nn.Identity()
        assert made.hook("loss")(layer(z)[None], y[None], reduction="none", **given).isfinite().all(), name

def test_the_code_of_wang_decays_the_rate_and_not_the_weights():
    block = next(b for b in every_block if (b.table, b.decay, b.scale) == ("ablation", "rate", "paper"))
    given, coded = (block_recipe(replace(block, decay=d)) for d in ("weights", "rate"))
    assert block.variant == "decay=rate" and "decay=rate" in block.name and given.epochs == coded.epochs == 50
    weights = [torch.nn.Parameter(torch.ones(1))]
    assert [r.optimizer(weights).defaults["weight_decay"] for r in (given, coded)] == [5e-3, 0]
    for epoch in (0, 9, 10, 31, 49):
        assert coded.schedule(epoch) == pytest.approx(given.schedule(epoch) / (1 + 1e-4 * 469 * epoch))

def test_what_a_recipe_wants_of_the_final_network_is_kept(monkeypatch):
    final = lambda state: dict(epochs_seen=state.epoch,
                               sure=state.probabilities("last").amax(1).mean().item())
    recipe = replace(block_recipe(tiny()), final_metrics=final)
    monkeypatch.setattr(grid, "block_recipe", lambda block: recipe)
    wanted = trained(tiny())
    kept = wanted[wanted.metric.isin(["epochs_seen", "sure"])]
    assert kept.epoch.isna().all()
    assert (kept.groupby("method").metric.apply(list).to_dict()
            == {m: ["epochs_seen", "sure"] for m in tiny().methods})
    assert set(kept[kept.metric == "epochs_seen"].value) == {tiny().epochs}
    assert kept[kept.metric == "sure"].value.between(.1, 1).all()

def test_schedules_keep_their_shape_when_shortened():
    recipe = protocols.shortened(papers.zhang2018.CIFAR10.recipe, 12)
    assert [round(recipe.schedule(e), 6) for e in (0, 3, 4, 7, 8, 11)] == [1, 1, .1, .1, .01, .01]
    assert recipe.epochs == 12

SHAPES = dict(mnist=(28, 28), fashion_mnist=(28, 28), cifar10=(3, 32, 32), cifar100=(3, 32, 32))

@pytest.mark.parametrize("block", [b for b in {(b.dataset, b.network or b.model): b
                                               for b in every_block if b.dataset in SHAPES}.values()],
                         ids=lambda b: f"{b.dataset}-{b.network or b.model}")
def test_every_network_takes_its_images(block):
    C = 100 if block.dataset == "cifar100" else 10
    images = torch.randint(256, (4, *SHAPES[block.dataset]), dtype=torch.uint8)
    data = job.data.Dataset(block.dataset, images, torch.arange(4), images[:2], torch.arange(2),
                            tuple(map(str, range(C))))
    network = job.block_network(block, data)(torch.Generator().manual_seed(0))
    x = (images if not (augment := block_recipe(block).augment)
         else augment(images, torch.Generator().manual_seed(0)))
    assert network(data.normalise(x)).shape == (4, C)

def test_a_paper_scale_block_of_grey_images_trains(monkeypatch):
    digits = job.data.load("mnist")
    monkeypatch.setattr(job.data, "load", lambda name: digits)
    for block in (tiny(paper="zhang2018", table="table1", dataset="fashion_mnist", model="resnet18",
                       scale="paper", samples=40, methods=("truncated_gce",), prune_start=1, prune_every=1),
                  tiny(paper="wang2019", table="table1", model="cnn4", scale="paper", samples=150,
                       methods=("d2l", "symmetric_cross_entropy"))):
        dataset = replace(block_data(block), test_x=digits.test_x[:20], test_y=digits.test_y[:20])
        runs = block_runs(block, dataset)
        rows = result_rows(block, dataset, runs, train_block(block, dataset, runs))
        curves = rows[rows.metric.isin(["train_loss", "valid_loss"])]
        assert (curves.groupby(["method", "metric"]).epoch.apply(list).to_dict()
                == {(m, k): [1, 2] for m in block.methods for k in ("train_loss", "valid_loss")})
        assert np.isfinite(curves.value.astype(float)).all() and rows.network.unique().tolist() == [""]
