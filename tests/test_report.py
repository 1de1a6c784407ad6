"""The report on made-up results: statistics against scipy, pages, and bad days."""
import html.parser
import json
import os
import re
import unicodedata
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import ttest_ind

from noisy_course.basics import pick
from noisy_course.lab import cells, comparison, report
from noisy_course.lab import results as result_files
from noisy_course.lab.cells import *
from noisy_course.lab.comparison import *
from noisy_course.plots import pretty
from noisy_course.lab.pages import draw
from noisy_course.lab.papers.patrini2017 import FIGURE1, figure1, figure1_points
from noisy_course.lab.papers.zhang2018 import q_choice, q_figure, runs_by_q, with_q
from noisy_course.lab.report import *
from noisy_course.lab.results import CELL, PROVENANCE, RUN, flaw, read_file, read_results
from noisy_course.lab.sections import curve_points, drawn, training_curves

PAPER = ("patrini2017", "table2")
BLOCKS = [("mnist", "mlp"), ("imdb", "embedding")]

def plain(truth, seeds, scale, rng):
    "One `accuracy` a run: the paper's cell and a little luck."
    runs = truth.merge(pd.DataFrame(dict(seed=range(seeds))), how="cross")
    value = rng.normal(runs["mean"], runs["std"].fillna(0).clip(lower=.05))
    return runs.assign(value=value.clip(0, 100), metric="accuracy", epoch=pd.NA, epoch_chosen=3, scale=scale)

def matrix_rows(runs, kind, entries):
    return [runs.assign(metric=f"{kind}[{i},{j}]", value=entries[i, j])
            for i in range(len(entries)) for j in range(len(entries))]

def make(blocks=BLOCKS, seeds=3, epochs=2, scale="laptop", seed=0):
    "Results of the blocks as experiments leave them: methods x settings x seeds, curves and matrices."
    rng, truth = np.random.default_rng(seed), published(*PAPER)
    truth = truth[[b in blocks for b in zip(truth.dataset, truth.model)]]
    runs = plain(truth, seeds, scale, rng)
    parts = [runs, runs.assign(metric="accuracy_last", value=runs.value - 3),
             runs.assign(metric="accuracy_best_valid_accuracy", value=runs.value - .1)]
    for epoch in range(epochs):
        for metric in ("train_loss", "valid_loss", "valid_accuracy", "test_accuracy"):
            value = (runs.value * (1 - .4**(epoch + 1)) if "accuracy" in metric
                     else 3 * .6**epoch + .05 * epoch + rng.normal(0, .02, len(runs)))
            parts.append(runs.assign(metric=metric, epoch=epoch, value=value))
    estimated = runs[runs.method.str.endswith("_estimated") & (runs.noise == "asymmetric") &
                     (runs.dataset == "mnist")]
    T = np.eye(10); T[7, 7], T[7, 1] = .4, .6
    parts += (matrix_rows(estimated, "true_T", T) + matrix_rows(estimated, "realised_T", T)
              + matrix_rows(estimated, "estimated_T", .9 * T + .01))
    frame = pd.concat(parts, ignore_index=True).drop(columns=["mean", "std", "n", "n_note", "star", "dagger"])
    return frame.assign(samples=54_000, block=frame.dataset + "-" + frame.model + "-" + scale,
                        epoch=frame.epoch.astype("Int64"), commit="0123abc", dirty=False, torch="2.11",
                        python="3.11", device="cpu", machine="a laptop <&>", seconds=12.5,
                        realised_rate=frame.rate + .001)

def save(frame, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for block, part in frame.groupby("block"): part.to_parquet(folder/f"{block}.parquet")
    return folder

@pytest.fixture(scope="module")
def results(tmp_path_factory): return read_results(save(make(), tmp_path_factory.mktemp("results")))

@pytest.fixture(scope="module")
def both(results): return side_by_side(results, *PAPER, "laptop")

# Statistics

@settings(deadline=None)
@given(st.integers(2, 8), st.integers(2, 8), st.floats(-5, 5), st.floats(.01, 10), st.integers(0, 1000))
def test_welch_is_scipys_test_on_the_runs(n1, n2, gap, spread, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(50, 1, n1), rng.normal(50 + gap, spread, n2)
    p = welch(a.mean(), a.std(ddof=1), n1, b.mean(), b.std(ddof=1), n2)
    assert np.isclose(p, ttest_ind(a, b, equal_var=False).pvalue, atol=1e-10)
    assert np.isclose(p, welch(b.mean(), b.std(ddof=1), n2, a.mean(), a.std(ddof=1), n1)) # no side is first

@given(st.floats(0, 100), st.floats(0, 100))
def test_one_run_has_no_p_and_half_a_point_decides(a, b):
    assert np.isnan(welch(a, np.nan, 1, b, .1, 5)) and np.isnan(welch(a, .1, 5, b, np.nan, 1))
    assert bool(apart(a, np.nan, 1, b, .1, 5)) == (abs(a - b) > .5 + 1e-9)

def test_cells_are_the_means_over_seeds(results, both):
    row = both.set_index(CELL).loc[("mnist", "mlp", "asymmetric", .6, "forward_estimated")]
    cell = dict(dataset="mnist", noise="asymmetric", rate=.6, method="forward_estimated")
    runs = pick(results, metric="accuracy", **cell).value
    assert np.isclose(row.our_mean, np.mean(runs)) and np.isclose(row.our_std, np.std(runs, ddof=1))
    assert row.our_n == 3
    assert np.isclose(row.difference, np.mean(runs) - 64.9) and np.isclose(row.realised_rate, .601)
    assert np.isclose(row.p, welch(64.9, 4.4, 5, runs.mean(), runs.std(), 3))

def test_every_published_cell_stays_even_if_nothing_was_run(both):
    assert len(both) == 240 and both.our_n.notna().sum() == 80
    assert (both.reset_index(drop=True)[CELL] == published(*PAPER)[CELL]).all().all()

def test_orderings_by_brute_force(both):
    order, cells, wanted = orderings(both), both.set_index(CELL), {}
    part = both.query("dataset == 'mnist' and rate == .6").set_index("method")
    for a in part.index:
        for b in part.index:
            (A, B), stats = (part.loc[a],
                             part.loc[b]), lambda r: (r.paper_mean, max(r.paper_std, .05), r.paper_n)
            if A.paper_mean > B.paper_mean and welch(*stats(A), *stats(B)) < .05:
                p, gap = welch(A.our_mean, A.our_std, 3, B.our_mean, B.our_std, 3), A.our_mean - B.our_mean
                wanted[a, b] = OUTCOMES[(0 if p < .05 else 1) if gap > 0 else (3 if p < .05 else 2)]
    got = order.query("dataset == 'mnist' and rate == .6").set_index(["better", "worse"]).outcome.to_dict()
    assert got == wanted and len(got) > 25
    assert set(order[order.dataset == "cifar10"].outcome) == {"not run"}

def test_a_reversed_table_reverses_every_ordering():
    runs = plain(published(*PAPER).query("dataset == 'mnist'"), 3, "laptop", np.random.default_rng(0))
    frame = read_frame(runs.assign(value=100 - runs["mean"] + .001 * runs.seed))
    order = orderings(side_by_side(frame, *PAPER, "laptop")).query("dataset == 'mnist'")
    assert set(order.outcome) == {"reversed"}

def read_frame(runs):
    return result_files._tidy(
        runs.drop(columns=["mean", "std", "n"]).assign(paper=PAPER[0], table=PAPER[1], samples=1, block="b"))

def test_a_perfect_copy_of_the_paper_holds_everywhere():
    runs = plain(published(*PAPER), 2, "paper", np.random.default_rng(0))
    frame = read_frame(runs.assign(value=runs["mean"] + .001 * runs.seed))
    both = side_by_side(frame, *PAPER, "paper")
    found, order = findings(both), orderings(both)
    assert (found.paper_holds == found.ours_holds).all()
    assert not set(order.outcome) & {"reversed", "not run", "other sign, not significant"}
    assert coverage(frame).iloc[0][["cells", "of", "within", "within_of"]].tolist() == [240, 240, 120, 120]

@pytest.mark.parametrize("seeds", [3, 5])
def test_a_claim_of_two_cells_is_decided_as_welchs_test_has_it(seeds):
    "Forward and backward are set apart by a growing gap; their runs spread by a point."
    truth = published(*PAPER).query("noise == 'asymmetric'")
    gaps = pd.Series(np.linspace(-6, 6, 12), truth.groupby(SETTING).size().index, name="gap").reset_index()
    runs = plain(truth.merge(gaps, on=SETTING), seeds, "paper", np.random.default_rng(0))
    shifted = 70 + (runs.method == "forward") * runs.gap + np.random.default_rng(1).normal(size=len(runs))
    both = side_by_side(read_frame(runs.drop(columns="gap").assign(value=shifted)), *PAPER, "paper")
    found = findings(both).query("claim == 'asymmetric: forward is at least as good as backward'")
    one, other = (both[both.method == m].set_index(SETTING).reindex(pd.MultiIndex.from_frame(found[SETTING]))
                  for m in ("forward", "backward"))
    p = welch(one.our_mean, one.our_std, one.our_n, other.our_mean, other.our_std, other.our_n)
    clear, close = p < .03, p > .08
    assert clear.sum() >= 4 and close.sum() >= 2
    assert found.decided[clear].all() and not found.decided[close].any()
    assert ((found.ours_holds == "yes").to_numpy() == (one.our_mean >= other.our_mean).to_numpy()).all()

def test_scales_are_never_mixed(results):
    two = pd.concat([results, result_files._tidy(make(scale="smoke", seeds=2, epochs=0, seed=1))])
    pd.testing.assert_frame_equal(side_by_side(two, *PAPER, "laptop"),
                                  side_by_side(results, *PAPER, "laptop"))
    done = coverage(two).query("paper == 'patrini2017'")
    assert done.scale.tolist() == ["laptop", "smoke"] and done.runs.tolist() == [240, 160]
    with pytest.raises(ValueError, match="scale: expected one scale"):
        side_by_side(two, *PAPER, ["laptop", "smoke"])

def test_numbers_of_samples_are_never_mixed(results):
    with pytest.raises(ValueError, match="results: expected one number of samples in a cell"):
        side_by_side(pd.concat([results, results.assign(samples=100, seed=results.seed + 50)]), *PAPER,
                     "laptop")

def test_variants_stay_out_of_the_table_and_give_reasons(results):
    wrong = results.assign(value=results.value.where((results.method != "savage")
                                                     | (results.metric != "accuracy"), results.value - 5))
    more = pd.concat([wrong, results.query("method == 'savage' and metric == 'accuracy'")
                      .assign(table="ablation", variant="dropout=0.2")])
    assert side_by_side(more, *PAPER, "laptop").our_n.max() == 3
    why = reasons(more, side_by_side(more, *PAPER, "laptop")).query("method == 'savage'")
    assert set(why.variant) == {"dropout=0.2", "epoch: the last", "epoch: best validation accuracy"}
    assert np.allclose(why[why.variant == "dropout=0.2"].moved, 5)
    assert np.allclose(why[why.variant == "dropout=0.2"].left,
                       why[why.variant == "dropout=0.2"].difference + 5)
    assert (far_cells(side_by_side(more, *PAPER, "laptop"), 2).difference.abs() > 2).all()

def test_figure1_takes_each_seed_once(results):
    again = results[results.noise == "asymmetric"].assign(table="figure1")
    extra, zero = again[again.rate == .2].assign(rate=.3), again[again.rate == .2].assign(rate=0., value=50.)
    points = figure1_points(pd.concat([results, again, extra, zero]), "patrini2017",
                            "laptop").query("dataset == 'mnist'")
    assert set(points[points.rate == 0]["mean"]) == {50}
    assert set(points.n) == {3} and sorted(set(points.rate)) == [0, .2, .3, .6] and len(points) == 20

def test_matrices_come_back(results):
    cell = results.query(
        "dataset == 'mnist' and method == 'forward_estimated' and noise == 'asymmetric' and rate == .6")
    true, estimated = transitions(cell, "true_T"), transitions(cell, "estimated_T")
    assert true.shape == estimated.shape == (3, 10, 10) and true[0, 7, 1] == .6
    assert np.allclose(row_error(estimated, true)[:, 7], np.abs(.9 * true[0, 7] + .01 - true[0, 7]).sum())
    assert transitions(results.head(0), "true_T").shape == (0, 0, 0)

# Text

def width(line): return sum(not unicodedata.combining(c) for c in line)

def test_terminal_table(results):
    text = terminal_table(results, *PAPER, "laptop")
    assert max(map(width, text.splitlines())) <= 100 and "80 of 240 cells at scale laptop" in text
    rows = [l for l in text.splitlines() if l.startswith("forward, T̂")]
    assert len(rows) == 2 and "64.9" in rows[0]
    assert len({width(l.rstrip(" *")) for l in text.splitlines() if re.match(r"(for|back)ward", l)}) <= 2
    assert "0 of 240 cells at scale paper" in terminal_table(results, *PAPER, "paper")

def seen(line, start, end):
    "What stands in some columns of a line; combining characters take none."
    letters = re.findall(r".[\u0300-\u036f]*", line)
    return "".join(letters[start:end]).strip()

def chunks(text):
    "The parts of a block in the terminal: titles of settings, lines of methods, columns of each title."
    lines = text.splitlines()[1:]
    for k in [k for k, line in enumerate(lines) if re.fullmatch(r" +(paper  ours  diff ?\W*)+", line)]:
        first, n = lines[k].index("paper") - 2, lines[k].count("paper")
        above = [line for line in lines[:k][::-1]]
        heads = above[:next((i for i, line in enumerate(above)
                             if not line.startswith(" " * first)), len(above))][::-1]
        rows = [line for line in lines[k + 1:]]
        own = rows[:next((i for i, line in enumerate(rows) if line.startswith(" " * first)), len(rows))]
        yield first, [" ".join(filter(None, (seen(h, first + 20 * c, first + 20 * (c + 1)) for h in heads)))
                      for c in range(n)], own

@pytest.mark.parametrize("key", published_tables(), ids="_".join)
def test_every_number_in_the_terminal_stands_under_its_setting(key, results):
    both = side_by_side(results, *key, "laptop").assign(scale="laptop", samples="0")
    for block, part in both.groupby(["dataset", "model"], sort=False):
        text, shown = comparison._block_text(*block, part), {}
        assert max(map(width, text.splitlines()[1:])) <= 100
        for first, titles, lines in chunks(text):
            shown |= {(seen(line, 0, first), title): seen(line, first + 20 * c, first + 20 * c + 7)
                      for line in lines
                      for c, title in enumerate(titles)}
        expected = {(pretty(r.method), cells.setting_title(r.noise, r.rate)): cells.number(r.paper_mean)
                    for r in part.itertuples()}
        assert {k: v for k, v in shown.items() if v} == expected

def test_readme_table(results):
    lines = readme_table(results).splitlines()
    assert len(lines) == 2 + len(published_tables()) and len({l.count("|") for l in lines}) == 1
    assert "| Zhang & Sabuncu 2018 | Table 1 | not run | 0 of 144 |" in lines[3]
    assert "| Patrini et al. 2017 | Table 2 | laptop | 80 of 240 | 3 |" in lines[2]

# Pages

class Page(html.parser.HTMLParser):
    "Checks that elements close in order, and collects what a page loads and says of its tables."
    VOID = {"meta", "link", "br", "img", "input"}
    def __init__(self, text):
        super().__init__(); self.open, self.urls, self.tags, self.bare = [], [], [], 0
        self.feed(text); self.close()
    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs); self.tags.append((tag, attrs))
        self.urls += [attrs[a] for a in ("src", "href", "srcset", "action", "data") if a in attrs]
        self.bare += tag == "th" and "scope" not in attrs
        if tag not in self.VOID: self.open.append(tag)
    def handle_endtag(self, tag): assert self.open and self.open.pop() == tag, tag

@pytest.fixture(scope="module")
def site(results, tmp_path_factory):
    figure1 = results[(results.noise == "asymmetric")
                      & (results.metric == "accuracy")].assign(table="figure1")
    cured = results.query("method == 'savage' and rate == .6 and metric == 'accuracy'").assign(
        table="ablation", variant="dropout=0.2")
    savage = (results.method == "savage") & (results.metric == "accuracy")
    wrong = results.assign(value=results.value - 5 * savage)
    return write_report(pd.concat([wrong, figure1, cured]), tmp_path_factory.mktemp("report")).parent

def pages(folder): return {f.name: f.read_text(encoding="utf-8") for f in sorted(folder.rglob("*.html"))}

def pages_of(frame, folder):
    return pages(write_report(read_results(save(frame, folder/"results")), folder/"site").parent)

def where(site, name): return next(site.rglob(name))

def test_pages_are_well_formed_and_load_nothing_from_the_net(site):
    for name, text in pages(site).items():
        page = Page(text)
        assert not page.open and not page.bare, name
        for url in page.urls:
            path, _, anchor = url.partition("#")
            inside = f'id="{anchor}"' in text if not path else (where(site, name).parent/path).is_file()
            assert inside or url == "data:,", (name, url)
        assert not re.search(r"https?://|@import|url\(", text), name
        assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
        assert len([t for t, _ in page.tags
                    if t == "table"]) == len([t for t, _ in page.tags if t == "caption"])
    for name in ("pages.css", "pages.js"):
        assert not re.search(r"//[a-z]+\.|@import|url\(", (site/"assets"/name).read_text(encoding="utf-8"))

def test_plotly_is_written_once(site):
    assert [f.parent.name for f in site.rglob("plotly.min.js")] == ["assets"]
    assert (site/"assets/plotly.min.js").stat().st_size > 1e6
    assert all(len(text) < 3e6 for text in pages(site).values())

def test_the_table_page_shows_every_number_and_its_origin(site, both):
    text = pages(site)["patrini2017_table2.html"]
    for r in both.itertuples(): assert f"{r.paper_mean:.1f}" in text
    assert "Scale laptop: 80 of 240 cells" in text and "commit 0123abc" in text and "seeds 0, 1, 2" in text
    assert "realised noise rate 0.6010" in text and "a laptop &lt;&amp;&gt;" in text and "<&>" not in text

def grids(text):
    "The tables `paper | ours | difference` of a page: caption, settings, method → cells."
    for table in re.findall(r'<table class="grid">.*?</table>', text, re.S):
        settings_ = re.findall(r'<th scope="colgroup"[^>]*>(.*?)</th>', table)
        rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', table, re.S)
        yield re.search(r"<caption><span>(.*?)</span>", table)[1], settings_, {
            m: [re.sub("<.*?>", "", c).strip() for c in re.findall(r"<td.*?</td>", cells, re.S)]
            for m, cells in rows
        }

@pytest.mark.parametrize("key", published_tables(), ids="_".join)
def test_every_number_stands_under_its_setting(key, results, tmp_path):
    "Also where a method was not run in all settings, as in Table 4 of Jindal et al."
    both = side_by_side(results, *key, "laptop")
    shown = {(caption.split(":")[0], m, setting): texts[3 * k]
             for block, part in both.groupby(["dataset", "model"], sort=False)
             for caption, settings_, rows in grids(str(draw("grid", report._grid(block, part))))
             for m, texts in rows.items()
             for k, setting in enumerate(settings_) if len(texts) == 3 * len(settings_)}
    expected = {
        (cells.block_title(r.dataset, r.model), pretty(r.method), cells.setting_title(r.noise, r.rate)):
        r.paper_mean
        for r in both.itertuples()
    }
    found = {k: float(re.match(r"[\d.]+", v)[0]) for k, v in shown.items() if v}
    assert found.keys() == expected.keys() and all(abs(found[k] - v) < .06 for k, v in expected.items())

def test_other_pages_say_what_they_should(site):
    all_pages = pages(site)
    assert "<td>laptop</td><td>80 of 240</td>" in all_pages["index.html"]
    assert "dropout=0.2" in all_pages["patrini2017_table2_differences.html"]
    assert "epoch: the last" in all_pages["patrini2017_table2_differences.html"]
    assert "0123abc" in all_pages["patrini2017_table2_provenance.html"]
    assert "row-L1 error" in all_pages["patrini2017_table2_matrices.html"]
    for name in ("figure1", "curves", "matrices"):
        assert 'class="plot' in all_pages[f"patrini2017_table2_{name}.html"]
    assert all("scale laptop" in text.lower() for name, text in all_pages.items()
               if "provenance" not in name and name.startswith("patrini"))

def test_figures_are_json_and_small(site):
    for text in pages(site).values():
        for found in re.findall(r'<script type="application/json">(.*?)</script>', text, re.S):
            fig = json.loads(found)
            assert fig["data"]
            assert all(len(t.get("x", [])) <= 2000 for t in fig["data"] if isinstance(t.get("x"), list))

def test_writing_again_changes_nothing(results, tmp_path):
    results = results.query("dataset == 'imdb' and epoch.isna()")
    write_report(results, tmp_path)

    def written():
        return {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in tmp_path.rglob("*") if f.is_file()}
    before = written()
    write_report(results, tmp_path)
    assert before == written()

def test_a_report_of_nothing_and_of_one_scale(tmp_path, results):
    (tmp_path/"empty").mkdir()
    index = write_report(read_results(tmp_path/"empty"), tmp_path/"a")
    assert "<td>not run</td><td>0 of 240</td>" in index.read_text(encoding="utf-8")
    results = results.query("dataset == 'imdb' and epoch.isna()")
    index = write_report(pd.concat([results, results.assign(scale="smoke")]), tmp_path/"b", "smoke")
    assert "laptop:" not in pages(index.parent)["patrini2017_table2.html"]

# The command

def test_the_command_shows_the_table_and_writes_the_pages(tmp_path, capsys):
    save(make(epochs=0, seeds=1).query("not metric.str.contains('_T')"), tmp_path/"results")
    (tmp_path/"empty").mkdir()
    words = ["--results", str(tmp_path/"results"), "--site", str(tmp_path/"site"), "--scale", "laptop"]
    report.main([*PAPER, "--dataset", "mnist", *words])
    said = capsys.readouterr().out
    assert "40 of 40 cells at scale laptop" in said and "IMDB" not in said
    assert str(tmp_path/"site"/"index.html") in said
    report.main(["patrini2017", "figure1", "--results",
                 str(tmp_path/"empty"), *words[2:]])  # nothing published under this name
    assert "figure1 has no published numbers" in capsys.readouterr().out

def test_the_command_shows_a_table_of_ones_own_beside_a_printed_one(tmp_path, capsys):
    rows = make(epochs=0, seeds=2).query("dataset == 'mnist' and not metric.str.contains('_T')")
    text = rows.assign(table="text", variant="dropout=0.5, clip=0", value=12.3)
    save(pd.concat([rows, text, text.assign(variant="dropout=0.5, clip=0, bf16", value=45.6)]),
         tmp_path/"results")
    report.main(["patrini2017", "text", "--beside", "table2", "--dataset", "mnist", "--results",
                 str(tmp_path/"results"), "--site", str(tmp_path/"site")])
    shown, page = capsys.readouterr().out, (tmp_path/"site/tables/patrini2017_table2.html").read_text()
    assert shown.count(" 12.3 ") == 40 and "45.6" not in shown
    for words in (shown, page):
        assert "Ours in Table 2 are the runs of the table text." in words and "authors' code" not in words

def test_the_command_tells_mistakes_in_a_line(tmp_path):
    (tmp_path/"x.parquet").write_bytes(b"")
    with pytest.raises(SystemExit, match="x.parquet"):
        report.main(["--results", str(tmp_path), "--site", str(tmp_path/"site")])
    (tmp_path/"file").write_text("")
    (tmp_path/"empty").mkdir()
    with pytest.raises(SystemExit, match="file"):
        report.main(["--results", str(tmp_path/"empty"), "--site", str(tmp_path/"file")])

# Bad days

def test_one_seed_and_missing_optional_columns(tmp_path):
    frame = make(blocks=BLOCKS[:1], seeds=1, epochs=1, scale="smoke").drop(columns=PROVENANCE,
                                                                           errors="ignore")
    frame = read_results(save(frame, tmp_path/"results"))
    both = side_by_side(frame, *PAPER, "smoke")
    assert both.p.isna().all() and both.our_std.isna().all() and both.our_n.max() == 1
    assert "40 of 240" in write_report(frame, tmp_path/"report").read_text(encoding="utf-8")
    assert not re.search(
        r"(?i)\b(nan|none|<na>|nat)\b(?! in ours| in the paper)",
        re.sub(r"<script.*?</script>", "", "".join(pages(tmp_path/"report").values()), flags=re.S))

def test_rates_stored_in_single_precision_still_match(tmp_path):
    frame = make(blocks=BLOCKS[:1]); frame["rate"] = frame.rate.astype("float32")
    assert side_by_side(read_results(save(frame, tmp_path)), *PAPER, "laptop").our_n.notna().sum() == 40

def test_a_newer_definition_of_a_cell_replaces_the_older_whole(tmp_path):
    save(make(blocks=BLOCKS[:1], epochs=2, seeds=5).assign(epochs=2, block="old"), tmp_path)
    os.utime(tmp_path/"old.parquet", (1, 1))
    save(make(blocks=BLOCKS[:1], epochs=4, seeds=3).assign(epochs=4, block="new"), tmp_path)
    with pytest.warns(UserWarning, match="rows left out"): got = read_results(tmp_path)
    assert set(got.block) == {"new"} and side_by_side(got, *PAPER, "laptop").our_n.max() == 3

def test_more_seeds_of_the_same_definition_are_added(tmp_path):
    frame = make(blocks=BLOCKS[:1], epochs=2, seeds=5)
    save(frame[frame.seed < 3], tmp_path); save(frame[frame.seed >= 3].assign(block="more"), tmp_path)
    assert side_by_side(read_results(tmp_path), *PAPER, "laptop").our_n.max() == 5

def test_a_run_in_two_files_counts_once(tmp_path):
    frame = make(blocks=BLOCKS[:1], epochs=2)
    save(frame, tmp_path/"a"); save(frame.assign(value=0., block="old"), tmp_path/"b")
    with pytest.warns(UserWarning, match="an earlier folder or a newer file"):
        got = read_results([tmp_path/"a", tmp_path/"b"])
    assert len(got) == len(frame) and side_by_side(got, *PAPER, "laptop").our_n.max() == 3
    assert got.value.abs().sum() > 0
    with pytest.warns(UserWarning): assert read_results([tmp_path/"b", tmp_path/"a"]).value.abs().sum() == 0

@pytest.mark.parametrize("content", [b"", b"not parquet", b"PAR1 cut off"])
def test_a_broken_file_is_named(tmp_path, content):
    save(make(blocks=BLOCKS[:1], epochs=1), tmp_path); (tmp_path/"broken.parquet").write_bytes(content)
    with pytest.raises(ValueError, match="expected readable parquet files, got .*broken.parquet"):
        read_results(tmp_path)

def test_a_foreign_file_is_named(tmp_path):
    pd.DataFrame(dict(a=[1])).to_parquet(tmp_path/"foreign.parquet")
    with pytest.raises(ValueError, match="foreign.parquet, which is without the columns paper, table"):
        read_results(tmp_path)

def test_words_where_numbers_should_be_are_named(tmp_path):
    frame = make(blocks=BLOCKS[:1], epochs=1); frame["value"] = "high"
    with pytest.raises(ValueError, match="numbers in rate and value, got .*mnist-mlp-laptop.parquet"):
        read_results(save(frame, tmp_path))

def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="folders: expected folders that exist, got .*nowhere"):
        read_results(tmp_path/"nowhere")

def test_half_written_files_are_not_read(tmp_path):
    frame = make(blocks=BLOCKS[:1], epochs=1); save(frame, tmp_path)
    (tmp_path/".mnist.parquet.abc.part").write_bytes(b"half")
    (tmp_path/".hidden.parquet").write_bytes(b"half")
    assert len(read_results(tmp_path)) == len(frame)

def test_a_full_table_with_all_warnings_as_errors(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = read_results(save(make(blocks=BLOCKS[:1], epochs=1, seeds=2), tmp_path/"results"))
        write_report(frame, tmp_path/"report"); terminal_table(frame, *PAPER, "laptop"); readme_table(frame)

def test_a_single_run_borrows_the_spread_of_its_method_at_that_scale():
    "Pooled by hand: the method's own cells with several runs; else those of all methods."
    several = pd.DataFrame(dict(method=["a", "a", "b", "c"], n=[3, 2, 5, 1], std=[3., 4., 1., np.nan]))
    found = cells.borrowed_spread(several)
    assert found["a"] == pytest.approx(np.sqrt((9 + 16) / 2)) and found["b"] == 1 and "c" not in found
    assert found[""] == pytest.approx(np.sqrt(26 / 3))

def test_one_rule_for_any_number_of_runs():
    differ = cells.differ
    se = 2 * np.sqrt(2)  # two single runs of spread 2
    assert not differ(50 + 1.95 * se, 2., 1, 50., 2., 1) and differ(50 + 1.97 * se, 2., 1, 50., 2., 1)
    five = dict(mean1=51., spread1=1., n1=5, mean2=50., spread2=1., n2=5)
    assert bool(differ(**five)) == (welch(51., 1., 5, 50., 1., 5) < .05)
    assert not differ(60., np.nan, 1, 50., 2., 5)
    assert differ(60., 2., 1, 50., 2.,
                  5) and not differ(50.6, 2., 1, 50., 2., 1)  # half a point is no rule for ours

def test_a_method_that_never_acts_is_shown_and_counted_nowhere(tmp_path):
    frame = make(blocks=BLOCKS[:1], epochs=2, seeds=2).assign(variant="", network="")
    keys = ["noise", "rate", "seed", "metric", "epoch"]
    plain = frame[frame.method == "cross_entropy"].set_index(keys).value
    copied = frame.method == "savage"
    frame.loc[copied, "value"] = plain.reindex(frame[copied].set_index(keys).index).to_numpy()
    counted, whole = (score(side_by_side(f, *PAPER, "laptop"))
                      for f in (frame,
                                make(blocks=BLOCKS[:1], epochs=2, seeds=2).assign(variant="", network="")))
    both = side_by_side(frame, *PAPER, "laptop")
    assert dict(both[both.same_as != ""].groupby("method").same_as.first()) == dict(savage="cross_entropy")
    assert counted["cells"] == whole["cells"] - 4 == 36 and counted["orderings_of"] < whole["orderings_of"]
    part = frame[~(copied & (frame.noise == "none"))]  # it differs nowhere in what is left
    assert set(side_by_side(part, *PAPER, "laptop").query("same_as != ''").method) == {"savage"}
    one = frame.index[copied & (frame.noise == "asymmetric") & (frame.metric == "valid_loss")][0]
    frame.loc[one, "value"] += 1e-12
    assert (side_by_side(frame, *PAPER, "laptop").same_as == "").all()
    write_report(part, tmp_path)
    assert "Savage never came to act in so few epochs: its runs are those of cross-entropy" in "".join(
        pages(tmp_path).values())

def test_all_three_counts_are_said():
    c = SimpleNamespace(orderings=36, reversed=2, orderings_of=125)
    assert comparison.three_counts(c) == "36, 2, 87"
    assert comparison.three_counts(SimpleNamespace(orderings=0, reversed=0, orderings_of=0)) == "–"

# The second paper

ZHANG = ("zhang2018", "table1")

def runs_of(table, methods, noises, epochs=3, variants=("",), seeds=2, network="mlp", **more):
    "Made-up curves: method m, variant v and seed s end at 60 + 5 m + v + s/10 percent."
    rows = []
    for (m, method), (v, variant), (noise, rate), seed in ((a, b, c, d) for a in enumerate(methods)
                                                           for b in enumerate(variants) for c in noises
                                                           for d in range(seeds)):
        end = 60 + 5 * m + v + seed / 10
        run = dict(paper="zhang2018", table=table, dataset="fashion_mnist", model="resnet18", network=network,
                   method=method, variant=variant, noise=noise, rate=rate, seed=seed)
        rows += [run | dict(metric=k, value=end + x) for k, x in
                 (("accuracy", -1), ("accuracy_last", -2), ("accuracy_best_valid_accuracy", 0))]
        rows += [run | dict(metric=k, epoch=e, value=x * e/epochs) for e in range(1, epochs + 1)
                 for k, x in (("test_accuracy", end), ("valid_accuracy", end - 50 * rate),
                              ("valid_loss", 2.), ("belief_right", .9), ("belief_wrong", .3))]
    frame = pd.DataFrame(rows).astype({"epoch": "Int64"})
    return frame.assign(scale="laptop", samples=0, block=f"{table}-" + frame.variant,
                        outside=more.get("outside", ""), epochs=epochs, commit="0123abc", dirty=False,
                        torch="2.15", python="3.11", device="cpu", machine="m", seconds=1.,
                        realised_rate=frame.rate, epoch_chosen=3)

SIX = ["cross_entropy", "mean_absolute_error", "forward", "forward_estimated", "generalized_cross_entropy",
       "truncated_gce"]
UNIFORM = [("symmetric", r) for r in (.2, .4, .6, .8)] + [("asymmetric", r) for r in (.1, .2, .3, .4)]

@pytest.fixture(scope="module")
def second(tmp_path_factory):
    folder, both = tmp_path_factory.mktemp("second"), ["cross_entropy", "generalized_cross_entropy"]
    save(runs_of("table1", SIX, UNIFORM), folder)
    save(runs_of("figure1", both, [("none", 0.), ("symmetric", .4)]), folder)
    save(runs_of("figure2", both, [("none", 0.), ("symmetric", .2)]), folder)
    save(runs_of("figure2", both[1:], [("none", 0.), ("symmetric", .2)], variants=("q=0.2", "q=1")),
         folder/"q")
    save(runs_of("open_set", both, [("open_set", .4), ("symmetric", .4)], outside="mnist"), folder)
    return read_results(folder)

def test_each_table_is_read_at_the_epoch_that_its_paper_reports(second):
    row = side_by_side(second, *ZHANG, "laptop").set_index(CELL).loc[("fashion_mnist", "resnet18",
                                                                      "symmetric", .6, "truncated_gce")]
    assert (row.our_mean, row.our_n, row.network, row.paper_mean) == (pytest.approx(85.05), 2, "mlp", 91.56)

def test_a_stand_in_is_named_wherever_numbers_are_shown(second, tmp_path):
    assert "ours has another network (fully connected)" in terminal_table(second, *ZHANG, "laptop")
    assert "| laptop, fully connected | 48 of 144 |" in readme_table(second)
    text = pages(write_report(second, tmp_path).parent)["zhang2018_table1.html"]
    assert text.count("ours has another network (fully connected)") >= 2
    assert "network: fully connected; scale laptop" in text

def test_eight_settings_stand_four_by_four(second):
    text = terminal_table(second, *ZHANG, "laptop")
    assert max(map(width, text.splitlines())) <= 100
    assert sum(l.startswith("GCE, truncated") for l in text.splitlines()) == 2
    assert text.index("symmetric 0.8") < text.index("asymmetric 0.1")

def test_the_second_papers_conclusions(second):
    found = findings(side_by_side(second, *ZHANG, "laptop")).query("dataset == 'fashion_mnist'")
    holds = [(part.ours_holds == "yes").all() for _, part in found.groupby("claim", sort=False)]
    assert holds == [True, True, False, False, False, False] # the later in SIX, the better
    with pytest.raises(ValueError, match="both: expected a table with findings"):
        findings(side_by_side(second, "zhang2018", "table2", ""))

def test_pages_of_the_second_paper(second, tmp_path):
    all_pages = pages(write_report(second, tmp_path).parent)
    for name in ("table1_figure1", "table1_figure2", "table1_curves"):
        assert 'class="plot' in all_pages[f"zhang2018_{name}.html"]
    assert "wrong labels, cross-entropy" in all_pages["zhang2018_table1_figure1.html"]
    assert "A share of 0.4 of the images comes from MNIST" in all_pages["zhang2018_table2_open_set.html"]
    assert "Not run: 12 cells" in all_pages["zhang2018_table2.html"]
    assert "zhang2018_table2_curves.html" not in all_pages
    for name, text in all_pages.items(): assert not Page(text).open, name

def test_runs_by_q(second):
    runs = runs_by_q(second, "laptop")
    assert sorted(set(runs.q)) == [0, .2, .7, 1] and len(runs) == 4 * 2 * 2
    one = runs.query("q == 1 and rate == .2 and seed == 1").iloc[0]
    assert (one.valid, one.test) == (pytest.approx(61.1 - 10), pytest.approx(61.1))

@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(2, 4), st.integers(1, 4))
def test_the_choice_of_q_by_brute_force(seed, n_q, n_seeds):
    rng = np.random.default_rng(seed)
    runs = pd.DataFrame([dict(rate=r, seed=s, q=q/10, valid=rng.random(), test=rng.random())
                         for r in (0., .4) for s in range(n_seeds) for q in range(n_q)])
    for row in q_choice(runs).itertuples():
        part = runs[runs.rate == row.rate]
        best = max(set(part.q), key=lambda q: part[part.q == q].test.mean())
        chosen = [max(p.to_dict("records"), key=lambda x: x["valid"]) for _, p in part.groupby("seed")]
        assert row.best_q == best
        assert row.cost == pytest.approx(part[part.q == best].test.mean() -
                                         np.mean([c["test"] for c in chosen]))
        assert row.chosen_q == ", ".join(map(str, sorted({c["q"] for c in chosen})))

def test_a_tall_figure_stays_tall():
    "A table with coloured cells and many rows would lose every second name."
    html = {
        height: draw("figure", drawn(go.Figure(layout=dict(height=height, title="x", margin=dict(t=9)))))
        for height in (None, 300, 860)
    }
    assert 'style="height: 860px"' in html[860] and "style" not in html[None] + html[300]

# The third paper

def test_classes_have_curves(tmp_path):
    frame = runs_of("figure1", ["cross_entropy", "symmetric_cross_entropy"], [("symmetric", .4)],
                    network="").assign(paper="wang2019", dataset="cifar10", model="cnn8")
    curves = frame[frame.metric == "test_accuracy"]
    frame = pd.concat([frame, *(curves.assign(metric=f"class_{c}", value=curves.value - c)
                                for c in range(10))])
    frame = pd.concat([frame, frame.assign(rate=.6, block="more noise")])
    site = pages_of(frame, tmp_path)
    curves, stages, more = (site[f"wang2019_table1_figure{n}.html"] for n in (1, 3, 5))
    assert curves.count('class="plot') == 2
    assert "symmetric CE, symmetric 0.4: the classes end between 56 and 65 %" in curves and "3 cat" in curves
    assert stages.count('class="plot') == 1 and "cross-entropy, symmetric 0.4" in stages
    assert "epoch 1" in stages and "epoch 2" in stages and "epoch 3" not in stages
    assert more.count('class="plot') == 2 and "symmetric 0.6" in more and "symmetric 0.4" not in more

def wang(frame): return frame.assign(paper="wang2019", dataset="cifar10", model="cnn8")

def test_confidence_predictions_and_maps_have_pages(tmp_path):
    frame = wang(runs_of("figure1", ["cross_entropy", "symmetric_cross_entropy"], [("symmetric", .4)],
                         network="cnn4"))
    each = frame[frame.metric == "test_accuracy"]
    seen = [each.assign(metric=f"{name}_{c}", value=value + c) for c in range(10)
            for name, value in (("sure", .4), ("predicted", 300), ("correct", 200))]
    end = frame[frame.metric == "accuracy_last"]
    map_ = [end.assign(metric=f"tsne_{name}[{i}]", value=float(value)) for i in range(12)
            for name, value in (("x", i), ("y", -i), ("class", i % 10))]
    frame = pd.concat([frame, *seen, *map_, end.assign(metric="same_class_neighbours", value=.62)])
    site = pages_of(frame, tmp_path)
    usual, ours, map_ = (site[f"wang2019_table1_figure{n}.html"] for n in (4, 6, 2))
    assert "CIFAR-10, 4-layer CNN, scale laptop, cross-entropy" in usual
    assert "The paper has another network: 8-layer CNN" in usual
    for page, method in ((usual, "cross-entropy"), (ours, "symmetric CE")):
        assert f"{method}, symmetric 0.4: on rightly labelled training images the mean belief in the" in page
        assert "label is between 0.40 and 9.40" in page and page.count('class="plot') == 2
    assert "62% of the ten nearest neighbours" in map_ and "12 test images" in map_
    assert map_.count('class="plot') == 2

def test_parameters_and_parts_have_pages(tmp_path):
    pairs = [(.1, -6.), (.01, -6.), (1., -6.), (.1, -2.), (1., -2.)]
    tuned = pd.concat([wang(runs_of("figure8", ["symmetric_cross_entropy"], [("symmetric", .6)],
                                    variants=(f"alpha={a:g}, A={A:g}",)))
                       .assign(alpha=a, A=A, block=f"{a}{A}",
                               value=lambda f: (f.value + 10 * k).clip(upper=100))
                       for k, (a, A) in enumerate(pairs)])
    parts = wang(runs_of("figure9", ["cross_entropy", "symmetric_cross_entropy"], [("symmetric", .6)],
                         variants=("", "alpha=0", "alpha=5, beta=0", "alpha=0, beta=5")))
    parts = parts[(parts.method != "cross_entropy") | (parts.variant == "")]
    site = pages_of(pd.concat([tuned, parts]), tmp_path)
    parameters, parts = site["wang2019_table1_figure8.html"], site["wang2019_table1_figure9.html"]
    assert parameters.count('class="plot') == 3 and "chooses α = 1, A = -2, which has 100.0 %" in parameters
    assert "the best pair has 100.0 %" in parameters
    assert parts.count('class="plot') == 2
    assert all(f'"name":"{name}"' in parts.replace('": "', '":"')
               for name in ("CE alone", "RCE alone", "5 × CE", "5 × RCE", "the whole"))

# The fifth paper

def tanaka(table, methods, noises, **columns):
    "Made-up runs of both steps on CIFAR-10: step one has labels right in 90 + epoch percent."
    frame = (runs_of(table, methods, noises, variants=(columns.pop("variant", ""),), network="cnn4")
             .assign(paper="tanaka2018", dataset="cifar10", model="preact32", top=0., lr=.05))
    end = frame[frame.metric == "accuracy_last"]
    four = [end.assign(metric=m, value=end.value + x) for m, x in
            (("accuracy_best_valid_accuracy_clean", 1), ("recovery_best", 2), ("recovery_last", 3))]
    bins = [end.assign(metric=f"{what}[{low}]", value=v * (1 + low)) for low in (.99, .95, .9, 0)
            for what, v in (("recovery_accuracy", 50), ("number", 100))]
    curves = frame[frame.metric == "test_accuracy"]
    first = curves.assign(metric="first_label_accuracy", value=90. + curves.epoch.astype(float))
    loss, valid = (curves.assign(metric=m, value=v)
                   for m, v in (("train_loss", .5), ("valid_accuracy_clean", 91.5)))
    return (pd.concat([frame, *four, *bins, first, loss, valid])
            .assign(**columns, block=table + "-" + str(columns) + "-" + frame.variant.iloc[0]))

JOINT_METHODS = ["cross_entropy", "joint_optimization"]

@pytest.fixture(scope="module")
def fifth(tmp_path_factory):
    folder, hard = tmp_path_factory.mktemp("fifth"), ["joint_hard_optimization"]
    save(tanaka("table1", JOINT_METHODS, [("redrawn", .5)]), folder)
    save(tanaka("figure2", JOINT_METHODS[:1], [("redrawn", .5)], variant="lr=0.2", lr=.2), folder)
    save(tanaka("figure3", JOINT_METHODS[:1], [("none", 0.), ("redrawn", .9)]), folder)
    save(tanaka("figure4", hard + JOINT_METHODS[1:], [("redrawn", .7)]), folder)
    save(tanaka("figure4", hard, [("redrawn", .7)], variant="top=50", top=50.), folder)
    save(tanaka("figure5", JOINT_METHODS, [("pseudo", .375), ("none", 0.)]), folder)
    save(tanaka("human", JOINT_METHODS, [("worse", .402)]), folder)
    save(tanaka("table6", JOINT_METHODS[1:], [("asymmetric", .4)], alpha=.8, beta=.4, lr=.03,
                label_start=70, label_stop=200), folder)
    return read_results(folder)

def test_one_run_fills_four_published_tables(fifth):
    cell = ("cifar10", "preact32", "redrawn", .5, "joint_optimization")
    at = lambda name: side_by_side(fifth, "tanaka2018", name, "laptop").set_index(CELL).loc[cell]
    values = {name: (at(name).our_mean, at(name).paper_mean)
              for name in ("table1", "table1_best", "table1_recovery_best", "table1_recovery_last")}
    last = values["table1"][0]
    assert {name: (round(ours - last, 6), paper)
            for name, (ours, paper) in values.items()} == dict(table1=(0, 89.8), table1_best=(1, 89.6),
                                                               table1_recovery_best=(2, 91.7),
                                                               table1_recovery_last=(3, 91.8))
    assert side_by_side(fifth, "tanaka2018", "table1_best",
                        "laptop").table.unique().tolist() == ["table1_best"]

def test_pages_of_the_fifth_paper(fifth, tmp_path):
    site = pages(write_report(fifth, tmp_path).parent)
    page = lambda name: site[f"tanaka2018_table1_{name}.html"]
    assert "people&#39;s worst labels, about 0.402" in page("ours") and "recovery, last" in page("ours")
    assert page("figure2").count('class="plot') == 1 and "learning rate 0.2" in page("figure2")
    assert page("figure3").count('class="plot') == 2 and "r = 0.9" in page("figure3")
    assert "training loss" in page("figure3")
    assert page("figure6").count('class="plot') == 1 and "training loss" in page("figure6")
    assert "training loss" not in page("figure5")
    assert "hard labels, 50" in page("figure4") and "hard labels, all" in page("figure4")
    assert "soft labels" in page("figure4") and 'class="plot' in page("figure4")
    assert "pseudo-labels 0.375, updated" in page("figure5") and page("table12").count("<table") >= 2
    assert "91.50" in page("table6") and page("table6").count("<table") == 6
    assert "tanaka2018_table1_best_curves.html" not in site and "Table 1, recovery best" in site["index.html"]
    for name, text in site.items(): assert not Page(text).open, name
