"""The chapters as the site needs them: pieces with links, definitions, equations, errata."""
import ast
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from inspect import unwrap
from itertools import chain, count, groupby
from pathlib import Path

import nbformat
import pandas as pd
from nbformat import NotebookNode
from torch import nn

from noisy_course.basics import require
from noisy_course.lab import protocols
from noisy_course.lab.cells import named
from noisy_course.lab.papers import PAPERS
from noisy_course.method import stages


# A chapter in pieces

# We want links that point at the section of a chapter. So every heading gets a label of its own, in a line of
# braces before it, which becomes its id. Lines behind a fence are no headings.
HEADING = re.compile(r"^```.*?^```|^#{1,4} +(?P<title>[^\n]+)", re.MULTILINE | re.DOTALL)
LABELLED = re.compile(r"^\{#(?P<label>[\w-]+)\}\n#+ +(?P<title>[^\n]+)", re.MULTILINE)

def slug(
    text: str, # a title
) -> str: # e.g. "theorem-1"
    "A text as it may stand in a link."
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")

def labelled(
    nb: NotebookNode, # a chapter
) -> NotebookNode: # the same, in which links can point at headings
    "Put a label before every heading."
    taken = set()
    def label(match):
        if not match["title"]: return match[0]
        key = slug(match["title"]) or "section"
        free = next(k for k in chain([key], (f"{key}-{n}" for n in count(2))) if k not in taken)
        taken.add(free)
        return f"{{#{free}}}\n{match[0]}"
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
        return f"[{self.title}](/chapters/{self.chapter}.html#{self.label})"

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
    return {name: labelled(nbformat.read(path, 4)) for name, path in zip(names, paths)}


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

def in_text(
    piece: Piece, # a text
    paper: str, # that its chapter follows
) -> Iterator[dict]: # a mention each: paper, kind, number, at, tagged, formula
    "The equations and theorems that a text names."
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
            rows += [row for p in own if p.kind == "markdown" for row in in_text(p, paper)]
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
    for stage in stages(method):
        for f in (part for field in FIELDS for part in _unwrapped(getattr(stage, field, None)) if part):
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
        return slug(f"{self.paper} {self.name}")

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
