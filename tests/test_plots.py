"Plots: the look of a method, what the verbs draw, and what they refuse."
import base64, io, subprocess, sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from noisy_course import plots

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

FRAME = pd.DataFrame(dict(epoch=[2, 1, 1, 2], loss=[.2, .4, .3, .1], sd=[.01, .02, .03, .04], method=["forward", "forward", "savage", "savage"]))


def test_a_look_is_the_same_in_every_process():
    names = ["forward", "something new", "", "42"]
    code = f"from noisy_course.plots import method_style; print([method_style(n) for n in {names!r}])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert eval(out) == [plots.method_style(n) for n in names]


def test_the_first_papers_colours_are_apart_for_everybody():
    "Also for those who confuse red and green, simulated after Viénot et al. (1999), and without any colour by dash and symbol."
    to_lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [.0299566, .184309, 1.46709]])
    deuteranope = np.array([[1, 0, 0], [.494207, 0, 1.24827], [0, 0, 1]])
    first = list(plots.LOOKS.items())[:10]
    rgb = np.array([[int(look[0][i:i + 2], 16) for i in (1, 3, 5)] for _, look in first]) / 255
    seen = (np.linalg.inv(to_lms) @ deuteranope @ to_lms @ (rgb**2.2).T).T.clip(0, 1)**(1 / 2.2)
    for colours in (rgb, seen):
        gaps = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 9 * np.eye(10)
        a, b = np.unravel_index(gaps.argmin(), gaps.shape)
        assert gaps.min() > .08, f"{first[a][0]} and {first[b][0]} look alike: {gaps.min():.3f}"
    assert len({look[1:] for _, look in first}) == 10


def test_curves_sort_their_points_and_carry_their_band():
    band, line, *_ = plots.curves(FRAME, "epoch", "loss", "method", "t", "x", "y", error="sd").data
    assert list(line.x) == [1, 2] and list(line.y) == [.4, .2] and line.name == "forward, T"
    assert np.allclose(band.y, [.42, .21, .19, .38]) and not band.showlegend
    assert plots.curves(FRAME, "epoch", "loss", "method", "t", "x", "y", log_y=True).layout.yaxis.type == "log"


def test_bars_keep_order_and_numbers_as_names():
    fig = plots.bars(FRAME, "epoch", "loss", "method", "t", "x", "y", error="sd")
    assert [trace.name for trace in fig.data] == ["forward, T", "Savage"] and fig.layout.xaxis.type == "category"
    assert list(fig.data[0].x) == ["2", "1"] and list(fig.data[0].error_y.array) == [.01, .02]


@pytest.mark.parametrize("verb", [plots.curves, plots.bars])
def test_a_missing_column_is_named(verb):
    with pytest.raises(ValueError, match=r"frame: expected the columns \['lss'\]"): verb(FRAME, "epoch", "lss", "method", "t", "x", "y")
    with pytest.raises(ValueError, match="frame: expected a pandas DataFrame, got dict"): verb({}, "epoch", "loss", None, "t", "x", "y")


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50), st.integers(1, 30))
def test_a_histogram_sums_to_one(values, bins):
    (trace,) = plots.histogram(pd.DataFrame(dict(v=values)), "v", None, "t", "x", bins=bins).data
    assert len(trace.x) == bins + 1 and np.isclose(sum(trace.y[:-1]), 1)


def test_matrices():
    fig = plots.matrices([torch.eye(3), np.full((3, 3), 1 / 3)], ["a", "b"], "t", classes=["x", "y", "z"])
    assert np.array_equal(fig.data[0].z, np.eye(3)) and fig.data[0].texttemplate and fig.layout.yaxis.autorange == "reversed"
    assert plots.matrix(np.eye(100), "t").data[0].texttemplate is None
    with pytest.raises(ValueError, match="titles: expected 1 titles"): plots.matrices([np.eye(2)], [], "t")
    with pytest.raises(ValueError, match="T: expected a matrix"): plots.matrix(np.ones(3), "t")


def sheet_of(fig): return np.asarray(Image.open(io.BytesIO(base64.b64decode(fig.data[0].source.split(",")[1]))))


@pytest.mark.parametrize("shape", [(7, 5, 4), (7, 3, 5, 4)])
def test_images_come_back_from_the_sheet(shape):
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    fig = plots.images(torch.from_numpy(x), None, "t", columns=3)
    sheet, last = sheet_of(fig), x[6] if x.ndim == 4 else 255 - x[6]
    assert np.array_equal(sheet[14:19, :4], last.transpose(1, 2, 0) if x.ndim == 4 else last) and (sheet[14:, 6:] == 255).all()


def test_a_hundred_captioned_digits_stay_small():
    x = np.random.default_rng(0).integers(0, 2, (100, 28, 28)).astype(np.uint8) * 255
    fig = plots.images(x, range(100), "t")
    assert list(fig.data[1].text[:3]) == ["0", "1", "2"] and len(fig.to_json()) < 40_000


@pytest.mark.parametrize("bad", [np.zeros((2, 4, 4)), np.zeros((2, 5, 4, 4), np.uint8), np.zeros((0, 4, 4), np.uint8), np.zeros((4, 4), np.uint8)])
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
    assert np.allclose(fig.data[-2].x, [0, 1, .5]) and fig.data[-1].name == "other" and np.isfinite(fig.data[0].z).all()
    with pytest.raises(ValueError, match="p: expected three classes"): plots.simplex(dict(a=np.eye(4)), "t")
    with pytest.raises(ValueError, match="z: expected shape"): plots.landscape([0, 1], [0, 1, 2], np.zeros((2, 3)), "t", "x", "y")


def test_points_are_drawn_as_the_numbers_of_their_classes():
    frame = pd.DataFrame(dict(x=[0., 1, 2], y=[0., 1, 0], c=[0, 11, 0]))
    fig = plots.numbered_points(frame, "x", "y", "c", "t")
    assert [(trace.texttemplate, trace.name, trace.mode) for trace in fig.data] == [("0", "0", "text"), ("11", "11", "text")]
    assert list(fig.data[0].x) == [0, 2] and len({trace.textfont.color for trace in fig.data}) == 2
    assert plots.numbered_points(frame[frame.c == 0], "x", "y", "c", "t", ["cat"]).data[0].name == "0 cat"
    with pytest.raises(ValueError, match="frame: expected the columns"): plots.numbered_points(frame, "x", "z", "c", "t")


def test_matrices_of_both_signs_have_white_at_zero():
    axis = plots.matrices([np.eye(2), -np.eye(2)], ["a", "b"], "t", signed=True).layout.coloraxis
    assert (axis.cmin, axis.cmax) == (-1, 1)
    assert (plots.matrices([np.eye(2)], ["a"], "t").layout.coloraxis.cmin) == 0
