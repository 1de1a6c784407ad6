"""Pages about results: every cell of the papers beside ours, the figures, and where numbers come from."""
import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from noisy_course import data
from noisy_course.basics import SETTING, pick, require
from noisy_course.lab.cells import (OUTCOMES, block_title, cell_means, listed, named, number,
                                    orderings, published, setting_title, span, stand_in)
from noisy_course.lab.comparison import (all_sides, by_table, calibration, findings, in_place, in_words,
                                         published_tables, readable, reasons, score, terminal_table,
                                         verdict, which_table)
from noisy_course.lab.found import opening
from noisy_course.lab.pages import Page, draw, write_pages
from noisy_course.lab.papers import CONCLUSIONS, FIGURES, FINDINGS, NOTES, PAPERS, add_file
from noisy_course.lab.results import CELL, SCALES, read_results, results_folder
from noisy_course.lab.sections import curve_points, drawn, frame_table, plus_minus, section, training_curves
from noisy_course.plots import matrices, pretty


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
    return entries.pivot(index="seed", columns=["i", "j"],
                         values="value").sort_index(axis=1).to_numpy().reshape(entries.seed.nunique(), n, n)


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
    title = (f"T̂ is off by {error.mean():.2f} a row on average, by {error.max():.2f} at worst (row "
             f"{error.argmax()})")
    return matrices([true.mean(0), estimated.mean(0)], ["true T", f"T̂, mean of {len(estimated)} runs"],
                    title)

# What backward correction does with it depends on how far its inverse enlarges an error:
def _conditions(true, estimated, accuracies):
    conditions, exact = np.linalg.cond(estimated), np.linalg.cond(true[0])
    text = (f"The condition number of T̂ is {number(conditions.min())} to {number(conditions.max())}, that "
            f"of T {number(exact)}.")
    if conditions.max() < 10 or not len(accuracies): return text
    runs = ", ".join(number(a) for a in accuracies)
    return (text
            + " Backward correction multiplies losses by T̂⁻¹, and enlarges errors by up to that much: its "
            f"runs report {runs} % here.")

def _matrix_cells(rows):
    known = rows[rows.metric.str.match(r"(estimated|true)_T\[")]
    for cell, part in known.groupby(CELL, sort=False):
        true, estimated = transitions(part, "true_T"), transitions(part, "estimated_T")
        if len(true) == len(estimated) > 0: yield dict(zip(CELL, cell)), true, estimated


# A cell of a grid shows three things, and tells where ours came from when the pointer rests on it.
def _origin(r):
    if pd.isna(r.our_n): return "not run"
    tree = dict(zip(("True", "False"), (" with uncommitted changes", ""))).get(r.dirty, "")
    parts = [*([f"network: {named(r.network)}"] if r.network else []), f"scale {r.scale}",
            f"n = {r.our_n:.0f}", f"seeds {r.seed}",
            "all samples" if r.samples == "0" else f"{r.samples} samples",
            f"realised noise rate {number(r.realised_rate, '.4f')}", f"commit {r.commit}{tree}",
            f"torch {r.torch}", f"Python {r.python}", r.device, r.machine, f"{r.seconds} s"]
    return "; ".join(parts)


# Stars, bold and the two kinds of marks are decided here; the template only writes them.
def grid_cell(
    r, # a row of `side_by_side`, from `itertuples`
):
    "A published cell beside ours, as the templates draw it."
    return dict(paper=plus_minus(r.paper_mean, r.paper_std), dagger=r.dagger, paper_star=r.paper_star,
                paper_bold=r.paper_bold, ours=plus_minus(r.our_mean, r.our_std), our_star=r.our_star,
                our_bold=r.our_bold, difference=number(r.difference, "+.1f"), significant=r.p < .05,
                far=abs(r.difference) > 2, p=number(r.p, ".2g"), origin=_origin(r))

def _grid(block, part):
    n = {who: span(part[f"{who}_n"]) or "none" for who in ("paper", "our")}
    ours = f" Scale of ours: {part.scale.iloc[0]}, n = {n['our']}" if n["our"] != "none" else " Not run"
    other = f"; {stand_in(part)}." if stand_in(part) else "."
    caption = (f"{block_title(*block)}: test accuracy in percent. n = "
               f"{n['paper'] if n['paper'] != 'none' else 'not said'} in the paper.{ours}{other}")
    settings = list(dict.fromkeys(zip(part.noise, part.rate)))
    rows = [dict(method=pretty(m), cells=_grid_row(own, settings))
            for m, own in part.groupby("method", sort=False)]
    return dict(caption=caption, settings=[setting_title(*s) for s in settings], rows=rows)

def _grid_row(rows, settings):
    found = {(r.noise, r.rate): grid_cell(r) for r in rows.itertuples()}
    return [found.get(s) for s in settings]


# Now the pages, one function each. The table page has the grids, the orderings and the findings:
def _grids(both):
    blocks = [(part.our_n.notna().any(), _grid(block, part))
              for block, part in both.groupby(["dataset", "model"], sort=False)]
    done, rest = ([g for ok, g in blocks if ok == want] for want in (True, False))
    note = "Rest the pointer on a cell of ours to see its origin; the provenance page has it too."
    idle = [f"{pretty(m)} never came to act in so few epochs: its runs are those of {pretty(other)}, to the "
            "last bit. They are shown, and counted nowhere."
            for m, other in both[both.same_as != ""].groupby("method", sort=False).same_as.first().items()]
    if done: yield section("Paper | ours | difference", LEGEND, note, *idle, grids=done, level=3)
    if rest:
        yield section(f"Not run at this scale: {len(rest)} {'block' if len(rest) == 1 else 'blocks'}",
                      grids=rest, level=3, fold=bool(done))


# The legend says every rule that the table follows:
LEGEND = ("Difference is ours − paper, in points. Bold: the best, and all that Welch's t-test at 5 % cannot "
          "tell from it (single runs: in the paper within 0.5 points, in ours by the spread seen at that "
          "scale). "
          "★: a correction with the true T that beats all others; the bold is then among the rest. † is the "
          "paper's. "
          "An outlined difference is significant (Welch, 5 %); a filled one is larger than 2 points. A "
          "printed ± " "0.0 counts as 0.05 in tests.")


RULE = ("An ordering holds, or is reversed, where the 95 % interval of ours leaves out 0: Welch's interval "
        "for cells with several runs; a single run borrows the "
        "pooled standard deviation that its method has in the cells with several runs at the same scale, or "
        "that all methods have.")

# Orderings are counted for each setting; those that come out reversed are listed one by one.
def _counts(order):
    counts = readable(order).groupby(["block", "setting", "outcome"], sort=False).size().unstack(fill_value=0)
    return counts.reindex(columns=OUTCOMES[:4], fill_value=0).reset_index()

def _orders(both, scale):
    order = orderings(both).query("outcome != 'not run'")
    turned = readable(order[order.outcome == "reversed"]).drop(columns="outcome")
    held, turned_round = ((order.outcome == outcome).sum() for outcome in ("holds", "reversed"))
    text = (f"Of {len(order)} orderings that the paper tells apart {held} hold in ours, {turned_round} are "
            f"reversed, and {len(order) - held - turned_round} are undecided. {RULE}")
    tables = ([frame_table(_counts(order),
                           "Orderings of methods that the paper tells apart, and what became of them. Scale "
                           f"{scale}.")] if len(order) else [])
    tables += ([frame_table(turned,
                            "Orderings that come out reversed, and significantly. Differences in points. "
                            f"Scale {scale}.")] if len(turned) else [])
    yield section("Which orderings hold", text, tables=tables, level=3)


# What the paper concludes closes the page, where we have put it in numbers.
def _found(both, of, scale):
    found = findings(both)
    frame = readable(found.drop(columns="limit").assign(limit=found.limit))
    frame = frame.rename(columns=dict(paper="paper, points", ours="ours, points"))
    tables = [frame_table(counted(found),
                          "What the paper concludes, and in how many settings it holds. Scale of ours: "
                          f"{scale}."), frame_table(frame, "The same, setting by setting.")]
    yield section("What the paper concludes", CONCLUSIONS[of], tables=tables, level=3, fold=True)

def _held(verdicts): return f"{(verdicts == 'yes').sum()} of {(verdicts != 'not run').sum()}"

def counted(
    found, # from `findings`
): # a row a claim: in how many settings it holds in the paper's table, and in ours
    "The conclusions of a paper, counted over settings."
    both = {who: (f"{who}_holds", _held) for who in ("paper", "ours")}
    return found.groupby(["finding", "claim"], sort=False).agg(**both).reset_index()

def _table_page(paper, table, sides, notes):
    for scale, both in sides.items():
        part = "" if table == both.grid.iloc[0] else f"{named(table)}. "
        yield section(part + (f"Scale {scale}: {both.our_n.notna().sum()} of {len(both)} cells" if scale
                              else f"Not run: {len(both)} cells"),
                      notes.get(paper, ""), *verdict(both, sides.get("paper")))
        yield from _grids(both)
        if scale: yield from _orders(both, scale)
        if scale and (paper, table) in FINDINGS: yield from _found(both, (paper, table), scale)


# A section for each setting; a box at the top of the page shows one setting or one method alone.
def _curves_page(results, paper, table, sides):
    for scale in sides:
        points = {m: curve_points(results, m, paper=paper, table=table, scale=scale)
                  for m in ("test_accuracy", "valid_loss")}
        for setting, part in points["test_accuracy"].groupby(SETTING, sort=False):
            note = f"Scale {scale}, mean over n = {span(part.n)} seeds; the band is ± one standard deviation."
            both = {m: p[(p[SETTING] == list(setting)).all(axis=1)] for m, p in points.items()}
            figures = [drawn(training_curves(p, m), note) for m, p in both.items() if len(p)]
            yield section(f"{block_title(*setting[:2])}, {setting_title(*setting[2:])}, scale {scale}",
                          figures=figures)


# Matrices of more than 40 classes would be unreadable, and have their row errors alone:
def _matrix_page(results, paper, table, sides):
    for scale in sides:
        own = pick(results, paper=paper, table=table, scale=scale, variant="")
        for cell, true, estimated in _matrix_cells(own):
            error = row_error(estimated, true)
            frame = pd.DataFrame({"true class": range(len(error.T)), "row-L1 error, mean": error.mean(0),
                                  "largest": error.max(0)})
            heat = ([drawn(_heat_maps(true, estimated), f"Scale {scale}, n = {len(estimated)} seeds.",
                           wide=True)] if len(error.T) <= 40 else [])
            title = (f"{block_title(cell['dataset'], cell['model'])}, "
                     f"{setting_title(cell['noise'], cell['rate'])}, {pretty(cell['method'])}, scale {scale}")
            accuracies = pick(own, metric="accuracy", **cell).sort_values("seed").value
            words = _conditions(true, estimated, accuracies if cell["method"] == "backward_estimated" else ())
            yield section(title, words, figures=heat,
                          tables=[frame_table(frame,
                "Distance of the rows of T̂ from the true rows, between 0 and 2.")])


# Where ours differs, with the runs that say why:
def _summary(why):
    tried = why.dropna(subset="mean").assign(before=why.difference.abs(), after=why.left.abs(),
        closer=why.left.abs() < why.difference.abs())
    frame = tried.groupby("variant", sort=False, as_index=False).agg(cells=("closer", "size"),
        closer=("closer", "sum"), before=("before", "median"), after=("after", "median"))
    return frame.sort_values("after").rename(columns=dict(closer="closer to the paper",
        before="median |ours − paper| before", after="after"))

def _why_page(results, paper, table, sides):
    for scale, both in sides.items():
        why = reasons(results, both)
        cells = why.drop_duplicates(CELL)
        text = (f"{len(cells)} cells differ by more than 2 points."
                + (" A row is the cell run again with one thing changed." if why["mean"].notna().any()
                   else ""))
        unexplained = readable(cells[cells["mean"].isna()][[*CELL, "paper_mean", "our_mean", "difference"]])
        explained = readable(why.dropna(subset="mean")).rename(
            columns=dict(paper_mean="paper", our_mean="ours", mean="with the change"))
        every = _summary(reasons(results, both, points=-1))
        frames = [(_summary(why), "What each change does to these cells, in points."),
                  (every, "What it does to all cells that were run with it, in points."),
                  (explained, "Every cell and change: percent, and points moved and left."),
                  (unexplained, "Cells without a run that would explain them.")]
        yield section(f"Scale {scale}", text,
                      tables=[frame_table(f, f"{caption} Scale {scale}.") for f, caption in frames if len(f)])


# Provenance, a row a block, and the overview:
def provenance(
    results: pd.DataFrame, # from `read_results`
) -> pd.DataFrame: # one row a block
    "Where the results came from: runs, seeds, commit, versions, machine and seconds of every block."
    rows = results[results.metric == "accuracy"]
    columns = {c: (c, listed) for c in ("dataset", "model", "variant", "seed", "samples", "commit", "dirty",
                                     "torch", "python", "device", "machine")}
    blocks = rows.groupby(["paper", "table", "scale", "block"], sort=False, as_index=False)
    return blocks.agg(runs=("value", "size"), **columns, seconds=("seconds", span))


# On its page the columns have words for names:
def _provenance_page(results, paper, table, sides):
    text = "One row is one result file. Seconds are those of a run, from the fastest to the slowest."
    blocks = _readable_blocks(provenance(pick(results, paper=paper)))
    if sides:
        yield section("Blocks", text if len(blocks) else "No results yet.",
                      tables=[frame_table(blocks, "Where the results came from.")] if len(blocks) else [])

def _readable_blocks(blocks):
    blocks = blocks.assign(samples=blocks.samples.replace("0", "all"))
    tree = blocks.dirty.map(dict(zip(("True", "False"),
                                     ("yes", "no")))).fillna("not said").rename("uncommitted changes")
    return pd.concat([blocks[["block", "table", "scale", "dataset", "model", "variant"]],
                      blocks.loc[:, "runs":].drop(columns=["dataset", "model", "variant", "dirty"]), tree],
                     axis=1)


# The overview says what was run, and how close it is, for each table and each block:
INTRO = ("Every cell of the published tables beside ours. Scales are never mixed: smoke takes seconds, "
         "laptop minutes to an hour, paper is the paper's own protocol.")

def overview(
    sides: list, # from `all_sides`
) -> dict: # from `section`
    "What of each published table was run, and how close it is."
    frame = pd.DataFrame([which_table(both) | score(both) for both in sides])
    note = ("“Within 2 ±”: ours lies within two of the paper's standard deviations, where the paper prints "
            "one.")
    tables = [(frame, "Coverage: what of each published table was run, at which scale, and how close it is."),
              (_by_block(sides), "The same for each block.")]
    return section("What has been reproduced", INTRO, note,
                   tables=[frame_table(pd.DataFrame(map(in_words, f.itertuples())), c) for f, c in tables
                           if len(f)])

def _by_block(sides):
    parts = [(block, part) for both in sides for block, part in both.groupby(["dataset", "model"], sort=False)
             if part.our_n.notna().any()]
    return pd.DataFrame([which_table(part) | dict(table=block_title(*block)) | score(part)
                         for block, part in parts])


# How a laptop's scale was chosen, on the page of the table that it was chosen for:
def _chosen_page(results, paper, table, sides):
    tried = calibration(results, paper)
    if tried.empty or table != next(t for p, t in published_tables() if p == paper): return
    for block, part in tried.groupby(["dataset", "model"], sort=False):
        yield section(block_title(*block), CHOSEN, tables=[frame_table(
            _candidates(part.sort_values("rate", kind="stable")),
            "Cross-entropy in the paper, and trained in each way, percent.")])

CHOSEN = ("Only cross-entropy was looked at when this was chosen. An accuracy is the one that the table "
          "reports; that of the best epoch stands in brackets.")

def _candidates(tried):
    tried = tried.assign(setting=[setting_title(*s) for s in tried[["noise", "rate"]].to_numpy()],
                         cell=[f"{number(r.ours)} (best {number(r.best)})" for r in tried.itertuples()],
                         variant=tried.variant.str.removeprefix("network=, "),
                         distance=(tried.ours - tried.printed).abs())
    frame = tried.pivot(index="variant", columns="setting", values="cell")[tried.setting.unique()]
    printed = tried.drop_duplicates("setting").set_index("setting").printed.map(number)
    printed = printed.to_frame("the paper").T
    far = {"mean |ours − paper|": tried.groupby("variant").distance.mean()}
    both = pd.concat([printed.assign(**dict.fromkeys(far, 0.)), frame.assign(**far).sort_values(*far)])
    return both.rename_axis("candidate").reset_index()


# Tables that come from the same runs share a page. Pages follow the order of the paper, whatever the order of
# the files.
PAGES = [("curves", "Training curves", _curves_page), ("matrices", "T̂ beside T", _matrix_page),
         ("candidates", "How the laptop's scale was chosen", _chosen_page),
         ("differences", "Differences over 2 points", _why_page),
         ("provenance", "Provenance", _provenance_page)]

def _in_order(results, paper, table):
    place = pd.MultiIndex.from_frame(published(paper,
        table)[CELL]).get_indexer(pd.MultiIndex.from_frame(results[CELL]))
    return results.iloc[np.argsort(np.where(place < 0, len(results), place), kind="stable")]

def _page(paper, name, title, sections):
    body = draw("results", title, named(paper), sections)
    return Page(f"tables/{paper}_{name}.html", title, body, "Papers", named(paper))

def result_pages(
    results: pd.DataFrame, # from `read_results`
    sides: list, # from `all_sides`
    notes: dict = NOTES, # paper → what is to be known of all its tables
) -> Iterator[Page]: # tables, each followed by its figures, curves, matrices, differences, provenance
    "The pages about results, which report and site share."
    tables = by_table(sides)
    grids = {of: published(*of).grid.iloc[0] for of in tables}
    for paper, table in (of for of, grid in grids.items() if of[1] == grid):
        own = _in_order(pick(results, paper=paper), paper, table)
        run = {scale: both for scale, both in tables[paper, table].items() if both.our_n.notna().any()}
        parts = [t for (p, t), grid in grids.items() if (p, grid) == (paper, table)]
        grids_of = [s for t in parts for s in _table_page(paper, t, tables[paper, t], notes)]
        yield _page(paper, table, named(table), grids_of)
        common = [(name, f"{title}, {named(table)}", build) for name, title, build in PAGES]
        for name, title, build in FIGURES.get((paper, table), []) + common:
            sections = list(build(own, paper, table, run))
            if sections: yield _page(paper, f"{table}_{name}", title, sections)

def write_report(
    results: pd.DataFrame, # from `read_results`
    folder: str | Path, # where the pages go; made if missing
    scale: str | None = None, # one scale; every scale, each in its own sections, if none
    notes: dict = NOTES, # paper → what is to be known of all its tables
    paper: str = "", # only this one's pages, e.g. "patrini2017"
) -> Path: # index.html
    "Write the report as a folder of HTML pages that opens offline."
    require(scale is None or scale in {*SCALES, *results.scale}, "scale", f"one of {', '.join(SCALES)}",
            scale)
    results = results if scale is None else pick(results, scale=scale)
    sides = all_sides(results, paper)
    title = "Paper beside ours"
    front = Page("index.html", title, draw("results", title, "", [*opening(sides), overview(sides)]))
    return write_pages([front, *result_pages(results, sides, notes)], folder)


# The command

# `make run` ends here: `python -m noisy_course.lab.report patrini2017 table2` writes the pages of that paper,
# without a paper those of all. It looks in your own results first, then in those of the repository.
def folders() -> list[Path]: # absolute
    "The folders of results that are there: one's own, then those of the repository."
    home = (data.settings_file() or Path("settings.ini")).parent
    return [f for f in dict.fromkeys((results_folder().resolve(), (home/"results").resolve())) if f.is_dir()]

def _show(args, results):
    notes = NOTES
    if args.beside:
        results = in_place(results, args.paper, args.table, args.beside)
        notes = NOTES | {args.paper: f"Ours in {named(args.beside)} are the runs of the table {args.table}."}
        args.table = args.beside
    if args.paper and (args.paper, args.table) in published_tables():
        print(terminal_table(results, args.paper, args.table, args.scale, args.dataset, notes))
    elif args.paper: print(_own_means(args, results))
    own = args.paper if args.paper in PAPERS else ""
    print(f"\nreport:             {write_report(results, args.site, notes=notes, paper=own).resolve()}")
    notebooks = results_folder()/"notebooks"
    if notebooks.is_dir(): print(f"executed notebooks: {notebooks.resolve()}")


def _own_means(args, results):
    means = cell_means(results, paper=args.paper, table=args.table, scale=args.scale, variant="")
    shown = (means[[*CELL, "mean", "std", "n"]].round(1).to_string(index=False) if len(means)
             else "Nothing of it was run at this scale.")
    return (f"{args.paper} {args.table} has no published numbers; the report shows what it has to do with "
            f"the others.\n{shown}")


# A mistake on the command line is reported in one line, without a traceback:
def main(
    argv: Sequence[str] | None = None, # the words after the program's name
) -> None:
    "Show a table beside the paper's and write the pages: python -m noisy_course.lab.report [PAPER TABLE] ..."
    parser = argparse.ArgumentParser(prog="python -m noisy_course.lab.report",
                                     description="Paper beside ours, from results that are there.")
    for name in ("paper", "table"):
        parser.add_argument(name, nargs="?", help=f"the {name} to show in the terminal")
    parser.add_argument("--dataset", help="show only this data set")
    parser.add_argument("--beside", help="the printed table of the paper to show it beside, if no other")
    parser.add_argument("--protocol", help="a Python file with an experiment of your own")
    parser.add_argument("--scale", default=data.setting("scale", "laptop"),
                        help="the scale to show in the terminal")
    parser.add_argument("--results", type=Path, nargs="+", help="folders of results")
    parser.add_argument("--site", type=Path, default=results_folder()/"report", help="folder of the pages")
    args = parser.parse_args(argv)
    try:
        if args.protocol: args.paper = add_file(args.protocol)
        _show(args, read_results(args.results or folders()))
    except (ValueError, OSError) as error: raise SystemExit(str(error)) from None


if __name__ == "__main__": main()
