"""Joint optimization beside independent formulas, Algorithm 1 beside a plain loop, and labels that survive
other runs and kills."""
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Generator
from torch.nn import functional as F

from noisy_course import noise
from noisy_course.lab import protocols
from noisy_course.data import split
from noisy_course.joint_optimization import (METHODS, WINDOW, JointLoss, by_certainty,
                                             classification_loss, entropy_loss, joint_labels, joint_loss,
                                             joint_optimization, label_accuracy, labels_found, prior_loss,
                                             pseudo_labels, recovery, update_hard, update_soft)
from noisy_course.losses import cross_entropy
from noisy_course.lab.protocols import sgd
from noisy_course.training import Method, Recipe, Run, train
from samples import network, np_softmax, sample, toy

fast = settings(max_examples=30, deadline=None)
F64 = torch.float64

def soft(shape, C, seed): return sample(shape, C, 1000 + seed)[0].softmax(-1)


# The loss

@fast
@given(B=st.integers(1, 6), C=st.integers(2, 8), seed=st.integers(0, 99), alpha=st.floats(0, 5),
       beta=st.floats(0, 2))
def test_formulas(B, C, seed, alpha, beta):
    z, y, p = sample((2, B), C, seed)[0], soft((2, B), C, seed), soft((), C, seed)
    s, y_, p_ = np_softmax(z.numpy()), y.numpy(), p.numpy()
    fit, entropy = (y_ * np.log(y_ / s)).sum(-1), -(s * np.log(s)).sum(-1)
    prior = (p_ * np.log(p_ / s.mean(1))).sum(-1)
    np.testing.assert_allclose(classification_loss(z, y, "none"), fit, atol=1e-10)
    np.testing.assert_allclose(entropy_loss(z, "none"), entropy, atol=1e-10)
    np.testing.assert_allclose(prior_loss(z, p), prior, atol=1e-10)
    np.testing.assert_allclose(joint_loss(z, y, p, alpha, beta, "none"),
                               fit + alpha * prior[:, None] + beta * entropy, atol=1e-9)
    assert (joint_loss(z, y, p, alpha, beta).item()
            == pytest.approx(joint_loss(z, y, p, alpha, beta, "sum").item() / (2 * B)))

@fast
@given(C=st.integers(2, 8), seed=st.integers(0, 99))
def test_as_pytorch_has_it(C, seed):
    z, hard = sample((5,), C, seed)
    y = soft((5,), C, seed)
    torch.testing.assert_close(classification_loss(z, y),
                               F.kl_div(z.log_softmax(-1), y, reduction="batchmean"))
    torch.testing.assert_close(classification_loss(z, hard), F.cross_entropy(z, hard))
    torch.testing.assert_close(entropy_loss(z, "none"), torch.distributions.Categorical(logits=z).entropy())
    assert torch.autograd.gradcheck(lambda z: joint_loss(z, y), z.clone().requires_grad_())

@fast
@given(C=st.integers(2, 8), seed=st.integers(0, 99))
def test_no_label_is_better_than_the_prediction(C, seed):
    z, y = sample((4,), C, seed)[0], soft((4,), C, seed)
    best = classification_loss(z, z.softmax(-1), "none")
    assert best.abs().max() < 1e-9 and (classification_loss(z, y, "none") >= best).all()
    hard = torch.stack([classification_loss(z, torch.full((4,), j), "none") for j in range(C)])
    assert torch.equal(hard.argmin(0), update_hard(torch.zeros(4, dtype=torch.long), z.softmax(-1)))

@pytest.mark.parametrize("dtype, size", [(torch.float32, 1e4), (torch.bfloat16, 1e3)])
def test_huge_logits(dtype, size):
    z = (size * sample((6,), 5, 0, 1.)[0].sign()).to(dtype).requires_grad_()
    for y in (torch.tensor([0, 1, 2, 3, 4, 0]), torch.eye(5)[[0, 1, 2, 3, 4, 0]].to(dtype)):
        loss = joint_loss(z, y)
        loss.backward()
        assert loss.isfinite() and z.grad.isfinite().all()

@pytest.mark.parametrize("change, message", [
    (dict(alpha=-1.), "alpha: expected a number of at least 0, got -1"),
    (dict(beta=-.5), "beta: expected a number of at least 0"),
    (dict(prior=torch.ones(3)), r"prior: expected frequencies of shape \(..., 4\)"),
    (dict(prior=torch.ones(4)), "prior: expected frequencies that sum to 1"),
    (dict(prior=torch.tensor([1.5, -.5, 0., 0.])), "prior: expected frequencies that sum to 1"),
    (dict(reduction="max"), "reduction: expected")])
def test_what_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message): joint_loss(*sample((3,), 4, 0), **change)

def test_a_batch_is_needed():
    with pytest.raises(ValueError, match=r"logits: expected a batch of shape \(..., B, C\)"):
        prior_loss(torch.zeros(4))
    with pytest.raises(ValueError, match="logits: expected finite numbers"):
        joint_loss(torch.full((2, 4), torch.nan), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="top: expected a whole number of at least 0"):
        update_hard(torch.tensor([0]), torch.ones(1, 2), -1)

def test_the_module_is_the_function():
    z, y = sample((5,), 4, 0)
    p = soft((), 4, 0)
    torch.testing.assert_close(JointLoss(.3, .2, p)(z, y), joint_loss(z, y, p, .3, .2))
    assert "alpha=0.3" in repr(JointLoss(.3, .2))


# Labels

@fast
@given(N=st.integers(1, 30), C=st.integers(2, 6), top=st.integers(0, 35), seed=st.integers(0, 99))
def test_hard_updates(N, C, top, seed):
    y, p = sample((N,), C, seed)[1], soft((N,), C, seed)
    new, predicted = update_hard(y, p, top), p.argmax(-1)
    changed = new != y
    assert torch.equal(new[changed], predicted[changed])
    assert changed.sum() == min(top or N, (predicted != y).sum())
    left, surprise = (predicted != y) & ~changed, -p.gather(1, y[:, None])[:, 0].log()
    if changed.any() and left.any(): assert surprise[changed].min() >= surprise[left].max()

def test_certainty():
    target = torch.tensor([[1., 0.], [.97, .03], [.08, .92], [.6, .4], [.4, .6]])
    table = by_certainty(target, torch.tensor([0, 1, 1, 0, 0]))
    assert table.number.tolist() == [1, 1, 1, 2] and table.recovery_accuracy.tolist() == [100, 0, 100, 50]

def test_every_label_is_counted_once():
    """Also one that is surer than an edge by a rounding error, and one whose probabilities sum to a little
    more than 1."""
    edges, eps = torch.tensor([.9, .95, .99, 1.]), 2e-7
    sure = torch.cat([edges, edges + eps, edges - eps])
    table = by_certainty(torch.stack([sure, 1 - sure], 1), torch.zeros(12).long())
    assert table.number.tolist() == [4, 3, 3, 2] and table.number.sum() == 12

def test_clusters_are_named_after_their_classes():
    y = torch.arange(120) % 4
    points = 10. * torch.eye(4)[y] + torch.randn(120, 4, generator=Generator().manual_seed(0))
    assert torch.equal(pseudo_labels(points, y, 4), y)
    assert torch.equal(pseudo_labels(points, (y + 1) % 4, 4), (y + 1) % 4)


# In the engine

DATA, T = toy(150), noise.symmetric(4, .6, include_true=True)
LABELS = noise.corrupt(DATA.train_y, T, Generator().manual_seed(1))
RECIPE = Recipe(epochs=14, batch_size=32, optimizer=partial(sgd, lr=.05))

def by_hand(run, recipe, start, alpha, beta, stop=0):
    "Algorithm 1 as anyone would write it: one network, a list of what was predicted."
    net, order = network(run.stream("network")), run.stream("order")
    rows, _ = split(len(run.labels), .1, run.stream("split"))
    optimizer, x = sgd(net.parameters(), lr=.05), DATA.normalise(DATA.train_x)
    target, past = F.one_hot(run.labels, 4).float(), []
    for epoch in range(1, recipe.epochs + 1):
        past.append(torch.zeros(len(x), 4))
        for batch in rows[torch.randperm(len(rows), generator=order)].split(recipe.batch_size):
            s, y = net(x[batch]).softmax(-1), target[batch]
            past[-1][batch] = s.detach()
            loss = (F.kl_div(s.log(), y, reduction="batchmean")
                    + alpha * (.25 * (.25 / s.mean(0)).log()).sum() - beta * (s * s.log()).sum(-1).mean())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch >= start and (not stop or epoch < stop): target[rows] = torch.stack(past[-10:]).mean(0)[rows]
    return target

@pytest.mark.parametrize("start, stop", [(3, 0), (12, 0), (2, 6)])
def test_algorithm_1_as_in_a_plain_loop(start, stop):
    "Labels after 14 epochs, before and after the window of ten is full."
    run = Run(joint_labels(start, stop, alpha=.8, beta=.4), LABELS, seed=3)
    got = train(DATA, [run], network, RECIPE).training_state(0)
    torch.testing.assert_close(got.sample_state["target"], by_hand(run, RECIPE, start, .8, .4, stop),
                               atol=2e-4, rtol=0)
    assert torch.equal(got.sample_state["target"][got.valid_rows],
                       F.one_hot(LABELS, 4).float()[got.valid_rows])
    assert not torch.equal(got.sample_state["target"].argmax(1), LABELS)

@pytest.mark.parametrize("method",
                         [joint_labels(15), joint_optimization(), joint_optimization(start=15, top=0)])
def test_a_training_that_ends_before_labels_are_updated_is_refused(method):
    with pytest.raises(ValueError, match=r"epochs: expected at least (15|70), "
                                         r"when joint_(hard_)?labels first acts .*, got 14"):
        train(DATA, [Run(method, LABELS)], network, RECIPE)

ALL = [joint_labels(3), joint_labels(3, top=0), joint_labels(3, top=5, alpha=.1),
       joint_labels(2, uniform=False), Method("cross_entropy", cross_entropy)]

def labels_of(trained, i): return trained.training_state(i).sample_state["target"]

def test_labels_together_as_alone():
    runs = [Run(m, LABELS, seed=s) for s, m in enumerate(ALL)]
    together = train(DATA, runs, network, RECIPE)
    for i, run in enumerate(runs[:-1]):
        assert torch.equal(labels_of(together, i), labels_of(train(DATA, [run], network, RECIPE), 0))

def test_no_more_than_top_labels_change_an_epoch():
    seen = [LABELS]
    def watch(state):
        seen.append(state.sample_state["target"].argmax(1).clone())
        return dict(changed=float((seen[-1] != seen[-2]).sum()))
    changed = train(DATA, [Run(joint_labels(3, top=5), LABELS)], network,
                    replace(RECIPE, epoch_metrics=watch)).curves.query("metric == 'changed'").value.tolist()
    assert changed[:2] == [0, 0] and max(changed) <= 5 and changed[2] == 5

def test_the_prior_of_given_labels():
    run = Run(joint_labels(1, uniform=False), LABELS)
    trained = train(DATA, [run], network, replace(RECIPE, epochs=1))
    torch.testing.assert_close(trained.training_state(0).run_state["prior"],
                               LABELS.bincount(minlength=4) / 150)

TWO = replace(RECIPE, epochs=4, select="valid_accuracy_clean", final_metrics=labels_found,
              first_stage=replace(RECIPE, epochs=6, epoch_metrics=label_accuracy,
                                  select="valid_accuracy_clean"))

def test_the_second_step_begins_anew_on_the_labels_of_the_first():
    done = []
    trained = train(DATA, [Run(joint_optimization(start=2), LABELS), Run(ALL[-1], LABELS)], network, TWO,
                    progress=lambda n, of: done.append((n, of)))
    first = train(DATA, [Run(joint_labels(2), LABELS)], network, TWO.first_stage)
    assert torch.equal(trained.runs[0].found_labels, labels_of(first, 0)) and trained.first_stage(1) is None
    assert (trained.first_stage(0).curves.query("metric == 'label_accuracy'").value.tolist()
            == first.curves.query("metric == 'label_accuracy'").value.tolist())
    assert done[-1] == (6 + 4 + 4, 14) and len(trained.curves.query("run == 0").epoch.unique()) == 4
    def loss(z, y, reduction, target=None):
        return cross_entropy(z, y if target is None else target, reduction)
    plain = Run(Method("plain", loss, sample_state=lambda run, C: dict(target=run.found_labels)), LABELS,
                found_labels=trained.runs[0].found_labels)
    alone = train(DATA, [plain], network, replace(TWO, first_stage=None))
    for name, value in trained.module(0, "last").state_dict().items():
        torch.testing.assert_close(value, alone.module(0, "last").state_dict()[name])

def test_a_single_stage_run_beside_it_follows_the_main_recipe():
    beside = train(DATA, [Run(joint_optimization(start=2), LABELS), Run(ALL[-1], LABELS)], network, TWO)
    alone = train(DATA, [Run(ALL[-1], LABELS)], network, replace(TWO, first_stage=None))
    for name, value in alone.module(0, "last").state_dict().items():
        assert torch.equal(value, beside.module(1, "last").state_dict()[name])

@pytest.mark.parametrize("stop_after", [2, 4, 6, 8])
def test_labels_survive_a_kill(tmp_path, monkeypatch, stop_after):
    """In step one, at its end, and in step two: the labels and all numbers are those of an
    undisturbed training."""
    from noisy_course import training
    real = training.train_with_checkpoints
    monkeypatch.setattr(training, "train_with_checkpoints", partial(real, patience=0.))
    runs = [Run(joint_optimization(start=2), LABELS)]
    undisturbed = train(DATA, runs, network, TWO)
    class Stop(BaseException): pass
    def killed(done, of):
        if done == stop_after: raise Stop
    with pytest.raises(Stop): train(DATA, runs, network, TWO, folder=tmp_path, progress=killed)
    resumed = train(DATA, runs, network, TWO, folder=tmp_path)
    assert torch.equal(resumed.runs[0].found_labels, undisturbed.runs[0].found_labels)
    for name, value in undisturbed.module(0, "last").state_dict().items():
        assert torch.equal(value, resumed.module(0, "last").state_dict()[name])
    ours, theirs = (t.first_stage(0).curves.query("not metric.str.contains('seconds')").value.tolist()
                    for t in (resumed, undisturbed))
    assert ours == theirs

def test_selecting_by_clean_labels():
    trained = train(DATA, [Run(ALL[-1], LABELS)], network, replace(RECIPE, select="valid_accuracy_clean"))
    trainer, r = trained.trainers[0]
    rows, wide = trainer.valid_rows[r], trained.curves.pivot(index="epoch", columns="metric", values="value")
    right = (trainer.probabilities(r).argmax(1) == DATA.train_y)[rows].double().mean().item()
    assert 100 * right == pytest.approx(wide.valid_accuracy_clean.max(), abs=1e-3)
    unwatched = train(DATA, [Run(ALL[-1], LABELS)], network, replace(RECIPE, epochs=1))
    assert "valid_accuracy_clean" not in set(unwatched.curves.metric)

def test_recovery_counts_the_training_part():
    trained = train(DATA, [Run(ALL[-1], LABELS)], network, RECIPE)
    state = trained.training_state(0)
    predicted = state.probabilities("last").argmax(1)
    assert recovery(state)["recovery_last"] == pytest.approx(
        100 * (predicted == DATA.train_y)[state.train_rows].double().mean().item())
    assert labels_found(state) == recovery(state)

def test_numbers_reach_the_methods():
    hyperparameters = dict(alpha=.3, beta=.2, label_start=5, label_stop=9, top=7)
    soft_, hard = (protocols.method(name, hyperparameters)
                   for name in ("joint_optimization", "joint_hard_optimization"))
    assert soft_.first_stage.hyperparameters == dict(start=5, stop=9, alpha=.3, beta=.2,
                                                     top=None, uniform=True)
    assert hard.first_stage.hyperparameters["top"] == 7
    assert protocols.method("joint_labels", hyperparameters).hyperparameters["start"] == 5
    run = Run(METHODS["joint_labels"], torch.tensor([0, 0, 1]))
    prior = (lambda name: protocols.method("joint_labels", dict(prior=name))
             .hook("run_state")(run, 2)["prior"].tolist())
    assert prior("") == [.5, .5] and prior("labels") == pytest.approx([2 / 3, 1 / 3])
    assert set(METHODS) == {"joint_optimization", "joint_hard_optimization", "joint_labels"} and WINDOW == 10

def test_the_mean_of_past_predictions():
    past = soft((3, 5), 4, 0)
    torch.testing.assert_close(update_soft(past), (past[0] + past[1] + past[2]) / 3)

def test_checkpoints_of_other_numbers_or_labels_are_refused(tmp_path):
    "The same name, seed and given labels are not enough."
    train(DATA, [Run(joint_labels(3), LABELS)], network, RECIPE, folder=tmp_path / "one")
    with pytest.raises(ValueError, match="folder: expected a place for checkpoints of these runs"):
        train(DATA, [Run(joint_labels(3, alpha=.1), LABELS)], network, RECIPE, folder=tmp_path / "one")
    runs = [Run(joint_optimization(start=2), LABELS)]
    train(DATA, runs, network, TWO, folder=tmp_path / "two")
    with pytest.raises(ValueError, match="folder: expected a place for checkpoints of these runs"):
        train(DATA, runs, network, replace(TWO, first_stage=replace(TWO.first_stage, epochs=8)),
              folder=tmp_path / "two")
