"""What every notebook and every module of the house keeps to."""
import ast
import base64
import re
import shutil
import subprocess
import sys
import tokenize
from collections import Counter
from pathlib import Path

import nbformat
import numpy as np
import pytest

from noisy_course.lab.comparison import readme_table
from noisy_course.lab.results import read_results
from noisy_course.lab.pictures import belongs, bundles
from noisy_course.lab.tidy import METADATA

ROOT = Path(__file__).parents[1]
NBS, PACKAGE = ROOT/"nbs", ROOT/"noisy_course"
BIN = Path(sys.executable).parent
notebooks = sorted(p for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
WITHOUT_MODULE = "index", "01_first_hour", "20_results" # what they use is taught elsewhere
modules = sorted(PACKAGE.glob("[a-z]*.py"))
laboratory = sorted((PACKAGE/"lab").rglob("[a-z]*.py"))

def name(path): return path.relative_to(ROOT).as_posix()
each_notebook = pytest.mark.parametrize("path", notebooks, ids=name)
each_module = pytest.mark.parametrize("path", modules, ids=name)

def code(nb): return [cell for cell in nb.cells if cell.cell_type == "code"]
def tags(cell): return cell.metadata.get("tags", [])
def outputs(nb): return [output for cell in code(nb) for output in cell.outputs]


# Notebooks

@each_notebook
def test_form(path):
    """Valid, readable by papermill, small, every cell can be told from every other, and JupyterLab finds
    nothing to add."""
    nb = nbformat.read(path, 4)
    nbformat.validate(nb)
    assert nb.metadata == METADATA, "run `make nbs`"
    assert path.stat().st_size <= 300 * 1024
    assert not [i for i, n in Counter(cell.id for cell in nb.cells).items() if n > 1]

def test_median_size():
    assert np.median([path.stat().st_size for path in notebooks]) <= 100 * 1024

@each_notebook
def test_nothing_is_skipped_or_broken(path):
    nb = nbformat.read(path, 4)
    assert not [output for output in outputs(nb) if output.output_type == "error"]
    assert not [cell.source for cell in nb.cells if {"raises-exception", "skip-execution"} & set(tags(cell))]
    assert not [cell.source for cell in code(nb) if re.match(r"(#\|.*\n)*#\| *eval: *false", cell.source)]

TOPS = "home|root|tmp|work|Users|opt|mnt|private|var/folders|usr/lib|usr/local"
PLACES = re.compile(rf"(?<![\w.:/])(/(?:{TOPS})/[\w.]|[A-Z]:\\\\?Users)")

@each_notebook
def test_no_machine_in_outputs(path):
    "No absolute path of the machine that ran it, neither a usual one nor the one at hand."
    text = "\n".join(str(output) for output in outputs(nbformat.read(path, 4)))
    assert not PLACES.findall(text)
    for place in (ROOT, Path.home(), sys.prefix): assert f"{place}/" not in text

def test_machine_is_seen():
    place = lambda *parts: "/".join(parts)
    assert PLACES.search("File " + place("", "home", "me", "x.py"))
    assert PLACES.search("'" + place("", "tmp", "abc'")) and PLACES.search("C:" + 2 * chr(92) + "Users")
    assert not PLACES.search(place("host", "home", "x")) and not PLACES.search(place("train", "work", "x"))


# Parameters

def literals(source):
    "The parameters of a cell; an error unless each is a literal."
    found = {}
    for node in ast.parse(source).body:
        assert isinstance(node, (ast.Assign, ast.AnnAssign)), ast.unparse(node)
        target, = node.targets if isinstance(node, ast.Assign) else [node.target]
        found[target.id] = ast.literal_eval(node.value)
    return found

@each_notebook
def test_parameters(path):
    """Papermill puts its cell after the first tagged one and recomputes nothing: one cell, and only
    literals in it."""
    cells = [cell for cell in nbformat.read(path, 4).cells if "parameters" in tags(cell)]
    assert len(cells) == (1 if "experiments" in path.parts else len(cells[:1]))
    for cell in cells: assert cell.cell_type == "code" and literals(cell.source)

def test_derived_parameters_are_seen():
    assert literals("a = 1\nb: list = [1, 'x']\nc = -1.5") == dict(a=1, b=[1, "x"], c=-1.5)
    for bad in ("a = 1\nb = a + 1", "a = len('x')", "import os", "a = b = 1"):
        with pytest.raises((AssertionError, ValueError)): literals(bad)


# Export and clean

def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for part in ("nbs", "noisy_course")
            for p in (folder/part).rglob("*")
            if p.suffix in (".ipynb", ".py") and ".ipynb_checkpoints" not in p.parts}

@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "A copy of notebooks, modules and configuration on which nbdev's tools may work."
    folder = tmp_path_factory.mktemp("house")
    for part in ("nbs", "noisy_course"):
        shutil.copytree(
            ROOT/part, folder/part,
            ignore=shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__", "assets", "images"))
    shutil.copy(ROOT/"pyproject.toml", folder)
    return folder

def nbdev(folder, *command):
    done = subprocess.run([BIN/command[0], *command[1:]], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done

TIDY = ("python", "-m", "noisy_course.lab.tidy")

def test_export_and_clean_change_nothing(copy):
    before = files(ROOT)
    nbdev(copy, "nbdev-export")
    nbdev(copy, *TIDY)
    after = files(copy)
    assert before.keys() == after.keys()
    assert [path for path in before if before[path] != after[path]] == []

@pytest.mark.parametrize("command", [("nbdev-clean", "--fname"), TIDY], ids=" ".join)
def test_parameters_survive_cleaning(copy, command):
    "A notebook whose tag was cleaned away would run with its defaults, and papermill would only warn."
    path = copy/"nbs"/"99_probe.ipynb"
    cell = nbformat.v4.new_code_cell("rate = 0.2", metadata=dict(tags=["parameters"], collapsed=True))
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    nbdev(copy, *command, str(path))
    assert nbformat.read(path, 4).cells[0].metadata == dict(tags=["parameters"])
    path.unlink()


# Modules

def exports(path):
    return re.findall(r"^#\| *default_exp +(\S+)",
                      "\n".join(c.source for c in code(nbformat.read(path, 4))), re.MULTILINE)

def test_one_notebook_is_one_module():
    found = {path.stem: exports(path) for path in notebooks}
    for path in notebooks:
        lesson = path.parent in (NBS, NBS/"engine") and path.stem not in WITHOUT_MODULE
        assert found[path.stem] == ([re.sub(r"^\d\d_", "", path.stem)] if lesson else []), path.stem
    assert sorted(m for ms in found.values() for m in ms) == [p.stem for p in modules]

def commented(path):
    with tokenize.open(path) as file:
        return {t.start[0] for t in tokenize.generate_tokens(file.readline) if t.type == tokenize.COMMENT}

@pytest.mark.parametrize("path", modules + laboratory, ids=name)
def test_documented(path):
    """Public functions and classes have a docstring of one line, and exported functions a
    comment for each parameter."""
    tree, lines = ast.parse(path.read_text(encoding="utf-8")), commented(path)
    top = [n for n in tree.body
           if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith("_")]
    methods = [m for n in top if isinstance(n, ast.ClassDef)
               for m in n.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_")]
    assert [n.name for n in top + methods if "\n" in (ast.get_docstring(n) or "\n")] == []
    bare = {n.name: [a.arg for a in arguments(n) if a.end_lineno not in lines]
            for n in top if isinstance(n, ast.FunctionDef)}
    crowded = [n.name for n in top if isinstance(n, ast.FunctionDef)
               and len({a.end_lineno for a in arguments(n)}) < len(arguments(n))]
    assert {f: args for f, args in bare.items() if args} == {} and crowded == []

def arguments(node):
    a = node.args
    return [x for x in [*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg] if x and x.arg != "self"]


# Figures

def figures(nb):
    return [o.data["application/vnd.plotly.v1+json"]
            for o in outputs(nb) if "application/vnd.plotly.v1+json" in o.get("data", {})]
def title(part): return ((part.get("title") or {}).get("text") or "").strip()

def size(values):
    "How many numbers a list or an encoded array of a figure holds."
    if isinstance(values, dict):
        return len(base64.b64decode(values["bdata"])) // np.dtype(values["dtype"]).itemsize
    return sum(size(v) if isinstance(v, list) else 1 for v in values)

@each_notebook
def test_figures(path):
    "Each says its finding, names its axes, and is light."
    for figure in figures(nbformat.read(path, 4)):
        assert len(title(figure.layout)) > 5, figure.layout.get("title")
        shown = {k: v for k, v in figure.layout.items()
                 if re.fullmatch(r"[xy]axis\d*", k) and v.get("visible") is not False}
        for letter in {k[0] for k in shown}:
            assert any(title(v) for k, v in shown.items() if k[0] == letter), title(figure.layout)
        for trace in figure.data:
            assert max((size(trace[k]) for k in "xyz" if trace.get(k)), default=0) <= 2_000, (
                title(figure.layout))

@each_notebook
def test_figures_have_pictures(path):
    """Beside each figure stands the picture that was drawn from it, for pages that know no
    plotly, and it is light."""
    for bundle in bundles(nbformat.read(path, 4)):
        assert belongs(bundle), (f"{title(bundle['application/vnd.plotly.v1+json'].layout)}: "
                                 f"run `make nbs` where there is a browser")
        assert len(bundle["image/png"]) <= 40 * 1024


# README

def readme(folder):
    "What `make readme` writes."
    out = folder/"README.md"
    subprocess.run(["make", "--silent", "readme", "READY=", f"VENV={sys.prefix}", f"README={out}"],
                   cwd=ROOT, check=True)
    return out.read_text(encoding="utf-8")

def test_readme_is_the_index(tmp_path):
    assert readme(tmp_path) == (ROOT/"README.md").read_text(encoding="utf-8"), "run `make readme`"

def test_links_of_the_readme():
    text = (ROOT/"README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)\s]+)\)", text)
    assert len(links) > 5 and [link for link in links if not (ROOT/link.split("#")[0]).exists()] == []

@pytest.mark.parametrize("path", [p for p in notebooks if p.stem[0].isdigit()], ids=name)
def test_chapter_stands_in_the_readme(path):
    "With the title and the promise that the notebook itself makes."
    row = next((line for line in (ROOT/"README.md").read_text(encoding="utf-8").splitlines()
                if f"]({name(path)}) |" in line), "")
    text = nbformat.read(path, 4).cells[0].source
    promise = re.search(r"\*\*You will\*\* ([^.]+)", text) or re.search(r"^> ([^.]+)", text, re.M)
    for part in (re.match("# (.+)", text)[1], promise[1], re.search(r"(\w+)\s+minutes", text)[1].lower()):
        assert part in row

def test_results_of_the_readme():
    "The table of what has been reproduced is what the report writes from the results of today."
    table = readme_table(read_results([folder for folder in [ROOT/"results"] if folder.is_dir()]))
    assert table in (ROOT/"README.md").read_text(encoding="utf-8"), (
        "run the index again: make nb NB=index, make readme")
