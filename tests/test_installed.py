"""The package as it is installed from a wheel, with nothing else around it than what it says it needs."""
import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from noisy_course.lab import results

ROOT = Path(__file__).parents[1]


# --- an environment with what the wheel asks for, and no more ---

@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The package as it is installed: built from what git has, unpacked into an empty folder."
    source, there = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("there")
    for name in ("noisy_course", "nbs/experiments"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    built = subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", there, source],
                           capture_output=True, text=True)
    assert built.returncode == 0 and "Warning" not in built.stdout + built.stderr, built.stdout + built.stderr
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--target", there / "installed",
                    next(there.glob("*.whl"))], check=True)
    return there / "installed"

def asked(requirements, extras):
    "The requirements that hold here, for some extras."
    for requirement in map(Requirement, requirements or ()):
        if any(not requirement.marker or requirement.marker.evaluate(dict(extra=extra))
               for extra in ("", *extras)):
            yield requirement

def needed(wheel, extras):
    "All distributions that the wheel with some extras asks for, through all that they ask for."
    mine, = importlib.metadata.distributions(name="noisy_course", path=[str(wheel)])
    todo, seen = [Requirement(f"noisy_course[{','.join(extras)}]" if extras else "noisy_course")], set()
    while todo:
        one = todo.pop()
        key = canonicalize_name(one.name), frozenset(one.extras)
        if key in seen: continue
        seen.add(key)
        try: found = mine if key[0] == "noisy-course" else importlib.metadata.distribution(one.name)
        except importlib.metadata.PackageNotFoundError: continue # of another platform
        todo += asked(found.requires, one.extras)
    return {name for name, _ in seen} - {"noisy-course"}

@pytest.fixture
def python(wheel, tmp_path):
    "extras → a Python command that sees the wheel and what it asks for with these extras, and nothing else."
    def made(*extras):
        folder = tmp_path / "-".join(["site", *extras])
        folder.mkdir()
        for name in needed(wheel, extras):
            found = importlib.metadata.distribution(name)
            for top in {file.parts[0] for file in found.files if file.parts[0] not in ("..", "__pycache__")}:
                if not (folder / top).exists():
                    (folder / top).symlink_to(Path(found.locate_file(top)).resolve())
        path = os.pathsep.join(map(str, (wheel, folder)))
        own = ({k: v for k, v in os.environ.items() if not k.startswith("NOISY_COURSE")}
               | dict(PYTHONPATH=path))
        return lambda *words: subprocess.run([sys._base_executable, "-S", *words], cwd=tmp_path, env=own,
                                             capture_output=True, text=True)
    return made


# --- what each installation is for ---

LEARN = """
import importlib.util, torch, noisy_course
from noisy_course import data, GeneralizedCrossEntropyLoss
from noisy_course.training import Recipe, Run, train
from noisy_course import loss_correction, generalized_cross_entropy, symmetric_cross_entropy, nnaqc
from noisy_course import models, noise
others = "torchvision", "plotly", "scipy", "sklearn", "papermill", "IPython", "snakemake", "sphinx"
absent = [name for name in others if importlib.util.find_spec(name)]
assert absent == [], absent
digits, T = data.load("mnist").head(300), noise.symmetric(10, .3)
labels = noise.corrupt(digits.train_y, T, torch.Generator().manual_seed(0))
chapters = loss_correction, generalized_cross_entropy, symmetric_cross_entropy, nnaqc
methods = [m for module in chapters for m in module.METHODS.values()]
build = lambda g: models.initialise(models.MLP(), g)
trained = train(digits, [Run(m, labels, T) for m in methods], build, Recipe(epochs=1))
assert trained.curves.run.nunique() == len(methods)
assert GeneralizedCrossEntropyLoss()(torch.zeros(2, 3), torch.tensor([0, 1])) > 0
print(len(methods))
"""

def test_the_core_learns_without_anything_else(python):
    done = python()("-W", "ignore", "-c", LEARN)
    assert done.returncode == 0 and int(done.stdout) > 20, done.stderr

def test_what_is_missing_is_named(python):
    done = python()("-c", "from noisy_course import models; models.MODELS['resnet34'](10)")
    assert done.returncode == 1 and "No module named 'torchvision'" in done.stderr

def test_the_laboratory_trains_a_table_and_reports_it(python, wheel, tmp_path):
    run, words = python("lab"), ["patrini2017", "table2", "--dataset", "mnist"]
    done = run("-m", "noisy_course.lab.batch", *words, "--noise", "none", "--method", "cross_entropy",
               "--scale", "smoke")
    assert done.returncode == 0, done.stderr
    rows = pd.read_parquet(next((tmp_path / "runs").glob("*.parquet")))
    assert rows.commit.unique().tolist() == ["unknown"]
    assert rows[rows.metric == "accuracy"].value.between(20, 100).all()
    done = run("-m", "noisy_course.lab.report", *words, "--site", "pages")
    assert done.returncode == 0 and (tmp_path / "pages/index.html").exists(), done.stderr
    code = ("from noisy_course import data; from noisy_course.lab import batch, results; "
            "print(results.NOTEBOOK, results.sources(), len(data.load('mnist').train_y), "
            "batch.profile_folder('slurm').name)")
    assert run("-c", code).stdout.split() == [str(wheel / "noisy_course/workflow/train_block.ipynb"),
                                              results.sources(), "60000", "slurm"]

COURSE = ("import noisy_course.plots, noisy_course.head_to_head, noisy_course.lab.workshop, "
          "noisy_course.lab.tidy, jupyterlab, jupytext, nbdev, papermill, nbconvert")
SITE = "import noisy_course.lab.site"

@pytest.mark.parametrize("extra, code",
                         [("course", COURSE), ("site", SITE),
                          ("vision", "from noisy_course import models; models.MODELS['resnet34'](10)")])
def test_an_extra_has_what_it_is_for(python, extra, code):
    done = python(extra)("-W", "ignore", "-c", code)
    assert done.returncode == 0, done.stderr

def test_all_is_all(wheel):
    every = needed(wheel, ["all"])
    for extra in ("vision", "course", "lab", "site", "slurm", "test"): assert needed(wheel, [extra]) <= every
    assert len(needed(wheel, [])) < len(every) / 3
