"""Runs a chapter with other seeds, threads and arithmetic; says which checks break, and how far the others
are from breaking.

    python tests/seeds.py 14_joint_optimization --offsets 0 1 2 3 4 --threads 1 2 --arithmetic native plain

Offset k moves every random stream that is seeded; offset 0 is the chapter as it stands. The tests take it
from the environment: `SEED_OFFSET=3 pytest tests/test_training.py`."""
import argparse
import ast
import itertools
import json
import operator
import os
import sys
import tempfile
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import torch
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
# how far an offset of 1 moves a seed: chapters that use the seeds 0, 1, 2 share none with another offset
STEP = 1000
# other last bits: no vector instructions, and MKL's products in the order that all processors share
ARITHMETIC = dict(
    native={},
    plain=dict(ATEN_CPU_CAPABILITY="default", ONEDNN_MAX_CPU_ISA="SSE41", MKL_ENABLE_INSTRUCTIONS="SSE4_2"),
    compatible=dict(MKL_CBWR="COMPATIBLE"))
RUN = ["offset", "threads", "arithmetic"]
ORDER = ast.Lt, ast.LtE, ast.Gt, ast.GtE
COMPARE = dict(Lt=operator.lt, LtE=operator.le, Gt=operator.gt, GtE=operator.ge)


# Other seeds

def stands_for(base):
    "A metaclass whose classes also count what `base` made as theirs."
    return type("StandsFor", (type(base),), dict(__instancecheck__=lambda cls, x: isinstance(x, base)))

def shift(offset):
    """Adds to the seeds that torch, numpy and scikit-learn receive from now on; to be called before the
    course is imported."""
    if not offset: return
    moved = lambda seed: seed + STEP * offset if isinstance(seed, (int, np.integer)) else seed
    one_seed, numpy_stream, numpy_rng = torch.manual_seed, np.random.seed, np.random.default_rng
    State = np.random.RandomState

    class Generator(torch.Generator, metaclass=stands_for(torch.Generator)):
        def manual_seed(self, seed): return super().manual_seed(moved(seed))

    class RandomState(State, metaclass=stands_for(State)):
        def __init__(self, seed=None): super().__init__(moved(seed))

    torch.Generator, np.random.RandomState = Generator, RandomState
    torch.manual_seed = lambda seed: one_seed(moved(seed))
    np.random.seed = lambda seed=None: numpy_stream(moved(seed))
    np.random.default_rng = lambda seed=None: numpy_rng(moved(seed))


# Checks that are recorded and passed over

class Checks(ast.NodeTransformer):
    """Of a cell's asserts and `test_…` calls, outside functions, makes `_seeds.check(source, lambda: …)`,
    each part of an `and` alone."""
    def __init__(self, watch): self.watch = watch
    def visit_FunctionDef(self, node): return node
    visit_ClassDef = visit_With = visit_FunctionDef

    def visit_Module(self, node):
        self.watch.cell += 1
        return self.generic_visit(node)

    def visit_Assert(self, node):
        parts = (node.test.values if isinstance(node.test, ast.BoolOp) and isinstance(node.test.op, ast.And)
                 else [node.test])
        return [checked(part, "bool(%s)") for part in parts]

    def visit_Expr(self, node):
        called = getattr(getattr(node.value, "func", None), "id", "")
        return checked(node.value, "%s is None") if called in ("test_eq", "test_close") else node

class Margins(ast.NodeTransformer):
    "Of comparisons makes calls that note how far they are from their edge."
    def visit_Compare(self, node):
        self.generic_visit(node)
        if not all(type(op) in ORDER for op in node.ops): return node
        ops = ast.List([ast.Constant(type(op).__name__) for op in node.ops], ast.Load())
        sides = ast.List([node.left, *node.comparators], ast.Load())
        return ast.Call(ast.parse("_seeds.compared", mode="eval").body, [ops, sides], [])

    def visit_Call(self, node):
        self.generic_visit(node)
        if getattr(node.func, "id", "") == "test_close":
            node.args, node.func = [node.func, *node.args], ast.parse("_seeds.close", mode="eval").body
        return node

def checked(node, form):
    source = ast.unparse(node)
    body = form % ast.unparse(Margins().visit(node))
    return ast.parse(f"_seeds.check({source!r}, lambda: {body})").body[0]

def number(x):
    "A plain array of what is compared."
    return np.asarray(x.detach() if isinstance(x, torch.Tensor) else x, float)

class Watch:
    "What the checks of a kernel tell, a line each, in a file."
    def __init__(self, file): self.file, self.cell = file, 0

    def record(self, **outcome):
        with open(self.file, "a") as f: f.write(json.dumps(outcome | dict(cell=self.cell)) + "\n")

    def note(self, difference, *sides):
        try:
            self.margins.append(float(number(difference()).min()))
            self.values.append([round(number(side).item(), 4) for side in sides])
        except (TypeError, ValueError, RuntimeError): pass

    def compared(self, ops, sides):
        for op, a, b in zip(ops, sides, sides[1:]):
            self.note(lambda: a - b if op.startswith("G") else b - a, a, b)
            outcome = COMPARE[op](a, b)
            if len(sides) > 2 and not outcome: break
        return outcome

    def close(self, test_close, a, b, eps=1e-5):
        self.note(lambda: eps - abs(number(a) - number(b)), a, b)
        return test_close(a, b, eps)

    def check(self, source, holds):
        self.margins, self.values = [], []
        try: ok, error = holds(), ""
        except Exception as e: ok, error = False, repr(e)[:300]
        self.record(check=source, ok=bool(ok), error=error, margin=min(self.margins, default=None),
                    values=str(self.values)[:200])

def begin(offset, file):
    "What the first cell of a copy runs."
    shift(offset)
    shell = get_ipython()
    shell.user_ns["_seeds"] = Watch(file)
    shell.ast_transformers.append(Checks(shell.user_ns["_seeds"]))


# Running

def execute(notebook, offset, threads=1, arithmetic="native", keep=None):
    "The checks of one run of a notebook, and the cells that failed outside a check."
    nb = nbformat.read(notebook, 4)
    first = nbformat.v4.new_code_cell("")
    nb.cells.insert(0, first)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder)/"checks.jsonl"
        first.source = (f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import seeds; "
                        f"seeds.begin({offset}, {str(file)!r})")
        env = os.environ | ARITHMETIC[arithmetic] | dict(
            OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
        NotebookClient(nb, timeout=None, allow_errors=True,
                       resources=dict(metadata=dict(path=notebook.parent))).execute(env=env)
        records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if keep: Path(keep).mkdir(parents=True, exist_ok=True)
    if keep: nbformat.write(nb, Path(keep)/f"{notebook.stem}_{offset}_{threads}_{arithmetic}.ipynb")
    ran = [i - 1 for i, cell in enumerate(nb.cells) if cell.cell_type == "code" and cell.source.strip()]
    errors = [dict(cell=i - 1, check="the cell itself", ok=False, error=f"{o.ename}: {o.evalue}"[:300])
              for i, cell in enumerate(nb.cells) for o in cell.get("outputs", []) if o.output_type == "error"]
    rows = pd.DataFrame([s | dict(cell=ran[s["cell"]]) for s in records] + errors,
                        columns=["cell", "check", "ok", "error", "margin", "values"])
    return rows.assign(chapter=notebook.stem, offset=offset, threads=threads, arithmetic=arithmetic)

def summary(rows):
    "One line a check: where it failed, its least margin and the spread of the margin over the runs."
    failed = rows[~rows.ok].groupby(["chapter", "cell", "check"]).apply(
        lambda part: "; ".join(" ".join(map(str, run))
                               for run in part[RUN].drop_duplicates().itertuples(index=False)),
        include_groups=False)
    margin = rows.groupby(["chapter", "cell", "check"]).margin.agg(["min", "max", "std"])
    return margin.assign(failed=failed.reindex(margin.index).fillna("") if len(failed) else "")

def fragile(table):
    """The checks that failed, and those that depend on the run and come nearer to their
    edge than twice their spread."""
    varies = table["std"] > 1e-6
    return table[(table.failed != "") | varies & (table["min"] < 2 * table["std"])]

def main(argv=None):
    "Tells the fragile checks of chapters; the exit code is 1 where one failed."
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chapters", nargs="+", help="e.g. 14_joint_optimization")
    parser.add_argument("--offsets", nargs="+", type=int, default=[int(os.environ.get("SEED_OFFSET", 0))])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--arithmetic", nargs="+", choices=ARITHMETIC, default=["native"])
    parser.add_argument("--save", help="a parquet file to which the rows of all runs go")
    parser.add_argument("--keep", help="a folder for the executed copies")
    args = parser.parse_args(argv)
    runs = itertools.product(args.chapters, args.offsets, args.threads, args.arithmetic)
    rows = pd.concat([execute(ROOT/"nbs"/f"{chapter}.ipynb", *run, args.keep) for chapter, *run in runs],
                     ignore_index=True)
    if args.save: rows.to_parquet(args.save)
    with pd.option_context("display.width", 240, "display.max_colwidth", 110, "display.max_rows", None):
        print(fragile(summary(rows)))
    return int(not rows.ok.all())

if __name__ == "__main__": sys.exit(main())
