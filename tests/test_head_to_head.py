"""All methods under one protocol: what is chosen, what is counted, and what a test may say."""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from noisy_course.basics import SETTING
from noisy_course.lab import protocols
from noisy_course.lab.cells import GENIES, KNOWS_T
from noisy_course.lab.results import read_results
from noisy_course.head_to_head import (CHOICE, KINDS, ORACLE_METHODS, advice, against, chosen,
                                       critical_difference, few_checked, free_choice, holm, league,
                                       mean_ranks, over_cross_entropy, ranking, regret, tried)

METHODS = ["cross_entropy", "forward", "savage", "unhinged"]
RESULTS = Path(__file__).parent.parent / "results"

def table(rng, n_settings=6, seeds=5, candidates=3):
    "Runs with random accuracies."
    keys = [("mnist", "mlp", "symmetric", round(.1 * i, 1), m, s, f"lr={c}") for i in range(n_settings)
            for m in METHODS for s in range(seeds) for c in range(candidates)]
    frame = pd.DataFrame(keys, columns=[*CHOICE, "variant"])
    return frame.assign(**{c: rng.uniform(10, 90, len(frame)) for c in ("valid", "test", "last")})

@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_test_labels_choose_nothing(seed):
    rng = np.random.default_rng(seed)
    runs = table(rng, 2)
    other = runs.assign(test=rng.uniform(10, 90, len(runs)))
    assert chosen(runs)[[*CHOICE, "variant"]].equals(chosen(other)[[*CHOICE, "variant"]])
    best = runs.groupby(CHOICE).valid.transform("max")
    assert set(chosen(runs).valid) == set(best)

@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_regret_is_what_the_best_candidate_has_more(seed):
    runs = table(np.random.default_rng(seed), 2)
    assert (regret(runs).regret >= 0).all()
    assert (regret(runs.assign(valid=runs.test)).regret == 0).all()

@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_holm_lies_between_bonferroni_and_no_correction(p):
    p = np.array(p)
    kept = holm(p)
    assert (kept >= (p < .05 / len(p))).all() and (kept <= (p < .05)).all()
    if kept.any() and not kept.all(): assert p[kept].max() <= p[~kept].min()

def test_a_rival_that_gains_everywhere_is_clear_and_its_mirror_is_too():
    picked = chosen(table(np.random.default_rng(0), 12))
    base = picked[picked.method == "cross_entropy"].set_index([*SETTING, "seed"]).test
    gain, spread = (picked.method.map(v) for v in (dict(cross_entropy=0, forward=1, savage=-1, unhinged=0),
                                                   dict(cross_entropy=0, forward=.1, savage=.1, unhinged=0)))
    same = base.loc[pd.MultiIndex.from_frame(picked[[*SETTING, "seed"]])].to_numpy()
    found = against(picked.assign(test=same + gain
                                  + spread * np.random.default_rng(1).normal(size=len(picked))))
    assert found.clear[["forward", "savage"]].all() and not found.clear["unhinged"]
    assert found.p["unhinged"] == 1
    assert (found.won["forward"], found.lost["savage"], found.lost["forward"]) == (12, 12, 0)
    assert abs(found.gain["forward"] - 1) < .1 and abs(found.gain["savage"] + 1) < .1

def test_ranks_are_those_of_the_means():
    picked = chosen(table(np.random.default_rng(2)))
    means = picked[~picked.method.isin(ORACLE_METHODS)].groupby([*SETTING, "method"]).test.mean()
    first = means.unstack().idxmax(axis=1).value_counts()
    assert mean_ranks(picked).sum() == pytest.approx(1 + 2 + 3)
    assert mean_ranks(picked).index[0] in first.index
    frame, cd, p = ranking(picked)
    assert list(frame["rank"]) == sorted(frame["rank"]) and cd == pytest.approx(critical_difference(3, 6))
    assert 0 <= p <= 1

def test_gains_over_cross_entropy_are_taken_seed_by_seed():
    picked = chosen(table(np.random.default_rng(3), 2))
    shifted = picked.assign(test=picked.test + 10 * picked.seed)
    assert (over_cross_entropy(picked).loc[METHODS].to_numpy()
            == pytest.approx(over_cross_entropy(shifted).loc[METHODS].to_numpy()))

@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_a_free_choice_takes_the_highest_validation_accuracy_of_the_untold(seed):
    rng = np.random.default_rng(seed)
    runs = table(rng, 2)
    free = free_choice(runs)
    assert len(free) == 10 and not free.method.isin(ORACLE_METHODS).any()
    assert set(free.valid) == set(
        runs[~runs.method.isin(ORACLE_METHODS)].groupby([*SETTING, "seed"]).valid.max())
    assert free_choice(runs.assign(test=rng.uniform(10, 90, len(runs)))).method.equals(free.method)

def test_the_league_stars_the_best_untold_mean_of_each_setting():
    picked = chosen(table(np.random.default_rng(4), 3))
    words = league(picked)
    means = (picked[~picked.method.isin(ORACLE_METHODS)].groupby(["noise", "rate", "method"])
             .test.mean().unstack())
    assert ([words.index[words[c].str.endswith("*")].tolist() for c in words]
            == [[m] for m in means.idxmax(axis=1)])
    assert list(words.index)[-1] == "forward"
    assert (words.iloc[0, 0].split(" ± ")[0]
            == f"{picked[(picked.method == words.index[0]) & (picked.rate == 0)].test.mean():.1f}")

def test_advice_counts_settings_and_leaves_out_cross_entropy_and_the_told():
    best = advice(chosen(table(np.random.default_rng(5), 9)), first=2)
    low = best[best.kind == "symmetric, up to 0.5"]
    assert set(best.kind) <= set(KINDS) and (low.settings == 6).all()
    assert set(low.method) == {"savage", "unhinged"}
    assert (low.won + low.lost <= low.settings).all() and (low["std"] > 0).all()

def test_more_settings_tell_more_and_more_methods_less():
    assert critical_difference(10, 20) < critical_difference(10, 10) < critical_difference(20, 10)

def test_results_without_a_head_to_head_are_refused(tmp_path):
    with pytest.raises(ValueError,
                       match="^results: expected runs of the head-to-head at scale laptop, got none"):
        tried(read_results(tmp_path, course=True), "laptop")

def test_controls_are_read_apart():
    row = (dict(zip(CHOICE, ["mnist", "mlp", "symmetric", .2, "joint_optimization", 0]))
           | dict(paper="course", scale="laptop", variant="lr=0.1", epoch=1))
    values = dict(valid_accuracy=50., accuracy_best_valid_accuracy=60., accuracy_last=55.)
    rows = pd.DataFrame([row | dict(table=t, metric=m, value=v + k)
                         for k, t in enumerate(("two_steps", "counted")) for m, v in values.items()])
    assert tried(rows, "laptop").test.tolist() == [60.]
    assert tried(rows, "laptop", ("counted",)).test.tolist() == [61.]

def test_the_papers_and_the_course_are_read_apart(tmp_path):
    row = dict(paper="course", table="head_to_head", dataset="mnist", model="mlp", noise="none", rate=0.,
               method="forward", samples=0, seed=0, scale="smoke", variant="", network="", block="b",
               metric="accuracy", epoch=None, value=1.)
    for name, paper in (("course_x.parquet", "course"), ("patrini2017_x.parquet", "patrini2017")):
        pd.DataFrame([row | dict(paper=paper)]).to_parquet(tmp_path / name)
    assert ([set(read_results(tmp_path, course=c).paper) for c in (False, True)]
            == [{"patrini2017"}, {"course"}])

def test_checked_labels_are_sorted_by_the_way_they_are_used():
    few = few_checked(read_results(RESULTS, course=True), "laptop")
    assert len(few) == 855 + 180 and not few.duplicated([*CHOICE, "lr", "way"]).any()
    assert few.accuracy.between(0, 100).all()
    assert few.groupby("way").method.nunique().to_dict() == {
        "noisy only": 3, "all together": 3, "then checked": 3, "then checked, gently": 3, "checked only": 1}
    each = few.groupby(["way", "lr"]).size().unstack()
    assert each[.01].to_dict() == {"noisy only": 90, "all together": 90, "then checked": 90,
                                   "then checked, gently": 90, "checked only": 15}
    assert each[.1].equals(each[.01])
    with pytest.raises(ValueError,
                       match="^results: expected runs with checked labels at scale paper, got none"):
        few_checked(read_results(RESULTS, course=True), "paper")

def test_who_knows_t():
    "The lists by which pages and rankings set methods apart say what the methods themselves do."
    derived = {name for name, method in protocols.METHODS.items() if method.uses_true_T}
    assert set(ORACLE_METHODS) == derived == {*GENIES} - {"cnn_crf"} and {*KNOWS_T} <= derived
