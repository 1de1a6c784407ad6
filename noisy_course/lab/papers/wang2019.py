"""Wang et al. 2019: what it did, what it concludes, and what its figures show."""
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pandas as pd

from noisy_course.basics import pick
from noisy_course.data import CIFAR10_CLASSES
from noisy_course.lab.cells import lead, setting_title, without
from noisy_course.lab.protocols import (EARLY, LATE, Grid, Paper, Part, candidates, milestones, sgd,
                                        shift_and_flip)
from noisy_course.lab.sections import at_scales, banded, curve_of, drawn, frame_table, section
from noisy_course.plots import bars, curves, numbered_points, pretty
from noisy_course.symmetric_cross_entropy import class_accuracy, confidence, embedding, true_positives
from noisy_course.method import Recipe, TrainingState


TABLES = {}


# Wang et al. 2019

# §5.2. The weights of the loss change with the data set, and on CIFAR at 40 % class-dependent noise too.
# Which epoch is reported is not said; the table takes the last. On a laptop, MNIST is 5,000 images and the
# fully connected network, trained so that cross-entropy memorises wrong labels as in the paper: of the
# candidates below this one ends nearest to the paper's cross-entropy in three settings. So is CIFAR-10, with
# 10,000 images as features of a network that has seen ImageNet.
SEVEN = ("cross_entropy", "label_smoothing", "bootstrap_hard", "forward", "d2l", "generalized_cross_entropy",
         "symmetric_cross_entropy")
WANG_NOISE = (("none", 0.), *(("symmetric", r) for r in (.2, .4, .6, .8)),
              *(("asymmetric", r) for r in (.2, .3, .4)))
WORST = WANG_NOISE[-1:]

WANG = Recipe(optimizer=partial(sgd, lr=.1, weight_decay=5e-3), select="valid_accuracy", runs_at_once=1)
DIGITS = Part("mnist", "cnn4", WANG_NOISE, replace(WANG, epochs=50, schedule=milestones(10, 30)),
              usual=dict(alpha=.01), laptop=dict(network="mlp", samples=5000, epochs=60, seeds=3,
                                                 usual=dict(optimizer="sgd", lr=.1)))
PHOTOS = Part("cifar10", "cnn8", WANG_NOISE[:-1], replace(WANG, augment=shift_and_flip, **EARLY),
              usual=dict(alpha=.1))
MINIATURE = replace(PHOTOS, laptop=dict(network="mlp", samples=10000, epochs=60, seeds=3,
                                        usual=dict(inputs="features", lr=.01)))
FINE = Part("cifar100", "resnet44", WANG_NOISE[:-1], replace(WANG, augment=shift_and_flip, **LATE),
            usual=dict(alpha=6., beta=.1, flips="random_pairs"))
TABLES["table1"] = Grid((DIGITS, MINIATURE, replace(MINIATURE, noises=WORST, usual=dict(alpha=.1, beta=5.)),
    FINE, replace(FINE, noises=WORST, usual=FINE.usual | dict(alpha=2.))), (({}, SEVEN),))

# What might stand for them on a laptop, CIFAR-10 on features of a network that has seen ImageNet:
SOME = dict(samples=5000, epochs=60)
TABLES["candidates"] = candidates(DIGITS, (("none", 0.), ("symmetric", .6), ("symmetric", .8)),
    SOME, SOME | dict(optimizer="sgd", lr=.1), SOME | dict(optimizer="sgd", lr=.01),
    SOME | dict(optimizer="adam", lr=.001), SOME | dict(optimizer="adam", lr=.003),
    SOME | dict(samples=10000, optimizer="adam", lr=.001))

SEEN = replace(PHOTOS, samples=5000, epochs=60, usual=PHOTOS.usual | dict(inputs="features"))
TABLES["candidates_cifar10"] = candidates(SEEN, (("none", 0.), ("symmetric", .6), ("symmetric", .8)),
    {}, dict(lr=.01), dict(optimizer="sgd", lr=.1), dict(optimizer="sgd", lr=.01),
    dict(optimizer="adam", lr=.001), dict(samples=10000, optimizer="adam", lr=.001),
    dict(samples=10000, lr=.01))


# Table 2 adds the mirror to other methods; forward correction takes it with a weight of 1 or, under class-
# dependent noise, of 0.1. §5.1 has other numbers: a smaller learning rate and weight decay, and $A=-6$. Its
# Figures 1 to 7 look at the same runs: at classes, at confidence, at the last layer (so all seven are our
# grid `figure1`). Figure 8 looks at the parameters, Figure 9 at the parts of the loss.
def by_class(
    state: TrainingState, # after an epoch
) -> dict: # name → number
    "What Figures 1 and 3 to 6 of Wang et al. show, for every class."
    once = replace(state, probabilities=cache(state.probabilities))
    return class_accuracy(once) | confidence(once) | true_positives(once)


SMOOTHED, CORRECTED = (({}, ("label_smoothing_sl",)),), (({}, ("forward_sl",)),)
TABLES["table2"] = Grid((replace(PHOTOS, noises=(("symmetric", .4), ("symmetric", .6))),
                         replace(PHOTOS, noises=WORST, usual=dict(alpha=.1, beta=.1))), SMOOTHED + CORRECTED)

SLOWER = replace(WANG, optimizer=sgd, **EARLY)
SMALL = dict(network="cnn4", samples=10000, epochs=20, seeds=1)
CLASSES = Part("cifar10", "cnn8", (("none", 0.), ("symmetric", .4), ("symmetric", .6)),
               replace(SLOWER, epoch_metrics=by_class, final_metrics=embedding), usual=dict(alpha=.1, A=-6.),
               laptop=SMALL)
TABLES["figure1"] = Grid((CLASSES,), (({}, ("cross_entropy", "label_smoothing", "symmetric_cross_entropy")),))

HARD = replace(CLASSES, noises=(("symmetric", .6),), recipe=SLOWER)
TUNED = (tuple((dict(alpha=a), ("symmetric_cross_entropy",)) for a in (.01, .5, 1.))
         + tuple((dict(alpha=a, A=A), ("symmetric_cross_entropy",)) for a in (.1, 1.)
                 for A in (-8., -4., -2.)))
TABLES["figure8"] = Grid((HARD,), (({}, ("symmetric_cross_entropy",)), *TUNED))
TABLES["figure9"] = Grid((HARD,),
                         (({}, SEVEN), (dict(alpha=0.), ("symmetric_cross_entropy",)),
                          (dict(alpha=5., beta=0.), ("symmetric_cross_entropy",)),
                          (dict(alpha=0., beta=5.), ("symmetric_cross_entropy",))))


# Table 3 is Clothing1M, a million photographs with labels from the text around them. The paper trains a
# ResNet-50 from ImageNet's weights. Which of its three $(\alpha,\beta)$ it takes there is not said: we take
# CIFAR-10's. Nor is a validation set: we hold out 1 % of the noisy images.
# And the authors' code does not train as the text says. On MNIST the text has a weight decay of
# $5\times10^{-3}$; the code gives Keras' SGD a `decay` of $10^{-4}$, which is none of the weights but of
# the learning rate, divided by $1+10^{-4}$ times the steps so far. That is an ablation.
TABLES["ablation"] = Grid((replace(DIGITS, noises=WANG_NOISE[2:5]),), ((dict(decay="rate"), SEVEN),))

CLOTHES = Part("clothing1m", "resnet50", (("real", .385),), usual=dict(alpha=.1), seeds=1,
               recipe=Recipe(epochs=10, batch_size=64, optimizer=partial(sgd, lr=1e-3, weight_decay=1e-3),
                             schedule=milestones(5), select="valid_accuracy", runs_at_once=1,
                             valid_fraction=.01))
TABLES["table3"] = Grid((CLOTHES,), (({}, tuple(m for m in SEVEN if m != "label_smoothing")),))


# What the paper concludes

FINDINGS = {}
SL, GCE = ["symmetric_cross_entropy"], ["generalized_cross_entropy"]
FINDINGS["table1"] = [
    ("1", "SL improves on all baselines", lambda i: i.rate >= 0, lambda w: lead(w, without(w, *SL), SL),
     (-100, 0)),
    ("2", "high noise (0.6 and more): SL is ahead of GCE", lambda i: i.rate >= .6,
     lambda w: lead(w, GCE, SL), (-100, 0)),
    ("3", "class-dependent: forward with the true T within 2 points of SL",
     lambda i: i.noise == "asymmetric", lambda w: lead(w, SL, ["forward"]).abs(), (0, 2))]


# Its figures

# The third paper looks at each class by itself:
def _by_class(results, paper, pattern, panels):
    for scale, title, note, part in at_scales(results.query(panels), paper, "figure1"):
        known = part[part.metric.str.match(pattern)]
        number = known.metric.str.extract(r"(\d+)\]?$", expand=False).astype(int)
        names = CIFAR10_CLASSES if part.dataset.iloc[0] == "cifar10" else None
        known = known.assign(number=number,
                             who=number.map(lambda c: f"{c} {names[c]}" if names and c < len(names)
                                            else f"class {c}"))
        for (method, noise, rate), rows in known.groupby(["method", "noise", "rate"], sort=False):
            said = f"{pretty(method)}, {setting_title(noise, rate)}"
            yield said, f"{title}, {said}", note, rows

def _classes_page(results, paper, table, sides, panels):
    for said, title, note, rows in _by_class(results, paper, r"class_\d+$", panels):
        points = curve_of(rows, "who")
        last = points[points.epoch == points.epoch.max()]["mean"]
        name = f"{said}: the classes end between {last.min():.0f} and {last.max():.0f} %"
        yield section(title, figures=[drawn(curves(banded(points), "epoch", "mean", "who", name, "epoch",
            "test accuracy, %", error="std"), note)])

def _stages_page(results, paper, table, sides, panels):
    for said, title, note, rows in _by_class(results, paper, r"class_\d+$", panels):
        yield section(title, figures=[drawn(_stages(rows, said), note)])

def _stages(rows, said):
    stages = {max(1, round(rows.epoch.max() * share / 120)): None for share in (10, 50, 100)}
    means = rows[rows.epoch.isin(stages)].groupby(["who", "epoch"], as_index=False, sort=False).value.mean()
    return bars(means.assign(stage=means.epoch.map("epoch {}".format)), "who", "value", "stage",
                f"{said}: test accuracy of the classes at three epochs", "class", "test accuracy, %")


# How sure it is of right labels, what it predicts (Figures 4 and 6), and its last layer as a map (Figures 2
# and 7):
def _at_end(rows):
    return rows[rows.epoch == rows.epoch.max()].groupby(["who", "metric"], sort=False,
        as_index=False).value.mean()

def _sure_page(results, paper, table, sides, panels):
    counted = {title: rows for _, title, _, rows in _by_class(results, paper, r"(predicted|correct)_\d+$",
        panels)}
    known = [(said, title, note, _at_end(rows))
             for said, title, note, rows in _by_class(results, paper, r"sure_\d+$", panels)]
    for said, title, note, sure in known:
        right = _at_end(counted[title])
        right = right.assign(what=right.metric.str.startswith("correct").map({True: "right",
            False: "put there"}))
        name = (f"{said}: on rightly labelled training images the mean belief in the label is between "
                f"{sure.value.min():.2f} and {sure.value.max():.2f}")
        figures = [bars(sure, "who", "value", None, name, "class",
                        "mean softmax of the label").update_yaxes(range=[0, 1]),
                   bars(right, "who", "value", "what",
                        f"{said}: training images put into each class, and those that belong there", "class",
                        "images")]
        yield section(title, figures=[drawn(f, f"{note} Last epoch.") for f in figures])

def _maps_page(results, paper, table, sides, panels):
    shares = pick(results, paper=paper, table="figure1", metric="same_class_neighbours")
    for said, title, note, rows in _by_class(results, paper, r"tsne_\w+\[\d+\]$", panels):
        one = rows[rows.seed == rows.seed.min()].assign(column=rows.metric.str.extract(r"tsne_(\w+)\[",
            expand=False))
        map_ = one.pivot(index="number", columns="column", values="value")
        share = pick(shares, seed=one.seed.iloc[0], block=one.block.iloc[0],
                     method=one.method.iloc[0]).value.iloc[0]
        name = f"{said}: {share:.0%} of the ten nearest neighbours in the last layer are of the same class"
        names = CIFAR10_CLASSES if one.dataset.iloc[0] == "cifar10" else None
        yield section(title, figures=[drawn(numbered_points(map_, "x", "y", "class", name, names),
                                            f"{note} {len(map_)} test images, the first seed; t-SNE. Each "
                                            "point is the number of its class.")])


# Its parameters, and the parts of the loss (Figures 8 and 9):
def _lines(rows, by, title, note):
    seen = curve_of(rows[rows.metric == "test_accuracy"].assign(who=by), "who")
    return drawn(curves(banded(seen), "epoch", "mean", "who", title, "epoch", "test accuracy, %",
                        error="std"), note)

def _choices(part):
    one = ["alpha", "A", "seed"]
    values = {"valid_accuracy": "noisy validation accuracy, %",
              "accuracy_best_valid_accuracy": "test accuracy of that epoch, %",
              "accuracy_last": "test accuracy, last epoch, %"}
    runs = pd.DataFrame({name: pick(part, metric=m).groupby(one).value.max() for m, name in values.items()})
    means = runs.groupby(one[:2]).mean().reset_index()
    return means.assign(ratio=-means.A / means.alpha).rename(columns=dict(alpha="α", ratio="λ/α"))

def _parameters_page(results, paper, table, sides):
    for scale, title, note, part in at_scales(results, paper, "figure8"):
        part = part.sort_values(["alpha", "A"], kind="stable")
        groups = [("α", "alpha", "A = −6", part[part.A == -6]),
                  *(("A", "A", f"α = {a:g}", part[part.alpha == a]) for a in (.1, 1))]
        figures = [_lines(rows, f"{sign} = " + rows[by].map("{:g}".format),
                          f"Test accuracy: other {sign}, fixed {fixed}", note)
                   for sign, by, fixed, rows in groups]
        chosen = _choices(part)
        best, test = (chosen.loc[chosen["noisy validation accuracy, %"].idxmax()],
                      "test accuracy of that epoch, %")
        text = (f"Noisy validation accuracy chooses α = {best['α']:g}, A = {best.A:g}, which has "
                f"{best[test]:.1f} % on the test set; the best pair has {chosen[test].max():.1f} %.")
        yield section(title, text, figures=figures, tables=[frame_table(chosen, "β = 1, so λ = −A. " + note)])

PARTS = {"": "the whole", "alpha=0": "RCE alone", "alpha=5, beta=0": "5 × CE", "alpha=0, beta=5": "5 × RCE"}

def _parts_page(results, paper, table, sides):
    for scale, title, note, part in at_scales(results, paper, "figure9"):
        one = part[part.method.isin(["symmetric_cross_entropy", "cross_entropy"])]
        one = one.assign(what=np.where(one.method == "cross_entropy", "CE alone", one.variant.map(PARTS)))
        all_ = part[part.variant == ""]
        yield section(title, figures=[_lines(one, one.what, "Figure 9a: the parts of the loss, test accuracy",
            note), _lines(all_, all_.method, "Figure 9b: all methods, test accuracy", note)])


PAPER = Paper(
    title="Wang et al. 2019",
    chapter="12_symmetric_cross_entropy",
    tables=TABLES,
    findings=FINDINGS,
    conclusions=dict(
        table1="What §5.2 says of the table: “SL improves on the baselines via a large margin for almost "
        "all noise rates and all datasets”, “Forward sometimes also delivers a relatively good "
        "performance”. The limits are ours."),
    figures=dict(
        table1=[
        ("figure1", "Figure 1: class by class", partial(_classes_page, panels="rate < .5")),
        ("figure2", "Figure 2: the last layer", partial(_maps_page, panels="rate < .5")),
        ("figure3", "Figure 3: three epochs",
         partial(_stages_page, panels="rate < .5 and method == 'cross_entropy'")),
        ("figure4", "Figure 4: confidence of cross-entropy",
         partial(_sure_page, panels="method == 'cross_entropy'")),
        ("figure5", "Figure 5: class by class, more noise", partial(_classes_page, panels="rate > .5")),
        ("figure6", "Figure 6: confidence of symmetric learning",
         partial(_sure_page, panels="method != 'cross_entropy'")),
        ("figure7", "Figure 7: the last layer, more noise", partial(_maps_page, panels="rate > .5")),
        ("figure8", "Figure 8: parameters", _parameters_page), ("figure9", "Figure 9: parts", _parts_page)]))
