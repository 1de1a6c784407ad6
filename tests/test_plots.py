"Plots: the style of a method, what the verbs draw, and what they refuse."
import base64, inspect, io, itertools, json, subprocess, sys
from pathlib import Path

import colours
import figures
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from noisy_course import plots

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

FRAME = pd.DataFrame(dict(epoch=[2, 1, 1, 2], loss=[.2, .4, .3, .1], sd=[.01, .02, .03, .04],
                          method=["forward", "forward", "savage", "savage"]))


def test_a_look_is_the_same_in_every_process():
    names = ["forward", "something new", "", "42"]
    code = f"from noisy_course.plots import method_style; print([method_style(n) for n in {names!r}])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert eval(out) == [plots.method_style(n) for n in names]


def test_the_first_papers_colours_are_apart_for_everybody():
    """Also for those who confuse red and green, simulated after Viénot et al. (1999), and without any
    colour by dash and symbol."""
    to_lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714],
                       [.0299566, .184309, 1.46709]])
    deuteranope = np.array([[1, 0, 0], [.494207, 0, 1.24827], [0, 0, 1]])
    first = list(plots.STYLES.items())[:10]
    rgb = np.array([[int(style[0][i:i + 2], 16) for i in (1, 3, 5)] for _, style in first]) / 255
    seen = (np.linalg.inv(to_lms) @ deuteranope @ to_lms @ (rgb**2.2).T).T.clip(0, 1)**(1 / 2.2)
    for colours in (rgb, seen):
        gaps = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 9 * np.eye(10)
        a, b = np.unravel_index(gaps.argmin(), gaps.shape)
        assert gaps.min() > .08, f"{first[a][0]} and {first[b][0]} look alike: {gaps.min():.3f}"
    assert len({style[1:] for _, style in first}) == 10


def test_curves_sort_their_points_and_carry_their_band():
    band, line, *_ = plots.curves(FRAME, "epoch", "loss", "method", "t", "x", "y", error="sd").data
    assert list(line.x) == [1, 2] and list(line.y) == [.4, .2] and line.name == "forward, T"
    assert np.allclose(band.y, [.42, .21, .19, .38]) and not band.showlegend
    assert plots.curves(
        FRAME, "epoch", "loss", "method", "t", "x", "y", log_y=True).layout.yaxis.type == "log"


def test_bars_keep_order_and_numbers_as_names():
    fig = plots.bars(FRAME, "epoch", "loss", "method", "t", "x", "y", error="sd")
    assert [trace.name for trace in fig.data] == ["forward, T", "Savage"]
    assert fig.layout.xaxis.type == "category"
    assert list(fig.data[0].x) == ["2", "1"] and list(fig.data[0].error_y.array) == [.01, .02]


@pytest.mark.parametrize("verb", [plots.curves, plots.bars])
def test_a_missing_column_is_named(verb):
    with pytest.raises(ValueError, match=r"frame: expected the columns \['lss'\]"):
        verb(FRAME, "epoch", "lss", "method", "t", "x", "y")
    with pytest.raises(ValueError, match="frame: expected a pandas DataFrame, got dict"):
        verb({}, "epoch", "loss", None, "t", "x", "y")


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50), st.integers(1, 30))
def test_a_histogram_sums_to_one(values, bins):
    (trace,) = plots.histogram(pd.DataFrame(dict(v=values)), "v", None, "t", "x", bins=bins).data
    assert len(trace.x) == bins + 1 and np.isclose(sum(trace.y[:-1]), 1)


def test_matrices():
    fig = plots.matrices([torch.eye(3), np.full((3, 3), 1 / 3)], ["a", "b"], "t", classes=["x", "y", "z"])
    assert np.array_equal(fig.data[0].z, np.eye(3)) and fig.data[0].texttemplate
    assert fig.layout.yaxis.autorange == "reversed"
    assert plots.matrix(np.eye(100), "t").data[0].texttemplate is None
    with pytest.raises(ValueError, match="titles: expected 1 titles"): plots.matrices([np.eye(2)], [], "t")
    with pytest.raises(ValueError, match="T: expected a matrix"): plots.matrix(np.ones(3), "t")


def sheet_of(fig):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(fig.data[0].source.split(",")[1]))))


@pytest.mark.parametrize("shape", [(7, 5, 4), (7, 3, 5, 4)])
def test_images_come_back_from_the_sheet(shape):
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    fig = plots.images(torch.from_numpy(x), None, "t", columns=3)
    sheet, last = sheet_of(fig), x[6] if x.ndim == 4 else 255 - x[6]
    assert np.array_equal(sheet[14:19, :4], last.transpose(1, 2, 0) if x.ndim == 4 else last)
    assert (sheet[14:, 6:] == 255).all()


def test_a_hundred_captioned_digits_stay_small():
    x = np.random.default_rng(0).integers(0, 2, (100, 28, 28)).astype(np.uint8) * 255
    fig = plots.images(x, range(100), "t")
    assert list(fig.data[1].text[:3]) == ["0", "1", "2"] and len(fig.to_json()) < 40_000


@pytest.mark.parametrize("bad", [np.zeros((2, 4, 4)), np.zeros((2, 5, 4, 4), np.uint8),
                                 np.zeros((0, 4, 4), np.uint8), np.zeros((4, 4), np.uint8)])
def test_bad_images(bad):
    with pytest.raises(ValueError, match="x: expected uint8 images"): plots.images(bad, None, "t")


@given(st.lists(st.floats(.01, 1), min_size=3, max_size=3))
def test_the_triangle_and_back(weights):
    p = np.array(weights) / sum(weights)
    assert np.allclose(plots.from_triangle(plots.to_triangle(p)), p)


@given(st.floats(-1, 2), st.floats(-1, 2))
def test_every_place_is_a_probability(x, y):
    p = plots.from_triangle([x, y])
    assert np.isclose(p.sum(), 1) and (p >= 0).all()


def test_simplex_and_landscape():
    fig = plots.simplex(dict(forward=np.eye(3), other=[[1/3, 1/3, 1/3]]), "t", function=lambda p: p[..., 0])
    assert np.allclose(fig.data[-2].x, [0, 1, .5]) and fig.data[-1].name == "other"
    assert np.isfinite(fig.data[0].z).all()
    with pytest.raises(ValueError, match=r"groups\['a'\]: expected three classes"):
        plots.simplex(dict(a=np.eye(4)), "t")
    with pytest.raises(ValueError, match="z: expected shape"):
        plots.landscape([0, 1], [0, 1, 2], np.zeros((2, 3)), "t", "x", "y")


def test_points_are_drawn_as_the_numbers_of_their_classes():
    frame = pd.DataFrame(dict(x=[0., 1, 2], y=[0., 1, 0], c=[0, 11, 0]))
    fig = plots.numbered_points(frame, "x", "y", "c", "t")
    assert ([(trace.texttemplate, trace.name, trace.mode) for trace in fig.data]
            == [("0", "0", "text"), ("11", "11", "text")])
    assert list(fig.data[0].x) == [0, 2] and len({trace.textfont.color for trace in fig.data}) == 2
    assert plots.numbered_points(frame[frame.c == 0], "x", "y", "c", "t", ["cat"]).data[0].name == "0 cat"
    with pytest.raises(ValueError, match="frame: expected the columns"):
        plots.numbered_points(frame, "x", "z", "c", "t")


def test_matrices_of_both_signs_have_white_at_zero():
    axis = plots.matrices([np.eye(2), -np.eye(2)], ["a", "b"], "t", signed=True).layout.coloraxis
    assert (axis.cmin, axis.cmax) == (-1, 1)
    assert (plots.matrices([np.eye(2)], ["a"], "t").layout.coloraxis.cmin) == 0


# What a reader can read

NBS = Path(__file__).parents[1]/"nbs"
FIGURE = "application/vnd.plotly.v1+json"

def stored(path):
    "The figures in a notebook's outputs."
    outputs = (o for cell in nbformat.read(path, 4).cells for o in cell.get("outputs", []))
    return [json.loads(json.dumps(o.data[FIGURE])) for o in outputs if FIGURE in o.get("data", {})]

WITH_FIGURES = [path for path in sorted(NBS.glob("*.ipynb")) if FIGURE in path.read_text(encoding="utf-8")]

@pytest.mark.parametrize("path", WITH_FIGURES, ids=lambda path: path.stem)
def test_the_figures_of_a_notebook_can_be_read(path):
    assert [fault for fig in stored(path) for fault in figures.faults(fig)] == []

ANY = np.random.default_rng(0).random((12, 12))
LONG = "A finding that takes many words " * 5
TALL = pd.DataFrame(dict(x=[1, 9] * 9, y=[.2, .3] * 9, who=np.repeat([f"q = {q}" for q in range(9)], 2)))
MADE = dict(
    curves=lambda title: plots.curves(TALL, "x", "y", "who", title, "x", "y", log_x=True, log_y=True),
    bars=lambda title: plots.bars(TALL, "x", "y", "who", title, "x", "y"),
    histogram=lambda title: plots.histogram(TALL, "y", "who", title, "x"),
    numbered_points=lambda title: plots.numbered_points(TALL.assign(c=TALL.index % 3), "x", "y", "c", title),
    matrix=lambda title: plots.matrix(ANY, title),
    matrices=lambda title: plots.matrices([ANY] * 5, ["a long title of a panel"] * 5, title),
    signed=lambda title: plots.matrices([ANY, 2 * ANY - 1], ["a", "b"], title, signed=True),
    gains=lambda title: plots.gains(
        pd.DataFrame(40 * ANY - 20, columns=[f"setting {i}" for i in range(12)]), title),
    ranks=lambda title: plots.ranks(
        pd.DataFrame(dict(rank=[1., 2], kind=["not clearly worse", "clearly worse"])), title, .5),
    images=lambda title: plots.images(np.zeros((7, 8, 8), np.uint8),
                                      ["4 → 9, is 9: 1.000"] * 7, title, columns=5),
    narrow=lambda title: plots.images(np.zeros((2, 8, 8), np.uint8),
                                      ["one", "two words and more"], title, columns=2),
    simplex=lambda title: plots.simplex({f"group {i}": np.eye(3) for i in range(6)}, title),
    landscape=lambda title: plots.landscape(range(12), range(12), ANY, title, "x", "y"))

@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("title", ["Short", LONG.strip()])
def test_every_verb_makes_figures_that_can_be_read(name, title):
    fig = MADE[name](title)
    assert list(figures.faults(json.loads(fig.to_json()))) == []
    assert fig.layout.title.text.replace("<br>", " ") == title

def test_the_eyes_see_faults():
    "Each fault that is looked for is found in a figure that has it."
    fig = lambda **layout: dict(data=[], layout=dict(width=400, height=300, margin=dict(l=9, r=9, t=40, b=9),
                                                     title=dict(text="x", font=dict(size=17))) | layout)
    bad = [fig(width=821), fig(title=dict(text="x" * 60, font=dict(size=17))),
           fig(title=dict(text="a<br>b<br>c", font=dict(size=17))),
           fig(yaxis=dict(type="log")), fig(xaxis=dict(type="log", dtick="D2")),
           fig(annotations=[dict(text="a long title", xref="paper", x=.5, y=1),
                            dict(text="another title", xref="paper", x=.6, y=1)])]
    heat = dict(type="heatmap", z=[[0, .7]], zmin=0, zmax=1, colorscale=[[0, "#ffffff"], [1, "#08306b"]],
                texttemplate="%{z}")
    line = lambda name, color, dash, symbol: dict(
        type="scatter", name=name, line=dict(color=color, dash=dash), marker=dict(symbol=symbol))
    bad += [fig() | dict(data=data) for data in (
        [heat], [heat | dict(z=[[0]], text=[["-1.0"]])], [heat | dict(z=[[0]], text=[["+0.0"]])],
        [line("a", "#997700", "dot", "x"), line("b", "#9a7801", "dot", "star")],
        [dict(type="image"), dict(type="scatter", x=[1, 2], y=[1, 1],
                                  text=["a caption that is much too wide for a small image",
                                        "another caption that is much too wide"], textfont=dict(size=13))])]
    for one in bad: assert len(list(figures.faults(fig() | one))) == 1, one
    assert list(figures.faults(fig())) == []

def test_the_distance_of_colours_is_that_of_its_authors():
    "Pairs 1, 19, 21, 25 and 34 of Sharma, Wu & Dalal (2005), Table 1; and black on white is 21 to 1."
    pairs = [((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
             ((50, 2.5, 0), (73, 25, -18), 27.1492), ((50, 2.5, 0), (58, 24, 15), 19.4535),
             ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
             ((2.0776, .0795, -1.135), (.9033, -.0636, -.5514), .9082)]
    for one, two, expected in pairs:
        assert (round(float(colours.ciede2000(one, two)), 4) == expected
                == round(float(colours.ciede2000(two, one)), 4))
    assert np.isclose(colours.contrast("#000000", "#ffffff"), 21)

def test_no_two_methods_look_alike():
    for (a, one), (b, two) in itertools.combinations(plots.STYLES.items(), 2):
        assert colours.apart(one[0], two[0]) >= figures.TOLD_APART or one[1] != two[1] and one[2] != two[2], (
            (a, b))

@given(st.lists(st.sampled_from([*plots.STYLES, *plots.ROLES, *(f"q = {k}" for k in range(99))]),
                unique=True, max_size=7))
def test_names_that_meet_in_a_figure_never_look_alike(names):
    "Roles are few and fixed: two of the same kind mean the same and are not asked here."
    styles = plots.method_styles(names)
    for a, b in itertools.combinations(names, 2):
        if a in plots.ROLES or b in plots.ROLES: continue
        one, two = styles[a], styles[b]
        assert (colours.apart(one["color"], two["color"]) >= figures.TOLD_APART
                or one["dash"] != two["dash"] and one["symbol"] != two["symbol"]), (a, b)

def test_known_names_keep_their_looks_together():
    for name in plots.STYLES:
        assert plots.method_styles(["something", name, "other"])[name] == plots.method_style(name)
    assert plots.method_style("cross-entropy") == plots.method_style("cross_entropy")

def test_fields_share_colour_and_dash():
    styles = plots.method_styles(["given, N = 0.3", "test, N = 0.3", "given, N = 0.6", "test, N = 0.6"])
    column = lambda what, where: {style[what] for name, style in styles.items() if where in name}
    for part in ("0.3", "0.6"):
        assert len(column("color", part)) == 1
        assert len(column("dash", part)) == len(column("symbol", part)) == 2
    for part in ("given", "test"): assert len(column("dash", part)) == 1 and len(column("color", part)) == 2


# Bad arguments, to every public function

GOOD = dict(frame=pd.DataFrame(dict(a=[1., 2], b=[1., 2], c=["p", "q"], d=[0, 1])), x="a",
            y="b", by="c", title="t", x_label="x", y_label="y", z_label="z", error="b",
            bins=3, classes=["p", "q"], T=np.eye(2), Ts=[np.eye(2)], titles=["t"],
            limit=3., half=.5, captions=["p", "q"], columns=2, p=np.eye(3), points=[[.5, .2]],
            groups=dict(a=np.eye(3)), corners=["p", "q", "r"], function=lambda p: p[..., 0], label="loss")
OWN = dict(numbered_points=dict(by="d"), gains=dict(frame=GOOD["frame"][["a", "b"]]),
           ranks=dict(frame=pd.DataFrame(dict(rank=[1., 2], kind=["p", "q"]))),
           images=dict(x=np.zeros((2, 4, 4), np.uint8)),
           landscape=dict(x=[0, 1], y=[0, 1, 2], z=np.zeros((3, 2))))
FRAMES = [None, 3, "a", {}, [1], pd.DataFrame(), GOOD["frame"].head(0),
          GOOD["frame"].assign(a=np.nan, rank=np.nan),
          GOOD["frame"].assign(a=np.inf, rank=np.inf)[["a", "rank"]],
          GOOD["frame"].assign(a="word", rank="word"), GOOD["frame"][["c"]]]
NUMBERS = ["word", None, [], np.nan, [np.nan, 1], [[np.inf, 1]], {}, [["p"]], 3]
WRONG = dict(frame=FRAMES, x=NUMBERS, y=NUMBERS, z=NUMBERS, by=["no such column", 3, []],
             title=[None, 3, ["t"]], x_label=[3, ["x"]], y_label=[3], z_label=[3], label=[3],
             error=["c", "no such column", 3], bins=[0, -1, 2.5, "3", None], classes=[["p"], "p"],
             T=NUMBERS, Ts=[None, [], 3, "word", ["word"], [[]]], titles=[None, [], ["a", "b"], "t", 3],
             limit=[0, -1, np.nan, np.inf, "3", None], half=[-1, np.nan, np.inf, "3", None],
             captions=["pq", ["p"], [], 3], columns=[0, -1, 2.5, "3", None], p=NUMBERS,
             points=NUMBERS, groups=[None, [], 3, dict(a=np.ones(2)), dict(a=np.nan), dict(a="word")],
             corners=["abc", ["p"], None, 3],
             function=[3, "word", lambda p: np.nan * p[..., 0], lambda p: p, lambda p: None])
NAMED = {"Ts": "Ts|T|titles", "groups": r"groups|groups\['a'\]", "titles": "titles", "x": "x|frame",
         "y": "y|frame|z", "by": "frame", "error": "frame"}
PUBLIC = {name: f for name in plots.__all__
          if inspect.isfunction(f := getattr(plots, name)) and name not in ("pretty", "method_style")}
# words are good groups of bars
CASES = [(name, argument, k) for name, f in PUBLIC.items() if name != "method_styles"
         for argument in inspect.signature(f).parameters for k in range(len(WRONG.get(argument, [])))
         if (name, argument, k) != ("bars", "frame", 9)]

def good(name):
    return {p: (GOOD | OWN.get(name, {}))[p] for p in inspect.signature(PUBLIC[name]).parameters
            if p in GOOD | OWN.get(name, {})}

@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "method_styles"])
def test_good_arguments_are_taken(name): assert PUBLIC[name](**good(name)) is not None

@pytest.mark.parametrize("name, argument, k", CASES)
def test_bad_arguments_are_named(name, argument, k):
    given_ = good(name) | {argument: WRONG[argument][k]}
    with pytest.raises(ValueError, match=rf"^({NAMED.get(argument, argument)}): expected "):
        PUBLIC[name](**given_)

def test_every_argument_of_a_verb_is_tried_badly():
    "A new argument must be in WRONG, or in the list of those that need not."
    free = {"signed", "log_x", "log_y"} # truth values, of which any object has one
    assert {p for name, f in PUBLIC.items() if name != "method_styles"
            for p in inspect.signature(f).parameters} - free <= set(WRONG)

@pytest.mark.parametrize("flag, column", [("log_x", "a"), ("log_y", "b")])
def test_logarithms_want_numbers_above_zero(flag, column):
    with pytest.raises(ValueError, match=f"frame: expected finite numbers above 0 in '{column}', got"):
        plots.curves(GOOD["frame"].assign(**{column: [0., 1]}), "a", "b", None, "t", "x", "y", **{flag: True})
