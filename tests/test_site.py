"""The site on made-up results and two chapters: pages, links, search, and a browser where there is one."""
import html
import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from browser import Browser, needs_browser
from hypothesis import given, settings, strategies as st
from test_report import BLOCKS, PAPER, make, save

from noisy_course.lab import protocols
from noisy_course.lab.cells import published, side_by_side
from noisy_course.lab.chapters import *
from noisy_course.lab.comparison import by_paper, papers_table, published_tables
from noisy_course.lab.pages import Page, broken, contents, entries, write_pages
from noisy_course.lab.papers import PAPERS
from noisy_course.lab.results import read_results
from noisy_course.lab.site import *

NBS = Path(__file__).parents[1]/"nbs"
CHAPTERS = ["02_noise", "12_symmetric_cross_entropy"]
CHAPTER = "chapters/12_symmetric_cross_entropy.html"

@pytest.fixture(scope="module")
def results(tmp_path_factory):
    odd = make(BLOCKS[:1]).assign(machine="<script>alert(1)</script> *a* $x$ `b`")
    return read_results(save(odd, tmp_path_factory.mktemp("results")))

@pytest.fixture(scope="module")
def notebooks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nbs")
    for name in CHAPTERS: shutil.copy(NBS/f"{name}.ipynb", folder)
    return folder

@pytest.fixture(scope="module")
def site(results, notebooks, tmp_path_factory):
    return write_site(results, tmp_path_factory.mktemp("site"), notebooks).parent

@pytest.fixture(scope="module")
def pages(site):
    found = sorted(site.rglob("*.html"))
    return {f.relative_to(site).as_posix(): f.read_text(encoding="utf-8") for f in found}

@pytest.fixture(scope="module")
def text(): return tuple(p for name, nb in read_chapters(NBS).items() for p in pieces(nb, name))

def markdown(*sources):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(source) for source in sources])

def texts(nb): return [cell.source for cell in nb.cells if cell.cell_type == "markdown"]


# Coverage

def test_every_paper_and_all_of_them(results):
    table = by_paper(results).set_index("paper")
    assert table.of.to_dict() == {PAPER[0]: 240, "": sum(len(published(*of)) for of in published_tables())}
    gaps = side_by_side(results, *PAPER, "laptop").difference.abs().dropna()
    for at, q in (("low", .25), ("difference", .5), ("high", .75)):
        assert table.loc["", at] == pytest.approx(gaps.quantile(q))
    assert table.loc[PAPER[0]].drop(["scale"]).tolist()[2:] == table.loc[""].drop(["scale"]).tolist()[2:]
    assert "| all papers | laptop | 40 of 1,156 |" in papers_table(results)

def test_coverage_of_nothing(tmp_path): assert papers_table(read_results(tmp_path)) == ""


# Reading chapters

@settings(deadline=None)
@given(st.lists(st.text("abc #`$\n", max_size=20), max_size=5))
def test_labels_lose_no_text_and_are_unique(sources):
    nb = labelled(markdown(*sources))
    labels = [m["label"] for source in texts(nb) for m in LABELLED.finditer(source)]
    assert len(set(labels)) == len(labels)
    assert [re.sub(r"^\{#[\w-]+\}\n", "", source, flags=re.MULTILINE) for source in texts(nb)] == sources

def test_headings_that_look_like_second_ones():
    nb = labelled(markdown("# A", "# A", "# A 2"))
    assert [m["label"] for source in texts(nb) for m in LABELLED.finditer(source)] == ["a", "a-2", "a-2-2"]

def test_pieces_are_the_chapter(text):
    for name in CHAPTERS:
        whole = "".join(cell.source for cell in read_chapters(NBS)[name].cells)
        own = "".join(p.source for p in text if p.chapter == name)
        assert own.replace("\n", "") == whole.replace("\n", "")

@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 5)), min_size=1))
def test_numbers_in_words(spans):
    words = [f"{a}–{a + n}" if n else str(a) for a, n in spans]
    expected = [k for a, n in spans for k in range(a, a + n + 1)]
    assert listed_numbers(", ".join(words)) == expected
    assert listed_numbers(" and ".join(words)) == expected

def test_equations_are_told_from_other_brackets():
    def found(source): return [m[m.lastgroup] for m in EQUATION.finditer(source)]
    mixed = "by (7) and Eqs. 8–10 and 18, see $f(3)$, Table 5(2), (Patrini, 2017), (a) or (12)."
    assert found(mixed) == ["7", "8–10 and 18", "12"]
    assert found(r"$$x \tag{4, 5}$$") == ["4, 5"]

def tags(sources):
    return {n for s in sources for m in re.findall(r"\\tag\{(.+?)\}", s) for n in listed_numbers(m)}

def test_every_paper_has_a_chapter_and_every_tag_is_found(text):
    own = {paper_of(part): part for part in by_chapter(text).values() if paper_of(part)}
    assert list(own) == PAPERS
    found = mentions(text)
    for paper, part in own.items():
        known = set(found[(found.paper == paper) & (found.kind == "Eq.")].number)
        assert tags(p.source for p in part) <= known

def test_every_erratum_is_found_with_its_check(text):
    marked = [line for p in text if p.kind == "markdown" for line in p.source.splitlines()
              if line.startswith(("> **Erratum", "> **A claim"))]
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

@pytest.mark.parametrize("name, loss", dict(
    forward="ForwardCrossEntropyLoss", generalized_cross_entropy="GeneralizedCrossEntropyLoss",
    nnaqc="NNAQCLoss", symmetric_cross_entropy="SymmetricCrossEntropyLoss",
    joint_optimization="JointLoss", truncated_gce="TruncatedGCELoss").items())
def test_drop_ins(text, name, loss):
    assert loss in [c.__name__ for c in drop_ins(ingredients(protocols.METHODS[name], taught(text)))]

def test_hyperparameters_are_the_protocols():
    assert HYPERPARAMETERS.keys() == protocols.METHODS.keys()
    assert all(key in protocols.USUAL for keys in HYPERPARAMETERS.values() for key in keys)
    ours = hyperparameters("symmetric_cross_entropy").query("table == 'Table 1'").set_index("block")
    assert ours.loc["CIFAR-100, 44-layer ResNet"].alpha.tolist() == [6, 2]
    assert ours.loc["MNIST, 4-layer CNN"].alpha == .01


# Markdown

@pytest.mark.parametrize("source, expected", [
    ("$x<y$", r'<p><span class="math">\(x&lt;y\)</span></p>'),
    ("so $$a$$", r'<p>so <span class="math display">\[a\]</span></p>'),
    ("$$\na\n$$", r'<span class="math display">\[a\]</span>'), (r"5\$ and \$6", "<p>5$ and $6</p>"),
    ("## A *b*", '<h2 id="a-b">A <em>b</em></h2>'), ("{#x}\n## A", '<h2 id="x">A</h2>'),
    ("[a](../b.ipynb#c)", '<p><a href="../b.html#c">a</a></p>'),
    ("[a](https://b.org/c.ipynb)", '<p><a href="https://b.org/c.ipynb">a</a></p>')])
def test_markdown(source, expected): assert render(source).strip() == expected

@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["C", "Z"])))
def test_any_name_is_shown_as_it_is(name):
    shown = render(f"a{plain(name)}b").strip()
    assert html.unescape(shown.removeprefix("<p>").removesuffix("</p>")) == f"a{name}b"


# Pages

def test_nothing_is_loaded_from_the_net(site, pages):
    for name, page in pages.items():
        for tag, url in re.findall(r"<(script|link|img|iframe)\b[^>]*?(?:src|href)=\"([^\"]+)", page):
            assert not re.match(r"(https?:)?//", url), (name, tag, url)
    style = (site/"assets/pages.css").read_text(encoding="utf-8")
    assert not re.search(r"@import|url\(", style)

def test_every_link_has_a_target(site, pages):
    ids = {name: set(re.findall(r"\bid=\"([^\"]+)\"", page)) for name, page in pages.items()}
    for name, page in pages.items():
        for url in map(html.unescape, re.findall(r"\b(?:src|href)=\"([^\"]+)\"", page)):
            if re.match(r"[a-z]+:", url): continue
            path, _, anchor = unquote(url).partition("#")
            file = ((site/name).parent/path).resolve() if path else (site/name).resolve()
            assert file.is_file(), (name, url)
            if anchor: assert anchor in ids[file.relative_to(site.resolve()).as_posix()], (name, url)

@pytest.mark.parametrize("link, fine", {
    "/a/b.html": True, "b.html": True, "../index.html#x": True, "#y": True, "/p.png": True,
    "https://x.org": True, "/b.html": False, "c.html": False, "../index.html#y": False, "#x": False,
    "index.html": False}.items())
def test_a_link_without_a_target_is_named(link, fine):
    pages = [Page("index.html", "A", '<h1 id="x">A</h1>'),
             Page("a/b.html", "B", f'<h1 id="y">B</h1><a href="{link}">c</a>')]
    assert broken(pages, ["p.png"]) == ([] if fine else [f"a/b.html: {link}"])

def test_a_broken_link_stops_everything(tmp_path):
    body = chapter_body(markdown("# A\n\n[gone](98_gone.ipynb)"))
    with pytest.raises(ValueError, match="pages: expected links with a target, got chapters/99_a.html: 98_g"):
        write_pages([Page("chapters/99_a.html", "A", body)], tmp_path/"site")
    assert not (tmp_path/"site").exists()

def test_every_heading_of_a_chapter_has_its_label(text, pages):
    for name in CHAPTERS:
        labels = [p.label for p in text if p.chapter == name]
        assert set(labels) <= set(re.findall(r'<h[1-4] id="(.*?)"', pages[f"chapters/{name}.html"]))

def autoloads(script):
    "What MathJax fetches when a formula needs it, though it is not in its one file."
    return set(re.findall(r"\\require\{(\w+)\}", script))

def test_no_formula_asks_mathjax_for_another_file():
    found = [m for path in NBS.rglob("*.ipynb") for source in texts(nbformat.read(path, 4))
             for m in re.findall(r"\$\$?(.+?)\$", source, re.DOTALL)]
    assert len(found) > 500 and not autoloads(" ".join(found))
    assert autoloads(r"\require{physics}") == {"physics"}

def test_hints_have_their_formulas(pages):
    hint = re.search(r"<details><summary>Hint</summary>(?:(?!</details>).)*?</details>", pages[CHAPTER])
    assert hint and not re.search(r"<details>\s*<summary>Hint</summary>[^<]*\$", pages[CHAPTER])
    assert r"\(\frac{-\beta A}{\alpha}\,p_y\)</span>" in pages[CHAPTER]

def test_scripts_come_where_they_are_needed_and_in_order(pages):
    def scripts(name): return re.findall(r'<script src="(?:\.\./)*assets/([\w.]+)" defer>', pages[name])
    assert scripts("tables/patrini2017_table2_curves.html") == ["plotly.min.js", "pages.js"]
    assert scripts("equations.html") == ["math.js", "mathjax.js", "pages.js"]
    assert scripts("search.html") == ["texts.js", "pages.js"] and scripts("errata.html")[-1] == "pages.js"

def test_every_equation_and_figure_of_a_chapter_is_there(pages):
    for name in CHAPTERS:
        nb, page = nbformat.read(NBS/f"{name}.ipynb", 4), html.unescape(pages[f"chapters/{name}.html"])
        squeezed = re.sub(r"\s", "", page)
        shown = [m for source in texts(nb) for m in re.findall(r"\$\$(.+?)\$\$", source, re.DOTALL)]
        assert shown and all(re.sub(r"\s", "", m) in squeezed for m in shown)
        figures = [o for cell in nb.cells for o in cell.get("outputs", []) if FIGURE in o.get("data", {})]
        assert page.count('class="plot') == len(figures)
    for spec in re.findall(r'<script type="application/json">(.*?)</script>', pages[CHAPTER], re.DOTALL):
        assert json.loads(spec)["data"]

def test_there_is_a_page_for_everything(pages):
    assert {f"methods/{name}.html" for name in protocols.METHODS} <= pages.keys()
    assert {f"papers/{paper}.html" for paper in PAPERS} <= pages.keys()
    grids = {f"tables/{of[0]}_{published(*of).grid.iloc[0]}.html" for of in published_tables()}
    assert grids <= pages.keys() and "tables/tanaka2018_table1_best.html" not in pages
    assert "tables/patrini2017_table2_figure1.html" in pages

def test_every_page_can_be_reached_from_every_other(pages):
    for name, page in pages.items():
        menus = re.search(r"<header>.*</header>", page, re.DOTALL)[0]
        leads = {re.sub(r"^(\.\./)*", "", link) for link in re.findall(r'href="([^"]*)"', menus)}
        assert leads == pages.keys() - {"search.html"}
        assert 'action="' + "../" * name.count("/") + "search.html" in menus
        words = re.findall(r"<summary.*?>(.*)</summary>", menus)
        assert words == ["Chapters", "Papers", "Methods", "Look up"]

def test_numbers_and_origins_are_on_the_pages(pages):
    assert "40 of 1,156" in pages["index.html"] and "40 of 240" in pages["index.html"]
    for name in ("tables/patrini2017_table2", "methods/forward_estimated"):
        assert "commit 0123abc" in pages[f"{name}.html"] and "Welch" in pages[f"{name}.html"]
    truth = published(*PAPER).query("dataset == 'mnist' and method == 'forward_estimated'")["mean"]
    assert all(f"{m:.1f}" in pages["methods/forward_estimated.html"] for m in truth)
    assert "SymmetricCrossEntropyLoss" in pages["methods/symmetric_cross_entropy.html"]

def test_errata_and_equations(pages):
    assert "is a convex parabolic function" in pages["errata.html"]
    assert "(bend &lt; 0).all()" in re.sub(r"</?span[^>]*>", "", pages["errata.html"])
    assert f"{CHAPTER}#symmetric-learning" in pages["equations.html"]

def test_equations_lead_to_code_and_methods_and_back(pages):
    index, method = pages["equations.html"], pages["methods/symmetric_cross_entropy.html"]
    entry = re.search(r'id="wang2019-eq-7".*?<h3', index, re.DOTALL)[0]
    assert 'href="methods/symmetric_cross_entropy.html"' in entry and r"\tag{7}" in html.unescape(entry)
    assert pages[CHAPTER].count("../equations.html#wang2019-eq-7") == 1 and 'class="used' in pages[CHAPTER]
    assert "../methods/symmetric_cross_entropy.html" in pages[CHAPTER]
    assert "../equations.html#wang2019-eq-7" in method

def test_every_equation_with_a_derivation_has_a_line_below_it(text):
    known = equations(text)
    for name, nb in read_chapters(NBS).items():
        paper = paper_of(by_chapter(text)[name])
        lines = "".join(used(cell, paper, known) for cell in nb.cells if cell.cell_type == "markdown")
        assert all(f'#{paper}-eq-{n}"' in lines for n in tags(texts(nb)) if paper), name
    cited = {label for label, e in known.items() if e.functions}
    assert {"patrini2017-theorem-1", "zhang2018-eq-6", "jindal2019-eq-6", "tanaka2018-eq-5"} <= cited

def test_search_knows_words_of_chapters_and_tables(site):
    script = (site/"assets/texts.js").read_text(encoding="utf-8")
    known = json.loads(script.removeprefix("const TEXTS = ").rstrip(";\n"))
    places = dict(mirror=CHAPTER, savage="tables/patrini2017_table2.html", parabolic="errata.html")
    for word, place in places.items():
        assert any(word in " ".join(entry).lower() and entry[0].startswith(place) for entry in known), word

def test_an_entry_for_each_heading():
    page = Page("a.html", "A", '<h1 id="a">A</h1><p>One <b>t</b>wo &lt;</p><h2 id="b">B '
                '<span class="math">x</span></h2><script>no</script><table><tr><th>yes</th><td>3</td></tr>'
                '</table>', part="P")
    assert list(entries(page)) == [["a.html#a", "A, P", "A", "One two <"], ["a.html#b", "A, P", "B", "yes"]]
    assert contents(page.body) == [(2, "b", 'B <span class="math">x</span>')]
    assert contents('<h3 id="c"><a href="/d">D</a></h3><h3>no id</h3>') == [(3, "c", "D")]

def test_links_from_the_root_lead_there_from_any_folder(tmp_path):
    body = render("[a](/index.html)")
    write_pages([Page("index.html", "A", body), Page("b/c/d.html", "D", body)], tmp_path)
    assert '<p><a href="index.html">a</a></p>' in (tmp_path/"index.html").read_text(encoding="utf-8")
    assert '<p><a href="../../index.html">a</a></p>' in (tmp_path/"b/c/d.html").read_text(encoding="utf-8")

def test_code_folds_and_directives_are_gone(pages):
    page = pages[CHAPTER]
    assert page.count('<details class="code"') > 50 and "#| export" not in page
    folds = re.findall(r'<details class="code"( open)?><summary>(.*?)</summary>', page)
    assert {words for opened, words in folds if opened} == {"the code"}
    assert {words for opened, words in folds if not opened} == {"the code", "a check", "a solution"}

def test_odd_names_do_no_harm(pages):
    page = pages["tables/patrini2017_table2.html"]
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)&lt;/script&gt; *a* $x$ `b`" in page

def test_old_pages_go_and_other_files_stay(tmp_path):
    one, two = Page("index.html", "A", "<h1>A</h1>"), Page("b/c.html", "B", "<h1>B</h1>")
    write_pages([one, two], tmp_path, {"p.png": b"\x89"})
    (tmp_path/"mine.html").write_text("mine")
    write_pages([one], tmp_path)
    assert not (tmp_path/"b/c.html").exists() and not (tmp_path/"p.png").exists()
    assert (tmp_path/"mine.html").exists() and (tmp_path/"index.html").exists()

def test_bad_folders(tmp_path, results):
    with pytest.raises(ValueError, match="folder: expected a folder with notebooks"):
        write_site(results, tmp_path/"site", tmp_path)
    with pytest.raises(SystemExit, match="folders: expected folders that exist"):
        main(["--results", str(tmp_path/"nowhere")])


# In a browser

@pytest.fixture(scope="module")
def browser():
    found = Browser()
    yield found
    found.close()

def seen(browser, page, script, query=""):
    "What `script` returns in a page once it is drawn."
    browser.open(page.as_uri() + query, 1200)
    wait = "const wait = ms => new Promise(r => setTimeout(r, ms));"
    return browser.see(f"(async () => {{ {wait} {script} }})()")

@needs_browser
def test_a_chapter_in_a_browser(browser, site):
    look = """dispatchEvent(new Event('beforeprint')); await MathJax.startup.promise;
    const all = selector => [...document.querySelectorAll(selector)];
    for (let k = 0; k < 100 && !all('.plot').every(p => p.querySelector('.main-svg')); k++) await wait(100);
    const code = all('details.code'), open = code.filter(f => f.open).length;
    document.querySelector('.fold').click();
    return { formulas: all('mjx-container svg').length, errors: all('[data-mml-node=merror]').length,
        tags: all('[data-mml-node=mlabeledtr]').length, plots: all('.plot').length,
        drawn: all('.plot').every(p => p.querySelector('.main-svg')),
        code: code.length, open, left: code.filter(f => f.open).length };"""
    got = seen(browser, site/CHAPTER, look)
    assert got["formulas"] > 100 and got["errors"] == 0 and got["tags"] >= 4
    assert got["plots"] > 3 and got["drawn"]
    assert 0 < got["open"] < got["code"] and got["left"] == 0

@needs_browser
def test_search_in_a_browser(browser, site):
    look = """const found = [...document.querySelectorAll('.found li')];
    return found.map(li => [li.querySelector('a').href, li.textContent]);"""
    got = seen(browser, site/"search.html", look, "?q=mirror+entropy")
    assert len(got) > 5 and all("mirror" in text.lower() or "entropy" in text.lower() for _, text in got)
    assert CHAPTER in got[0][0]
    assert seen(browser, site/"search.html", look, "?q=nosuchword") == []

@needs_browser
def test_menus_and_the_theme_in_a_browser(browser, site):
    look = """const menus = [...document.querySelectorAll('header details')];
    const open = () => menus.filter(m => m.open).length, found = [open()];
    const ground = () => getComputedStyle(document.documentElement).backgroundColor;
    for (const menu of menus.slice(0, 2)) menu.querySelector('summary').click();
    await wait(50); found.push(open());
    dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape' })); found.push(open());
    const before = ground(); document.querySelector('.theme').click();
    return { found, other: before !== ground(), theme: document.documentElement.dataset.theme };"""
    got = seen(browser, site/"index.html", look)
    assert got["found"] == [0, 1, 0] and got["other"]
    kept = seen(browser, site/CHAPTER, "return document.documentElement.dataset.theme;")
    assert kept == got["theme"]
