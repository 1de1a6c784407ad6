"""The losses of chapter 10 against formulas written another way, at the edges, and on wrong input."""
import math
import re
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, vmap

from noisy_course import loss_correction as lc
from noisy_course import noise

F64 = torch.float64
C = 5


# ---------------------------------------- independent formulas: numpy float64, one number at a time

def np_softmax(z):
    e = [math.exp(v - max(z)) for v in z]
    return [v / sum(e) for v in e]


def np_cross_entropy(z, y): return -math.log(np_softmax(z)[y])


def np_forward(z, y, T):
    p = np_softmax(z)
    return -math.log(sum(p[i] * T[i][y] for i in range(len(z))))


def np_backward(z, y, T):
    inverse = np.linalg.inv(np.array(T))
    return sum(inverse[y, i] * np_cross_entropy(z, i) for i in range(len(z)))


def np_unhinged(z, y): return sum(1 - (z[k] if k == y else 0) for k in range(len(z))) / len(z)


def np_sigmoid(z, y): return sum(1 / (1 + math.exp(z[k] if k == y else 0)) for k in range(len(z))) / len(z)


def np_savage(z, y):
    p = np_softmax(z)
    return sum((1 + math.exp(2 * (p[k] if k == y else 0))) ** -2 for k in range(len(z))) / len(z)


def np_bootstrap_soft(z, y, beta=.95):
    p = np_softmax(z)
    return -sum((beta * (k == y) + (1 - beta) * p[k]) * math.log(p[k]) for k in range(len(z)))


def np_bootstrap_hard(z, y, beta=.8):
    p = np_softmax(z)
    best = max(range(len(z)), key=lambda k: z[k])
    return -beta * math.log(p[y]) - (1 - beta) * math.log(p[best])


T5 = (3 * torch.eye(C, dtype=F64)
      + torch.randn(C, C, dtype=F64, generator=torch.Generator().manual_seed(5))).softmax(-1)


def forward(z, y, reduction="mean", T=T5): return lc.forward_cross_entropy(z, y, T, reduction)
def backward(z, y, reduction="mean", T=T5): return lc.backward_cross_entropy(z, y, T, reduction)


LOSSES = {
    "cross_entropy": (lc.cross_entropy, np_cross_entropy),
    "forward": (forward, lambda z, y: np_forward(z, y, T5.tolist())),
    "backward": (backward, lambda z, y: np_backward(z, y, T5.tolist())),
    "unhinged": (lc.unhinged, np_unhinged), "sigmoid": (lc.sigmoid_loss, np_sigmoid),
    "savage": (lc.savage, np_savage), "bootstrap_soft": (lc.bootstrap_soft, np_bootstrap_soft),
    "bootstrap_hard": (lc.bootstrap_hard, np_bootstrap_hard),
}
ON_SOFTMAX = [n for n in LOSSES if n not in ("unhinged", "sigmoid")]
every_loss = pytest.mark.parametrize("name", LOSSES)


def sample(seed, *lead, scale=3., dtype=F64):
    g = torch.Generator().manual_seed(seed)
    return ((scale * torch.randn(*lead, C, generator=g, dtype=F64)).to(dtype),
            torch.randint(C, lead, generator=g))


seeds = st.integers(0, 2**31)
shapes = st.lists(st.integers(1, 4), max_size=3)


# ---------------------------------------------------------------- values

@every_loss
@settings(max_examples=25, deadline=None)
@given(seed=seeds, lead=shapes, scale=st.sampled_from([.1, 1., 5.]))
def test_equals_the_formula_written_as_loops(name, seed, lead, scale):
    loss, formula = LOSSES[name]
    z, y = sample(seed, *lead, scale=scale)
    expected = [formula(row.tolist(), label.item()) for row, label in zip(z.reshape(-1, C), y.reshape(-1))]
    got = loss(z, y, reduction="none")
    assert got.shape == y.shape
    assert np.allclose(got.reshape(-1), expected, rtol=1e-9, atol=1e-9)


@every_loss
@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_gradient_equals_finite_differences(name, seed):
    loss, _ = LOSSES[name]
    z, y = sample(seed, scale=1.)
    best = z.topk(2).values
    if name == "bootstrap_hard" and best[0] - best[1] < 1e-3: return
    h = torch.eye(C, dtype=F64) * 1e-5
    numeric = (loss(z + h, y.expand(C), reduction="none") - loss(z - h, y.expand(C), reduction="none")) / 2e-5
    assert torch.allclose(grad(loss)(z, y), numeric, atol=1e-8, rtol=1e-6)


@every_loss
@settings(max_examples=15, deadline=None)
@given(seed=seeds, lead=shapes)
def test_reductions_and_soft_one_hot_agree(name, seed, lead):
    loss, _ = LOSSES[name]
    z, y = sample(seed, *lead)
    each = loss(z, y, reduction="none")
    assert torch.allclose(loss(z, y), each.mean()) and torch.allclose(loss(z, y, reduction="sum"), each.sum())
    assert torch.allclose(loss(z, torch.nn.functional.one_hot(y, C).to(F64), reduction="none"),
                          each, atol=1e-12)


@pytest.mark.parametrize("name", ON_SOFTMAX)
@settings(max_examples=15, deadline=None)
@given(seed=seeds, shift=st.floats(-100, 100))
def test_a_shift_of_all_logits_changes_nothing(name, seed, shift):
    loss, _ = LOSSES[name]
    z, y = sample(seed, 4)
    assert torch.allclose(loss(z + shift, y), loss(z, y), atol=1e-10)


@settings(max_examples=15, deadline=None)
@given(seed=seeds, lead=shapes)
def test_without_noise_both_corrections_are_cross_entropy(seed, lead):
    z, y = sample(seed, *lead)
    soft = sample(seed + 1, *lead)[0].softmax(-1)
    for corrected in (forward, backward):
        for target in (y, soft):
            assert torch.allclose(corrected(z, target, T=torch.eye(C, dtype=F64)),
                                  lc.cross_entropy(z, target), atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_a_T_for_each_run_equals_one_run_at_a_time(seed):
    z, y = sample(seed, 2, 3, 4)
    soft = sample(seed + 1, 2, 3, 4)[0].softmax(-1)
    T = (sample(seed + 2, 2, 3, C)[0] / 3 + 4 * torch.eye(C)).softmax(-1)
    for corrected in (forward, backward):
        for target in (y, soft):
            together = corrected(z, target, "none", T)
            alone = [corrected(z[i, j], target[i, j], "none", T[i, j]) for i in range(2) for j in range(3)]
            assert torch.allclose(together, torch.stack(alone).view(2, 3, 4), atol=1e-10)
            assert torch.allclose(corrected(z, target, "none", T[:1]),
                                  corrected(z, target, "none", T[:1].expand(2, 3, C, C)), atol=1e-10)


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_soft_targets_of_the_corrections(seed):
    z, _ = sample(seed, 6)
    soft = sample(seed + 1, 6)[0].softmax(-1)
    def everything(loss):
        return torch.stack([loss(z, torch.full((6,), j), reduction="none") for j in range(C)], -1)
    for corrected in (forward, backward):
        assert torch.allclose(corrected(z, soft, "none"), (soft * everything(corrected)).sum(-1), atol=1e-10)


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_backward_is_unbiased(seed):
    z, _ = sample(seed, 6)
    def everything(loss):
        return torch.stack([loss(z, torch.full((6,), j), reduction="none") for j in range(C)], -1)
    assert torch.allclose(everything(backward) @ T5.T, everything(lc.cross_entropy), atol=1e-9)


def test_backward_takes_an_inverse_and_a_clip():
    z, y = sample(0, 7, scale=20.)
    assert torch.allclose(lc.backward_cross_entropy(z, y, T5, T_inverse=lc.invert(T5)),
                          lc.backward_cross_entropy(z, y, T5))
    p = z.softmax(-1).numpy().clip(1e-7, 1 - 1e-7)
    authors = -(np.linalg.inv(T5.numpy())[y] * np.log(p)).sum(-1)
    assert np.allclose(lc.backward_cross_entropy(z, y, T5, "none", clip=1e-7), authors)


def test_forward_takes_zeros_in_T():
    z, y = sample(0, 50)
    T = noise.pair_flips(C, [(0, 1), (2, 3)], 1.)
    seen = torch.tensor([1, 1, 3, 3, 4])[y]
    expected = [np_forward(row.tolist(), label.item(), T.tolist()) for row, label in zip(z, seen)]
    assert np.allclose(lc.forward_cross_entropy(z, seen, T, "none"), expected)
    impossible = lc.forward_cross_entropy(z[:1], torch.tensor([0]), T)
    assert impossible > 1e100 and impossible.isfinite()


# ---------------------------------------------------------------- extremes

@every_loss
@pytest.mark.parametrize("dtype, size", [(torch.float32, 1e4), (torch.bfloat16, 1e3), (torch.float64, 1e4)])
def test_values_and_gradients_are_finite_at_extreme_logits(name, dtype, size):
    loss, _ = LOSSES[name]
    corners = torch.cartesian_prod(*[torch.tensor([-size, 0., size])] * C).to(dtype)
    for y in range(C):
        z = corners.clone().requires_grad_()
        losses = loss(z, torch.full((len(z),), y), reduction="none")
        losses.sum().backward()
        assert losses.dtype == dtype and losses.isfinite().all() and z.grad.isfinite().all()


@pytest.mark.parametrize("dtype, size", [(torch.float32, 1e4), (torch.bfloat16, 1e3)])
def test_forward_is_finite_at_extreme_logits_with_zeros_in_T(dtype, size):
    T = noise.pair_flips(C, [(0, 1), (1, 0), (2, 3)], .6)
    z = torch.cartesian_prod(*[torch.tensor([-size, size])] * C).to(dtype).requires_grad_()
    for y in range(C):
        for target in (torch.full((len(z),), y), T[y].expand(len(z), C).to(dtype)):
            losses = lc.forward_cross_entropy(z, target, T, "none")
            losses.sum().backward()
            assert losses.isfinite().all() and z.grad.isfinite().all()


def test_forward_with_a_learnt_T_has_finite_gradients_at_zero():
    z, y = sample(0, 20)
    T = noise.pair_flips(C, [(0, 1)], .4).requires_grad_()
    lc.forward_cross_entropy(z, y, T).backward()
    assert T.grad.isfinite().all() and T.grad.abs().max() > 0


# ---------------------------------------------------------------- torch: compile, func, modules, devices

@pytest.mark.parametrize("name", ["forward", "backward", "unhinged", "bootstrap_hard"])
def test_compiles_into_one_graph(name):
    loss, _ = LOSSES[name]
    z, y = sample(0, 3, 4)
    step = lambda z: torch.compile(lambda z: loss(z, y, reduction="none"), fullgraph=True,
                                   backend="aot_eager")(z)
    assert torch.allclose(step(z), loss(z, y, reduction="none"))
    assert torch.allclose(torch.autograd.functional.jacobian(lambda z: step(z).sum(), z),
                          grad(lambda z: loss(z, y, reduction="sum"))(z))


@every_loss
def test_under_vmap_and_grad(name):
    loss, _ = LOSSES[name]
    z, y = sample(0, 6)
    together = torch.autograd.functional.jacobian(lambda z: loss(z, y, reduction="sum"), z)
    assert torch.allclose(vmap(grad(loss))(z, y), together)


MODULES = {
    "forward": lambda r: lc.ForwardCrossEntropyLoss(T5, r),
    "backward": lambda r: lc.BackwardCrossEntropyLoss(T5, r),
    "unhinged": lc.UnhingedLoss, "sigmoid": lc.SigmoidLoss, "savage": lc.SavageLoss,
    "bootstrap_soft": lambda r: lc.BootstrapSoftLoss(.95, r),
    "bootstrap_hard": lambda r: lc.BootstrapHardLoss(reduction=r),
}


@pytest.mark.parametrize("name", MODULES)
def test_module_equals_function(name):
    loss, _ = LOSSES[name]
    z, y = sample(0, 3, 4)
    for reduction in ("mean", "sum", "none"):
        assert torch.allclose(MODULES[name](reduction)(z, y), loss(z, y, reduction=reduction))


def test_T_travels_with_the_module():
    assert set(lc.ForwardCrossEntropyLoss(T5).state_dict()) == {"T"}
    assert set(lc.BackwardCrossEntropyLoss(T5).state_dict()) == {"T", "T_inverse"}
    z, y = sample(0, 4, dtype=torch.float32)
    assert lc.BackwardCrossEntropyLoss(T5).float()(z, y).dtype == torch.float32


def test_methods_are_the_tables_ten():
    names = ("cross_entropy backward backward_estimated forward forward_estimated unhinged sigmoid savage "
             "bootstrap_soft bootstrap_hard")
    assert list(lc.METHODS) == names.split() and all(m.name == n for n, m in lc.METHODS.items())
    z, y = sample(0, 2, 4)
    T = T5.expand(2, C, C)
    for method in lc.METHODS.values():
        arguments = method.loss_arguments(T) if method.loss_arguments else {}
        assert method.hook("loss")(z, y, reduction="none", **arguments).shape == (2, 4)


# ---------------------------------------------------------------- the estimator

def np_estimate(probs, percentile):
    T = []
    for i in range(probs.shape[1]):
        order = sorted(range(len(probs)), key=lambda n: probs[n, i])
        place = len(probs) - 1 if percentile is None else math.ceil((len(probs) - 1) * percentile / 100)
        row = probs[order[place]]
        T.append(row / row.sum())
    return np.array(T)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, n=st.integers(1, 60), percentile=st.sampled_from([None, 0, 50, 97, 100]))
def test_estimate_equals_sorting(seed, n, percentile):
    probs = sample(seed, n)[0].softmax(-1)
    T = lc.estimate_transition(probs, percentile)
    assert np.allclose(T, np_estimate(probs.numpy(), percentile)) and T.dtype == F64
    assert torch.allclose(T.sum(-1), torch.ones(C, dtype=F64))


def test_estimate_of_many_runs_at_once():
    probs = sample(0, 3, 40)[0].softmax(-1)
    assert torch.equal(lc.estimate_transition(probs, 97),
                       torch.stack([lc.estimate_transition(p, 97) for p in probs]))


def test_estimate_picks_the_percentile_that_numpy_picks():
    probs = sample(0, 101)[0].softmax(-1)
    for i, row in enumerate(lc.estimate_transition(probs, 97)):
        assert row[i].item() == pytest.approx(np.percentile(probs[:, i], 97, method="higher"))


@settings(max_examples=25, deadline=None)
@given(seed=seeds, rate=st.floats(0, .45))
def test_estimate_is_exact_with_perfect_examples_where_the_diagonal_wins(seed, rate):
    T = noise.random_simplex(C, rate, torch.Generator().manual_seed(seed))
    if not (T.diagonal() > (T - torch.diag(T.diagonal())).amax(0)).all(): return
    clean = torch.cat([torch.eye(C, dtype=F64), sample(seed, 200)[0].softmax(-1)])
    assert torch.allclose(lc.estimate_transition(clean @ T), T)


def test_algorithm_one_uses_the_T_it_is_given():
    seen = []
    fit = lambda loss: seen.append(loss) or (lambda x: x)
    x = sample(0, 40)[0]
    assert lc.two_stage(fit, x, lc.forward_cross_entropy, T5)[1] is T5 and len(seen) == 1
    T = lc.two_stage(fit, x, lc.forward_cross_entropy, percentile=None)[1]
    assert len(seen) == 3 and torch.equal(T, lc.estimate_transition(x.softmax(-1)))


# ---------------------------------------------------------------- wrong input

Z, Y = sample(0, 6)[0], torch.tensor([0, 1, 2, 3, 4, 4])
BAD = {
    "labels too large": (lambda f: f(Z, Y + 1), "target: expected labels in 0..4, got values from 1 to 5"),
    "labels below zero": (lambda f: f(Z, Y - 1), "target: expected labels in 0..4, got values from -1 to 3"),
    "labels of the wrong shape": (lambda f: f(Z, Y[:3]),
                                  "target: expected integer labels of shape (6,) or soft labels of shape (6, "
                                  "5), to fit logits, got int64 of shape (3,)"),
    "labels as floats": (lambda f: f(Z, Y.double()), "target: expected integer labels"),
    "bool labels": (lambda f: f(Z, Y > 1),
                    "target: expected a tensor of integer labels, or of soft labels, got bool of shape (6,)"),
    "soft labels above 1": (lambda f: f(Z, Z.exp() + 2),
                            "target: expected soft labels in [0, 1], got values from"),
    "NaN soft labels": (lambda f: f(Z, Z * math.nan),
                        "target: expected soft labels in [0, 1], got values from nan"),
    "NaN logits": (lambda f: f(Z.index_fill(0, torch.tensor(2), math.nan), Y),
                   "logits: expected finite numbers, got 5 NaN and 0 infinite"),
    "infinite logits": (lambda f: f(Z / 0, Y), "logits: expected finite numbers, got 0 NaN and 30 infinite"),
    "integer logits": (lambda f: f(Z.long(), Y), "logits: expected floating-point numbers of shape (..., "
                                                 "C), got int64 of shape (6, 5)"),
    "unknown reduction": (lambda f: f(Z, Y, reduction="average"),
                          "reduction: expected \"mean\", \"sum\" or \"none\", got 'average'"),
}


@every_loss
@pytest.mark.parametrize("case", BAD)
def test_bad_input_says_what_is_wrong(name, case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match="^" + re.escape(message)): call(LOSSES[name][0])


@pytest.mark.parametrize("corrected", [forward, backward])
@pytest.mark.parametrize("T, message", [
    (T5 * 1.1, "T: expected rows that sum to 1, got"), (T5.T, "T: expected rows that sum to 1, got"),
    (-T5, "T: expected"), (T5 * math.nan, "T: expected finite entries, got"),
    (T5[:4, :4], "T: expected a 5×5 matrix, or one for each of the leading dimensions (), "
                 "got float64 of shape (4, 4)"),
    (T5[0], "T: expected a 5×5 matrix"), (T5.expand(2, C, C), "T: expected a 5×5 matrix"),
    (torch.eye(C).long(), "T: expected a tensor of floats, (..., C, C), got int64"),
])
def test_bad_T_says_what_is_wrong(corrected, T, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)): corrected(Z, Y, T=T)


@pytest.mark.parametrize("T", [noise.symmetric(C, .8), noise.symmetric(C, .8).float(),
                               noise.pair_flips(C, [(0, 1), (1, 0)], .5), noise.pair_flips(C, [(0, 1)], 1.)])
def test_singular_T_is_refused_by_backward_only(T):
    with pytest.raises(ValueError, match="^T: expected an invertible matrix, got a singular one"):
        backward(Z, Y, T=T)
    with pytest.raises(ValueError, match="^T: expected an invertible matrix"): lc.BackwardCrossEntropyLoss(T)
    assert forward(Z, torch.full((6,), 1), T=T).isfinite()


def test_badly_conditioned_T_warns():
    with pytest.warns(UserWarning, match=r"T is badly conditioned \(5\d\d\)"):
        backward(Z, Y, T=noise.pair_flips(C, [(0, 1), (1, 0)], .499))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backward(Z, Y, T=lc.mix_with_identity(noise.pair_flips(C, [(0, 1), (1, 0)], .499), .1))


@pytest.mark.parametrize("call, message", [
    (lambda: lc.mix_with_identity(T5, 1.5), "amount: expected a number in [0, 1], got 1.5"),
    (lambda: lc.bootstrap_soft(Z, Y, beta=-1), "beta: expected a number in [0, 1], got -1"),
    (lambda: lc.bootstrap_hard(Z, Y, beta=2), "beta: expected a number in [0, 1], got 2"),
    (lambda: lc.backward_cross_entropy(Z, Y, T5, T_inverse=T5[0]),
     "T_inverse: expected None or the shape of T"),
    (lambda: lc.estimate_transition(Z), "probs: expected rows of probabilities that sum to 1, got"),
    (lambda: lc.estimate_transition(Z * math.nan), "probs: expected rows of probabilities"),
    (lambda: lc.estimate_transition(Z[:0]),
     "probs: expected probabilities of shape (..., N, C), got float64 of shape (0, 5)"),
    (lambda: lc.estimate_transition(Z[0]), "probs: expected probabilities of shape (..., N, C)"),
    (lambda: lc.estimate_transition(Z.softmax(-1), 0.97e3),
     "percentile: expected a number in [0, 100], got 970.0"),
])
def test_other_bad_arguments(call, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)): call()


@every_loss
def test_one_logit_is_refused_and_an_empty_batch_is_not(name):
    loss = LOSSES[name][0]
    for z, y in ((Z[:, :1], Y * 0), (Z[:, :1], torch.ones(6, 1)), (Z[:, 0], torch.ones(6))):
        with pytest.raises(ValueError, match=r"^logits: expected at least two classes; "
                                             r"for one logit z a sample, torch.stack|sum to 1"):
            loss(z, y)
    assert loss(Z[:0], Y[:0], reduction="none").shape == (0,) and loss(Z[:0], Y[:0], reduction="sum") == 0
    assert loss(Z[:0], Y[:0]).isnan()
