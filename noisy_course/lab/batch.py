"""Train a table: python -m noisy_course.lab.batch PAPER TABLE [--dataset mnist] [--scale paper] …

One scheduler serves a laptop and a rented GPU: blocks that have no result yet are trained in their order,
each in a process of its own, as many at a time as there are workers, until none is left or the time is
over. On a cluster each block is a job, and Snakemake hands the jobs over."""
import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from ctypes import CDLL
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import Event

import pandas as pd
import torch
from tqdm import tqdm

from noisy_course import data
from noisy_course.basics import atomic_write, require
from noisy_course.distributed import check_distributed, check_there, devices
from noisy_course.lab.forecast import n_run_epochs, outlook
from noisy_course.lab.grid import block_methods, block_recipe, blocks, plan
from noisy_course.lab.job import _set, bring_data, check_device, parameters
from noisy_course.lab.locks import lock
from noisy_course.lab.papers import TABLES, add_file
from noisy_course.lab.results import WORKFLOW, machine, missing, results_folder, set_aside


RESERVE = 30. # seconds at the end of the time that are kept for stopping

def run_blocks(
    blocks: list, # of Block, the first to train first
    results: str | Path, # folder
    device: str = "cpu", # where to train; several with commas between them
    workers: int = 2, # blocks at a time
    profile: str | None = None, # a Snakemake profile, for a cluster
    minutes: float = math.inf, # when to be at the end, counted from now; the last half is for stopping
) -> list: # result files
    "Train all blocks that have no result yet; a batch that was stopped or killed goes on where it was."
    ends, todo = time.monotonic() + 60 * minutes - RESERVE, missing(blocks, results)
    results = Path(results).resolve()
    _check_batch(todo, device, workers, profile)
    bring_data(todo)
    if todo:
        with lock(results / "locks" / "batch", wait=False) as held, _environment(workers, results):
            set_aside(todo, results)
            _write_plan(todo, results, device)
            batch = _on_cluster(results, profile, held) if profile else _here(todo, results, workers)
            _watch(*batch, todo, results, ends)
    for block in blocks: _clear(block.name, results)
    return [results / f"{block.name}.parquet" for block in blocks]


MOST = 4 # workers that share a core; each keeps one busy, and its memory

def check_workers(
    workers: int, # blocks at a time
) -> None:
    "Refuse a number of workers that is none, or far above what this machine can serve."
    most = MOST * (os.cpu_count() or 1)
    require(isinstance(workers, int) and not isinstance(workers, bool), "workers", "a whole number",
            repr(workers))
    require(1 <= workers <= most, "workers", f"1 to {most} on this machine, which has {os.cpu_count()} cores",
            workers)

def _check_batch(todo, device, workers, profile):
    check_workers(workers)
    check_device(device)
    for block in todo: block_methods(block)
    for block in todo if len(devices(device)) > 1 else (): check_distributed(device, block_recipe(block))
    if profile is None: check_there(device)
    else:
        profile_folder(profile)
        require(find_spec("snakemake"), "profile", "Snakemake: pip install 'noisy_course[slurm]'", "none")
    require(profile or workers == 1 or len(devices(device)) == 1, "workers",
            "1 where a run has several devices", workers)


# A process that trains a block finds it by its name in the plan, a file of plain parameters. What kills
# have left of finished blocks goes: checkpoints, and files that were half written.
def _write_plan(todo, results, device):
    with atomic_write(results / "plan.json") as part:
        part.write_text(json.dumps({b.name: parameters(b, device, results) for b in todo}, indent=1))

def _clear(name, results):
    shutil.rmtree(results / "checkpoints" / name, ignore_errors=True)
    for part in (*results.glob(f".{name}.*.part"), *results.glob(f"progress/.{name}.*.part")):
        part.unlink(missing_ok=True)


# Wherever a block is trained, it keeps to one thread. It starts in the results folder, perhaps on another
# machine, so that the settings it needs go with it. Weights of PyTorch stay where they are; what programs
# keep in the user's cache goes to the results too:
def _environment(workers, results):
    ours = dict(NOISY_COURSE_DATA=str(data.folder_setting("data") or ""),
                NOISY_COURSE_CACHE=str(data.cache_folder()))
    theirs = dict(TORCH_HOME=str(Path(torch.hub.get_dir()).parent),
                  XDG_CACHE_HOME=str(results / ".home" / "cache"))
    return _set(dict(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", NOISY_COURSE_WORKERS=str(workers)) | ours
                | theirs)


# On this machine

# `poll` answers as that of a process does: nothing while there is work. A block that fails is tried once
# more. One that is interrupted has a while to end; its last checkpoint stays.
TRIES, PATIENCE = 2, 25. # how often a block may start; seconds that it has to stop

def _here(todo, results, workers):
    "Two functions: one that keeps this machine's workers busy, and one that stops them."
    waiting, running, tries = [block.name for block in todo], {}, Counter()

    def poll():
        for name in [name for name, process in running.items() if process.poll() is not None]:
            if running.pop(name).poll() == 0: continue
            if tries[name] < TRIES: waiting.insert(0, name)
            else: tqdm.write(f"{name} failed, see {_log(name, results)}", file=sys.stderr)
        while waiting and len(running) < workers:
            tries[name := waiting.pop(0)] += 1
            running[name] = _start(name, results)
        return None if running else 0

    return poll, lambda: _stop(running.values())


# A block's process has a session of its own, so that Ctrl-C reaches it once, from here. It ends with the
# batch, even where that is killed, and hears an interrupt also where a shell has started the batch deaf.
TRAIN = "-m", "noisy_course.lab.job"
PRCTL = getattr(CDLL(None), "prctl", None) if sys.platform == "linux" else None

def _start(name, results):
    _log(name, results).parent.mkdir(exist_ok=True)
    with open(_log(name, results), "w") as log:
        return subprocess.Popen([sys.executable, *TRAIN, "plan.json", name], cwd=results, stdout=log,
                                stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                                preexec_fn=_hears_interrupts)

def _hears_interrupts():
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if PRCTL: PRCTL(1, signal.SIGINT) # when the parent dies

def _stop(processes):
    for process in processes: process.send_signal(signal.SIGINT)
    until = time.monotonic() + PATIENCE
    for process in processes:
        try: process.wait(max(0, until - time.monotonic()))
        except subprocess.TimeoutExpired: process.kill()


# On a cluster

# There each block is a job, which trains it as a worker would. How many at a time, on which partition, with
# how much memory, with which retries: all that stands in a Snakemake profile, not in `workers`. Ours is for
# Slurm (`PROFILE=slurm`); copy it, put in your account, and name the copy.
def profile_folder(
    profile: str | Path, # a folder, or the name of one of ours
) -> Path: # absolute
    "A Snakemake profile: a folder of the user's, or `slurm`, which comes with the course."
    require(isinstance(profile, (str, Path)), "profile", "a folder with a config.yaml, or slurm",
            repr(profile))
    folder = next((p for p in (Path(profile), WORKFLOW / "profiles" / profile)
                   if any(p.glob("config*.yaml"))), None)
    require(folder is not None, "profile", "a folder with a config.yaml, or slurm", profile)
    return folder.resolve()


# Snakemake starts afresh each time, without the locks and notes of a killed one, and holds the batch's lock
# too. Blocks do not wait for one another, so its simple scheduler will do, which writes no files of its
# own. A finished block is a mark among its notes, since Snakemake removes the output of a job that fails,
# and a job that is killed at its end has a whole result.
def _on_cluster(results, profile, held):
    "Two functions: one that says whether Snakemake has ended, and one that stops it and its jobs."
    shutil.rmtree(results / ".snakemake", ignore_errors=True)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(WORKFLOW / "Snakefile"), "--directory",
               str(results), "--keep-going", "--scheduler", "greedy", "--profile",
               str(profile_folder(profile))]
    with open(results / "snakemake.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=[held], start_new_session=True)

    def stop():
        if process.poll() is None: os.killpg(process.pid, signal.SIGINT)
        process.wait()

    return process.poll, stop


# The bar

# It adds up, once a second, what the blocks report. Where nobody watches, as in a file, it is written now
# and then.
def _watch(poll, stop, todo, results, ends):
    "Wait until a batch ends, its time is over or it is interrupted; then say what has no result."
    reason, rare = "stopped", 1 if sys.stderr.isatty() else 20
    with tqdm(unit="run-epoch", smoothing=.05, mininterval=rare) as bar:
        try:
            while (in_time := time.monotonic() < ends) and poll() is None:
                _look(bar, todo, results, ends)
                if INTERRUPTED.is_set(): raise KeyboardInterrupt
                time.sleep(1)
            _look(bar, todo, results, ends)
            reason = "" if in_time else "the time is over"
        except KeyboardInterrupt: INTERRUPTED.clear()
        finally: stop()
    if not (left := missing(todo, results)): return
    if reason: raise SystemExit(f"{reason}; the same command goes on from the last checkpoints")
    first = left[0].name
    raise SystemExit(f"{len(left)} of {len(todo)} blocks failed, first {first}; {_why(first, results)}")

def _look(bar, todo, results, ends):
    finished, clock = len(todo) - len(missing(todo, results)), (ends - time.monotonic()) / 60
    bar.set_description(f"{finished} of {len(todo)} blocks"
                        + (f", {max(0, clock):.1f} minutes left" if ends < math.inf else ""), refresh=False)
    done, bar.total = map(sum, zip(*_done(todo, results)))
    bar.update(done - bar.n)

@cache
def _size(block): return n_run_epochs(block)

def _done(todo, results):
    for block in todo:
        total = _size(block)
        if not missing([block], results): yield total, total
        else:
            note = results / "progress" / f"{block.name}.json"
            yield json.loads(note.read_text()) if note.exists() else (0, total)

def _log(name, results): return results / "logs" / f"{name}.log"

def _why(name, results):
    log = _log(name, results)
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return (f"it said: {lines[-1]}\nAll of it is in {log}" if lines
            else f"see {log if log.exists() else results / 'snakemake.log'}")


# What else asks a batch to end, as a lost connection does, stops it as Ctrl-C would, but for what `nohup`
# keeps away. Python drops an exception that is raised within a hook, as while a process is being forked: so
# an interrupt is noted too, and the bar looks for it.
INTERRUPTED = Event()

def _interrupt(*_):
    INTERRUPTED.set()
    raise KeyboardInterrupt

def interrupt_on_signals() -> None:
    "Let SIGTERM and SIGHUP interrupt this process as SIGINT does."
    INTERRUPTED.clear()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        sent = getattr(signal, name, None) # Windows has no SIGHUP
        if sent and (name == "SIGINT" or signal.getsignal(sent) != signal.SIG_IGN):
            signal.signal(sent, _interrupt)


# From the command line

# `make run` and `make table` come here: settings from `settings.ini`, environment and arguments, in rising
# order of weight.
PARTS = "dataset", "model", "method", "noise", "variant"

def main(
    argv: list | None = None, # words of the command line; those of the process if none
) -> None:
    "Train what a table needs: python -m noisy_course.lab.batch PAPER TABLE [--dataset mnist] ..."
    parser = argparse.ArgumentParser(prog="python -m noisy_course.lab.batch",
                                     description="Train the runs of a paper's table.")
    for name, example in (("paper", "patrini2017"), ("table", "table2")):
        parser.add_argument(name, nargs="?", help=f"e.g. {example}; every one, with --plan, if none is named")
    for name in PARTS: parser.add_argument(f"--{name}", help=f"only this {name}")
    parser.add_argument("--protocol",
                        help="a Python file with an experiment of your own, instead of the paper")
    parser.add_argument("--rate", type=float, help="only this noise rate")
    parser.add_argument("--scale", default=data.setting("scale", "laptop"), help="smoke, laptop or paper")
    parser.add_argument("--precision", default="fp32", help="fp32 or bf16")
    parser.add_argument("--device", default=data.setting("device", "cpu"),
                        help="cpu, cuda, or several: cuda:0,cuda:1")
    parser.add_argument("--workers", type=int, default=data.setting("workers", "2"), help="blocks at a time")
    parser.add_argument("--results", type=Path, default=results_folder(), help="folder of the results")
    parser.add_argument("--profile", help="a Snakemake profile, for a cluster")
    parser.add_argument("--plan", action="store_true", help="only say what would run")
    options = parser.parse_args(argv)
    only = {name: value for name in (*PARTS, "rate") if (value := getattr(options, name)) is not None}
    try:
        if options.protocol: options.paper = add_file(options.protocol)
        _run_tables(options, only)
    except ValueError as error: raise SystemExit(str(error)) from None
    except OSError as error:
        raise SystemExit(f"{error.filename or options.results}: {error.strerror}" if error.strerror
                         else str(error)) from None

def _check_options(options):
    check_workers(options.workers)
    check_device(options.device)
    if options.profile: profile_folder(options.profile)
    require(options.results.is_dir() or not options.results.exists(), "results", "a folder",
            f"{options.results}, a file")
    require(options.table or options.plan, "table", "the names of a paper and of a table",
            options.paper or "none")


# It says first what it is going to do. A plan without a paper is one of all tables:
def _run_tables(options, only):
    _check_options(options)
    rows = _planned(options, only)
    chosen = [block for frame in rows for block in blocks(frame)]
    forecast = outlook(chosen, options.results, _machine(options.device), options.workers)
    name = f"{options.paper} {options.table}" if options.table else f"{len(rows)} tables and figures"
    print(f"{name}, scale {options.scale}: {sum(map(len, rows))} runs in {len(chosen)} blocks, "
          f"{len(chosen) - forecast.done.sum()} to train "
          f"({forecast.run_epochs.sum()} run-epochs, {_duration(forecast)})")
    if options.plan: return print(_as_text(forecast))
    interrupt_on_signals()
    run_blocks(chosen, options.results, options.device, options.workers, options.profile)

def _planned(options, only):
    "The plans of one table, or of all that have what is asked for."
    one = lambda name: plan(*name, options.scale, options.precision, **only)
    if options.table: return [one((options.paper, options.table))]
    names = [name for name in TABLES if options.paper in (None, name[0])]
    require(names, "paper", f"one of {', '.join(dict.fromkeys(paper for paper, _ in TABLES))}",
            repr(options.paper))
    found = []
    for name in names:
        with suppress(ValueError): found.append(one(name))
    return found or [one(names[0])]

def _machine(device):
    if torch.cuda.is_available() or not device.startswith("cuda"): return machine(device)
    print(f"device: this machine has no GPU that PyTorch can use, so {device} is planned for another machine")
    return "a GPU elsewhere"

def _span(hours):
    minutes = round(60 * hours)
    if hours > 48: return f"{hours / 24:,.0f} days"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(1, minutes)} min"

def _duration(forecast):
    if not forecast.run_epochs.sum(): return "no time"
    if forecast.hours.isna().any(): return "time unknown: nothing ran on this machine yet"
    guessed = forecast.hours[forecast.guessed].sum()
    return (f"about {_span(forecast.hours.sum())}"
            + (f", of which {_span(guessed)} reckoned from other networks, marked ~" if guessed else ""))

def _as_text(forecast):
    hours = ["unknown" if pd.isna(h) else f"{'~' * g}{h:.1f}"
             for h, g in zip(forecast.hours, forecast.guessed)]
    columns = dict(done="there", published="with the repository", run_epochs="run-epochs to go")
    return forecast.assign(hours=hours).drop(columns="guessed").rename(columns=columns).to_string(index=False)


if __name__ == "__main__": main()
