"""What `from noisy_course import …` gives, and what it costs: a loss needs PyTorch and nothing else."""
import subprocess
import sys

import pytest

import noisy_course

NAMES = sorted(set(noisy_course.__all__) - {"__version__"})
HEAVY = ["pandas", "plotly", "scipy", "sklearn", "PIL", "torchvision", "papermill", "IPython", "snakemake"]

def loaded(statement):
    "Which heavy packages a new Python has loaded after a statement."
    code = f"import sys; {statement}; print(*(name for name in {HEAVY} if name in sys.modules))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          check=True).stdout.split()

@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_what_its_module_has(name):
    module = sys.modules[getattr(noisy_course, name).__module__]
    assert getattr(noisy_course, name) is getattr(module, name) and name in dir(noisy_course)

def test_a_star_gives_them_all():
    into = {}
    exec("from noisy_course import *", into)
    assert set(NAMES) <= set(into)

def test_no_name_hides_a_module():
    "`noisy_course.symmetric_cross_entropy` is a chapter, so its function is not at the front door."
    modules = {m.name for m in __import__("pkgutil").iter_modules(noisy_course.__path__)}
    assert not modules & set(NAMES)
    assert {"symmetric_cross_entropy", "generalized_cross_entropy", "noise"} <= modules

def test_an_unknown_name_is_no_name():
    with pytest.raises(AttributeError,
                       match="^module 'noisy_course' has no attribute 'GeneralisedCrossEntropyLoss'$"):
        noisy_course.GeneralisedCrossEntropyLoss

def test_the_door_itself_loads_nothing():
    assert loaded("import noisy_course") == [] and "torch" not in subprocess.run(
        [sys.executable, "-c", "import sys, noisy_course; print(*sys.modules)"], capture_output=True,
        text=True, check=True).stdout.split()

LIGHT = [name for name in NAMES if noisy_course._MODULE_OF[name] not in ("data", "training")]

def test_a_loss_needs_pytorch_alone():
    assert loaded("import noisy_course; " + "; ".join(f"noisy_course.{name}" for name in LIGHT)) == []
