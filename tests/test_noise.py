"Label noise: properties on random input, the papers' maps, bad input, shared files."
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Generator

from noisy_course import noise
from noisy_course.noise import (COARSE, FLIPS, SUPERCLASSES, asymmetric, check_labels, check_rate,
                                check_transition, corrupt, human, load_noise, open_set, pair_flips,
                                random_pairs, random_simplex, realised, save_noise, sparse,
                                standard_error, symmetric)

rates = st.floats(0, 1)
seeds = st.integers(0, 2**31)
fast = settings(max_examples=30, deadline=None)


def seeded(seed=0): return Generator().manual_seed(seed)


@st.composite
def transitions(draw, low=1, high=8):
    "A random row-stochastic matrix, with zeros now and then."
    C = draw(st.integers(low, high))
    w = torch.rand(C, C, generator=seeded(draw(seeds)), dtype=torch.float64)
    w[w < draw(st.sampled_from([0., .5]))] = 0
    w += torch.eye(C, dtype=torch.float64) * (w.sum(1) == 0)
    return w / w.sum(1, keepdim=True)


# --- matrices ---

@fast
@given(st.integers(2, 12), rates, seeds)
def test_every_matrix_is_stochastic_float64_and_leaves_at_its_rate(C, rate, seed):
    targets = 1 + seed % (C - 1)
    for T in (symmetric(C, rate), random_simplex(C, rate, seeded(seed)),
              sparse(C, rate, targets, seeded(seed)),
              pair_flips(C, [(i, (i + 1) % C) for i in range(C)], rate)):
        check_transition(T, C)
        assert T.dtype == torch.float64
        torch.testing.assert_close(1 - T.diagonal(), torch.full((C,), rate, dtype=torch.float64),
                                   atol=1e-12, rtol=0)


@fast
@given(st.integers(1, 100), rates)
def test_include_true_is_a_fresh_draw_over_all_classes(C, rate):
    T = symmetric(C, rate, include_true=True)
    want = (1 - rate) * torch.eye(C, dtype=torch.float64) + rate / C
    torch.testing.assert_close(T, want, atol=1e-12, rtol=0)


def test_two_classes_and_one():
    assert torch.equal(symmetric(2, .25), torch.tensor([[.75, .25], [.25, .75]], dtype=torch.float64))
    assert torch.equal(random_simplex(2, .25, seeded()), symmetric(2, .25))
    assert torch.equal(sparse(2, .25, 1, seeded()), symmetric(2, .25))
    for T in (symmetric(1, 0), symmetric(1, .5, include_true=True), random_simplex(1, 0, seeded())):
        assert torch.equal(T, torch.ones(1, 1, dtype=torch.float64))
    assert corrupt(torch.zeros(5, dtype=torch.long), symmetric(1, 0), seeded()).tolist() == [0] * 5
    with pytest.raises(ValueError, match="rate: expected 0"): symmetric(1, .1)
    with pytest.raises(ValueError, match="rate: expected 0"): random_simplex(1, .1, seeded())


@fast
@given(st.integers(3, 12), seeds)
def test_sparse_has_so_many_targets_of_equal_weight(C, seed):
    n = 1 + seed % (C - 1)
    T = sparse(C, .6, n, seeded(seed))
    wrong = T - torch.diag(T.diagonal())
    assert ((wrong > 0).sum(1) == n).all()
    torch.testing.assert_close(wrong.max(1).values, torch.full((C,), .6 / n, dtype=torch.float64))


def test_random_matrices_differ_from_seed_to_seed_only():
    for make in (lambda g: random_simplex(6, .5, g), lambda g: sparse(6, .5, 2, g),
                 lambda g: asymmetric("cifar100", .5, "random_pairs", g)):
        assert torch.equal(make(seeded(1)), make(seeded(1)))
        assert not torch.equal(make(seeded(1)), make(seeded(2)))


# --- the papers' maps ---

CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
FASHION = "tshirt trouser pullover dress coat sandal shirt sneaker bag boot".split()

@pytest.mark.parametrize("dataset, names, sentence", [
    ("mnist", list("0123456789"), "7>1 2>7 3>8 5>6 6>5"),
    ("cifar10", CIFAR10, "truck>automobile bird>airplane deer>horse cat>dog dog>cat"),
    ("fashion_mnist", FASHION, "boot>sneaker sneaker>sandal pullover>shirt coat>dress dress>coat")])
def test_the_maps_are_the_papers_sentences(dataset, names, sentence):
    T, want = asymmetric(dataset, .3), torch.eye(10, dtype=torch.float64)
    for flip in sentence.split():
        i, j = map(names.index, flip.split(">"))
        want[i, i], want[i, j] = .7, .3
    torch.testing.assert_close(T, want)


def test_equation_5_of_patrini():
    T = asymmetric("mnist", .7)
    assert T[1, 1] == 1 and T[7, 1] == .7 and asymmetric("mnist", .7, "sentence")[1, 7] == .7


def test_cifar100_stays_in_the_superclass():
    same = torch.tensor(COARSE)[:, None] == torch.tensor(COARSE)
    assert same.sum() == 500 and sorted(sum(SUPERCLASSES, [])) == list(range(100))
    leaves = lambda kind: asymmetric("cifar100", 1., kind, seeded())[~same].sum().item()
    assert leaves("superclass") == leaves("random_pairs") == 0
    assert leaves("blocks") == 94
    assert (asymmetric("cifar100", 1.).sum(0) == 1).all(), "a circle hits each class once"


@fast
@given(seeds)
def test_random_pairs_are_one_swap_a_superclass(seed):
    pairs = random_pairs(seeded(seed))
    assert sorted(pairs) == sorted((j, i) for i, j in pairs)
    assert sorted(COARSE[i] for i, _ in pairs) == sorted(2 * list(range(20)))
    assert all(i != j and COARSE[i] == COARSE[j] for i, j in pairs)


def test_imdb():
    assert torch.equal(asymmetric("imdb", .4), torch.tensor([[.95, .05], [.4, .6]], dtype=torch.float64))
    assert torch.equal(asymmetric("imdb", 0), torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("dataset", [*FLIPS, "imdb"])
def test_rate_0_is_no_noise(dataset):
    T = asymmetric(dataset, 0)
    assert torch.equal(T, torch.eye(len(T), dtype=torch.float64))


# --- draws ---

@fast
@given(transitions(), seeds)
def test_realised_is_near_T_and_exact_where_T_is_0_or_1(T, seed):
    clean = torch.arange(len(T)).repeat(3000)
    got = realised(clean, corrupt(clean, T, seeded(seed)), len(T))
    check_transition(got)
    assert ((got - T).abs() <= 6 * standard_error(T, clean) + 1e-9).all()
    assert (got[T == 0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [(0,), (7,), (3, 4), ()])
def test_shape_and_dtype_stay(dtype, shape):
    labels = torch.ones(shape, dtype=dtype)
    noisy = corrupt(labels, symmetric(3, .5), seeded())
    assert noisy.shape == labels.shape and noisy.dtype == dtype
    assert (labels == 1).all(), "the clean labels are not touched"


@fast
@given(transitions(2), seeds)
def test_relabelling_the_classes_relabels_the_realised_matrix(T, seed):
    C = len(T)
    clean = torch.randint(C, (200,), generator=seeded(seed))
    noisy = corrupt(clean, T, seeded(seed))
    new = torch.randperm(C, generator=seeded(seed + 1))
    a, b = realised(clean, noisy, C), realised(new[clean], new[noisy], C)
    assert torch.equal(b[new][:, new], a)


@fast
@given(transitions(2), seeds)
def test_the_draw_of_a_sample_does_not_depend_on_the_others(T, seed):
    clean = torch.randint(len(T), (50,), generator=seeded(seed))
    other = clean.clone()
    other[25:] = 0
    assert torch.equal(corrupt(clean, T, seeded(seed))[:25], corrupt(other, T, seeded(seed))[:25])


def test_a_certain_flip_always_happens_and_an_excluded_one_never():
    T = torch.tensor([[0., 1, 0], [0, 0, 1], [1, 0, 0]])
    clean = torch.arange(3).repeat(10_000)
    assert torch.equal(corrupt(clean, T, seeded()), (clean + 1) % 3)


def test_a_float32_T_whose_rows_miss_1_by_rounding_never_reaches_a_class_without_mass():
    T = torch.tensor([[.1] * 9 + [.1 - 2e-6, 0]] * 11)
    noisy = corrupt(torch.zeros(200_000, dtype=torch.long), T, seeded())
    assert noisy.max() < 10


def test_draws_are_independent_of_position():
    noisy = corrupt(torch.zeros(100_000, dtype=torch.long), symmetric(2, .5), seeded()).double() - .5
    assert abs((noisy[1:] * noisy[:-1]).mean()) < .25 * 5 / 100_000 ** .5


def test_same_seed_same_noise_and_the_global_generator_is_left_alone():
    clean, T = torch.arange(10).repeat(50), symmetric(10, .5)
    before = torch.get_rng_state()
    one, two, three = (corrupt(clean, T, seeded(s)) for s in (1, 1, 2))
    random_simplex(5, .5, seeded()), sparse(5, .5, 2, seeded()), random_pairs(seeded())
    open_set(torch.zeros(9, 2), torch.ones(9, 2), .5, seeded())
    human(torch.zeros(9, 3, dtype=torch.long), "aggregate", seeded())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, two) and not torch.equal(one, three)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cpu_seed_gives_the_same_noise_on_a_gpu():
    clean, T = torch.arange(10).repeat(50), symmetric(10, .5)
    noisy = corrupt(clean.cuda(), T, seeded())
    assert noisy.is_cuda and torch.equal(noisy.cpu(), corrupt(clean, T, seeded()))
    assert torch.equal(realised(clean.cuda(), noisy, 10).cpu(), realised(clean, noisy.cpu(), 10))
    on_gpu = corrupt(clean, T, Generator("cuda").manual_seed(0))
    assert torch.equal(on_gpu, corrupt(clean.cuda(), T.cuda(), Generator("cuda").manual_seed(0)).cpu())
    assert (standard_error(T.cuda(), clean.cuda()).cpu() == standard_error(T, clean)).all()


def test_counts_and_the_row_of_an_empty_class():
    clean, noisy = torch.tensor([0, 0, 0, 0, 2]), torch.tensor([0, 1, 1, 2, 2])
    want = torch.tensor([[.25, .5, .25], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    assert torch.equal(realised(clean, noisy, 3), want)
    empty = torch.empty(0, dtype=torch.long)
    assert torch.equal(realised(empty, empty, 3), torch.eye(3, dtype=torch.float64))


def test_standard_error():
    T = torch.tensor([[.6, .4], [0., 1.]], dtype=torch.float64)
    error = standard_error(T, torch.zeros(96, dtype=torch.long))
    torch.testing.assert_close(error, torch.tensor([[.05, .05], [0, 0]], dtype=torch.float64))
    assert standard_error(T, torch.ones(9, dtype=torch.long))[0].isinf().all()


# --- open set, people ---

def test_open_set_uses_each_outside_image_once_at_most():
    images = torch.zeros(1000, 1, dtype=torch.uint8)
    outside = torch.arange(1, 256, dtype=torch.uint8)[:, None]
    mixed, replaced = open_set(images, outside, .2, seeded())
    used = mixed[replaced, 0]
    assert (mixed[~replaced] == 0).all() and (used > 0).all() and len(used.unique()) == len(used)
    assert (images == 0).all() and abs(len(used) - 200) < 6 * (1000 * .2 * .8) ** .5


def test_open_set_refuses():
    x = torch.zeros(100, 3)
    with pytest.raises(ValueError, match="outside: expected at least"): open_set(x, x[:5], .5, seeded())
    with pytest.raises(ValueError, match="outside: expected"): open_set(x, torch.zeros(100, 4), .5, seeded())
    with pytest.raises(ValueError, match="outside: expected"): open_set(x, x.double(), .5, seeded())
    with pytest.raises(ValueError, match="rate"): open_set(x, x, 1.5, seeded())


def test_people():
    votes, clean = torch.tensor([[1, 1, 2], [0, 3, 3], [4, 4, 4]]), torch.tensor([1, 0, 4])
    assert human(votes, "aggregate", seeded()).tolist() == [1, 3, 4]
    assert human(votes, "worst", seeded(), clean).tolist() == [2, 3, 4]
    tie = human(torch.tensor([[0, 1, 2]]).repeat(3000, 1), "aggregate", seeded()).bincount(minlength=3)
    assert ((tie - 1000).abs() < 6 * (3000 * 2 / 9) ** .5).all()
    with pytest.raises(ValueError, match="kind"): human(votes, "best", seeded())
    with pytest.raises(ValueError, match="clean"): human(votes, "worst", seeded())


# --- bad input ---

@pytest.mark.parametrize("rate", [-.1, 1.1, float("nan"), float("inf"), "0.2", None, 1j])
def test_rate(rate):
    for f in (check_rate, lambda r: symmetric(3, r), lambda r: pair_flips(3, {0: 1}, r),
              lambda r: asymmetric("mnist", r), lambda r: asymmetric("imdb", r),
              lambda r: random_simplex(3, r, seeded()), lambda r: sparse(3, r, 1, seeded())):
        with pytest.raises(ValueError, match=r"rate: expected a number in \[0, 1\], got"): f(rate)


@pytest.mark.parametrize("T, message", [
    ([[1.]], r"a tensor of floats, \(..., C, C\), got a list"),
    (torch.eye(2).long(), r"a tensor of floats, \(..., C, C\), got int64 of shape \(2, 2\)"),
    (torch.ones(2), r"a square matrix, got shape \(2,\)"),
    (torch.ones(2, 3) / 3, "a square matrix"),
    (torch.empty(0, 0), "a square matrix"),
    (torch.eye(3), "2 classes, got 3"),
    (torch.tensor([[float("nan"), 1], [0, 1]]), "finite entries"),
    (torch.tensor([[1.5, -.5], [0, 1]]), "no entry below 0"),
    (torch.tensor([[.6, .3], [0, 1]]), "rows that sum to 1, got a row that is off by 0.1")])
def test_transition(T, message):
    with pytest.raises(ValueError, match="T: expected " + message): check_transition(T, 2)


def test_a_stack_of_matrices_is_checked_as_one():
    check_transition(torch.stack([symmetric(3, .1), symmetric(3, .2)]), 3)
    with pytest.raises(ValueError, match="noise_T: expected rows"):
        check_transition(torch.stack([torch.eye(2), torch.ones(2, 2)]), argument="noise_T")
    with pytest.raises(ValueError, match="T: expected one matrix"):
        corrupt(torch.tensor([0]), torch.eye(2).expand(3, 2, 2), seeded())


@pytest.mark.parametrize("labels, message", [
    (torch.tensor([0., 1]), "a tensor of integers, got float32"),
    (torch.tensor([True]), "a tensor of integers, got bool"),
    ([0, 1], "a tensor of integers, got a list; torch.tensor"),
    (torch.tensor([0, 3]), "integers in 0..2, got 0..3"),
    (torch.tensor([-1, 2]), "integers in 0..2, got -1..2")])
def test_labels(labels, message):
    with pytest.raises(ValueError, match="labels: expected " + message): check_labels(labels, 3)
    with pytest.raises(ValueError, match="labels: expected " + message):
        corrupt(labels, torch.eye(3), seeded())
    with pytest.raises(ValueError, match="clean: expected " + message):
        realised(labels, torch.tensor([0, 0]), 3)


def test_other_arguments():
    with pytest.raises(ValueError, match="noisy: expected shape"):
        realised(torch.tensor([0]), torch.tensor([0, 0]), 3)
    with pytest.raises(ValueError, match="generator: expected a torch.Generator, got the int 3"):
        corrupt(torch.tensor([0]), torch.eye(3), 3)
    with pytest.raises(ValueError, match="generator"): asymmetric("cifar100", .2, "random_pairs")
    with pytest.raises(ValueError, match="n_classes"): symmetric(0, 0)
    with pytest.raises(ValueError, match="n_classes"): symmetric(2.5, .1)
    with pytest.raises(ValueError, match="dataset: expected one of .*'imdb'.*, got 'mnits'"):
        asymmetric("mnits", .2)
    with pytest.raises(ValueError, match="kind: expected one of .*'blocks'.*, got 'block'"):
        asymmetric("cifar100", .2, "block")
    for flips in ({0: 0}, {0: 3}, {-1: 0}, [(0, 1), (0, 2)]):
        with pytest.raises(ValueError, match="flips"): pair_flips(3, flips, .2)
    for n in (0, 3, 1.5):
        with pytest.raises(ValueError, match="n_targets"): sparse(3, .2, n, seeded())


# --- files ---

@pytest.fixture
def shared(tmp_path):
    clean, T = torch.arange(4).repeat(25), symmetric(4, .4)
    noisy = corrupt(clean, T, seeded(5))
    save_noise(tmp_path/"noise.json", clean, noisy, T, 5)
    return tmp_path/"noise.json", clean, noisy, T


def test_a_noise_file_returns_what_was_saved(shared):
    path, clean, noisy, T = shared
    labels, matrix, seed = load_noise(path, clean)
    assert torch.equal(labels, noisy) and torch.equal(matrix, T) and seed == 5
    assert [p.name for p in path.parent.iterdir()] == ["noise.json"]


def test_a_noise_file_that_is_cut_or_altered_is_refused(shared):
    path, clean, *_ = shared
    text = path.read_text()
    record = json.loads(text)
    altered = json.dumps(record | dict(labels=record["labels"][::-1])), json.dumps(record | dict(T=[[1.]]))
    for broken in (text[:-20], "", "[]", "{}", *altered):
        path.write_text(broken)
        with pytest.raises(ValueError, match="a whole noise file, got one that is cut or altered"):
            load_noise(path, clean)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="a whole noise file"): load_noise(path, clean)
    with pytest.raises(FileNotFoundError): load_noise(path.parent/"none.json", clean)


def test_a_noise_file_belongs_to_its_clean_labels(shared):
    path, clean, noisy, T = shared
    with pytest.raises(ValueError, match="clean: expected the labels this noise was drawn for"):
        load_noise(path, clean.flip(0))
    with pytest.raises(ValueError, match="noisy: expected shape"): save_noise(path, clean, noisy[1:], T, 5)


def test_everything_public_is_documented():
    public = [f for f in vars(noise).values()
              if callable(f) and getattr(f, "__module__", "") == noise.__name__ and f.__name__[0] != "_"]
    assert len(public) > 10 and all(f.__doc__ for f in public)
