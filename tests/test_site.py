"""The site on made-up results and two chapters: sources, pages, links, and a real browser where there is one."""
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from browser import CHROMIUM, needs_browser as browser
from test_report import BLOCKS, PAPER, make, save

from noisy_course.lab import protocols
from noisy_course.lab.cells import named, published, side_by_side
from noisy_course.lab.comparison import by_paper, papers_table, published_tables
from noisy_course.lab.papers import PAPERS
from noisy_course.lab.results import read_results
from noisy_course.lab.site import *

NBS = Path(__file__).parents[1]/"nbs"
CHAPTERS = ["02_noise", "12_symmetric_cross_entropy"]

@pytest.fixture(scope="module")
def results(tmp_path_factory): return read_results(save(make(BLOCKS[:1]), tmp_path_factory.mktemp("results")))

@pytest.fixture(scope="module")
def notebooks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nbs")
    for name in CHAPTERS: shutil.copy(NBS/f"{name}.ipynb", folder)
    return folder

@pytest.fixture(scope="module")
def site(results, notebooks, tmp_path_factory): return write_site(results, tmp_path_factory.mktemp("site"), notebooks).parent

@pytest.fixture(scope="module")
def pages(site): return {f.relative_to(site).as_posix(): f.read_text(encoding="utf-8") for f in sorted(site.rglob("*.html"))}

@pytest.fixture(scope="module")
def text():
    chapters = read_chapters(NBS)
    return tuple(p for name, nb in chapters.items() for p in pieces(nb, name))

def markdown(*sources): return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(source) for source in sources])


# Coverage

def test_every_paper_and_all_of_them(results):
    table = by_paper(results).set_index("paper")
    assert table.of.to_dict() == {PAPER[0]: 240, "": sum(len(published(*of)) for of in published_tables())}
    gaps = side_by_side(results, *PAPER, "laptop").difference.abs().dropna()
    for at, q in (("low", .25), ("difference", .5), ("high", .75)): assert table.loc["", at] == pytest.approx(gaps.quantile(q))
    assert table.loc[PAPER[0]].drop(["scale"]).tolist()[2:] == table.loc[""].drop(["scale"]).tolist()[2:]
    assert "| all papers | laptop | 40 of 1,156 |" in papers_table(results)

def test_coverage_of_nothing(tmp_path): assert papers_table(read_results(tmp_path)) == ""


# Reading chapters

@settings(deadline=None)
@given(st.lists(st.text("abc #`$\n", max_size=20), max_size=5))
def test_labels_lose_no_text_and_are_unique(sources):
    nb = labelled(markdown(*sources), "99_x")
    labels = [m["label"] for cell in nb.cells for m in LABELLED.finditer(cell.source)]
    assert len(set(labels)) == len(labels)
    assert [re.sub(r"^\([\w-]+\)=\n", "", cell.source, flags=re.MULTILINE) for cell in nb.cells] == sources

def test_pieces_are_the_chapter(text):
    for name in CHAPTERS:
        whole = "".join(cell.source for cell in read_chapters(NBS)[name].cells)
        assert "".join(p.source for p in text if p.chapter == name).replace("\n", "") == whole.replace("\n", "")

@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 5)), min_size=1))
def test_numbers_in_words(spans):
    words = [f"{a}–{a + n}" if n else str(a) for a, n in spans]
    expected = [k for a, n in spans for k in range(a, a + n + 1)]
    assert listed_numbers(", ".join(words)) == expected
    assert listed_numbers(" and ".join(words)) == expected

def test_equations_are_told_from_other_brackets():
    found = lambda source: [m[m.lastgroup] for m in EQUATION.finditer(source)]
    assert found("by (7) and Eqs. 8–10 and 18, see $f(3)$, Table 5(2), (Patrini, 2017), (a) or (12).") == ["7", "8–10 and 18", "12"]
    assert found(r"$$x \tag{4, 5}$$") == ["4, 5"]

def test_every_paper_has_a_chapter_and_every_tag_is_found(text):
    own = {paper_of(part): part for part in by_chapter(text).values() if paper_of(part)}
    assert list(own) == PAPERS
    found = mentions(text)
    for paper, part in own.items():
        tags = {n for p in part for m in re.findall(r"\\tag\{(.+?)\}", p.source) for n in listed_numbers(m)}
        assert tags <= set(found[(found.paper == paper) & (found.kind == "Eq.")].number)

def test_every_erratum_is_found_with_its_check(text):
    marked = [line for p in text if p.kind == "markdown" for line in p.source.splitlines() if line.startswith(("> **Erratum", "> **A claim"))]
    found = [e for own in by_chapter(text).values() for e in errata(own)]
    assert [e.text.splitlines()[0] for e in found] == marked and len(marked) > 10
    for e in found: compile(e.check, "check", "exec")
    assert all(re.search("assert|test_|expect_fail", e.check) for e in found)


# Methods

def test_every_method_is_made_of_something_with_a_place(text):
    known = definitions(text)
    for name, method in protocols.METHODS.items():
        made = ingredients(method, taught(text))
        assert any((f.__module__.rpartition(".")[2], f.__name__) in known for f in made), name

@pytest.mark.parametrize("name, loss", [("forward", "ForwardCrossEntropyLoss"), ("generalized_cross_entropy", "GeneralizedCrossEntropyLoss"), ("nnaqc", "NNAQCLoss"),
                                        ("symmetric_cross_entropy", "SymmetricCrossEntropyLoss"), ("joint_optimization", "JointLoss"), ("truncated_gce", "TruncatedGCELoss")])
def test_drop_ins(text, name, loss): assert loss in [c.__name__ for c in drop_ins(ingredients(protocols.METHODS[name], taught(text)))]

def test_numbers_are_the_protocols():
    assert NUMBERS_OF.keys() == protocols.METHODS.keys() and all(k in protocols.USUAL for ks in NUMBERS_OF.values() for k in ks)
    ours = numbers("symmetric_cross_entropy").query("table == 'Table 1'").set_index("block")
    assert ours.loc["CIFAR-100, 44-layer ResNet"].alpha.tolist() == [6, 2] and ours.loc["MNIST, 4-layer CNN"].alpha == .01


# Pages

def test_nothing_is_loaded_from_the_net(site, pages):
    for name, page in pages.items():
        for tag, url in re.findall(r"<(script|link|img|iframe)\b[^>]*?(?:src|href)=\"([^\"]+)", page): assert not re.match(r"(https?:)?//", url), (name, tag, url)
    for style in site.rglob("*.css"): assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style.read_text(encoding="utf-8")), style.name

def test_every_link_has_a_target(site, pages):
    ids = {name: set(re.findall(r"\bid=\"([^\"]+)\"", page)) for name, page in pages.items()}
    for name, page in pages.items():
        for url in map(html.unescape, re.findall(r"\b(?:src|href)=\"([^\"]+)\"", page)):
            if re.match(r"[a-z]+:", url): continue
            path, _, anchor = unquote(url).partition("#")
            file = ((site/name).parent/path.partition("?")[0]).resolve() if path else site/name
            assert file.is_file(), (name, url)
            if anchor and file.suffix == ".html": assert anchor in ids[file.relative_to(site.resolve()).as_posix() if path else name], (name, url)

def autoloads(script):
    "What MathJax fetches when a formula needs it: macro or environment → extension."
    table = re.search(r"expandable\)\(\{(.*?)\}\)", script)[1]
    return {word: extension for extension, words in re.findall(r"(\w+):\[((?:\[[^\]]*\]|[^\[\]])*)\]", table) for word in re.findall(r'"(\w+)"', words)}

def unbundled(formulas, folder):
    "Macros, environments and \\require in formulas whose extension is not in a folder."
    known = autoloads((MATHJAX/"input/tex/extensions/autoload.js").read_text(encoding="utf-8"))
    words = {w for f in formulas for w in re.findall(r"\\begin\{(\w+)\}|\\([a-zA-Z]+)", f) for w in w if w}
    needed = {known[w] for w in words if w in known} | {m for f in formulas for m in re.findall(r"\\require\{(\w+)\}", f)}
    return {extension for extension in needed if not (folder/f"{extension}.js").is_file()}

def test_no_formula_needs_an_extension_that_is_not_bundled(site, tmp_path):
    formulas = [m for path in NBS.glob("*.ipynb") for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown" for m in re.findall(r"\$\$?(.+?)\$", cell.source, re.DOTALL)]
    assert len(formulas) > 500 and any(r"\boldsymbol" in f for f in formulas)
    bundled = site/"_static/input/tex/extensions"
    assert not unbundled(formulas, bundled)
    assert unbundled(formulas, tmp_path) >= {"boldsymbol"} and unbundled([r"\require{physics} \cancel{x} \begin{CD} a \end{CD} \alpha"], tmp_path) == {"physics", "cancel", "amscd"}
    assert set(autoloads((bundled/"autoload.js").read_text(encoding="utf-8")).values()) <= {file.stem for file in bundled.iterdir()}

def test_hints_have_their_formulas(pages):
    hint = re.search(r"<details><summary>Hint</summary>(?:(?!</details>).)*?</details>", pages["chapters/12_symmetric_cross_entropy.html"])
    page = pages["chapters/12_symmetric_cross_entropy.html"]
    assert hint and not re.search(r"<details>\s*<summary>Hint</summary>[^<]*\$", page) and r"\(\frac{-\beta A}{\alpha}\,p_y\)</span>" in page

def test_our_scripts_wait_for_plotly(pages):
    order = re.findall(r'<script defer="defer" src="\.\./_static/([\w.]+?)\?', pages["tables/patrini2017_table2_curves.html"])
    assert order == ["plotly.min.js", "report.js", "site.js"]

def test_every_equation_and_figure_of_a_chapter_is_there(pages):
    for name in CHAPTERS:
        nb, page = nbformat.read(NBS/f"{name}.ipynb", 4), html.unescape(pages[f"chapters/{name}.html"])
        squeezed = re.sub(r"\s", "", page)
        shown = [m for cell in nb.cells if cell.cell_type == "markdown" for m in re.findall(r"\$\$(.+?)\$\$", cell.source, re.DOTALL)]
        assert shown and all(re.sub(r"\s", "", m) in squeezed for m in shown)
        figures = [o for cell in nb.cells for o in cell.get("outputs", []) if FIGURE in o.get("data", {})]
        assert page.count('class="plot') == len(figures)
    for spec in re.findall(r'<script type="application/json">(.*?)</script>', pages["chapters/12_symmetric_cross_entropy.html"], re.DOTALL): assert json.loads(spec)["data"]

def test_there_is_a_page_for_everything(pages):
    assert {f"methods/{name}.html" for name in protocols.METHODS} <= pages.keys()
    assert {f"papers/{paper}.html" for paper in PAPERS} <= pages.keys()
    grids = {f"tables/{paper}_{published(paper, table).grid.iloc[0]}.html" for paper, table in published_tables()}
    assert grids <= pages.keys() and "tables/tanaka2018_table1_best.html" not in pages
    assert "tables/patrini2017_table2_figure1.html" in pages

def test_numbers_and_origins_are_on_the_pages(pages):
    assert "40 of 1,156" in pages["index.html"] and "40 of 240" in pages["index.html"]
    for name in ("tables/patrini2017_table2", "methods/forward_estimated"):
        assert "commit 0123abc" in pages[f"{name}.html"] and "Welch" in pages[f"{name}.html"]
    truth = published(*PAPER).query("dataset == 'mnist' and method == 'forward_estimated'")["mean"]
    assert all(f"{m:.1f}" in pages["methods/forward_estimated.html"] for m in truth)
    assert "SymmetricCrossEntropyLoss" in pages["methods/symmetric_cross_entropy.html"]

def test_errata_and_equations(pages):
    assert "is a convex parabolic function" in pages["errata.html"] and "(bend &lt; 0).all()" in re.sub(r"</?span[^>]*>", "", pages["errata.html"])
    assert "chapters/12_symmetric_cross_entropy.html#symmetric-cross-entropy-symmetric-learning" in pages["equations.html"]

def test_equations_lead_to_code_and_methods_and_back(pages):
    chapter, index, method = (pages[f"{name}.html"] for name in ("chapters/12_symmetric_cross_entropy", "equations", "methods/symmetric_cross_entropy"))
    entry = re.search(r'id="wang2019-eq-7".*?</section>', index, re.DOTALL)[0]
    assert 'href="methods/symmetric_cross_entropy.html"' in entry and r"\tag{7}" in html.unescape(entry)
    assert chapter.count("../equations.html#wang2019-eq-7") == 1 and 'class="used' in chapter and "../methods/symmetric_cross_entropy.html" in chapter
    assert "../equations.html#wang2019-eq-7" in method

def test_every_equation_with_a_derivation_has_a_line_below_it(text):
    known = equations(text)
    for name, nb in read_chapters(NBS).items():
        paper, linked = paper_of(by_chapter(text)[name]), "\n".join(cell.source for cell in with_links(nb, paper_of(by_chapter(text)[name]), known).cells)
        tags = {n for cell in nb.cells if cell.cell_type == "markdown" for m in re.findall(r"\\tag\{(.+?)\}", cell.source) for n in listed_numbers(m)}
        assert all(f"(#{paper}-eq-{n})" in linked for n in tags if paper), name
    assert {"patrini2017-theorem-1", "zhang2018-eq-6", "jindal2019-eq-6", "tanaka2018-eq-5"} <= {label for label, e in known.items() if e.functions}

def test_search_knows_words_of_chapters_and_tables(site):
    index = (site/"searchindex.js").read_text(encoding="utf-8")
    for word in ("forward", "savag", "mirror"): assert re.search(rf'[{{,]"?{word}"?:', index), word

def test_code_folds_and_directives_are_gone(pages):
    page = pages["chapters/12_symmetric_cross_entropy.html"]
    assert page.count("above-input") > 50 and "Show a solution" in page and "Show a check" in page and "#| export" not in page

def test_odd_names_do_no_harm(results, notebooks, tmp_path):
    odd = results.assign(machine="<script>alert(1)</script> *a* $x$ `b`")
    page = write_site(odd, tmp_path, notebooks).parent/"tables/patrini2017_table2.html"
    assert "<script>alert" not in page.read_text(encoding="utf-8") and "&lt;script&gt;alert" in page.read_text(encoding="utf-8")

def test_a_broken_link_stops_everything(results, tmp_path):
    folder = tmp_path/"nbs"
    folder.mkdir()
    nbformat.write(markdown("# A\n\n[gone](98_gone.ipynb)"), folder/"99_a.ipynb")
    with pytest.raises(ValueError, match="notebooks: expected pages without a warning[^$]*98_gone"): write_site(results, tmp_path/"site", folder)
    assert not (tmp_path/"site").exists()

def test_old_pages_go_and_other_files_stay(results, notebooks, tmp_path):
    folder = shutil.copytree(notebooks, tmp_path/"nbs")
    site = write_site(results, tmp_path/"site", folder).parent
    (site/"mine.html").write_text("mine")
    (folder/"02_noise.ipynb").unlink()
    write_site(results, site, folder)
    assert not (site/"chapters/02_noise.html").exists() and (site/"mine.html").exists() and (site/"chapters/12_symmetric_cross_entropy.html").exists()

def test_headings_that_look_like_second_ones():
    nb = labelled(markdown("# A", "# A", "# A 2"), "x")
    assert [m["label"] for cell in nb.cells for m in LABELLED.finditer(cell.source)] == ["x-a", "x-a-2", "x-a-2-2"]

def test_bad_folders(tmp_path, results):
    with pytest.raises(ValueError, match="folder: expected a folder with notebooks"): write_site(results, tmp_path/"site", tmp_path)
    with pytest.raises(SystemExit, match="folders: expected folders that exist"): main(["--results", str(tmp_path/"nowhere")])


# In a browser

def seen(page, script="", width=1200):
    "What `script` returns in a page once it is drawn."
    probe = page.with_name(f"probe_{page.name}")
    watch = "<script>addEventListener('load', () => setTimeout(async () => { document.body.dataset.seen = JSON.stringify(await (async () => {" + script + "})()); }, 2000));</script>"
    probe.write_text(page.read_text(encoding="utf-8").replace("</body>", watch + "</body>"), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},844", "--virtual-time-budget=20000", "--dump-dom"]
    dom = subprocess.run([*command, probe.as_uri() + ("?q=forward" if page.name == "search.html" else "")], capture_output=True, text=True, encoding="utf-8").stdout
    probe.unlink()
    found = re.search(r'data-seen="([^"]*)"', dom)
    assert found, dom[-2000:]
    return json.loads(html.unescape(found[1]))

@browser
def test_a_chapter_in_a_browser(site):
    look = """dispatchEvent(new Event('beforeprint')); await new Promise(r => setTimeout(r, 3000));
    const code = [...document.querySelectorAll('.cell details')], open = code.filter(f => f.open).length;
    document.querySelector('.fold').click();
    return { formulas: document.querySelectorAll('mjx-container svg').length, errors: document.querySelectorAll('[data-mml-node=merror]').length, tags: document.querySelectorAll('[data-mml-node=mlabeledtr]').length,
        plots: document.querySelectorAll('.plot').length, drawn: document.querySelectorAll('.plot .main-svg').length > 0 && [...document.querySelectorAll('.plot')].every(p => p.querySelector('.main-svg')),
        code: code.length, open, left: code.filter(f => f.open).length };"""
    got = seen(site/"chapters/12_symmetric_cross_entropy.html", look)
    assert got["formulas"] > 100 and got["errors"] == 0 and got["tags"] >= 4
    assert got["plots"] > 3 and got["drawn"]
    assert 0 < got["open"] < got["code"] and got["left"] == 0

@browser
def test_search_in_a_browser(site):
    got = seen(site/"search.html", "return [...document.querySelectorAll('#search-results li a')].map(a => a.textContent);")
    assert len(got) > 5 and any("forward" in title for title in got)

@browser
@pytest.mark.parametrize("name", ["index", "errata", "equations", "tables/patrini2017_table2", "tables/patrini2017_table2_curves", "methods/forward_estimated", "chapters/12_symmetric_cross_entropy"])
def test_nothing_scrolls_sideways_on_a_phone(site, name):
    script = """const frame = document.documentElement; return [frame.scrollWidth, innerWidth];"""
    wide, screen = seen(site/f"{name}.html", script, width=390)
    assert wide <= screen <= 520
