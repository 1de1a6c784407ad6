"""Parts of a page from results: curves, tables and figures as plain values, which the templates draw."""
import json

import pandas as pd
import plotly.graph_objects as go

from noisy_course.basics import pick
from noisy_course.lab.cells import block_title, listed, named, number
from noisy_course.lab.results import CELL
from noisy_course.plots import curves, pretty


def banded(
    points, # with a column std
):
    "Points whose band is empty where there was one run."
    return points.assign(std=points["std"].fillna(0))


# Training curves are the same with epochs. They show what the selected epoch hides: a method that first
# learns the task and then the wrong labels.
METRICS = dict(valid_loss="loss on the noisy validation set",
               valid_accuracy="accuracy on the noisy validation set")

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
    finding = (f"{pretty(last.idxmax())} ends highest, at {last.max():.1f} %" if accuracy
               else "compare the shapes, not the heights")
    return curves(banded(points), "epoch", "mean", "method", f"{label.capitalize()}: {finding}", "epoch",
                  label + ", %" * accuracy, error="std")


# Pages

# The report is a folder of HTML pages that opens without internet: one style sheet, one script, plotly once
# beside them. A page is a list of sections; a section has text, tables, *grids* (paper, ours and difference
# for a block) and figures. Python says what is on a page, the templates in `assets/report` how it looks.
# First, tables and figures as plain values:
def _words(column):
    if not pd.api.types.is_numeric_dtype(column): return column.astype(str).tolist()
    known = column.dropna().abs()
    return [number(x, ".0f" if (known % 1 == 0).all() else ".2f"
                   if (known >= .01).where(known > 0, True).all() else "g") for x in column]

def frame_table(
    frame, # a data frame
    caption, # text
):
    "A data frame as a table of a page."
    numeric = [pd.api.types.is_numeric_dtype(t) for t in frame.dtypes]
    return dict(caption=caption, head=[str(c).replace("_", " ") for c in frame],
                rows=list(zip(*(_words(frame[c]) for c in frame))), numeric=numeric)

def drawn(
    fig, # of plotly
    note="", # below it
    wide=False, # as wide as the page
):
    "A figure as a value that the page's script draws."
    spec = json.loads(fig.to_json())
    layout = ({k: v for k, v in spec["layout"].items() if k not in ("title", "width", "height")}
              | dict(autosize=True))
    layout["margin"]["t"] = 50 if wide else 20
    text = json.dumps(dict(data=spec["data"], layout=layout), ensure_ascii=False).replace("<", "\\u003c")
    tall = fig.layout.height if (fig.layout.height or 0) > 500 else None
    return dict(caption=fig.layout.title.text.replace("<br>", " "), note=note, wide=wide, tall=tall,
                json=text)

def section(
    title, # text
    *text, # paragraphs
    tables=(), # from `frame_table`
    grids=(), # paper, ours and difference
    figures=(), # from `drawn`
    level=2, # of the heading
    fold=False, # whether it opens with a click
):
    "A section of a page."
    return dict(title=title, text=[t for t in text if t], tables=list(tables), grids=list(grids),
                figures=list(figures), level=level, fold=fold)


def plus_minus(
    mean, # a number
    std, # NaN for one run
):
    "A mean with its spread, in words."
    return "" if pd.isna(mean) else number(mean) + ("" if pd.isna(std) else f" ± {std:.1f}")


def curve_of(
    rows, # of one metric
    by, # a column that tells lines apart
):
    "Mean and std at each epoch."
    return rows.dropna(subset="epoch").groupby([by, "epoch"], sort=False,
        as_index=False).value.agg(["mean", "std"])


def at_scales(
    results, # from `read_results`
    paper, # its key
    table, # of it
):
    "The runs of a table, for each scale, data set and network: scale, title, note, rows."
    rows = pick(results, paper=paper, table=table)
    for (scale, dataset, model), part in rows.groupby(["scale", "dataset", "model"], sort=False):
        ours, n = listed(part.network[part.network != ""]) or model, part.seed.nunique()
        note = (f"Scale {scale}; {n} {'seed' if n == 1 else 'seeds'}."
                + (f" The paper has another network: {named(model)}." if ours != model else ""))
        yield scale, f"{block_title(dataset, ours)}, scale {scale}", note, part
