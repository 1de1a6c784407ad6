"""A picture beside every plotly figure, for pages without scripts: python -m noisy_course.lab.pictures FILE…

A picture carries the digest of its figure: one that still belongs stays, byte for byte; the others are
drawn in one run of a browser."""
import base64
import json
import os
import re
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import plotly
from nbformat import NotebookNode
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from noisy_course.basics import atomic_write

__all__ = ["PLOTLY", "PNG", "bundles", "whole_numbers", "digest", "belongs", "browser", "draw",
           "keep_pictures", "add_pictures"]

PLOTLY, PNG = "application/vnd.plotly.v1+json", "image/png"
WIDTH, COLOURS = 560, 24 # of a picture at most: pixels, palette
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SCRIPT = Path(plotly.__file__).parent/"package_data"/"plotly.min.js"
PAGE = """<!doctype html><meta charset="utf-8"><script src="{script}"></script>
<script id="figures" type="application/json">{figures}</script><body><script>
async function picture(figure) {{
  const {{width = 700, height = 450}} = figure.layout
  return Plotly.toImage(figure, {{format: "png", width, height, scale: Math.min(1, {width} / width)}})
}}
(async () => {{
  for (const figure of JSON.parse(document.getElementById("figures").textContent)) {{
    const text = await picture(figure).catch(error => "not drawn: " + error)
    document.body.appendChild(Object.assign(document.createElement("pre"), {{textContent: text}}))
  }}
}})()
</script></body>"""


def bundles(
    nb: NotebookNode, # a notebook
) -> list[dict]: # the data of its outputs that hold a plotly figure, by type
    "What the figures of a notebook are stored as."
    outputs = [output for cell in nb.cells for output in cell.get("outputs", [])]
    return [output.data for output in outputs if PLOTLY in output.get("data", {})]


def whole_numbers(
    value: object, # parsed JSON
) -> object: # the same, as a browser writes it: 1 for 1.0
    "JSON as it comes back from JavaScript, which knows no difference between whole numbers and others."
    if isinstance(value, dict): return type(value)({k: whole_numbers(v) for k, v in value.items()})
    if isinstance(value, list): return [whole_numbers(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e21 else value


def digest(
    figure: dict, # plotly's JSON
) -> str: # 16 hexadecimal digits
    "What tells a figure from any other."
    return sha256(json.dumps(whole_numbers(figure), sort_keys=True).encode()).hexdigest()[:16]


def belongs(
    bundle: dict, # the data of an output with a figure
) -> bool: # whether a picture is there and was drawn from this figure
    "Whether a figure and its picture still belong together."
    try: return Image.open(BytesIO(base64.b64decode(bundle[PNG]))).text["figure"] == digest(bundle[PLOTLY])
    except (KeyError, OSError, ValueError, AttributeError): return False


def browser() -> str: # its path; empty if there is none
    "A Chromium or Chrome of this machine: the one that `CHROME` names, else the first on the path."
    return next(filter(None, map(shutil.which, [os.environ.get("CHROME") or "chromium", *BROWSERS])), "")


def _compact(url, figure):
    "A picture with few colours and the digest of its figure, in base64."
    if not url.startswith("data:image/png;base64,"): raise RuntimeError(url)
    image = Image.open(BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
    info, out = PngInfo(), BytesIO()
    info.add_text("figure", digest(figure))
    image.quantize(COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(out, "PNG",
        optimize=True, pnginfo=info)
    return base64.b64encode(out.getvalue()).decode()


def _page(path, folder):
    "What a browser makes of a page, once all its scripts have run."
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    command = [browser(), "--headless", "--disable-gpu", *root, f"--user-data-dir={folder}/profile",
               "--virtual-time-budget=10000000", "--dump-dom"]
    done = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, encoding="utf-8",
                          env=os.environ | dict(HOME=folder))
    return re.findall(r"<pre>([^<]*)</pre>", done.stdout), done.stderr


def draw(
    figures: list[dict], # plotly's JSON
) -> list[str]: # a PNG in base64 each
    "Draw figures in one run of a browser, which must be there; nothing is loaded from outside."
    with TemporaryDirectory() as folder:
        path = Path(folder)/"figures.html"
        inline = json.dumps(figures).replace("<", "\\u003c")
        path.write_text(PAGE.format(script=SCRIPT.as_uri(), figures=inline, width=WIDTH), encoding="utf-8")
        drawn, errors = _page(path, folder)
    if len(drawn) != len(figures):
        raise RuntimeError(f"{browser()} drew {len(drawn)} of {len(figures)} figures: {errors[-500:]}")
    return [_compact(url, figure) for url, figure in zip(drawn, figures)]


def keep_pictures(
    nb: NotebookNode, # a notebook; pictures that do not belong leave it, and are replaced where one is known
    known: list[dict], # data of outputs with figures and pictures, as in the committed notebook
) -> list[dict]: # the data of the outputs whose figure has no picture now
    "Give every figure the picture that was drawn from it, if there is one."
    pictures = {digest(bundle[PLOTLY]): bundle[PNG] for bundle in known if belongs(bundle)}
    for bundle in bundles(nb):
        if belongs(bundle): continue
        bundle.pop(PNG, None)
        bundle.update({PNG: picture for picture in [pictures.get(digest(bundle[PLOTLY]))] if picture})
    return [bundle for bundle in bundles(nb) if PNG not in bundle]


def add_pictures(
    missing: list[dict], # the data of outputs whose figure has no picture; they get one
) -> bool: # whether they have one now
    "Draw the missing pictures; without a browser say so and leave them out."
    if missing and not browser():
        print(f"pictures: {len(missing)} figures have none, and no Chromium or Chrome is here to draw them "
              "(set CHROME to one)", file=sys.stderr)
        return False
    for bundle, picture in zip(missing, draw([bundle[PLOTLY] for bundle in missing]) if missing else []):
        bundle[PNG] = picture
    return True


def main(
    notebooks: list[str], # paths of notebooks that are executed
) -> None:
    "Store a picture beside every plotly figure that has none of its own."
    read = {path: nbformat.read(path, 4) for path in notebooks}
    add_pictures([bundle for nb in read.values() for bundle in keep_pictures(nb, [])])
    for path, nb in read.items():
        with atomic_write(path) as part: nbformat.write(nb, part)


if __name__ == "__main__":
    parser = ArgumentParser(description=main.__doc__)
    parser.add_argument("notebooks", nargs="+")
    main(parser.parse_args().notebooks)
