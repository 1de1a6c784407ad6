"""Each chapter's checks against wrong formulas: every mutant must fail a check before anything is trained.

`mutants/chapter_NN.py` has a table: what is wrong, a piece of code that the chapter has once, the wrong code.
The chapter runs without figures, data, trainings and what is made of them, a mutant from its change on."""
import ast
import runpy
from pathlib import Path

import nbformat
import pytest
from torch import Generator

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT/"tests/mutants").glob("chapter_*.py"))
TABLES = {path.stem[-2:]: runpy.run_path(path)["MUTANTS"] for path in FILES}
MUTANTS = [(number, mutant) for number, table in TABLES.items() for mutant in table]
LEFT_OUT = {"train", "plots"}  # and all that is made of them, or of these attributes
ATTRIBUTES = {"load", "Adam", "SGD"}
CAUGHT = AssertionError, ValueError, RuntimeError, ArithmeticError  # of a check, or a function
COMPREHENSIONS = ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp

def bound(node):
    "The names that are local to a function or a comprehension."
    return {n.arg if isinstance(n, ast.arg) else n.id for n in ast.walk(node)
            if isinstance(n, ast.arg) or isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}

def free(node):
    "The names that a statement takes from outside."
    if isinstance(node, ast.Name): return {node.id} if isinstance(node.ctx, ast.Load) else set()
    inner = set().union(*map(free, ast.iter_child_nodes(node)))
    own_scope = isinstance(node, (ast.FunctionDef, ast.Lambda, *COMPREHENSIONS))
    return inner - bound(node) if own_scope else inner

def made(node):
    "The names that a statement gives to others."
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)): return {node.name}
    if isinstance(node, (ast.Lambda, *COMPREHENSIONS)): return set()
    own = {node.id} if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else set()
    return own.union(*map(made, ast.iter_child_nodes(node)))

def needs(node, left_out):
    "Whether a statement needs one of these names, data or an optimizer of trainings."
    attributes = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
    return bool(attributes & ATTRIBUTES or free(node) & left_out)

def untrained(sources):
    "Every cell's statements without those that need a figure, data or a training."
    left_out, cells = set(LEFT_OUT), []
    for source in sources:
        kept = []
        for node in ast.parse(source).body:
            if needs(node, left_out): left_out |= made(node)
            else:
                left_out -= made(node)
                kept.append(node)
        cells.append(ast.Module(kept, []))
    return cells

class Chapter:
    "A chapter's cells, and the state before each of them when they ran as they stand."
    def __init__(self, number):
        path, = (ROOT/"nbs").glob(f"{number}_*.ipynb")
        self.sources = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        self.names, self.states = dict(__name__=path.stem), []
        for cell in untrained(self.sources):
            streams = {k: v.get_state() for k, v in self.names.items() if isinstance(v, Generator)}
            self.states.append((dict(self.names), streams))
            self.run(cell)

    def run(self, cell): exec(compile(cell, "cell", "exec"), self.names)

    def place_of(self, right):
        "The number of the only cell that has `right`, once."
        found = [(place, source.count(right)) for place, source in enumerate(self.sources) if right in source]
        assert [count for _, count in found] == [1], (
            f"{right!r} stands {sum(c for _, c in found)} times in the chapter")
        return found[0][0]

    def run_mutant(self, place, right, wrong):
        "Run a cell with `wrong` in place of `right`, and all cells after it."
        kept, streams = self.states[place]
        self.names.clear()
        self.names.update(kept)
        for name, state in streams.items(): self.names[name].set_state(state)
        for cell in untrained(s.replace(right, wrong) for s in self.sources)[place:]: self.run(cell)

@pytest.fixture(scope="module")
def chapters(): return {}

@pytest.mark.parametrize("number, mutant", MUTANTS)
def test_is_caught(chapters, number, mutant):
    if number not in chapters: chapters[number] = Chapter(number)
    chapter, (right, wrong) = chapters[number], TABLES[number][mutant]
    place = chapter.place_of(right)
    with pytest.raises(CAUGHT): chapter.run_mutant(place, right, wrong)

@pytest.mark.parametrize("number", TABLES)
def test_a_change_without_effect_is_not_caught(chapters, number):
    if number not in chapters: chapters[number] = Chapter(number)
    chapter = chapters[number]
    chapter.run_mutant(chapter.place_of("#| default_exp"), "#| default_exp", "#| default_exp ")

@pytest.mark.parametrize("number", TABLES)
def test_table(number): assert len(TABLES[number]) >= 12
