"""What the laboratory's notebooks checked before they became modules: protocols, places on GPUs,
forecasts, packed images, benchmark."""
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastcore.test import expect_fail, test_close as close

from noisy_course import data
from noisy_course.lab import carried, found, job, locks, speed
from noisy_course.lab.cells import (cell_means, highlights, orderings, published, setting_title, side_by_side,
                                    welch)
from noisy_course.lab.comparison import all_sides, calibration, far_cells, findings, in_place, score, verdict
from noisy_course.lab.results import CELL, read_results
from noisy_course.lab.forecast import arithmetic, estimate, recorded_speed, seconds_each
from noisy_course.lab.grid import block_recipe, blocks, plan
from noisy_course.lab.papers import TABLES
from noisy_course.lab.papers.patrini2017 import TEN
from noisy_course.lab.papers.zhang2018 import SIX
from noisy_course.lab.protocols import SCALES, at_scale, method, milestones, shortened
from noisy_course.basics import SETTING, pick
from noisy_course.method import Recipe
from noisy_course.plots import pretty

RESULTS = Path(__file__).parents[1]/"results"
ON = "AMD EPYC, 2 cores"


# Protocols

def test_a_schedule_falls_tenfold_and_shrinks_with_the_run():
    step = milestones(40, 80)
    assert [round(step(epoch), 6) for epoch in (0, 39, 40, 80)] == [1, 1, .1, .01]
    third = shortened(Recipe(epochs=120, schedule=step), 40)
    assert [epoch for epoch in range(1, 40) if third.schedule(epoch) < third.schedule(epoch - 1)] == [14, 27]

def n_runs(grid, scale):
    methods = lambda part: sum(len(part.methods or names) for _, names in grid.variants)
    return sum(len(part.noises) * methods(part) * part.seeds
               for part in (at_scale(p, scale) for p in grid.parts))

def test_grids_ask_for_as_many_runs_as_the_papers_made():
    assert n_runs(TABLES["patrini2017", "table2"], "paper") == 10 * 4 * (3 * 5 + 3)
    assert n_runs(TABLES["zhang2018", "table1"], "paper") == 144 * 5
    for (paper, table), grid in TABLES.items():
        for scale in SCALES: assert len(plan(paper, table, scale)) == n_runs(grid, scale)

def test_a_laptop_has_a_stand_in_and_epochs_in_proportion():
    fashion = TABLES["zhang2018", "table1"].part("fashion_mnist", "resnet18")
    laptop = at_scale(fashion, "laptop")
    assert (laptop.network, laptop.usual) == ("mlp", dict(prune_start=13, prune_every=3))
    assert at_scale(fashion, "smoke").epochs == 1
    assert at_scale(TABLES["patrini2017", "table2"].parts[1], "smoke").samples == 1000

def test_what_stands_in_is_trained_in_its_own_way():
    "Without crops, beside others, by the optimizer that was chosen; a first step keeps the paper's."
    made = lambda recipe: recipe.optimizer([torch.nn.Parameter(torch.zeros(1))])
    said = lambda of: {k: made(of).param_groups[0].get(k) for k in ("lr", "momentum", "weight_decay")}
    wang, jindal = (block_recipe(blocks(plan(paper, "table1", "laptop", dataset="mnist"))[0])
                    for paper in ("wang2019", "jindal2019"))
    assert said(wang) == dict(lr=.1, momentum=.9, weight_decay=0)
    assert isinstance(made(jindal), torch.optim.Adam) and said(jindal)["lr"] == .001
    square = replace(blocks(plan("tanaka2018", "table1", "laptop"))[1], network="mlp", optimizer="adam")
    tanaka = block_recipe(square)
    assert isinstance(made(tanaka), torch.optim.Adam)
    assert said(tanaka.first_stage) == dict(lr=.02, momentum=.9, weight_decay=1e-4)
    for recipe in (wang, jindal, tanaka, tanaka.first_stage):
        assert recipe.augment is None and recipe.runs_at_once is None

def test_numbers_reach_the_loss():
    even, label = torch.zeros(1, 4), torch.tensor([0])
    assert [round(method("generalized_cross_entropy", dict(q=q)).hook("loss")(even, label).item(), 3)
            for q in (.1, .7, 1.)] == [1.294, .887, .75]

def test_unknown_names_are_refused():
    with expect_fail(ValueError, "method: expected one of cross_entropy"): method("gce")
    with expect_fail(ValueError, "model: expected one of mlp on mnist"):
        TABLES["patrini2017", "table2"].part("mnist", "lstm")


# Places on GPUs, and a block's own kernel

def test_places_are_spread_over_gpus_and_given_back(tmp_path):
    take = lambda: locks._take_place(tmp_path/"gpus", gpus=2, share=2)
    taken = [take() for _ in range(5)]
    assert [found and found[0] for found in taken] == [0, 1, 0, 1, None]
    taken[2][1].close()
    with closing(take()[1]) as file: assert Path(file.name).name.startswith("0_")
    for _, file in taken[:4]: file.close()

def test_a_device_that_is_named_stays(tmp_path):
    with locks.place("cpu", tmp_path) as device: assert device == "cpu"

def test_a_kernel_is_the_interpreter_that_runs():
    assert job.OwnKernel(kernel_name="python3").format_kernel_cmd()[0] == sys.executable


# How long it will take

@pytest.fixture(scope="module")
def recorded(): return recorded_speed([RESULTS])

def test_arithmetic_is_counted():
    assert arithmetic("mnist", "mlp") == 2 * (784 * 128 + 128 * 128 + 128 * 10)

def test_a_forecast_grows_with_the_work(recorded):
    hours = [sum(estimate(b, recorded, ON)
                 for b in blocks(plan("patrini2017", "table2", scale, dataset="mnist"))) for scale in SCALES]
    assert (recorded > 0).all() and 0 < hours[0] < hours[1] < hours[2]
    one = blocks(plan("patrini2017", "table2", "smoke", dataset="mnist"))[0]
    small, large = (replace(one, dataset="cifar10", model=model) for model in ("resnet14", "resnet32"))
    assert estimate(small, recorded, ON) < estimate(large, recorded, ON)
    assert np.isnan(estimate(one, recorded, "an abacus"))
    assert [seconds_each(block, recorded, ON)[1] for block in (one, small)] == [False, True]


# The papers' own tables

def test_the_captions_rule_finds_the_printed_stars():
    theirs = published("patrini2017", "table2").rename(
        columns=dict(mean="paper_mean", std="paper_std", n="paper_n"))
    marked = pd.concat(highlights(part, "paper") for _, part in theirs.groupby(SETTING, sort=False))
    assert (marked.paper_star == marked.star).all() and marked.star.sum() == 16 and theirs.dagger.sum() == 3

@pytest.fixture(scope="module")
def results(): return read_results(RESULTS)

def test_not_every_claim_holds_in_the_table_it_was_made_about(results):
    found = findings(side_by_side(results, "patrini2017", "table2", "laptop"))
    misses = found[found.paper_holds == "no"].set_index(["finding", "model"]).paper
    close(misses["d"]["mlp"].to_numpy(), [29., 4.], eps=1e-6)
    close(misses["a"]["resnet14"], 7.7, eps=1e-6)
    assert (found[found.claim.str.startswith("symmetric, deep")].paper_holds == "yes").all()

def test_a_verdict_counts_what_the_table_shows(results):
    both = pick(side_by_side(results, "patrini2017", "table2", "paper"), dataset="mnist")
    counted, words = score(both), verdict(both)
    fewest, most = both.our_n.min(), both.our_n.max()
    runs = f"{fewest:.0f} to {most:.0f}" if fewest < most else f"{most:.0f}"
    assert words[0] == (f"40 of the paper's 40 cells were run, {runs} runs each; the median difference from "
                        f"the paper is {both.difference.abs().median():.1f} points.")
    assert words[1].startswith(f"Of {counted['orderings_of']} orderings of methods that the paper tells "
                               f"apart {counted['orderings']} hold, ")
    assert words[1].endswith(f" and {counted['reversed']} are reversed.")
    far = far_cells(both)
    assert words[2] == f"More than 2 points off: {len(far)} cells." and len(words) == 3 + len(far) > 4
    assert verdict(both.assign(our_n=np.nan)) == []

def test_a_verdict_names_the_farthest_cells_and_not_all(results):
    both = pick(side_by_side(results, "patrini2017", "table2", "paper"), dataset="mnist")
    words = verdict(both.assign(difference=np.linspace(3, 9, len(both)).round(1), p=.01))
    assert words[2] == "More than 2 points off: 40 cells, the farthest first." and len(words) == 3 + 6
    last = both.iloc[-1]
    assert words[3] == (f"MNIST, fully connected, {setting_title(last.noise, last.rate)}, "
                        f"{pretty(last.method)}: +9.0, and no run of ours says why yet.")

def test_where_a_network_stands_in_orderings_alone_compare(results):
    both = side_by_side(results, "zhang2018", "table1", "laptop")
    words = verdict(both)
    assert words[0].endswith("ours has another network (fully connected), so that orderings alone compare.")
    assert len(words) == 2 and words[1].startswith(f"Of {score(both)['orderings_of']} orderings ")

@pytest.mark.parametrize("p, at_paper_scale, reason", [
    (.2, 0., "no more than the spread of the runs explains (p = 0.2)"),
    (.01, .5, "but +0.5 at the paper's own scale: the smaller scale is why"),
    (.01, 6., "and +6.0 at the paper's own scale, so that the smaller scale is not why"),
    (np.nan, 6., "and +6.0 at the paper's own scale, so that the smaller scale is not why"),
    (.01, np.nan, "and no run of ours says why yet")])
def test_a_verdict_gives_reasons_from_runs(results, p, at_paper_scale, reason):
    both = pick(side_by_side(results, "patrini2017", "table2", "paper"), dataset="mnist")
    one = (both.noise == "symmetric") & (both.method == "savage")
    full = both.assign(difference=both.difference.where(~one, at_paper_scale))
    off = both.assign(scale="laptop", difference=both.difference.where(~one, 7.).where(one, 0.), p=p)
    assert verdict(off, full)[2:] == ["More than 2 points off: 1 cell.",
                                      f"MNIST, fully connected, symmetric 0.2, Savage: +7.0, {reason}."]

def test_the_text_takes_the_place_of_the_code(results):
    text = in_place(results, "patrini2017", "text", "table2")
    own = pick(results, paper="patrini2017", table="text", variant="dropout=0.5, clip=0", metric="accuracy")
    there = pick(text, paper="patrini2017", table="table2", variant="", metric="accuracy")
    assert sorted(there.value) == sorted(own.value) and len(own) == 200
    assert len(pick(text, paper="zhang2018")) == len(pick(results, paper="zhang2018"))
    with expect_fail(ValueError, "table: expected a published one"):
        in_place(results, "patrini2017", "text", "figure1")

def test_the_laptops_step_is_the_best_of_the_candidates_without_noise(results):
    "Chosen by cross-entropy alone: the one that comes nearest to the paper's cell."
    rows = pick(results, paper="patrini2017", table="steps", metric="accuracy")
    assert set(rows.method) == {"cross_entropy"} and set(rows.noise) == {"none"}
    means, laptop = rows.groupby("lr").value.mean(), plan("patrini2017", "table2", "laptop", dataset="mnist")
    assert len(means) == 5 and (rows.groupby("lr").size() == 3).all()
    paper = pick(published("patrini2017", "table2"), dataset="mnist", noise="none", method="cross_entropy")
    assert {(means - paper["mean"].item()).abs().idxmin()} == set(laptop.lr)
    assert set(rows.epochs) == set(laptop.epochs)

@pytest.mark.parametrize("paper, table, dataset, tried_in, forgets", [
    ("wang2019", "table1", "mnist", "candidates", 20), ("jindal2019", "table1", "mnist", "candidates", 20),
    ("tanaka2018", "table1", "cifar10", "candidates", 15),
    ("wang2019", "table1", "cifar10", "candidates_cifar10", 5),
    ("patrini2017", "table2", "imdb", "candidates", None)])
def test_a_miniature_is_the_candidate_nearest_to_the_papers_cross_entropy(results, paper, table, dataset,
                                                                           tried_in, forgets):
    "And it memorises: without noise its last epoch is its best one, at the highest rate far below."
    tried, way = calibration(results, paper), ["network", "samples", "epochs", "optimizer", "inputs", "lr"]
    tried = tried[tried.dataset == dataset]
    assert set(tried.method) == {"cross_entropy"} and (tried.groupby("variant").size() == 3).all()
    nearest = (tried.ours - tried.printed).abs().groupby(tried.variant).mean().idxmin()
    planned, small = (plan(paper, tried_in, scale) for scale in ("paper", "laptop"))
    assert (planned.groupby("variant")[way].first() == small.groupby("variant")[way].first()).all(axis=None)
    chosen = planned[planned.variant == nearest]
    laptop = plan(paper, table, "laptop", dataset=dataset, model=chosen.model.iloc[0])
    if laptop.first_epochs.any(): way.remove("lr") # it is the first step's there
    assert set(map(tuple, chosen[way].to_numpy())) == set(map(tuple, laptop[way].to_numpy()))
    if forgets is None: return
    drop = tried[tried.variant == nearest].assign(drop=lambda t: t.best - t.ours).sort_values("rate")["drop"]
    assert drop.iloc[0] < 1.5 and drop.iloc[-1] > forgets

def test_zhangs_features_are_trained_in_one_of_the_two_nearest_ways(results):
    tried = calibration(results, "zhang2018")
    nearest = (tried.ours - tried.printed).abs().groupby(tried.variant).mean().nsmallest(2).index
    assert all("optimizer=adam" in variant for variant in nearest)
    laptop = plan("zhang2018", "table1", "laptop", dataset="cifar10").iloc[0]
    assert (laptop.optimizer, laptop.lr, laptop.samples, laptop.inputs) == ("adam", .001, 10000, "features")
    assert any("samples=10000" in variant for variant in nearest)

def test_bfloat16_changes_no_cell(results):
    """Of forty cells, trained in single precision and with bfloat16 products, few more
    differ than luck makes differ."""
    block = pick(results, paper="patrini2017", table="text", scale="paper", dataset="mnist")
    text = "dropout=0.5, clip=0"
    fp32, bf16 = (cell_means(block, variant=v).set_index(CELL).sort_index() for v in (text, f"{text}, bf16"))
    p = welch(fp32["mean"], fp32["std"], fp32.n, bf16["mean"], bf16["std"], bf16.n)
    assert len(p) == 40 and (p < .05).sum() <= 5 and (bf16["mean"] - fp32["mean"]).abs().median() < .1


# What a pack carries

@pytest.mark.parametrize("shape", [(3, 3, 8, 8), (3, 8, 8)])
def test_images_travel_as_a_sheet(shape):
    x = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(carried.images_of(carried.sheet(x)), x)
    assert torch.equal(data.read_idx(carried.idx_bytes(x)), x)


# The benchmark

def test_both_sides_of_the_benchmark_do_the_papers_work():
    mnist = data.load("mnist").head(2000, 100)
    many = speed.trainer(mnist, 10)
    assert [run.method.name for run in many.runs] == list(TEN)
    assert {run.method.name for run in speed.trainer(mnist, 6, "zhang2018").runs} == set(SIX)
    assert speed.operations(1, (3, 5)) == 2 * 2 * 15
    assert speed.plain_seconds(mnist, batches=2) > 0
    assert all(v > 0 for v in speed.trainer_seconds(many, batches=2).values())

def test_shares_of_the_peak_are_what_was_done_over_what_could_be():
    small = (speed.network_seconds("quick", precision="fp32", batches=2, peak=1e9),
             speed.sweep_seconds(n_runs=2, precision="fp32", batches=2, peak=1e9))
    work = 3 * 50_000 * arithmetic("cifar10", "quick"), 3 * 60_000 * arithmetic("mnist", "mlp")
    for row, operations in zip(small, work):
        close([row["share"] * row["engine"] * 1e9 / operations, row["ratio"] * row["engine"] / row["plain"]],
              [1, 1], eps=1e-9)


# What the overview opens with

def test_the_overview_says_what_was_found_of_each_paper(results):
    sides = all_sides(results, "patrini2017")
    full = next(both for both in sides if both.scale.iloc[0] == "paper")
    first, *_ = said = found.sentences(sides)
    run = full[full.our_n.notna()]
    median = (run.our_mean - run.paper_mean).abs().median()
    assert first.startswith(f"The paper's scale: {len(run)} cells were run, 5 runs each, with a median "
                            f"difference of {median:.1f} points; of the paper's orderings of methods ")
    outcomes = orderings(full).outcome
    held, counted = (outcomes == "holds").sum(), (outcomes != "not run").sum()
    assert f" {held} of {counted} ({held / counted:.0%}) hold and " in first
    assert len(said) == len(set(found.cells_of(sides).kind))

def test_each_cell_is_a_point_of_the_picture(results):
    for paper in ("patrini2017", "wang2019"):
        sides = all_sides(results, paper)
        line, *clouds = found.cloud(paper, sides).data
        assert line.x[0] == line.y[0] and line.x[1] == line.y[1]
        assert sum(len(trace.x) for trace in clouds) == sum(both.our_n.notna().sum() for both in sides)
        assert len({trace.marker.symbol for trace in clouds}) == len(clouds)
    sides = all_sides(results, "patrini2017")
    cells = found.cells_of(sides).query("scale == 'paper'")
    near = (cells.our_mean - cells.paper_mean).abs().le(2).sum()
    title = found.cloud("patrini2017", sides).layout.title.text
    assert title == f"Patrini et al. 2017: {near} of {len(cells)} cells at its scale within 2 points"

def test_a_setting_counts_once_for_a_conclusion(results):
    "At the paper's scale where it was run there: MNIST at the paper's, IMDB on a laptop."
    sides = all_sides(results, "patrini2017")
    rows = found.conclusions(sides).set_index("it concludes")["in ours"]
    counted = rows["asymmetric: forward is at least as good as backward"].split(",")[0]
    assert counted.endswith(" of 4")
    assert rows["symmetric, deep networks: no method leads forward by more than half a point"] == "0 of 0"
    assert found.conclusions(all_sides(results.iloc[:0], "patrini2017")).empty
