"""The course's own comparison: all methods under one protocol, and what a few checked labels are worth."""
from dataclasses import replace
from functools import partial


from noisy_course.joint_optimization import label_accuracy
from noisy_course.lab.papers.jindal2019 import FINE_TUNED
from noisy_course.lab.protocols import METHODS, Grid, Paper, Part, milestones, sgd
from noisy_course.method import Recipe


TABLES = {}


# Head to head, ours

# Each paper compares with others under its own protocol. Here are all methods under one: the network of two
# hidden layers, 60 epochs with a learning rate that falls twice, five noise draws, and the epoch of the
# highest accuracy on noisy validation labels. CIFAR-10 comes as the features of a network that has seen
# ImageNet, with labels from people. Every method tries three learning rates, and six of them two values of
# a number of their own: a grid that a practitioner has time for. (A method takes only its own numbers, so
# that one line holds everybody's second value.) On a laptop there are 5,000 images and a quarter of the
# epochs.
TWO_STEPS = ("joint_optimization", "joint_hard_optimization")
ONE_STEP = tuple(name for name, m in METHODS.items()
                 if name not in (*TWO_STEPS, "joint_labels", "dropout_activations") and not m.warm_start)
SECOND = dict(q=.4, alpha=1., percentile=100.)
TUNABLE = ("backward_estimated", "forward_estimated", "generalized_cross_entropy", "truncated_gce",
           "symmetric_cross_entropy", "label_smoothing_sl")
LEARNING_RATES = tuple(dict(lr=lr) for lr in (.01, .1, 1.))

MIXES = (*(("symmetric", r) for r in (.2, .5, .8)), ("asymmetric", .3), ("asymmetric", .45))
COMMON = Recipe(epochs=60, optimizer=sgd, schedule=milestones(30, 45), select="valid_accuracy")
COMMON_PART = Part("mnist", "mlp", MIXES, COMMON, usual=dict(prune_start=20, prune_every=4),
                   laptop=dict(samples=5000, epochs=15, seeds=5))
COMMON_PARTS = (COMMON_PART, replace(COMMON_PART, dataset="fashion_mnist"),
    replace(COMMON_PART, dataset="cifar10", noises=(("aggre", .09), ("worse", .402)),
            usual=COMMON_PART.usual | dict(inputs="features")))
TABLES["head_to_head"] = Grid(COMMON_PARTS,
                              (*((lr, ONE_STEP) for lr in LEARNING_RATES),
                               *((lr | SECOND, TUNABLE) for lr in LEARNING_RATES)))


# Joint optimization trains twice, so it has a grid of its own, with as many epochs again and the paper's
# two pairs of weights. It is told that all classes are equally frequent, which is true of all of our data
# and tells it something of the noise; so there is a control, in which it counts the classes on the given
# labels instead:
JOINT, PAIRS = dict(first_epochs=60, label_start=20, alpha=1.2, beta=.8), ({}, dict(alpha=.8, beta=.4))
TWICE = replace(COMMON, optimizer=partial(sgd, lr=.1),
                first_stage=replace(COMMON, schedule=lambda epoch: 1., epoch_metrics=label_accuracy))
TABLES["two_steps"] = Grid(tuple(replace(p, recipe=TWICE, usual=p.usual | JOINT) for p in COMMON_PARTS),
    tuple((lr | pair, TWO_STEPS) for lr in LEARNING_RATES for pair in PAIRS))
TABLES["counted"] = replace(TABLES["two_steps"],
                            variants=tuple((lr | pair | dict(prior="labels"), TWO_STEPS[:1])
                                           for lr in LEARNING_RATES for pair in PAIRS))


# And what a few checked labels are worth (Table 4 of Jindal et al. asks it of a million photographs): one
# label in twenty is true and known to be. Three methods learn from the other labels, from all together, or
# from the others and then, with cross-entropy, from the checked ones; and cross-entropy learns from the
# checked ones alone. Three learning rates, and no choice between them. The second stage is trained at the
# same rate as the first, and in a grid of its own at 0.01 and for more epochs.
LEARNERS, FEW = ("cross_entropy", "forward_estimated", "nnaqc"), dict(checked=.05)
FEW_PARTS = tuple(replace(p, noises=p.noises if p.dataset == "cifar10"
                          else (("symmetric", .5), ("asymmetric", .45))) for p in COMMON_PARTS)
ALONE = tuple(replace(p, noises=(("none", 0.),), samples=2500 if p.dataset == "cifar10" else 3000,
                      laptop=p.laptop | dict(samples=250), methods=LEARNERS[:1]) for p in COMMON_PARTS)
TABLES["noisy_only"] = Grid(FEW_PARTS, tuple((lr, LEARNERS) for lr in LEARNING_RATES))
TABLES["checked"] = Grid(FEW_PARTS, tuple((lr | FEW, LEARNERS + tuple(FINE_TUNED)) for lr in LEARNING_RATES))
GENTLE = dict(recipe=replace(COMMON, optimizer=partial(sgd, lr=.01), first_stage=COMMON),
              usual=dict(first_epochs=60))
GENTLE_PARTS = tuple(replace(p, recipe=GENTLE["recipe"], usual=p.usual | GENTLE["usual"],
                             laptop=p.laptop | dict(epochs=30, usual=p.usual | dict(first_epochs=30)))
                     for p in FEW_PARTS)
TABLES["tuned"] = Grid(GENTLE_PARTS, tuple((lr | FEW, tuple(FINE_TUNED)) for lr in LEARNING_RATES[:2]))
TABLES["checked_only"] = Grid(ALONE, tuple((lr, LEARNERS[:1]) for lr in LEARNING_RATES))


PAPER = Paper(
    title="This course",
    chapter="22_head_to_head",
    tables=TABLES)
