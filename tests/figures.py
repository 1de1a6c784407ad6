"""What a reader could not read in a figure, from its JSON alone."""
from itertools import combinations

import numpy as np
from colours import apart, contrast
from PIL import ImageFont
from plotly.colors import sample_colorscale

WIDEST, READABLE, TOLD_APART = 820, 4.5, 12

def width(text, size):
    "Pixels of a text's longest line, in a font a little wider than plotly's."
    return max(1.08 * ImageFont.load_default(size).getlength(line) for line in str(text).split("<br>"))

def hexa(rgb): return "#" + "".join(f"{round(float(c)):02x}" for c in rgb.strip("rgb()").split(","))

def decoded(values):
    "An array as plotly stores it: a list, or bytes in base 64."
    if not isinstance(values, dict): return np.array(values, dtype=float)
    import base64
    return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"]).reshape(
        [int(n) for n in str(values.get("shape", "-1")).split(",")]).astype(float)

def titles(layout):
    "A title that is wider than its figure, or has more lines than the margin has room for."
    text, size = layout["title"]["text"], layout["title"]["font"]["size"]
    if width(text, size) > layout["width"] * .98: yield f"the title is cut: {text}"
    if (text.count("<br>") + 1) * 1.3 * size > layout["margin"]["t"]:
        yield f"the title needs more room: {text}"

def cells(trace, layout):
    "Numbers in cells that are hard to read on their colour."
    if trace["type"] != "heatmap" or not (trace.get("texttemplate") or trace.get("text")): return
    axis = (layout.get("coloraxis", {}) if trace.get("coloraxis")
            else dict(cmin=trace["zmin"], cmax=trace["zmax"], colorscale=trace["colorscale"]))
    share = np.clip((decoded(trace["z"]).ravel() - axis["cmin"]) / (axis["cmax"] - axis["cmin"]), 0, 1)
    color = trace.get("textfont", {}).get("color", "#444444")
    for s in np.unique(share[np.isfinite(share)].round(2)):
        ground = hexa(sample_colorscale(axis["colorscale"], [float(s)])[0])
        if contrast(color, ground) < READABLE:
            yield f"a contrast of {contrast(color, ground):.1f} in a cell: {color} on {ground}"
    for text in np.ravel(trace.get("text", [])):
        if "-" in str(text) or str(text) in ("+0.0", "−0.0"): yield f"a number that is badly set: {text}"

def axes(layout):
    "Logarithmic axes with other numbers than powers of ten."
    for name, axis in layout.items():
        if "axis" in name and isinstance(axis, dict) and axis.get("type") == "log" and axis.get("dtick") != 1:
            yield f"{name} has more than powers"

def overlaps(boxes):
    "Pairs of texts, each (text, left, right, top, bottom), that lie over each other."
    for a, b in combinations(boxes, 2):
        if min(a[2], b[2]) - max(a[1], b[1]) > 1 and min(a[4], b[4]) - max(a[3], b[3]) > 1:
            yield f"one over the other: {a[0]} and {b[0]}"

def box(text, x, y, size):
    wide, high = width(text, size), 1.3 * size * (str(text).count("<br>") + 1)
    return text, x - wide / 2, x + wide / 2, y - high / 2, y + high / 2

def captions(fig):
    "Captions below images that are wider than an image, or higher than the space below it."
    if [trace["type"] for trace in fig["data"]] != ["image", "scatter"]: return
    layout, trace = fig["layout"], fig["data"][1]
    x, y = decoded(trace["x"]), decoded(trace["y"])
    gaps = np.diff(np.unique(x.round(3)))
    scale = ((layout["width"] - layout["margin"]["l"] - layout["margin"]["r"])
             / (gaps.min() * len(np.unique(x.round(3))) if len(gaps) else layout["width"]))
    yield from overlaps([box(t, a * scale, b * scale, trace["textfont"]["size"])
                         for t, a, b in zip(trace["text"], x, y)])

def annotations(layout):
    "Titles of panels and other notes on the paper that lie over each other."
    inner = (layout["width"] - layout["margin"]["l"] - layout["margin"]["r"],
             layout["height"] - layout["margin"]["t"] - layout["margin"]["b"])
    notes = [a for a in layout.get("annotations", []) if a.get("xref") == "paper" and a["text"]]
    yield from overlaps([box(a["text"], a["x"] * inner[0], (1 - a["y"]) * inner[1],
                             a.get("font", {}).get("size", 14)) for a in notes])

def looks(fig):
    "The colour, dash and symbol of each name in a figure."
    found = {}
    for trace in fig["data"]:
        if trace.get("name") and trace.get("showlegend") is not False and trace.get("mode") != "text":
            marker, line = trace.get("marker", {}), trace.get("line", {})
            dash = line.get("dash") or marker.get("pattern", {}).get("shape", "")
            found[trace["name"]] = (line.get("color") if str(line.get("color", "")).startswith("#")
                                    and trace.get("mode") != "markers" else marker.get("color"), dash,
                                    marker.get("symbol", dash))
    return found

def alike(fig):
    "Names that are told apart by little."
    for (a, one), (b, two) in combinations(looks(fig).items(), 2):
        if (one[0] and two[0] and apart(one[0], two[0]) < TOLD_APART
                and (one[1] == two[1] or one[2] == two[2])):
            yield f"{a} and {b} look alike: {one}, {two}"

def faults(fig):
    "All that is wrong with a figure, a dict of data and layout."
    layout = fig["layout"]
    if layout["width"] > WIDEST: yield f"{layout['width']} pixels wide"
    yield from titles(layout)
    yield from axes(layout)
    for trace in fig["data"]: yield from cells(trace, layout)
    yield from captions(fig)
    yield from annotations(layout)
    yield from alike(fig)
