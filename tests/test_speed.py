"The benchmark's file: medians of each setting, and what was measured before stays."
import json

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from noisy_course.lab import speed
from noisy_course.lab.speed import NETWORKS, SETTINGS, SMALL, write_bench, write_networks

def rounds(paper, ratios):
    return pd.DataFrame(dict(paper=paper, precision="fp32", compiled=False, workers=2, n_runs=20,
                             ratio=ratios, plain=1.))

def test_medians_and_what_was_there(tmp_path):
    path = tmp_path / "bench.json"
    write_bench(rounds("one", [1., 5., 3.]), path)
    first = json.loads(path.read_text())
    assert [row["ratio"] for row in first["medians"]] == [3] and first["medians"][0]["rounds"] == 3
    assert {"machine", "torch", "commit"} <= set(first)
    write_bench(rounds("two", [2., 4.]), path)
    merged = write_bench(rounds("one", [7.]), path)
    assert merged.set_index("paper").ratio.to_dict() == dict(one=7, two=3)
    assert not merged.duplicated(SETTINGS).any()
    rows = {row["paper"]: row for row in json.loads(path.read_text())["medians"]}
    assert rows["one"]["rounds"] == 1 and rows["two"]["rounds"] == 2
    assert rows["two"]["commit"] == first["commit"]

def test_networks_stand_beside_the_medians_and_nothing_is_nan(tmp_path):
    path = tmp_path / "bench.json"
    write_bench(rounds("one", [1., 3.]).assign(jax=float("nan")), path)
    write_networks(pd.DataFrame(dict(network=["a", "a", "b"], precision="fp32", reached=[.5, .7, .9])), path)
    write_networks(pd.DataFrame(dict(network=["b"], precision="fp32", reached=[.8])), path)
    bench = json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert {row["network"]: row["reached"] for row in bench["networks"]} == dict(a=.6, b=.8)
    assert [row["ratio"] for row in bench["medians"]] == [2]
    assert "jax" not in bench["medians"][0] and "jax" in bench

class Calls(TorchDispatchMode):
    "What PyTorch is asked to compute, with its arguments."
    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.made.append((function.overloadpacket.__name__, args))
        return function(*args, **kwargs or {})

def test_the_floor_of_convolutions_is_convolutions():
    "Outputs, gradients of weights, and of inputs but for the first layer, all in channels-last order."
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(80, 6))
    steps = speed.convolution_steps(network, torch.rand(2, 1, 8, 8))
    with Calls() as calls: next(steps)
    calls.made.clear()
    with calls: next(steps)
    count = [name for name, _ in calls.made].count
    assert (count("convolution"), count("addmm"), count("mm"), count("relu")) == (2, 1, 2, 0)
    backward = [args for name, args in calls.made if name == "convolution_backward"]
    assert [args[-1] for args in backward] == [[False, True, True], [True, True, True]]
    for args in backward:
        for x in args[:3]: assert x.stride() == x.clone(memory_format=torch.channels_last).stride()

def test_each_small_network_is_measured(monkeypatch):
    asked = []
    def worker(kind, threads, network, batches): asked.append((kind, threads, network))
    monkeypatch.setattr(speed, "_worker", worker)
    monkeypatch.setattr(speed, "_answers", lambda worker: [dict(network=asked[-1][2], precision="fp32")])
    assert speed.bench_networks(2).network.tolist() == 2 * list(SMALL)
    assert set(asked) == {("network", 1, name) for name in SMALL}

def test_a_worker_answers_in_json(monkeypatch, capsys):
    monkeypatch.setattr(speed, "reached_seconds", lambda name, batches: dict(network=name, batches=batches))
    speed.main(["--worker", "network", "--network", "cnn4", "--batches", "7"])
    assert json.loads(capsys.readouterr().out) == dict(network="cnn4", batches=7)

@pytest.mark.parametrize("installed, precision, asked",
                         [(None, "fp32", 0), ("1.0", "fp32", 2), ("1.0", "bf16", 0)])
def test_jax_is_measured_where_it_is_installed(monkeypatch, installed, precision, asked):
    kinds = []
    answer = dict(engine=dict(training=2., evaluation=.1, memory=1.), jax=5.)
    monkeypatch.setattr(speed, "jax_version", lambda: installed)
    monkeypatch.setattr(speed, "_worker", lambda kind, *given, **options: kinds.append(kind) or kind)
    monkeypatch.setattr(speed, "_answers", lambda *kinds: [answer.get(kind, 3.) for kind in kinds])
    row = speed.bench(1, precision=precision).iloc[0]
    assert kinds.count("jax") == asked and row.ratio == 3 and row.reached == 1.5
    assert (row.ratio_jax == 2.5) if asked else row.isna().ratio_jax

def test_jax_trains_the_same_networks():
    "Without dropout's luck, as the mean over many steps shows: losses fall, every run's from its own labels."
    jax = pytest.importorskip("jax", reason="JAX is no dependency: pip install jax")
    x, labels = torch.randn(64, 784).numpy(), (torch.arange(2 * 64).view(2, 64) % 10).int().numpy()
    shapes = (784, 128), (128, 128), (128, 10)
    weights = [(.05 * torch.randn(2, a, b).numpy(), torch.zeros(2, b).numpy()) for a, b in shapes]
    sums, keys = jax.tree.map(lambda w: 0 * w, weights), jax.random.split(jax.random.key(0), 2)
    state = jax.tree.map(jax.numpy.asarray, (weights, sums, keys))
    rows = torch.stack([torch.randperm(64)[:32] for _ in range(100)]).expand(2, -1, -1).int().numpy()
    _, losses = speed.jax_epoch(jax.numpy.asarray(x))(state, labels, rows)
    assert losses.shape == (2, 100) and (losses[:, -10:].mean(1) < losses[:, :10].mean(1) / 2).all()

def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SystemExit,
                       match="^device: expected a GPU that PyTorch can use, of which there are 0"):
        speed.main(["--device", "cuda"])

def test_every_network_is_measured_in_both_precisions(tmp_path, monkeypatch):
    """On this processor, with few and small steps, and the two small networks: the others take minutes in
    a bf16 that the processor does not have."""
    monkeypatch.setattr(speed, "NETWORKS", NETWORKS[:2])
    monkeypatch.setattr(speed, "peak_rate", lambda device: 1e11)
    monkeypatch.setattr(speed, "_timed", lambda steps, n, device: float(next(steps) is not None) + .01)
    monkeypatch.setattr(speed, "sweep_seconds",
                        lambda *args, **kwargs: dict(network="mlp, 200 runs", precision=kwargs["precision"],
                                                     engine=1., plain=2., ratio=2., share=.1))
    made = speed.random_images
    monkeypatch.setattr(speed, "random_images", lambda n, dataset: made(200, dataset))
    found = speed.bench_gpu("cpu", tmp_path / "bench_gpu.json")
    assert found.network.tolist() == 2 * [*NETWORKS[:2], "mlp, 200 runs"]
    assert found.precision.tolist() == 3 * ["fp32"] + 3 * ["bf16"]
    written = json.loads((tmp_path / "bench_gpu.json").read_text())
    assert len(written["rows"]) == 6 and {"machine", "torch", "commit", "device"} <= set(written)
