"""Notebooks as they are committed: cleaned by nbdev, with pictures: python -m noisy_course.lab.tidy [FILE…]

Saving in JupyterLab turns 1.0 into 1 and adds large pictures; figures that are the same get back the
picture that was committed."""
import shutil
import subprocess
from argparse import ArgumentParser
from pathlib import Path

import nbformat
from nbdev.clean import clean_nb
from nbformat import NotebookNode

from noisy_course.basics import atomic_write
from noisy_course.lab.pictures import PLOTLY, add_pictures, bundles, keep_pictures, whole_numbers

__all__ = ["METADATA", "tidy", "committed", "notebooks_of"]

METADATA = dict(kernelspec=dict(display_name="python3", language="python", name="python3"),
                language_info=dict(codemirror_mode=dict(name="ipython", version=3), file_extension=".py",
                                   mimetype="text/x-python", name="python", nbconvert_exporter="python",
                                   pygments_lexer="ipython3", version="3.11.7"))


def tidy(
    nb: NotebookNode, # a notebook; it is changed
    known: list[dict] = (), # the data of outputs whose pictures may be kept
) -> list[dict]: # the data of the outputs whose figure has no picture
    "Clean a notebook, give it the metadata of all, and its figures the pictures that are known."
    clean_nb(nb, allowed_cell_metadata_keys=["tags"], clean_ids=False)
    nb.metadata = nbformat.from_dict(METADATA)
    for bundle in bundles(nb): bundle[PLOTLY] = whole_numbers(bundle[PLOTLY])
    return keep_pictures(nb, [*known])


def committed(
    path: Path, # of a notebook
) -> NotebookNode: # an empty notebook where git knows none
    "The notebook as it was last committed."
    if not shutil.which("git"): return nbformat.v4.new_notebook()
    done = subprocess.run(["git", "-C", path.parent, "show", f"HEAD:./{path.name}"], capture_output=True)
    return nbformat.reads(done.stdout.decode(), 4) if done.returncode == 0 else nbformat.v4.new_notebook()


def notebooks_of(
    folder: str | Path, # searched in depth
) -> list[Path]: # in order
    "The notebooks of a folder, without JupyterLab's checkpoints."
    return sorted(path for path in Path(folder).rglob("*.ipynb")
                  if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def main(
    notebooks: list[str | Path], # paths
) -> None:
    "Bring notebooks into the form in which they are committed."
    read = {path: nbformat.read(path, 4) for path in map(Path, notebooks)}
    before = {path: nbformat.writes(nb) for path, nb in read.items()}
    add_pictures([bundle for path, nb in read.items() for bundle in tidy(nb, bundles(committed(path)))])
    for path, nb in read.items():
        if nbformat.writes(nb) == before[path]: continue
        with atomic_write(path) as part: nbformat.write(nb, part)


if __name__ == "__main__":
    parser = ArgumentParser(description=main.__doc__)
    parser.add_argument("notebooks", nargs="*", default=notebooks_of("nbs"),
                        help="all below nbs if none is named")
    main(parser.parse_args().notebooks)
