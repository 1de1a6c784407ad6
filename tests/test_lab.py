"""Notebooks as they are committed: what JupyterLab's save changes is undone, and every figure has the picture
that was drawn from it.

`jupyterlab/committed.ipynb` is such a notebook; `jupyterlab/saved.ipynb` is the same after Run All and a
save in JupyterLab 4.6."""
import asyncio
import base64
import shutil
import subprocess
import sys
from copy import deepcopy
from io import BytesIO
from pathlib import Path

import nbformat
import pytest
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelspec import get_kernel_dict
from PIL import Image

from noisy_course.lab import pictures
from noisy_course.lab.jupyter import Notebooks, at_hand
from noisy_course.lab.pictures import (PLOTLY, PNG, add_pictures, belongs, bundles, digest, keep_pictures,
                                       whole_numbers)
from noisy_course.lab.tidy import METADATA, committed, main, notebooks_of, tidy

ROOT = Path(__file__).parents[1]
COMMITTED, SAVED = (ROOT/"tests"/"jupyterlab"/f"{name}.ipynb" for name in ("committed", "saved"))
with_browser = pytest.mark.skipif(not pictures.browser(), reason="no Chromium or Chrome on this machine")

def read(path=COMMITTED): return nbformat.read(path, 4)
def decoded(bundle): return Image.open(BytesIO(base64.b64decode(bundle[PNG])))

@pytest.fixture
def no_browser(monkeypatch): monkeypatch.setattr(pictures, "browser", lambda: "")

@pytest.fixture
def repository(tmp_path):
    "A repository in which `committed.ipynb` is committed as a.ipynb."
    shutil.copy(COMMITTED, tmp_path/"a.ipynb")
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *words], check=True)
    return tmp_path


def test_what_jupyterlab_changes():
    """The save in the fixture has what must be undone: a large picture in place of ours, and counts. The
    figure itself is the same."""
    saved, = bundles(read(SAVED))
    kept, = bundles(read())
    assert decoded(saved).width > 640 and not belongs(saved) and belongs(kept)
    assert saved[PLOTLY] == kept[PLOTLY]
    assert any(cell.get("execution_count") for cell in read(SAVED).cells)

def test_a_save_leaves_no_difference(repository, no_browser):
    "Run All, save, tidy: the very bytes that were committed, with no browser to draw anything."
    shutil.copy(SAVED, repository/"a.ipynb")
    main([repository/"a.ipynb"])
    assert (repository/"a.ipynb").read_bytes() == COMMITTED.read_bytes()

def test_another_python_leaves_no_difference(repository, no_browser):
    nb = read(SAVED)
    nb.metadata.language_info.version = "3.13.1"
    nb.metadata["toc-autonumbering"] = True
    nb.cells[1].metadata["scrolled"] = True
    bundle, = bundles(nb)
    bundle[PLOTLY].layout.width = float(bundle[PLOTLY].layout.width)
    nbformat.write(nb, repository/"a.ipynb")
    main([repository/"a.ipynb"])
    assert (repository/"a.ipynb").read_bytes() == COMMITTED.read_bytes()

def test_a_tidy_notebook_is_not_written(repository):
    path = repository/"a.ipynb"
    before = path.stat()
    main([path])
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)

def test_tags_stay():
    nb = read()
    nb.cells[1].metadata.update(tags=["parameters"], collapsed=True)
    tidy(nb)
    assert nb.cells[1].metadata == dict(tags=["parameters"]) and nb.metadata == METADATA

@pytest.mark.parametrize("value, written",
                         [(1.0, "1"), (-0.0, "0"), (1e20, "100000000000000000000"),
                          (1e21, "1e+21"), (0.1, "0.1"), (True, "True"),
                          ([1.0, {"a": 2.0}], "[1, {'a': 2}]"), (None, "None"), ("1.0", "1.0")])
def test_numbers_as_javascript_writes_them(value, written):
    assert str(whole_numbers(value)) == written


# Figures and their pictures

def test_a_changed_figure_loses_its_picture(no_browser, capsys):
    """So that nobody is shown an old picture; without a browser a message says what is missing, and the
    notebook stays valid."""
    nb = read()
    bundle, = bundles(nb)
    old = deepcopy(bundle)
    bundle[PLOTLY].layout.title.text += "."
    assert not belongs(bundle)
    missing = keep_pictures(nb, [old])
    assert missing == [bundle] and PNG not in bundle and not add_pictures(missing)
    assert "1 figures have none, and no Chromium or Chrome" in capsys.readouterr().err
    nbformat.validate(nb)

@pytest.mark.parametrize("picture", ["", "bm8=", "not base64!", None])
def test_no_picture_belongs(picture):
    bundle, = bundles(read())
    if picture is None: del bundle[PNG]
    else: bundle[PNG] = picture
    assert not belongs(bundle)

def test_every_number_counts():
    figure = bundles(read())[0][PLOTLY]
    assert digest(figure) == digest(deepcopy(figure)) == decoded(bundles(read())[0]).text["figure"]
    figure.data[0].line.width += 1e-9
    assert digest(figure) != digest(bundles(read())[0][PLOTLY])

@with_browser
def test_drawn_again(tmp_path):
    """Figures of two notebooks are drawn in one go: small, with few colours, each its own, the same bytes
    when drawn again."""
    for name in ("a", "b"):
        nb = read()
        for bundle in bundles(nb):
            bundle.pop(PNG), bundle[PLOTLY].layout.title.update(text=f"Figure </script> {name}")
        nbformat.write(nb, tmp_path/f"{name}.ipynb")
    command = [sys.executable, "-m", "noisy_course.lab.pictures", tmp_path/"a.ipynb", tmp_path/"b.ipynb"]
    subprocess.run(command, check=True, cwd=ROOT)
    first = {name: (tmp_path/f"{name}.ipynb").read_bytes() for name in "ab"}
    for path in notebooks_of(tmp_path):
        bundle, = bundles(read(path))
        layout, image = bundle[PLOTLY].layout, decoded(bundle)
        assert belongs(bundle) and image.mode == "P"
        assert image.size == (pictures.WIDTH, round(pictures.WIDTH * layout.height / layout.width))
        assert len(image.convert("RGB").getcolors()) > 4
    assert bundles(read(tmp_path/"a.ipynb"))[0][PNG] != bundles(read(tmp_path/"b.ipynb"))[0][PNG]
    subprocess.run(command, check=True, cwd=ROOT)
    assert first == {name: (tmp_path/f"{name}.ipynb").read_bytes() for name in "ab"}

@with_browser
def test_a_figure_that_cannot_be_drawn():
    with pytest.raises(RuntimeError, match="not drawn"): pictures.draw([dict(data=[], layout=dict(width=-1))])

def test_pages_show_the_picture(tmp_path):
    "nbconvert, and pages that work like it, show the picture where they know no plotly."
    subprocess.run([sys.executable, "-m", "nbconvert", "--to", "html", "--log-level", "ERROR", "--output-dir",
                    tmp_path, COMMITTED], check=True)
    assert (f"data:image/png;base64,{bundles(read())[0][PNG]}"
            in (tmp_path/"committed.html").read_text(encoding="utf-8"))

def test_nothing_known_without_git(tmp_path):
    assert bundles(committed(tmp_path/"a.ipynb")) == []

def test_opened_with_the_metadata_at_hand(repository):
    """JupyterLab marks a notebook as changed unless it names the very Python that runs it. What lies on
    the disk stays."""
    model = asyncio.run(Notebooks(root_dir=str(repository)).get("a.ipynb"))
    assert model["content"]["metadata"]["language_info"]["version"] == sys.version.split()[0]
    assert model["content"]["metadata"]["kernelspec"]["display_name"] == "Python 3 (ipykernel)"
    assert (repository/"a.ipynb").read_bytes() == COMMITTED.read_bytes()

def test_metadata_is_the_kernels():
    "What JupyterLab is shown is what the kernel of this installation says of itself."
    spec, info = get_kernel_dict(), IPythonKernel.language_info
    assert at_hand()["kernelspec"] == dict(name="python3", display_name=spec["display_name"],
                                           language=spec["language"])
    assert at_hand()["language_info"] == info
