"""The workshop: every solution passes its check, every stub fails it with a message that helps, and
nothing else differs."""
import ast
import os
import re
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from noisy_course.basics import recorded
from noisy_course.lab.workshop import (SOLUTION, check_cards, instructor, is_exercise, student, stub,
                                       write_workshop)

ROOT = Path(__file__).parents[1]
CHAPTERS = [p for p in sorted((ROOT/"nbs").rglob("*.ipynb"))
            if any(map(is_exercise, nbformat.read(p, 4).cells))]
chapters = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)

HINT = "<details><summary>Hint</summary>Think of one half.</details>"
FOLDED = "<details>\n<summary>Solution</summary>\n\nTwice.\n\n</details>"
CLASS = '''#| export
#| exercise
class Scale:
    "Multiply by a factor."
    unit = "none"
    def __init__(self, factor): self.factor = factor
    @property
    def twice(
        self,
    ): # twice the factor − as a number
        "Twice the factor."

        secret = 2 # the secret
        return secret * self.factor'''


def lesson():
    "A small chapter with two exercises, a picture, and outputs."
    cells = [
        new_markdown_cell("# Toy\n\n![a dot](images/dot.png)"),
        new_code_cell("2 * 3", outputs=[new_output("execute_result", {"text/plain": "6"}, execution_count=1)],
                      execution_count=1),
        new_markdown_cell(f"### Exercise: halve\n\n*Two minutes.* Halve it.\n\n{HINT}\n\n{FOLDED}"),
        new_code_cell(
            '#| exercise\ndef half(x: float, n=1): # x, any number\n    "Half of `x`."\n    return x / 2'),
        new_markdown_cell("Now check it."),
        new_code_cell('def check_half(f):\n    assert f(3) == 1.5, "half of three is one and a half"\n'
                      '    return "Right."\n\ncheck_half(half)',
                      outputs=[new_output("execute_result", {"text/plain": "'Right.'"}, execution_count=3)],
                      execution_count=3),
        new_markdown_cell(
            f"### Exercise 2 (harder): scale\n\n*Difficulty 2 of 3, 5 minutes.* Scale it.\n\n{HINT}"),
        new_code_cell(CLASS),
        new_code_cell(
            'def check_scale(f):\n    assert f(2).twice == 4\n    return "Right."\n\ncheck_scale(Scale)'),
        new_code_cell("'#| exercise is only mentioned here'")]
    return new_notebook(cells=cells, metadata=dict(
        kernelspec=dict(name="python3", display_name="python3", language="python")))


def run(nb, folder):
    "Run a notebook as JupyterLab would, in a room without internet."
    nb = deepcopy(nb)
    nb.cells.insert(0, new_code_cell(
        "import socket\ndef no_internet(host, *rest, **more): raise OSError(f'no internet: {host}')\n"
        "socket.getaddrinfo = no_internet"))
    NotebookClient(nb, kernel_name="python3", timeout=None, startup_timeout=600,
                   resources=dict(metadata=dict(path=str(folder)))).execute()
    return nb


PROOF = """def __prove__():
    exec({stub!r}, globals())
    try: exec({check!r}, globals())
    except NotImplementedError as error: message = str(error)
    else: raise AssertionError("the stub passes its check")
    for words in ("Not done yet: ", "Write it here: {minutes} minutes", {title!r}):
        assert words in message, message
    exec({solution!r}, globals())

__prove__()"""

def prover(nb, handed_out=None):
    """The chapter with its solutions. After each check the stub, as it is handed out, takes the solution's
    place, must fail the check, and leaves again."""
    handed_out, nb, cards = handed_out or student(nb), deepcopy(nb), check_cards(nb)
    for e in reversed(cards):
        proof = PROOF.format(stub=handed_out.cells[e.cell].source, solution=nb.cells[e.cell].source,
                             check=nb.cells[e.check].source, minutes=e.minutes.lower(), title=e.title)
        nb.cells.insert(e.check + 1, new_code_cell(proof))
    return nb


def skeleton(source):
    "A program without the bodies of its functions and methods, but with their docstrings."
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.body = node.body[:1] if ast.get_docstring(node) else [ast.Pass()]
    return ast.dump(tree)

def is_stub(source, solution):
    """Whether `source` is `solution` with nothing but bodies taken out: each line but the refusals is a
    line of it, in order."""
    typed = iter(solution.split("\n"))
    rest = [line for line in source.split("\n") if "raise NotImplementedError(" not in line]
    return (skeleton(source) == skeleton(solution)
            and all(any(full.startswith(line) for full in typed) for line in rest))

def differences(a, b):
    "Position and field of everything that differs between two notebooks."
    assert ((a.metadata, a.nbformat, a.nbformat_minor, len(a.cells))
            == (b.metadata, b.nbformat, b.nbformat_minor, len(b.cells)))
    return {(i, k) for i, (x, y) in enumerate(zip(a.cells, b.cells))
            for k in x.keys() | y.keys() if x.get(k) != y.get(k)}

def only_solutions_differ(nb):
    "Assert that the student's copy lacks solutions and their outputs and nothing else."
    cards, copy = check_cards(nb), student(nb)
    allowed = {(e.cell, "source") for e in cards} | {(i, k) for e in cards for i in (e.cell, e.check)
                                                     for k in ("outputs", "execution_count")}
    for i, cell in enumerate(nb.cells):
        if cell.cell_type == "markdown" and (folded := SOLUTION.search(cell.source)):
            allowed.add((i, "source"))
            assert copy.cells[i].source == cell.source.replace(folded[0], "")
    assert differences(nb, copy) <= allowed
    for e in cards:
        assert is_stub(copy.cells[e.cell].source, nb.cells[e.cell].source)
        assert copy.cells[e.cell].outputs == copy.cells[e.check].outputs == []


def test_only_solutions_differ():
    nb = lesson()
    only_solutions_differ(nb)
    copy = student(nb)
    assert HINT in copy.cells[2].source and "Twice." not in copy.cells[2].source
    assert "secret" not in copy.cells[7].source and "x / 2" not in copy.cells[3].source
    assert copy.cells[1].outputs == nb.cells[1].outputs != []

def test_what_stands_outside_stays():
    full = "names = ['a', 'b']\n\ndef f(x): return names[x]\n\n# as in\nindex = 1"
    assert is_stub(stub(full), full) and stub(full).startswith("names = ['a', 'b']")
    assert stub(full).endswith("# as in\nindex = 1")

def test_a_forgotten_solution_is_seen():
    """The comparison itself finds a line of the body that stayed, a signature that changed, and any other
    cell that did."""
    full = "def f(x):\n    a = 1\n    return x"
    assert is_stub(stub(full), full)
    assert not is_stub(stub(full) + "\n    return x", full.replace("x", "y"))
    assert not is_stub(stub(full).replace("(x)", "(x, y)"), full)
    nb = lesson()
    changed = deepcopy(nb)
    changed.cells[4].source += " "
    assert differences(nb, changed) == {(4, "source")}

def test_instructor_has_all():
    nb = lesson()
    assert differences(nb, instructor(nb)) == {(2, "source")}
    assert (instructor(nb).cells[2].source
            == nb.cells[2].source.replace(FOLDED, FOLDED.replace("<details>", "<details open>")))

def test_toy_proves(tmp_path):
    run(prover(lesson()), tmp_path)

def test_student_runs_up_to_the_first_stub(tmp_path):
    with pytest.raises(CellExecutionError) as error: run(student(lesson()), tmp_path)
    assert error.value.ename == "NotImplementedError"
    assert (error.value.evalue
            == "Not done yet: half(x, n). Write it here: two minutes. The hint is under “halve” above.")

def test_wrong_solution_fails(tmp_path):
    "A solution that is wrong, and a check that lets a stub pass, are both found by the prover."
    nb = lesson()
    nb.cells[3].source = nb.cells[3].source.replace("x / 2", "x / 3")
    with pytest.raises(CellExecutionError, match="half of three is one and a half"): run(prover(nb), tmp_path)
    nb = lesson()
    nb.cells[5].source = "def check_half(f): return 'Right.'\ncheck_half(half)"
    with pytest.raises(CellExecutionError, match="the stub passes its check"): run(prover(nb), tmp_path)


@chapters
def test_chapter_copies(path):
    nb = nbformat.read(path, 4)
    only_solutions_differ(nb)
    for copy in (student(nb), instructor(nb)): nbformat.validate(copy)

@chapters
def test_chapter_cards(path):
    "Two to seven exercises of fifteen minutes at most, so that a chapter fits an hour."
    words = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
             "fifteen".split())
    cards = check_cards(nbformat.read(path, 4))
    assert 2 <= len(cards) <= 7
    for e in cards: assert e.minutes.lower() in words + [str(n) for n in range(1, 16)], e

READY = re.compile(r"<summary>Go on without it</summary><code>(.*?)</code>")

def without_students_methods(nb):
    "A chapter in which the methods that a student writes are the package's, as the cards say; and how many."
    nb, exercises = deepcopy(nb), check_cards(nb)
    ready = {e.cell: READY.search(nb.cells[e.cell - 1].source) for e in exercises}
    for i in filter(ready.get, ready): nb.cells[i].source = ready[i][1]
    return nb, sum(map(bool, ready.values()))

@pytest.mark.parametrize("chapter, methods", [("11_generalized_cross_entropy", 3),
                                               ("12_symmetric_cross_entropy", 3),
                                               ("13_nnaqc", 3), ("14_joint_optimization", 2)])
def test_a_student_may_go_on_without_a_method(chapter, methods):
    nb, found = without_students_methods(nbformat.read(ROOT/f"nbs/{chapter}.ipynb", 4))
    assert found == methods
    run(nb, ROOT/"nbs")

@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A machine with the workshop's folder, as the command writes it, and the package: no repository, no
    settings, an empty home."""
    place = tmp_path_factory.mktemp("elsewhere")
    (place/"home").mkdir()
    subprocess.run([sys.executable, "-m", "noisy_course.lab.workshop", place/"kit"], cwd=ROOT, check=True,
                   capture_output=True)
    shutil.copytree(ROOT/"noisy_course", place/"package"/"noisy_course",
                    ignore=shutil.ignore_patterns("__pycache__"))
    return place

HERE = "import noisy_course\nassert noisy_course.__file__ == {!r}, noisy_course.__file__"

@chapters
def test_chapter_proves(path, elsewhere, monkeypatch):
    """The instructor's copy runs to its end where it was written, without internet,
    repository and data folder. On the way every solution passes its check, and every stub
    of the student's copy fails it helpfully."""
    for name in [name for name in os.environ if name.startswith("NOISY_COURSE_")]: monkeypatch.delenv(name)
    for name in ("HOME", "XDG_CACHE_HOME"): monkeypatch.setenv(name, str(elsewhere/"home"))
    monkeypatch.setenv("PYTHONPATH", str(elsewhere/"package"))
    handed_out, full = (nbformat.read(elsewhere/"kit"/who/path.relative_to(ROOT/"nbs"), 4)
                        for who in ("student", "instructor"))
    nb = prover(full, handed_out)
    nb.cells.insert(0, new_code_cell(HERE.format(str(elsewhere/"package"/"noisy_course"/"__init__.py"))))
    run(nb, (elsewhere/"kit"/"instructor"/path.relative_to(ROOT/"nbs")).parent)

def test_some_chapter_has_exercises():
    assert "10_loss_correction" in [p.stem for p in CHAPTERS]


MODULES = sorted((ROOT/"noisy_course").glob("[a-z]*.py"))

@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_stub_of_real_code(path):
    """Whatever function or class of the library became an exercise, its stub would keep signature and
    docstring and lose the body."""
    source = path.read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)): continue
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        full = "\n".join(source.split("\n")[first - 1:node.end_lineno])
        assert is_stub(stub(full), full)
        for f in ast.walk(ast.parse(stub(full))):
            if isinstance(f, ast.FunctionDef): assert isinstance(f.body[-1], ast.Raise) and len(f.body) <= 2

words = st.text(st.characters(codec="utf-8", exclude_characters='"\\',
                              exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=8)

@given(words, words, st.booleans(), st.sampled_from(["", "@staticmethod\n", "@wrap(\n    1)\n"]),
       st.sampled_from([" return 1", "\n    return 1",
                        "\n    # think\n    a = 1\n\n    def inner(): return a\n    return inner()"]))
def test_stub_properties(doc, comment, documented, decorator, body):
    """A docstring or comment in any alphabet, a decorator or none, a body on the same line or over many:
    text before the body stays."""
    head = f"{decorator}def f(\n    x: int, # {comment}\n):"
    documented = documented and body.startswith("\n")
    full = head + (f'\n    "{doc}"' if documented else "") + body
    out = stub(full)
    assert out.startswith(head) and is_stub(out, full) and (not documented or f'"{doc}"' in out)
    assert len(ast.parse(out).body[0].body) == 1 + documented

@given(words)
def test_advice_of_any_kind(advice):
    "Quotes, backslashes and braces in a card's title come out of the error as they went in."
    names = {}
    exec(stub("def f(x, *, y=1): return x", f"'\"\\{{}}$\\hat T$ {advice}"), names)
    with pytest.raises(NotImplementedError) as error: names["f"](1)
    assert str(error.value) == f"Not done yet: f(x, y). '\"\\{{}}$\\hat T$ {advice}"


@pytest.mark.parametrize("old, new, message", [
    ("### Exercise: halve", "### A task", "card of half: expected a title"),
    ("Two minutes", "Soon", "card of half: expected its minutes"),
    (HINT, "", "card of half: expected a folded hint"),
    (HINT, "<details><summary>Hint</summary>  </details>", "card of half: expected a folded hint"),
    ("check_half(half)", "half(3)",
     r"check of half: expected a code cell below that calls check_half\(half\), got none"),
    ('def half(x: float, n=1): # x, any number\n    "Half of `x`."\n    return x / 2',
     "half = lambda x: x / 2", "exercise: expected a function or a class"),
])
def test_incomplete_exercise(old, new, message):
    nb = lesson()
    for cell in nb.cells: cell.source = cell.source.replace(FOLDED, "").replace(old, new)
    for f in (check_cards, student):
        with pytest.raises(ValueError, match=message): f(nb)

def test_card_must_be_right_above():
    nb = lesson()
    nb.cells.insert(3, new_markdown_cell("Some words between."))
    with pytest.raises(ValueError, match="card of half: expected a title"): check_cards(nb)


def write(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)

@pytest.fixture
def chapter(tmp_path):
    (tmp_path/"nbs"/"images").mkdir(parents=True)
    (tmp_path/"nbs"/"images"/"dot.png").write_bytes(b"a picture")
    nbformat.write(lesson(), tmp_path/"nbs"/"10_toy.ipynb")
    nbformat.write(new_notebook(), tmp_path/"nbs"/"00_plain.ipynb")
    return tmp_path/"nbs"/"10_toy.ipynb"

def test_folder(chapter, tmp_path):
    "Two copies, their picture, the same bytes when written again, and the chapter untouched."
    before, out = chapter.read_bytes(), tmp_path/"out"
    written = write_workshop([chapter.parent/"00_plain.ipynb", chapter], out)
    assert written == [out/"student"/"10_toy.ipynb", out/"instructor"/"10_toy.ipynb"]
    files = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert {p.relative_to(out).as_posix() for p in files} == {
        f"{who}/{f}" for who in ("student", "instructor") for f in ("10_toy.ipynb", "images/dot.png")}
    write_workshop([chapter], out)
    assert files == {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert chapter.read_bytes() == before
    for path in written: nbformat.validate(nbformat.read(path, 4))

def test_nothing_is_half_written(chapter, tmp_path):
    """A chapter that is not fit stops the writing before the first file; a missing picture
    leaves no broken one."""
    nb = lesson()
    nb.cells[2].source = "no card"
    nbformat.write(nb, chapter.with_name("11_bad.ipynb"))
    with pytest.raises(ValueError, match="11_bad.ipynb: card of half"):
        write_workshop(sorted(chapter.parent.glob("*.ipynb")), tmp_path/"out")
    assert not (tmp_path/"out").exists()

def test_recorded_results_travel(chapter, tmp_path, monkeypatch):
    """The files that a chapter asks for, and no other, stand above both copies, and are taken from there
    and not from further up."""
    for name in ("toy_a.parquet", "toy_b.parquet", "other.parquet"):
        write(tmp_path/"results"/name, "from the repository")
    monkeypatch.chdir(tmp_path)
    nb = lesson()
    nb.cells.append(new_code_cell('texts = [file.read_text() for file in recorded("toy_*.parquet")]'))
    nbformat.write(nb, chapter)
    write_workshop([chapter], tmp_path/"kit")
    copies = sorted((tmp_path/"kit"/"results").iterdir())
    assert ([(p.name, p.read_text()) for p in copies]
            == [(f"toy_{c}.parquet", "from the repository") for c in "ab"])
    for place in copies: place.write_text("from the kit")
    monkeypatch.chdir(tmp_path/"kit"/"student")
    assert recorded("toy_*.parquet") == copies
    nb.cells[-1].source = 'recorded("nowhere_*.parquet")'
    nbformat.write(nb, chapter)
    with pytest.raises(ValueError, match="results: expected files nowhere_"):
        write_workshop([chapter], tmp_path/"none")
    assert not (tmp_path/"none").exists()

def test_chapters_look_for_results_in_one_way():
    "No chapter that is handed out names a place outside its own folder."
    for path in CHAPTERS:
        code = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        assert [source for source in code if re.search(r"[\"']\.\./", source)] == [], path.stem

@pytest.mark.parametrize("name", ["file", "file/below", "/proc/none"])
def test_a_place_that_cannot_be_written_to(chapter, tmp_path, name):
    "A message that names the folder, and no traceback."
    (tmp_path/"file").write_text("in the way")
    done = subprocess.run([sys.executable, "-m", "noisy_course.lab.workshop", name, "--notebooks", "nbs"],
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(
        f"folder: expected a folder that can be written to, got {name} ("), done.stderr
    assert len(done.stderr.splitlines()) == 1

def test_no_exercises(chapter, tmp_path):
    with pytest.raises(ValueError, match="notebooks: expected at least one with a cell marked"):
        write_workshop([chapter.parent/"00_plain.ipynb"], tmp_path)

def test_command_line(chapter, tmp_path):
    command = [sys.executable, "-m", "noisy_course.lab.workshop", "out", "--notebooks", "nbs"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(Path("out")/who/"10_toy.ipynb")
                                        for who in ("student", "instructor")]
    assert (tmp_path/"out"/"student"/"10_toy.ipynb").is_file()
