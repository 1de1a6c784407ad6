"""Results that come back from another machine: checked, and added to those that are here."""
from dataclasses import fields
from itertools import product
from pathlib import Path

import pandas as pd

from noisy_course.basics import require
from noisy_course.lab.grid import Block
from noisy_course.lab.results import flaw, of_runs, read_file, write_result, _git


# What comes back is checked

# A result counts when it is whole, is what its name says, and can be traced. The name ends in a hash of the
# setting; the rows hold the setting; so the name can be made again from the rows. (A result of an older
# recipe or engine gives another name, and is refused too.)
def defined_block(
    rows: pd.DataFrame, # of a result file
) -> Block:
    "The block whose definition stands in the rows of a result."
    own = {f.name: rows[f.name].unique().tolist() for f in fields(Block) if f.name in rows}
    mixed = [name for name, values in own.items() if len(values) > 1]
    require(not mixed, "rows", "one block", f"several values of {', '.join(mixed)}")
    return Block(**{name: value for name, (value,) in own.items()}, methods=tuple(rows.method.unique()),
                 seeds=tuple(rows.seed.unique().tolist()))

def fault(
    file: Path, # a result
) -> str: # empty if there is none
    "Why a result file cannot be taken over."
    try: rows = read_file(file)
    except Exception as error: return f"cannot be read ({error})"
    try: block = defined_block(rows)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return f"is no result of one block ({error})"
    if {block.name} != {file.stem} | set(rows.block):
        return f"is not what its name says: its rows define {block.name}"
    other = [name for name, own in rows.groupby("method").identity.unique().items() if list(own)
             != [block.identities[name]]]
    if other: return f"comes from another version, or other hyper-parameters, of {', '.join(other)}"
    return _gaps(rows, block) or flaw(file) or _origin(rows)


# Whole means: each method with each seed, each of its epochs and each accuracy that a table may report,
# once; and accuracies are percentages. (A loss may be infinite, for some runs diverge.)
REPORTED = "accuracy", "accuracy_last"
EVERY_EPOCH = "train_loss", "valid_loss", "valid_accuracy", "test_accuracy"

def _gaps(rows, block):
    keys, there = ["method", "seed", "metric", "epoch"], rows.assign(epoch=rows.epoch.fillna(0).astype(int))
    metrics = [*product(REPORTED, [0]), *product(EVERY_EPOCH, range(1, block.epochs + 1))]
    lost = ({(*run, *metric) for run, metric in product(product(block.methods, block.seeds), metrics)}
            - set(there[keys].itertuples(index=False, name=None)))
    if lost:
        return ("lacks {}'s seed {}, {}, epoch {}".format(*min(lost))
                + (f", and {len(lost) - 1} more rows" if len(lost) > 1 else ""))
    if there.duplicated(keys).any():
        return "has {}'s seed {}, {}, epoch {} twice".format(*there[there.duplicated(keys)][keys].iloc[0])
    accuracies = there.metric.str.startswith("accuracy") | there.metric.str.endswith("_accuracy")
    return "" if there[accuracies].value.between(0, 100).all() else "has accuracies that are no percentages"

def _origin(rows):
    "Runs that joined a block later may be of another commit; each is known."
    repository = _git("rev-parse", "HEAD")
    if rows.dirty.any(): return "comes from a changed tree"
    for commit in rows.commit.unique():
        if len(commit) != 40: return f"comes from an unknown commit, {commit}"
        if repository and _git("cat-file", "-t", commit) != "commit":
            return f"comes from commit {commit}, which this repository does not have"
    return ""


# A result is added whole or not at all, and never written over another one; a block may gain runs.
def import_results(
    folder: str | Path, # that came back: a pack, or its results
    results: str | Path, # folder to add to
) -> pd.DataFrame: # block, outcome ("added", "there already" or "refused") and why
    "Check result files, and add those that are sound."
    folder, results = Path(folder), Path(results)
    folder = folder / "results" if (folder / "results").is_dir() else folder
    files = sorted(file for file in folder.glob("*.parquet") if not file.name.startswith("."))
    require(files, "folder", "a folder with result files", folder)
    return pd.DataFrame([(file.stem, *_imported(file, results / file.name)) for file in files],
                        columns=["block", "outcome", "why"])

def _imported(file, place):
    if why := fault(file): return "refused", why
    rows, ours = read_file(file), read_file(place) if place.exists() else None
    known = rows[:0] if ours is None else ours[of_runs(ours, rows)].reset_index(drop=True)
    if known.equals(rows): return "there already", ""
    if len(known): return "refused", f"{place.parent.name} has another result of these runs"
    write_result(rows, place.parent)
    return "added", ""
