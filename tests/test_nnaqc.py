"""Noise layers beside independent formulas, their limits and edges, and their methods in the engine,
dropout masks included."""
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Generator

from noisy_course import nnaqc, noise
from noisy_course.lab import protocols
from noisy_course.loss_correction import METHODS as CORRECTIONS, bootstrap_soft, forward_cross_entropy
from noisy_course.losses import cross_entropy
from noisy_course.nnaqc import (METHODS, DropoutNoiseLayer, LinearNoiseLayer, NNAQCLoss, NoiseLayerLoss,
                                NonlinearNoiseLayer, TracePenalised)
from noisy_course.training import Recipe, Run, train
from samples import network, np_softmax, sample, toy

fast = settings(max_examples=30, deadline=None)
F64 = torch.float64
LAYERS = dict(linear=LinearNoiseLayer, nonlinear=NonlinearNoiseLayer, weights=DropoutNoiseLayer,
              activations=partial(DropoutNoiseLayer, on="activations"))

def drawn(layer, seed=0):
    "A layer with random weights, in float64."
    layer = layer.double()
    with torch.no_grad():
        layer.W.copy_(torch.randn(layer.W.shape, dtype=F64, generator=Generator().manual_seed(seed)))
    return layer


# The layers

@fast
@given(B=st.integers(1, 5), C=st.integers(2, 8), seed=st.integers(0, 99))
def test_formulas(B, C, seed):
    z, _ = sample((B,), C, seed)
    p = np_softmax(z.numpy())
    linear, other = drawn(LinearNoiseLayer(C), seed), drawn(NonlinearNoiseLayer(C), seed)
    W = other.W.detach().numpy()
    np.testing.assert_allclose(linear(z).exp().detach(),
                               p @ np_softmax(linear.W.detach().numpy()), atol=1e-12)
    np.testing.assert_allclose(other(z).detach(), np.stack([W @ one for one in p]), atol=1e-12)

@pytest.mark.parametrize("name", LAYERS)
@fast
@given(C=st.integers(2, 8), seed=st.integers(0, 99), scale=st.sampled_from([1., 30.]))
def test_given_labels_have_a_distribution_and_gradients_are_right(name, C, seed, scale):
    z, y = sample((4,), C, seed, scale)
    layer = drawn(LAYERS[name](C), seed).eval()
    torch.testing.assert_close(layer(z).softmax(-1).sum(-1), torch.ones(4, dtype=F64))
    assert torch.autograd.gradcheck(lambda z: cross_entropy(layer(z), y), z.clone().requires_grad_())

@pytest.mark.parametrize("start", [.2, .5, .99])
def test_a_linear_layer_starts_where_it_is_told(start):
    T = LinearNoiseLayer(7, start).transition()
    torch.testing.assert_close(T, noise.symmetric(7, 1 - start).float(), atol=1e-6, rtol=1e-6)

def test_a_linear_layer_is_forward_correction():
    z, y = sample((6,), 5, 1)
    layer = drawn(LinearNoiseLayer(5))
    torch.testing.assert_close(cross_entropy(layer(z), y, "none"),
                               forward_cross_entropy(z, y, layer.transition().detach(), "none"))

@pytest.mark.parametrize("C", [2, 10, 100])
def test_the_ceiling_at_the_identity(C):
    z = 1e4 * torch.eye(C)
    torch.testing.assert_close(NonlinearNoiseLayer(C)(z).softmax(-1).diagonal(),
                               torch.full((C,), np.e / (np.e + C - 1), dtype=torch.float32))

@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_layers_stay_finite(name, size):
    z = (size * torch.eye(4)).requires_grad_()
    loss = cross_entropy(LAYERS[name](4).eval()(z), torch.tensor([1, 1, 2, 0]))
    loss.backward()
    assert loss.isfinite() and z.grad.isfinite().all()

@pytest.mark.parametrize("on, gone", [("weights", .5 ** 4), ("activations", .5)])
def test_dropout_drops_what_it_says(on, gone):
    "An output is gone when all four weights that lead to it are, or when it is dropped itself."
    layer = drawn(DropoutNoiseLayer(4, .5, on))
    z = torch.randn(2000, 4, dtype=F64, generator=Generator().manual_seed(0))
    whole = layer.eval()(z)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        out = layer.train()(z)
    assert (out == 0).double().mean().item() == pytest.approx(gone, abs=.02)
    error = (out - whole).std(0) / 2000 ** .5
    assert ((out - whole).mean(0).abs() < 4 * error).all()  # dropping changes no output's mean
    if on == "activations": torch.testing.assert_close(out[out != 0], 2 * whole[out != 0])
    torch.testing.assert_close(whole, z.softmax(-1) @ layer.W.mT)

@pytest.mark.parametrize("make, message", [
    (lambda: LinearNoiseLayer(3, 1.), r"start: expected a number in \(0, 1\), got 1.0"),
    (lambda: TracePenalised(3, -1), "trace: expected a number of at least 0, got -1"),
    (lambda: DropoutNoiseLayer(3, 1.), "p: expected"),
    (lambda: DropoutNoiseLayer(3, on="both"), "on: expected 'weights' or 'activations', got 'both'"),
    (lambda: nnaqc.quasi_clustering(torch.zeros(1, 2), torch.tensor([0]), 2.),
     r"beta: expected a number in \[0, 1\], got 2.0"),
    (lambda: nnaqc.nnaqc(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0]), alpha=-.1),
     r"alpha: expected a number in \[0, 1\], got -0.1"),
    (lambda: nnaqc.quasi_clustering(torch.zeros(1, 2), torch.tensor([2])), "target: expected labels in 0..1"),
    (lambda: nnaqc.quasi_clustering(torch.tensor([[0., torch.nan]]), torch.tensor([0])),
     "logits: expected finite")])
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message): make()


# The losses

@fast
@given(C=st.integers(2, 8), seed=st.integers(0, 99), alpha=st.floats(0, 1), beta=st.floats(0, 1),
       how=st.sampled_from(["mean", "sum", "none"]))
def test_nnaqc_is_its_parts(C, seed, alpha, beta, how):
    z, y = sample((3, 2), C, seed)
    noisy, p = sample((3, 2), C, seed + 1)[0], np_softmax(z.numpy())
    q = beta * p + (1 - beta) * np.eye(C)[y]
    of_label = np.take_along_axis(np_softmax(noisy.numpy()), y.numpy()[..., None], -1)[..., 0]
    expected = -alpha * np.log(of_label) - (1 - alpha) * (q * np.log(p)).sum(-1)
    got = nnaqc.nnaqc(z, noisy, y, alpha, beta, how)
    np.testing.assert_allclose(got, expected if how == "none" else getattr(expected, how)(), atol=1e-10)
    torch.testing.assert_close(nnaqc.quasi_clustering(z, y, beta, how), bootstrap_soft(z, y, 1 - beta, how))

@fast
@given(w=st.floats(.01, .3), C=st.integers(2, 10), seed=st.integers(0, 99))
def test_a_small_layer_is_nearly_the_mean_absolute_error(w, C, seed):
    z, y = sample((50,), C, seed)
    p = torch.from_numpy(np_softmax(z.numpy()))
    loss = cross_entropy(w * p, y, "none") + w * p.gather(-1, y[:, None])[:, 0]
    assert (loss - np.log(C) - w / C).min() > -1e-9 and (loss - np.log(np.exp(w) + C - 1)).max() < 1e-9

def test_modules_are_their_functions():
    z, y = sample((5,), 4, 0)
    loss = NNAQCLoss(4, .8, .7, reduction="none").double()
    torch.testing.assert_close(loss(z, y), nnaqc.nnaqc(z, loss.layer(z), y, .8, .7, "none"))
    torch.testing.assert_close(NoiseLayerLoss(loss.layer)(z, y), cross_entropy(loss.layer(z), y))
    assert [type(NNAQCLoss(4, dropout=d).layer) for d in (0, .5)] == [NonlinearNoiseLayer, DropoutNoiseLayer]
    loss(z, y).sum().backward()
    assert loss.layer.W.grad.norm() > 0

def test_the_penalty_pulls_the_trace_down():
    z, y = sample((40,), 4, 0)
    traces = []
    for weight in (0., 5.):
        layer = TracePenalised(4, weight).double()
        optimizer = torch.optim.SGD(layer.parameters(), lr=.1)
        for _ in range(50):
            optimizer.zero_grad()
            nnaqc.negative_log_likelihood(layer(z), z.argmax(-1)).backward()
            optimizer.step()
        traces.append(layer.layer.transition().trace().item())
    assert traces[1] < traces[0] - .5

def test_genie_with_clustering():
    z, y = sample((5,), 4, 0)
    T = noise.symmetric(4, .3)
    expected = .9 * forward_cross_entropy(z, y, T, "none") + .1 * nnaqc.quasi_clustering(z, y, .9, "none")
    torch.testing.assert_close(protocols.forward_qc(z, y, T, reduction="none"), expected)


# The methods

DATA = toy(200)
NOISY = noise.corrupt(DATA.train_y, noise.symmetric(4, .3), Generator().manual_seed(1))
RECIPE = partial(Recipe, batch_size=24, optimizer=partial(torch.optim.Adam, lr=1e-2))
EVERY = [*METHODS.values(), CORRECTIONS["cross_entropy"]]

def weights(trained, i):
    trainer, r = trained.trainers[i]
    group = next(g for g in trainer.groups if g.rows.start <= r < g.rows.stop)
    layer = group.layer.state_dict().values() if group.layer else []
    return [p for p in trained.module(i, "last").parameters()] + [v[r - group.rows.start] for v in layer]

def test_methods_together_are_the_methods_alone_and_survive_a_kill(tmp_path):
    runs = [Run(method, NOISY, noise.symmetric(4, .3), seed) for method in EVERY for seed in (0, 1)]
    together = train(DATA, runs, network, RECIPE(epochs=4))
    train(DATA, runs, network, RECIPE(epochs=2), folder=tmp_path)
    resumed = train(DATA, runs, network, RECIPE(epochs=4), folder=tmp_path)
    for i in range(1, len(runs), 2):
        alone = train(DATA, [runs[i]], network, RECIPE(epochs=4))
        for a, b, c in zip(weights(together, i), weights(alone, 0), weights(resumed, i), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
            assert torch.equal(a, c)

@pytest.mark.parametrize("name", METHODS)
def test_predictions_do_without_the_layer(name):
    trained = train(DATA, [Run(METHODS[name], NOISY)], network, RECIPE(epochs=2))
    module = trained.module(0, "last")
    assert len(module) == 1
    accuracy = 100 * (module(DATA.normalise(DATA.test_x)).argmax(-1) == DATA.test_y).double().mean()
    assert trained.curves.query("metric == 'test_accuracy'").value.iloc[-1] == pytest.approx(accuracy.item())

def test_dropout_in_a_layer_has_draws_of_its_own_run():
    runs = [Run(METHODS["nnaqc_dropout"], NOISY, seed=seed) for seed in (0, 1)]
    one, other = (train(DATA, runs[::order], network, RECIPE(epochs=2)) for order in (1, -1))
    for a, b in zip(weights(one, 0), weights(other, 1), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    plain = train(DATA, [Run(METHODS["nnaqc"], NOISY)], network, RECIPE(epochs=2))
    assert not torch.allclose(weights(plain, 0)[0], weights(one, 0)[0], atol=1e-3)
