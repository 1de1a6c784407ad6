"""Result files: where their numbers come from, how they are written, read and checked, and which are missing.

A name that starts with a dot is a file half written, and left alone. A file that is not ours stops the
reading, by name: a report that skips what it cannot read would lose cells in silence. A run that is found
twice counts once, from the folder named first, or else from the newest file; and a cell whose files differ
in epochs or dropout keeps one definition only: means over two kinds of run are means of nothing."""
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from hashlib import sha256
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import noisy_course
from noisy_course import data
from noisy_course.basics import SETTING, atomic_write, check_frame, require
from noisy_course.distributed import devices


# A block and its notebook

# A block is trained in its own notebook, which stays beside the results as a record. The notebook and the
# workflow lie beside the lessons in a checkout, and in the package where that was installed from a wheel:
PACKAGE = Path(noisy_course.__file__).parent
PLACES = PACKAGE / "workflow", PACKAGE.parent / "nbs" / "experiments"
WORKFLOW = next((folder for folder in PLACES if folder.is_dir()), PLACES[0])
NOTEBOOK = WORKFLOW / "train_block.ipynb"


# What a result file holds

# Tidy rows: the plan's columns, a metric, a value, and where it comes from. What a recipe wants of the
# `final` network is one row each. Which epoch is reported is part of a table's definition, so all three
# candidates are kept: the epoch of the lowest noisy-validation loss (Patrini's rule, `accuracy`), of the
# highest noisy-validation accuracy (Zhang & Sabuncu's), and the last. `epoch_chosen` is the one that the
# recipe selects by. The test set chooses nothing.
def provenance(
    device: str = "cpu", # the runs were trained on
    version: dict | None = None, # from `tree` before the training; as it is now if none
) -> dict:
    "Where numbers come from: commit, whether anything but results differs from it, versions, machine."
    return (version or tree()) | dict(torch=torch.__version__, python=platform.python_version(),
                                      device=device, machine=machine(device))

def _git(*words):
    if not shutil.which("git"): return ""
    asked = subprocess.run(["git", *words], cwd=Path(noisy_course.__file__).parent, capture_output=True,
                           text=True)
    return "" if asked.returncode else asked.stdout.strip()

def _is_a_checkout(): return bool(_git("ls-files", "__init__.py"))

def machine(
    device: str = "cpu", # "cpu", or a GPU
) -> str: # its processor and number of cores, or the GPU
    "What trains on a device."
    return torch.cuda.get_device_name(devices(device)[0]) if device.startswith("cuda") else _processor()

def _processor():
    known = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = next((line.split(": ")[1] for line in known.splitlines() if line.startswith("model name")),
                platform.processor())
    return f"{name.strip()}, {os.cpu_count()} cores"


# A copy of the course that has left git behind (`make gpu-pack`) has a note of its commit beside the
# package, and of what its files were:
NOTE = Path(noisy_course.__file__).parent.parent / "packed.json"

def sources() -> str: # in hexadecimal
    "A checksum of the modules and of the notebook that trains a block."
    modules = (file for file in PACKAGE.rglob("*.py") if WORKFLOW not in file.parents)
    files = [*sorted(modules), NOTEBOOK]
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()

def tree() -> dict: # commit, and dirty: whether anything but results differs from it
    "Which version of the course this is: as its note says, else as git says."
    if NOTE.exists():
        note = json.loads(NOTE.read_text())
        return dict(commit=note["commit"], dirty=note["dirty"] or note["sources"] != sources())
    commit = _git("rev-parse", "HEAD") if _is_a_checkout() else ""
    changed = commit and _git("status", "--porcelain", "--untracked-files=no", ":/", ":!/results")
    return dict(commit=commit or "unknown", dirty=bool(changed) or not commit)


# The file is compressed, has checksums, and is written whole or not at all. Its values hardly repeat, so a
# dictionary of them would only take room; and what Arrow and pandas would note beside the columns, 16 KB a
# file, says no more than that an epoch is a whole number.
COMPACT = dict(compression="zstd", compression_level=19, write_page_checksum=True, write_statistics=False,
               store_schema=False)

def check_folder(
    folder: str | Path, # what came
    argument: str, # its name, as the caller wrote it
) -> None:
    "Refuse what names no folder, or a file."
    named = isinstance(folder, (str, Path)) and str(folder) and "\0" not in str(folder)
    require(named and not Path(folder).is_file(), argument, "a folder", repr(folder))

def write_result(
    rows: pd.DataFrame, # as `result_rows` gives them
    folder: str | Path, # of the results
) -> Path:
    "Write a block's runs into its result file, whole or not at all; other runs that it has stay."
    check_frame(rows, "rows", [*RUN, "block", "metric", "epoch", "value"])
    require(rows.block.nunique() == 1, "rows", "the rows of one block", f"{rows.block.nunique()} blocks")
    check_folder(folder, "folder")
    path = Path(folder) / f"{rows.block.iloc[0]}.parquet"
    if path.exists() and not flaw(path): rows = joined(read_file(path), rows)
    with atomic_write(path) as part:
        rows.to_parquet(part, index=False, use_dictionary=[c for c in rows if c != "value"], **COMPACT)
    return path

def joined(
    old: pd.DataFrame, # rows of a block
    new: pd.DataFrame, # rows of the same block
) -> pd.DataFrame:
    "The rows of both; a run that both have is the new one's."
    again, old = of_runs(old, new), _with_newer_fields(old, new)
    return pd.concat([old[~again], new], ignore_index=True) if not again.all() else new

def _with_newer_fields(old, new):
    "A setting that became a column after the old rows were written has one value in a block, the new ones'."
    lacking = [c for c in new if c not in [*old, *PROVENANCE] and new[c].nunique(dropna=False) == 1]
    return old.assign(**{c: new[c].iloc[0] for c in lacking})

def of_runs(
    rows: pd.DataFrame, # of a block
    others: pd.DataFrame, # of the same block
) -> np.ndarray: # of bool, one a row
    "Which rows are of a run that the others have too."
    run = ["method", "seed"]
    return pd.MultiIndex.from_frame(rows[run]).isin(pd.MultiIndex.from_frame(others[run]))


# Our results are rows

# A run writes rows: what it was, a metric, a value, and where it came from. A missing `variant` means the
# plain run; extra runs with another hyper-parameter name it there, as in `dropout=0.2`. Every row says its
# *scale*: `smoke`, `laptop` or `paper`. Nothing below ever averages over scales.
CELL = [*SETTING, "method"]
RUN = ["paper", "table", *CELL, "samples", "seed", "scale", "variant"]
PROVENANCE = ["identity", "commit", "dirty", "torch", "python", "device", "machine", "seconds",
              "realised_rate", "epoch_chosen"]
OPTIONAL = ["variant", "network"]
COLUMNS = [*RUN, "network", "block", "metric", "epoch", "value", *PROVENANCE]
SCALES = ["paper", "laptop", "smoke"]
DEFINED = ["samples", "epochs", "dropout", "percentile", "network"]

def _tidy(frame):
    frame = frame.reindex(columns=[*COLUMNS, *(c for c in frame if c not in COLUMNS)])
    numbers = {c: pd.to_numeric(frame[c]).astype(float)
               for c in ("rate", "value", "realised_rate", "seconds")}
    words = {c: frame[c].astype(object).fillna("") for c in OPTIONAL}
    return frame.assign(**numbers | words | dict(rate=numbers["rate"].round(6)))


# `read_results` reads all parquet files below one or several folders. A file that is not ours stops it, by
# name: a report that skips what it cannot read would lose cells in silence. A run that is found twice
# counts once, from the folder named first, or else from the newest file. And a cell whose files differ in
# epochs or dropout keeps one definition only: means over two kinds of run are means of nothing.
# What is read is checked. The pages of a file carry checksums (files older than this rule do not), and
# accuracies are percentages:
def read_file(
    file: str | Path, # parquet
) -> pd.DataFrame:
    "A parquet file, its pages held against their checksums."
    rows = pd.read_parquet(file, page_checksum_verification=True)
    return rows.astype({"epoch": "Int64"}) if "epoch" in rows else rows

def _no_percentages(rows):
    accuracies = rows[rows.metric.str.startswith("accuracy")
                      | rows.metric.isin(["test_accuracy", "valid_accuracy"])]
    odd = accuracies[~accuracies.value.between(0, 100)]
    return f"says {odd.value.iloc[0]:g} for {_whose(odd.iloc[0])}, which is no percentage" if len(odd) else ""

def _whose(row): return f"{row.method}'s seed {row.seed}, {row.metric}"


# A block's file says an accuracy twice: as the number that is reported, and as a point of a curve. The two
# must agree. Which point it is follows from other curves of the same run: the epoch of the lowest
# validation loss, the last one, the best one on validation images.
CURVES = ["test_accuracy", "valid_loss", "valid_accuracy", "valid_accuracy_clean"]

def _reported_epochs(wide, runs):
    "The rows of the epochs at which a run's accuracies are read, by their names."
    lowest = lambda column: wide.loc[column.sort_values(kind="stable").index].drop_duplicates(runs)
    yield "accuracy", lowest(wide.valid_loss.fillna(np.inf))
    yield "accuracy_last", wide.drop_duplicates(runs, keep="last")
    for best in [c for c in CURVES[2:] if c in wide]: yield f"accuracy_best_{best}", lowest(-wide[best])

def _own_words(rows, runs):
    "The accuracies a file reports, each beside the point of the curve that it should be."
    wide = rows[rows.metric.isin(CURVES)].pivot(index=[*runs, "epoch"], columns="metric",
        values="value").reset_index()
    points = [part[[*runs, "epoch", "test_accuracy"]].assign(metric=name)
              for name, part in _reported_epochs(wide, runs)]
    single = rows[rows.epoch.isna()].drop(columns="epoch")
    return single.merge(pd.concat(points), how="right", on=[*runs, "metric"])


def disagreement(
    rows: pd.DataFrame, # of a block's file
) -> str: # empty if there is none
    "Where the accuracies that a block reports are not the points of its curves."
    rows = rows[rows.metric.isin(CURVES) | rows.metric.str.startswith("accuracy")]
    runs = ["method", "seed", *(c for c in RUN if c in rows and c not in ("method", "seed")
                                and rows[c].nunique(dropna=False) > 1)]
    rows = rows.reindex(columns=[*runs, "metric", "epoch", "value", "epoch_chosen"])
    twice = rows[rows.duplicated([*runs, "metric", "epoch"])]
    if len(twice): return f"says {_whose(twice.iloc[0])}, epoch {twice.epoch.iloc[0]} twice"
    if not set(CURVES[:2]) <= set(rows.metric): return f"lacks curves of {' and '.join(CURVES[:2])}"
    both = _own_words(rows, runs)
    other = both[both.value != both.test_accuracy]
    if len(other):
        one = other.iloc[0]
        return (f"says {one.value:g} for {_whose(one)}; its curve has {one.test_accuracy:g} there, after "
                f"epoch {one.epoch}")
    chosen = both.assign(chosen=both.epoch == both.epoch_chosen).groupby(runs).chosen.any()
    return ("" if chosen.all()
            else f"reports an epoch of {' '.join(map(str, chosen.idxmin()))} that is neither the best nor "
            "the last")


# A file of something else, a damaged one, and one whose numbers contradict each other: each gets a
# sentence. Whoever wants to know whether a block is finished asks for it, so it is remembered until the
# file changes. A file whose block has no hash in its name was made by hand, perhaps without curves; of that
# only the percentages are looked at:
def flaw(
    file: str | Path, # a result
) -> str: # e.g. "cannot be read (…)"; empty if there is none
    "What is wrong with a result file."
    return _examined(*_version(file))[0]

def _version(file):
    there = Path(file).stat()
    return str(file), there.st_size, there.st_mtime_ns

@cache
def _examined(file, *version):
    "What is wrong with a file, and which runs it has: (method, seed, identity)."
    try: rows = read_file(file)
    except Exception as error: return f"cannot be read ({error})", frozenset()
    found, known = _flaw_of(rows), [c for c in ("method", "seed", "identity") if c in rows]
    return found, frozenset(rows[known].drop_duplicates().itertuples(index=False, name=None))

def _of_a_block(rows):
    return "block" in rows and all(re.fullmatch(r".*_[0-9a-f]{8}", str(name)) for name in rows.block.unique())

def _flaw_of(rows):
    spared = OPTIONAL if _of_a_block(rows) else [*OPTIONAL, *PROVENANCE]
    missing = [c for c in COLUMNS if c not in [*rows, *spared]]
    if missing: return f"is without the columns {', '.join(missing)}"
    wordy = [c for c in ("rate", "value") if not pd.api.types.is_numeric_dtype(rows[c])]
    if wordy: return f"has something else than numbers in {' and '.join(wordy)}"
    if not pd.api.types.is_string_dtype(rows.metric): return "has something else than words in metric"
    named, rows = (_of_a_block(rows),
                   rows[[c for c in (*RUN, "metric", "epoch", "value", "epoch_chosen") if c in rows]])
    return _no_percentages(rows) or (disagreement(rows) if named else "")


def _read(file):
    try: frame = read_file(file)
    except Exception as error:
        said = f"folders: expected readable parquet files, got {file} ({error}); {AWAY}"
        raise ValueError(said) from error
    found = _flaw_of(frame)
    require(not found, "folders", "sound results, with numbers in rate and value",
            f"{file}, which {found}; {AWAY}")
    return _tidy(frame).assign(file=str(file))

AWAY = "delete it or move it away, and train it again"

def _first(frame, keys, column):
    return frame[column] == frame.groupby(keys, dropna=False)[column].transform("first")

def _once(frame):
    frame = frame.assign(definition=frame.groupby([c for c in DEFINED if c in frame], dropna=False).ngroup())
    kept = frame[_first(frame, [c for c in RUN if c not in ("seed", "samples")], "definition")]
    kept = kept[_first(kept, RUN, "file")]
    left = len(frame) - len(kept)
    if left:
        warnings.warn(f"read_results: {left} rows left out: an earlier folder or a newer file has the same "
                      "run, or the cell defined otherwise")
    return kept.reset_index(drop=True)


# All the rest is finding the files. A name that starts with a dot is a file half written, and left alone.
# The course's own head-to-head has more rows than all papers together, and is read only when it is asked
# for.
def _newest(folder):
    return sorted(folder.rglob("*.parquet"), key=lambda file: (-file.stat().st_mtime, file.name))

def read_results(
    folders: str | Path | Sequence[str | Path], # folders with parquet files, searched in depth
    course: bool = False, # whether to read the course's own head-to-head instead of the papers' experiments
) -> pd.DataFrame: # one row a value, see COLUMNS; empty if there are no files
    "All results below the folders, each run once."
    words = (isinstance(folders, (str, Path)) or isinstance(folders, (list, tuple))
             and all(isinstance(f, (str, Path)) for f in folders))
    words = (words and "" not in ([folders] if isinstance(folders, str) else folders
                                  if isinstance(folders, (list, tuple)) else []))
    require(words, "folders", "a folder or a list of folders", repr(folders))
    require(isinstance(course, bool), "course", "True or False", repr(course))
    folders = [Path(f) for f in ([folders] if isinstance(folders, (str, Path)) else folders)]
    for folder in folders: require(folder.is_dir(), "folders", "folders that exist", folder)
    found = [_read(file) for folder in folders for file in _newest(folder) if not file.name.startswith(".")
             and file.name.startswith("course_") == course]
    return (_once(pd.concat(found, ignore_index=True)) if found
            else _tidy(pd.DataFrame(columns=COLUMNS)).assign(file=""))


def missing(
    blocks: list, # of Block
    results: str | Path, # folder
) -> list: # of Block, with the methods and seeds that are missing
    "What of some blocks has no result yet, or a damaged one."
    _check_blocks(blocks)
    check_folder(results, "results")
    return [part for block in blocks if (part := _missing(block, Path(results) / f"{block.name}.parquet"))]

def _missing(block, file):
    found, runs = _examined(*_version(file)) if file.exists() else ("is not there", ())
    if found: return block
    lost = [(m, s) for m, s in product(block.methods, block.seeds) if (m, s, block.identities[m]) not in runs]
    methods, seeds = map(dict.fromkeys, zip(*lost)) if lost else ((), ())
    return (replace(block, methods=tuple(methods), seeds=tuple(s for s in block.seeds if s in seeds)) if lost
            else None)

def _check_blocks(blocks):
    require(isinstance(blocks, (list, tuple))
            and all(hasattr(b, "name") and hasattr(b, "methods") for b in blocks), "blocks",
            "a list of Block", repr(blocks)[:80])

def set_aside(
    blocks: list, # of Block, to be trained
    results: str | Path, # folder
) -> None:
    "Rename results that are damaged, and say so: they are trained again."
    files = (Path(results) / f"{block.name}.parquet" for block in blocks)
    for file in [file for file in files if file.exists() and flaw(file)]:
        kept = file.with_suffix(".damaged")
        print(f"{file} {flaw(file)}; it is trained again, and kept as {kept.name}", file=sys.stderr)
        file.replace(kept)


def results_folder() -> Path: # absolute
    "Where results go: the setting `results`."
    return data.folder_setting("results") or Path.cwd() / "runs"
