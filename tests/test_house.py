"""The house: course in front, laboratory behind, imports only downward, and no room too large."""
import ast
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NBS, PACKAGE = ROOT/"nbs", ROOT/"noisy_course"
def room(path): return path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
modules = {room(path): path for path in [*sorted(PACKAGE.rglob("[a-z]*.py")), PACKAGE/"lab"/"papers"/"__init__.py"]
           if not {"workflow", "assets"} & set(path.parts)}
each_module = pytest.mark.parametrize("module", modules)

# A module imports from floors below its own, or from its own floor what stands before it.
FLOORS = [
    "basics", "plots losses noise models", "data", "method stacked trainer checkpoints training", "image_files distributed",
    "loss_correction generalized_cross_entropy symmetric_cross_entropy nnaqc joint_optimization", "head_to_head",
    "lab.pictures lab.tidy lab.jupyter lab.locks lab.carried lab.results", "lab.cells", "lab.sections", "lab.protocols",
    "lab.papers.patrini2017 lab.papers.zhang2018 lab.papers.wang2019 lab.papers.jindal2019 lab.papers.tanaka2018 lab.papers.course", "lab.papers",
    "lab.identity", "lab.grid", "lab.incoming lab.job", "lab.forecast", "lab.batch", "lab.comparison", "lab.workshop lab.speed lab.gpu_pack lab.report", "lab.site"]
PLACE = {name: k for k, name in enumerate(" ".join(FLOORS).split())}

MOST = 500 # lines of a room, without the list of its names
TOO_LARGE = {"data", "plots", "lab.site"} # shrinks, never grows


def imports(path):
    "The modules of the house that a module imports, wherever in its text."
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import): found = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            inside = "noisy_course" + ("." + node.module if node.module else "") if node.level else node.module
            found = [inside, *(f"{inside}.{a.name}" for a in node.names)]
        else: continue
        yield from (name.removeprefix("noisy_course.") for name in found if name.removeprefix("noisy_course.") in PLACE)

def test_imports_are_seen(tmp_path):
    path = tmp_path/"module.py"
    path.write_text("import noisy_course.data, torch\nfrom noisy_course.noise import a\nfrom .plots import b\nfrom . import models\n"
                    "def f():\n    from noisy_course.lab import report\n    from noisy_course.lab.site import build")
    assert set(imports(path)) == {"data", "noise", "plots", "models", "lab.report", "lab.site"}

def test_every_room_has_a_floor(): assert set(modules) <= set(PLACE)

@each_module
def test_imports_go_down(module):
    assert {name for name in imports(modules[module]) if PLACE[name] >= PLACE[module]} == set()

@pytest.mark.parametrize("module", [name for name in modules if not name.startswith("lab.")])
def test_course_and_engine_know_no_laboratory(module):
    "Not even in a string, as a command or an import by name would have it."
    assert "noisy_course.lab" not in modules[module].read_text(encoding="utf-8")

@each_module
def test_rooms(module):
    text = re.sub(r"^__all__ = \[.*?\]\n", "", modules[module].read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert (len(text.splitlines()) > MOST) == (module in TOO_LARGE)

LONG, MOST_LONG = 110, 17 # characters of a line of the laboratory; how many lines are longer, which shrinks and never grows

def test_long_lines_become_fewer():
    lines = [line for name, path in modules.items() if name.startswith("lab") for line in path.read_text(encoding="utf-8").splitlines()]
    assert sum(len(line) > LONG for line in lines) <= MOST_LONG

def test_chapters_are_the_course():
    "The first folder shows the chapters and nothing else; what they stand on lies in a folder of its own."
    COURSE = r"index|01_first_hour|02_noise|1\d_\w+|20_results|22_head_to_head"
    assert [path.stem for path in NBS.glob("*.ipynb") if not re.fullmatch(COURSE, path.stem)] == []
    for path in (NBS/"engine").glob("*.ipynb"): assert not re.search(r"^The paper:", nbformat.read(path, 4).cells[0].source, re.MULTILINE)

def test_three_lists_in_the_readme():
    text = (ROOT/"README.md").read_text(encoding="utf-8")
    lists = re.findall(r"^\| (\w+) \| (?:you will|what it is for)", text, re.MULTILINE)
    assert lists == ["chapter", "notebook", "module"]
    told = re.findall(r"^\| `noisy_course\.(lab\.\w+)` \|", text, re.MULTILINE)
    assert sorted(told) == sorted(name for name in modules if name.startswith("lab.") and name.count(".") == 1)
