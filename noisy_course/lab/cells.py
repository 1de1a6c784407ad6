"""The cells of published tables, ours beside them, and Welch's test of their difference.

A spread printed as 0.0 was below 0.05, and counts as 0.05. Which methods a paper tells apart follows its
own rule: Welch's test, or half a point where it printed one run. Ours follow one rule for any number of
runs: a 95 % interval of the difference leaves out 0. Nothing here averages over scales."""
import re
from importlib.resources import files
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm, ttest_ind_from_stats

from noisy_course.basics import SETTING, check_frame, pick, require
from noisy_course.lab.results import CELL, RUN


# What the paper printed

# Table 2 of Patrini et al. (2017) has six blocks, a data set and a network each. A block has ten methods in
# four *settings*: no noise, symmetric noise, and two rates of asymmetric noise. We keep the numbers in a
# CSV file, one row a cell.
ASSETS = Path(str(files("noisy_course")))/"assets"

def published(
    paper: str, # e.g. "patrini2017"
    table: str, # e.g. "table2"
) -> pd.DataFrame: # one row a cell; accuracies in percent, std empty where none is printed
    "A table of a paper; errors, where it prints them, as accuracies."
    for name, word in dict(paper=paper, table=table).items():
        require(isinstance(word, str), name, "a word", repr(word))
    known = sorted(file.stem.replace("_", " ", 1) for file in (ASSETS/"tables").glob("*.csv"))
    owners = sorted({name.split(" ")[0] for name in known})
    require(paper in owners, "paper", f"one of {', '.join(owners)}", repr(paper))
    own = [name for name in known if name.startswith(f"{paper} ")]
    require(f"{paper} {table}" in own, "table", "one of " + ", ".join(own), f"{paper} {table}")
    cells = pd.read_csv(ASSETS/"tables"/f"{paper}_{table}.csv", keep_default_na=False, na_values=[""])
    errors = cells.metric.str.startswith("error")
    return cells.assign(grid=cells.table, table=table,
                        mean=cells["mean"].where(~errors, (100 - cells["mean"]).round(2)),
                        metric=cells.metric.str.replace("error", "accuracy"))


# Many cells say ± 0.0. No experiment is that exact: a standard deviation is printed as 0.0 when it is below
# 0.05. In tests we use 0.05, the most it can have been. That errs on the side of seeing no difference.
LEAST_STD = .05

def stats(
    frame, # with columns of a side
    who, # "paper" or "our"
    suffix="", # of the columns
):
    "Mean, std (a borrowed one where there is a column of them) and n of a side, as `welch` wants them."
    spread = "spread" if f"{who}_spread{suffix}" in frame else "std"
    mean, std, n = (frame[f"{who}_{c}{suffix}"].to_numpy(float) for c in ("mean", spread, "n"))
    return mean, std.clip(min=LEAST_STD) if who == "paper" else std, n


# Is a difference real?

def welch(
    mean1, # means, any shape
    std1, # standard deviations with n - 1
    n1, # numbers of runs
    mean2, # means of the other side
    std2, # its standard deviations
    n2, # its numbers of runs
) -> np.ndarray: # p in [0, 1]; NaN where a side has fewer than two runs
    "Two-sided p of Welch's t-test from means, standard deviations and numbers of runs."
    sides = np.broadcast_arrays(*_sample(mean1, std1, n1, "1"), *_sample(mean2, std2, n2, "2"))
    with np.errstate(all="ignore"): p = ttest_ind_from_stats(*sides, equal_var=False).pvalue
    return np.where((sides[2] > 1) & (sides[5] > 1), p, np.nan)


def _sample(mean, std, n, side):
    return _finite(mean, f"mean{side}"), _finite(std, f"std{side}", 0), _finite(n, f"n{side}", 0)

def _finite(values, name, least=-np.inf):
    try: array = np.asarray(values, None if np.iscomplexobj(values) else float)
    except (TypeError, ValueError): array = None
    fine = (array is not None and array.dtype.kind == "f" and not np.isinf(array).any()
            and not (array < least).any())
    require(fine, name, "finite numbers, or NaN where there are none"
            + (", of at least 0" if least == 0 else ""), repr(values)[:80])
    return array


# One run has no spread, so its test is empty. For its CIFAR blocks Patrini et al. then call two methods equal
# if they are within half a point. What a paper tells apart follows this rule.
def apart(
    mean1, # percent
    std1, # points; NaN if there is one run
    n1, # runs
    mean2, # means of the other side
    std2, # its standard deviations
    n2, # its numbers of runs
) -> np.ndarray: # of bool
    "Whether two means differ by the paper's rule: Welch's p < 5 %, or without a spread by over 0.5 points."
    p, gap = welch(mean1, std1, n1, mean2, std2, n2), np.abs(np.asarray(mean1, float) - mean2)
    return np.where(np.isnan(p), gap > .5 + 1e-9, p < .05)


# Ours are held to more. A single run borrows its spread from the cells of the same scale that have several
# runs, of the same method where there are any; then the same interval is asked for, whatever the number of
# runs.
def borrowed_spread(
    cells: pd.DataFrame, # of one scale, from `cell_means`
) -> pd.Series: # method → points; "" stands for all methods
    "The pooled standard deviation of a method's cells with several runs."
    several = cells[cells.n > 1]
    pooled = (several["std"] ** 2).groupby(several.method).mean() ** .5
    return pd.concat([pooled, pd.Series({"": (several["std"] ** 2).mean() ** .5})])

def differ(
    mean1, # percent
    spread1, # points: of the runs, or borrowed; NaN if unknown
    n1, # runs
    mean2, # means of the other side
    spread2, # their spreads
    n2, # their numbers of runs
) -> np.ndarray: # of bool; False where a spread is unknown
    "Whether a difference's 95 % interval leaves out 0: Welch's, or a normal one where a side is one run."
    p = welch(mean1, spread1, n1, mean2, spread2, n2)
    mean1, spread1, n1, mean2, spread2, n2 = map(np.asarray, (mean1, spread1, n1, mean2, spread2, n2))
    with np.errstate(all="ignore"): z = abs(mean1 - mean2) / np.sqrt(spread1**2 / n1 + spread2**2 / n2)
    return np.where(np.isnan(p), z > norm.ppf(.975), p < .05)

RULES = dict(paper=apart, our=differ)


# Stars and bold

# The caption of Table 2 gives two rules. A correction that knows the true $T$ gets a ★ if it beats every
# method that does not. Of the others, the best is set in bold, with all that cannot be told from it.
# `highlights` computes both for a setting.
KNOWS_T = ["backward", "forward"]
GENIES = [*KNOWS_T, "forward_sl", "forward_qc", "cnn_crf"] # the last one is quoted in a table, and not ours

def highlights(
    setting: pd.DataFrame, # one row a method: method, noise, and mean, std, n with the prefix of `who`
    who: str, # "paper" or "our"
) -> pd.DataFrame: # with the columns <who>_star and <who>_bold
    "The ★ and the bold type of a setting, by the paper's rules."
    mean, std, n = stats(setting, who)
    knows = (setting.method.isin(GENIES) & (setting.noise != "none")).to_numpy()
    star = knows & (mean > np.max(mean[~knows], initial=-np.inf, where=~np.isnan(mean[~knows])) + 1e-9)
    best = np.argmax(np.where(star | np.isnan(mean), -np.inf, mean))
    bold = ~star & ~np.isnan(mean) & ~RULES[who](mean[best], std[best], n[best], mean, std, n)
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
    return ("" if column.isna().all()
            else " to ".join(f"{v:.3g}" for v in sorted({column.min(), column.max()})))

ORIGIN = {c: (c, listed) for c in ("seed", "network", "samples", "commit", "dirty", "torch", "python",
                                   "device", "machine")}

def cell_means(
    results: pd.DataFrame, # from `read_results`
    metric: str = "accuracy", # a metric with one value a run
    **which: str, # what to keep: paper=…, table=…, scale=…, variant=…
) -> pd.DataFrame: # one row a cell: mean, std (NaN for one run), n, realised_rate and provenance
    "Mean, standard deviation and number of runs of every cell."
    check_frame(results, "results", [*RUN, "metric", "value"])
    require(isinstance(metric, str), "metric", "the name of a metric", repr(metric))
    rows = pick(results, metric=metric, **which)
    stats = dict(mean=("value", "mean"), std=("value", "std"), n=("value", "count"),
                 realised_rate=("realised_rate", "mean"))
    return rows.groupby(CELL, sort=False, as_index=False).agg(**stats, seconds=("seconds", span), **ORIGIN)


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
    check_frame(results, "results", [*RUN, "metric", "value"])
    require(isinstance(scale, str), "scale", "one scale", scale)
    theirs = published(paper, table)
    reported = theirs.metric.iloc[0]
    theirs = theirs.rename(columns={c: f"paper_{c}" for c in ("mean", "std", "n")})
    ours = cell_means(results, reported, paper=paper, table=theirs.grid.iloc[0], scale=scale,
                      variant="").rename(columns={c: f"our_{c}" for c in ("mean", "std", "n")})
    mixed = ours[ours.samples.astype(str).str.contains(",")]
    require(mixed.empty, "results", "one number of samples in a cell", mixed.samples.unique().tolist())
    ours = _with_spread(ours, cell_means(results, "accuracy", scale=scale, variant=""))
    both = theirs.merge(ours, how="left", on=CELL).assign(scale=scale)
    same = same_runs(pick(results, paper=paper, table=theirs.grid.iloc[0], scale=scale, variant=""))
    both = both.assign(same_as=[same.get(method, "") for method in both.method])
    both = pd.concat(highlights(highlights(part, "paper"), "our")
                     for _, part in both.groupby(SETTING, sort=False)).sort_index()
    return both.assign(difference=both.our_mean - both.paper_mean,
                       p=welch(*stats(both, "paper"), *stats(both, "our")))


def _with_spread(ours, cells):
    spread = borrowed_spread(cells)
    borrowed = [spread.get(method, spread[""]) for method in ours.method]
    return ours.assign(our_spread=ours.our_std.where(ours.our_n > 1, borrowed))


# A method may not have come to act. D2L leaves the labels as they are until its eleventh epoch at the
# earliest: in ten epochs its runs are those of cross-entropy, to the last bit. Such cells are shown, and
# counted nowhere. (Without noise forward correction is cross-entropy too; what counts is that a method
# differs nowhere.)
def same_runs(
    results: pd.DataFrame, # of one table and scale
) -> dict: # method → the other one, which a table names first
    "The methods whose curves are another's, bit for bit, in all settings, noisy ones among them."
    curves = results[results.metric.isin(["test_accuracy", "valid_loss"])]
    run = ["noise", *SETTING, "seed"]
    runs = {method: {key: part.value.to_numpy().tobytes() for key, part in own.groupby(run)}
            for method, own in curves.groupby("method", sort=False)}
    def same(one, other):
        shared = runs[one].keys() & runs[other].keys()
        noisy = any(noise != "none" for noise, *_ in shared)
        return noisy and all(runs[one][key] == runs[other][key] for key in shared)
    return {other: one for one, other in reversed([*combinations(runs, 2)]) if same(one, other)}


# Does the order hold?

# A table is read for its order: which method beats which. In each setting, ten methods make 45 pairs. We
# take the pairs that the paper tells apart, and ask whether ours come out the same way, and clearly: then
# the ordering holds; it is reversed if ours come out clearly the other way, and undecided otherwise.
# That is a fairer question than equal decimals, for it survives a slightly different dropout.
OUTCOMES = ["holds", "same sign, not significant", "other sign, not significant", "reversed", "not run"]

def orderings(
    both: pd.DataFrame, # from `side_by_side`
) -> pd.DataFrame: # one row a pair: better, worse (in the paper), both differences, outcome
    "Every pair of methods that the paper tells apart, and whether ours agrees."
    check_frame(both, "both", [*CELL,
                               *(f"{who}_{what}" for who in ("paper", "our")
                                 for what in ("mean", "std", "n"))])
    pairs = both.merge(both, on=SETTING, suffixes=("", "_other")).query("paper_mean > paper_mean_other")
    pairs = pairs[apart(*stats(pairs, "paper"), *stats(pairs, "paper", "_other"))]
    gap, clear = (pairs.our_mean - pairs.our_mean_other,
                  differ(*stats(pairs, "our"), *stats(pairs, "our", "_other")))
    idle = (pairs.same_as + pairs.same_as_other) != "" if "same_as" in pairs else gap.isna()
    outcome = np.select([gap.isna() | idle, clear & (gap > 0), clear, gap > 0],
                        [OUTCOMES[i] for i in (4, 0, 3, 1)], OUTCOMES[2])
    columns = dict(better=pairs.method, worse=pairs.method_other,
                   paper=pairs.paper_mean - pairs.paper_mean_other, ours=gap, outcome=outcome)
    return pairs[SETTING].assign(**columns).reset_index(drop=True)


# What the papers conclude

# Patrini et al. list four findings in §5.2, in words. A word like "similar" must become a number before it
# can be checked; ours are in the column `limit`. We put each to the paper's own table as well.
# One slip first. Finding (b) speaks of "low asymmetric noise (second column)", but the second column is the
# symmetric one. On CIFAR, only the symmetric column fits the claim that forward is unbeaten within half a
# point. So we check that one.
def spread(
    w, # settings × methods, percent
):
    "How far the best and the worst method are apart, in each setting."
    return w.max(axis=1, skipna=False) - w.min(axis=1, skipna=False)

def lead(
    w, # settings × methods, percent
    ones, # names of methods
    others, # names of methods
):
    "By how much the best of some methods leads the best of others."
    return w[ones].max(axis=1, skipna=False) - w[others].max(axis=1, skipna=False)

def without(
    w, # settings × methods
    *names, # of methods
):
    "The other methods."
    return [m for m in w if m not in names]


def number(
    x: float, # NaN gives no text
    form: str = ".1f", # as in `format`
) -> str: # with a true minus sign, and no sign for zero
    "A number as it is printed in all tables."
    text = "" if pd.isna(x) else format(x, form)
    return text.lstrip("+-") if text and float(text) == 0 else text.replace("-", "−")


# The README shows the same as a table, so nobody types it by hand.
NAMES = dict(mnist="MNIST", imdb="IMDB", cifar10="CIFAR-10", cifar100="CIFAR-100",
             fashion_mnist="Fashion-MNIST", mlp="fully connected", embedding="word embedding",
             lstm="word embedding + LSTM", resnet14="14-layer ResNet", resnet32="32-layer ResNet",
             resnet44="44-layer ResNet", resnet18="18-layer ResNet", resnet34="34-layer ResNet",
             resnet50="50-layer ResNet", cnn="plain CNN", cnn4="4-layer CNN", lenet="LeNet",
             quick="quick CNN", lc_cnn="low-capacity CNN", alexnet="AlexNet", imagenet="ImageNet",
             cnn8="8-layer CNN", clothing1m="Clothing1M", preact32="PreAct ResNet-32", redrawn="redrawn",
             pseudo="pseudo-labels", aggre="people's majority, about", worse="people's worst labels, about",
             table1b="Table 1, fewer images", table1c="Table 1, fewest images", simplex="simplex",
             sparse="ten classes", real="real noise, about", clean_50k="checked labels only, noise",
             real_and_clean_50k="real noise and checked labels, about",
             real_then_clean_50k="real noise, then checked labels, about", none="no noise",
             open_set="open-set", accuracy="accuracy")

def named(
    name: str, # of a data set, network, paper, table or kind of noise
) -> str:
    "The words for a name."
    return (NAMES.get(name) or re.sub(r"^(table|figure)(\d+)((_[a-z]+)*)$",
                                      lambda m: f"{m[1].title()} {m[2]}"
                                      + m[3].replace("_", ", ", 1).replace("_", " "), str(name)))

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
