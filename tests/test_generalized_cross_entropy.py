"Losses of Zhang & Sabuncu (2018) beside independent formulas, at their edges, and Algorithm 1 in the engine."
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Generator

from noisy_course import generalized_cross_entropy as gce
from noisy_course import noise
from noisy_course.losses import cross_entropy
from noisy_course.training import Method, Recipe, Run, TrainingState, train
from samples import network, np_softmax, sample, toy

fast = settings(max_examples=40, deadline=None)
F64 = torch.float64

def np_mae(z, y): return np.abs(np.eye(z.shape[-1])[y] - np_softmax(z)).sum(-1)
def np_gce(z, y, q=.7): return (1 - np.take_along_axis(np_softmax(z), y[..., None], -1)[..., 0] ** q) / q
def np_truncated(z, y, q=.7, k=.5): return np.minimum(np_gce(z, y, q), (1 - k ** q) / q)

FORMULAS = {"mean_absolute_error": (gce.mean_absolute_error, np_mae),
            "generalized_cross_entropy": (gce.generalized_cross_entropy, np_gce),
            "truncated_gce": (gce.truncated_gce, np_truncated)}
MODULES = {"mean_absolute_error": gce.MeanAbsoluteErrorLoss,
           "generalized_cross_entropy": gce.GeneralizedCrossEntropyLoss,
           "truncated_gce": gce.TruncatedGCELoss}
each = pytest.mark.parametrize("name", FORMULAS)

@each
@fast
@given(shape=st.sampled_from([(1,), (5,), (2, 3), (2, 1, 4)]), C=st.integers(2, 9), seed=st.integers(0, 99))
def test_formula(name, shape, C, seed):
    loss, formula = FORMULAS[name]
    z, y = sample(shape, C, seed)
    np.testing.assert_allclose(loss(z, y, reduction="none"), formula(z.numpy(), y.numpy()), atol=1e-12)
    for how in ("mean", "sum"):
        np.testing.assert_allclose(loss(z, y, reduction=how),
                                   getattr(formula(z.numpy(), y.numpy()), how)(), atol=1e-12)

@each
def test_soft_labels_mix_hard_ones(name):
    loss, (z, _) = FORMULAS[name][0], sample((6,), 4, 0)
    target = sample((6,), 4, 1)[0].softmax(-1)
    hard = torch.stack([loss(z, torch.full((6,), j), reduction="none") for j in range(4)], -1)
    torch.testing.assert_close(loss(z, target, reduction="none"), (target * hard).sum(-1))
    torch.testing.assert_close(loss(z, torch.eye(4, dtype=F64)[[0, 1, 2, 3, 0, 1]]),
                               loss(z, torch.tensor([0, 1, 2, 3, 0, 1])))

@each
def test_gradient(name):
    loss, (z, y) = FORMULAS[name][0], sample((7,), 5, 3)
    assert torch.autograd.gradcheck(lambda z: loss(z, y), z.requires_grad_())

@each
@pytest.mark.parametrize("dtype, size", [(torch.float32, 1e4), (torch.bfloat16, 1e3)])
def test_finite_at_extreme_logits(name, dtype, size):
    z = (size * torch.tensor([[1., -1, 0], [-1, 1, 1], [-1, -1, -1], [0, 1, -1]])).to(dtype).requires_grad_()
    for y in range(3):
        losses = FORMULAS[name][0](z, torch.full((4,), y), reduction="none")
        grad, = torch.autograd.grad(losses.sum(), z)
        assert losses.isfinite().all() and grad.isfinite().all() and (losses >= 0).all()
        assert (losses <= 2).all()

@each
def test_module_is_the_function(name):
    z, y = sample((5,), 4, 5)
    for how in ("mean", "sum", "none"):
        torch.testing.assert_close(MODULES[name](reduction=how)(z, y), FORMULAS[name][0](z, y, reduction=how))

@fast
@given(q=st.floats(.01, 1), k=st.floats(.01, .99), seed=st.integers(0, 99))
def test_from_cross_entropy_to_mae(q, k, seed):
    z, y = sample((8,), 6, seed)
    one = gce.generalized_cross_entropy(z, y, q, "none")
    assert (one <= cross_entropy(z, y, "none") + 1e-12).all()
    assert (one >= gce.mean_absolute_error(z, y, "none") / 2 - 1e-12).all()
    assert (gce.truncated_gce(z, y, q, k, "none") <= one + 1e-12).all()

@pytest.mark.parametrize("call, message", [
    (lambda z, y: gce.generalized_cross_entropy(z, y, q=0), r"q: expected a number in \(0, 1\], got 0"),
    (lambda z, y: gce.generalized_cross_entropy(z, y, q=1.5), "q: expected"),
    (lambda z, y: gce.GeneralizedCrossEntropyLoss(q=-1), "q: expected"),
    (lambda z, y: gce.truncated_gce(z, y, k=1), r"k: expected a number in \(0, 1\), got 1"),
    (lambda z, y: gce.TruncatedGCELoss(k=0), "k: expected"),
    (lambda z, y: gce.mean_absolute_error(z * torch.nan, y), "logits: expected finite"),
    (lambda z, y: gce.generalized_cross_entropy(z, y + 9), "target: expected labels"),
    (lambda z, y: gce.truncated_gce(z, y, reduction="max"), "reduction: expected"),
    (lambda z, y: gce.mean_absolute_error(z, y[:2]), "target: expected")])
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message): call(*sample((4,), 3, 0))


# Algorithm 1

DATA, T = toy(), noise.symmetric(4, .4)
NOISY = noise.corrupt(DATA.train_y, T, Generator().manual_seed(1))

def test_weights_minimise_the_objective():
    z, y = sample((9,), 3, 8)
    gain = gce.generalized_cross_entropy(z, y, reduction="none") - (1 - .5 ** .7) / .7
    p = z.softmax(-1)
    new = gce.prune(
        TrainingState(40, Run(gce.METHODS["truncated_gce"], y), {}, lambda which: p, None))["weight"]
    for flipped in range(9):
        assert (new * gain).sum() <= (torch.where(torch.arange(9) == flipped, 1 - new, new) * gain).sum()
    torch.testing.assert_close(gce.weighted_gce(z, y, weight=new, reduction="sum") + 9 * (1 - .5 ** .7) / .7,
                               gce.truncated_gce(z, y, reduction="sum"))

@pytest.mark.parametrize("epoch, pruned", [(1, False), (39, False), (40, True), (41, False), (49, False),
                                           (50, True), (120, True)])
def test_when_it_prunes(epoch, pruned):
    asked = []
    def belief(which):
        asked.append(which)
        return torch.full((80, 4), .25)
    new = gce.prune(TrainingState(epoch, Run(gce.METHODS["truncated_gce"], NOISY), {}, belief, None))
    assert (asked == ["best"]) == pruned and bool(new) == pruned

def test_until_the_first_pruning_it_is_gce():
    recipe = Recipe(epochs=3, batch_size=24, select="valid_accuracy")
    runs = [Run(gce.pruned(start=9), NOISY, T), Run(gce.METHODS["generalized_cross_entropy"], NOISY, T)]
    trained = train(DATA, runs, network, recipe)
    last = [trained.module(i, "last").state_dict() for i in range(2)]
    for name in last[0]: torch.testing.assert_close(last[0][name], last[1][name], rtol=0, atol=1e-6)

def test_a_killed_run_goes_on_with_its_weights(tmp_path):
    runs = [Run(gce.pruned(start=2, every=2, k=.27), NOISY, T)]
    recipe = partial(Recipe, batch_size=24, select="valid_accuracy")
    whole = train(DATA, runs, network, recipe(epochs=6))
    train(DATA, runs, network, recipe(epochs=3), folder=tmp_path)
    resumed = train(DATA, runs, network, recipe(epochs=6), folder=tmp_path)
    weights = [t.trainers[0][0].groups[0].sample_state["weight"] for t in (whole, resumed)]
    assert torch.equal(*weights) and 0 < weights[0].mean() < 1
    for a, b in zip(whole.module(0, "last").parameters(), resumed.module(0, "last").parameters()):
        assert torch.equal(a, b)

def test_beliefs_of_right_and_wrong_labels():
    p = torch.full((len(NOISY), 4), .1).scatter_(1, DATA.train_y[:, None], .7)
    beliefs = gce.beliefs(TrainingState(1, Run(gce.METHODS["truncated_gce"], NOISY), {},
                                        lambda which: p, DATA))
    assert beliefs == dict(belief_right=pytest.approx(.7), belief_wrong=pytest.approx(.1))
    outside = replace(DATA, extra=dict(train_outside=torch.ones_like(NOISY, dtype=torch.bool)))
    beliefs = gce.beliefs(TrainingState(1, Run(gce.METHODS["truncated_gce"], DATA.train_y), {},
                                        lambda which: p, outside))
    assert math.isnan(beliefs["belief_right"]) and beliefs["belief_wrong"] == pytest.approx(.7)

def test_the_best_network_may_be_the_most_accurate():
    runs = [Run(Method("cross_entropy", cross_entropy), NOISY, T, seed) for seed in range(3)]
    trained = train(DATA, runs, network, Recipe(epochs=8, batch_size=24, select="valid_accuracy"))
    curves = trained.curves.pivot(index=["run", "epoch"], columns="metric", values="value")
    for i, (trainer, r) in enumerate(trained.trainers):
        assert -trainer.best_score[r] == pytest.approx(curves.loc[i].valid_accuracy.max())
    with pytest.raises(ValueError, match="select: expected"):
        train(DATA, runs, network, Recipe(select="test_accuracy"))
