"""Train a table: python -m noisy_course.lab.batch PAPER TABLE [--dataset mnist] [--scale paper] …

Snakemake decides which blocks are missing, runs as many at a time as there are workers, retries, and can
hand them to a cluster. What is ours: the list of blocks, a progress bar, and a lock that keeps a second
batch out of the same results folder."""
import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

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


SNAKEFILE = WORKFLOW / "Snakefile"


def run_blocks(
    blocks: list, # of Block
    results: str | Path, # folder
    device: str = "cpu", # where to train; several with commas between them
    workers: int = 2, # blocks at a time
    profile: str | None = None, # a Snakemake profile, for a cluster
) -> list: # result files
    "Train all blocks that have no result yet, with Snakemake; a killed batch goes on where it was."
    todo = missing(blocks, results)
    results = Path(results).resolve()
    _check_batch(todo, device, workers, profile)
    bring_data(todo)
    if todo:
        with lock(results / "locks" / "batch", wait=False) as held:
            set_aside(todo, results)
            _snakemake(todo, results, device, workers, profile, held)
    for block in blocks: _clear(block.name, results)
    return [results / f"{block.name}.parquet" for block in blocks]


# What kills have left of finished blocks goes: checkpoints, and files that were half written.
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
    if profile is not None: profile_folder(profile)
    else: check_there(device)
    require(profile or workers == 1 or len(devices(device)) == 1, "workers",
            "1 where a run has several devices", workers)


def _clear(name, results):
    shutil.rmtree(results / "checkpoints" / name, ignore_errors=True)
    for part in (*results.glob(f".{name}.*.part"), *results.glob(f"progress/.{name}.*.part")):
        part.unlink(missing_ok=True)


# Snakemake is told what is missing, in a file of plain parameters. It starts afresh each time, without the
# locks and notes of a killed one. Blocks do not wait for one another, so the simple scheduler will do,
# which writes no files of its own. A finished block is a mark among those notes, since Snakemake removes
# the output of a job that fails, and a job that is killed at its end has a whole result:
def _snakemake(todo, results, device, workers, profile, held):
    plan = results / "plan.json"
    with atomic_write(plan) as part:
        part.write_text(json.dumps({b.name: parameters(b, device, results) for b in todo}, indent=1))
    shutil.rmtree(results / ".snakemake", ignore_errors=True)
    where = (["--profile", str(profile_folder(profile))] if profile
             else ["--cores", str(workers), "--retries", "1"])
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(results),
               "--keep-going", "--scheduler", "greedy", *where]
    with open(results / "snakemake.log", "w") as log, _environment(workers, results):
        _watch(subprocess.Popen(command, stdout=log, stderr=log, pass_fds=[held]), todo, results)


# A cluster

# On a cluster the blocks become jobs, in any number: a job trains one block, in a notebook, as a worker
# would. How many at a time, on which partition, with how much memory, with which retries: all that stands
# in a Snakemake profile, not in `workers`. Ours is for Slurm (`PROFILE=slurm`); copy it, put in your
# account, and name the copy.
def profile_folder(
    profile: str | Path, # a folder, or the name of one of ours
) -> Path: # absolute
    "A Snakemake profile: a folder of the user's, or `slurm`, which comes with the course."
    require(isinstance(profile, (str, Path)), "profile", "a folder with a config.yaml, or slurm",
            repr(profile))
    folder = next((p for p in (Path(profile), SNAKEFILE.parent / "profiles" / profile)
                   if any(p.glob("config*.yaml"))), None)
    require(folder is not None, "profile", "a folder with a config.yaml, or slurm", profile)
    return folder.resolve()


# Wherever a block is trained, it keeps to one thread. It starts in the results folder, perhaps on another
# machine, so that the settings it needs go with it. Weights of PyTorch stay where they are; what Snakemake
# keeps in the user's cache goes to the results too:
def _environment(workers, results):
    ours = dict(NOISY_COURSE_DATA=str(data.folder_setting("data") or ""),
                NOISY_COURSE_CACHE=str(data.cache_folder()))
    theirs = dict(TORCH_HOME=str(Path(torch.hub.get_dir()).parent),
                  XDG_CACHE_HOME=str(results / ".home" / "cache"))
    return _set(dict(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", NOISY_COURSE_WORKERS=str(workers)) | ours
                | theirs)


# The bar adds up what the blocks report. Ctrl-C reaches Snakemake and its notebooks too, since they belong
# to the same terminal; every block keeps its last checkpoint.
@cache
def _size(block): return n_run_epochs(block)

def _done(todo, results):
    for block in todo:
        total = _size(block)
        if not missing([block], results): yield total, total
        else:
            note = results / "progress" / f"{block.name}.json"
            yield json.loads(note.read_text()) if note.exists() else (0, total)


# The bar itself looks once a second:
def _watch(process, todo, results):
    with tqdm(desc=f"{len(todo)} blocks", unit="run-epoch", smoothing=.05) as bar:
        try:
            while process.poll() is None:
                done, bar.total = map(sum, zip(*_done(todo, results)))
                bar.update(done - bar.n)
                time.sleep(1)
        except KeyboardInterrupt:
            process.wait()
            raise SystemExit("stopped; the same command goes on from the last checkpoints") from None
        done, bar.total = map(sum, zip(*_done(todo, results)))
        bar.update(done - bar.n)
    failed = missing(todo, results)
    if not failed: return
    first = failed[0].name
    raise SystemExit(f"{len(failed)} of {len(todo)} blocks failed, first {first}; " + _why(results, first))

def _why(results, name):
    log = results / "logs" / f"{name}.log"
    said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return f"it said: {said[-1]}\nAll of it is in {log}" if said else f"see {results / 'snakemake.log'}"


# From the command line

# `make run` and `make table` come here: settings from `settings.ini`, environment and arguments, in rising
# order of weight.
def main(
    argv: list | None = None, # words of the command line; those of the process if none
) -> None:
    "Train what a table needs: python -m noisy_course.lab.batch PAPER TABLE [--dataset mnist] ..."
    parser = argparse.ArgumentParser(prog="python -m noisy_course.lab.batch",
                                     description="Train the runs of a paper's table.")
    for name, example in (("paper", "patrini2017"), ("table", "table2")):
        parser.add_argument(name, nargs="?", help=f"e.g. {example}; every one, with --plan, if none is named")
    for name in ("dataset", "model", "method", "noise", "variant"):
        parser.add_argument(f"--{name}", help=f"only this {name}")
    parser.add_argument("--protocol",
                        help="a Python file with an experiment of your own; its name takes the place of the "
                        "paper's")
    parser.add_argument("--rate", type=float, help="only this noise rate")
    parser.add_argument("--scale", default=data.setting("scale", "laptop"), help="smoke, laptop or paper")
    parser.add_argument("--precision", default="fp32", help="fp32 or bf16")
    parser.add_argument("--device", default=data.setting("device", "cpu"),
                        help="cpu, cuda, or several: cuda:0,cuda:1")
    parser.add_argument("--workers", type=int, default=data.setting("workers", "2"), help="blocks at a time")
    parser.add_argument("--results", type=Path, default=results_folder(), help="folder of the results")
    parser.add_argument("--profile", help="a Snakemake profile, for a cluster")
    parser.add_argument("--plan", action="store_true", help="only say what would run")
    given = parser.parse_args(argv)
    only = {k: getattr(given, k) for k in ("dataset", "model", "method", "noise", "variant", "rate")}
    try:
        if given.protocol: given.paper = add_file(given.protocol)
        _run_table(given, {k: v for k, v in only.items() if v is not None})
    except ValueError as error: raise SystemExit(str(error)) from None
    except OSError as error:
        raise SystemExit(f"{error.filename or given.results}: {error.strerror}" if error.strerror
                         else str(error)) from None

def _check_options(given):
    check_workers(given.workers)
    check_device(given.device)
    if given.profile: profile_folder(given.profile)
    require(given.results.is_dir() or not given.results.exists(), "results", "a folder",
            f"{given.results}, a file")



# It says first what it is going to do. A plan without a paper is one of all tables:
def _run_table(given, only):
    _check_options(given)
    require(given.table or given.plan, "table", "the names of a paper and of a table", given.paper or "none")
    names = ([(given.paper, given.table)] if given.table
             else [name for name in TABLES if given.paper in (None, name[0])])
    require(names, "paper", f"one of {', '.join(dict.fromkeys(paper for paper, _ in TABLES))}",
            repr(given.paper))
    rows = list(_planned(names, given, only)) or [plan(*names[0], given.scale, given.precision, **only)]
    chosen = [b for frame in rows for b in blocks(frame)]
    here = torch.cuda.is_available() or not given.device.startswith("cuda")
    if not here:
        print(f"device: this machine has no GPU that PyTorch can use, so {given.device} is planned for "
              "another machine")
    seen = outlook(chosen, given.results, machine(given.device) if here else "a GPU elsewhere", given.workers)
    who = f"{given.paper} {given.table}" if given.table else f"{len(rows)} tables and figures"
    print(f"{who}, scale {given.scale}: {sum(map(len, rows))} runs in {len(chosen)} blocks, "
          f"{len(chosen) - seen.done.sum()} to train "
          f"({seen.run_epochs.sum()} run-epochs, {_told_time(seen)})")
    if given.plan: print(_told_plan(seen))
    else: run_blocks(chosen, given.results, given.device, given.workers, given.profile)

def _planned(names, given, only):
    for name in names:
        try: yield plan(*name, given.scale, given.precision, **only)
        except ValueError:
            if len(names) == 1: raise

def _span(hours):
    minutes = round(60 * hours)
    if hours > 48: return f"{hours / 24:,.0f} days"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(1, minutes)} min"

def _told_time(seen):
    if not seen.run_epochs.sum(): return "no time"
    if seen.hours.isna().any(): return "time unknown: nothing ran on this machine yet"
    guessed = seen.hours[seen.guessed].sum()
    return (f"about {_span(seen.hours.sum())}"
            + (f", of which {_span(guessed)} reckoned from other networks, marked ~" if guessed else ""))

def _told_plan(seen):
    hours = ["unknown" if pd.isna(h) else f"{'~' * g}{h:.1f}" for h, g in zip(seen.hours, seen.guessed)]
    columns = dict(done="there", published="with the repository", run_epochs="run-epochs to go")
    return seen.assign(hours=hours).drop(columns="guessed").rename(columns=columns).to_string(index=False)


if __name__ == "__main__": main()
