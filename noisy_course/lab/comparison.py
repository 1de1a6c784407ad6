"""Paper beside ours, in sums: which claims hold, what moves cells that are off, how much is done."""
import unicodedata
from itertools import zip_longest
from textwrap import wrap

import numpy as np
import pandas as pd

from noisy_course.basics import SETTING, check_frame, pick, require
from noisy_course.lab.cells import (ASSETS, LEAST_STD, OUTCOMES, block_title, cell_means, listed, named,
                                    number, orderings, published, setting_title, side_by_side, span, stand_in)
from noisy_course.lab.grid import plan
from noisy_course.lab.papers import FINDINGS, NOTES, PAPERS
from noisy_course.lab.results import CELL, SCALES
from noisy_course.plots import pretty


def published_tables() -> list[tuple[str, str]]: # (paper, table) pairs
    "The published tables that come with the package, in the order of the chapters."
    found = [tuple(file.stem.split("_", 1)) for file in (ASSETS/"tables").glob("*.csv")]
    return sorted(found, key=lambda pair: (PAPERS.index(pair[0]), pair[1]))


# A claim becomes a number per setting; it holds if the number lies within the limits.
def _verdict(value, low, high):
    return pd.Series(np.where(value.isna(), "not run",
                              np.where(value.round(6).between(low, high), "yes", "no")), value.index)

def _finding(wide, redrawn, letter, claim, where, value, limits):
    of = lambda w: value(w[where(w.index.to_frame()).to_numpy()])
    values = {who: of(w) for who, w in wide.items()}
    holds = {f"{who}_holds": _verdict(v, *limits) for who, v in values.items()}
    limit = f"at most {limits[1]:g}" if limits[0] == -100 else f"{limits[0]:g} to {limits[1]:g}"
    again = _verdict(of(redrawn), *limits).to_numpy().reshape(REDRAWN, -1)
    decided = (again == holds["ours_holds"].to_numpy()).mean(0) >= .975
    return pd.DataFrame(dict(finding=letter, claim=claim, limit=limit) | values | holds
                        | dict(decided=decided)).reset_index()

# Is it luck? We draw our table a thousand times more, each cell around its mean by its own spread, and put
# each through the same function. The claim is decided in a setting if 97.5 % of these tables say the same of
# it as ours does. The spread is estimated from few runs, so we draw from Student's t, with the degrees of
# freedom that two cells have together: for the difference of two cells this is nearly Welch's test.
REDRAWN = 1000

def _redrawn(both, order):
    rng, error = np.random.default_rng(0), both.our_spread / both.our_n ** .5
    free = np.where(both.our_n > 1, 2 * (both.our_n - 1), np.inf)
    means = both.our_mean.to_numpy() + error.to_numpy() * rng.standard_t(free, (REDRAWN, len(both)))
    cells = both.set_index(CELL).index
    return pd.concat(pd.Series(row, cells).unstack().reindex(order) for row in means)


# The table of the paper and ours go through the same functions:
def findings(
    both: pd.DataFrame, # from `side_by_side`, a table in `FINDINGS`
) -> pd.DataFrame: # one row a finding and setting: the paper's value, ours, whether it holds, is decided
    "What the paper concludes from its table as numbers, for the paper's table and for ours."
    check_frame(both, "both", ["paper", "table", *CELL, "paper_mean", "our_mean"])
    of = tuple(both[["paper", "table"]].iloc[0])
    require(of in FINDINGS, "both", "a table with findings: " + ", ".join(map(" ".join, FINDINGS)),
            " ".join(of))
    order = pd.MultiIndex.from_frame(both[SETTING].drop_duplicates())
    wide = {who: both.set_index(CELL)[f"{column}_mean"].unstack().reindex(order)
            for who, column in (("paper", "paper"), ("ours", "our"))}
    redrawn = _redrawn(both, order)
    return pd.concat([_finding(wide, redrawn, *f) for f in FINDINGS[of]], ignore_index=True)


# Where ours differs

OURS = "ablation", "text" # grids whose runs differ in a number from those of a table

# A difference of more than two points needs a reason, and a reason needs a run. An *ablation* repeats a
# cell with one thing changed. The report puts the changed value beside the plain one: how far it `moved`,
# and how much is `left` to the paper. The rule that picks the reported epoch is changed for free: each run
# records its accuracy at the last epoch and at the best noisy-validation accuracy too.
RULES = dict(accuracy="epoch: lowest validation loss", accuracy_last="epoch: the last",
             accuracy_best_valid_accuracy="epoch: best validation accuracy")

def far_cells(
    both: pd.DataFrame, # from `side_by_side`
    points: float = 2.0, # how far is far
) -> pd.DataFrame: # the cells with |ours − paper| > points, the farthest first
    "The cells where ours differs from the paper by more than some points."
    return both[both.difference.abs() > points].sort_values("difference", key=np.abs, ascending=False)

def _variants(results, paper, table, scale, reported):
    rules = [cell_means(results, metric, paper=paper, table=table, scale=scale,
                        variant="").assign(variant=label) for metric, label in RULES.items() if metric
             != reported]
    rows = pick(results, paper=paper, scale=scale, metric=reported)
    rows = rows[rows.table.isin([table, *OURS]) & (rows.variant != "")]
    return pd.concat(rules + [cell_means(part, reported).assign(variant=v)
                              for v, part in rows.groupby("variant")])


# Every far cell meets every variant that was run for it. A cell without a variant stays, with empty
# numbers: it still waits for its reason.
def reasons(
    results: pd.DataFrame, # from `read_results`; ablations have table "ablation" and a variant
    both: pd.DataFrame, # from `side_by_side`; the ablations are of its scale
    points: float = 2.0, # how far is far
) -> pd.DataFrame: # one row a far cell and variant: variant, mean, std, n, moved, left
    "What moved the cells that differ by more than some points, and how far."
    far = far_cells(both, points)[[*CELL, "paper_mean", "our_mean", "difference"]]
    tried = _variants(results, *both[["paper", "table", "scale", "metric"]].iloc[0])
    tried = tried[[*CELL, "variant", "mean", "std", "n"]]
    both = far.merge(tried, how="left", on=CELL)
    return both.assign(moved=both["mean"] - both.our_mean, left=both["mean"] - both.paper_mean)


# An experiment of our own may take the place of a table's runs: Patrini's MNIST as the text has it, beside
# what the paper printed.
def in_place(
    results: pd.DataFrame, # from `read_results`
    paper: str, # e.g. "patrini2017"
    own: str, # table of our own, e.g. "text"
    table: str, # published, e.g. "table2"
) -> pd.DataFrame:
    "Results in which the runs of one's own table stand where those of a published one are looked for."
    require((paper, table) in published_tables(), "table", "a published one", f"{paper} {table}")
    ours = pick(results, paper=paper, table=own)
    ours = ours[ours.variant.isin(plan(paper, own, "paper").variant)].assign(table=table, variant="")
    return pd.concat([results[(results.paper != paper) | (results.table != table)], ours], ignore_index=True)


# What stands for the paper on a laptop

# A laptop's scale is chosen among candidates, by cross-entropy alone: of each candidate we compare what the
# table reports of cross-entropy with the paper, and keep what its best epoch had. What lies between the two
# is what it memorised.
CANDIDATES = "candidates", "candidates_cifar10", "steps" # tables of cross-entropy alone

def calibration(
    results: pd.DataFrame, # from `read_results`
    paper: str, # e.g. "wang2019"
) -> pd.DataFrame: # one row a candidate and setting: variant, printed, ours, best; empty if there are none
    "Cross-entropy as the paper printed it, and as each candidate for a laptop has it."
    tried = pick(results, paper=paper, scale="paper")
    tried = tried[tried.table.isin(CANDIDATES)]
    theirs = published(*next(of for of in published_tables() if of[0] == paper))
    found = [_candidate(part, theirs).assign(variant=variant)
             for (_, variant), part in tried.groupby(["dataset", "variant"], sort=False)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()

def _candidate(part, theirs):
    ours = cell_means(part, theirs.metric.iloc[0]).rename(columns=dict(mean="ours"))
    peaks = pick(part, metric="test_accuracy").groupby([*CELL, "seed"]).value.max().groupby(CELL).mean()
    both = ours.merge(theirs.rename(columns=dict(mean="printed"))[[*CELL, "printed"]], on=CELL)
    return both[[*CELL, "printed", "ours"]].merge(peaks.rename("best").reset_index(), on=CELL)


# How much is done

# `coverage` says, for every published table and every scale, how many cells there are, and how close.
# "Within two ±" counts the cells that lie within twice the paper's own standard deviation.
def _scales(results, paper, table):
    found = set(pick(results, paper=paper, table=published(paper, table).grid.iloc[0],
                     metric="accuracy").scale)
    return [s for s in SCALES if s in found] + sorted(found - set(SCALES))

def _tally(both, order):
    done, order = both[both.our_n.notna() & (both.same_as == "")], order.query("outcome != 'not run'")
    near = (done.difference.abs() <= 2 * done.paper_std.clip(lower=LEAST_STD) + 1e-9)[done.paper_std.notna()]
    outcomes = dict(orderings=(order.outcome == "holds").sum(), reversed=(order.outcome == "reversed").sum(),
                    orderings_of=len(order))
    low, median, high = done.difference.abs().quantile([.25, .5, .75])
    return (dict(cells=len(done), of=len(both), runs=int(done.our_n.sum()), n=span(done.our_n),
                 difference=median, low=low, high=high, largest=done.difference.abs().max(),
                 within=near.sum(), within_of=len(near), stand_in=listed(done.network[done.network != ""]))
            | outcomes)

def score(
    both: pd.DataFrame, # from `side_by_side`
) -> dict: # cells, runs, differences (median, quartiles, largest), orderings, networks that stand in
    "How much of a table is done, and how close it is."
    return _tally(both, orderings(both))


# One row for each table and scale that has results. A table without any gets a row as well, with an empty
# scale.
def all_sides(
    results: pd.DataFrame, # from `read_results`
    paper: str = "", # only this one's tables, e.g. "patrini2017"
) -> list: # of what `side_by_side` gives
    "Every published table at every scale that has results."
    tables = [(owner, table) for owner, table in published_tables() if paper in ("", owner)]
    return [side_by_side(results, *t, scale) for t in tables for scale in _scales(results, *t) or [""]]

def which_table(
    both: pd.DataFrame, # from `side_by_side`
) -> dict: # paper, table, scale
    "Which table this is, and at which scale."
    return dict(zip(("paper", "table", "scale"), both[["paper", "table", "scale"]].iloc[0]))

def by_table(
    sides: list, # from `all_sides`
) -> dict: # (paper, table) → scale → side
    "Each table at its scales."
    found = {}
    for both in sides:
        paper, table, scale = which_table(both).values()
        found.setdefault((paper, table), {})[scale] = both
    return found

def coverage(
    results: pd.DataFrame, # from `read_results`
) -> pd.DataFrame: # one row a published table and scale
    "How many cells of each published table are done, at which scale, and how close they are."
    return pd.DataFrame([which_table(both) | score(both) for both in all_sides(results)])


# The same for each paper, with all its tables together, and for all papers, in the rows without one.
# Orderings are compared within a table only.
def by_paper(
    results: pd.DataFrame, # from `read_results`
) -> pd.DataFrame: # one row a paper and scale; an empty paper stands for all
    "How much of each paper is done at each scale, and how close: cells, |ours − paper|, orderings."
    rows = []
    for scale in sorted(set(results.scale), key=[*SCALES, *sorted(set(results.scale))].index):
        sides = [side_by_side(results, *of, scale) for of in published_tables()]
        for paper in [*PAPERS, ""]:
            own = [both for both in sides if paper in ("", both.paper.iloc[0])]
            rows.append(dict(paper=paper, scale=scale)
                        | _tally(pd.concat(own), pd.concat(map(orderings, own))))
    return pd.DataFrame([row for row in rows if row["cells"]])


# What came out, in words

# A cell that is far off gets its reason from other runs: the spread of its own, or the same cell at the
# paper's scale, which is just as far off, or is not. Where another network stands in for the paper's, the
# orderings are all that can be compared.
MOST_FAR = 6 # cells that are named

def runs_each(
    n: pd.Series, # numbers of runs, one a cell
) -> str: # e.g. "3 runs each"
    "How many runs some cells have."
    return f"{span(n)} {'run' if n.max() == 1 else 'runs'} each"

def verdict(
    both: pd.DataFrame, # from `side_by_side`, or part of it
    at_paper_scale: pd.DataFrame | None = None, # the same cells at the paper's scale, if they are known
) -> list[str]: # sentences
    "What came out of a table: how close it is, how many orderings hold, what does not agree and why."
    done = both[both.our_n.notna() & (both.same_as == "")]
    if done.empty: return []
    some = f"{len(done)} of the paper's {len(both)} cells were run, {runs_each(done.our_n)}"
    if stand_in(done): return [f"{some}; {stand_in(done)}, so that orderings alone compare.", *_ranks(both)]
    median = _points(done.difference.abs().median())
    close = f"{some}; the median difference from the paper is {median}."
    return [close, *_ranks(both), *_far(far_cells(done), at_paper_scale)]

def _ranks(both):
    order = orderings(both).query("outcome != 'not run'").outcome
    held, sign, reverse = ((order == outcome).sum() for outcome in (*OUTCOMES[:2], OUTCOMES[3]))
    if len(order):
        yield (f"Of {len(order)} orderings of methods that the paper tells apart {held} hold, another {sign} "
               f"have the paper's sign without being significant, and {reverse} are reversed.")

def _far(far, at_paper_scale):
    full = far.iloc[:0] if at_paper_scale is None else at_paper_scale
    there = dict(zip(full[CELL].itertuples(index=False, name=None), full.difference))
    yield (f"More than 2 points off: {len(far)} {'cell' if len(far) == 1 else 'cells'}"
           f"{', the farthest first' if len(far) > MOST_FAR else ''}." if len(far)
           else "No cell is more than 2 points off.")
    for r in far.head(MOST_FAR).itertuples():
        reason = _reason(r, there.get(tuple(getattr(r, c) for c in CELL), np.nan))
        yield (f"{block_title(r.dataset, r.model)}, {setting_title(r.noise, r.rate)}, {pretty(r.method)}: "
               f"{number(r.difference, '+.1f')}, {reason}.")

def _reason(row, there):
    if row.p >= .05: return f"no more than the spread of the runs explains (p = {number(row.p, '.2g')})"
    if row.scale == "paper" or np.isnan(there): return "and no run of ours says why yet"
    same = f"{number(there, '+.1f')} at the paper's own scale"
    return (f"and {same}, so that the smaller scale is not why" if abs(there) > 2
            else f"but {same}: the smaller scale is why")


# Blocks and settings get their names in two columns of words:
def _places(frame):
    blocks, settings = frame[["dataset", "model"]].to_numpy(), frame[["noise", "rate"]].to_numpy()
    return pd.DataFrame(dict(block=[block_title(*b) for b in blocks],
                             setting=[setting_title(*s) for s in settings]), index=frame.index)

def readable(
    frame: pd.DataFrame, # with the columns of `SETTING`, and methods
) -> pd.DataFrame: # with the columns block and setting instead
    "The same rows, in words."
    words = {c: frame[c].map(pretty) for c in ("method", "better", "worse") if c in frame}
    return _places(frame).join(frame.drop(columns=SETTING).assign(**words))


# And `coverage` becomes words, one row a table and scale:
def _of(part, whole): return f"{part} of {whole}" if whole else "–"

ORDERINGS = "orderings: hold, reversed, undecided"

def three_counts(
    c, # has orderings, reversed and orderings_of
) -> str: # e.g. "36, 2, 87"
    "What became of the orderings of a paper."
    return (f"{c.orderings}, {c.reversed}, {c.orderings_of - c.orderings - c.reversed}" if c.orderings_of
            else "–")

def _points(x): return "–" if pd.isna(x) else f"{x:.1f} points"

def in_words(
    c, # a row of `coverage`, from `itertuples`
) -> dict: # heading → words
    "One row of the table of what has been reproduced."
    scale = ", ".join(filter(None, [c.scale or "not run", c.stand_in and named(c.stand_in)]))
    return {"paper": named(c.paper), "table": named(c.table), "scale": scale, "cells": _of(c.cells, c.of),
            "runs a cell": c.n or "–", "median difference": _points(c.difference),
            "largest": _points(c.largest), "within 2 ±": _of(c.within, c.within_of),
            ORDERINGS: three_counts(c)}


# In markdown, that is one line a row:
def markdown_table(
    rows, # of dicts, heading → Markdown
):
    "Rows as a table in Markdown."
    head = [list(rows[0]), ["---"] * len(rows[0])] if rows else []
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [*head, *(r.values() for r in rows)])

def readme_table(
    results: pd.DataFrame, # from `read_results`
) -> str: # markdown
    "The README's table of what has been reproduced."
    return markdown_table([in_words(c) for c in coverage(results).itertuples()])


# And a shorter one, a row a paper and scale, with numbers as all tables print them:
def _paper_in_words(c):
    return {"paper": named(c.paper) or "all papers", "scale": c.scale, "cells": f"{c.cells} of {c.of:,}",
            "median difference": _points(c.difference), "quartiles": f"{number(c.low)} to {number(c.high)}",
            "within 2 ±": _of(c.within, c.within_of), ORDERINGS: three_counts(c)}

def papers_table(
    results: pd.DataFrame, # from `read_results`
) -> str: # markdown
    "What has been reproduced of each paper, and how close it is."
    return markdown_table([_paper_in_words(c) for c in by_paper(results).itertuples()])


# A table for the terminal

# At the end of `make run` there is no browser yet. Up to four settings stand side by side, in less than 100
# columns; more come below. A `*` marks a difference that Welch's test finds.
def _seen(text): return sum(not unicodedata.combining(c) for c in text)

def _wide(text, width, left=False):
    space = " " * (width - _seen(text))
    return text + space if left else space + text

def _mark(row): return number(row.difference, "+.1f") + ("*" if row.p < .05 else " ")


# A line is a method; three numbers belong to a setting, or a gap where it was not run. T̂ is two characters
# and one column wide, so we count what is seen.
def _cell(r): return _wide(number(r.paper_mean), 7) + _wide(number(r.our_mean), 6) + _wide(_mark(r), 7)

def _line(method, rows, settings, first):
    cells = {(r.noise, r.rate): _cell(r) for r in rows.itertuples()}
    return _wide(pretty(method), first, left=True) + "".join(cells.get(s, " " * 20) for s in settings)

def _part_text(part, settings, first):
    heads = zip_longest(*(wrap(setting_title(*s), 18) for s in settings), fillvalue="")
    above = (["".join(_wide(word, 19) + " " for word in line) for line in heads]
             + ["  paper  ours  diff " * len(settings)])
    lines = [_line(m, rows, settings, first) for m, rows in part.groupby("method", sort=False)]
    return "\n".join(line.rstrip() for line in [*(" " * first + line for line in above), *lines])

def _block_text(dataset, model, part):
    head = "; ".join(filter(None, [block_title(dataset, model),
                                   f"scale {part.scale.iloc[0]}, n = {span(part.our_n)}", stand_in(part)]))
    settings, first = (list(dict.fromkeys(zip(part.noise, part.rate))),
                       max(17, *(_seen(pretty(m)) + 1 for m in part.method)))
    n = (100 - first) // 20
    sets = [settings[k:k + n] for k in range(0, len(settings), n)]
    return "\n".join([head, *(_part_text(part[[s in own for s in zip(part.noise, part.rate)]], own, first)
                              for own in sets)])


# Only blocks with results are shown. The title says how many cells that is, and at which scale.
def terminal_table(
    results: pd.DataFrame, # from `read_results`
    paper: str, # e.g. "patrini2017"
    table: str, # e.g. "table2"
    scale: str, # one scale
    dataset: str | None = None, # only this one, e.g. "mnist"
    notes: dict = NOTES, # paper → what is to be known of all its tables
) -> str: # plain text, at most 100 columns
    "Paper, ours and difference as plain text, for the blocks that have results."
    both = side_by_side(results, paper, table, scale)
    if dataset: both = pick(both, dataset=dataset)
    blocks = [_block_text(*block, part) for block, part in both.groupby(["dataset", "model"], sort=False)
              if part.our_n.notna().any()]
    title = (f"{named(paper)}, {named(table)}: {both.our_n.notna().sum()} of {len(both)} cells at scale "
             f"{scale}")
    units = "test accuracy in percent; diff = ours − paper, in points; * = significant (Welch's t-test, 5 %)"
    full = side_by_side(results, paper, table, "paper")
    closing = [line for text in (notes.get(paper, ""), *verdict(both, full))
               for line in wrap(text, 100, subsequent_indent="  ")]
    return "\n\n".join([f"{title}\n{units}", *blocks, "\n".join(closing)])
