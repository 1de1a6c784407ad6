"""Each chapter's checks against wrong formulas: every mutant in `mutants/chapter_NN.py` must fail a check before anything is trained.

A table holds, for each mutant, what is wrong, a piece of the chapter's code that occurs in it once, and what stands there instead.
The chapter runs without its figures and without whatever data or training goes into; of each mutant only what follows the change."""
import ast
import runpy
from pathlib import Path

import nbformat
import pytest
from torch import Generator

ROOT = Path(__file__).parents[1]
TABLES = {path.stem[-2:]: runpy.run_path(path)["MUTANTS"] for path in sorted((ROOT/"tests/mutants").glob("chapter_*.py"))}
LEFT_OUT = {"train", "plots"}  # and all that is made of them, or of these attributes
ATTRIBUTES = {"load", "Adam", "SGD"}
COMPREHENSIONS = ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp

def bound(node):
    "The names that are local to a function or a comprehension."
    return {n.arg if isinstance(n, ast.arg) else n.id for n in ast.walk(node)
            if isinstance(n, ast.arg) or isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}

def free(node):
    "The names that a statement takes from outside."
    if isinstance(node, ast.Name): return {node.id} if isinstance(node.ctx, ast.Load) else set()
    inner = set().union(*map(free, ast.iter_child_nodes(node)))
    return inner - bound(node) if isinstance(node, (ast.FunctionDef, ast.Lambda, *COMPREHENSIONS)) else inner

def made(node):
    "The names that a statement gives to others."
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)): return {node.name}
    if isinstance(node, (ast.Lambda, *COMPREHENSIONS)): return set()
    own = {node.id} if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else set()
    return own.union(*map(made, ast.iter_child_nodes(node)))

def needs(node, left_out):
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
            self.states.append((dict(self.names), {k: v.get_state() for k, v in self.names.items() if isinstance(v, Generator)}))
            self.run(cell)

    def run(self, cell): exec(compile(cell, "cell", "exec"), self.names)

    def run_mutant(self, right, wrong):
        "Run the cell that has `right`, with `wrong` in its place, and all cells after it."
        (place, count), = [(i, source.count(right)) for i, source in enumerate(self.sources) if right in source]
        if count > 1: raise ValueError(f"{right!r} stands {count} times in a cell")
        kept, states = self.states[place]
        self.names.clear()
        self.names.update(kept)
        for name, state in states.items(): self.names[name].set_state(state)
        for cell in untrained(s.replace(right, wrong) for s in self.sources)[place:]: self.run(cell)

@pytest.fixture(scope="module")
def chapters(): return {}

@pytest.mark.parametrize("number, mutant", [(number, mutant) for number, table in TABLES.items() for mutant in table])
def test_is_caught(chapters, number, mutant):
    if number not in chapters: chapters[number] = Chapter(number)
    with pytest.raises(AssertionError): chapters[number].run_mutant(*TABLES[number][mutant])

@pytest.mark.parametrize("number", TABLES)
def test_a_change_without_effect_is_not_caught(chapters, number):
    if number not in chapters: chapters[number] = Chapter(number)
    chapters[number].run_mutant("#| default_exp", "#| default_exp ")

@pytest.mark.parametrize("number", TABLES)
def test_table(number): assert len(TABLES[number]) >= 12
