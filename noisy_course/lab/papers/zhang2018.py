"""Zhang & Sabuncu 2018: what it did, what it concludes, and what its figures show."""
from dataclasses import replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch

from noisy_course.basics import pick
from noisy_course.generalized_cross_entropy import beliefs
from noisy_course.lab.cells import cell_means, lead, listed, named, setting_title, without
from noisy_course.lab.protocols import EARLY, LATE, RESIDUAL, Grid, Paper, Part, candidates
from noisy_course.lab.sections import METRICS, at_scales, banded, curve_of, drawn, frame_table, section
from noisy_course.plots import curves, pretty


TABLES = {}


# Zhang & Sabuncu 2018

# §4.2. Reported is the epoch of the highest validation accuracy, so the best network is selected so, for
# pruning too. CIFAR-100 flips each class into the next. ResNets are too slow for a laptop: on Fashion-MNIST
# the fully connected network of the first paper stands in, without dropout, on images as they are, with the
# paper's optimizer and a third of its epochs. CIFAR-10 is 10,000 images as features of a network that saw
# ImageNet: of the candidates below the two with Adam end nearest to the paper's cross-entropy in three
# settings, and this is the one with more images.
SIX = ("cross_entropy", "mean_absolute_error", "forward", "forward_estimated", "generalized_cross_entropy",
       "truncated_gce")
RATES = tuple([("symmetric", r) for r in (.2, .4, .6, .8)] + [("asymmetric", r) for r in (.1, .2, .3, .4)])

ZHANG = replace(RESIDUAL, select="valid_accuracy", **EARLY)
STAND_IN = dict(network="mlp", recipe=replace(ZHANG, augment=None, runs_at_once=None), epochs=40, seeds=2)
PRUNED = dict(prune_start=40, prune_every=10)

FASHION = Part("fashion_mnist", "resnet18", RATES, ZHANG, usual=PRUNED, laptop=STAND_IN | dict(seeds=3))
CIFAR10 = Part("cifar10", "resnet34", RATES, ZHANG, usual=PRUNED,
               laptop=dict(network="mlp", samples=10000, epochs=60, seeds=3,
                           usual=dict(inputs="features", optimizer="adam", lr=.001)))
CIFAR100 = Part("cifar100", "resnet34", RATES, replace(ZHANG, **LATE),
                usual=dict(prune_start=80, prune_every=10, percentile=100., flips="circle"))
TABLES["table1"] = Grid((FASHION, CIFAR10, CIFAR100), (({}, SIX),))


# What might stand for CIFAR-10 on a laptop, on features of a network that has seen ImageNet:
SEEN = replace(CIFAR10, samples=5000, epochs=60, usual=PRUNED | dict(inputs="features"))
TABLES["candidates_cifar10"] = candidates(SEEN, (("symmetric", .2), ("symmetric", .6), ("symmetric", .8)),
    {}, dict(optimizer="sgd", lr=.01), dict(optimizer="sgd", lr=.1), dict(optimizer="adam", lr=.001),
    dict(samples=10000, optimizer="adam", lr=.001))


# Table 2 has a plain network, 100 epochs, no augmentation, and pruning from epoch 10; the optimizer is
# “identical” to that of another paper, and we take this one's. Its first row is open-set noise: four images
# in ten come from elsewhere. The grid after it is ours, and asks the same where CIFAR-100 is not at hand:
# digits among garments, beside its closed-set twin.
FIVE, OPEN = tuple(m for m in SIX if m != "forward_estimated"), (("open_set", .4), ("symmetric", .4))
PLAIN = replace(ZHANG, augment=None, epochs=100)
TABLES["table2"] = Grid((Part("cifar10", "cnn", OPEN, PLAIN,
                              usual=dict(prune_start=10, prune_every=10, outside="cifar100")),),
                        (({}, FIVE),))
TABLES["open_set"] = Grid((replace(FASHION, noises=OPEN, usual=PRUNED | dict(outside="mnist"),
                                   laptop=STAND_IN),), (({}, FIVE),))


# Figures 1 and 2 are trained with “the default setting of Adam”; their number of epochs is not said, and we
# take those of the table. Figure 1 watches what the network believes, Figure 2 varies $q$ ($q=0$ is cross-
# entropy). Over five noise rates, Fashion-MNIST also answers how to choose $q$.
ADAM = replace(ZHANG, optimizer=torch.optim.Adam, schedule=lambda epoch: 1.)
ADAM_STAND_IN = STAND_IN | dict(recipe=replace(ADAM, augment=None, runs_at_once=None))
WATCHED = STAND_IN | dict(recipe=replace(ADAM_STAND_IN["recipe"], epoch_metrics=beliefs))
CLEAN, NOISY = (("none", 0.),), (("none", 0.), ("symmetric", .4))
TABLES["figure1"] = Grid((
    Part("cifar10", "resnet34", NOISY, replace(ADAM, epoch_metrics=beliefs)),
    Part("cifar100", "resnet34", CLEAN, replace(ADAM, epoch_metrics=beliefs)),
    Part("fashion_mnist", "resnet18", NOISY, replace(ADAM, epoch_metrics=beliefs), laptop=WATCHED)),
    (({}, ("cross_entropy", "mean_absolute_error", "generalized_cross_entropy")),))

QS = (.2, .4, .6, .8, 1.)
UNIFORM = tuple(("symmetric" if rate else "none", rate) for rate in (0., .2, .4, .6, .8))
TABLES["figure2"] = Grid((
    Part("cifar10", "resnet34", (UNIFORM[0], UNIFORM[1], UNIFORM[3]), ADAM),
    Part("fashion_mnist", "resnet18", UNIFORM, ADAM, laptop=ADAM_STAND_IN)),
    (({}, ("cross_entropy", "generalized_cross_entropy")),
     *((dict(q=q), ("generalized_cross_entropy",)) for q in QS)))


# What the paper concludes

FINDINGS = {}
PROPOSED = ["generalized_cross_entropy", "truncated_gce"]
FINDINGS["table1"] = [("1", "uniform: the better proposed loss beats all others, forward T included",
                       lambda i: i.noise == "symmetric", lambda w: lead(w, without(w, *PROPOSED), PROPOSED),
                       (-100, 0)), ("2", "uniform: truncation does not lower L_q",
                                    lambda i: i.noise == "symmetric",
                                    lambda w: w.generalized_cross_entropy - w.truncated_gce, (-100, 0)),
                      ("3", "class-dependent: no other method leads forward T",
                       lambda i: i.noise == "asymmetric",
                       lambda w: lead(w, without(w, "forward"), ["forward"]), (-100, 0)),
                      ("4", "class-dependent, Fashion-MNIST: truncated L_q within 1 point of forward T̂",
                       lambda i: (i.noise == "asymmetric") & (i.dataset == "fashion_mnist"),
                       lambda w: (w.truncated_gce - w.forward_estimated).abs(), (0, 1)),
                      ("4", "class-dependent, CIFAR: forward T̂ does not beat truncated L_q",
                       lambda i: (i.noise == "asymmetric") & (i.dataset != "fashion_mnist"),
                       lambda w: w.forward_estimated - w.truncated_gce, (-100, 0)),
                      ("5", "class-dependent, not CIFAR-100: L_q gains at most half a point on cross-entropy",
                       lambda i: (i.noise == "asymmetric") & (i.dataset != "cifar100"),
                       lambda w: w.generalized_cross_entropy - w.cross_entropy, (-100, .5)),
                      ("6", "MAE is the worst of all", lambda i: i.rate > 0,
                       lambda w: w.mean_absolute_error
                       - w.drop(columns="mean_absolute_error").min(axis=1, skipna=False), (-100, 0))]


# Its figures

# Which q?

# Zhang & Sabuncu's Figure 2 trains with several $q$; $q=0$ is cross-entropy. From its rows we take the runs
# by $q$, with what a user would see, the noisy validation accuracy, and what nobody sees, the test accuracy
# of the network chosen by it.
def runs_by_q(
    results: pd.DataFrame, # from `read_results`
    scale: str, # one scale
) -> pd.DataFrame: # one row a run: dataset, model, rate, seed, q, valid, test
    "The runs of Zhang & Sabuncu's Figure 2: validation accuracy, and test accuracy of the chosen epoch."
    rows = with_q(pick(results, paper="zhang2018", table="figure2", scale=scale))
    run = ["dataset", "model", "rate", "seed", "q"]
    valid = pick(rows, metric="valid_accuracy").groupby(run,
        as_index=False).value.max().rename(columns=dict(value="valid"))
    test = pick(rows, metric="accuracy_best_valid_accuracy")[[*run,
        "value"]].rename(columns=dict(value="test"))
    return valid.merge(test, on=run, validate="1:1")

def with_q(
    rows: pd.DataFrame, # of Figure 2
) -> pd.DataFrame: # with a column q
    "Rows with the q of their run: 0 for cross-entropy, the usual 0.7 where no variant says otherwise."
    usual = np.where(rows.method == "cross_entropy", 0., .7)
    return rows.assign(q=pd.to_numeric(rows.variant.str.extract(r"^q=([\d.]+)$",
        expand=False)).fillna(pd.Series(usual, rows.index)))


# A user with one noisy training set takes the $q$ with the highest noisy validation accuracy. What does
# that cost, beside the $q$ that is best on average over runs, which only clean labels would show?
def q_choice(
    runs: pd.DataFrame, # of one data set, from `runs_by_q`
) -> pd.DataFrame: # a row a rate: best_q, its accuracy, each run's chosen q, their mean accuracy, the cost
    "What choosing q by noisy validation accuracy costs."
    means = runs.groupby(["rate", "q"], as_index=False).test.mean()
    best = means.loc[means.groupby("rate").test.idxmax()].set_index("rate")
    chosen = runs.loc[runs.groupby(["rate", "seed"]).valid.idxmax()].groupby("rate").agg(chosen=("q", listed),
        test=("test", "mean"))
    return pd.DataFrame(dict(best_q=best.q, best=best.test, chosen_q=chosen.chosen, chosen=chosen.test,
                             cost=best.test - chosen.test)).reset_index()


# The figure: accuracy against $q$, a line for each noise rate.
def q_figure(
    runs: pd.DataFrame, # of one data set, from `runs_by_q`
) -> go.Figure: # a line a noise rate, with a band of one std
    "Test accuracy against q."
    points = runs.groupby(["rate", "q"], as_index=False).test.agg(["mean", "std"])
    at = points.loc[points.groupby("rate")["mean"].idxmax()].set_index("rate").q
    title = "The best q: " + ", ".join(f"{q:g} at η = {rate:g}" for rate, q in at.items())
    return curves(banded(points.assign(noise="η = " + points.rate.map("{:g}".format))), "q", "mean", "noise",
                  title, "q (0 is cross-entropy)", "test accuracy, %", error="std")


def _beliefs_page(results, paper, table, sides):
    for scale, title, note, part in at_scales(results, paper, "figure1"):
        known = part[part.metric.str.startswith("belief") & (part.noise != "none")].dropna(subset="epoch")
        seen = known.assign(who=known.metric.str[7:] + " labels, "
                            + known.method.map(pretty)).groupby(["who", "epoch"], sort=False,
            as_index=False).value.agg(["mean", "std"])
        clean = curve_of(part[(part.noise == "none") & (part.metric == "test_accuracy")], "method")
        figures = [drawn(curves(banded(clean), "epoch", "mean", "method", "Without noise", "epoch",
                                "test accuracy, %", error="std"), note)]
        title_c = f"Mean softmax of the given label, {setting_title(*known[['noise', 'rate']].iloc[0])}"
        figures += [drawn(curves(banded(seen), "epoch", "mean", "who", title_c, "epoch", "mean softmax",
                                 error="std"), note)]
        yield section(title, figures=figures)


# For $q$, curves at each noise rate, and the answer to the question that users ask:
def _q_page(results, paper, table, sides):
    for scale, title, note, part in at_scales(results, paper, "figure2"):
        runs = runs_by_q(part, scale)
        choice = q_choice(runs).rename(columns=dict(best="its accuracy",
            chosen_q="q by noisy validation, each run", chosen="accuracy", cost="points lost"))
        tables = [frame_table(choice,
                              "The q that is best on average, and what choosing q by noisy validation "
                              "accuracy in each run costs.")]
        tables += [_by_q(part, m, f"Test accuracy in percent, {words}.")
                   for m, words in (("accuracy_best_valid_accuracy",
                                     "epoch of the best noisy validation accuracy"),
                                    ("accuracy_last", "last epoch"))]
        figures = ([drawn(q_figure(runs), note)]
                   + [drawn(_q_curves(rows, m), note) for _, rows in part.groupby("rate")
                      for m in ("test_accuracy", "valid_loss")])
        yield section(title, "The loss has another unit for each q: compare where its curves turn.",
                      tables=tables, figures=figures)

def _by_q(part, metric, caption):
    wide = with_q(pick(part, metric=metric)).pivot_table(index="rate", columns="q", values="value")
    return frame_table(wide.rename(columns="q = {:g}".format).reset_index(), caption)

def _q_curves(rows, metric):
    known = with_q(rows[rows.metric == metric])
    points = curve_of(known.sort_values(["q", "epoch"]).assign(who="q = " + known.q.map("{:g}".format)),
                      "who")
    label = METRICS.get(metric, pretty(metric))
    return curves(banded(points), "epoch", "mean", "who",
                  f"{label.capitalize()}, {setting_title(*rows[['noise', 'rate']].iloc[0])}", "epoch", label,
                  error="std")

def _open_set_page(results, paper, table, sides):
    for scale, title, note, part in at_scales(results, paper, "open_set"):
        words = dict(accuracy_last="last epoch", accuracy_best_valid_accuracy="best validation accuracy")
        means = pd.concat([cell_means(part, m).assign(reported=w) for m, w in words.items()])
        wide = means.pivot_table(index="method", columns=["noise", "reported"], values="mean", sort=False)
        wide.columns = [f"{named(n)}, {w}" for n, w in wide.columns]
        caption = (f"A share of {part.rate.max():g} of the images comes from "
                   f"{named(listed(part.outside[part.outside != '']))} (open-set), or has a wrong label "
                   "(symmetric). Test accuracy in percent.")
        yield section(title, note,
                      tables=[frame_table(wide.reset_index().assign(method=wide.index.map(pretty)), caption)])


PAPER = Paper(
    title="Zhang & Sabuncu 2018",
    chapter="11_generalized_cross_entropy",
    tables=TABLES,
    findings=FINDINGS,
    conclusions=dict(
        table1="What §4.3 says of the table. The limits are ours."),
    quoted=(("table2", "wang2018"),),
    figures=dict(
        table1=[("figure1", "Figure 1", _beliefs_page), ("figure2", "Figure 2: which q", _q_page)],
        table2=[("open_set", "Open-set noise, ours", _open_set_page)]))
