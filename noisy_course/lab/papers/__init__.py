"""The papers, a file each: what they did (grids), what they conclude, and what their figures show.

A file gives one `PAPER`. The order is that of the chapters. An experiment of your own is such a file too,
anywhere: `make table PROTOCOL=mine.py TABLE=…`; the processes that train its blocks find it by the
variable NOISY_PROTOCOL. A method of your own is entered there, `METHODS["mine"] = Method("mine", loss, …)`,
and its `version` raised whenever its code comes to compute something else."""
import os
import re
import runpy
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from noisy_course.basics import require
from noisy_course.lab.cells import NAMES
from noisy_course.lab.protocols import Paper

KNOWN = {} # key → Paper
TABLES = {} # (paper, table) → Grid
FINDINGS, CONCLUSIONS, FIGURES, QUOTED, NOTES = {}, {}, {}, set(), {}
VARIABLE = "NOISY_PROTOCOL"

def add(
    key: str, # e.g. "patrini2017"; it stands in the names of results
    paper: Paper, # all that is known of it
) -> None:
    "Make a paper known to plans, reports and the site."
    KNOWN[key], NAMES[key] = paper, paper.title
    for registry, own in ((TABLES, paper.tables), (FINDINGS, paper.findings),
                          (CONCLUSIONS, paper.conclusions), (FIGURES, paper.figures)):
        registry |= {(key, table): value for table, value in own.items()}
    QUOTED.update((key, *cell) for cell in paper.quoted)
    if paper.note: NOTES[key] = paper.note

def add_file(
    path: str | Path, # a Python file that gives a `PAPER`
) -> str: # its key, the name of the file
    "Make an experiment of one's own known, here and in the processes that are started from here."
    path = Path(path).resolve()
    require(path.is_file() and path.suffix == ".py", "protocol", "a Python file", path)
    require(re.fullmatch(r"[a-z]\w*", path.stem) and path.stem not in OURS, "protocol",
            "a file whose name is a word, and no paper's", path.name)
    paper = runpy.run_path(str(path)).get("PAPER")
    require(isinstance(paper, Paper), "protocol", f"a `PAPER = Paper(…)` in {path.name}", paper)
    add(path.stem, paper)
    os.environ[VARIABLE] = str(path)
    return path.stem

_found = {name: import_module(f"{__name__}.{name}").PAPER for _, name, _ in iter_modules(__path__)}
OURS = sorted(_found, key=lambda name: _found[name].chapter)
for name in OURS: add(name, _found[name])
PAPERS = [name for name in OURS if name != "course"]
if os.environ.get(VARIABLE): add_file(os.environ[VARIABLE])
