"""The whole course as one folder that opens without internet: chapters, tables, methods, equations."""
import argparse
import ast
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from itertools import groupby
from pathlib import Path

import nbformat
import pandas as pd
import plotly.graph_objects as go
from markdown_it import MarkdownIt
from markupsafe import Markup
from mdit_py_plugins.attrs import attrs_block_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from nbformat import NotebookNode
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from noisy_course import data
from noisy_course.lab import protocols, report
from noisy_course.lab.cells import block_title, named, published, setting_title
from noisy_course.lab.chapters import (Equation, Piece, by_chapter, definitions, drop_ins, equations, errata,
                                       formula, in_text, ingredients, module, paper_of, pieces, read_chapters,
                                       slug, taught)
from noisy_course.lab.comparison import (all_sides, by_table, findings, markdown_table, papers_table,
                                         published_tables, which_table)
from noisy_course.lab.found import opening
from noisy_course.lab.pages import Page, draw, write_pages
from noisy_course.lab.papers import FINDINGS, PAPERS, QUOTED, TABLES
from noisy_course.lab.results import read_results, results_folder
from noisy_course.lab.sections import drawn, frame_table
from noisy_course.plots import pretty


# Markdown

# Formulas are left to MathJax, between its own brackets; a heading without a label takes its words; a table
# may scroll; a link to a notebook leads to its page. Links that begin with a slash start at the folder of the
# site.
def _formula(tex, display=False):
    opening, closing = (r"\[", r"\]") if display else (r"\(", r"\)")
    look = "math display" if display else "math"
    return f'<span class="{look}">{opening}{escape(tex.strip(), quote=False)}{closing}</span>'

def _highlighted(code, language="python", *_):
    lexer = get_lexer_by_name(language or "text", stripnl=False)
    return f'<pre class="highlight"><code>{highlight(code, lexer, HtmlFormatter(nowrap=True))}</code></pre>'

def _with(name, value):
    "A rule that gives an element an attribute, unless it has it."
    def rule(self, tokens, i, options, env):
        if not tokens[i].attrGet(name): tokens[i].attrSet(name, value(tokens[i + 1].content))
        return self.renderToken(tokens, i, options, env)
    return rule

def _to_page(self, tokens, i, options, env):
    "A link to a notebook leads to its page."
    link = tokens[i].attrGet("href")
    if not re.match(r"https?:", link): tokens[i].attrSet("href", re.sub(r"\.ipynb(?=#|$)", ".html", link))
    return self.renderToken(tokens, i, options, env)

MARKDOWN = MarkdownIt("commonmark", dict(html=True, highlight=_highlighted)).enable("table")
MARKDOWN.use(dollarmath_plugin, double_inline=True).use(attrs_block_plugin)
RULES = dict(math_inline=lambda self, tokens, i, *_: _formula(tokens[i].content),
             math_inline_double=lambda self, tokens, i, *_: _formula(tokens[i].content, True),
             math_block=lambda self, tokens, i, *_: _formula(tokens[i].content, True),
             table_open=lambda *_: '<div class="scroll"><table>\n', table_close=lambda *_: "</table></div>\n",
             th_open=_with("scope", lambda text: "col"), heading_open=_with("id", slug),
             link_open=_to_page)
for name, rule in RULES.items(): MARKDOWN.add_render_rule(name, rule)

def render(
    *parts: str | Markup, # Markdown, or HTML as it is; empty ones are left out
) -> Markup: # HTML
    "Texts and parts of pages, one below the other."
    return Markup("\n").join(part if isinstance(part, Markup) else Markup(MARKDOWN.render(part))
                             for part in parts if part)

def plain(
    text: str, # any
) -> str: # Markdown that shows it
    "Text as it is, in Markdown."
    return re.sub(r"([\\`*_{}\[\]<>$|#&~])", r"\\\1", str(text))

def table_of(
    rows: Sequence[dict], # heading → Markdown
) -> str: # Markdown
    "A table whose cells may hold links."
    return markdown_table([{k: v.replace("|", "\\|") for k, v in row.items()} for row in rows])


# Chapters

# Figures become what the script of the pages draws. Code folds: checks, imports and solutions are closed at
# first, the rest is open.
FIGURE = "application/vnd.plotly.v1+json"
KINDS = dict(hide="a check", exercise="a solution")

def _output(output):
    found = output.get("data", {})
    if FIGURE in found:
        spec = found[FIGURE]
        return draw("figure", drawn(go.Figure(spec), wide=spec["layout"].get("width", 0) > 800))
    if "text/html" in found: return Markup(found["text/html"])
    if "text/markdown" in found: return render(found["text/markdown"])
    return Markup("<pre>{}</pre>").format(output.get("text") or found.get("text/plain", ""))

def _code(cell):
    kind = (re.findall(r"^#\| *(\w+)", cell.source, re.MULTILINE) or [""])[0]
    source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.MULTILINE).strip()
    tags = cell.metadata.get("tags", [])
    if not source or "remove-cell" in tags: return ""
    return draw("cell", dict(kind=KINDS.get(kind, "the code"),
                             open=kind not in KINDS and not re.match(r"import |from ", source),
                             source="" if "remove-input" in tags else Markup(_highlighted(source)),
                             outputs=[_output(o) for o in cell.outputs]))

def _text(cell):
    "A text with formulas in its hints, which are no Markdown."
    def formulas(hint): return re.sub(r"\$(.+?)\$", lambda m: _formula(m[1]), hint[0])
    return re.sub(r"<details>((?!\n\n).)*", formulas, cell.source, flags=re.DOTALL)


# A line below each derivation leads to the code and the methods that use it:
def _becomes(equation):
    used = [", ".join(f"`{f.name}`" for f in equation.functions), _methods(equation.methods)]
    return f"[{equation.name}](/equations.html#{equation.label})" + "".join(f" → {u}" for u in used if u)

def used(
    cell: NotebookNode, # a text of a chapter
    paper: str, # that the chapter follows; empty if none
    known: dict[str, Equation], # from `equations`
) -> Markup: # HTML; empty where the cell derives nothing
    "Where the equations that a cell derives are implemented and used."
    rows = in_text(Piece("", "", "", "", cell.source), paper) if paper else []
    derived = dict.fromkeys(slug(f"{paper} {r['kind']} {r['number']}") for r in rows if r["tagged"])
    lines = "; ".join(_becomes(known[label]) for label in derived)
    return Markup(f'<p class="used">{MARKDOWN.renderInline(lines)}</p>') if lines else Markup()

def chapter_body(
    nb: NotebookNode, # from `read_chapters`
    paper: str = "", # that it follows; empty if none
    known: dict[str, Equation] = {}, # from `equations`
) -> Markup: # HTML
    "A chapter with figures that draw themselves, code that folds, and lines that lead on."
    return render(*(part for cell in nb.cells for part in
                    ([_code(cell)] if cell.cell_type == "code" else [_text(cell), used(cell, paper, known)])))


# A page for each method

# Which hyper-parameters a method takes from an experiment, beside those of its loss:
LABELS = ("alpha", "beta", "lr", "first_epochs", "label_start", "label_stop")
HYPERPARAMETERS = {name: tuple(m.hyperparameters) for name, m in protocols.METHODS.items()} | dict(
    d2l=("epochs",), truncated_gce=("q", "prune_start", "prune_every"), joint_labels=LABELS,
    joint_optimization=LABELS, joint_hard_optimization=(*LABELS, "top"))

def hyperparameters(
    name: str, # of a method
) -> pd.DataFrame: # one row a part of a published table: its hyper-parameters
    "The hyper-parameters of a method in the papers' tables."
    rows = []
    for (paper, table), grid in TABLES.items():
        if (paper, table) not in published_tables(): continue
        for part in (p for p in grid.parts
                     if any(name in (p.methods or names) for _, names in grid.variants)):
            values = protocols.USUAL | part.usual | dict(epochs=part.recipe.epochs)
            noise = ", ".join(dict.fromkeys(named(kind) for kind, _ in part.noises))
            rows.append(dict(paper=named(paper), table=named(table),
                             block=block_title(part.dataset, part.model), epochs=part.recipe.epochs)
                        | {k: values[k] for k in HYPERPARAMETERS[name]} | dict(noise=noise))
    return pd.DataFrame(rows).drop_duplicates()


# Formula, ingredients, modules, hyper-parameters, and every table in which it was run.
def _signature(c):
    return ", ".join(str(p.replace(annotation=p.empty)) for p in inspect.signature(c).parameters.values())

def _loop(classes):
    imports = [f"from {c.__module__} import {c.__name__}" for c in classes]
    calls = [f"{'loss' if c.__name__.endswith('Loss') else 'layer'} = {c.__name__}({_signature(c)})"
             for c in classes]
    return "\n".join(["```python", *imports, "", *calls, "```"])


# A table has one grid, a row a setting and a column a scale, with the origin of each cell as in the report:
def _method_grid(name, sides):
    mine = {scale: rows for scale, both in sides.items()
            if (rows := both[both.method == name]).our_n.notna().any()}
    places = [rows for rows in zip(*(both.itertuples() for both in mine.values()))
              if any(pd.notna(r.our_n) for r in rows)]
    rows = [dict(method=f"{block_title(r[0].dataset, r[0].model)}{_ours(r)}, "
                 f"{setting_title(r[0].noise, r[0].rate)}", cells=[report.grid_cell(x) for x in r])
            for r in places]
    return (dict(caption="Test accuracy in percent.", settings=[f"scale {s}" for s in mine], row="setting",
                 rows=rows) if rows else None)

def _ours(places):
    other = dict.fromkeys(named(r.network) for r in places if r.network and pd.notna(r.our_n))
    return f" (ours: {', '.join(other)})" if other else ""

def _results_of(name, tables):
    for (paper, table), sides in tables.items():
        grid, printed = _method_grid(name, sides), next(iter(sides.values())).grid.iloc[0]
        if grid:
            yield f"### [{plain(named(paper))}, {plain(named(table))}](/tables/{paper}_{printed}.html)"
            yield draw("grid", grid)


# Its ingredients, with their docstrings and the first formula among them:
def _prose(doc): return "`".join(part if k % 2 else plain(part) for k, part in enumerate(doc.split("`")))

def chapter_link(
    text: tuple[Piece, ...], # of all chapters
    name: str, # e.g. "02_noise"
) -> str: # Markdown
    "A link to a chapter by its title."
    return f"[{by_chapter(text)[name][0].title}](/chapters/{name}.html)"

def _parts_of(text, known, made):
    found = [known[key] for f in made if (key := (f.__module__.rpartition(".")[2], f.__name__)) in known]
    lines = [f"- `{d.name}` in {d.piece.link}: {_prose(d.doc)}" for d in found]
    if found: lines.append(f"\nThe chapter: {chapter_link(text, found[0].piece.chapter)}.")
    cited = [f"[{named(e.paper)}, {e.name}](/equations.html#{e.label})" for e in equations(text).values()
             if set(e.functions) & set(found)]
    if cited: lines.append(f"\nIt implements {', '.join(cited)}.")
    return "\n".join(lines), next((f for d in found if (f := formula(text, d))), "")

def method_body(
    name: str, # a key of `METHODS`
    text: tuple[Piece, ...], # of all chapters
    tables: dict, # from `by_table`
) -> Markup: # HTML
    "What a method is, what it takes, and how it did."
    known, made = definitions(text), ingredients(protocols.METHODS[name], taught(text))
    parts, shown = _parts_of(text, known, made)
    taken, classes, results = hyperparameters(name), drop_ins(made), list(_results_of(name, tables))
    sections = [f"# {plain(pretty(name))}", f"`{name}` in result files and on the command line.",
                shown and f"$${shown}$$", parts and "## What it is made of", parts]
    if classes: sections += ["## In your own loop", _loop(classes)]
    if len(taken):
        sections += ["## Its hyper-parameters",
                     draw("table", frame_table(taken, "Hyper-parameters at the paper's scale."))]
    return render(*sections, "## Results", *(results or ["Not run in a published table yet."]))


# Equations, errata, papers

# An equation's entry in the index has all that is known of it.
def _methods(names): return ", ".join(f"[{plain(pretty(m))}](/methods/{m}.html)" for m in names)

def _entry(equation):
    places = {"In the chapter": "; ".join(equation.places),
              "In the code": "; ".join(f"`{f.name}` in {f.piece.link}" for f in equation.functions),
              "Methods": _methods(equation.methods)}
    return [f"{{#{equation.label}}}\n### {equation.name}", equation.formula,
            *(f"{title}: {links}." for title, links in places.items() if links)]

def equations_body(
    text: tuple[Piece, ...], # of all chapters
) -> Markup: # HTML
    "Where each equation and theorem of the papers is derived, implemented and used."
    own = groupby(equations(text).values(), key=lambda e: e.paper)
    entries = [part for paper, found in own for part in (f"## {named(paper)}", *sum(map(_entry, found), []))]
    return render("# Equations and theorems", "Where each numbered equation of the papers is derived or "
                  "discussed, which functions implement it, and which methods use these.", *entries)


# Errata come from the chapters with their checks, and from the conclusions that are counted in the papers'
# tables and in ours:
def _conclusions(sides):
    for both in sides:
        paper, table, scale = which_table(both).values()
        if (paper, table) not in FINDINGS or not scale: continue
        counts = report.counted(findings(both))
        failed = counts[[any(a != b for a, b in (word.split(" of ") for word in words))
                         for words in counts[["paper", "ours"]].to_numpy()]]
        link = f"[{plain(named(paper))}, {plain(named(table))}](/tables/{paper}_{table}.html)"
        for r in failed.itertuples():
            yield {"table": link, "scale of ours": scale, "claim": plain(r.claim),
                   "holds in the paper's table": r.paper, "in ours": r.ours}

def errata_body(
    text: tuple[Piece, ...], # of all chapters
    sides: list, # from `all_sides`
) -> Markup: # HTML
    "The claims that did not hold: in the theory, and in the tables."
    parts = ["# Errata", "Claims of the papers that did not hold when a chapter checked them, each with the "
             "cell that checks it."]
    for own in by_chapter(text).values():
        wrong = errata(own)
        if wrong: parts.append(f"## {named(paper_of(own)) or own[0].title}")
        for e in wrong:
            check = dict(kind="the check", source=Markup(_highlighted(e.check.strip())), outputs=[])
            parts += [e.text, f"In {e.piece.link}.", draw("cell", check)]
    rows = list(_conclusions(sides))
    note = ("What the papers conclude from their tables, put in numbers and counted over settings: here is "
            "what does not hold in all of them, in the paper's own table or in ours. The tables' pages have "
            "the settings one by one.")
    return render(*parts, *(["## In the tables", note, table_of(rows)] if rows else []))


# A paper has a page that leads to its chapter, tables, figures and methods.
def paper_body(
    paper: str, # a key of the papers
    link: str, # to the chapter that follows it; empty if none
    methods: Sequence[str], # that it teaches
    pages: Sequence[Page], # of the report, this paper's
    close: str, # from `papers_table`
) -> Markup: # HTML
    "Where everything on a paper is."
    own = [row for k, row in enumerate(close.splitlines()) if k < 2 or row.startswith(f"| {named(paper)} |")]
    return render(f"# {named(paper)}", link and f"The chapter: {link}.",
                  methods and f"Its methods: {_methods(methods)}.", "## How close",
                  "\n".join(own) if len(own) > 2 else "Nothing was run yet.", "## Tables and figures",
                  "\n".join(f"- [{plain(p.title)}](/{p.file})" for p in pages))


# The front page says how much was reproduced. It is the table of the README, and the report's two.
def laboratory() -> dict: # module → what it is for, in a sentence
    "The plain modules around the course."
    here = Path(__file__).parent
    found = sorted([*here.glob("[a-z]*.py"), *here.glob("*/__init__.py")], key=_room)
    docs = {_room(path): ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for path in found}
    return {name: re.split(r": python -m|\n", doc)[0].rstrip(".") for name, doc in docs.items()}

def _room(path): return path.parent.name if path.stem == "__init__" else path.stem

def laboratory_body() -> Markup: # HTML
    "The list of the laboratory's modules."
    rows = [{"module": f"`noisy_course.lab.{name}`", "what it is for": plain(aim)}
            for name, aim in laboratory().items()]
    return render("# The laboratory", "What plans, trains, compares and shows lies beside the lessons, in "
                  "plain modules that no lesson needs.", table_of(rows))


WELCOME = """Five papers on learning with wrong labels: derived, implemented, checked, and their tables run
again. The chapters are the course, the papers' pages put every published cell beside ours, and there is a
page for each [method](/methods.html), [equation](/equations.html) and
[claim that did not hold](/errata.html). All of it works without internet."""

def _never_run():
    cells = (published(*of).assign(paper=of[0])[["paper", "grid", "method"]] for of in published_tables())
    return sum(tuple(row) in QUOTED for part in cells for row in part.itertuples(index=False))

def front_body(
    close: str, # from `papers_table`
    sides: list, # from `all_sides`
    chapters: Sequence[Page], # of the course, in order
) -> Markup: # HTML
    "The first page: what there is, and how close it is."
    note = ("Differences are |ours − paper| in points of test accuracy, over the cells that were run. "
            "“Within 2 ±” counts cells within two of the paper's standard deviations, where it prints one; "
            "an ordering is a pair of methods that the paper's table tells apart; it holds or is reversed "
            f"if ours tells them apart too, and is undecided otherwise. {report.RULE} Of all cells "
            f"{_never_run()} cannot be run: they stand in rows that a paper quotes from elsewhere.")
    linked = close
    for p in PAPERS: linked = linked.replace(f"| {named(p)} |", f"| [{named(p)}](/papers/{p}.html) |")
    return render("# noisy_course: learning with noisy labels", WELCOME,
                  "\n".join(f"1. [{plain(p.title)}](/{p.file})" for p in chapters), "## What was found",
                  draw("sections", [*opening(sides),
                                    report.overview(sides) | dict(title="Every table", text=[])]),
                  "## How close", linked or "No results yet.", plain(note))


# Building

# The README is a notebook too, with the pictures and the licence that it links to.
def _about(notebooks):
    if not (notebooks/"index.ipynb").is_file(): return render("# About", "The chapters of the course.")
    nb = nbformat.read(notebooks/"index.ipynb", 4)
    for cell in nb.cells:
        cell.source = cell.source.replace("](../LICENSE)", "](https://www.apache.org/licenses/LICENSE-2.0)")
    return chapter_body(nb)

def chapter_pages(
    chapters: dict[str, NotebookNode], # from `read_chapters`
    text: tuple[Piece, ...], # of them
) -> Iterator[Page]:
    "The notebooks, the course first."
    for name, nb in chapters.items():
        own = by_chapter(text)[name]
        yield Page(f"chapters/{name}.html", re.sub(r"[$`*]", "", own[0].title),
                   chapter_body(nb, paper_of(own), equations(text)), "Engine" if "/" in name else "Chapters")

def paper_pages(
    results: pd.DataFrame, # from `read_results`
    sides: list, # from `all_sides`
    text: tuple[Piece, ...], # of all chapters
) -> Iterator[Page]:
    "Each paper, followed by its tables and figures."
    pages, close = list(report.result_pages(results, sides)), papers_table(results)
    follows = {paper_of(own): name for name, own in by_chapter(text).items()}
    for paper in PAPERS:
        own, chapter = [p for p in pages if p.part == named(paper)], follows.get(paper, "")
        methods = getattr(sys.modules.get(f"noisy_course.{module(chapter)}"), "METHODS", {})
        body = paper_body(paper, chapter and chapter_link(text, chapter), methods, own, close)
        yield Page(f"papers/{paper}.html", "The paper", body, "Papers", named(paper))
        yield from own

def site_pages(
    results: pd.DataFrame, # from `read_results`
    notebooks: Path, # folder of the chapters
) -> Iterator[Page]: # the front page first
    "All pages of the site, in order."
    chapters, sides = read_chapters(notebooks), all_sides(results)
    text = tuple(p for name, nb in chapters.items() for p in pieces(nb, name))
    lessons, tables = list(chapter_pages(chapters, text)), by_table(sides)
    yield Page("index.html", "noisy_course", front_body(papers_table(results), sides,
                                                        [p for p in lessons if p.menu == "Chapters"]))
    yield Page("chapters/index.html", "About", _about(notebooks), "Chapters")
    yield from lessons
    yield from paper_pages(results, sides, text)
    for name in protocols.METHODS:
        yield Page(f"methods/{name}.html", pretty(name), method_body(name, text, tables), "Methods")
    methods = render("# Methods", "\n".join(f"- {_methods([name])}" for name in protocols.METHODS))
    yield Page("methods.html", "Methods", methods, "Look up")
    yield Page("equations.html", "Equations and theorems", equations_body(text), "Look up")
    yield Page("errata.html", "Errata", errata_body(text, sides), "Look up")
    yield Page("laboratory.html", "The laboratory", laboratory_body(), "Look up")

MATHJAX = files("mathjax")/"static/mathjax/es5/tex-svg-full.js"

def write_site(
    results: pd.DataFrame, # from `read_results`
    folder: str | Path, # of the site; made if missing
    notebooks: str | Path = "nbs", # folder of the chapters
) -> Path: # index.html
    "Write the whole site: chapters, tables, figures, methods, equations, errata."
    pictures = {f"chapters/images/{p.name}": p.read_bytes() for p in sorted(Path(notebooks).glob("images/*"))}
    return write_pages(list(site_pages(results, Path(notebooks))), folder,
                       pictures | {"assets/mathjax.js": MATHJAX.read_text(encoding="utf-8")})


# The command

# `make report` is `python -m noisy_course.lab.site`. It looks for results where the report does, and for the
# chapters beside `settings.ini`.
def main(
    argv: Sequence[str] | None = None, # the words after the program's name
) -> None:
    "Build the site: python -m noisy_course.lab.site [--results FOLDER …] [--site FOLDER] ..."
    home = (data.settings_file() or Path("settings.ini")).parent
    parser = argparse.ArgumentParser(prog="python -m noisy_course.lab.site",
                                     description="The whole course as one offline site, from results that "
                                     "are there.")
    parser.add_argument("--results", type=Path, nargs="+", help="folders of results")
    parser.add_argument("--site", type=Path, default=results_folder()/"site", help="folder of the pages")
    parser.add_argument("--notebooks", type=Path, default=home/"nbs", help="folder of the chapters")
    args = parser.parse_args(argv)
    try:
        results = read_results(args.results or report.folders())
        print(f"site: {write_site(results, args.site, args.notebooks).resolve()}")
    except (ValueError, OSError) as error: raise SystemExit(str(error)) from None


if __name__ == "__main__": main()
