"""One folder that opens without internet: the chapters, every table beside ours, every method, every equation, and every claim that did not hold."""
import argparse, ast, inspect, io, json, re, shutil, sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from inspect import unwrap
from html import escape
from importlib.resources import files
from itertools import chain, count, groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import pandas as pd
import plotly.graph_objects as go
from docutils import nodes
from nbformat import NotebookNode
from plotly.offline import get_plotlyjs
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils
from torch import nn

from noisy_course import data
from noisy_course.basics import atomic_write, require
from noisy_course.lab import comparison, protocols, report
from noisy_course.lab.cells import ASSETS, block_title, named, published, setting_title
from noisy_course.lab.comparison import all_sides, findings, papers_table, published_tables, which_table
from noisy_course.lab.papers import FINDINGS, PAPERS, QUOTED, TABLES
from noisy_course.lab.results import read_results, results_folder
from noisy_course.lab.sections import drawn, frame_table
from noisy_course.plots import pretty
from noisy_course.method import stages


# A chapter in pieces

# We want links that point at the section of a chapter, and links that break must stop the build. So every
# heading gets a label of its own, in the way of MyST, the Markdown that Sphinx reads. Lines behind a fence
# are no headings.
HEADING = re.compile(r"^```.*?^```|^#{1,4} +(?P<title>[^\n]+)", re.MULTILINE | re.DOTALL)
LABELLED = re.compile(r"^\((?P<label>[\w-]+)\)=\n#+ +(?P<title>[^\n]+)", re.MULTILINE)

def labelled(
    nb: NotebookNode, # a chapter
    name: str, # of its file, e.g. "02_noise"
) -> NotebookNode: # the same, in which links can point at headings
    "Put a label before every heading."
    taken = set()
    def label(match):
        if not match["title"]: return match[0]
        key = nodes.make_id(f"{name} {match['title']}")
        free = next(k for k in chain([key], (f"{key}-{n}" for n in count(2))) if k not in taken)
        taken.add(free)
        return f"({free})=\n{match[0]}"
    for cell in nb.cells:
        if cell.cell_type == "markdown": cell.source = HEADING.sub(label, cell.source)
    return nb


# Now a chapter is a list of pieces, each with the label of the heading above it:
@dataclass(frozen=True)
class Piece:
    "A text or a code cell, and the heading it stands under."
    chapter: str # e.g. "02_noise"
    label: str # of the heading
    title: str # of the heading
    kind: str # "markdown" or "code"
    source: str # as it is typed

    @property
    def link(self) -> str: # Markdown
        "A link to the heading."
        return f"[{self.title}](#{self.label})"

def pieces(
    nb: NotebookNode, # from `labelled`
    name: str, # of its file
) -> Iterator[Piece]:
    "The texts and code cells of a chapter, cut at headings."
    label = title = ""
    for cell in nb.cells:
        starts = [m.start() for m in LABELLED.finditer(cell.source)] if cell.cell_type == "markdown" else []
        for a, b in zip([0, *starts], [*starts, len(cell.source)]):
            text = cell.source[a:b]
            if starts and (m := LABELLED.match(text)): label, title = m["label"], m["title"]
            if text.strip(): yield Piece(name, label, title, cell.cell_type, text)


# The chapters are the numbered notebooks of a folder, in order, whichever there are:
def read_chapters(
    folder: str | Path, # with notebooks named 00_… to 99_…, and perhaps a folder `engine` with more
) -> dict[str, NotebookNode]: # name, e.g. "02_noise" or "engine/02_data" → notebook, the course first
    "The chapters of the course and the notebooks of the engine, with labels."
    paths = [path for wing in (".", "engine") for path in sorted(Path(folder, wing).glob("[0-9]*.ipynb"))]
    require(paths, "folder", "a folder with notebooks", folder)
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in paths]
    return {name: labelled(nbformat.read(path, 4), path.stem) for name, path in zip(names, paths)}


# Definitions

# What a chapter exports is its module. A definition knows its docstring and its place; `check_…` functions
# only look at arguments.
@dataclass(frozen=True)
class Definition:
    "An exported function or class."
    name: str # e.g. "forward_cross_entropy"
    doc: str # its docstring
    piece: Piece # that defines it

def module(
    chapter: str, # e.g. "02_noise" or "engine/02_data"
) -> str: # e.g. "noise" or "data"
    "The name of the module that a notebook exports."
    return re.sub(r"^(engine/)?\d+_", "", chapter)

@cache
def definitions(
    text: tuple[Piece, ...], # of all chapters
) -> dict[tuple[str, str], Definition]: # (module, name) → definition
    "The exported functions and classes, by module and name."
    cells = [p for p in text if p.kind == "code" and re.match(r"#\| *export\b", p.source)]
    found = [(p, node) for p in cells for node in ast.parse(p.source).body
             if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    public = [(p, node) for p, node in found if not node.name.startswith(("_", "check_"))]
    return {(module(p.chapter), node.name): Definition(node.name, ast.get_docstring(node) or "", p)
            for p, node in public}


# Equations

# A chapter follows one paper, which its first cell names. Its text has the paper's equations as `\tag{4,
# 5}`, as “Eq. 18” or as a bare “(8)”. Docstrings say “Wang et al., Eqs. 8–10 and 18”. All of them are lists
# of numbers:
NUMBERS = r"\d+(?:–\d+)?(?:(?:, and |, | and )\d+(?:–\d+)?)*"
EQUATION = re.compile(rf"\\tag\{{(?P<tag>{NUMBERS})\}}|\bEq(?:s?\.|uations?) \(?(?P<word>{NUMBERS})\)?|"
                      rf"(?<=[\s:])\((?P<bare>{NUMBERS})\)(?=[\s.,;:]|$)", re.MULTILINE)
THEOREM = re.compile(r"\bTheorem (?P<number>\d+)")

def listed_numbers(
    text: str, # e.g. "4, 8–10 and 18"
) -> list[int]:
    "The numbers of a list in words."
    spans = re.findall(r"(\d+)(?:–(\d+))?", text)
    return [n for first, last in spans for n in range(int(first), int(last or first) + 1)]


# The paper of a chapter is the one whose first author stands in the line that begins “The paper:”.
AUTHORS = {named(paper).split()[0]: paper for paper in PAPERS}

def paper_of(
    text: tuple[Piece, ...], # of one chapter
) -> str: # a key of the papers; nothing for a chapter without one
    "The paper that a chapter follows."
    line = re.search(r"^The paper:.*", text[0].source if text else "", re.MULTILINE)
    return next((paper for author, paper in AUTHORS.items() if line and author in line[0]), "")


def by_chapter(
    text: tuple[Piece, ...], # of all chapters
) -> dict[str, tuple[Piece, ...]]: # name → its pieces, in order
    "The pieces of each chapter."
    return {name: tuple(own) for name, own in groupby(text, key=lambda p: p.chapter)}

def taught(
    text: tuple[Piece, ...], # of all chapters
) -> dict[tuple[str, str], Definition]: # as from `definitions`
    "What the papers' chapters define."
    return definitions(tuple(p for own in by_chapter(text).values() if paper_of(own) for p in own))


# A mention is an equation or theorem at a piece. A derivation carries a tag, or the theorem's name in bold;
# a definition is named by its docstring.
DISPLAY = re.compile(r"\$\$.+?\$\$", re.DOTALL)

def _displayed(source, at):
    return next((m[0] for m in DISPLAY.finditer(source) if m.start() < at < m.end()), "")

def _in_text(piece, paper):
    for m in EQUATION.finditer(piece.source):
        shown = _displayed(piece.source, m.start()) if m.lastgroup == "tag" else ""
        for n in listed_numbers(m[m.lastgroup]):
            yield dict(paper=paper, kind="Eq.", number=n, at=piece.link, tagged=m.lastgroup == "tag",
                       formula=shown)
    for m in THEOREM.finditer(piece.source):
        yield dict(paper=paper, kind="Theorem", number=int(m["number"]), at=piece.link,
                   tagged=piece.source[:m.start()].endswith("**"), formula="")

def _in_docstring(definition):
    cited = re.search(rf"\b({'|'.join(AUTHORS)})\b[^()]*?\b(Eq|Theorem)s?\.? ({NUMBERS})", definition.doc)
    for n in listed_numbers(cited[3] if cited else ""):
        yield dict(paper=AUTHORS[cited[1]], kind=dict(Eq="Eq.").get(cited[2], cited[2]), number=n,
                   function=definition)

def mentions(
    text: tuple[Piece, ...], # of all chapters
) -> pd.DataFrame: # a row a mention: paper, kind, number, a link `at`, and `formula` or `function`
    "Every equation and theorem of the papers, where the chapters have it."
    rows = [row for d in definitions(text).values() for row in _in_docstring(d)]
    for own in by_chapter(text).values():
        if paper := paper_of(own):
            rows += [row for p in own if p.kind == "markdown" for row in _in_text(p, paper)]
    return pd.DataFrame(rows, columns=["paper", "kind", "number", "at", "tagged", "formula", "function"])


# Errata

# The chapters mark a claim that did not hold by a quotation block that opens with Erratum or A claim that
# does not …. The cell that checks it comes next, or was the last check before.
ERRATUM = re.compile(r"^> \*\*(?:Erratum|A claim)\b.*(?:\n>.*)*", re.MULTILINE)
CHECK = re.compile(r"\b(assert|test_eq|test_close|expect_fail)\b")

@dataclass(frozen=True)
class Erratum:
    "A claim that did not hold."
    text: str # the quotation block
    piece: Piece # that it stands in
    check: str # the code that checks it

def _is_check(piece):
    return (piece.kind == "code" and CHECK.search(piece.source)
            and not re.match(r"#\| *(export|exercise)|def check_", piece.source))

def _check(own, at):
    after = next((k for k in range(at + 1, len(own)) if own[k].kind == "markdown"), len(own))
    near = [*own[at + 1:after], *reversed(own[:at])]
    return next((re.sub(r"^#\|.*\n", "", p.source) for p in near if _is_check(p)), "")

def errata(
    text: tuple[Piece, ...], # of one chapter
) -> list[Erratum]:
    "The claims that a chapter found not to hold, each with its check."
    return [Erratum(m[0], p, _check(text, k)) for k, p in enumerate(text) if p.kind == "markdown"
            for m in ERRATUM.finditer(p.source)]


# What a method is made of

# A method is a loss and what goes with it: a noise layer, an estimate, label updates. We follow the
# functions from there to what they call, as far as it is defined in a paper's chapter.
FIELDS = "loss", "layer", "estimate", "on_batch_end", "on_epoch_end", "penalty", "batch", "relabel"

def _unwrapped(f):
    "A function, and the functions that a partial gives it."
    if not isinstance(f, partial): return [f]
    return [part for g in (f.func, *f.args, *f.keywords.values()) if callable(g) for part in _unwrapped(g)]

def _called(f):
    "The names that a function or the methods of a class use."
    functions = [g for g in vars(f).values() if callable(g)] if isinstance(f, type) else [unwrap(f)]
    return {name for g in functions if hasattr(g, "__code__") for name in g.__code__.co_names}

def _made_of(known, f, done):
    if f in done: return
    done.append(f)
    for house, name in sorted(known):
        if name in _called(f): _made_of(known, getattr(sys.modules[f"noisy_course.{house}"], name), done)


# Modules are found by what they use: a class whose `loss` is one of these functions, or whose `forward`
# calls the loss.
def ingredients(
    method, # of the engine
    known: dict, # from `definitions`, of the papers' chapters
) -> list[Callable]: # functions and classes, the loss first
    "What a method is made of."
    done = []
    for given in stages(method):
        for f in (part for field in FIELDS for part in _unwrapped(getattr(given, field, None)) if part):
            _made_of(known, f, done)
    return done

def drop_ins(
    made: Sequence[Callable], # from `ingredients`
) -> list[type]: # subclasses of `nn.Module`
    "The modules that bring a method into a loop of your own."
    names, ours = ({f.__name__ for f in made},
                   [f.__module__ for f in made if f.__module__.startswith("noisy_course.")])
    found = [c for house in dict.fromkeys(ours) for c in vars(sys.modules[house]).values()
             if isinstance(c, type) and issubclass(c, nn.Module)]
    losses = [c for c in found if getattr(c, "loss", None) in made]
    others = [c for c in found if c in made or c.__name__.endswith("Loss") and _called(c) & names]
    return [c for c in losses if c.loss is made[0]] or list(dict.fromkeys(losses + others))


# The formula of a definition is the last one displayed before it, in its section:
def formula(
    text: tuple[Piece, ...], # of all chapters
    definition: Definition, # of a function or class
) -> str: # LaTeX; nothing where the section shows none
    "The equation that a definition implements."
    before = text[:text.index(definition.piece)]
    shown = [m for p in before if p.label == definition.piece.label
             for m in re.findall(r"\$\$(.+?)\$\$", p.source, re.DOTALL)]
    return shown[-1] if shown else ""


# With that, an equation knows its places in the chapters, the functions whose docstrings cite it, and the
# methods that are made of these.
@dataclass(frozen=True)
class Equation:
    "A numbered equation or theorem of a paper, and all that the course does with it."
    paper: str # a key of the papers
    name: str # e.g. "Eq. 7" or "Theorem 1"
    formula: str # as the chapter displays it, or that of its function; nothing if there is none
    places: tuple[str, ...] # links into the chapter, its derivation first
    functions: tuple[Definition, ...] # whose docstrings cite it
    methods: tuple[str, ...] # keys of `METHODS` that are made of these

    @property
    def label(self) -> str: # e.g. "wang2019-eq-7"
        "What links point at."
        return nodes.make_id(f"{self.paper} {self.name}")

@cache
def equations(
    text: tuple[Piece, ...], # of all chapters
) -> dict[str, Equation]: # label → equation, in the papers' order
    "Every equation and theorem of the papers that the chapters have."
    known = taught(text)
    uses = {name: {f.__name__ for f in ingredients(m, known)} for name, m in protocols.METHODS.items()}
    rows = mentions(text).sort_values(["kind", "number"], kind="stable").groupby(["paper", "kind", "number"],
        sort=False)
    found = [_equation(text, paper, f"{kind} {number}", own, uses) for (paper, kind, number), own in rows
             if own["at"].notna().any()]
    return {e.label: e for e in sorted(found, key=lambda e: PAPERS.index(e.paper))}

def _equation(text, paper, name, rows, uses):
    there = rows.dropna(subset="at").sort_values("tagged", ascending=False, kind="stable")
    functions = tuple(rows.function.dropna())
    methods = tuple(m for m, names in uses.items() if names & {f.name for f in functions})
    shown = there.formula.iloc[0] or next((f"$${tex}$$" for f in functions if (tex := formula(text, f))), "")
    return Equation(paper, name, shown, tuple(dict.fromkeys(there["at"])), functions, methods)


# Which numbers a method takes from an experiment, beside those that its loss takes:
LABELS = ("alpha", "beta", "lr", "first_epochs", "label_start", "label_stop")
NUMBERS_OF = {name: tuple(m.hyperparameters) for name, m in protocols.METHODS.items()} | dict(
    d2l=("epochs",), truncated_gce=("q", "prune_start", "prune_every"), joint_labels=LABELS,
    joint_optimization=LABELS, joint_hard_optimization=(*LABELS, "top"))

def numbers(
    name: str, # of a method
) -> pd.DataFrame: # one row a part of a published table: its numbers
    "The hyper-parameters of a method in the papers' tables."
    rows = []
    for (paper, table), grid in TABLES.items():
        if (paper, table) not in published_tables(): continue
        for part in (p for p in grid.parts
                     if any(name in (p.methods or names) for _, names in grid.variants)):
            given = protocols.USUAL | part.usual | dict(epochs=part.recipe.epochs)
            noise = ", ".join(dict.fromkeys(named(kind) for kind, _ in part.noises))
            rows.append(dict(paper=named(paper), table=named(table),
                             block=block_title(part.dataset, part.model), epochs=part.recipe.epochs)
                        | {k: given[k] for k in NUMBERS_OF[name]} | dict(noise=noise))
    return pd.DataFrame(rows).drop_duplicates()


# Pages

# Sphinx reads Markdown. What the report already draws goes in as it is, in a fence of raw HTML; titles and
# texts are Markdown, so that they are found and linked. A name may hold anything, so what means something
# in Markdown is escaped.
def plain(
    text: str, # any
) -> str: # Markdown that shows it
    "Text as it is, in Markdown."
    return re.sub(r"([\\`*_{}\[\]<>$|#&~])", r"\\\1", str(text))

def raw(
    html: str, # of a page
) -> str: # Markdown
    "HTML as it is, in Markdown."
    return f"``````{{raw}} html\n{html.strip()}\n``````"

def folded(
    title: str, # to click at
    text: str, # Markdown
) -> str: # Markdown
    "A text that opens with a click."
    return f"<details>\n<summary>{title}</summary>\n\n{text}\n\n</details>"

def table_of(
    rows: Sequence[dict], # heading → Markdown
) -> str: # Markdown
    "A table whose cells may hold links."
    return comparison._markdown([{k: v.replace("|", "\\|") for k, v in row.items()} for row in rows])


# A page of the report: its sections, each with what the templates make of it.
def _section(s):
    html = report.template("parts.html").module.body(s | dict(text=[]))
    inner = (raw(f"<details><summary>Show</summary>{html}</details>" if s["fold"] else html) if html.strip()
             else "")
    return [f"{'#' * s['level']} {plain(s['title'])}", *map(plain, s["text"]), inner]

def page_of(
    page: dict, # of the report: title, paper, sections
) -> str: # Markdown
    "A page of the report in Markdown."
    parts = [part for s in page["sections"] for part in _section(s)] or ["No results yet."]
    return "\n\n".join(filter(None,
                              [f"# {plain(page['paper'])}: {plain(page['title'])}",
                               raw('<div class="chooser"></div>'), *parts]))


# A chapter is a notebook, and stays one. Its figures become what the report's script draws. Code folds:
# checks, imports and solutions are closed at first, the rest is open.
FIGURE = "application/vnd.plotly.v1+json"
PROMPTS = dict(hide="a check", exercise="a solution", export="the code")

def _drawn(output):
    if FIGURE not in output.get("data", {}): return output
    spec = output.data[FIGURE]
    figure = drawn(go.Figure(spec), wide=spec["layout"].get("width", 0) > 800)
    return nbformat.v4.new_output("display_data",
                                  {"text/html": report.template("parts.html").module.figure(figure)})

def _foldable(cell):
    kind = (re.findall(r"^#\| *(\w+)", cell.source, re.MULTILINE) or [""])[0]
    source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.MULTILINE).strip()
    closed = kind in ("hide", "exercise") or re.match(r"import |from ", source)
    words = PROMPTS.get(kind, "the code")
    prompts = {f"code_prompt_{verb}": f"{verb.title()} {words}" for verb in ("show", "hide")}
    tags = [*cell.metadata.get("tags", []), "hide-input", *([] if closed else ["open"])]
    return nbformat.from_dict(cell | dict(source=source, metadata=dict(tags=tags, mystnb=prompts),
                                          outputs=[_drawn(o) for o in cell.outputs]))

def _formula(found):
    return rf'<span class="math notranslate nohighlight">\({escape(found[1], quote=False)}\)</span>'

def _with_formulas_in_hints(cell):
    source = re.sub(r"<details>((?!\n\n).)*", lambda hint: re.sub(r"\$(.+?)\$", _formula, hint[0]),
                    cell.source, flags=re.DOTALL)
    return nbformat.from_dict(cell | dict(source=source))

def chapter_page(
    nb: NotebookNode, # from `read_chapters`
) -> NotebookNode: # for Sphinx
    "A chapter with figures that draw themselves and code that folds."
    cells = [_foldable(cell) if cell.cell_type == "code" else _with_formulas_in_hints(cell)
             for cell in nb.cells]
    return nbformat.from_dict(nb | dict(cells=[cell for cell in cells if cell.source]))


# A page for each method

# Formula, ingredients, modules, numbers, and every table in which we ran it.
def _signature(c):
    return ", ".join(str(p.replace(annotation=p.empty)) for p in inspect.signature(c).parameters.values())

def _loop(classes):
    imports = [f"from {c.__module__} import {c.__name__}" for c in classes]
    calls = [f"{'loss' if c.__name__.endswith('Loss') else 'layer'} = {c.__name__}({_signature(c)})"
             for c in classes]
    return "\n".join(["```python", *imports, "", *calls, "```"])


# Every section of the page is a function of what we know of the method:
def by_table(
    sides: list, # from `all_sides`
) -> dict: # (paper, table) → scale → side
    "Each table at its scales."
    found = {}
    for both in sides:
        paper, table, scale = which_table(both).values()
        found.setdefault((paper, table), {})[scale] = both
    return found


# A table has one grid, a row a setting and a column a scale, with the origin of each cell as in the report:
def _method_grid(name, sides):
    mine = {scale: rows for scale, both in sides.items()
            if (rows := both[both.method == name]).our_n.notna().any()}
    places = [rows for rows in zip(*(both.itertuples() for both in mine.values()))
              if any(pd.notna(r.our_n) for r in rows)]
    rows = [dict(method=f"{block_title(r[0].dataset, r[0].model)}{_ours(r)}, "
                 f"{setting_title(r[0].noise, r[0].rate)}", cells=[report._grid_cell(x) for x in r])
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
            yield (f"### [{plain(named(paper))}, {plain(named(table))}](../tables/{paper}_{printed}.md)\n\n"
                   + raw(str(report.template("parts.html").module.grid(grid))))


# Its ingredients, with their docstrings and the first formula among them:
def _prose(doc): return "`".join(part if k % 2 else plain(part) for k, part in enumerate(doc.split("`")))

def _parts_of(text, known, made):
    found = [known[key] for f in made if (key := (f.__module__.rpartition(".")[2], f.__name__)) in known]
    lines = [f"- `{d.name}` in {d.piece.link}: {_prose(d.doc)}" for d in found]
    if found: lines.append(f"\nThe chapter: [](../chapters/{found[0].piece.chapter}.ipynb).")
    cited = [f"[{named(e.paper)}, {e.name}](#{e.label})" for e in equations(text).values() if set(e.functions)
             & set(found)]
    if cited: lines.append(f"\nIt implements {', '.join(cited)}.")
    return "\n".join(lines), next((f for d in found if (f := formula(text, d))), "")

def method_page(
    name: str, # a key of `METHODS`
    text: tuple[Piece, ...], # of all chapters
    tables: dict, # from `by_table`
) -> str: # Markdown
    "What a method is, what it takes, and how it did."
    known, made = definitions(text), ingredients(protocols.METHODS[name], taught(text))
    parts, shown = _parts_of(text, known, made)
    given, classes, results = numbers(name), drop_ins(made), list(_results_of(name, tables))
    sections = [f"# {plain(pretty(name))}", f"`{name}` in result files and on the command line.",
                f"$${shown}$$" if shown else "", "## What it is made of" if parts else "", parts]
    if classes: sections += ["## In your own loop", _loop(classes)]
    if len(given):
        sections += ["## Its numbers",
                     raw(str(report.template("parts.html").module.table(frame_table(given,
            "Hyper-parameters at the paper's scale."))))]
    return "\n\n".join(filter(None,
                              [*sections, "## Results", *(results or ["Not run in a published table yet."])]))


# Equations, errata, papers

# An equation's entry in the index has all that is known of it. A chapter gets a line below each derivation,
# so that a reader sees what becomes of it.
def _methods(names, folder="methods"):
    return ", ".join(f"[{plain(pretty(m))}]({folder}/{m}.md)" for m in names)

def equation_entry(
    equation: Equation, # from `equations`
) -> str: # Markdown
    "An equation in the index."
    said = {"In the chapter": "; ".join(equation.places),
            "In the code": "; ".join(f"`{f.name}` in {f.piece.link}" for f in equation.functions),
            "Methods": _methods(equation.methods)}
    return "\n\n".join(filter(None,
                              [f"({equation.label})=\n### {equation.name}", equation.formula,
                               *(f"{title}: {links}." for title, links in said.items() if links)]))

def equations_page(
    text: tuple[Piece, ...], # of all chapters
) -> str: # Markdown
    "Where each equation and theorem of the papers is derived, implemented and used."
    own = groupby(equations(text).values(), key=lambda e: e.paper)
    entries = [entry for paper, found in own for entry in (f"## {named(paper)}", *map(equation_entry, found))]
    return "\n\n".join(["# Equations and theorems",
                        "Where each numbered equation of the papers is derived or discussed, which functions "
                        "implement it, and which methods use these.", *entries])

def _becomes(equation):
    said = [", ".join(f"`{f.name}`" for f in equation.functions), _methods(equation.methods, "../methods")]
    return f"[{equation.name}](#{equation.label})" + "".join(f" → {part}" for part in said if part)

def _derived(cell, paper):
    rows = (_in_text(Piece("", "", "", "", cell.source), paper) if cell.cell_type == "markdown" and paper
            else [])
    return dict.fromkeys(nodes.make_id(f"{paper} {row['kind']} {row['number']}") for row in rows
                         if row["tagged"])

def with_links(
    nb: NotebookNode, # from `read_chapters`
    paper: str, # that the chapter follows; empty if none
    known: dict[str, Equation], # from `equations`
) -> NotebookNode: # the same, with a line below each derivation
    "Lead from a derivation to the code and the methods that use it."
    cells = []
    for cell in nb.cells:
        lines = "; ".join(_becomes(known[label]) for label in _derived(cell, paper))
        source = f"{cell.source}\n\n```{{container}} used\n{lines}\n```"
        cells.append(nbformat.from_dict(cell | dict(source=source)) if lines else cell)
    return nbformat.from_dict(nb | dict(cells=cells))


# Errata come from the chapters with their checks, and from the conclusions that the report counts in the
# papers' tables and in ours:
def _conclusions(sides):
    for both in sides:
        paper, table, scale = both[["paper", "table", "scale"]].iloc[0]
        if (paper, table) not in FINDINGS or not scale: continue
        counts = findings(both).groupby(["finding", "claim"],
                                        sort=False)[["paper_holds",
            "ours_holds"]].agg(report._held).reset_index()
        failed = counts[[any(a != b for a, b in (word.split(" of ") for word in words))
                         for words in counts[["paper_holds", "ours_holds"]].to_numpy()]]
        link = f"[{plain(named(paper))}, {plain(named(table))}](tables/{paper}_{table}.md)"
        for r in failed.itertuples():
            yield {"table": link, "scale of ours": scale, "claim": plain(r.claim),
                   "holds in the paper's table": r.paper_holds, "in ours": r.ours_holds}

def errata_page(
    text: tuple[Piece, ...], # of all chapters
    sides: list, # from `all_sides`
) -> str: # Markdown
    "The claims that did not hold: in the theory, and in the tables."
    parts = ["# Errata",
             "Claims of the papers that did not hold when a chapter checked them, each with the cell that "
             "checks it."]
    for own in by_chapter(text).values():
        wrong = errata(own)
        if wrong: parts.append(f"## {named(paper_of(own)) or own[0].title}")
        for e in wrong:
            parts += [e.text, f"In {e.piece.link}.",
                      folded("The check", f"```python\n{e.check.strip()}\n```")]
    rows = list(_conclusions(sides))
    note = ("What the papers conclude from their tables, put in numbers and counted over settings: here is "
            "what does not hold in all of them, in the paper's own table or in ours. The tables' pages have "
            "the settings one by one.")
    return "\n\n".join(parts + (["## In the tables", note, table_of(rows)] if rows else []))


# A paper has a page that leads to its chapter, tables, figures and methods. Titles in the menu are short,
# for the paper stands above them.
def _menu(entries, caption="", hidden=False):
    options = [f":caption: {caption}"] * bool(caption) + [":hidden:" if hidden else ":maxdepth: 1"]
    return "\n".join(["```{toctree}", *options, "", *entries, "```"])

def paper_page(
    paper: str, # a key of the papers
    chapter: str, # that follows it
    pages: Sequence[dict], # of the report, this paper's
    told: str, # from `papers_table`
) -> str: # Markdown
    "Where everything on a paper is."
    head, *rows = told.split("\n", 2)[:2], *told.splitlines()[2:]
    own = [row for row in rows if row.startswith(f"| {named(paper)} |")]
    house = sys.modules.get(f"noisy_course.{module(chapter)}")
    methods = ", ".join(f"[{plain(pretty(m))}](../methods/{m}.md)" for m in getattr(house, "METHODS", {}))
    close = "\n".join([*head, *own]) if own else "Nothing was run yet."
    menu = _menu([f"{p['title']} <../tables/{p['file'].removesuffix('.html')}>" for p in pages])
    links = [f"The chapter: [](../chapters/{chapter}.ipynb)." if chapter else "",
             f"Its methods: {methods}." if methods else ""]
    return "\n\n".join(filter(None,
                              [f"# {named(paper)}", *links, "## How close", close, "## Tables and figures",
                               menu]))


# The front page says how much was reproduced. It is the table of the README, and the report's two.
def laboratory() -> dict: # module → what it is for, in a sentence
    "The plain modules around the course."
    here = Path(__file__).parent
    found = sorted([*here.glob("[a-z]*.py"), *here.glob("*/__init__.py")], key=_room)
    docs = {_room(path): ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for path in found}
    return {name: re.split(r": python -m|\n", doc)[0].rstrip(".") for name, doc in docs.items()}

def _room(path): return path.parent.name if path.stem == "__init__" else path.stem

def laboratory_page() -> str: # Markdown
    "The list of the laboratory's modules."
    rows = [{"module": f"`noisy_course.lab.{name}`", "what it is for": plain(told)}
            for name, told in laboratory().items()]
    return "\n\n".join(["# The laboratory",
                        "What plans, trains, compares and shows lies beside the lessons, in plain modules "
                        "that no lesson needs.", table_of(rows)])


WELCOME = """Five papers on learning with wrong labels: derived, implemented, checked, and their tables run again. The {doc}`chapters <chapters/index>` are the course, the papers' pages put every
published cell beside ours, and there is a page for each [method](methods.md), [equation](equations.md) and [claim that did not hold](errata.md). All of it works without internet."""

def _never_run():
    cells = (published(*of).assign(paper=of[0])[["paper", "grid", "method"]] for of in published_tables())
    return sum(tuple(row) in QUOTED for part in cells for row in part.itertuples(index=False))

def front_page(
    told: str, # from `papers_table`
    sides: list, # from `all_sides`
    menus: Sequence[str], # Markdown
) -> str: # Markdown
    "The first page: what there is, and how close it is."
    note = ("Differences are |ours − paper| in points of test accuracy, over the cells that were run. "
            "“Within 2 ±” counts cells within two of the paper's standard deviations, where it prints one; "
            "an ordering is a pair of methods that the paper's table tells apart; it holds or is reversed "
            f"if ours tells them apart too, and is undecided otherwise. {report.RULE} Of all cells "
            f"{_never_run()} cannot be run: they stand in rows that a paper quotes from elsewhere.")
    linked = re.sub(r"^\| ([^|]+) \|",
                    lambda m: f"| [{m[1]}](papers/{p}.md) |" if (p := {named(p): p for p in PAPERS}.get(m[1]))
                    else m[0], told, flags=re.MULTILINE)
    sections = [part for s in report._overview(sides)
                for part in _section(s | dict(title="Every table", text=[]))]
    return "\n\n".join(["# noisy_course: learning with noisy labels", WELCOME, "## How close",
                        linked or "No results yet.", plain(note), *sections, *menus])


# Building

# All pages, as text, by the name of their file:
def write_sources(
    results: pd.DataFrame, # from `read_results`
    folder: Path, # of the pages' sources; made if missing
    notebooks: str | Path = "nbs", # folder of the chapters
) -> None:
    "Write all pages as Sphinx wants them."
    chapters, sides = read_chapters(notebooks), all_sides(results)
    text = tuple(p for name, nb in chapters.items() for p in pieces(nb, name))
    papers_of = {name: paper_of(own) for name, own in by_chapter(text).items()}
    follows = {paper: name for name, paper in papers_of.items()}
    pages, told, tables = list(report._pages(results, sides)), papers_table(results), by_table(sides)
    write = partial(_write, folder)
    for name, nb in chapters.items():
        write(f"chapters/{name}.ipynb",
              nbformat.writes(chapter_page(with_links(nb, papers_of[name], equations(text)))))
    for p in pages: write(f"tables/{p['file'].removesuffix('.html')}.md", page_of(p))
    for paper in PAPERS:
        write(f"papers/{paper}.md", paper_page(paper, follows.get(paper, ""),
            [p for p in pages if p["paper"] == named(paper)], told))
    for name in protocols.METHODS: write(f"methods/{name}.md", method_page(name, text, tables))
    lists = {"methods": "# Methods\n\n" + _menu(f"methods/{name}" for name in protocols.METHODS),
             "equations": equations_page(text),
             "errata": errata_page(text, sides), "laboratory": laboratory_page()}
    for name, page in lists.items(): write(f"{name}.md", page)
    about = _about(Path(notebooks), folder, write)
    wings = {wing: [f"chapters/{name}" for name in chapters if ("/" in name) == (wing == "The engine")]
             for wing in ("The course", "The engine")}
    menus = [_menu([*about, *wings["The course"]], "The course", True),
             _menu([f"papers/{p}" for p in PAPERS], "Paper beside ours", True),
             *([_menu(wings["The engine"], "The engine", True)] if wings["The engine"] else []),
             _menu(lists, "Look up", True)]
    write("index.md", front_page(told, sides, menus))

def _made(folder): return folder.mkdir(parents=True, exist_ok=True) or folder

def _write(folder, name, text):
    with atomic_write(folder/name) as part: part.write_text(text, encoding="utf-8")


# The README is a notebook too, with the pictures and the licence that it links to:
def _about(notebooks, folder, write):
    for picture in notebooks.glob("images/*"): shutil.copy(picture, _made(folder/"chapters/images"))
    if not (notebooks/"index.ipynb").is_file():
        return (write("chapters/index.md", "# About\n\nThe chapters of the course.")
                or ["About <chapters/index>"])
    nb = nbformat.read(notebooks/"index.ipynb", 4)
    for cell in nb.cells:
        cell.source = re.sub(r"\]\(\.\./LICENSE\)", "](https://www.apache.org/licenses/LICENSE-2.0)",
                             cell.source)
    write("chapters/index.ipynb", nbformat.writes(chapter_page(nb)))
    return ["About <chapters/index>"]


# Sphinx turns them into pages: MyST-NB reads notebooks and Markdown, Furo is the look, and MathJax is a
# local file, beside it the extensions that it fetches when a formula needs one, as `\boldsymbol` does. Our
# own scripts wait until the page is read, plotly before them. A warning, such as a link without a target,
# stops it.
MATHJAX, EXTENSIONS = files("sphinx-mathjax-offline")/"static/mathjax", "input/tex/extensions"
SETTINGS = dict(project="noisy_course", language="en", html_title="noisy_course", html_theme="furo",
                extensions=["myst_nb"], nb_execution_mode="off", nb_render_markdown_format="myst",
                myst_enable_extensions=["dollarmath", "amsmath"], mathjax_path="tex-svg.js",
                html_static_path=["static"], html_css_files=["parts.css", "site.css"],
                html_js_files=[(name, dict(defer="defer")) for name in ("report.js", "site.js")],
                html_show_search_summary=False, html_use_index=False, html_domain_indices=False,
                html_copy_source=False, html_show_sourcelink=False, html_show_copyright=False)

def _equations_as_they_are(app, doctree):
    for node in doctree.findall(nodes.math_block):
        node["nowrap"] = node["no-wrap"] = True
        node.children = [nodes.Text(rf"\[{node.astext()}\]")]

def _plotly_where_it_draws(app, page, template, context, doctree):
    if 'class="plot' in context.get("body", ""):
        app.add_js_file("plotly.min.js", priority=100, loading_method="defer")


# Sphinx would break an equation with several lines into a form of its own; ours are written for MathJax
# already. And plotly, the largest file, is loaded only where a page draws.
def _assets(folder):
    own = [ASSETS/name for name in ("report/parts.css", "report/report.js", "site/site.css", "site/site.js")]
    found = ({file.name: file for file in (MATHJAX/"tex-svg.js", *own)}
             | {f"{EXTENSIONS}/{file.name}": file for file in (MATHJAX/EXTENSIONS).iterdir()})
    for name, file in found.items(): _write(folder, name, file.read_text(encoding="utf-8"))
    _write(folder, "plotly.min.js", get_plotlyjs())

def build(
    sources: Path, # from `write_sources`
    pages: Path, # where the HTML goes
    status=None, # a stream that hears of the progress
) -> None:
    "Let Sphinx build the pages; a ValueError has its warnings, if there are any."
    _assets(sources/"static")
    said = io.StringIO()
    with patch_docutils(), docutils_namespace():
        app = Sphinx(sources, None, pages, pages/".doctrees", "html", SETTINGS, status, said, freshenv=True)
        app.connect("doctree-read", _equations_as_they_are)
        app.connect("html-page-context", _plotly_where_it_draws)
        app.build()
    warned = re.sub(r"\x1b\[[\d;]*m", "", said.getvalue()).strip()
    require(app.statuscode == 0 and not warned, "notebooks", "pages without a warning", warned)


# The finished site goes to its folder file by file, each whole, the front page last.
def write_site(
    results: pd.DataFrame, # from `read_results`
    folder: str | Path, # of the site; made if missing
    notebooks: str | Path = "nbs", # folder of the chapters
    status=None, # a stream that hears of the progress
) -> Path: # index.html
    "Write the whole site: chapters, tables, figures, methods, equations, errata."
    folder = Path(folder)
    with TemporaryDirectory() as work:
        sources, pages = Path(work)/"sources", Path(work)/"pages"
        write_sources(results, sources, notebooks)
        build(sources, pages, status)
        shutil.rmtree(pages/".doctrees")
        _replace(folder, pages)
    return folder/"index.html"

def _replace(folder, pages):
    "Copy the pages, the first one last, and remove what an earlier build wrote and this one does not."
    files, listed = (sorted(f.relative_to(pages).as_posix() for f in pages.rglob("*") if f.is_file()),
                     folder/".pages.json")
    for name in set(json.loads(listed.read_text()) if listed.exists() else []) - set(files):
        (folder/name).unlink(missing_ok=True)
    for name in sorted(files, key=lambda name: name == "index.html"):
        with atomic_write(folder/name) as part: shutil.copyfile(pages/name, part)
    with atomic_write(listed) as part: part.write_text(json.dumps(files))


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
    given = parser.parse_args(argv)
    try:
        results = read_results(given.results or report._folders())
        print(f"site: {write_site(results, given.site, given.notebooks, sys.stdout).resolve()}")
    except (ValueError, OSError) as error: raise SystemExit(str(error)) from None


if __name__ == "__main__": main()
