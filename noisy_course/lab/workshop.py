"""A chapter is written once, with its solutions inside; students and instructors get their copies from it."""
import ast
import re
import sys
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile

import nbformat
from fastcore.script import call_parse
from nbformat import NotebookNode

from noisy_course.basics import atomic_write, recorded, require


# An exercise is three cells

# We recognise an exercise by its directive. It stands among the directives at the top of the cell. A cell
# that merely mentions the word, like two cells of this notebook, is not meant.
def is_exercise(
    cell: NotebookNode, # a cell of a notebook
) -> bool: # whether it holds the solution of an exercise
    "Whether a cell is marked `#| exercise` among its first lines."
    return cell.cell_type == "code" and bool(re.match(r"(\s*#\|.*\n)*\s*#\|\s*exercise\b", cell.source))


# Take the solution out

# Python's own parser reads the cell. The solution is what it finds inside functions and classes. Anything
# else in the cell, a list of names for instance, is a gift to the student and stays.
def _definitions(source):
    "The functions and classes of an exercise, parsed."
    found = [node for node in ast.parse(source).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    require(found, "exercise", "a function or a class to write", repr(source))
    return found


# What a student writes are the bodies of functions. A class counts as its methods; its other lines, such as
# the names of its fields, stay.
def _functions(source):
    "The functions and methods that an exercise asks for, parsed."
    inside = [f for node in _definitions(source)
              for f in (node.body if isinstance(node, ast.ClassDef) else [node])]
    return [f for f in inside if isinstance(f, ast.FunctionDef)]


# The parser also says where a body begins. We keep the text before it as it was typed: decorators, the
# signature with its comments, the docstring. The parser's columns count bytes and not letters, and the
# course writes `−` and `∂` in docstrings; hence `encode` and `decode`.
def _head(lines, node):
    "The lines of a cell up to the body of one function."
    first, documented = node.body[0], ast.get_docstring(node) is not None
    row, column = (first.end_lineno, first.end_col_offset) if documented else (first.lineno, first.col_offset)
    head = [*lines[:row - 1], lines[row - 1].encode()[:column].decode().rstrip()]
    while not head[-1].strip() or head[-1].lstrip().startswith("#"): head.pop()
    return head


# In place of the body comes an error. It is what a student sees who runs the check too early, so it names
# the function as it is called and says what to do.
def _refusal(node, advice):
    "The line that stands for a missing body."
    args = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if a.arg
            != "self"]
    message = f"Not done yet: {node.name}({', '.join(args)}). {advice}"
    return " " * (node.col_offset + 4) + f"raise NotImplementedError({message!r})"


# Now the cell as a whole. Its functions are replaced from the last to the first, so that the line numbers
# of those still to come stay true.
def stub(
    source: str, # the code of an exercise with its solution
    advice: str = "Write it here.", # what the error says after the function's name
) -> str: # the same code without the solution
    "Keep decorators, signatures and docstrings as they are typed; each body becomes a `NotImplementedError`."
    lines = source.split("\n")
    for node in reversed(_functions(source)):
        lines = [*_head(lines, node), _refusal(node, advice), *lines[node.end_lineno:]]
    return "\n".join(lines)


# Insist on the card

# An exercise without minutes or without a hint is not fit for a room of people: nobody knows when to go on,
# and the instructor is asked twenty times. So we look for each part of the card, and say which one is
# missing. The title and the minutes are kept for the student's error message.
PARTS = {
    "a title such as “### Exercise: weigh the belief”": r"^#+ *Exercise[^:\n]*: *(?P<title>[^\n]+)",
    "its minutes, such as “*Three minutes.*”": r"\*[^*\n]*?\b(?P<minutes>\w+) minutes?\b[^*\n]*\*",
    "a folded hint, “<details><summary>Hint</summary>…</details>”":
        r"<details>\s*<summary>Hint.*?</summary>.*?\S.*?</details>",
}

def _card(cell, name):
    "Title and minutes on the card of the exercise `name`."
    text, found = cell.source if cell.cell_type == "markdown" else "", {}
    for part, pattern in PARTS.items():
        match = re.search(pattern, text, re.MULTILINE | re.DOTALL)
        require(match, f"card of {name}", part, repr(text[:60]))
        found |= match.groupdict()
    return found


# The check is the first code cell after the exercise that hands it to a function whose name begins with
# `check_`.
def _check(cells, i, name):
    "Position of the cell that checks the exercise `name`, which stands in cell `i`."
    call = re.compile(rf"^check_\w+\(.*\b{name}\b", re.MULTILINE)
    after = [j for j in range(i + 1, len(cells)) if cells[j].cell_type == "code"
             and call.search(cells[j].source)]
    require(after, f"check of {name}", f"a code cell below that calls check_{name}({name})", "none")
    return after[0]


# What we learn about an exercise fits in four fields.
@dataclass(frozen=True)
class Exercise:
    "Where an exercise stands in its notebook, and what its card says."
    cell: int # position of the cell with the solution
    check: int # position of the cell that checks it
    title: str # what to do
    minutes: str # how long it takes, as the card has it


# We go through the notebook and stop at the first exercise that lacks something. Where a cell holds several
# functions, the last one is what the others lead to, and the check is called with it.
def check_cards(
    nb: NotebookNode, # a chapter with its solutions
) -> list[Exercise]: # its exercises, in order
    "Find the exercises; a `ValueError` says which card or check is missing or incomplete."
    found = []
    for i, cell in enumerate(nb.cells):
        if not is_exercise(cell): continue
        name = _definitions(cell.source)[-1].name
        found.append(Exercise(i, _check(nb.cells, i, name), **_card(nb.cells[max(i - 1, 0)], name)))
    return found


# Two copies of a chapter

# The student's copy has stubs, and no folded solutions. Outputs are missing only where they would show the
# solution or its praise: in the exercise and in its check. All else is the same, cell by cell, down to the
# ids of the cells.
SOLUTION = re.compile(r"\n*<details>(\s*<summary>Solution.*?</summary>.*?</details>)", re.DOTALL)

def _unsolve(cells, e):
    "Take the solution of exercise `e` out of its cells."
    advice = f"Write it here: {e.minutes.lower()} minutes. The hint is under “{e.title}” above."
    cells[e.cell].source = stub(cells[e.cell].source, advice)
    for i in (e.cell, e.check): cells[i].outputs, cells[i].execution_count = [], None


# The copy is deep, so the chapter itself stays as it is.
def student(
    nb: NotebookNode, # a chapter with its solutions; it is not changed
) -> NotebookNode: # a copy to hand out
    "A copy of the chapter with stubs, without folded solutions and the outputs of exercises and checks."
    nb = deepcopy(nb)
    for exercise in check_cards(nb): _unsolve(nb.cells, exercise)
    for cell in nb.cells:
        if cell.cell_type == "markdown": cell.source = SOLUTION.sub("", cell.source)
    return nb


# The instructor's copy has everything, with the folded solutions open.
def instructor(
    nb: NotebookNode, # a chapter with its solutions; it is not changed
) -> NotebookNode: # a copy to teach from
    "A copy of the chapter with its outputs, and with its folded solutions open."
    nb = deepcopy(nb)
    for cell in nb.cells:
        if cell.cell_type == "markdown": cell.source = SOLUTION.sub(r"\n\n<details open>\1", cell.source)
    return nb


# A folder to hand out

# A chapter may show a picture from a file beside it. That file travels along, because the room may have no
# internet, and no repository either.
PICTURE = re.compile(r"(?:\]\(|src=\")(images/[^)\"\s]+)")

def _sources(nb, kind): return "\n".join(cell.source for cell in nb.cells if cell.cell_type == kind)

def _pictures(path, nb, folder):
    "Where the pictures beside a chapter go, each with where it is now."
    return {folder/picture: path.parent/picture for picture in PICTURE.findall(_sources(nb, "markdown"))}


# It may also show what a long training gave. A chapter asks for such files by name, with `recorded`, so we
# can ask the chapter in turn. The files stand once for both copies, in a folder above them, where
# `recorded` looks too.
RECORDED = re.compile(r"\brecorded\(\s*[\"']([^\"']+)[\"']")

def _results(nb, folder):
    "Where the result files that a chapter reads go, each with where it is now."
    return {folder/"results"/file.name: file for pattern in RECORDED.findall(_sources(nb, "code"))
            for file in recorded(pattern)}


# Files are written whole or not at all, as everywhere in the course.
def _write(path, content):
    "Write a notebook, or copy a file."
    with atomic_write(path) as part:
        if isinstance(content, Path): copyfile(content, part)
        else: nbformat.write(content, part)


# Chapters without exercises are left out: they are the same for everybody. With many chapters at hand, an
# error should say which one it means.
def _copies(path):
    "The two copies of a chapter by the name of their folder; none if it has no exercises."
    nb = nbformat.read(path, 4)
    if not any(map(is_exercise, nb.cells)): return {}
    try: return dict(student=student(nb), instructor=instructor(nb))
    except ValueError as error: raise ValueError(f"{path.name}: {error}") from None


# All copies are made, and all files found, before the first is written. So a chapter that is not fit leaves
# the folder as it was.
def _kit(path, folder):
    "What one chapter puts into the folder of a workshop: where it goes, and a notebook or the file to copy."
    path, files = Path(path), {}
    wing = "engine" if path.parent.name == "engine" else ""
    for who, nb in _copies(path).items():
        files |= {folder/who/wing/path.name: nb} | _pictures(path, nb, folder/who/wing) | _results(nb, folder)
    return files

def write_workshop(
    notebooks: list[str | Path], # chapters with their solutions
    folder: str | Path = "runs/workshop", # gets the folders student, instructor and results, anew
) -> list[Path]: # the notebooks written
    "Write a student's and an instructor's copy of each chapter that has exercises, with all that they read."
    kits = [_kit(path, Path(folder)) for path in notebooks]
    require(any(kits), "notebooks", "at least one with a cell marked #| exercise",
            [str(p) for p in notebooks])
    files = {place: content for kit in kits for place, content in kit.items()}
    try:
        for place, content in files.items(): _write(place, content)
    except OSError as error:
        require(False, "folder", "a folder that can be written to", f"{folder} ({error.strerror or error})")
    return [place for place in files if place.suffix == ".ipynb"]


# From a shell, `make workshop` does this for all chapters, and `python -m noisy_course.lab.workshop FOLDER`
# writes to another place. Writing again replaces the notebooks, so students work on a copy of the folder
# and not in it.
@call_parse(pos=["folder"])
def main(
    folder: str = "runs/workshop", # where the folders student and instructor are written
    notebooks: str = "nbs", # the folder of the chapters
):
    "Write the student's and the instructor's copies of all chapters that have exercises."
    try:
        written = write_workshop([p for wing in (".", "engine")
                                  for p in sorted(Path(notebooks, wing).glob("*.ipynb"))], folder)
    except ValueError as error: sys.exit(str(error))
    for path in written: print(path)
