"""What was found, in words and one picture a paper: the overview opens with it."""
from collections.abc import Iterator

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from noisy_course.basics import SETTING
from noisy_course.lab.cells import block_title, named, number, orderings, setting_title
from noisy_course.lab.comparison import findings, runs_each, which_table
from noisy_course.lab.papers import FINDINGS, NOTES, PAPERS
from noisy_course.lab.sections import drawn, frame_table, section
from noisy_course.plots import method_styles, pretty


# Three kinds of cells

# A cell at the paper's scale asks whether its number comes out again. A miniature has fewer images or epochs,
# and mostly another network: of that the orderings of methods can be compared, not the numbers.
KINDS = {"paper": "the paper's scale", "laptop": "a laptop's scale", "stand-in": "another network"}

def cells_of(
    sides: list, # of one paper, from `all_sides`
) -> pd.DataFrame: # the cells that were run, smoke aside, with their `kind`; a method under two names once
    "Every cell of a paper beside ours."
    rows = pd.concat([both[both.our_n.notna() & (both.same_as == "")] for both in sides])
    rows = rows[rows.scale != "smoke"]
    kind = np.where(rows.network.fillna("") != "", "stand-in", rows.scale)
    return rows.assign(kind=pd.Series(kind, rows.index).map(KINDS))

def ranked(
    sides: list, # of one paper, from `all_sides`
) -> pd.DataFrame: # one row a pair that the paper tells apart: kind, outcome
    "What became of the orderings of a paper."
    pairs = []
    for both in sides:
        kinds = cells_of([both]).drop_duplicates(SETTING).set_index(SETTING).kind
        found = orderings(both).query("outcome != 'not run'")
        pairs.append(found.assign(kind=[kinds.get(tuple(s)) for s in found[SETTING].to_numpy()]))
    return pd.concat(pairs).dropna(subset="kind")


# In words

def _percent(part, whole): return f"{part} of {whole} ({part / whole:.0%})"

def sentences(
    sides: list, # of one paper, from `all_sides`
) -> list[str]: # one for each kind of cells
    "How close ours is to a paper."
    cells, pairs = cells_of(sides), ranked(sides)
    return [_sentence(kind, cells[cells.kind == kind], pairs[pairs.kind == kind].outcome)
            for kind in KINDS.values() if (cells.kind == kind).any()]

def _sentence(kind, cells, outcomes):
    held, turned = ((outcomes == outcome).sum() for outcome in ("holds", "reversed"))
    near = (f", with a median difference of {number(cells.difference.abs().median())} points"
            if kind != KINDS["stand-in"] else "")
    order = (f"; of the paper's orderings of methods {_percent(held, len(outcomes))} hold and {turned} are "
             "reversed" if len(outcomes) else "")
    return f"{kind.capitalize()}: {len(cells)} cells were run, {runs_each(cells.our_n)}{near}{order}."


# Each setting counts once, at the largest scale that it was run at. Where it fails, the number of the claim
# is beside the setting: what is compared with the limit that the table's own page gives.
def conclusions(
    sides: list, # of one paper, from `all_sides`
) -> pd.DataFrame: # one row a conclusion and table
    "What a paper concludes, and whether it holds in ours."
    found = []
    for both in sides:
        paper, table, scale = which_table(both).values()
        if (paper, table) in FINDINGS and scale != "smoke" and both.our_n.notna().any():
            found.append(findings(both).assign(table=table))
    if not found: return pd.DataFrame()
    return pd.DataFrame([_concluded(table, claim, part) for (table, claim), part
                         in pd.concat(found).groupby(["table", "claim"], sort=False)])

def _concluded(table, claim, part):
    printed, run = part.drop_duplicates(SETTING), part[part.ours_holds != "not run"].drop_duplicates(SETTING)
    held, failed = (run[(run.ours_holds == verdict) & run.decided] for verdict in ("yes", "no"))
    open_ = len(run) - len(held) - len(failed)
    return {"it concludes": claim, "table": named(table),
            "in its own table": f"{(printed.paper_holds == 'yes').sum()} of {len(printed)} settings",
            "in ours": f"{len(held)} of {len(run)}" + (f", {open_} undecided" if open_ else ""),
            "so it": _word(len(held), len(failed), len(run)), "it fails at (in points)": _where(failed)}

def _word(held, failed, of):
    if not of: return "was not run"
    if 2 * failed > of: return "does not hold"
    return "holds" if held == of else "holds mostly" if 2 * held > of else "is undecided"

def _where(failed):
    rates = [(block_title(f.dataset, f.model), f"{setting_title(f.noise, f.rate)} ({number(f.ours)})")
             for f in failed.itertuples()]
    return "; ".join(f"{block}: {', '.join(rate for of, rate in rates if of == block)}"
                     for block in dict.fromkeys(block for block, _ in rates))


# In a picture

def cloud(
    paper: str, # its key
    sides: list, # of this paper, from `all_sides`
) -> go.Figure: # a point a cell, a colour and shape for each kind
    "Every cell of a paper against ours."
    cells, styles = cells_of(sides), method_styles(KINDS.values())
    ends = [cells[["paper_mean", "our_mean"]].min().min(), cells[["paper_mean", "our_mean"]].max().max()]
    line = go.Scatter(x=ends, y=ends, mode="lines", name="both agree", hoverinfo="skip", line_color="#777777")
    fig = go.Figure([line, *(_points(kind, part, styles[kind])
                             for kind, part in cells.groupby("kind", sort=False))])
    title = f"{named(paper)}: {_claim(cells, ranked(sides).outcome)}"
    return fig.update_layout(template="simple_white", title_text=title, height=440, margin=dict(t=20),
                             xaxis_title="accuracy in the paper, %", yaxis_title="ours, %")

def _points(kind, cells, style):
    places = [f"{pretty(c.method)}: {block_title(c.dataset, c.model)}, {setting_title(c.noise, c.rate)}"
              for c in cells.itertuples()]
    return go.Scatter(x=cells.paper_mean, y=cells.our_mean, mode="markers", name=kind, text=places,
                      marker=dict(color=style["color"], symbol=style["symbol"], size=8),
                      hovertemplate="%{text}<br>paper %{x:.1f}, ours %{y:.1f}")

def _claim(cells, outcomes):
    full = cells[cells.kind == KINDS["paper"]]
    near = (full.difference.abs() <= 2).sum()
    if len(full): return f"{near} of {len(full)} cells at its scale within 2 points"
    return f"{_percent((outcomes == 'holds').sum(), len(outcomes))} of its orderings hold"


def opening(
    sides: list, # from `all_sides`
) -> Iterator[dict]: # a section a paper
    "What was found, paper by paper."
    for paper in PAPERS:
        own = [both for both in sides if both.paper.iloc[0] == paper]
        if not own or cells_of(own).empty: continue
        found = conclusions(own)
        tables = [frame_table(found, "What it concludes, counted over settings.")] if len(found) else []
        yield section(named(paper), NOTES.get(paper, ""), *sentences(own), tables=tables,
                      figures=[drawn(cloud(paper, own), "Each point is a cell; on the line both agree.")],
                      level=3)
