"Networks: dropout with outside masks, vmap, torch.compile, parameter counts, initialisation."
import shutil
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Generator, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from noisy_course.models import (MLP, MODELS, Dropout, ImageResNet, LSTMClassifier, ResNet, ResidualBlock,
                                 WordEmbedding, initialise, last_hidden, n_parameters)

fast = settings(max_examples=30, deadline=None)
compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")),
                              reason="torch.compile needs a C++ compiler")


def seeded(seed=0): return Generator().manual_seed(seed)
def random_bytes(*shape, seed=0): return torch.randint(256, shape, generator=seeded(seed), dtype=torch.uint8)
def masks_of(model, *lead):
    return {f"{n}.mask".lstrip("."): random_bytes(*lead, *m.shape, seed=i)
            for i, (n, m) in enumerate(model.named_modules()) if isinstance(m, Dropout)}


CLASSES = dict(mlp=10, embedding=2, lstm=2, resnet14=10, resnet32=10, resnet44=100, resnet18=10, resnet34=100,
               cnn=10, cnn8=10, cnn4=10, lenet=10, quick=10, lc_cnn=100, preact32=10)
COUNTS = dict(mlp=118_282, embedding=290_002, lstm=3_120_642, resnet14=175_066, resnet32=466_714,
              resnet44=666_996, resnet18=11_173_962, resnet34=21_328_292, cnn=1_639_282, cnn8=1_639_794,
              cnn4=422_090, lenet=431_080, quick=145_578, lc_cnn=2_308_388, preact32=1_860_138)


def batch(name, n=2):
    if name in ("mlp", "cnn4", "lenet"): return torch.rand(n, 1, 28, 28, generator=seeded())
    if name.startswith(("resnet", "cnn", "quick", "lc", "preact")):
        return torch.rand(n, 3, 32, 32, generator=seeded())
    return torch.randint(5000, (n, 400), generator=seeded())


# --- networks ---

@pytest.mark.parametrize("name", CLASSES)
def test_the_last_hidden_layer_gives_the_logits(name):
    model, x = MODELS[name](CLASSES[name]).eval(), batch(name)
    last = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
    hidden = last_hidden(model, x)
    assert hidden.shape == (2, last.in_features) and not last._forward_pre_hooks
    torch.testing.assert_close(last(hidden), model(x))

def test_the_names(): assert set(MODELS) == set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_counts_and_output_shapes(name):
    model = MODELS[name](CLASSES[name])
    assert n_parameters(model) == COUNTS[name]
    assert model(batch(name)).shape == (2, CLASSES[name])


@pytest.mark.parametrize("name", CLASSES)
def test_masks_are_no_part_of_what_is_learnt(name):
    model = MODELS[name](CLASSES[name])
    assert not [key for key in model.state_dict() if "mask" in key]
    assert not [key for key, _ in model.named_parameters() if "mask" in key]


def test_frozen_parameters_are_not_counted():
    model = MLP()
    model[1].weight.requires_grad_(False)
    assert n_parameters(model) == COUNTS["mlp"] - 784 * 128


@pytest.mark.parametrize("depth", [2, 7, 18, 34, -4])
def test_a_depth_that_is_not_6n_plus_2(depth):
    with pytest.raises(ValueError, match="depth: expected 6n"): ResNet(depth, 10)


@pytest.mark.parametrize("depth", [14, 50, 0])
def test_an_image_resnet_is_18_or_34_deep(depth):
    with pytest.raises(ValueError, match="depth: expected 18 or 34"): ImageResNet(depth, 10)


def test_an_image_resnet_keeps_the_size_until_its_second_stage():
    network, sizes = ImageResNet(18, 10, channels=1).eval(), []
    for layer in (network.layer1, network.layer2, network.layer4):
        layer.register_forward_hook(lambda m, x, y: sizes.append(tuple(y.shape[1:])))
    network(torch.rand(2, 1, 28, 28, generator=seeded()))
    assert sizes == [(64, 28, 28), (128, 14, 14), (512, 4, 4)]


def test_projections_stand_where_the_width_changes():
    convs = [m for m in ResNet(32, 10).modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert [(m.in_channels, m.out_channels, m.stride) for m in convs] == [(16, 32, (2, 2)), (32, 64, (2, 2))]
    assert sum(isinstance(m.shortcut, nn.Identity) for m in ResNet(32, 10).modules()
               if isinstance(m, ResidualBlock)) == 13


def test_batch_norm_has_pytorchs_defaults():
    norm = next(m for m in ResNet(14, 10).modules() if isinstance(m, nn.BatchNorm2d))
    plain = nn.BatchNorm2d(16)
    assert ((norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
            == (plain.eps, plain.momentum, True, True))


def test_resnet_under_channels_last_and_bf16():
    model = initialise(ResNet(14, 10), seeded()).eval()
    x, last = batch("resnet14", 8), deepcopy(model).to(memory_format=torch.channels_last)
    want = model(x)
    torch.testing.assert_close(last(x.to(memory_format=torch.channels_last)), want, rtol=1e-3, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16): rough = last(x.to(memory_format=torch.channels_last))
    assert rough.dtype == torch.bfloat16 and (rough - want).abs().max() < .1 * want.abs().max()
    with torch.autocast("cpu", torch.bfloat16): last.train()(x).float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in last.parameters())


def test_the_whole_network_equals_its_formula():
    model = MLP(n_classes=3, hidden=7, inputs=20).double()
    masks, x = masks_of(model, 5), torch.rand(5, 4, 5, dtype=torch.float64)
    got = functional_call(model, masks, (x,))
    h = x.flatten(1)
    for layer, mask in ((model[1], masks["3.mask"]), (model[4], masks["6.mask"])):
        h = (h @ layer.weight.T + layer.bias).clamp(min=0) * (mask >= 128) * 2
    torch.testing.assert_close(got, h @ model[7].weight.T + model[7].bias)


# --- dropout ---

@fast
@given(st.floats(0, .99), st.integers(1, 5), st.integers(1, 5))
def test_dropout_is_its_definition(p, batch, width):
    layer, x = Dropout(p, width).double(), torch.randn(batch, width, dtype=torch.float64, generator=seeded())
    layer.mask = random_bytes(batch, width)
    k = round(256 * p)
    want = torch.tensor([[v / (1 - k / 256) if m >= k else 0. for v, m in zip(*row)]
                         for row in zip(x.tolist(), layer.mask.tolist())], dtype=torch.float64)
    torch.testing.assert_close(layer(x), want)
    assert layer.eval()(x) is x


@fast
@given(st.floats(0, .99))
def test_the_mean_over_all_bytes_is_exact(p):
    layer = Dropout(p, 1).double()
    layer.mask = torch.arange(256).to(torch.uint8)[:, None]
    assert abs(layer(torch.ones(256, 1, dtype=torch.float64)).mean() - 1) < 1e-12


@pytest.mark.parametrize("outside", [True, False])
def test_the_share_kept(outside):
    layer, n = Dropout(.8, 1000), 200_000
    if outside: layer.mask = random_bytes(200, 1000)
    keep = 51 / 256 if outside else .2
    kept = (layer(torch.ones(200, 1000)) != 0).double().mean()
    assert abs(kept - keep) < 5 * (keep * (1 - keep) / n) ** .5


@pytest.mark.parametrize("outside", [True, False])
def test_a_dimension_of_1_drops_together(outside):
    layer, x = Dropout(.5, 1, 50), torch.ones(8, 10, 50)
    if outside: layer.mask = random_bytes(8, 1, 50)
    y = layer(x)
    assert y.shape == x.shape and (y == y[:, :1]).all() and 0 < (y == 0).double().mean() < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_dropout_keeps_the_dtype(dtype):
    layer = Dropout(.5, 3).to(dtype)
    layer.mask = random_bytes(2, 3)
    assert layer(torch.ones(2, 3, dtype=dtype)).dtype == dtype and layer.mask.dtype == torch.uint8


@pytest.mark.parametrize("p", [-.1, 1., .999, float("nan")])
def test_a_p_that_would_keep_nothing(p):
    with pytest.raises(ValueError, match="p: expected"): Dropout(p, 3)


def test_a_mask_for_another_batch_size_fails_loudly():
    layer = Dropout(.5, 3)
    layer.mask = random_bytes(4, 3)
    with pytest.raises(RuntimeError): layer(torch.ones(5, 3))


# --- many at once ---

def stacked_networks(name, runs=3, n=4):
    "Stacked parameters, buffers with masks, and inputs of several runs; and the function of one run."
    nets = [initialise(MODELS[name](CLASSES[name]), seeded(r)) for r in range(runs)]
    params, buffers = stack_module_state(nets)
    buffers = {**buffers, **masks_of(nets[0], runs, n)}
    x = torch.stack([batch(name, n).roll(r, 0) for r in range(runs)])
    return lambda p, b, x: functional_call(nets[0], (p, b), (x,)), params, buffers, x


@pytest.mark.parametrize("name", ["mlp", "embedding"])
def test_together_is_alone(name):
    f, params, buffers, x = stacked_networks(name)
    got = vmap(f)(params, buffers, x)
    for r in range(3):
        one = f({k: v[r] for k, v in params.items()}, {k: v[r] for k, v in buffers.items()}, x[r])
        torch.testing.assert_close(got[r], one)


def test_gradients_together_are_gradients_alone():
    f, params, buffers, x = stacked_networks("mlp")
    g = grad(lambda p, b, x: f(p, b, x).square().sum())
    got = vmap(g)(params, buffers, x)
    one = g({k: v[1] for k, v in params.items()}, {k: v[1] for k, v in buffers.items()}, x[1])
    for key in one: torch.testing.assert_close(got[key][1], one[key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name, backend", [pytest.param("mlp", "inductor", marks=compiler),
                                           ("mlp", "aot_eager"), ("embedding", "aot_eager")])
def test_compiled_whole(name, backend):
    f, params, buffers, x = stacked_networks(name)
    got = torch.compile(vmap(f), fullgraph=True, dynamic=False, backend=backend)(params, buffers, x)
    torch.testing.assert_close(got, vmap(f)(params, buffers, x), rtol=1e-4, atol=1e-5)


# --- start ---

@pytest.mark.parametrize("name", ["mlp", "embedding", "lstm", "resnet14"])
def test_a_seed_is_a_network_and_the_global_generator_is_left_alone(name):
    one, two, three = (MODELS[name](CLASSES[name]) for _ in range(3))
    before = torch.get_rng_state()
    assert initialise(one, seeded(1)) is one
    initialise(two, seeded(1)), initialise(three, seeded(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), three.parameters()))


@pytest.mark.parametrize("name", ["mlp", "embedding", "lstm", "resnet14"])
def test_the_paper_says_how_to_start(name):
    model = initialise(MODELS[name](CLASSES[name]), seeded())
    dense = [m for m in model.modules() if isinstance(m, nn.Linear)]
    for m in model.modules():
        if isinstance(m, (nn.BatchNorm2d, nn.BatchNorm1d)):
            assert (m.weight == 1).all() and (m.bias == 0).all()
        if isinstance(m, (nn.Linear, nn.Conv2d)):
            assert m.bias is None or (m.bias == 0).all()
            if m is not dense[-1]:
                assert (abs(m.weight.std() / (2 / m.weight[0].numel()) ** .5 - 1)
                        < 5 / (2 * m.weight.numel()) ** .5)
        if m is dense[-1] or isinstance(m, nn.Embedding):
            assert m.weight.abs().max() <= .05 and abs(m.weight.std() - .05 / 3 ** .5) < .003
        if isinstance(m, nn.LSTM):
            assert m.weight_hh_l0.abs().max() <= .05
            assert ((m.bias_ih_l0 + m.bias_hh_l0).reshape(4, -1).unique(dim=1).flatten().tolist()
                    == [0, 1, 0, 0])


def test_initialise_keeps_dtype_and_ends_the_layers_own_draws():
    model = initialise(MLP().to(torch.bfloat16), seeded())
    want = initialise(MLP(), seeded())
    for a, b in zip(model.parameters(), want.parameters()): assert torch.equal(a, b.to(torch.bfloat16))


def test_spatial_option_of_the_word_network():
    assert WordEmbedding(spatial=True)[2].shape == (1, 50) and WordEmbedding()[2].shape == (400, 50)
    assert n_parameters(WordEmbedding(spatial=True)) == COUNTS["embedding"]


def test_the_lstm_reads_the_order_of_the_words():
    model = initialise(LSTMClassifier(n_words=50, length=6, size=8, hidden=16), seeded()).eval()
    words = torch.tensor([[1, 2, 3, 4, 5, 6]])
    assert not torch.allclose(model(words), model(words.flip(1)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["mlp", "embedding", "resnet14"])
def test_a_cpu_seed_gives_the_same_network_on_a_gpu(name):
    here = initialise(MODELS[name](CLASSES[name]), seeded())
    there = initialise(MODELS[name](CLASSES[name]).cuda(), seeded())
    assert all(torch.equal(a, b.cpu()) for a, b in zip(here.parameters(), there.parameters()))
    torch.testing.assert_close(there.eval()(batch(name).cuda()).cpu(), here.eval()(batch(name)),
                               rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("make", [lambda: MODELS["cnn4"](10), lambda: MODELS["resnet18"](10, 1)])
def test_grey_images_need_no_channel(make):
    model, x = make().eval(), torch.rand(2, 28, 28, generator=seeded())
    assert torch.equal(model(x), model(x[:, None])) and model(x).shape == (2, 10)


def relu_first(network):
    "The same network, whose ReLU comes before the pooling, as in the papers."
    for k, (normalised, pooled) in enumerate(zip(list(network), list(network[1:]))):
        if isinstance(pooled, nn.Sequential) and isinstance(pooled[0], nn.MaxPool2d):
            network[k], network[k + 1] = nn.Sequential(*normalised, nn.ReLU()), pooled[0]
        elif isinstance(normalised, nn.MaxPool2d): network[k], network[k + 1] = pooled, normalised
    return network

@pytest.mark.parametrize("name, shape, pools", [
    ("cnn4", (28, 28), 2), ("cnn8", (3, 32, 32), 3), ("lc_cnn", (3, 32, 32), 2)])
def test_relu_behind_the_pooling_changes_nothing(name, shape, pools):
    x, found = torch.randn(4, *shape, generator=seeded()), []
    for order in (nn.Identity(), relu_first):
        network = order(initialise(MODELS[name](10), seeded()))
        network(x).logsumexp(-1).sum().backward()
        found.append({n: p.grad for n, p in network.named_parameters()})
    assert found[0].keys() == found[1].keys()
    for n in found[0]: assert torch.equal(found[0][n], found[1][n])
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in network) == pools
