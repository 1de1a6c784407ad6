"""The helper that runs chapters with other seeds: it moves every stream, sees a check that hangs on one
draw, and lets sound ones be."""
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import seeds

FRAGILE = ["import numpy as np\nimport torch\nfrom fastcore.test import test_close, test_eq\n"
           "x = torch.rand(4, generator=torch.Generator().manual_seed(0))",
           "",
           "assert 0 <= x[0] <= 1 and x[0] > .49  # 0.4963 at offset 0",
           "test_close(x.tolist(), [.4963, .7682, .0885, .1320], eps=1e-4)\ntest_eq(len(x), 4)",
           "def check(y):\n    assert (y < .5).sum() == 3\ncheck(x)",
           "g = torch.Generator().manual_seed(5)\nassert torch.rand(1, generator=g) < 2 and 0 < x.sum() < 4\n"
           "same = torch.rand(2, generator=torch.Generator().manual_seed(5))[1:]\n"
           "test_eq(torch.equal(torch.rand(1, generator=g), same), True)"]

@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    "The checks of a small notebook at two offsets."
    path = tmp_path_factory.mktemp("fragile")/"fragile.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in FRAGILE]),
                   path)
    return {offset: seeds.execute(path, offset) for offset in (0, 1)}

def failed(rows): return rows[~rows.ok][["cell", "check"]].to_numpy().tolist()

def test_offset_0_is_the_chapter_as_it_stands(rows):
    "Every part of an `and` is told apart; a check within a function fails as its cell."
    assert failed(rows[0][rows[0].check != "the cell itself"]) == []
    assert rows[0].cell.tolist()[:4] == [2, 2, 3, 3] and len(rows[0]) == 7

def test_other_draws_break_what_hangs_on_one(rows):
    "And what follows a failed check is run all the same."
    assert [3, "test_close(x.tolist(), [0.4963, 0.7682, 0.0885, 0.132], eps=0.0001)"] in failed(rows[1])
    assert rows[1].ok[rows[1].check == "0 < x.sum() < 4"].tolist() == [True]

def test_a_check_is_run_once(rows):
    "One that draws leaves its stream where the chapter leaves it."
    assert [row.ok.iloc[-2 if offset else -1] for offset, row in rows.items()] == [True, True]

def test_a_chapter_holds_over_seeds():
    """One whose networks are small; all others take minutes: `python tests/seeds.py 14_joint_optimization
    --offsets 0 1 2 3 4`."""
    rows = seeds.execute(seeds.ROOT/"nbs"/"engine"/"03_models.ipynb", 1)
    assert len(rows) > 30 and failed(rows) == []

def test_numpy_and_the_seeded_streams_are_moved():
    """In a process of its own: what is moved stays moved. A stream that is no seed, and
    offset 0, change nothing."""
    code = """import sys; sys.path.insert(0, sys.argv[1]); import numpy as np, torch, seeds
draws = lambda: [torch.rand(1, generator=torch.Generator().manual_seed(7)).item(),
                 torch.manual_seed(7) and torch.rand(1).item(),
                 np.random.default_rng(7).random(), np.random.RandomState(7).rand(),
                 np.random.default_rng(np.random.PCG64(7)).random()]
before = draws(); seeds.shift(0); assert draws() == before
plain, rng = torch.default_generator, np.random.mtrand._rand
seeds.shift(2); after = draws()
assert [a == b for a, b in zip(before, after)] == [False] * 4 + [True], (before, after)
assert isinstance(plain, torch.Generator) and isinstance(rng, np.random.RandomState)"""
    subprocess.run([sys.executable, "-c", code, Path(__file__).parent], check=True)
