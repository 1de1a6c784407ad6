"""Pages that open without internet: every cell of the papers beside ours, the figures, and where each number comes from."""
import argparse
import json
from collections.abc import Sequence
from functools import cache, partial
from itertools import groupby
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from noisy_course import data
from noisy_course.basics import SETTING, expect, pick, whole_file
from noisy_course.data import CIFAR10_CLASSES
from noisy_course.lab.comparison import (ASSETS, FINDINGS, OUTCOMES, all_sides, block_title, cell_means, findings, identity, listed,
    named, number, orderings, published, published_tables, readable, reasons, score, setting_title, span, stand_in,
    terminal_table, told)
from noisy_course.lab.results import CELL, SCALES, read_results, results_folder
from noisy_course.plots import bars, curves, matrices, numbered_points, pretty


# Figures from results

# Figure 1 of the paper draws accuracy against the rate $N$ of asymmetric noise, for cross-entropy and its
# four corrections. We collect the points from the rows of `figure1` and of Table 2, each seed once. Where
# both have a point, `figure1` counts; where it has no rate 0, the runs without noise stand there.
FIGURE1 = ["cross_entropy", "backward", "backward_estimated", "forward", "forward_estimated"]

def figure1_points(
    results: pd.DataFrame, # from `read_results`
    paper: str, # e.g. "patrini2017"
    scale: str, # one scale
) -> pd.DataFrame: # dataset, model, rate, method, mean, std, n
    "Accuracy against the rate of asymmetric noise, for cross-entropy and its corrections."
    rows = pick(results, paper=paper, scale=scale, metric="accuracy", variant="")
    rows = rows[rows.table.isin(["figure1", "table2"]) & rows.noise.isin(["none", "asymmetric"]) & rows.method.isin(FIGURE1)]
    point = ["dataset", "model", "method", "rate"]
    points = rows.sort_values("table", kind="stable").drop_duplicates([*point, "seed"]).groupby(point, sort=False, as_index=False).value
    return points.agg(["mean", "std", "count"]).rename(columns=dict(count="n"))


# The figure says in its title what it shows at the highest rate:
def _range(points): return points.assign(std=points["std"].fillna(0))

def figure1(
    points: pd.DataFrame, # of one data set and model, from `figure1_points`
) -> go.Figure: # a line a method, with a band of one std
    "Figure 1 of Patrini et al.: accuracy against N."
    high = points[points.rate == points.rate.max()].set_index("method")["mean"]
    title = f"At N = {points.rate.max():g}, {pretty(high.idxmax())} keeps {high.max():.1f} %, {pretty(high.idxmin())} {high.min():.1f} %"
    return curves(_range(points), "rate", "mean", "method", title, "rate of asymmetric noise, N", "test accuracy, %", error="std")


# Training curves are the same with epochs. They show what the selected epoch hides: a method that first
# learns the task and then the wrong labels.
METRICS = dict(valid_loss="loss on the noisy validation set", valid_accuracy="accuracy on the noisy validation set")

def curve_points(
    results: pd.DataFrame, # from `read_results`
    metric: str, # a metric with a value for each epoch, e.g. "test_accuracy"
    **which: str, # what to keep: paper=…, table=…, scale=…
) -> pd.DataFrame: # CELL, epoch, mean, std, n
    "Mean and standard deviation over seeds at each epoch."
    rows = pick(results, metric=metric, variant="", **which).dropna(subset="epoch")
    points = rows.groupby([*CELL, "epoch"], sort=False, as_index=False).value.agg(["mean", "std", "count"])
    return points.rename(columns=dict(count="n")).astype(dict(epoch=int))


# A loss has another unit for each method, and backward correction can even make it negative. Compare where
# the curves turn, not how high they are.
def training_curves(
    points: pd.DataFrame, # of one setting, from `curve_points`
    metric: str, # for the label
) -> go.Figure: # a line a method, with a band of one std
    "Training curves of all methods in a setting."
    last = points[points.epoch == points.epoch.max()].set_index("method")["mean"]
    accuracy, label = metric.endswith("accuracy"), METRICS.get(metric, pretty(metric))
    finding = f"{pretty(last.idxmax())} ends highest, at {last.max():.1f} %" if accuracy else "compare the shapes, not the heights"
    return curves(_range(points), "epoch", "mean", "method", f"{label.capitalize()}: {finding}", "epoch", label + ", %" * accuracy, error="std")


# The estimated matrix

# Results hold a matrix as one row an entry, `estimated_T[3,8]`. The estimate is judged by the distance of
# its rows from the true ones, averaged over runs:
def _entries(rows, kind):
    place = rows.metric.str.extract(rf"^{kind}\[(\d+),\s*(\d+)\]$").dropna().astype(int)
    return rows.loc[place.index].assign(i=place[0], j=place[1])

def transitions(
    results: pd.DataFrame, # rows of one cell
    kind: str, # "estimated_T", "true_T" or "realised_T"
) -> np.ndarray: # (runs, C, C), seeds in order; (0, 0, 0) if there are none
    "The transition matrices of a cell's runs."
    entries = _entries(results, kind)
    n = entries[["i", "j"]].to_numpy().max(initial=-1) + 1
    return entries.pivot(index="seed", columns=["i", "j"], values="value").sort_index(axis=1).to_numpy().reshape(entries.seed.nunique(), n, n)


# The distance of the rows needs one line:
def row_error(
    estimated: np.ndarray, # (..., C, C)
    true: np.ndarray, # (..., C, C)
) -> np.ndarray: # (..., C), each in [0, 2]
    "The L1 distance of each row of T̂ from the true row."
    return np.abs(estimated - true).sum(-1)


# The page shows the true matrix and the mean estimate side by side:
def _heat_maps(true, estimated):
    error = row_error(estimated, true).mean(0)
    title = f"T̂ is off by {error.mean():.2f} a row on average, by {error.max():.2f} at worst (row {error.argmax()})"
    return matrices([true.mean(0), estimated.mean(0)], ["true T", f"T̂, mean of {len(estimated)} runs"], title)

def _matrix_cells(rows):
    known = rows[rows.metric.str.match(r"(estimated|true)_T\[")]
    for cell, part in known.groupby(CELL, sort=False):
        true, estimated = transitions(part, "true_T"), transitions(part, "estimated_T")
        if len(true) == len(estimated) > 0: yield dict(zip(CELL, cell)), true, estimated


# Which q?

# Zhang & Sabuncu's Figure 2 trains with several $q$; $q=0$ is cross-entropy. From its rows we take the runs
# by $q$, with what a user would see, the noisy validation accuracy, and what nobody sees, the test accuracy
# of the network chosen by it.
def runs_by_q(
    results: pd.DataFrame, # from `read_results`
    scale: str, # one scale
) -> pd.DataFrame: # one row a run: dataset, model, rate, seed, q, valid, test
    "The runs of Zhang & Sabuncu's Figure 2: validation accuracy and test accuracy of the epoch that it chooses."
    rows = with_q(pick(results, paper="zhang2018", table="figure2", scale=scale))
    run = ["dataset", "model", "rate", "seed", "q"]
    valid = pick(rows, metric="valid_accuracy").groupby(run, as_index=False).value.max().rename(columns=dict(value="valid"))
    test = pick(rows, metric="accuracy_best_valid_accuracy")[[*run, "value"]].rename(columns=dict(value="test"))
    return valid.merge(test, on=run, validate="1:1")

def with_q(
    rows: pd.DataFrame, # of Figure 2
) -> pd.DataFrame: # with a column q
    "Rows with the q of their run: 0 for cross-entropy, the usual 0.7 where no variant says otherwise."
    usual = np.where(rows.method == "cross_entropy", 0., .7)
    return rows.assign(q=pd.to_numeric(rows.variant.str.extract(r"^q=([\d.]+)$", expand=False)).fillna(pd.Series(usual, rows.index)))


# A user with one noisy training set takes the $q$ with the highest noisy validation accuracy. What does
# that cost, beside the $q$ that is best on average over runs, which only clean labels would show?
def q_choice(
    runs: pd.DataFrame, # of one data set, from `runs_by_q`
) -> pd.DataFrame: # one row a rate: best_q and its accuracy, the q chosen in each run and their mean accuracy, the cost in points
    "What choosing q by noisy validation accuracy costs."
    means = runs.groupby(["rate", "q"], as_index=False).test.mean()
    best = means.loc[means.groupby("rate").test.idxmax()].set_index("rate")
    chosen = runs.loc[runs.groupby(["rate", "seed"]).valid.idxmax()].groupby("rate").agg(chosen=("q", listed), test=("test", "mean"))
    return pd.DataFrame(dict(best_q=best.q, best=best.test, chosen_q=chosen.chosen, chosen=chosen.test, cost=best.test - chosen.test)).reset_index()


# The figure: accuracy against $q$, a line for each noise rate.
def q_figure(
    runs: pd.DataFrame, # of one data set, from `runs_by_q`
) -> go.Figure: # a line a noise rate, with a band of one std
    "Test accuracy against q."
    points = runs.groupby(["rate", "q"], as_index=False).test.agg(["mean", "std"])
    at = points.loc[points.groupby("rate")["mean"].idxmax()].set_index("rate").q
    title = "The best q: " + ", ".join(f"{q:g} at η = {rate:g}" for rate, q in at.items())
    return curves(_range(points.assign(noise="η = " + points.rate.map("{:g}".format))), "q", "mean", "noise", title, "q (0 is cross-entropy)", "test accuracy, %", error="std")


# Pages

# The report is a folder of HTML pages that opens without internet: one style sheet, one script, plotly once
# beside them. A page is a list of sections; a section has text, tables, *grids* (paper, ours and difference
# for a block) and figures. Python says what is on a page, the templates in `assets/report` how it looks.
# First, tables and figures as plain values:
def _words(column):
    if not pd.api.types.is_numeric_dtype(column): return column.astype(str).tolist()
    known = column.dropna().abs()
    return [number(x, ".0f" if (known % 1 == 0).all() else ".2f" if (known >= .01).where(known > 0, True).all() else "g") for x in column]

def _table(frame, caption):
    numeric = [pd.api.types.is_numeric_dtype(t) for t in frame.dtypes]
    return dict(caption=caption, head=[str(c).replace("_", " ") for c in frame], rows=list(zip(*(_words(frame[c]) for c in frame))), numeric=numeric)

def _figure(fig, note="", wide=False):
    spec = json.loads(fig.to_json())
    layout = {k: v for k, v in spec["layout"].items() if k not in ("title", "width", "height")} | dict(autosize=True)
    layout["margin"]["t"] = 50 if wide else 20
    text = json.dumps(dict(data=spec["data"], layout=layout), ensure_ascii=False).replace("<", "\\u003c")
    tall = fig.layout.height if (fig.layout.height or 0) > 500 else None
    return dict(caption=fig.layout.title.text.replace("<br>", " "), note=note, wide=wide, tall=tall, json=text)

def _section(title, *text, tables=(), grids=(), figures=(), level=2, fold=False):
    return dict(title=title, text=[t for t in text if t], tables=list(tables), grids=list(grids), figures=list(figures), level=level, fold=fold)


# A cell of a grid shows three things, and tells where ours came from when the pointer rests on it.
def _plus_minus(mean, std): return "" if pd.isna(mean) else number(mean) + ("" if pd.isna(std) else f" ± {std:.1f}")

def _origin(r):
    if pd.isna(r.our_n): return "not run"
    tree = dict(zip(("True", "False"), (" with uncommitted changes", ""))).get(r.dirty, "")
    said = [*([f"network: {named(r.network)}"] if r.network else []), f"scale {r.scale}", f"n = {r.our_n:.0f}", f"seeds {r.seed}", "all samples" if r.samples == "0" else f"{r.samples} samples", f"realised noise rate {number(r.realised_rate, '.4f')}",
            f"commit {r.commit}{tree}", f"torch {r.torch}", f"Python {r.python}", r.device, r.machine, f"{r.seconds} s"]
    return "; ".join(said)


# Stars, bold and the two kinds of marks are decided here; the template only writes them.
def _grid_cell(r):
    return dict(paper=_plus_minus(r.paper_mean, r.paper_std), dagger=r.dagger, paper_star=r.paper_star, paper_bold=r.paper_bold,
                ours=_plus_minus(r.our_mean, r.our_std), our_star=r.our_star, our_bold=r.our_bold, difference=number(r.difference, "+.1f"),
                significant=r.p < .05, far=abs(r.difference) > 2, p=number(r.p, ".2g"), origin=_origin(r))

def _grid(block, part):
    n = {who: span(part[f"{who}_n"]) or "none" for who in ("paper", "our")}
    ours = f" Scale of ours: {part.scale.iloc[0]}, n = {n['our']}" if n["our"] != "none" else " Not run"
    other = f"; {stand_in(part)}." if stand_in(part) else "."
    caption = f"{block_title(*block)}: test accuracy in percent. n = {n['paper'] if n['paper'] != 'none' else 'not said'} in the paper.{ours}{other}"
    settings = list(dict.fromkeys(zip(part.noise, part.rate)))
    rows = [dict(method=pretty(m), cells=_grid_row(own, settings)) for m, own in part.groupby("method", sort=False)]
    return dict(caption=caption, settings=[setting_title(*s) for s in settings], rows=rows)

def _grid_row(rows, settings):
    found = {(r.noise, r.rate): _grid_cell(r) for r in rows.itertuples()}
    return [found.get(s) for s in settings]


# Now the pages, one function each. The table page has the grids, the orderings and the findings:
def _grids(both):
    blocks = [(part.our_n.notna().any(), _grid(block, part)) for block, part in both.groupby(["dataset", "model"], sort=False)]
    done, rest = ([g for ok, g in blocks if ok == want] for want in (True, False))
    note = "Rest the pointer on a cell of ours to see its origin; the provenance page has it too."
    if done: yield _section("Paper | ours | difference", LEGEND, note, grids=done, level=3)
    if rest: yield _section(f"Not run at this scale: {len(rest)} {'block' if len(rest) == 1 else 'blocks'}", grids=rest, level=3, fold=bool(done))


# The legend says every rule that the table follows:
LEGEND = ("Difference is ours − paper, in points. Bold: the best, and all that Welch's t-test at 5 % cannot tell from it (single runs: within 0.5 points). "
    "★: a correction with the true T that beats all others; the bold is then among the rest. † is the paper's. "
    "An outlined difference is significant (Welch, 5 %); a filled one is larger than 2 points. A printed ± 0.0 counts as 0.05 in tests.")


# Orderings are counted for each setting; those that come out reversed are listed one by one.
def _counts(order):
    counts = readable(order).groupby(["block", "setting", "outcome"], sort=False).size().unstack(fill_value=0)
    return counts.reindex(columns=OUTCOMES[:4], fill_value=0).reset_index()

def _orders(both, scale):
    order = orderings(both).query("outcome != 'not run'")
    turned = readable(order[order.outcome == "reversed"]).drop(columns="outcome")
    text = f"{(order.outcome == 'holds').sum()} of {len(order)} orderings that are significant in the paper hold in ours: same sign, and significant."
    tables = [_table(_counts(order), f"Orderings of methods, significant in the paper, and what became of them. Scale {scale}.")] if len(order) else []
    tables += [_table(turned, f"Orderings that come out reversed, and significantly. Differences in points. Scale {scale}.")] if len(turned) else []
    yield _section("Which orderings hold", text, tables=tables, level=3)


# What the paper concludes closes the page, where we have put it in numbers.
CONCLUSIONS = {
    ("patrini2017", "table2"): "Finding (b) says “low asymmetric noise (second column)”; the second column is the symmetric one, and is checked here. The limits are ours.",
    ("zhang2018", "table1"): "What §4.3 says of the table. The limits are ours.",
    ("wang2019", "table1"): "What §5.2 says of the table: “SL improves on the baselines via a large margin for almost all noise rates and all datasets”, “Forward sometimes also delivers a relatively good performance”. The limits are ours.",
    ("tanaka2018", "table1"): "§5.5: “Our method achieves overall better test accuracy and recovery accuracy on SN-CIFAR.”",
    ("tanaka2018", "table2"): "§5.6: “Our method achieves significantly better test accuracy and recovery accuracy on AN-CIFAR. However, only when the noise rate is 50%, there is no significant improvement”. The paper prints no spread, so significance cannot be checked; the limit of 5 points is ours."}

def _found(both, of, scale):
    found = findings(both)
    frame = readable(found.drop(columns="limit").assign(limit=found.limit)).rename(columns=dict(paper="paper, points", ours="ours, points"))
    counts = found.groupby(["finding", "claim"], sort=False).agg(**{who: (f"{who}_holds", _held) for who in ("paper", "ours")}).reset_index()
    tables = [_table(counts, f"What the paper concludes, and in how many settings it holds. Scale of ours: {scale}."), _table(frame, "The same, setting by setting.")]
    yield _section("What the paper concludes", CONCLUSIONS[of], tables=tables, level=3, fold=True)

def _held(verdicts): return f"{(verdicts == 'yes').sum()} of {(verdicts != 'not run').sum()}"

NOTES = dict(tanaka2018="“Best” is the epoch of the highest validation accuracy on clean labels, as it must have been in the paper; recovery is the accuracy of the labels found, or of the predictions on the training images. CNN-CRF is quoted.",
    jindal2019="The paper prints errors in percent; here are accuracies, what is left to 100.")

def _table_page(results, paper, table, sides):
    for scale, both in sides.items():
        part = "" if table == both.grid.iloc[0] else f"{named(table)}. "
        yield _section(part + (f"Scale {scale}: {both.our_n.notna().sum()} of {len(both)} cells" if scale else f"Not run: {len(both)} cells"), NOTES.get(paper, ""))
        yield from _grids(both)
        if scale: yield from _orders(both, scale)
        if scale and (paper, table) in FINDINGS: yield from _found(both, (paper, table), scale)


# Figures: Figure 1 with the paper's points below ours, training curves, and matrices.
def _paper_points(paper, dataset, model):
    rows = pick(published(paper, "table2"), dataset=dataset, model=model)
    return rows[rows.noise.isin(["none", "asymmetric"]) & rows.method.isin(FIGURE1)]

def _figure1_page(results, paper, table, sides):
    for scale in sides:
        for block, part in figure1_points(results, paper, scale).groupby(["dataset", "model"], sort=False):
            if part.rate.nunique() < 2: continue
            ours = _figure(figure1(part), f"Ours: scale {scale}, n = {span(part.n)}; the band is ± one standard deviation.")
            theirs = _figure(figure1(_paper_points(paper, *block)), "The paper's points: the cells of its Table 2. Its Figure 1 prints no numbers.")
            yield _section(f"{block_title(*block)}, scale {scale}", figures=[ours, theirs])


# The second paper's figures: what the network believes, what $q$ does, and open-set noise.
def _at_scales(results, paper, table):
    rows = pick(results, paper=paper, table=table)
    for (scale, dataset, model), part in rows.groupby(["scale", "dataset", "model"], sort=False):
        ours, n = listed(part.network[part.network != ""]) or model, part.seed.nunique()
        note = f"Scale {scale}; {n} {'seed' if n == 1 else 'seeds'}." + (f" The paper has another network: {named(model)}." if ours != model else "")
        yield scale, f"{block_title(dataset, ours)}, scale {scale}", note, part


def _beliefs_page(results, paper, table, sides):
    for scale, title, note, part in _at_scales(results, paper, "figure1"):
        known = part[part.metric.str.startswith("belief") & (part.noise != "none")].dropna(subset="epoch")
        seen = known.assign(who=known.metric.str[7:] + " labels, " + known.method.map(pretty)).groupby(["who", "epoch"], sort=False, as_index=False).value.agg(["mean", "std"])
        clean = _curve_of(part[(part.noise == "none") & (part.metric == "test_accuracy")], "method")
        figures = [_figure(curves(_range(clean), "epoch", "mean", "method", "Without noise", "epoch", "test accuracy, %", error="std"), note)]
        title_c = f"Mean softmax of the given label, {setting_title(*known[['noise', 'rate']].iloc[0])}"
        figures += [_figure(curves(_range(seen), "epoch", "mean", "who", title_c, "epoch", "mean softmax", error="std"), note)]
        yield _section(title, figures=figures)

def _curve_of(rows, by): return rows.dropna(subset="epoch").groupby([by, "epoch"], sort=False, as_index=False).value.agg(["mean", "std"])


# For $q$, curves at each noise rate, and the answer to the question that users ask:
def _q_page(results, paper, table, sides):
    for scale, title, note, part in _at_scales(results, paper, "figure2"):
        runs = runs_by_q(part, scale)
        choice = q_choice(runs).rename(columns=dict(best="its accuracy", chosen_q="q by noisy validation, each run", chosen="accuracy", cost="points lost"))
        tables = [_table(choice, "The q that is best on average, and what choosing q by noisy validation accuracy in each run costs.")]
        tables += [_by_q(part, m, f"Test accuracy in percent, {words}.") for m, words in (("accuracy_best_valid_accuracy", "epoch of the best noisy validation accuracy"), ("accuracy_last", "last epoch"))]
        figures = [_figure(q_figure(runs), note)] + [_figure(_q_curves(rows, m), note) for _, rows in part.groupby("rate") for m in ("test_accuracy", "valid_loss")]
        yield _section(title, "The loss has another unit for each q: compare where its curves turn.", tables=tables, figures=figures)

def _by_q(part, metric, caption):
    wide = with_q(pick(part, metric=metric)).pivot_table(index="rate", columns="q", values="value")
    return _table(wide.rename(columns="q = {:g}".format).reset_index(), caption)

def _q_curves(rows, metric):
    known = with_q(rows[rows.metric == metric])
    points = _curve_of(known.sort_values(["q", "epoch"]).assign(who="q = " + known.q.map("{:g}".format)), "who")
    label = METRICS.get(metric, pretty(metric))
    return curves(_range(points), "epoch", "mean", "who", f"{label.capitalize()}, {setting_title(*rows[['noise', 'rate']].iloc[0])}", "epoch", label, error="std")

def _open_set_page(results, paper, table, sides):
    for scale, title, note, part in _at_scales(results, paper, "open_set"):
        words = dict(accuracy_last="last epoch", accuracy_best_valid_accuracy="best validation accuracy")
        means = pd.concat([cell_means(part, m).assign(reported=w) for m, w in words.items()])
        wide = means.pivot_table(index="method", columns=["noise", "reported"], values="mean", sort=False)
        wide.columns = [f"{named(n)}, {w}" for n, w in wide.columns]
        caption = f"A share of {part.rate.max():g} of the images comes from {named(listed(part.outside[part.outside != '']))} (open-set), or has a wrong label (symmetric). Test accuracy in percent."
        yield _section(title, note, tables=[_table(wide.reset_index().assign(method=wide.index.map(pretty)), caption)])


# The third paper looks at each class by itself:
def _by_class(results, paper, pattern, panels):
    for scale, title, note, part in _at_scales(results.query(panels), paper, "figure1"):
        known = part[part.metric.str.match(pattern)]
        number = known.metric.str.extract(r"(\d+)\]?$", expand=False).astype(int)
        names = CIFAR10_CLASSES if part.dataset.iloc[0] == "cifar10" else None
        known = known.assign(number=number, who=number.map(lambda c: f"{c} {names[c]}" if names and c < len(names) else f"class {c}"))
        for (method, noise, rate), rows in known.groupby(["method", "noise", "rate"], sort=False):
            said = f"{pretty(method)}, {setting_title(noise, rate)}"
            yield said, f"{title}, {said}", note, rows

def _classes_page(results, paper, table, sides, panels):
    for said, title, note, rows in _by_class(results, paper, r"class_\d+$", panels):
        points = _curve_of(rows, "who")
        last = points[points.epoch == points.epoch.max()]["mean"]
        name = f"{said}: the classes end between {last.min():.0f} and {last.max():.0f} %"
        yield _section(title, figures=[_figure(curves(_range(points), "epoch", "mean", "who", name, "epoch", "test accuracy, %", error="std"), note)])

def _stages_page(results, paper, table, sides, panels):
    for said, title, note, rows in _by_class(results, paper, r"class_\d+$", panels): yield _section(title, figures=[_figure(_stages(rows, said), note)])

def _stages(rows, said):
    stages = {max(1, round(rows.epoch.max() * share / 120)): None for share in (10, 50, 100)}
    means = rows[rows.epoch.isin(stages)].groupby(["who", "epoch"], as_index=False, sort=False).value.mean()
    return bars(means.assign(stage=means.epoch.map("epoch {}".format)), "who", "value", "stage", f"{said}: test accuracy of the classes at three epochs", "class", "test accuracy, %")


# How sure it is of right labels, what it predicts (Figures 4 and 6), and its last layer as a map (Figures 2
# and 7):
def _at_end(rows): return rows[rows.epoch == rows.epoch.max()].groupby(["who", "metric"], sort=False, as_index=False).value.mean()

def _sure_page(results, paper, table, sides, panels):
    counted = {title: rows for _, title, _, rows in _by_class(results, paper, r"(predicted|correct)_\d+$", panels)}
    known = [(said, title, note, _at_end(rows)) for said, title, note, rows in _by_class(results, paper, r"sure_\d+$", panels)]
    for said, title, note, sure in known:
        right = _at_end(counted[title])
        right = right.assign(what=right.metric.str.startswith("correct").map({True: "right", False: "put there"}))
        name = f"{said}: on rightly labelled training images the mean belief in the label is between {sure.value.min():.2f} and {sure.value.max():.2f}"
        figures = [bars(sure, "who", "value", None, name, "class", "mean softmax of the label").update_yaxes(range=[0, 1]),
                   bars(right, "who", "value", "what", f"{said}: training images put into each class, and those that belong there", "class", "images")]
        yield _section(title, figures=[_figure(f, f"{note} Last epoch.") for f in figures])

def _maps_page(results, paper, table, sides, panels):
    shares = pick(results, paper=paper, table="figure1", metric="same_class_neighbours")
    for said, title, note, rows in _by_class(results, paper, r"tsne_\w+\[\d+\]$", panels):
        one = rows[rows.seed == rows.seed.min()].assign(column=rows.metric.str.extract(r"tsne_(\w+)\[", expand=False))
        map_ = one.pivot(index="number", columns="column", values="value")
        share = pick(shares, seed=one.seed.iloc[0], block=one.block.iloc[0], method=one.method.iloc[0]).value.iloc[0]
        name = f"{said}: {share:.0%} of the ten nearest neighbours in the last layer are of the same class"
        names = CIFAR10_CLASSES if one.dataset.iloc[0] == "cifar10" else None
        yield _section(title, figures=[_figure(numbered_points(map_, "x", "y", "class", name, names), f"{note} {len(map_)} test images, the first seed; t-SNE. Each point is the number of its class.")])


# Its parameters, and the parts of the loss (Figures 8 and 9):
def _lines(rows, by, title, note):
    seen = _curve_of(rows[rows.metric == "test_accuracy"].assign(who=by), "who")
    return _figure(curves(_range(seen), "epoch", "mean", "who", title, "epoch", "test accuracy, %", error="std"), note)

def _choices(part):
    one = ["alpha", "A", "seed"]
    values = {"valid_accuracy": "noisy validation accuracy, %", "accuracy_best_valid_accuracy": "test accuracy of that epoch, %", "accuracy_last": "test accuracy, last epoch, %"}
    runs = pd.DataFrame({name: pick(part, metric=m).groupby(one).value.max() for m, name in values.items()})
    means = runs.groupby(one[:2]).mean().reset_index()
    return means.assign(ratio=-means.A / means.alpha).rename(columns=dict(alpha="α", ratio="λ/α"))

def _parameters_page(results, paper, table, sides):
    for scale, title, note, part in _at_scales(results, paper, "figure8"):
        part = part.sort_values(["alpha", "A"], kind="stable")
        groups = [("α", "alpha", "A = −6", part[part.A == -6]), *(("A", "A", f"α = {a:g}", part[part.alpha == a]) for a in (.1, 1))]
        figures = [_lines(rows, f"{sign} = " + rows[by].map("{:g}".format), f"Test accuracy: other {sign}, fixed {fixed}", note) for sign, by, fixed, rows in groups]
        chosen = _choices(part)
        best, test = chosen.loc[chosen["noisy validation accuracy, %"].idxmax()], "test accuracy of that epoch, %"
        text = f"Noisy validation accuracy chooses α = {best['α']:g}, A = {best.A:g}, which has {best[test]:.1f} % on the test set; the best pair has {chosen[test].max():.1f} %."
        yield _section(title, text, figures=figures, tables=[_table(chosen, "β = 1, so λ = −A. " + note)])

PARTS = {"": "the whole", "alpha=0": "RCE alone", "alpha=5, beta=0": "5 × CE", "alpha=0, beta=5": "5 × RCE"}

def _parts_page(results, paper, table, sides):
    for scale, title, note, part in _at_scales(results, paper, "figure9"):
        one = part[part.method.isin(["symmetric_cross_entropy", "cross_entropy"])]
        one = one.assign(what=np.where(one.method == "cross_entropy", "CE alone", one.variant.map(PARTS)))
        all_ = part[part.variant == ""]
        yield _section(title, figures=[_lines(one, one.what, "Figure 9a: the parts of the loss, test accuracy", note), _lines(all_, all_.method, "Figure 9b: all methods, test accuracy", note)])


# The fifth paper reports four numbers a cell; where we ran what it did not, Fashion-MNIST and people's
# labels, they stand together. Its tables of certainty and of parameters are printed beside ours.
FOUR = dict(accuracy_best_valid_accuracy_clean="test, best by clean labels", accuracy_best_valid_accuracy="test, best by noisy labels", accuracy_last="test, last",
            recovery_best="recovery, best", recovery_last="recovery, last")

def _four_page(results, paper, table, sides):
    for grid in ("fashion", "human"):
        for scale, title, note, part in _at_scales(results, paper, grid):
            cells = part[part.metric.isin(FOUR)].groupby(["noise", "rate", "method", "metric"], sort=False).value.agg(["mean", "std"])
            words = pd.Series(map(_plus_minus, cells["mean"], cells["std"]), cells.index).unstack("metric")[list(FOUR)].rename(columns=FOUR).reset_index()
            words = words.sort_values(["noise", "rate", "method"], key=lambda c: c.map({"none": "0"}).fillna(c) if c.name == "noise" else c)
            words = words.assign(setting=[setting_title(*s) for s in words[["noise", "rate"]].to_numpy()], method=words.method.map(pretty))
            yield _section(title, note, tables=[_table(words[["setting", "method", *FOUR.values()]], "Percent; ± one standard deviation. Recovery: of the labels found, or of the network's predictions on the training images.")])

def _certain_page(results, paper, table, sides):
    known = results[(results.paper == paper) & results.metric.str.match(r"(recovery_accuracy|number)\[")]
    split_ = known.metric.str.extract(r"(?P<what>\w+)\[(?P<low>[\d.]+)\]")
    for (scale, dataset, model, noise, rate), part in known.assign(**split_).query("variant == ''").groupby(["scale", "dataset", "model", "noise", "rate"], sort=False):
        wide = part.pivot_table(index="low", columns="what", values="value", sort=False).sort_index(ascending=False).reset_index()
        yield _section(f"{block_title(dataset, model)}, {setting_title(noise, rate)}, scale {scale}", tables=[_table(wide[["low", "number", "recovery_accuracy"]].round(1), "Labels found by how sure they are (from this probability to the next one above), means over seeds.")])


def _label_curves(part, metric, who, title, label):
    rows = part[part.metric == metric]
    return curves(_range(_curve_of(rows.assign(who=who[rows.index]), "who")), "epoch", "mean", "who", title, "epoch", label, error="std")

BOTH = dict(test_accuracy="test accuracy, %", train_loss="training loss")

def _both_curves(part, who, words, note, metrics): return [_figure(_label_curves(part, m, who, f"{words}: {BOTH[m].split(',')[0]}", BOTH[m]), note) for m in metrics]

def _rates_page(results, paper, table, sides, grid, metrics):
    for scale, title, note, part in _at_scales(results, paper, grid):
        who = "learning rate " + part.lr.astype(str) if grid == "figure2" else "r = " + part.rate.map("{:g}".format)
        yield _section(title, figures=_both_curves(part, who, "Cross-entropy on the given labels", note, metrics))

def _hard_page(results, paper, table, sides):
    for scale, title, note, part in _at_scales(results, paper, "figure4"):
        part = part.sort_values(["method", "top"], kind="stable")
        hard = "hard labels, " + part.top.map(lambda k: f"{k:g}" if k else "all")
        who = hard.where(part.method.str.contains("hard"), "soft labels")
        ends = pick(part, metric="accuracy_last").assign(labels=who).groupby("labels", sort=False).value.agg(["mean", "std"])
        words = pd.Series(map(_plus_minus, ends["mean"], ends["std"]), ends.index).reset_index(name="test accuracy, %")
        shown = _label_curves(part, "first_label_accuracy", who, "Right labels in step one; so many hard labels change an epoch", "right labels, %")
        yield _section(title, figures=[_figure(shown, note)], tables=[_table(words, f"After step two, last epoch. {note}")])

def _pseudo_page(results, paper, table, sides, metrics):
    for scale, title, note, part in _at_scales(results, paper, "figure5"):
        who = part.noise.map(named) + part.rate.map(lambda r: f" {r:g}" if r else "") + part.method.map(lambda m: ", updated" if m == "joint_optimization" else "")
        network = listed(part.features) if "features" in part else ""
        yield _section(title, f"Clusters of features of {named(network)}." if network else "", figures=_both_curves(part, who, "Training on given and on updated labels", note, metrics))


def _tuning_page(results, paper, table, sides):
    printed = pd.read_csv(ASSETS/"appendix"/f"{paper}_parameters.csv")
    last = pick(results, paper=paper).query("metric == 'valid_accuracy_clean'").sort_values("epoch").groupby(["scale", "table", "variant", "seed"]).value.last()
    means = last.groupby(["scale", "table", "variant"]).mean()
    for (name, noise, rate), part in printed.groupby(["table", "noise", "rate"], sort=False):
        names, base = _variants(part), part.value == part.varied.map(part[NUMBERS].mode().iloc[0])
        beside = {f"ours, scale {scale}": [means.get((scale, name, "" if usual else v)) for v, usual in zip(names, base)] for scale in sides}
        frame = part[["varied", "value", "valid_accuracy"]].rename(columns=dict(valid_accuracy="paper")).assign(**beside, value=part.value.map("{:g}".format))
        yield _section(f"{named(name)}: CIFAR-10, {setting_title(noise, rate)}", tables=[_table(frame.dropna(axis=1, how="all"), TUNED)])

NUMBERS = ["alpha", "beta", "lr", "label_start", "label_stop"]
TUNED = "Validation accuracy on clean labels, percent, one number changed at a time. Ours: the last epoch of step two; the paper does not say which step. Epochs are the paper's; at a smaller scale ours are in proportion."

def _variants(part):
    longer = (part.varied == "label_stop") & (part.value > 200)
    return part.varied.where(~longer, "first_epochs") + "=" + part.value.map("{:g}".format)


# A section for each setting; a box at the top of the page shows one setting or one method alone.
def _curves_page(results, paper, table, sides):
    for scale in sides:
        points = {m: curve_points(results, m, paper=paper, table=table, scale=scale) for m in ("test_accuracy", "valid_loss")}
        for setting, part in points["test_accuracy"].groupby(SETTING, sort=False):
            note = f"Scale {scale}, mean over n = {span(part.n)} seeds; the band is ± one standard deviation."
            both = {m: p[(p[SETTING] == list(setting)).all(axis=1)] for m, p in points.items()}
            figures = [_figure(training_curves(p, m), note) for m, p in both.items() if len(p)]
            yield _section(f"{block_title(*setting[:2])}, {setting_title(*setting[2:])}, scale {scale}", figures=figures)


# Matrices of more than 40 classes would be unreadable, and are told by their row errors alone:
def _matrix_page(results, paper, table, sides):
    for scale in sides:
        for cell, true, estimated in _matrix_cells(pick(results, paper=paper, table=table, scale=scale, variant="")):
            error = row_error(estimated, true)
            frame = pd.DataFrame({"true class": range(len(error.T)), "row-L1 error, mean": error.mean(0), "largest": error.max(0)})
            heat = [_figure(_heat_maps(true, estimated), f"Scale {scale}, n = {len(estimated)} seeds.", wide=True)] if len(error.T) <= 40 else []
            title = f"{block_title(cell['dataset'], cell['model'])}, {setting_title(cell['noise'], cell['rate'])}, {pretty(cell['method'])}, scale {scale}"
            yield _section(title, figures=heat, tables=[_table(frame, "Distance of the rows of T̂ from the true rows, between 0 and 2.")])


# Where ours differs, with the runs that say why:
def _summary(why):
    tried = why.dropna(subset="mean").assign(before=why.difference.abs(), after=why.left.abs(), closer=why.left.abs() < why.difference.abs())
    frame = tried.groupby("variant", sort=False, as_index=False).agg(cells=("closer", "size"), closer=("closer", "sum"), before=("before", "median"), after=("after", "median"))
    return frame.sort_values("after").rename(columns=dict(closer="closer to the paper", before="median |ours − paper| before", after="after"))

def _why_page(results, paper, table, sides):
    for scale, both in sides.items():
        why = reasons(results, both)
        cells = why.drop_duplicates(CELL)
        text = f"{len(cells)} cells differ by more than 2 points." + (" A row is the cell run again with one thing changed." if why["mean"].notna().any() else "")
        untold = readable(cells[cells["mean"].isna()][[*CELL, "paper_mean", "our_mean", "difference"]])
        told = readable(why.dropna(subset="mean")).rename(columns=dict(paper_mean="paper", our_mean="ours", mean="with the change"))
        every = _summary(reasons(results, both, points=-1))
        frames = [(_summary(why), "What each change does to these cells, in points."), (every, "What it does to all cells that were run with it, in points."), (told, "Every cell and change: percent, and points moved and left."),
                  (untold, "Cells without a run that would explain them.")]
        yield _section(f"Scale {scale}", text, tables=[_table(f, f"{caption} Scale {scale}.") for f, caption in frames if len(f)])


# Provenance, a row a block, and the overview:
def provenance(
    results: pd.DataFrame, # from `read_results`
) -> pd.DataFrame: # one row a block
    "Where the results came from: runs, seeds, commit, versions, machine and seconds of every block."
    rows = results[results.metric == "accuracy"]
    said = {c: (c, listed) for c in ("dataset", "model", "variant", "seed", "samples", "commit", "dirty", "torch", "python", "device", "machine")}
    blocks = rows.groupby(["paper", "table", "scale", "block"], sort=False, as_index=False)
    return blocks.agg(runs=("value", "size"), **said, seconds=("seconds", span))


# On its page the columns have words for names:
def _provenance_page(results, paper, table, sides):
    text = "One row is one result file. Seconds are those of a run, from the fastest to the slowest."
    blocks = _readable_blocks(provenance(pick(results, paper=paper)))
    if sides: yield _section("Blocks", text if len(blocks) else "No results yet.", tables=[_table(blocks, "Where the results came from.")] if len(blocks) else [])

def _readable_blocks(blocks):
    blocks = blocks.assign(samples=blocks.samples.replace("0", "all"))
    tree = blocks.dirty.map(dict(zip(("True", "False"), ("yes", "no")))).fillna("not said").rename("uncommitted changes")
    return pd.concat([blocks[["block", "table", "scale", "dataset", "model", "variant"]], blocks.loc[:, "runs":].drop(columns=["dataset", "model", "variant", "dirty"]), tree], axis=1)


# The overview says what was run, and how close it is, for each table and each block:
INTRO = ("Every cell of the published tables beside ours. Scales are never mixed: smoke takes seconds, laptop minutes, paper is the paper's own protocol.")

def _overview(sides):
    frame = pd.DataFrame([identity(both) | score(both) for both in sides])
    said = [f"{named(c.paper)}, {named(c.table)}: {c.cells} of {c.of} cells" + (f", at scale {c.scale}." if c.cells else ".") for c in frame.itertuples()]
    note = "“Within 2 ±”: ours lies within two of the paper's standard deviations, where the paper prints one."
    tables = [(frame, "Coverage: what of each published table was run, at which scale, and how close it is."), (_by_block(sides), "The same for each block.")]
    yield _section("What has been reproduced", INTRO, *said, note, tables=[_table(pd.DataFrame(map(told, f.itertuples())), c) for f, c in tables if len(f)])

def _by_block(sides):
    parts = [(block, part) for both in sides for block, part in both.groupby(["dataset", "model"], sort=False) if part.our_n.notna().any()]
    return pd.DataFrame([identity(part) | dict(table=block_title(*block)) | score(part) for block, part in parts])


# The templates escape whatever a name may hold:
@cache
def template(
    name: str, # of a file in `assets/report`
) -> jinja2.Template: # which escapes what it is given
    "A template of the report."
    loader = jinja2.FileSystemLoader(ASSETS/"report", encoding="utf-8")
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(name)


# `write_report` renders them. Each file is written whole or not at all.
PAGES = [("curves", "Training curves", _curves_page), ("matrices", "T̂ beside T", _matrix_page),
         ("differences", "Differences over 2 points", _why_page), ("provenance", "Provenance", _provenance_page)]
FIGURES = {
    ("patrini2017", "table2"): [("figure1", "Figure 1", _figure1_page)],
    ("zhang2018", "table1"): [("figure1", "Figure 1", _beliefs_page), ("figure2", "Figure 2: which q", _q_page)],
    ("zhang2018", "table2"): [("open_set", "Open-set noise, ours", _open_set_page)],
    ("wang2019", "table1"): [
        ("figure1", "Figure 1: class by class", partial(_classes_page, panels="rate < .5")),
        ("figure2", "Figure 2: the last layer", partial(_maps_page, panels="rate < .5")),
        ("figure3", "Figure 3: three epochs", partial(_stages_page, panels="rate < .5 and method == 'cross_entropy'")),
        ("figure4", "Figure 4: confidence of cross-entropy", partial(_sure_page, panels="method == 'cross_entropy'")),
        ("figure5", "Figure 5: class by class, more noise", partial(_classes_page, panels="rate > .5")),
        ("figure6", "Figure 6: confidence of symmetric learning", partial(_sure_page, panels="method != 'cross_entropy'")),
        ("figure7", "Figure 7: the last layer, more noise", partial(_maps_page, panels="rate > .5")),
        ("figure8", "Figure 8: parameters", _parameters_page), ("figure9", "Figure 9: parts", _parts_page)],
    ("tanaka2018", "table1"): [
        ("figure2", "Figure 2: learning rates", partial(_rates_page, grid="figure2", metrics=["test_accuracy"])),
        ("figure3", "Figure 3: noise rates", partial(_rates_page, grid="figure3", metrics=["train_loss", "test_accuracy"])),
        ("figure4", "Figure 4: hard and soft labels", _hard_page),
        ("figure5", "Figure 5: pseudo-labels, accuracy", partial(_pseudo_page, metrics=["test_accuracy"])),
        ("figure6", "Figure 6: pseudo-labels, loss", partial(_pseudo_page, metrics=["train_loss"])),
        ("table6", "Tables 6 to 11: parameters", _tuning_page), ("table12", "Tables 12, 13: sure labels", _certain_page),
        ("ours", "Fashion-MNIST and people's labels, ours", _four_page)]}

def _save(path, text):
    if path.exists() and path.read_text(encoding="utf-8") == text: return
    with whole_file(path) as part: part.write_text(text, encoding="utf-8")

def _in_order(results, paper, table):
    place = pd.MultiIndex.from_frame(published(paper, table)[CELL]).get_indexer(pd.MultiIndex.from_frame(results[CELL]))
    return results.iloc[np.argsort(np.where(place < 0, len(results), place), kind="stable")]

def _pages(results, sides):
    grids = {of: published(*of).grid.iloc[0] for of in published_tables()}
    for paper, table in (of for of, grid in grids.items() if of[1] == grid):
        results = _in_order(results, paper, table)
        run = {scale: both for scale, both in _own(sides, paper, table).items() if both.our_n.notna().any()}
        parts = [t for (p, t), grid in grids.items() if (p, grid) == (paper, table)]
        tables = [section for t in parts for section in _table_page(results, paper, t, _own(sides, paper, t))]
        yield dict(file=f"{paper}_{table}.html", title=named(table), paper=named(paper), sections=tables)
        for name, title, build in FIGURES.get((paper, table), []) + PAGES:
            sections = list(build(results, paper, table, run))
            if sections: yield dict(file=f"{paper}_{table}_{name}.html", title=title, paper=named(paper), sections=sections)

def _own(sides, paper, table): return {both.scale.iloc[0]: both for both in sides if tuple(both[["paper", "table"]].iloc[0]) == (paper, table)}


# Tables that come from the same runs share a page. Pages follow the order of the paper, whatever the order
# of the files.
def write_report(
    results: pd.DataFrame, # from `read_results`
    folder: str | Path, # where the pages go; made if missing
    scale: str | None = None, # one scale; every scale, each in its own sections, if none
) -> Path: # index.html
    "Write the report as a folder of HTML pages that opens offline."
    expect(scale is None or scale in {*SCALES, *results.scale}, "scale", f"one of {', '.join(SCALES)}", scale)
    folder, results = Path(folder), results if scale is None else pick(results, scale=scale)
    sides = all_sides(results)
    pages = [dict(file="index.html", title="Overview", paper="", sections=list(_overview(sides))), *_pages(results, sides)]
    page = template("page.html")
    for name in ("report.css", "parts.css", "report.js"): _save(folder/name, (ASSETS/"report"/name).read_text(encoding="utf-8"))
    _save(folder/"plotly.min.js", get_plotlyjs())
    nav = [(paper, list(own)) for paper, own in groupby(pages, key=lambda p: p["paper"])]
    for this in pages: _save(folder/this["file"], page.render(page=this, nav=nav))
    return folder/"index.html"


# The command

# `make run` and `make report` end here: `python -m noisy_course.lab.report patrini2017 table2 --dataset mnist`.
# It looks in your own results first, then in those that come with the repository.
def _folders():
    home = (data.settings_file() or Path("settings.ini")).parent
    return [f for f in dict.fromkeys((results_folder().resolve(), (home/"results").resolve())) if f.is_dir()]

def _show(given, results):
    if given.paper and (given.paper, given.table) in published_tables(): print(terminal_table(results, given.paper, given.table, given.scale, given.dataset))
    elif given.paper: print(f"{given.paper} {given.table} has no published numbers; the report shows what it has to do with the others.")
    print(f"\nreport:             {write_report(results, given.site).resolve()}")
    notebooks = results_folder()/"notebooks"
    if notebooks.is_dir(): print(f"executed notebooks: {notebooks.resolve()}")


# A mistake on the command line is told in one line, without a traceback:
def main(
    argv: Sequence[str] | None = None, # the words after the program's name
) -> None:
    "Show a table beside the paper's and write the pages: python -m noisy_course.lab.report [PAPER TABLE] [--dataset mnist] [--site FOLDER]"
    parser = argparse.ArgumentParser(prog="python -m noisy_course.lab.report", description="Paper beside ours, from results that are there.")
    for name in ("paper", "table"): parser.add_argument(name, nargs="?", help=f"the {name} to show in the terminal")
    parser.add_argument("--dataset", help="show only this data set")
    parser.add_argument("--scale", default=data.setting("scale", "laptop"), help="the scale to show in the terminal")
    parser.add_argument("--results", type=Path, nargs="+", help="folders of results")
    parser.add_argument("--site", type=Path, default=results_folder()/"report", help="folder of the pages")
    given = parser.parse_args(argv)
    try: _show(given, read_results(given.results or _folders()))
    except (ValueError, OSError) as error: raise SystemExit(str(error)) from None


if __name__ == "__main__": main()
