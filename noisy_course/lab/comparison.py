"""Paper beside ours: read result files, test each cell, and count which orderings and claims of a paper hold."""
import re
import unicodedata
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from textwrap import wrap

import numpy as np
import pandas as pd
from scipy.stats import ttest_ind_from_stats

from noisy_course.basics import SETTING, expect, pick
from noisy_course.lab.results import CELL, SCALES
from noisy_course.plots import pretty


# What the paper printed

# Table 2 of Patrini et al. (2017) has six blocks, a data set and a network each. A block has ten methods in
# four *settings*: no noise, symmetric noise, and two rates of asymmetric noise. We keep the numbers in a
# CSV file, one row a cell.
ASSETS = Path(str(files("noisy_course")))/"assets"

PAPERS = ["patrini2017", "zhang2018", "wang2019", "jindal2019", "tanaka2018"]

def published_tables() -> list[tuple[str, str]]: # (paper, table) pairs
    "The published tables that come with the package, in the order of the chapters."
    found = [tuple(file.stem.split("_", 1)) for file in (ASSETS/"tables").glob("*.csv")]
    return sorted(found, key=lambda pair: (PAPERS.index(pair[0]), pair[1]))

def published(
    paper: str, # e.g. "patrini2017"
    table: str, # e.g. "table2"
) -> pd.DataFrame: # one row a cell; accuracies in percent, std empty where none is printed
    "A table of a paper; errors, where it prints them, as accuracies."
    known = published_tables()
    expect((paper, table) in known, "table", "one of " + ", ".join(map(" ".join, known)), f"{paper} {table}")
    cells = pd.read_csv(ASSETS/"tables"/f"{paper}_{table}.csv", keep_default_na=False, na_values=[""])
    errors = cells.metric.str.startswith("error")
    return cells.assign(grid=cells.table, table=table, mean=cells["mean"].where(~errors, (100 - cells["mean"]).round(2)), metric=cells.metric.str.replace("error", "accuracy"))


# Many cells say ± 0.0. No experiment is that exact: a standard deviation is printed as 0.0 when it is below
# 0.05. In tests we use 0.05, the most it can have been. That errs on the side of seeing no difference.
LEAST_STD = .05

def _stats(frame, who, suffix=""):
    mean, std, n = (frame[f"{who}_{c}{suffix}"].to_numpy(float) for c in ("mean", "std", "n"))
    return mean, std.clip(min=LEAST_STD) if who == "paper" else std, n


# Is a difference real?

# Why Welch and not Student

def welch(
    mean1, # means, any shape
    std1, # standard deviations with n - 1
    n1, # numbers of runs
    mean2, # means of the other side
    std2, # its standard deviations
    n2, # its numbers of runs
) -> np.ndarray: # p in [0, 1]; NaN where a side has fewer than two runs
    "Two-sided p of Welch's t-test from means, standard deviations and numbers of runs."
    numbers = np.broadcast_arrays(*(np.asarray(x, float) for x in (mean1, std1, n1, mean2, std2, n2)))
    with np.errstate(all="ignore"): p = ttest_ind_from_stats(*numbers, equal_var=False).pvalue
    return np.where((numbers[2] > 1) & (numbers[5] > 1), p, np.nan)


# One run has no spread, so its test is empty. For its CIFAR blocks the paper then calls two methods equal
# if they are within half a point. We follow it.
def apart(
    mean1, # percent
    std1, # points; NaN if there is one run
    n1, # runs
    mean2, # means of the other side
    std2, # its standard deviations
    n2, # its numbers of runs
) -> np.ndarray: # of bool
    "Whether two means differ by the paper's rule: Welch's p < 5 %, or more than 0.5 points where a spread is missing."
    p, gap = welch(mean1, std1, n1, mean2, std2, n2), np.abs(np.asarray(mean1, float) - mean2)
    return np.where(np.isnan(p), gap > .5 + 1e-9, p < .05)


# Stars and bold

# The caption of Table 2 gives two rules. A correction that knows the true $T$ gets a ★ if it beats every
# method that does not. Of the others, the best is set in bold, with all that cannot be told from it.
# `highlights` computes both for a setting.
KNOWS_T = ["backward", "forward"]
GENIES = [*KNOWS_T, "forward_qc", "cnn_crf"]

def highlights(
    setting: pd.DataFrame, # one row a method: method, noise, and mean, std, n with the prefix of `who`
    who: str, # "paper" or "our"
) -> pd.DataFrame: # with the columns <who>_star and <who>_bold
    "The ★ and the bold type of a setting, by the paper's rules."
    mean, std, n = _stats(setting, who)
    knows = (setting.method.isin(GENIES) & (setting.noise != "none")).to_numpy()
    star = knows & (mean > np.max(mean[~knows], initial=-np.inf, where=~np.isnan(mean[~knows])) + 1e-9)
    best = np.argmax(np.where(star | np.isnan(mean), -np.inf, mean))
    bold = ~star & ~np.isnan(mean) & ~apart(mean[best], std[best], n[best], mean, std, n)
    return setting.assign(**{f"{who}_star": star, f"{who}_bold": bold})


# Side by side

# First our mean, spread and count of every cell, with what its rows say of their origin.
def listed(
    column: pd.Series, # any values
) -> str: # each value once, in order
    "The values of a column, in words."
    return ", ".join(str(v) for v in sorted(v for v in set(column.tolist()) if not pd.isna(v)))

def span(
    column: pd.Series, # numbers
) -> str: # "3", "1 to 5", or nothing
    "From the smallest to the largest number of a column."
    return "" if column.isna().all() else " to ".join(f"{v:.3g}" for v in sorted({column.min(), column.max()}))

SAID = {c: (c, listed) for c in ("seed", "network", "samples", "commit", "dirty", "torch", "python", "device", "machine")}

def cell_means(
    results: pd.DataFrame, # from `read_results`
    metric: str = "accuracy", # a metric with one value a run
    **which: str, # what to keep: paper=…, table=…, scale=…, variant=…
) -> pd.DataFrame: # one row a cell: mean, std (NaN for one run), n, realised_rate and provenance
    "Mean, standard deviation and number of runs of every cell."
    rows = pick(results, metric=metric, **which)
    stats = dict(mean=("value", "mean"), std=("value", "std"), n=("value", "count"), realised_rate=("realised_rate", "mean"))
    return rows.groupby(CELL, sort=False, as_index=False).agg(**stats, seconds=("seconds", span), **SAID)


# Then the paper's row beside ours. Which epoch is reported belongs to the table: each published cell names
# its metric, and ours is read at the same. The p-value asks whether paper and ours could come from the same
# experiment.
def side_by_side(
    results: pd.DataFrame, # from `read_results`
    paper: str, # e.g. "patrini2017"
    table: str, # e.g. "table2"
    scale: str, # the one scale to show
) -> pd.DataFrame: # one row for each published cell; our columns are empty where nothing was run
    "Every published cell beside ours: means, spreads, n, the difference ours − paper, and Welch's p."
    expect(isinstance(scale, str), "scale", "one scale", scale)
    theirs = published(paper, table)
    reported = theirs.metric.iloc[0]
    theirs = theirs.rename(columns={c: f"paper_{c}" for c in ("mean", "std", "n")})
    ours = cell_means(results, reported, paper=paper, table=theirs.grid.iloc[0], scale=scale, variant="").rename(columns={c: f"our_{c}" for c in ("mean", "std", "n")})
    mixed = ours[ours.samples.astype(str).str.contains(",")]
    expect(mixed.empty, "results", "one number of samples in a cell", mixed.samples.unique().tolist())
    both = theirs.merge(ours, how="left", on=CELL).assign(scale=scale)
    both = pd.concat(highlights(highlights(part, "paper"), "our") for _, part in both.groupby(SETTING, sort=False)).sort_index()
    return both.assign(difference=both.our_mean - both.paper_mean, p=welch(*_stats(both, "paper"), *_stats(both, "our")))


# Does the order hold?

# A table is read for its order: which method beats which. In each setting, ten methods make 45 pairs. We
# take the pairs that the paper can tell apart, and ask whether ours come out the same way, and clearly.
# That is a fairer question than equal decimals, for it survives a slightly different dropout.
OUTCOMES = ["holds", "same sign, not significant", "other sign, not significant", "reversed", "not run"]

def orderings(
    both: pd.DataFrame, # from `side_by_side`
) -> pd.DataFrame: # one row a pair: better, worse (in the paper), both differences, outcome
    "Every pair of methods that the paper tells apart, and whether ours agrees."
    pairs = both.merge(both, on=SETTING, suffixes=("", "_other")).query("paper_mean > paper_mean_other")
    pairs = pairs[apart(*_stats(pairs, "paper"), *_stats(pairs, "paper", "_other"))]
    gap, clear = pairs.our_mean - pairs.our_mean_other, apart(*_stats(pairs, "our"), *_stats(pairs, "our", "_other"))
    outcome = np.select([gap.isna(), clear & (gap > 0), clear, gap > 0], [OUTCOMES[i] for i in (4, 0, 3, 1)], OUTCOMES[2])
    columns = dict(better=pairs.method, worse=pairs.method_other, paper=pairs.paper_mean - pairs.paper_mean_other, ours=gap, outcome=outcome)
    return pairs[SETTING].assign(**columns).reset_index(drop=True)


# What the papers conclude

# Patrini et al. list four findings in §5.2, in words. A word like "similar" must become a number before it
# can be checked; ours are in the column `limit`. We put each to the paper's own table as well.
# One slip first. Finding (b) speaks of "low asymmetric noise (second column)", but the second column is the
# symmetric one. On CIFAR, only the symmetric column fits the claim that forward is unbeaten within half a
# point. So we check that one.
TAUGHT = ["backward", "forward", "backward_estimated", "forward_estimated"]
SIMPLE = ["mnist", "imdb"]

def _spread(w): return w.max(axis=1, skipna=False) - w.min(axis=1, skipna=False)
def _lead(w, ones, others): return w[ones].max(axis=1, skipna=False) - w[others].max(axis=1, skipna=False)
def _without(w, *names): return [m for m in w if m not in names]
def _drop(w): return (w[KNOWS_T].mean(axis=1, skipna=False) - w[TAUGHT[2:]].mean(axis=1, skipna=False))


# A finding has a letter, its claim, where it applies, the value that we compute from a table of settings ×
# methods, and the limits within which the claim holds. Values are in points.
FINDINGS = {("patrini2017", "table2"): [
    ("a", "no noise: all but unhinged and sigmoid (and Savage on CIFAR-100) within 2 points", lambda i: i.noise == "none",
     lambda w: _spread(w.drop(columns=["unhinged", "sigmoid"]).assign(savage=w.savage.where(w.index.get_level_values(0) != "cifar100", w.forward))), (0, 2)),
    ("b", "symmetric, simple tasks: both corrections within 1 point of each other and of cross-entropy",
     lambda i: (i.noise == "symmetric") & i.dataset.isin(SIMPLE), lambda w: _spread(w[["cross_entropy", *KNOWS_T]]), (0, 1)),
    ("b", "symmetric, deep networks: no method leads forward by more than half a point",
     lambda i: (i.noise == "symmetric") & ~i.dataset.isin(SIMPLE), lambda w: _lead(w, _without(w, "forward"), ["forward"]), (-100, .5)),
    ("c", "asymmetric: no other method leads the corrections with known T by more than half a point",
     lambda i: i.noise == "asymmetric", lambda w: _lead(w, _without(w, *KNOWS_T), KNOWS_T), (-100, .5)),
    ("c", "asymmetric: forward is at least as good as backward", lambda i: i.noise == "asymmetric", lambda w: w.backward - w.forward, (-100, 0)),
    ("d", "highest rate, not CIFAR-100: estimating T costs 0 to 27 points, mean of both corrections",
     lambda i: (i.rate > .2) & (i.dataset != "cifar100"), _drop, (-.5, 27.5)),
    ("d", "highest rate: no method outside the corrections beats the better one with estimated T",
     lambda i: i.rate > .2, lambda w: _lead(w, _without(w, *TAUGHT), TAUGHT[2:]), (-100, 0))]}


# Zhang & Sabuncu conclude six things from their Table 1, in §4.3:
PROPOSED = ["generalized_cross_entropy", "truncated_gce"]
FINDINGS["zhang2018", "table1"] = [
    ("1", "uniform: the better proposed loss beats all others, forward T included", lambda i: i.noise == "symmetric",
     lambda w: _lead(w, _without(w, *PROPOSED), PROPOSED), (-100, 0)),
    ("2", "uniform: truncation does not lower L_q", lambda i: i.noise == "symmetric", lambda w: w.generalized_cross_entropy - w.truncated_gce, (-100, 0)),
    ("3", "class-dependent: no other method leads forward T", lambda i: i.noise == "asymmetric", lambda w: _lead(w, _without(w, "forward"), ["forward"]), (-100, 0)),
    ("4", "class-dependent, Fashion-MNIST: truncated L_q within 1 point of forward T̂",
     lambda i: (i.noise == "asymmetric") & (i.dataset == "fashion_mnist"), lambda w: (w.truncated_gce - w.forward_estimated).abs(), (0, 1)),
    ("4", "class-dependent, CIFAR: forward T̂ does not beat truncated L_q",
     lambda i: (i.noise == "asymmetric") & (i.dataset != "fashion_mnist"), lambda w: w.forward_estimated - w.truncated_gce, (-100, 0)),
    ("5", "class-dependent, not CIFAR-100: L_q gains at most half a point on cross-entropy",
     lambda i: (i.noise == "asymmetric") & (i.dataset != "cifar100"), lambda w: w.generalized_cross_entropy - w.cross_entropy, (-100, .5)),
    ("6", "MAE is the worst of all", lambda i: i.rate > 0, lambda w: w.mean_absolute_error - w.drop(columns="mean_absolute_error").min(axis=1, skipna=False), (-100, 0))]


# And Wang et al. say of theirs, in §5.2:
SL, GCE = ["symmetric_cross_entropy"], ["generalized_cross_entropy"]
FINDINGS["wang2019", "table1"] = [
    ("1", "SL improves on all baselines", lambda i: i.rate >= 0, lambda w: _lead(w, _without(w, *SL), SL), (-100, 0)),
    ("2", "high noise (0.6 and more): SL is ahead of GCE", lambda i: i.rate >= .6, lambda w: _lead(w, GCE, SL), (-100, 0)),
    ("3", "class-dependent: forward with the true T within 2 points of SL", lambda i: i.noise == "asymmetric", lambda w: _lead(w, SL, ["forward"]).abs(), (0, 2))]


# And Tanaka et al. of theirs, in §5.5 and §5.6, for the last epoch:
JOINT = ["joint_optimization"]
FINDINGS["tanaka2018", "table1"] = [("1", "noisy labels: better than cross-entropy", lambda i: i.rate > 0, lambda w: _lead(w, ["cross_entropy"], JOINT), (-100, 0))]
FINDINGS["tanaka2018", "table2"] = [
    ("1", "better than cross-entropy and than forward with the true T", lambda i: i.rate > 0, lambda w: _lead(w, ["cross_entropy", "forward"], JOINT), (-100, 0)),
    ("2", "half of the labels wrong: no more than 5 points ahead of forward", lambda i: i.rate == .5, lambda w: _lead(w, JOINT, ["forward"]), (-100, 5))]


# A claim becomes a number per setting; it holds if the number lies within the limits.
def _verdict(value, low, high): return pd.Series(np.where(value.isna(), "not run", np.where(value.round(6).between(low, high), "yes", "no")), value.index)

def _finding(wide, letter, claim, where, value, limits):
    values = {who: value(w[where(w.index.to_frame()).to_numpy()]) for who, w in wide.items()}
    holds = {f"{who}_holds": _verdict(v, *limits) for who, v in values.items()}
    limit = f"at most {limits[1]:g}" if limits[0] == -100 else f"{limits[0]:g} to {limits[1]:g}"
    return pd.DataFrame(dict(finding=letter, claim=claim, limit=limit) | values | holds).reset_index()


# The table of the paper and ours go through the same functions:
def findings(
    both: pd.DataFrame, # from `side_by_side`, a table in `FINDINGS`
) -> pd.DataFrame: # one row a finding and setting: the value in the paper and in ours, and whether the claim holds
    "What the paper concludes from its table as numbers, for the paper's table and for ours."
    of = tuple(both[["paper", "table"]].iloc[0])
    expect(of in FINDINGS, "both", "a table with findings: " + ", ".join(map(" ".join, FINDINGS)), " ".join(of))
    order = pd.MultiIndex.from_frame(both[SETTING].drop_duplicates())
    wide = {who: both.set_index(CELL)[f"{column}_mean"].unstack().reindex(order) for who, column in (("paper", "paper"), ("ours", "our"))}
    return pd.concat([_finding(wide, *f) for f in FINDINGS[of]], ignore_index=True)


# Where ours differs

# A difference of more than two points needs a reason, and a reason needs a run. An *ablation* repeats a
# cell with one thing changed. The report puts the changed value beside the plain one: how far it `moved`,
# and how much is `left` to the paper. The rule that picks the reported epoch is changed for free: each run
# records its accuracy at the last epoch and at the best noisy-validation accuracy too.
RULES = dict(accuracy="epoch: lowest validation loss", accuracy_last="epoch: the last", accuracy_best_valid_accuracy="epoch: best validation accuracy")

def far_cells(
    both: pd.DataFrame, # from `side_by_side`
    points: float = 2.0, # how far is far
) -> pd.DataFrame: # the cells with |ours − paper| > points, the farthest first
    "The cells where ours differs from the paper by more than some points."
    return both[both.difference.abs() > points].sort_values("difference", key=np.abs, ascending=False)

def _variants(results, paper, table, scale, reported):
    rules = [cell_means(results, metric, paper=paper, table=table, scale=scale, variant="").assign(variant=label) for metric, label in RULES.items() if metric != reported]
    rows = pick(results, paper=paper, scale=scale, metric=reported)
    rows = rows[rows.table.isin([table, "ablation"]) & (rows.variant != "")]
    return pd.concat(rules + [cell_means(part, reported).assign(variant=v) for v, part in rows.groupby("variant")])


# Every far cell meets every variant that was run for it. A cell without a variant stays, with empty
# numbers: it still waits for its reason.
def reasons(
    results: pd.DataFrame, # from `read_results`; ablations have table "ablation" and a variant
    both: pd.DataFrame, # from `side_by_side`; the ablations are of its scale
    points: float = 2.0, # how far is far
) -> pd.DataFrame: # one row a far cell and variant: variant, mean, std, n, moved, left
    "What moved the cells that differ by more than some points, and how far."
    far = far_cells(both, points)[[*CELL, "paper_mean", "our_mean", "difference"]]
    tried = _variants(results, *both[["paper", "table", "scale", "metric"]].iloc[0])[[*CELL, "variant", "mean", "std", "n"]]
    both = far.merge(tried, how="left", on=CELL)
    return both.assign(moved=both["mean"] - both.our_mean, left=both["mean"] - both.paper_mean)


# How much is done

# `coverage` says, for every published table and every scale, how many cells there are, and how close.
# "Within two ±" counts the cells that lie within twice the paper's own standard deviation.
def _scales(results, paper, table):
    found = set(pick(results, paper=paper, table=published(paper, table).grid.iloc[0], metric="accuracy").scale)
    return [s for s in SCALES if s in found] + sorted(found - set(SCALES))

def _tally(both, order):
    done, order = both[both.our_n.notna()], order.query("outcome != 'not run'")
    near = (done.difference.abs() <= 2 * done.paper_std.clip(lower=LEAST_STD) + 1e-9)[done.paper_std.notna()]
    outcomes = dict(orderings=(order.outcome == "holds").sum(), reversed=(order.outcome == "reversed").sum(), orderings_of=len(order))
    low, median, high = done.difference.abs().quantile([.25, .5, .75])
    return dict(cells=len(done), of=len(both), runs=int(done.our_n.sum()), n=span(done.our_n), difference=median, low=low, high=high,
                largest=done.difference.abs().max(), within=near.sum(), within_of=len(near), stand_in=listed(done.network[done.network != ""])) | outcomes

def score(
    both: pd.DataFrame, # from `side_by_side`
) -> dict: # cells, runs, differences (median, quartiles, largest), orderings; the networks that stand in for the paper's
    "How much of a table is done, and how close it is."
    return _tally(both, orderings(both))


# One row for each table and scale that has results. A table without any gets a row as well, with an empty
# scale.
def all_sides(
    results: pd.DataFrame, # from `read_results`
) -> list: # of what `side_by_side` gives
    "Every published table at every scale that has results."
    return [side_by_side(results, *t, scale) for t in published_tables() for scale in _scales(results, *t) or [""]]

def identity(
    both: pd.DataFrame, # from `side_by_side`
) -> dict: # paper, table, scale
    "Which table this is, and at which scale."
    return dict(zip(("paper", "table", "scale"), both[["paper", "table", "scale"]].iloc[0]))

def coverage(
    results: pd.DataFrame, # from `read_results`
) -> pd.DataFrame: # one row a published table and scale
    "How many cells of each published table are done, at which scale, and how close they are."
    return pd.DataFrame([identity(both) | score(both) for both in all_sides(results)])


# The same for each paper, with all its tables together, and for all papers, in the rows without one.
# Orderings are compared within a table only.
def by_paper(
    results: pd.DataFrame, # from `read_results`
) -> pd.DataFrame: # one row a paper and scale; an empty paper stands for all
    "How much of each paper is done at each scale, and how close it is: cells, quartiles of |ours − paper|, orderings."
    rows = []
    for scale in sorted(set(results.scale), key=[*SCALES, *sorted(set(results.scale))].index):
        sides = [side_by_side(results, *of, scale) for of in published_tables()]
        for paper in [*PAPERS, ""]:
            own = [both for both in sides if paper in ("", both.paper.iloc[0])]
            rows.append(dict(paper=paper, scale=scale) | _tally(pd.concat(own), pd.concat(map(orderings, own))))
    return pd.DataFrame([row for row in rows if row["cells"]])


# The README shows the same as a table, so nobody types it by hand.
NAMES = dict(mnist="MNIST", imdb="IMDB", cifar10="CIFAR-10", cifar100="CIFAR-100", fashion_mnist="Fashion-MNIST", mlp="fully connected",
    embedding="word embedding", lstm="word embedding + LSTM", resnet14="14-layer ResNet", resnet32="32-layer ResNet",
    resnet44="44-layer ResNet", resnet18="18-layer ResNet", resnet34="34-layer ResNet", resnet50="50-layer ResNet", cnn="plain CNN", cnn4="4-layer CNN", lenet="LeNet", quick="quick CNN", lc_cnn="low-capacity CNN", alexnet="AlexNet", imagenet="ImageNet", cnn8="8-layer CNN", clothing1m="Clothing1M",
    patrini2017="Patrini et al. 2017", zhang2018="Zhang & Sabuncu 2018", wang2019="Wang et al. 2019", jindal2019="Jindal et al. 2019", tanaka2018="Tanaka et al. 2018", preact32="PreAct ResNet-32", redrawn="redrawn", pseudo="pseudo-labels", aggre="people's majority, about", worse="people's worst labels, about", course="This course",
    table1b="Table 1, fewer images", table1c="Table 1, fewest images", simplex="simplex", sparse="ten classes", real="real noise, about", clean_50k="checked labels only, noise", real_and_clean_50k="real noise and checked labels, about", real_then_clean_50k="real noise, then checked labels, about", none="no noise", open_set="open-set", accuracy="accuracy")

def named(
    name: str, # of a data set, network, paper, table or kind of noise
) -> str:
    "The words for a name."
    return NAMES.get(name) or re.sub(r"^(table|figure)(\d+)((_[a-z]+)*)$", lambda m: f"{m[1].title()} {m[2]}" + m[3].replace("_", ", ", 1).replace("_", " "), str(name))

def setting_title(
    noise: str, # kind
    rate: float, # probability of a wrong label
) -> str:
    "A noise setting in words."
    return named(noise) + (f" {rate:g}" if noise != "none" else "")


def block_title(
    dataset: str, # e.g. "mnist"
    model: str, # the paper's network
) -> str:
    "A block in words."
    return f"{named(dataset)}, {named(model)}"

def stand_in(
    both: pd.DataFrame, # from `side_by_side`, or part of it
) -> str: # nothing where ours has the paper's network
    "What takes the place of the paper's network, in words."
    networks = [named(n) for n in listed(both.network.dropna()).split(", ") if n]
    return f"ours has another network ({', '.join(networks)})" if networks else ""


# Blocks and settings get their names in two columns of words:
def _places(frame):
    blocks, settings = frame[["dataset", "model"]].to_numpy(), frame[["noise", "rate"]].to_numpy()
    return pd.DataFrame(dict(block=[block_title(*b) for b in blocks], setting=[setting_title(*s) for s in settings]), index=frame.index)

def readable(
    frame: pd.DataFrame, # with the columns of `SETTING`, and methods
) -> pd.DataFrame: # with the columns block and setting instead
    "The same rows, in words."
    words = {c: frame[c].map(pretty) for c in ("method", "better", "worse") if c in frame}
    return _places(frame).join(frame.drop(columns=SETTING).assign(**words))


# And `coverage` becomes words, one row a table and scale:
def _of(part, whole): return f"{part} of {whole}" if whole else "–"

def _points(x): return "–" if pd.isna(x) else f"{x:.1f} points"

def told(
    c, # a row of `coverage`, from `itertuples`
) -> dict: # heading → words
    "One row of the table of what has been reproduced."
    scale = ", ".join(filter(None, [c.scale or "not run", c.stand_in and named(c.stand_in)]))
    return {"paper": named(c.paper), "table": named(c.table), "scale": scale, "cells": _of(c.cells, c.of), "runs a cell": c.n or "–",
            "median difference": _points(c.difference), "largest": _points(c.largest), "within 2 ±": _of(c.within, c.within_of),
            "orderings that hold": _of(c.orderings, c.orderings_of)}


# In markdown, that is one line a row:
def _markdown(rows):
    head = [list(rows[0]), ["---"] * len(rows[0])] if rows else []
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [*head, *(r.values() for r in rows)])

def readme_table(
    results: pd.DataFrame, # from `read_results`
) -> str: # markdown
    "The README's table of what has been reproduced."
    return _markdown([told(c) for c in coverage(results).itertuples()])


# And a shorter one, a row a paper and scale, with numbers as all tables print them:
def number(
    x: float, # NaN gives no text
    form: str = ".1f", # as in `format`
) -> str: # with a true minus sign, and no sign for zero
    "A number as it is printed in all tables."
    text = "" if pd.isna(x) else format(x, form)
    return text.lstrip("+-") if text and float(text) == 0 else text.replace("-", "−")

def _told_paper(c):
    return {"paper": named(c.paper) or "all papers", "scale": c.scale, "cells": f"{c.cells} of {c.of:,}", "median difference": _points(c.difference),
            "quartiles": f"{number(c.low)} to {number(c.high)}", "within 2 ±": _of(c.within, c.within_of), "orderings that hold": _of(c.orderings, c.orderings_of)}

def papers_table(
    results: pd.DataFrame, # from `read_results`
) -> str: # markdown
    "What has been reproduced of each paper, and how close it is."
    return _markdown([_told_paper(c) for c in by_paper(results).itertuples()])


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
    above = ["".join(_wide(word, 19) + " " for word in line) for line in heads] + ["  paper  ours  diff " * len(settings)]
    lines = [_line(m, rows, settings, first) for m, rows in part.groupby("method", sort=False)]
    return "\n".join(line.rstrip() for line in [*(" " * first + line for line in above), *lines])

def _block_text(dataset, model, part):
    head = "; ".join(filter(None, [block_title(dataset, model), f"scale {part.scale.iloc[0]}, n = {span(part.our_n)}", stand_in(part)]))
    settings, first = list(dict.fromkeys(zip(part.noise, part.rate))), max(17, *(_seen(pretty(m)) + 1 for m in part.method))
    n = (100 - first) // 20
    sets = [settings[k:k + n] for k in range(0, len(settings), n)]
    return "\n".join([head, *(_part_text(part[[s in own for s in zip(part.noise, part.rate)]], own, first) for own in sets)])


# Only blocks with results are shown. The title says how many cells that is, and at which scale.
def terminal_table(
    results: pd.DataFrame, # from `read_results`
    paper: str, # e.g. "patrini2017"
    table: str, # e.g. "table2"
    scale: str, # one scale
    dataset: str | None = None, # only this one, e.g. "mnist"
) -> str: # plain text, at most 100 columns
    "Paper, ours and difference as plain text, for the blocks that have results."
    both = side_by_side(results, paper, table, scale)
    if dataset: both = pick(both, dataset=dataset)
    blocks = [_block_text(*block, part) for block, part in both.groupby(["dataset", "model"], sort=False) if part.our_n.notna().any()]
    title = f"{named(paper)}, {named(table)}: {both.our_n.notna().sum()} of {len(both)} cells at scale {scale}"
    note = "test accuracy in percent; diff = ours − paper, in points; * = significant (Welch's t-test, 5 %)"
    return "\n\n".join([f"{title}\n{note}", *blocks])
