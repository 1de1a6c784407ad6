"""Batches that are killed again and again, at any moment, give the numbers of an undisturbed one.

SOAK_KILLS=50 kills more often."""
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest

from noisy_course.lab.batch import run_blocks
from noisy_course.lab.grid import blocks, plan
from noisy_course.lab.job import parameters
from noisy_course.lab.results import read_file

KILLS = int(os.environ.get("SOAK_KILLS", 4))

def small(paper, table, methods, only, **changes):
    "The first block of a part of a table, with other methods and sizes."
    return replace(blocks(plan(paper, table, "smoke", **only))[0], methods=methods, **changes)

BLOCKS = [
    small("patrini2017", "table2", ("cross_entropy", "forward_estimated"), dict(dataset="mnist", rate=.6),
          seeds=(0, 1), epochs=20),
    small("jindal2019", "table1", ("linear_noise_layer", "nnaqc_dropout"), dict(dataset="mnist", rate=.3),
          samples=400, epochs=4),
    small("tanaka2018", "fashion", ("cross_entropy", "joint_optimization"), dict(noise="redrawn", rate=.5),
          epochs=16, first_epochs=16, label_start=5),
    small("zhang2018", "table1", ("truncated_gce", "cross_entropy"), dict(dataset="fashion_mnist", rate=.4),
          epochs=24, prune_start=4, prune_every=4)]

# Every kernel starts with this: digits stand in for garments, every epoch is saved, and who goes on from a
# checkpoint says so.
START = """
import json, os, sys
from dataclasses import replace
import torch
from noisy_course import checkpoints, data
from noisy_course.lab import job, results as written_results
digits = data.load("mnist")
few = replace(digits, test_x=digits.test_x[:1000], test_y=digits.test_y[:1000])
job.LOADERS |= dict.fromkeys(["mnist", "fashion_mnist"], lambda: few)
checkpoints.train_with_checkpoints.__defaults__ = (*checkpoints.train_with_checkpoints.__defaults__[:-1], 0.)
real = checkpoints.load
def load(trainer, path):
    real(trainer, path)
    with open(os.environ["SOAK"] + "/resumed.txt", "a") as file: file.write(f"{path} {trainer.epoch}\\n")
checkpoints.load = load
chosen = [job.block_from(given, set())[0] for given in json.load(open(os.environ["SOAK"] + "/blocks.json"))]
"""
STARTUP = "ipython/profile_default/startup/soak.py"
KILLED_AT_THE_END = START + """
def written(rows, folder, write=written_results.write_result):
    with open(os.environ["SOAK"] + "/written.txt", "a") as file: file.write(f"{write(rows, folder).name}\\n")
    os.kill(os.getpid(), 9)
written_results.write_result = written
"""
UNDISTURBED = START + """
torch.set_num_threads(1)
for block in chosen:
    dataset = job.block_data(block)
    runs = job.block_runs(block, dataset)
    rows = job.result_rows(block, dataset, runs, job.train_block(block, dataset, runs))
    written_results.write_result(rows, sys.argv[1])
"""
BATCH = START + """
from noisy_course.lab.batch import run_blocks
run_blocks(chosen, sys.argv[1], workers=2)
"""

@pytest.fixture
def start(tmp_path):
    "Start a Python process; in the end all that came of it is killed."
    startup = tmp_path / STARTUP
    startup.parent.mkdir(parents=True)
    startup.write_text(START)
    (tmp_path / "blocks.json").write_text(json.dumps([parameters(block, "cpu", "") for block in BLOCKS]))
    own = dict(SOAK=str(tmp_path), IPYTHONDIR=str(tmp_path / "ipython"),
               JUPYTER_RUNTIME_DIR=str(tmp_path / "jupyter"), OMP_NUM_THREADS="1")
    with open(tmp_path / "log.txt", "a") as log:
        yield lambda code, results: subprocess.Popen([sys.executable, "-c", code, str(results)],
                                                     env=os.environ | own, stdout=log, stderr=log)
    while living := alive(tmp_path): kill(living)

WORDS = {"ipykernel_launcher": "kernel", "noisy_course.lab.job": "papermill"}

def role(words):
    "What a process is, by its command line."
    return next((name for word, name in WORDS.items() if any(word in w for w in words)),
                "batch" if BATCH in words else "helper")

def alive(folder):
    "The living processes of a soak, whoever their parents are now: role, process, words of its command line."
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("SOAK") == str(folder) and process.status() != psutil.STATUS_ZOMBIE
            if ours: found.append((role(words := process.cmdline()), process, words))
        except (psutil.Error, OSError, IndexError): pass
    return found

def kill(chosen):
    "kill -9."
    for _, process, _ in chosen:
        try: process.kill()
        except psutil.NoSuchProcess: pass

MOMENTS = dict(any="none", epoch="checkpoints/*/*/*/*.pt", checkpoint="checkpoints/*/*/*/.*.part",
               result=".*.parquet.*.part", end="*.parquet")

def stamps(results, pattern):
    "The files of a pattern, and when they were written."
    try: return {(path, path.stat().st_mtime_ns) for path in results.glob(pattern)}
    except FileNotFoundError: return set()

def moment(results, rng, running):
    "Wait for a random moment: any, after an epoch, while a file is written, or at the end of a block."
    kind = rng.choice(list(MOMENTS))
    before, until = stamps(results, MOMENTS[kind]), time.monotonic() + rng.uniform(0, 15)
    early = lambda: time.monotonic() < until if kind == "any" else stamps(results, MOMENTS[kind]) <= before
    while running() and early(): time.sleep(.002)
    if kind in ("epoch", "end"): time.sleep(rng.uniform(0, .5))
    return kind

def phases(results, living):
    "How far the blocks are that are being trained: name → loading, first, second or finished."
    def phase(name):
        if (results / f"{name}.parquet").exists(): return "finished"
        return next((stage for stage in ("second", "first")
                     if [*results.glob(f"checkpoints/{name}/*/{stage}")]), "loading")
    names = {words[-1] for role, process, words in living if role == "papermill"}
    return {name: phase(name) for name in names}

def strike(folder, results, rng):
    "Kill one process, or all of them; what was killed, and when; nothing if nothing lives."
    living = alive(folder)
    if not living: return {}
    target = rng.choice(sorted({role for role, *_ in living} - {"helper"}) + ["tree"])
    chosen = living if target == "tree" else [rng.choice([one for one in living if one[0] == target])]
    at = phases(results, living)
    kill(chosen)
    time.sleep(.1)
    return dict(target=target, at=at, half=[path.name for path in results.rglob(".*.part")])

def disturbed(start, folder, results, rng, kills):
    "Start a batch until it ends well, killing up to so many times; what was killed, and when."
    killed, disturbed_by, batch = [], [], start(BATCH, results)
    while batch.poll() != 0:
        if batch.poll() is not None:
            assert disturbed_by, f"an undisturbed batch failed: {(folder / 'log.txt').read_text()[-2000:]}"
            time.sleep(1)
            disturbed_by = alive(folder)  # what outlives a killed batch keeps its folder for a while
            batch = start(BATCH, results)
        if len(killed) == kills: batch.wait()
        else:
            kind = moment(results, rng, lambda: batch.poll() is None)
            struck = strike(folder, results, rng) if batch.poll() != 0 else {}
            if struck: disturbed_by = struck
            if struck: killed.append(struck | dict(moment=kind, batch=results.name, time=time.time()))
            if struck: (folder / "kills.jsonl").open("a").write(json.dumps(killed[-1]) + "\n")
    return killed

def check(results, reference):
    "Every result is there once, with the numbers of the undisturbed batch; nothing is left over."
    assert {path.name for path in results.glob("*.parquet")} == {f"{block.name}.parquet" for block in BLOCKS}
    for block in BLOCKS:
        ours, plain = (read_file(folder / f"{block.name}.parquet") for folder in (results, reference))
        keys = ["method", "seed", "metric", "epoch"]
        assert not ours.duplicated(keys).any() and ours[keys].equals(plain[keys])
        timeless = [rows[~rows.metric.str.contains("seconds")].drop(columns=["seconds", "commit", "dirty"])
                    for rows in (ours, plain)]
        pd.testing.assert_frame_equal(*timeless, check_exact=True)
    assert not [path for path in results.rglob(".*.part") if "plan.json" not in path.name]
    assert not list((results / "checkpoints").glob("*"))

def test_killed_batches_give_the_numbers_of_an_undisturbed_one(tmp_path, start, monkeypatch):
    reference, rng, kills, batches = tmp_path / "undisturbed", random.Random(0), [], 0
    assert start(UNDISTURBED, reference).wait() == 0
    while len(kills) < KILLS:
        results = tmp_path / f"results {batches}"
        found = disturbed(start, tmp_path, results, rng, KILLS - len(kills))
        psutil.wait_procs([process for _, process, _ in alive(tmp_path)], timeout=60)
        assert not alive(tmp_path)
        check(results, reference)
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", None)
            assert run_blocks(BLOCKS, results) == [results / f"{block.name}.parquet" for block in BLOCKS]
        kills, batches = kills + found, batches + 1

def test_a_result_outlives_the_kernel_that_wrote_it(tmp_path, start):
    "Killed just after its result was written: the block is finished, and its checkpoints go."
    (tmp_path / STARTUP).write_text(KILLED_AT_THE_END)
    (tmp_path / "blocks.json").write_text(json.dumps([parameters(BLOCKS[0], "cpu", "")]))
    assert start(BATCH, tmp_path / "results").wait() == 0
    assert (tmp_path / "written.txt").read_text() == f"{BLOCKS[0].name}.parquet\n"
    assert list((tmp_path / "results").glob("*.parquet"))
    assert not list((tmp_path / "results" / "checkpoints").glob("*"))
