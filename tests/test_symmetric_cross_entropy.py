"""Losses of Wang et al. (2019) beside independent formulas, their closed gradients beside
autograd, at their edges."""
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Generator

from noisy_course import noise
from noisy_course import symmetric_cross_entropy as sce
from noisy_course.data import Dataset
from noisy_course.losses import cross_entropy
from noisy_course.training import Method, Recipe, Run, TrainingState, train
from samples import network, np_softmax, sample, toy

fast = settings(max_examples=40, deadline=None)
F64 = torch.float64

def np_onehot(z, y): return np.eye(z.shape[-1])[y]
def np_ce(z, q): return -(q * np.log(np_softmax(z))).sum(-1)
def np_rce(z, q, A=-4.):
    with np.errstate(divide="ignore"): return -(np_softmax(z) * np.maximum(np.log(q), A)).sum(-1)

LOSSES = {"reverse_cross_entropy": (sce.reverse_cross_entropy, np_rce, sce.ReverseCrossEntropyLoss),
          "symmetric_cross_entropy": (partial(sce.symmetric_cross_entropy, alpha=.1, beta=2.),
                                      lambda z, q: .1 * np_ce(z, q) + 2 * np_rce(z, q),
                                      partial(sce.SymmetricCrossEntropyLoss, .1, 2.)),
          "label_smoothing": (sce.label_smoothing, lambda z, q: np_ce(z, .9 * q + .1 / q.shape[-1]),
                              sce.LabelSmoothingLoss)}
each = pytest.mark.parametrize("name", LOSSES)

def soft(shape, C, seed):
    "Soft labels, some of whose entries are zero."
    q = sample(shape, C, seed)[0].softmax(-1)
    q = torch.where(q < .05, 0, q)
    return q / q.sum(-1, keepdim=True)


@each
@fast
@given(shape=st.sampled_from([(1,), (5,), (2, 3), (2, 1, 4)]), C=st.integers(2, 9), seed=st.integers(0, 99))
def test_formula(name, shape, C, seed):
    loss, formula, _ = LOSSES[name]
    (z, y), q = sample(shape, C, seed), soft(shape, C, seed + 1)
    for target, dense in ((y, np_onehot(z, y.numpy())), (q, q.numpy())):
        expected = formula(z.numpy(), dense)
        np.testing.assert_allclose(loss(z, target, reduction="none"), expected, atol=1e-11)
        for how in ("mean", "sum"):
            np.testing.assert_allclose(loss(z, target, reduction=how), getattr(expected, how)(), atol=1e-10)

@each
def test_gradient(name):
    z, y = sample((7,), 5, 3)
    for target in (y, soft((7,), 5, 4)):
        assert torch.autograd.gradcheck(lambda z: LOSSES[name][0](z, target), z.clone().requires_grad_())

@fast
@given(C=st.integers(2, 9), seed=st.integers(0, 99), A=st.floats(-20, -.1), alpha=st.floats(0, 10),
       beta=st.floats(0, 10), hard=st.booleans())
def test_closed_gradients(C, seed, A, alpha, beta, hard):
    z, y = sample((2, 3), C, seed)
    target = y if hard else soft((2, 3), C, seed + 1)
    for closed, loss in ((sce.rce_gradient(z, target, A),
                          lambda z: sce.reverse_cross_entropy(z, target, A, "sum")),
                         (sce.sl_gradient(z, target, alpha, beta, A),
                          lambda z: sce.symmetric_cross_entropy(z, target, alpha, beta, A, "sum"))):
        torch.testing.assert_close(closed, torch.func.grad(loss)(z), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(closed.sum(-1), torch.zeros(2, 3, dtype=F64), rtol=0, atol=1e-9)

@each
@pytest.mark.parametrize("dtype, size", [(torch.float32, 1e4), (torch.bfloat16, 1e3)])
def test_finite_at_extreme_logits(name, dtype, size):
    z = (size * torch.tensor([[1., -1, 0], [-1, 1, 1], [-1, -1, -1], [0, 1, -1]])).to(dtype).requires_grad_()
    for y in range(3):
        losses = LOSSES[name][0](z, torch.full((4,), y), reduction="none")
        grad, = torch.autograd.grad(losses.sum(), z)
        assert losses.isfinite().all() and grad.isfinite().all() and (losses >= 0).all()
        assert sce.rce_gradient(z, torch.full((4,), y)).isfinite().all()

@each
def test_module_is_the_function(name):
    z, y = sample((5,), 4, 5)
    for how in ("mean", "sum", "none"):
        torch.testing.assert_close(LOSSES[name][2](reduction=how)(z, y), LOSSES[name][0](z, y, reduction=how))

@fast
@given(C=st.integers(2, 9), seed=st.integers(0, 99), A=st.floats(-20, -.1), eta=st.floats(0, .9))
def test_theorem_1_identity(C, seed, A, eta):
    z, _ = sample((6,), C, seed)
    losses = torch.stack([sce.reverse_cross_entropy(z, torch.full((6,), k), A, "none") for k in range(C)], -1)
    torch.testing.assert_close(losses.sum(-1), torch.full((6,), -(C - 1) * A, dtype=F64))
    torch.testing.assert_close(losses @ noise.symmetric(C, eta).T, losses * (1 - eta * C / (C - 1)) - A * eta)

@fast
@given(seed=st.integers(0, 99), A=st.floats(-20, -.1), factor=st.floats(.1, 10))
def test_only_the_product_of_beta_and_A_counts_for_hard_labels(seed, A, factor):
    z, y = sample((4,), 5, seed)
    torch.testing.assert_close(sce.symmetric_cross_entropy(z, y, .3, 1., A),
                               sce.symmetric_cross_entropy(z, y, .3, factor, A / factor))

def test_smoothing_is_torchs_and_its_labels_sum_to_one():
    z, y = sample((9,), 100, 0)
    for e in (0., .1, 1.):
        torch.testing.assert_close(sce.label_smoothing(z, y, e),
                                   torch.nn.functional.cross_entropy(z, y, label_smoothing=e))
    torch.testing.assert_close(sce.label_smoothing(z, y, 0.), cross_entropy(z, y))

@pytest.mark.parametrize("call, message", [
    (lambda z, y: sce.reverse_cross_entropy(z, y, A=0.), "A: expected a negative number, got 0.0"),
    (lambda z, y: sce.ReverseCrossEntropyLoss(A=4.), "A: expected"),
    (lambda z, y: sce.reverse_cross_entropy(z, y, A=float("nan")), "A: expected"),
    (lambda z, y: sce.rce_gradient(z, y, A=-float("inf")), "A: expected"),
    (lambda z, y: sce.symmetric_cross_entropy(z, y, -1., 1.),
     "alpha: expected a number of at least 0, got -1.0"),
    (lambda z, y: sce.SymmetricCrossEntropyLoss(1., -.1), "beta: expected"),
    (lambda z, y: sce.label_smoothing(z, y, 1.5), r"smoothing: expected a number in \[0, 1\], got 1.5"),
    (lambda z, y: sce.LabelSmoothingLoss(-1.), "smoothing: expected"),
    (lambda z, y: sce.reverse_cross_entropy(z * torch.nan, y), "logits: expected finite"),
    (lambda z, y: sce.rce_gradient(z, y + 9), "target: expected labels"),
    (lambda z, y: sce.symmetric_cross_entropy(z, y[:2], .1, 1.), "target: expected"),
    (lambda z, y: sce.reverse_cross_entropy(z, y, reduction="max"), "reduction: expected")])
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message): call(*sample((4,), 3, 0))


# What is watched

def test_class_accuracy_and_confidence():
    y, test_y = torch.arange(12) % 3, torch.arange(6) % 3
    data = Dataset("toy", torch.zeros(12, 1), y, torch.ones(6, 1), test_y, tuple("abc"))
    predicted = {0.: torch.eye(3, dtype=F64)[y] * .7 + .1, 1.: torch.eye(3, dtype=F64)[[0, 1, 0, 0, 2, 0]]}
    look = lambda which, inputs=None: predicted[0. if inputs is None else inputs[0].item()]
    labels = torch.where(torch.arange(12) < 3, (y + 1) % 3, y)
    state = TrainingState(1, Run(sce.METHODS["d2l"], labels), {}, look, data)
    assert sce.class_accuracy(state) == dict(class_0=100, class_1=50, class_2=0)
    assert sce.confidence(state) == {f"sure_{c}": pytest.approx(.8) for c in range(3)}

def test_true_positives():
    y = torch.tensor([0, 0, 1, 1, 2, 2])
    predicted = torch.eye(3)[[0, 1, 1, 1, 1, 0]]
    state = TrainingState(1, Run(sce.METHODS["d2l"], y), {}, lambda which: predicted,
                          Dataset("toy", torch.zeros(6, 1), y, torch.zeros(1, 1), y[:1], tuple("abc")))
    assert sce.true_positives(state) == dict(predicted_0=2, predicted_1=4, predicted_2=0, correct_0=1,
                                             correct_1=2, correct_2=0)

@fast
@given(n=st.integers(4, 30), d=st.integers(1, 5), seed=st.integers(0, 99), data=st.data())
def test_neighbours_of_the_same_class(n, d, seed, data):
    from sklearn.neighbors import NearestNeighbors
    k = data.draw(st.integers(1, n - 1))
    g = Generator().manual_seed(seed)
    x, y = torch.randn(n, d, dtype=F64, generator=g), torch.randint(3, (n,), generator=g)
    near = NearestNeighbors(n_neighbors=k).fit(x).kneighbors(return_distance=False)
    assert sce.same_class_neighbours(x, y, k) == pytest.approx((y.numpy()[near] == y.numpy()[:, None]).mean())

def test_a_map_keeps_apart_what_the_last_layer_keeps_apart():
    data = toy(80)
    trained = train(data, [Run(Method("cross_entropy", cross_entropy), data.train_y)], network,
                    Recipe(epochs=30, batch_size=16, optimizer=partial(torch.optim.Adam, lr=1e-2)))
    metrics = sce.embedding(trained.training_state(0), 40)
    places = torch.tensor([[metrics[f"tsne_{c}[{i}]"] for c in "xy"] for i in range(40)])
    assert len(metrics) == 121 and [metrics[f"tsne_class[{i}]"] for i in range(40)] == data.test_y.tolist()
    assert metrics["same_class_neighbours"] > .7 and sce.same_class_neighbours(places, data.test_y, 5) > .7


# D2L

def np_lid(x, k):
    r = np.sort(np.linalg.norm(x[:, None] - x[None], axis=-1), 1)[:, 1:k + 1]
    return -k / np.log(r / r[:, -1:]).sum(1)

@fast
@given(n=st.integers(5, 40), d=st.integers(1, 6), seed=st.integers(0, 99), data=st.data())
def test_local_intrinsic_dimensionality(n, d, seed, data):
    k = data.draw(st.integers(2, n - 1))
    x = torch.randn(n, d, dtype=F64, generator=Generator().manual_seed(seed))
    np.testing.assert_allclose(sce.local_intrinsic_dimensionality(x, k), np_lid(x.numpy(), k), rtol=1e-6)

def test_dimensionality_of_equal_points_is_a_number():
    assert sce.local_intrinsic_dimensionality(torch.zeros(30, 4)).isfinite().all()
    with pytest.raises(ValueError, match="k: expected a whole number in 1..9, got 20"):
        sce.local_intrinsic_dimensionality(torch.zeros(10, 4))

def as_published(lids, epochs):
    "Turning point and label weight as the authors of D2L find them, epoch by epoch: list of weights."
    weights, found, seen = [], False, []
    for lid in lids:
        seen.append(lid)
        window = seen[-6:-1]
        if len(seen) > 10 and not found: found = seen[-1] - np.mean(window) > 2 * np.std(window)
        weights.append(np.exp(-len(seen) / epochs * seen[-1] / np.min(seen)) if found else 1.)
    return weights

@fast
@given(st.lists(st.integers(1, 12).map(lambda n: 5. * n), min_size=1, max_size=25))
def test_turning_point_and_weight(lids):
    so_far = torch.full((25, 25), torch.nan, dtype=F64)
    for e in range(len(lids)): so_far[e, :e + 1] = torch.tensor(lids[:e + 1], dtype=F64)
    np.testing.assert_allclose(sce.label_weight(so_far)[:len(lids)], as_published(lids, 25), rtol=1e-9)
    assert sce.label_weight(so_far[0] * torch.nan) == 1

@pytest.mark.parametrize("epochs", [1, 5, 10])
def test_a_short_run_never_turns(epochs):
    assert sce.label_weight(torch.arange(1., 2 * epochs + 1).view(2, epochs)).tolist() == [1, 1]

def test_d2l_mixes_labels_with_predictions():
    z, y = sample((2, 6), 4, 0)
    lids = torch.full((2, 20), torch.nan)
    lids[:, :12] = 5 + .1 * torch.tensor([0., 1] * 6)
    lids[1, 11] = 10
    a = np.exp(-12 / 20 * 2)
    losses = sce.d2l(z, y, lids, "none")
    torch.testing.assert_close(losses[0], cross_entropy(z[0], y[0], "none"))
    torch.testing.assert_close(losses[1], a * cross_entropy(z[1], y[1], "none")
                               + (1 - a) * cross_entropy(z[1], z[1].argmax(-1), "none"), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sce.d2l(z, y), cross_entropy(z, y))

def test_d2l_remembers_together_as_alone_and_through_a_kill(tmp_path):
    data = toy(300)
    noisy = noise.corrupt(data.train_y, noise.symmetric(4, .4), Generator().manual_seed(1))
    method = sce.d2l_method(14)
    recipe = partial(Recipe, batch_size=24, optimizer=partial(torch.optim.Adam, lr=1e-2),
                     epoch_metrics=sce.dimensionality)
    runs = [Run(Method("cross_entropy", cross_entropy), noisy), *(Run(method, noisy, seed=s) for s in (0, 1))]
    whole = train(data, runs, network, recipe(epochs=14))
    alone = train(data, runs[2:], network, recipe(epochs=14))
    train(data, runs, network, recipe(epochs=9), folder=tmp_path)
    resumed = train(data, runs, network, recipe(epochs=14), folder=tmp_path)
    trainer, r = whole.trainers[2]
    lids = trainer.groups[1].run_state["lids"]
    watched = whole.curves.query("metric == 'lid' and run == 2").value.to_numpy()
    np.testing.assert_allclose(lids[1], watched, rtol=1e-6)
    assert lids.isfinite().all() and torch.equal(lids, resumed.trainers[2][0].groups[1].run_state["lids"])
    for other, i in ((alone, 0), (resumed, 2)):
        for a, b in zip(whole.module(2, "last").parameters(),
                        other.module(i, "last").parameters(), strict=True):
            assert torch.equal(a, b)
