"""Methods that the package does not know, from its hooks: beside others and alone, killed and resumed."""
import inspect
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from noisy_course import training
from noisy_course.losses import cross_entropy
from noisy_course.loss_correction import METHODS
from noisy_course.method import HOOKS, Method, fine_tuned_after, stages
from noisy_course.trainer import Trainer
from test_training import C, DATA, RECIPE, StopAfterNewWork, assert_same, fit, network, outcome, run
from test_training import save_each_epoch  # noqa: F401


# --- co-teaching (Han et al. 2018): two networks, each trained on what the other finds easy ---

class Pair(nn.Module):
    "Two networks of one kind: both while training, their mean belief in use."
    def __init__(self, build, generator):
        super().__init__()
        self.both = nn.ModuleList([build(generator), build(generator)])

    def forward(self, x):
        logits = torch.stack([one(x) for one in self.both], -2)
        return logits if self.training else logits.softmax(-1).mean(-2).log()

def pair(build): return partial(Pair, build)

def easy_for_the_other(logits, labels, reduction, keep=None):
    if keep is None: return cross_entropy(logits, labels, reduction)
    losses = cross_entropy(logits, labels[..., None].expand(logits.shape[:-1]), "none")
    rank = losses.detach().argsort(dim=-2, stable=True).argsort(dim=-2)
    easy = rank < (keep * labels.shape[-1]).round()[..., None, None]
    return (losses * easy.flip(-1)).sum(-1) / keep[..., None]

def keep_fewer(state, rate, ramp): return dict(keep=torch.tensor(1 - rate * min(state.epoch / ramp, 1)))

def everything(run, C): return dict(keep=torch.tensor(1.))

CO_TEACHING = Method("co_teaching", easy_for_the_other, network=pair, run_state=everything,
                     on_epoch_end=keep_fewer,
                     hyperparameters=dict(rate=.3, ramp=2))


# --- early-learning regularisation (Liu et al. 2020): away from what the early network did not believe ---

def moved_on(target, p, beta): return beta * target + (1 - beta) * p.detach()

def elr(logits, labels, reduction, strength, beta, target=None):
    fit = cross_entropy(logits, labels, reduction)
    if target is None: return fit
    p = logits.softmax(-1).clamp(1e-4, 1 - 1e-4)
    return fit + strength * (1 - (moved_on(target, p, beta) * p).sum(-1)).log()

def remember(logits, labels, state, beta):
    return dict(target=moved_on(state["target"], logits.softmax(-1).clamp(1e-4, 1 - 1e-4), beta))

def nothing_yet(run, C): return dict(target=torch.zeros(len(run.labels), C))

ELR = Method("elr", elr, sample_state=nothing_yet, on_batch_end=remember,
             hyperparameters=dict(strength=3., beta=.7))


# --- mixup (Zhang et al. 2018): mixtures of two samples and of their labels ---

def mixtures(x, y, generator, strength):
    share = 1 - strength * torch.rand((), generator=generator)
    other, soft = torch.randperm(len(x), generator=generator), F.one_hot(y, C).float()
    return share * x + (1 - share) * x[other], share * soft + (1 - share) * soft[other]

MIXUP = Method("mixup", cross_entropy, batch=mixtures, hyperparameters=dict(strength=1.))


# --- and a penalty ---

def half_the_squares(parameters, decay): return decay / 2 * sum(p.square().sum() for p in parameters.values())

SHRUNK = Method("shrunk", cross_entropy, penalty=half_the_squares, hyperparameters=dict(decay=.01))
THREE = [CO_TEACHING, ELR, MIXUP]
OWN = [*THREE, SHRUNK]
BESIDE = [*OWN, METHODS["cross_entropy"], METHODS["forward_estimated"], METHODS["unhinged"]]

def runs_of(methods): return [run(method, seed) for method in methods for seed in (0, 1)]

@pytest.mark.parametrize("parts", [
    (Pair, pair, easy_for_the_other, keep_fewer, everything), (moved_on, elr, remember,
                                                               nothing_yet), (mixtures,)],
    ids=["co-teaching", "elr", "mixup"])
def test_each_is_short(parts):
    assert sum(len(inspect.getsource(part).splitlines()) + 1 for part in parts) + 2 < 40


# --- beside others and alone ---

@pytest.fixture(scope="module")
def beside(): return fit(runs_of(BESIDE))

@pytest.mark.parametrize("i", range(2 * len(OWN)))
def test_beside_others_as_alone(beside, i): assert_same(beside, i, fit([runs_of(BESIDE)[i]]), 0)

def test_others_are_not_disturbed(beside):
    usual = fit(runs_of(BESIDE[len(OWN):]))
    for i in range(len(usual.runs)): assert_same(beside, 2 * len(OWN) + i, usual, i)

@pytest.mark.parametrize("at_once", [1, 3])
def test_any_order_and_number_at_once(beside, at_once):
    some = [6, 0, 9, 3, 4, 1, 7] if at_once > 1 else [2, 5, 7]
    other = fit([runs_of(BESIDE)[i] for i in some], replace(RECIPE, runs_at_once=at_once))
    if at_once > 1:
        for j, i in enumerate(some): assert_same(other, j, beside, i)
    for j, i in enumerate(some):
        assert_same(other, j, fit([runs_of(BESIDE)[i]], replace(RECIPE, runs_at_once=at_once)), 0)

def test_each_does_something(beside):
    curves = {method.name: outcome(beside, 2 * i)[0][:3].tolist() for i, method in enumerate(BESIDE)}
    assert len(set(map(tuple, curves.values()))) == len(BESIDE)
    assert [len(beside.module(2 * i)) for i in range(len(OWN))] == [1] * len(OWN)

def test_a_network_of_its_own_predicts_alone(beside):
    with torch.no_grad(): right = beside.module(0, "last")(DATA.test_x / 255).argmax(-1) == DATA.test_y
    accuracy = beside.curves.query("run == 0 and metric == 'test_accuracy' and epoch == 3").value.item()
    assert accuracy == pytest.approx(100 * right.double().mean().item())


# --- beside independent routes ---

def plain(g): return network(g, dropout=0.)

def weights(trained, i): return trained.module(i, "last")[0].state_dict()

def test_co_teaching_that_keeps_everything_is_two_trainings():
    both = fit([run(CO_TEACHING.with_hyperparameters(rate=0.))], build=plain)
    single = fit([run("cross_entropy")], build=plain)
    for name, value in weights(single, 0).items():
        torch.testing.assert_close(weights(both, 0)[f"both.0.{name}"], value, rtol=1e-4, atol=1e-5)
    assert not torch.equal(weights(both, 0)["both.0.1.weight"], weights(both, 0)["both.1.1.weight"])

def test_the_state_of_an_epoch_is_what_the_batches_predicted():
    "One batch an epoch: ELR's target is a share of the first network's beliefs; a held-out row has none."
    recipe, one = replace(RECIPE, epochs=1, batch_size=200), run(ELR)
    state = fit([one], recipe, plain).training_state(0)
    p = plain(one.stream("network"))(DATA.train_x / 255).softmax(-1).clamp(1e-4, 1 - 1e-4)
    torch.testing.assert_close(state.sample_state["target"][state.train_rows], .3 * p[state.train_rows])
    assert (state.sample_state["target"][state.valid_rows] == 0).all()

def test_elr_without_strength_is_cross_entropy():
    a, b = fit([run(ELR.with_hyperparameters(strength=0.))], build=plain), fit([run("cross_entropy")],
                                                                               build=plain)
    for name, value in weights(a, 0).items():
        torch.testing.assert_close(value, weights(b, 0)[name], rtol=1e-4, atol=1e-5)

def test_mixtures_of_one_are_the_samples():
    a, b = fit([run(MIXUP.with_hyperparameters(strength=0.))], build=plain), fit([run("cross_entropy")],
                                                                                 build=plain)
    for name, value in weights(a, 0).items():
        torch.testing.assert_close(value, weights(b, 0)[name], rtol=1e-4, atol=1e-5)

def test_a_penalty_of_squares_is_weight_decay():
    still = partial(torch.optim.SGD, lr=.1)
    a = fit([run(SHRUNK)], replace(RECIPE, optimizer=still), plain)
    b = fit([run("cross_entropy")], replace(RECIPE, optimizer=partial(still, weight_decay=.01)), plain)
    for name, value in weights(a, 0).items():
        torch.testing.assert_close(value, weights(b, 0)[name], rtol=1e-4, atol=1e-5)

def test_a_penalty_sees_the_layer():
    seen, layered = [], METHODS["unhinged"]
    look = lambda parameters: seen.append(sorted(parameters)) or 0 * parameters["layer.weight"].sum()
    fit([run(replace(layered, penalty=look))], replace(RECIPE, epochs=1))
    assert seen[0][-2:] == ["layer.bias", "layer.weight"] and {"1.weight", "1.bias"} <= set(seen[0])

@pytest.mark.parametrize("method", OWN, ids=lambda method: method.name)
def test_with_augmentation_and_bf16(method):
    recipe = replace(RECIPE, epochs=1, precision="bf16", augment=lambda x, g: x)
    assert_same(fit([run(method), run("savage")], recipe), 0, fit([run(method)], recipe), 0)


# --- killed and resumed ---

@pytest.mark.parametrize("method", OWN, ids=lambda method: method.name)
def test_resume_after_each_epoch(tmp_path, save_each_epoch, method):
    stop, stops, runs = StopAfterNewWork(), 0, [run(method), run("cross_entropy", 1)]
    while stops < 20:
        try: trained = fit(runs, folder=tmp_path, progress=stop)
        except KeyboardInterrupt: stops += 1
        else: break
    assert stops >= RECIPE.epochs
    undisturbed = fit(runs)
    for i in range(2): assert_same(trained, i, undisturbed, i)

def die(folder):
    "In a process of its own: train, and be killed after the fourth run-epoch."
    training.train_with_checkpoints = partial(training.train_with_checkpoints, patience=0.)
    fit(runs_of(THREE), folder=folder, progress=lambda done,
        total: done >= 6 and os.kill(os.getpid(), signal.SIGKILL))

def test_kill_9(tmp_path, beside):
    command = [sys.executable, "-c", "import sys, test_hooks; test_hooks.die(sys.argv[1])", str(tmp_path)]
    ended = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert torch.load(tmp_path / "first" / "0.pt", weights_only=True)["epoch"] >= 1
    trained = fit(runs_of(THREE), folder=tmp_path)
    for i in range(len(trained.runs)): assert_same(trained, i, beside, i)

def test_a_checkpoint_knows_hyperparameters(tmp_path):
    fit([run(ELR)], folder=tmp_path)
    with pytest.raises(ValueError, match="^folder: expected a place for checkpoints of these runs"):
        fit([run(ELR.with_hyperparameters(beta=.8))], folder=tmp_path)


# --- what is refused ---

@pytest.mark.parametrize("hook", ["on_batch_end", "on_epoch_end"])
@pytest.mark.parametrize("new", [dict(tarket=torch.zeros(1)), None, 3])
def test_news_of_an_unknown_state_are_refused(hook, new):
    with pytest.raises(ValueError, match=f"^{hook}: expected a dict with names among target"):
        fit([run(replace(ELR, hyperparameters=dict(strength=1., beta=.5), **{hook: lambda *args: new}))])

@pytest.mark.parametrize("change", [lambda x, y, g: (x[:2], y), lambda x, y, g: (x.flatten(1), y)],
                         ids=["fewer", "flat"])
def test_a_batch_of_another_shape_is_refused(change):
    with pytest.raises(ValueError, match="^batch: expected inputs of shape"):
        fit([run(replace(MIXUP, batch=change, hyperparameters={}))])

def test_another_network_does_not_go_on():
    with pytest.raises(ValueError, match="^method: expected one with the network of co_teaching"):
        fine_tuned_after(CO_TEACHING, ELR)

def test_methods_of_two_networks_need_two_trainers():
    with pytest.raises(ValueError, match="^runs: expected runs with one network"):
        Trainer(DATA, [run(CO_TEACHING), run(ELR)], pair(network), RECIPE)


# --- hyper-parameters ---

def test_hyperparameters_reach_every_hook_that_takes_them():
    assert ELR.hook("loss").keywords == dict(strength=3.,
                                             beta=.7) and ELR.hook("on_batch_end").keywords == dict(beta=.7)
    assert ELR.hook("sample_state") is nothing_yet and ELR.hook("penalty") is None

def test_hyperparameters_reach_every_stage():
    handed = fine_tuned_after(ELR, SHRUNK).with_hyperparameters(beta=.1, decay=.2)
    assert [dict(m.hyperparameters) for m in stages(handed)] == [dict(decay=.2), dict(strength=3., beta=.1)]

@pytest.mark.parametrize("values, named", [(dict(gamma=1), "names that a hook of elr takes"),
                                           (dict(beta=torch.ones(2)), "a number, text"),
                                           ([1], "a mapping"), (None, "a mapping")])
def test_bad_hyperparameters(values, named):
    with pytest.raises(ValueError, match=f"^hyperparameters: expected {named}"):
        replace(ELR, hyperparameters=values)

def test_a_bound_hyperparameter_is_refused():
    with pytest.raises(ValueError,
                       match="^hyperparameters: expected names that no partial has bound, got 'beta'"):
        replace(ELR, on_batch_end=partial(remember, beta=.5))

def test_an_unknown_hyperparameter_is_refused():
    with pytest.raises(ValueError, match="^q: expected a hyper-parameter of elr"):
        ELR.with_hyperparameters(q=1)

def test_who_is_given_T():
    assert [m.name for m in METHODS.values() if m.uses_true_T] == ["backward", "forward"]
    assert fine_tuned_after(METHODS["forward"], ELR).uses_true_T
    assert not fine_tuned_after(METHODS["forward_estimated"], ELR).uses_true_T

def test_the_table_of_hooks_names_them_all():
    "The lesson's table has a row for each hook with a moment of its own; the others are for several stages."
    text = (Path(__file__).parents[1] / "nbs" / "engine" / "07_method.ipynb").read_text(encoding="utf-8")
    stage = {"estimate", "relabel", "samples"}
    assert [hook for hook in HOOKS if hook not in stage and f"| `{hook}` |" not in text] == []
