"""Bad values for what users call of plans, blocks, batches, results and comparisons: an error that names
the argument, and never silence."""
import re
import warnings

import numpy as np
import pandas as pd
import pytest

from noisy_course import head_to_head as heads
from noisy_course.basics import pick, recorded
from noisy_course.lab import batch, cells, comparison, grid, job, results
from noisy_course.lab.results import read_file

BLOCK = grid.blocks(grid.plan("patrini2017", "table2", "smoke", dataset="mnist"))[0]
ROWS = read_file(
    recorded("patrini2017_text_mnist_mlp_none_0_dropout=0.5-clip=0_paper_c4cfc43b.parquet")[0])
rng = np.random.default_rng(0)
RUNS = pd.DataFrame(
    [dict(dataset="mnist", model="mlp", noise="symmetric", rate=r, method=m, seed=s, variant=f"lr={lr}",
          lr=lr, valid=80 + rng.random(), test=80 + rng.random(), last=70.) for r in (.2, .5)
     for m in ("cross_entropy", "nnaqc", "forward_estimated") for s in range(3) for lr in (.1, 1.)])
PICKED = heads.chosen(RUNS)
H2H = pd.concat([RUNS.assign(paper="course", table=t, scale="laptop", metric=metric,
                             value=RUNS[of], epoch=pd.NA) for t in ("head_to_head", "noisy_only")
                 for metric, of in (("valid_accuracy", "valid"), ("accuracy_best_valid_accuracy", "test"),
                                    ("accuracy_last", "last"))])
TIDY = results._tidy(ROWS)
BOTH = cells.side_by_side(TIDY, "patrini2017", "table2", "paper")

FRAME, WORD, NUMBER, COUNT, FOLDER, LIST = "frame", "word", "number", "count", "folder", "list"
WELCH = dict(mean1=(NUMBER, 67.4), std1=(NUMBER, 1.5), n1=(NUMBER, 5), mean2=(NUMBER, 64.9),
             std2=(NUMBER, 4.4), n2=(NUMBER, 5))
CALLS = { # function → argument → (kind, a good value)
    grid.plan: dict(paper=(WORD, "patrini2017"), table=(WORD, "table2"), scale=(WORD, "smoke"),
                    precision=(WORD, "fp32"), dataset=(WORD, "mnist"), rate=(NUMBER, .6)),
    grid.grid: dict(paper=(WORD, "patrini2017"), table=(WORD, "table2")),
    grid.blocks: dict(plan=(FRAME, grid.plan("patrini2017", "table2", "smoke", dataset="mnist"))),
    results.write_result: dict(rows=(FRAME, ROWS), folder=(FOLDER, ".")),
    results.read_results: dict(folders=(FOLDER, "."), course=("flag", False)),
    results.missing: dict(blocks=(LIST, [BLOCK]), results=(FOLDER, ".")),
    batch.run_blocks: dict(blocks=(LIST, []), results=(FOLDER, "."),
                           device=(WORD, "cpu"), workers=(COUNT, 1)),
    job.execute_block: dict(block=("block", BLOCK), results=(FOLDER, "."), device=(WORD, "cpu")),
    cells.welch: WELCH, cells.apart: WELCH,
    cells.cell_means: dict(results=(FRAME, TIDY), metric=(WORD, "accuracy")),
    cells.side_by_side: dict(results=(FRAME, TIDY), paper=(WORD, "patrini2017"),
                             table=(WORD, "table2"), scale=("any word", "paper")),
    cells.published: dict(paper=(WORD, "patrini2017"), table=(WORD, "table2")),
    cells.orderings: dict(both=(FRAME, BOTH)),
    comparison.findings: dict(both=(FRAME, BOTH)), pick: dict(frame=("any frame", ROWS)),
    heads.tried: dict(results=(FRAME, H2H), scale=(WORD, "laptop"), tables=(LIST, ("head_to_head",))),
    heads.short: dict(dataset=("any word", "mnist"), noise=("any word", "symmetric"), rate=(NUMBER, .5)),
    heads.mean_ranks: dict(runs=(FRAME, RUNS), without=(LIST, ())), heads.chosen: dict(runs=(FRAME, RUNS)),
    heads.regret: dict(runs=(FRAME, RUNS)), heads.free_choice: dict(runs=(FRAME, RUNS), without=(LIST, ())),
    heads.over_cross_entropy: dict(picked=(FRAME, PICKED)),
    heads.league: dict(picked=(FRAME, PICKED)), heads.holm: dict(p=("p-values", np.array([.01, .2]))),
    heads.against: dict(picked=(FRAME, PICKED), rival=(WORD, "cross_entropy")),
    heads.critical_difference: dict(k=(COUNT, 3), n=(COUNT, 4), alpha=(NUMBER, .05)),
    heads.ranking: dict(picked=(FRAME, PICKED), without=(LIST, ())),
    heads.advice: dict(picked=(FRAME, PICKED), first=(COUNT, 2)),
    heads.few_checked: dict(results=(FRAME, H2H), scale=(WORD, "laptop"))}
BAD = {"any frame": [None, 3, "x", [1]], FRAME: [None, 3, "x", [1], ROWS[[]], {}],
       WORD: [None, 3, "no such thing", ["mnist"], {}], "any word": [None, 3, ["mnist"]],
       COUNT: [None, 0, -1, 1.5, "x", True, [1]], NUMBER: ["x", [None, "x"], -1e9, np.inf, 1j, {}],
       FOLDER: [None, 3, "", __file__, "a\0b", {}], LIST: [None, 3, "x", [3], {}],
       "flag": [None, "yes", 1], "block": [None, "x", 3], "p-values": [None, "x", [2.], [np.nan], [[.1]], 3]}
FINE = {(cells.cell_means, "metric", "'no such thing'"),
        *((f, mean, "-1000000000.0") for f in (cells.welch, cells.apart) for mean in ("mean1", "mean2")),
        (grid.plan, "dataset", "None")}
CASES = [(f, a, wrong) for f, arguments in CALLS.items() for a, (kind, _) in arguments.items()
         for wrong in BAD[kind] if (f, a, repr(wrong)) not in FINE]

@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job, "_execute", lambda parameters, where: None)

def outcome(f, a, wrong):
    "What comes of a bad value: named, obscure or silent."
    arguments = {name: value for name, (_, value) in CALLS[f].items()} | {a: wrong}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try: f(**arguments)
        except (ValueError, TypeError) as error:
            return ("named" if re.search(rf"\b{a}\b", str(error).split("\n")[0][:200])
                    else f"obscure: {error!r:.150}")
        except Exception as error: return f"obscure: {error!r:.150}"
    return "silent"

@pytest.mark.parametrize("f", CALLS, ids=lambda f: f.__name__)
def test_good_values_are_taken(f): f(**{name: value for name, (_, value) in CALLS[f].items()})

@pytest.mark.parametrize("f", CALLS, ids=lambda f: f.__name__)
def test_bad_values_are_refused_by_name(f):
    wrong = {(a, repr(value)[:40]): got
             for g, a, value in CASES if g is f and (got := outcome(g, a, value)) != "named"}
    assert wrong == {}

def test_silence_is_heard(monkeypatch):
    silent = lambda rate: None
    monkeypatch.setitem(CALLS, silent, dict(rate=(NUMBER, .3)))
    assert len(CASES) > 250 and outcome(silent, "rate", "x") == "silent"
