"""What every loss and every loss module of the course keeps to, found by inspection, beside PyTorch's own
losses where there is one."""
import copy
import inspect
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, vmap

from noisy_course import (generalized_cross_entropy, joint_optimization, loss_correction, losses, nnaqc,
                          noise, symmetric_cross_entropy)
from noisy_course.lab import protocols
from noisy_course.losses import LossModule, skip_checks

F64, C, N = torch.float64, 5, 8
G = torch.Generator().manual_seed(0)
T = (3 * torch.eye(C, dtype=F64) + torch.randn(C, C, dtype=F64, generator=G)).softmax(-1)
Z, Y = 3 * torch.randn(N, C, dtype=F64, generator=G), torch.arange(N) % C
SOFT, OTHER = torch.randn(N, C, dtype=F64, generator=G).softmax(-1), torch.randn(N, C, dtype=F64, generator=G)
NEEDED = dict(T=T, alpha=.3, beta=.7)
CHAPTERS = (losses, loss_correction, generalized_cross_entropy, symmetric_cross_entropy, nnaqc,
            joint_optimization, protocols)

def is_loss(f):
    "A function of logits and labels that reduces."
    names = list(inspect.signature(f).parameters) if inspect.isfunction(f) else []
    return names[:1] == ["logits"] and {"target", "soft_target"} & set(names) and "reduction" in names

def own(f):
    "What a loss must be given besides logits and labels."
    needed = [p.name for p in inspect.signature(f).parameters.values()
              if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return {name: NEEDED[name] for name in needed
            if name not in ("logits", "target", "soft_target", "noisy_logits")}

def called(f, z=Z, target=Y, **more):
    "A loss of logits; NNAQC sees twice as large ones above its layer."
    arguments = own(f) | more
    if "noisy_logits" in inspect.signature(f).parameters: arguments = dict(noisy_logits=2 * z) | arguments
    label = "soft_target" if "soft_target" in inspect.signature(f).parameters else "target"
    return f(z, **{label: target}, **arguments)

def defined(module):
    "What a module defines itself."
    return [thing for thing in vars(module).values() if getattr(thing, "__module__", "") == module.__name__]

LOSSES = {f.__name__: f for module in CHAPTERS for f in defined(module) if is_loss(f)}
LOG = {"negative_log_likelihood"}
def of_logits(f):
    "A loss of log-probabilities as one of logits."
    last = lambda dim: dim if dim in (0, 1, 2) and type(dim) is int else -1
    return lambda logits, target, **more: f(logits.log_softmax(last(more.get("dim"))), target, **more)
for name in LOG: LOSSES[name] = of_logits(LOSSES[name])
OF_A_BATCH, OF_THE_METHOD = {"joint_loss"}, {"weighted_gce", "step_one_loss", "step_two_loss"}
each = pytest.mark.parametrize("name", [n for n in LOSSES if n not in ("step_one_loss", "step_two_loss")])

def test_all_losses_are_found():
    assert len(LOSSES) >= 23
    assert {"cross_entropy", "forward_cross_entropy", "weighted_gce", "d2l", "nnaqc", "joint_loss",
            "forward_qc"} <= set(LOSSES)


@each
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16,
                                   torch.uint32, torch.uint64])
def test_any_type_of_integers(name, dtype):
    torch.testing.assert_close(called(LOSSES[name], target=Y.to(dtype)), called(LOSSES[name]), rtol=0, atol=0)

@each
@pytest.mark.parametrize("how", ["mean", "sum", "none"])
def test_samples_left_out_do_not_count(name, how):
    "As if they were not there: for the joint loss the batch's mean prediction is that of the others too."
    out = Y.clone()
    out[[1, 4]] = -100
    kept = out != -100
    few = called(LOSSES[name], Z[kept], Y[kept], reduction=how)
    got = called(LOSSES[name], target=out, reduction=how)
    torch.testing.assert_close(got[kept] if how == "none" else got, few)
    if how == "none": assert (got[~kept] == 0).all()
    torch.testing.assert_close(called(LOSSES[name], target=out.where(kept, 77), reduction=how,
                                      ignore_index=77), got)
    assert called(LOSSES[name], target=torch.full_like(Y, -100)).isnan()
    assert called(LOSSES[name], target=torch.full_like(Y, -100), reduction="sum") == 0

@each
def test_samples_left_out_under_vmap_and_compile(name):
    if name in OF_A_BATCH: pytest.skip("a sample alone is no batch")
    out = Y.clone()
    out[[1, 4]] = -100
    one = lambda z, y: called(LOSSES[name], z, y, reduction="sum")
    together = grad(lambda z: called(LOSSES[name], z, out, reduction="sum"))(Z)
    torch.testing.assert_close(vmap(grad(one))(Z, out), together)
    assert (together[[1, 4]] == 0).all()
    torch.compiler.reset()
    compiled = torch.compile(lambda z, y: called(LOSSES[name], z, y), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(Z, out), called(LOSSES[name], target=out))

@each
def test_weights_of_classes(name):
    if name in OF_THE_METHOD: pytest.skip("its weights are of samples")
    w = torch.tensor([1., 2, 0, .5, 3], dtype=F64)
    one = called(LOSSES[name], reduction="none")
    if name in OF_A_BATCH: one = called(LOSSES[name], reduction="none", weight=(w > 0).to(F64))
    torch.testing.assert_close(called(LOSSES[name], reduction="none", weight=w), one * w[Y])
    torch.testing.assert_close(called(LOSSES[name], weight=w), (one * w[Y]).sum() / w[Y].sum())
    for bad in (w[:4], w.long(), -w, w * torch.nan, w.numpy(), [1.] * 5, 2.):
        with pytest.raises(ValueError, match="^weight: expected"): called(LOSSES[name], weight=bad)
    with pytest.raises(ValueError, match="^weight: expected None for soft labels"):
        called(LOSSES[name], target=SOFT, weight=w)

@each
def test_classes_on_axis_1(name):
    if name in OF_A_BATCH: pytest.skip("its batch is the second last axis")
    z, y = Z.view(2, 4, C).movedim(-1, 1), Y.view(2, 4)
    torch.testing.assert_close(called(LOSSES[name], z, y, dim=1, reduction="none"),
                               called(LOSSES[name], reduction="none").view(2, 4))
    soft = SOFT.view(2, 4, C)
    torch.testing.assert_close(called(LOSSES[name], z, soft.movedim(-1, 1), dim=1),
                               called(LOSSES[name], target=SOFT))
    with pytest.raises(ValueError, match="^target: expected .*dim=1"): called(LOSSES[name], z, y)
    for bad in (3, -4, 1.5, "1", True):
        with pytest.raises(ValueError, match=r"^dim: expected an axis of \(2, 5, 4\)"):
            called(LOSSES[name], z, y, dim=bad)

@each
def test_two_readings_of_one_shape_warn(name):
    z, y = torch.randn(2, C, C, C, dtype=F64), torch.randint(C, (2, C, C))
    with pytest.warns(UserWarning, match="Say dim=-1 or dim=1"): called(LOSSES[name], z, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        last, first = called(LOSSES[name], z, y, dim=-1), called(LOSSES[name], z, y, dim=1)
        called(LOSSES[name])
    assert (last - first).abs() > 1e-6

def test_as_pytorchs():
    z, y = torch.randn(2, C, 4, 3, generator=G), torch.randint(C, (2, 4, 3), generator=G)
    y[0, 1], w = -100, torch.rand(C, generator=G)
    for how in ("mean", "sum", "none"):
        for more in (dict(), dict(weight=w), dict(ignore_index=2)):
            y_ = y if "ignore_index" not in more else y.where(y >= 0, 2)
            torch.testing.assert_close(losses.cross_entropy(z, y_, dim=1, reduction=how, **more),
                                       F.cross_entropy(z, y_, reduction=how, **more))

@each
def test_soft_labels_sum_to_one(name):
    for bad in (torch.full((N, C), .5), torch.full((N, C), .125), torch.zeros(N, C), SOFT * 1.01):
        with pytest.raises(ValueError, match="^(soft_)?target: expected soft labels that sum to 1"):
            called(LOSSES[name], target=bad)
    for dtype in (torch.float32, torch.float16, torch.bfloat16): called(LOSSES[name], target=SOFT.to(dtype))

@each
def test_gradients_through_soft_labels_are_finite_at_zero(name):
    o = torch.tensor([[300., 0., 0., 0., 0.]], dtype=torch.float32, requires_grad=True)
    called(LOSSES[name], torch.randn(1, C), o.softmax(-1)).backward()
    assert o.grad.isfinite().all()

@each
def test_values_are_not_looked_at_where_they_are_trusted(name):
    with skip_checks(): assert called(LOSSES[name], Z * torch.nan).isnan()

@each
def test_signature_says_what_is_taken(name):
    if name in LOG: return
    taken = inspect.signature(LOSSES[name]).parameters
    assert ({"reduction", "ignore_index", "dim", "weight"} <= set(taken)
            or any(p.kind == p.VAR_KEYWORD for p in taken.values()))
    with pytest.raises(TypeError): called(LOSSES[name], redcution="sum")


# ---------------------------------------------------------------- modules

PRIOR = torch.tensor([.1, .2, .3, .2, .2], dtype=F64)
MODULES = {cls.__name__: cls for module in CHAPTERS for cls in defined(module)
           if inspect.isclass(cls) and issubclass(cls, LossModule) and cls is not LossModule}
MADE = dict(ForwardCrossEntropyLoss=dict(T=T), BackwardCrossEntropyLoss=dict(T=T),
            SymmetricCrossEntropyLoss=dict(alpha=.3, beta=.7), JointLoss=dict(prior=PRIOR),
            NNAQCLoss=dict(n_classes=C), NoiseLayerLoss=dict(layer=nnaqc.NonlinearNoiseLayer(C)))
each_module = pytest.mark.parametrize("name", MODULES)

def made(name, **more): return MODULES[name](**MADE.get(name, {}), **more)

def test_all_modules_are_found(): assert len(MODULES) == 16

@each_module
def test_options_of_modules(name):
    w, out = torch.rand(C), Y.clone()
    out[2] = -100
    z = Z.float()
    plain = made(name)
    torch.testing.assert_close(made(name, ignore_index=1)(z, Y), plain(z[Y != 1], Y[Y != 1]))
    torch.testing.assert_close(made(name, weight=w, reduction="none")(z, Y),
                               made(name, reduction="none")(z, Y) * w[Y])
    torch.testing.assert_close(made(name, reduction="sum")(z, out),
                               made(name, reduction="none")(z, out).sum())
    if not hasattr(plain, "layer") and name != "JointLoss":
        torch.testing.assert_close(made(name, dim=0)(z.T, out), plain(z, out))
    with pytest.raises(TypeError): made(name, wieght=w)(z, Y)

@each_module
@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.float32, torch.float64])
def test_matrices_and_priors_keep_their_type(name, dtype):
    module, z = made(name, weight=torch.rand(C, dtype=F64)).to(dtype), Z.to(dtype)
    assert {b.dtype for b in module.buffers(recurse=False)} == {F64} and module(z, Y).dtype == dtype
    assert module(z, Y).isfinite()

@each_module
def test_tensors_travel_with_the_module(name):
    module = made(name, weight=torch.rand(C))
    tensors = {k for k, v in (MADE.get(name, {}) | dict(weight=1)).items()
               if isinstance(v, torch.Tensor) or k == "weight"}
    assert tensors <= set(module.state_dict())
    there = copy.deepcopy(module).to("meta")
    assert {t.device.type for t in there.state_dict().values()} == {"meta"}
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(twin(Z.float(), Y), module(Z.float(), Y))

def test_a_device_without_float64_gets_float32(monkeypatch):
    "No such device here: the meta device plays one that refuses float64, as mps does."
    monkeypatch.setattr(losses, "WITHOUT_FLOAT64", ("meta",))
    moved_to = torch.Tensor.to
    def refusing(x, *args, **kwargs):
        out = moved_to(x, *args, **kwargs)
        if out.device.type == "meta" and out.dtype == F64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return out
    monkeypatch.setattr(torch.Tensor, "to", refusing)
    for name in ("ForwardCrossEntropyLoss", "BackwardCrossEntropyLoss", "JointLoss"):
        assert {b.dtype for b in made(name).to("meta").buffers()} == {torch.float32}
    assert losses.exact(T).dtype == F64 and loss_correction.invert(T).dtype == F64

@pytest.mark.parametrize("n_classes", [2, 10, 100, 1000])
@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_estimates_fit_a_loss_in_half_precision(dtype, n_classes):
    for seed in range(10):
        z = 3 * torch.randn(500, n_classes, generator=torch.Generator().manual_seed(seed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            T_hat = loss_correction.estimate_transition(z.softmax(-1))
        loss, y = loss_correction.ForwardCrossEntropyLoss(T_hat).to(dtype), torch.arange(4) % n_classes
        exact = loss_correction.forward_cross_entropy(z[:4].to(dtype).double(), y, T_hat)
        torch.testing.assert_close(loss(z[:4].to(dtype), y).double(), exact, rtol=3e-2, atol=3e-2)
        rounded = T_hat.to(dtype)
        loss_correction.forward_cross_entropy(z[:4].to(dtype), y, rounded)


# ---------------------------------------------------------------- values of single faults

def test_weights_of_samples():
    "Against numpy, one number at a time; a column of weights, as in a public implementation, is refused."
    w = torch.tensor([1., 0, 1, 1, 0, 1, 1, 0], dtype=F64)
    p = Z.softmax(-1).numpy()[range(N), Y]
    by_hand = w.numpy() * ((1 - p ** .7) / .7 - (1 - .5 ** .7) / .7)
    got = generalized_cross_entropy.weighted_gce(Z, Y, weight=w, reduction="none")
    torch.testing.assert_close(got, torch.from_numpy(by_hand))
    for bad in (w[:, None], w[:4], torch.tensor(1.), -w, w * torch.nan, 2 * w, w.numpy()):
        with pytest.raises(ValueError, match="^weight: expected"):
            generalized_cross_entropy.weighted_gce(Z, Y, weight=bad)

def test_reverse_cross_entropy_of_soft_labels_takes_no_log_of_zero():
    q = torch.tensor([[1., 0, 0], [.5, .5, 0], [.99, .005, .005]], dtype=F64, requires_grad=True)
    z = torch.randn(3, 3, dtype=F64)
    loss = symmetric_cross_entropy.reverse_cross_entropy(z, q, reduction="sum")
    torch.testing.assert_close(loss, -(z.softmax(-1) * torch.log(q.detach()).clamp(min=-4)).sum())
    loss.backward()
    expected = torch.where(q > torch.e ** -4, -z.softmax(-1) / q, 0).detach()
    torch.testing.assert_close(q.grad, expected)

def test_dimension_does_not_depend_on_an_offset():
    x = .01 * torch.randn(128, 256, generator=torch.Generator().manual_seed(0))
    r = (torch.from_numpy(__import__("scipy.spatial").spatial.distance_matrix(x.double(), x.double()))
         .sort(-1).values[:, 1:21])
    exact = (-1 / (r / r[:, -1:]).log().mean(-1)).mean().item()
    for offset in (0, 5):
        found = symmetric_cross_entropy.local_intrinsic_dimensionality(x + offset).mean().item()
        assert found == pytest.approx(exact, rel=2e-3), offset

def test_an_empty_batch_of_the_joint_loss_is_nan_as_torchs():
    assert joint_optimization.JointLoss()(Z[:0], SOFT[:0]).isnan()
    assert joint_optimization.joint_loss(Z[:0], Y[:0], reduction="sum") == 0

@pytest.mark.parametrize("n_classes", [2, 10, 33, 34, 40, 100])
@pytest.mark.parametrize("rate", [.1, .3, .5])
def test_automatic_percentile_finds_perfect_examples(n_classes, rate):
    T_ = noise.symmetric(n_classes, rate if n_classes > 2 else rate / 2)
    seen = torch.eye(n_classes, dtype=F64).repeat(50, 1) @ T_
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(loss_correction.estimate_transition(seen, "auto"), T_)
        if n_classes < 34: torch.testing.assert_close(loss_correction.estimate_transition(seen, 97), T_)
    if n_classes >= 34:
        with pytest.warns(UserWarning, match="another class's example"):
            loss_correction.estimate_transition(seen, 97)

def test_automatic_percentile_of_rare_classes():
    "One class has 8 examples of a thousand; the 97th percentile takes others' for it."
    T_, y = noise.symmetric(5, .4), torch.arange(4).repeat_interleave(248).tolist() + [4] * 8
    seen = torch.eye(5, dtype=F64)[y] @ T_
    torch.testing.assert_close(loss_correction.estimate_transition(seen, "auto"), T_)
    with pytest.warns(UserWarning, match="another class's example for 1 of 5"):
        loss_correction.estimate_transition(seen, 97)

def test_methods_choose_their_percentile_by_the_classes():
    T_ = noise.symmetric(40, .3)
    seen = torch.eye(40, dtype=F64).repeat(50, 1) @ T_
    for method in ("forward_estimated", "backward_estimated"):
        torch.testing.assert_close(loss_correction.METHODS[method].hook("estimate")(seen), T_)
    torch.testing.assert_close(loss_correction.two_stage(lambda loss: lambda x: x.log(), seen,
                                                         loss_correction.forward_cross_entropy)[1], T_)

def test_classes_without_labels_and_shares_warn():
    seen = torch.tensor([[.9, .1, 0.], [.2, .8, 0.]], dtype=F64)
    with pytest.warns(UserWarning,
                      match="no example is thought to carry the label, not even by 1/3, for 1 of 3 classes"):
        loss_correction.estimate_transition(seen)
    with pytest.warns(UserWarning, match="percentile: 0.97 is below 1"):
        loss_correction.estimate_transition(seen[:, :2], .97)

@pytest.mark.parametrize("dtype",
                         [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16])
def test_noise_takes_and_gives_any_type_of_integers(dtype):
    y = (torch.arange(1000) % 10)
    noisy = noise.corrupt(y.to(dtype), noise.symmetric(10, .4), torch.Generator().manual_seed(0))
    assert noisy.dtype == dtype
    assert torch.equal(noisy.long(),
                       noise.corrupt(y, noise.symmetric(10, .4), torch.Generator().manual_seed(0)))
    torch.testing.assert_close(noise.realised(y.to(dtype), noisy, 10), noise.realised(y, noisy.long(), 10))
