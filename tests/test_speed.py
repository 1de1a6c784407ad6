"The benchmark's file: medians of each setting, and what was measured before stays."
import json

import pandas as pd
import pytest
import torch

from noisy_course.lab import speed
from noisy_course.lab.speed import NETWORKS, SETTINGS, write_bench

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
    monkeypatch.setattr(speed, "coloured_noise", lambda n, made=speed.coloured_noise: made(200))
    found = speed.bench_gpu("cpu", tmp_path / "bench_gpu.json")
    assert found.network.tolist() == 2 * [*NETWORKS[:2], "mlp, 200 runs"]
    assert found.precision.tolist() == 3 * ["fp32"] + 3 * ["bf16"]
    written = json.loads((tmp_path / "bench_gpu.json").read_text())
    assert len(written["rows"]) == 6 and {"machine", "torch", "commit", "device"} <= set(written)
