"""One file a paper: what it says is checked by name, and an experiment of one's own is such a file too."""
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from noisy_course.lab import papers
from noisy_course.lab.grid import blocks, plan
from noisy_course.lab.papers import add_file
from noisy_course.lab.protocols import Grid, Paper, Part
from noisy_course.lab.results import read_file
from noisy_course.method import Recipe

ROOT = Path(__file__).parents[1]
PART = Part("mnist", "mlp", (("symmetric", .3),), Recipe(epochs=2), seeds=1)
GRID = Grid((PART,), (({}, ("cross_entropy", "generalized_cross_entropy")),))
PAPER = Paper(title="Mine", tables=dict(two=GRID))
CLAIM = ("1", "better", lambda i: i.rate > 0, lambda w: w.forward, (0, 1))

MINE = '''"""Two losses on a few digits."""
from noisy_course.lab.protocols import Grid, Paper, Part
from noisy_course.method import Recipe

DIGITS = Part("mnist", "mlp", (("symmetric", .3),), Recipe(epochs=2), seeds=1)
PAPER = Paper(title="An experiment of mine", tables=dict(two=Grid((DIGITS,), (
    ({}, ("cross_entropy", "generalized_cross_entropy")), (dict(q=.3), ("generalized_cross_entropy",))))))
'''

@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    "No experiment of one test is known to the next."
    for name in ("KNOWN", "TABLES", "NAMES"): monkeypatch.setattr(papers, name, getattr(papers, name))
    known, tables, names = dict(papers.KNOWN), dict(papers.TABLES), dict(papers.NAMES)
    monkeypatch.setenv(papers.VARIABLE, "")
    yield
    for now, before in ((papers.KNOWN, known), (papers.TABLES, tables), (papers.NAMES, names)):
        now.clear()
        now.update(before)

def test_papers_come_in_the_order_of_the_chapters():
    assert papers.PAPERS == ["patrini2017", "zhang2018", "wang2019", "jindal2019", "tanaka2018"]
    assert papers.OURS[-1] == "course"
    assert all((ROOT/"nbs"/f"{papers.KNOWN[name].chapter}.ipynb").exists() for name in papers.OURS)

@pytest.mark.parametrize("what, name, value", [
    (PART, "dataset", "minst"), (PART, "model", "mpl"), (PART, "network", "mpl"),
    (PART, "noises", (("symetric", .3),)), (PART, "noises", (("symmetric", 1.3),)),
    (PART, "noises", ("symmetric", .3)), (PART, "recipe", dict(epochs=2)), (PART, "seeds", 0),
    (PART, "seeds", "5"), (PART, "seeds", True), (PART, "samples", -1), (PART, "epochs", 0),
    (PART, "usual", dict(dropuot=.5)), (PART, "usual", [.5]), (PART, "laptop", dict(sample=5)),
    (PART, "methods", ("cross_entopy",)), (PART, "methods", "cross_entropy"), (GRID, "parts", ()),
    (GRID, "parts", (replace(PART, noises=()),)), (GRID, "parts", PART), (GRID, "variants", ()),
    (GRID, "variants", ({},)), (GRID, "variants", ((dict(Q=.3), ("cross_entropy",)),)),
    (GRID, "variants", (({}, ("cross_entopy",)),)), (GRID, "variants", (({}, "cross_entropy"),)),
    (PAPER, "title", ""), (PAPER, "title", 3), (PAPER, "chapter", None),
    (PAPER, "note", 1), (PAPER, "tables", [GRID]), (PAPER, "tables", dict(two=PART)),
    (PAPER, "tables", {"Table 2": GRID}), (PAPER, "findings", dict(table9=[CLAIM])),
    (PAPER, "findings", dict(two=[CLAIM[:4]])), (PAPER, "conclusions", dict(table9="x")),
    (PAPER, "figures", dict(two=[("f", "F", None)])), (PAPER, "figures", dict(table9=[])),
    (PAPER, "quoted", (("table9", "x"),))])
def test_a_wrong_value_is_refused_by_name(what, name, value):
    with pytest.raises(ValueError, match=rf"^{name}(\['\w+'\])?: expected "): replace(what, **{name: value})

@pytest.mark.parametrize("kind, wrong",
                         [(Part, dict(netwrok="mlp")), (Grid, dict(part=())), (Paper, dict(tabels={}))])
def test_a_wrong_key_is_refused_by_name(kind, wrong):
    with pytest.raises(TypeError, match=next(iter(wrong))): kind(**wrong)

def test_a_paper_can_say_all_of_it():
    paper = Paper(title="Mine", tables=dict(two=GRID), findings=dict(two=[CLAIM]),
                  conclusions=dict(two="It says so."), quoted=(("two", "x"),),
                  figures=dict(two=[("f", "F", print)]))
    papers.add("mine", paper)
    assert papers.TABLES["mine", "two"] is GRID and papers.NAMES["mine"] == "Mine"
    assert len(plan("mine", "two", "smoke")) == 2
    for registry in (papers.FINDINGS, papers.CONCLUSIONS, papers.FIGURES):
        assert registry.pop(("mine", "two"))
    papers.QUOTED.remove(("mine", "two", "x"))

def test_a_file_is_an_experiment(tmp_path):
    path = tmp_path/"mine.py"
    path.write_text(MINE)
    assert add_file(path) == "mine" and os.environ[papers.VARIABLE] == str(path)
    assert [block.variant for block in blocks(plan("mine", "two", "smoke"))] == ["", "q=0.3"]

@pytest.mark.parametrize("name, text", [("mine.txt", MINE), ("nowhere.py", None), ("patrini2017.py", MINE),
                                        ("my-own.py", MINE), ("mine.py", "PAPER = 3"), ("mine.py", "")])
def test_a_file_that_is_no_experiment(tmp_path, name, text):
    if text is not None: (tmp_path/name).write_text(text)
    with pytest.raises(ValueError, match="^protocol: expected "): add_file(tmp_path/name)
    assert "mine" not in papers.KNOWN and not os.environ[papers.VARIABLE]

def test_make_trains_an_experiment_of_ones_own(tmp_path):
    "From the file to its table in the terminal; the processes that train find the file."
    (tmp_path/"mine.py").write_text(MINE)
    words = ["table", "PROTOCOL=mine.py", "TABLE=two", "SCALE=smoke", "WORKERS=1",
             f"RESULTS={tmp_path/'runs'}", f"PAGES={tmp_path/'pages'}"]
    own = os.environ | dict(PYTHONPATH=str(ROOT))
    done = subprocess.run(["make", "--silent", "-f", ROOT/"Makefile", "READY=", f"VENV={sys.prefix}", *words],
                          cwd=tmp_path, env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = pd.concat(map(read_file,
                         (tmp_path/"runs").glob("mine_two_mnist_mlp_symmetric_0.3_*.parquet")))
    assert set(zip(rows.method, rows.variant)) == {("cross_entropy", ""), ("generalized_cross_entropy", ""),
                                                   ("generalized_cross_entropy", "q=0.3")}
    assert "generalized_cross_entropy" in done.stdout and (tmp_path/"pages"/"index.html").exists()

OWN = '''"""A loss of one's own beside cross-entropy, with its hyper-parameter."""
from noisy_course.lab.protocols import METHODS, Grid, Paper, Part
from noisy_course.losses import cross_entropy, loss_function
from noisy_course.method import Method, Recipe

@loss_function
def tempered(logits, target, temperature=1.):
    return cross_entropy.each(logits / temperature, target)

METHODS["tempered"] = Method("tempered", tempered, hyperparameters=dict(temperature=3.))
DIGITS = Part("mnist", "mlp", (("symmetric", .3),), Recipe(epochs=1), seeds=1)
PAPER = Paper(title="Own", tables=dict(one=Grid((DIGITS,), (({}, ("cross_entropy", "tempered")),))))
'''

def test_a_method_of_ones_own_is_trained_again_alone_when_its_hyperparameter_changes(tmp_path):
    def seconds(text):
        (tmp_path/"own.py").write_text(text)
        command = [sys.executable, "-m", "noisy_course.lab.batch", "own", "one", "--protocol",
                   tmp_path/"own.py", "--scale", "smoke", "--results", tmp_path/"runs"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        rows = read_file(next((tmp_path/"runs").glob("own_one_mnist_mlp_symmetric_0.3_*.parquet")))
        return done.stdout, rows.drop_duplicates("method").set_index("method")[["seconds", "identity"]]
    first, before = seconds(OWN)
    again, after = seconds(OWN.replace("temperature=3.", "temperature=4."))
    assert "2 runs in 1 blocks, 1 to train (2 run-epochs" in first
    assert "2 runs in 1 blocks, 1 to train (1 run-epochs" in again
    assert before.loc["cross_entropy"].equals(after.loc["cross_entropy"])
    assert before.identity["tempered"] != after.identity["tempered"]

def test_a_wrong_experiment_is_told_in_a_line(tmp_path):
    (tmp_path/"mine.py").write_text(MINE.replace('"mlp"', '"mpl"'))
    command = [sys.executable, "-m", "noisy_course.lab.batch", "mine", "two", "--protocol",
               tmp_path/"mine.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("model: expected one of 'mlp'")
    assert "Traceback" not in done.stderr
