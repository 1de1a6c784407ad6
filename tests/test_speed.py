"The benchmark's file: medians of each setting, and what was measured before stays."
import json

import pandas as pd

from noisy_course.speed import SETTINGS, write_bench

def rounds(paper, ratios): return pd.DataFrame(dict(paper=paper, precision="fp32", compiled=False, workers=2, n_runs=20, ratio=ratios, plain=1.))

def test_medians_and_what_was_there(tmp_path):
    path = tmp_path / "bench.json"
    write_bench(rounds("one", [1., 5., 3.]), path)
    first = json.loads(path.read_text())
    assert [row["ratio"] for row in first["medians"]] == [3] and first["medians"][0]["rounds"] == 3 and {"machine", "torch", "commit"} <= set(first)
    write_bench(rounds("two", [2., 4.]), path)
    merged = write_bench(rounds("one", [7.]), path)
    assert merged.set_index("paper").ratio.to_dict() == dict(one=7, two=3) and not merged.duplicated(SETTINGS).any()
    rows = {row["paper"]: row for row in json.loads(path.read_text())["medians"]}
    assert rows["one"]["rounds"] == 1 and rows["two"]["rounds"] == 2 and rows["two"]["commit"] == first["commit"]
