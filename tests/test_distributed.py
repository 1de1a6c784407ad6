"""Several processes against one: the same curves, the same choices, whatever the method; ends of every
kind; what is refused."""
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from torch import nn

from noisy_course import distributed, noise, training
from noisy_course.lab import batch, grid, job
from noisy_course.data import Dataset, random_flip
from noisy_course.distributed import (DistributedTrainer, check_distributed, devices, joined, launch,
                                      train_distributed)
from noisy_course.image_files import read_clothing1m
from noisy_course.models import MLP, Dropout, initialise
from noisy_course.lab.protocols import METHODS, method
from noisy_course.lab.results import read_file
from noisy_course.training import Recipe, Run, generator, train
from test_image_files import shop

def corners(n):
    "Pictures of 4×4 points, grey but for one bright corner, which is the class."
    g, y = torch.Generator().manual_seed(0), torch.arange(n + 40) % 4
    x = torch.randint(80, (n + 40, 1, 4, 4), generator=g, dtype=torch.uint8)
    x += ((150 * torch.eye(4)[y]).view(-1, 1, 2, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
          .to(torch.uint8))
    return Dataset("corners", x[:n], y[:n], x[n:], y[n:], tuple("abcd"))

SGD = partial(torch.optim.SGD, lr=.05, momentum=.9)
RECIPE = Recipe(epochs=2, batch_size=16, optimizer=SGD, runs_at_once=1)
# 102 samples to train on: the last of seven batches has six
DATA, T = replace(corners(113), extra=dict(train_checked=torch.arange(113) < 50)), noise.symmetric(4, .2)
EARLY = dict(epochs=2, prune_start=1, prune_every=1, first_epochs=2, label_start=1, alpha=.8, beta=.5)
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs here")


# --- what is trained, in one process and in several ---

def network(g): return initialise(MLP(4, 16, .5, inputs=16), g)
def run(name, seed=0):
    return Run(method(name, EARLY), noise.corrupt(DATA.train_y, T, generator(seed, "noise")), T, seed)

def conv(g, classes=14, normalised=False):
    "A convolution, a dropout and a dense layer for photographs."
    layers = (nn.Conv2d(3, 6, 5, 3), nn.BatchNorm2d(6) if normalised else nn.Identity(), nn.ReLU(),
              nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return initialise(nn.Sequential(*layers, Dropout(.2, 24), nn.Linear(24, classes)), g)

def clothes(folder, **network):
    """Photographs in Clothing1M's layout, 50 to train on in batches of seven: one process
    has none of the last."""
    data = read_clothing1m(shop(folder) if not (folder / "images").exists() else folder, 36, 32)
    runs = [Run(METHODS[name], data.train_y, data.extra["T"], seed)
            for seed, name in enumerate(("forward", "symmetric_cross_entropy"))]
    return data, runs, partial(conv, **network), replace(
        RECIPE, epochs=5, batch_size=7, optimizer=partial(torch.optim.SGD, lr=.02), select="valid_accuracy")

def every_method(folder):
    """All but one: backward correction by an estimate that a poor network gave multiplies rounding by
    thousands; its two halves are there."""
    return (DATA, [run(name, seed) for seed, name in enumerate(METHODS) if name != "backward_estimated"],
            network, RECIPE)

def sure(state):
    return dict(sure=state.probabilities("last").amax(1).mean().item(),
                tested=state.probabilities("best", state.dataset.test_x)[0, 0].item())

def watched(folder):
    "Augmented, watched, chosen by clean labels, its first steps by a recipe of their own."
    recipe = replace(RECIPE, augment=random_flip, epoch_metrics=sure, select="valid_accuracy_clean")
    return (DATA, [run("joint_optimization"), run("dropout_activations", 1)], network,
            replace(recipe, first_stage=replace(recipe, epochs=3)))

def slow(folder):
    return DATA, [run("symmetric_cross_entropy"), run("forward")], network, replace(RECIPE, epochs=6)

def part(case, device, folder, *options):
    "In each of several processes: train a case, slowly and in vain from an epoch on where one is named."
    torch.set_num_threads(1)
    training.train_with_checkpoints = partial(training.train_with_checkpoints, patience=0.)
    stuck = lambda done, total: (done >= int(options[0]) and time.sleep(1e6)) if options else None
    train_distributed(*globals()[case](Path(folder)), device, Path(folder) / case, stuck)

def code(function, *arguments):
    return ["-c", f"import sys, test_distributed; test_distributed.{function}(*sys.argv[1:])",
            *map(str, arguments)]

@pytest.fixture(autouse=True)
def one_thread_here(monkeypatch):
    monkeypatch.chdir(Path(__file__).parent)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

def assert_close(a, b, tolerance=1e-4):
    "The same curves, the same epoch chosen, the same networks."
    wide = [t.curves[~t.curves.metric.str.contains("seconds")].set_index(["run", "epoch", "metric"]).value
            for t in (a, b)]
    pd.testing.assert_series_equal(*wide, rtol=tolerance, atol=tolerance)
    for i in range(len(a.runs)):
        select = a.trainers[i][0].recipe.select
        scores = [t.curves[(t.curves.run == i) & (t.curves.metric == select)].value.to_numpy()
                  for t in (a, b)]
        chosen = [score.argmin() if select == "valid_loss" else score.argmax() for score in scores]
        assert chosen[0] == chosen[1], a.runs[i].method.name
        for which in ("best", "last"):
            states = [t.module(i, which).state_dict() for t in (a, b)]
            torch.testing.assert_close(*states, rtol=tolerance, atol=tolerance,
                                       msg=lambda m: f"{a.runs[i].method.name}: {m}")

def outcome(case, folder):
    "What several processes left, read and not trained."
    with pytest.MonkeyPatch.context() as m:
        m.setattr(training.Trainer, "fit_epoch", None)
        return train(*globals()[case](folder), folder=folder / case)


# --- the same numbers ---

@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    shop(folder)
    with pytest.MonkeyPatch.context() as m:
        m.chdir(Path(__file__).parent)
        for case in ("clothes", "every_method", "watched"): launch(code("part", case, "cpu,cpu", folder), 2)
    return folder

def test_photographs_from_files(by_two):
    one, two = train(*clothes(by_two)), outcome("clothes", by_two)
    (trainer, _), recipe = one.trainers[0], clothes(by_two)[3]
    assert trainer.train_rows.shape[1] % recipe.batch_size == 1
    assert_close(one, two)
    first, last = one.curves.query("metric == 'train_loss' and run == 0").value.iloc[[0, -1]]
    assert last < first - .3

def test_every_method_of_the_course(by_two):
    one, two = train(*every_method(by_two)), outcome("every_method", by_two)
    assert_close(one, two)
    for a, b in zip(one.runs, two.runs, strict=True): torch.testing.assert_close(a.T, b.T, rtol=0, atol=1e-4)
    for (a, r), (b, s) in zip(one.trainers, two.trainers):
        torch.testing.assert_close(a.training_state(r).sample_state, b.training_state(s).sample_state,
                                   rtol=1e-4, atol=1e-4)

def test_augmentation_what_is_watched_and_recipes_of_first_steps(by_two):
    one, two = train(*watched(by_two)), outcome("watched", by_two)
    assert_close(one, two)
    assert_close(one.first_stage(0), two.first_stage(0))
    assert {"sure", "tested", "valid_accuracy_clean"} <= set(two.curves.metric)
    assert one.first_stage(0).curves.epoch.max() == 3

def test_a_part_sees_only_its_pictures(monkeypatch):
    "Of a training batch; when it scores it is given its share already."
    monkeypatch.setattr(training.Trainer, "inputs", lambda self, rows, augment=False: rows)
    trainer = object.__new__(DistributedTrainer)
    trainer.recipe, trainer.runs, rows = RECIPE, [run("forward")], torch.arange(7)[None]
    seen = []
    for r in range(3):
        trainer.mine = slice(r, None, 3)
        seen.append(trainer.inputs(rows, augment=True)[0].tolist())
        assert trainer.inputs(rows).tolist() == rows.tolist()
    assert seen == [[0, 3, 6], [1, 4], [2, 5]]


# --- ends of every kind ---

def lives(process):
    try: return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess: return False

def epochs_saved(folder): return torch.load(folder, weights_only=True)["epoch"] if folder.exists() else 0

@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl_c"])
def test_stopped_in_the_middle(tmp_path, end):
    """Two processes train until the fourth epoch and hang; when whoever launched them ends they end, and
    one process goes on, or three."""
    words = ("import signal, sys; from noisy_course.distributed import launch; signal.signal(signal.SIGINT, "
             "signal.default_int_handler); launch(sys.argv[1:], 2)")
    launcher = subprocess.Popen([sys.executable, "-c", words, *code("part", "slow", "cpu,cpu", tmp_path, 4)],
                                stderr=subprocess.DEVNULL)
    while epochs_saved(tmp_path / "slow" / "first" / "0.pt") < 4:
        assert launcher.poll() is None
        time.sleep(.1)
    started = psutil.Process(launcher.pid).children(recursive=True)
    assert len(started) >= 3
    launcher.send_signal(end)
    launcher.wait()
    while any(map(lives, started)): time.sleep(.1)
    assert epochs_saved(tmp_path / "slow" / "first" / "0.pt") == 4
    expected = train(*slow(None))
    if end == signal.SIGINT: return assert_close(train(*slow(None), folder=tmp_path / "slow"), expected)
    launch(code("part", "slow", "cpu,cpu,cpu", tmp_path), 3)
    assert_close(outcome("slow", tmp_path), expected)

def normalised(folder): return clothes(folder, normalised=True)

def test_an_error_of_a_process_is_told(tmp_path):
    "Batch normalisation on CPUs, which PyTorch does not synchronise."
    shop(tmp_path)
    with pytest.raises(RuntimeError,
                       match="ValueError: device: expected GPUs for a network with batch normalisation"):
        launch(code("part", "normalised", "cpu,cpu", tmp_path), 2)

def test_nothing_printed_and_nothing_left_by_a_success(tmp_path, capfd):
    launch(["-c", "import pathlib, os, sys; pathlib.Path(sys.argv[1], os.environ['RANK']).touch()", tmp_path],
           2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1"] and capfd.readouterr().out == ""


# --- what is refused ---

def test_names_of_devices():
    assert ([devices(d) for d in ("cpu", "mps", "cuda", "cuda:1, cuda:0", "cpu,cpu,cpu")]
            == [["cpu"], ["mps"], ["cuda"], ["cuda:1", "cuda:0"], ["cpu"] * 3])

@pytest.mark.parametrize("device",
                         ["cuda,cuda", "cuda:0,cpu", "cpu,", "cuda:a,cuda:b", "cuda:0 cuda:1,cuda:2"])
def test_bad_devices(device):
    with pytest.raises(ValueError, match="^device: expected one device, or several"): devices(device)

@pytest.mark.parametrize("recipe, argument",
                         [(Recipe(), "device"), (replace(RECIPE, runs_at_once=2), "device"),
                          (replace(RECIPE, compiled=True), "compiled"),
                          (replace(RECIPE, first_stage=Recipe()), "device")])
def test_runs_that_train_together_are_refused(recipe, argument):
    check_distributed("cuda:0", recipe)
    with pytest.raises(ValueError, match=f"^{argument}: expected"): check_distributed("cuda:0,cuda:1", recipe)

def test_a_device_for_each_process(monkeypatch):
    for k, v in dict(LOCAL_RANK="0", LOCAL_WORLD_SIZE="3").items(): monkeypatch.setenv(k, v)
    with pytest.raises(ValueError, match="^device: expected 3 devices with commas"), joined("cpu,cpu"): pass

@pytest.fixture
def alone(monkeypatch, tmp_path):
    "A group of one process."
    for k, v in dict(LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", RANK="0", WORLD_SIZE="1", MASTER_ADDR="localhost",
                     MASTER_PORT="0").items():
        monkeypatch.setenv(k, v)

def test_one_process_is_an_ordinary_trainer(alone, tmp_path):
    case = every_method(None)
    runs = [r for r in case[1] if r.method.name in ("forward_estimated", "unhinged")]
    assert_close(train_distributed(DATA, runs, network, RECIPE, "cpu", tmp_path),
                 train(DATA, runs, network, RECIPE), 1e-6)
    assert not torch.distributed.is_initialized()

def test_more_processes_than_samples_to_score(alone, monkeypatch):
    with joined("cpu"):
        monkeypatch.setattr(distributed.distributed, "get_world_size", lambda: 12)
        with pytest.raises(ValueError, match="^device: expected at most 11 devices"):
            DistributedTrainer(DATA, [run("forward")], network, RECIPE)


# --- a block of an experiment ---

def block(**changes):
    "The paper's network and optimizer, not the ones that stand in for them below its scale."
    chosen = next(b for b in grid.blocks(grid.plan("jindal2019", "table1", "smoke", dataset="mnist"))
                  if b.rate == .3)
    return replace(chosen, samples=211, epochs=2, methods=("cross_entropy", "nnaqc_dropout"), network="",
                   optimizer="", lr=0., **changes)

def test_a_block_on_two_devices(tmp_path):
    "Through papermill and torchrun: the numbers of one process, and the devices in the result."
    rows = read_file(job.execute_block(block(), tmp_path, "cpu,cpu"))
    data = job.block_data(block())
    runs = job.block_runs(block(), data)
    expected = job.result_rows(block(), data, runs, job.train_block(block(), data, runs))
    def values(rows):
        rows = rows[~rows.metric.str.contains("seconds")]
        return rows.set_index(["method", "metric", "epoch"]).value
    pd.testing.assert_series_equal(values(rows), values(expected), rtol=1e-4, atol=1e-4)
    assert rows.device.unique().tolist() == ["cpu,cpu"] and rows.machine.equals(expected.machine)
    assert rows.epoch_chosen.equals(expected.epoch_chosen)
    assert json.loads((tmp_path / "progress" / f"{block().name}.json").read_text()) == [4, 4]

def test_one_device_starts_nothing(monkeypatch):
    monkeypatch.setattr(job, "launch", None)
    job.train_on_several(block(), "cuda", None)

def test_several_devices_need_a_folder(monkeypatch):
    monkeypatch.setattr(job, "launch", None)
    with pytest.raises(ValueError, match="^results: expected a folder, in which 2 processes"):
        job.train_on_several(block(), "cpu,cpu", None)

def test_a_batch_that_trains_together_is_refused_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "_start", None)
    table = grid.blocks(grid.plan("patrini2017", "table2", "smoke", dataset="mnist"))
    with pytest.raises(ValueError, match="^device: expected one, as these runs train together"):
        batch.run_blocks(table, tmp_path, "cuda:0,cuda:1")
    with pytest.raises(SystemExit, match="^device: expected"):
        batch.main(["patrini2017", "table2", "--dataset", "mnist", "--scale", "smoke", "--device",
                    "cuda:0,cuda:1", "--results", str(tmp_path)])


# --- on GPUs ---

def same_on(device, folder):
    shop(folder)
    launch(code("part", "normalised", device, folder), 2)
    one = train(*normalised(folder), device="cuda")
    with pytest.MonkeyPatch.context() as m:
        m.setattr(training.Trainer, "fit_epoch", None)
        assert_close(one, train(*normalised(folder), device="cuda", folder=folder / "normalised"), 1e-2)

@gpu
def test_batch_normalisation_over_two_processes_of_one_gpu(tmp_path): same_on("cuda:0,cuda:0", tmp_path)

@gpus
def test_batch_normalisation_over_two_gpus(tmp_path): same_on("cuda:0,cuda:1", tmp_path)
