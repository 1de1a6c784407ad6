"""The published tables against numbers taken from the paper's text by another way than the one that made
the CSV files."""
import numpy as np
import pandas as pd
import pytest

from noisy_course.plots import LABELS, STYLES
from noisy_course.basics import SETTING
from noisy_course.lab.cells import KNOWS_T, highlights, published, side_by_side
from noisy_course.lab.comparison import findings, published_tables
from noisy_course.lab.results import CELL, read_results

# Column sums of the paper's Table 2, added up by field position with awk: (data set, model) -> sums of means
# and of stds over the ten methods.
MEANS = {("mnist", "mlp"): [977.4, 964.9, 971.8, 677.5],
         ("cifar10", "resnet14"): [856.3, 810.6, 826.8, 634.5],
         ("imdb", "embedding"): [861.6, 836.0, 846.0, 691.9],
         ("cifar10", "resnet32"): [894.1, 847.7, 869.5, 642.9],
         ("imdb", "lstm"): [870.9, 821.6, 866.8, 746.8],
         ("cifar100", "resnet44"): [589.4, 499.5, 546.5, 222.5]}
STDS = {("mnist", "mlp"): [.1, .5, 1.5, 11.8], ("imdb", "embedding"): [.0, 2.9, 2.3, 7.8],
        ("imdb", "lstm"): [9.3, 38.9, 7.8, 45.8]}
RATES = {"imdb": [0, .1, .1, .4]}
CELLS = [ # read by eye
    ("mnist", "mlp", "cross_entropy", "asymmetric", .6, 53.0, .6),
    ("mnist", "mlp", "forward_estimated", "asymmetric", .6, 64.9, 4.4),
    ("mnist", "mlp", "backward", "asymmetric", .2, 96.6, 1.1),
    ("mnist", "mlp", "sigmoid", "none", 0, 97.2, .1),
    ("mnist", "mlp", "bootstrap_hard", "asymmetric", .6, 55.0, 1.3),
    ("imdb", "embedding", "backward", "asymmetric", .4, 82.1, .1),
    ("imdb", "embedding", "unhinged", "symmetric", .1, 76.9, .5),
    ("imdb", "lstm", "unhinged", "symmetric", .1, 69.7, 15.9),
    ("imdb", "lstm", "savage", "asymmetric", .4, 70.4, 3.8),
    ("imdb", "lstm", "forward_estimated", "none", 0, 87.8, 1.5),
    ("cifar10", "resnet14", "forward", "asymmetric", .6, 84.5, None),
    ("cifar10", "resnet32", "backward_estimated", "none", 0, 90.8, None),
    ("cifar10", "resnet32", "forward", "symmetric", .2, 87.7, None),
    ("cifar100", "resnet44", "savage", "none", 0, 1.4, None),
    ("cifar100", "resnet44", "forward", "asymmetric", .6, 68.4, None),
    ("cifar100", "resnet44", "bootstrap_hard", "asymmetric", .6, 17.0, None)]
STARS = {("mnist", "mlp", "symmetric", .2): "forward", ("mnist", "mlp", "asymmetric", .6): "backward forward",
         ("imdb", "embedding", "symmetric", .1): "backward forward",
         ("imdb", "embedding", "asymmetric", .4): "backward forward",
         ("imdb", "lstm", "asymmetric", .4): "forward", ("cifar10", "resnet14", "symmetric", .2): "forward",
         ("cifar10", "resnet14", "asymmetric", .6): "backward forward",
         ("cifar10", "resnet32", "asymmetric", .6): "forward",
         ("cifar100", "resnet44", "symmetric", .2): "forward",
         ("cifar100", "resnet44", "asymmetric", .2): "forward",
         ("cifar100", "resnet44", "asymmetric", .6): "backward forward"}

@pytest.fixture(scope="module")
def table(): return published("patrini2017", "table2")

def test_every_cell_is_there_once(table):
    assert len(table) == 240 and not table.duplicated(CELL).any()
    assert (table.groupby(SETTING).method.nunique() == 10).all()
    assert set(table.metric) == {"accuracy"} and set(table.noise) == {"none", "symmetric", "asymmetric"}
    assert set(table.method) <= set(STYLES) and set(table.method) - set(LABELS) <= {"unhinged", "sigmoid"}

def test_std_and_n_are_what_the_paper_says(table):
    simple = table.dataset.isin(["mnist", "imdb"])
    assert (table["std"].notna() == simple).all() and simple.sum() == 120
    assert (table.n == np.where(simple, 5, 1)).all() and table.n_note.notna().all()

@pytest.mark.parametrize("block", MEANS)
def test_sums_of_the_columns(table, block):
    part = table[(table.dataset == block[0]) & (table.model == block[1])]
    sums = part.groupby(["noise", "rate"], sort=False)[["mean", "std"]].sum().round(1)
    assert sums["mean"].tolist() == MEANS[block]
    assert sums["std"].tolist() == STDS.get(block, [0] * 4)
    assert sums.index.tolist() == list(zip(["none", "symmetric", "asymmetric", "asymmetric"],
                                           RATES.get(block[0], [0, .2, .2, .6])))

@pytest.mark.parametrize("cell", CELLS)
def test_cells_read_by_eye(table, cell):
    *keys, mean, std = cell
    row = table.set_index(["dataset", "model", "method", "noise", "rate"]).loc[tuple(keys)]
    assert row["mean"] == mean and (np.isnan(row["std"]) if std is None else row["std"] == std)

def test_stars_and_daggers(table):
    stars = {k: " ".join(p.method) for k, p in table[table.star].groupby(SETTING)}
    assert stars == STARS
    assert table[table.dagger].groupby("model").method.apply(list).to_dict() == {
        "embedding": ["backward_estimated", "forward_estimated"], "lstm": ["forward_estimated"]}

def test_our_reading_of_the_star_rule_gives_the_papers_stars(table):
    renamed = table.rename(columns=dict(mean="paper_mean", std="paper_std", n="paper_n"))
    for _, part in renamed.groupby(SETTING):
        marked = highlights(part, "paper")
        assert (marked.paper_star == part.star).all()
        assert not (marked.paper_star & ~part.method.isin(KNOWS_T)).any()
        assert marked.paper_bold.any() and not (marked.paper_bold & marked.paper_star).any()

def test_what_the_papers_findings_say_of_its_own_table(tmp_path):
    found = findings(side_by_side(read_results(tmp_path), "patrini2017", "table2", "paper"))
    assert set(found.ours_holds) == {"not run"}
    held = {k: (p.paper_holds == "yes").sum() for k, p in found.groupby(["finding", "claim"], sort=False)}
    assert list(held.values()) == [4, 3, 3, 11, 11, 4, 5], held # counted by hand from the table

def test_unknown_tables_are_named():
    assert ("patrini2017", "table2") in published_tables()
    with pytest.raises(ValueError, match="table: expected one of patrini2017 table2.*got patrini2017 table9"):
        published("patrini2017", "table9")


# The other papers: sums of columns, added up by a regular expression over the texts.

def test_sums_of_the_second_papers_columns():
    table = published("zhang2018", "table1")
    assert len(table) == 144 and not table.duplicated(CELL).any()
    assert set(table.metric) == {"accuracy_best_valid_accuracy"}
    fashion = (table[table.dataset == "fashion_mnist"].groupby(["noise", "rate"], sort=False)["mean"].sum()
               .round(2).tolist())
    assert fashion == [547.09, 541.50, 537.26, 510.43, 543.55, 531.04, 523.26, 509.19]

def test_sums_of_the_third_papers_columns():
    table = published("wang2019", "table1")
    assert len(table) == 168 and not table.duplicated(CELL).any()
    assert (table.groupby(["dataset", "noise", "rate"]).method.nunique() == 7).all()
    sums = (table[table.dataset == "mnist"].groupby(["noise", "rate"], sort=False)["mean"].sum()
            .round(2).tolist())
    assert sums == [694.04, 658.32, 588.29, 479.04, 260.51, 672.56, 645.50, 610.95]
    assert (published("wang2019", "table3").set_index("method")["mean"].to_dict()["symmetric_cross_entropy"]
            == 71.02)
    assert len(published("wang2019", "table2")) == 6

# Row sums of Jindal et al.'s Table 1 over its 17 columns, in the order of the page, added up by field
# position with awk.
CIFAR = dict(zip(["cross_entropy", "forward", "forward_qc", "linear_noise_layer", "bootstrap_soft",
                  "dropout_noise_layer", "forward_estimated", "nnaqc", "nnaqc_dropout"],
                 [620.27, 586.21, 567.96, 605.76, 590.87, 689.17, 552.41, 515.45, 510.82]))
DIGITS = dict(zip([m for m in CIFAR if m != "forward_qc"],
                  [297.37, 207.6, 96.22, 99.57, 102.52, 81.22, 70.73, 74.25]))

def test_sums_of_the_fourth_papers_rows():
    parts = [published("jindal2019", table) for table in ("table1", "table1b", "table1c")]
    assert [len(part) for part in parts] == [102, 102, 85]
    assert not any(part.duplicated(CELL).any() for part in parts)
    every = pd.concat(parts)
    errors = (100 - every["mean"]).groupby([every.dataset, every.method]).sum().round(2)
    assert errors["cifar10"].to_dict() == CIFAR and errors["mnist"].to_dict() == DIGITS
    assert set(every.metric) == {"accuracy_last"}

def test_the_fourth_papers_other_tables():
    tables = {name: published("jindal2019", name) for name in ("table2", "table3", "table4", "table5")}
    assert ({name: len(table) for name, table in tables.items()}
            == dict(table2=84, table3=12, table4=10, table5=51))
    assert not any(t.duplicated(CELL).any() for t in tables.values())
    assert (tables["table3"].query("method == 'nnaqc_dropout' and rate == .5")["mean"].item()
            == pytest.approx(58.2))
    assert set(tables["table3"].metric) == {"accuracy_top5"}
    assert (tables["table4"].query("method == 'nnaqc' and noise == 'real'")["mean"].item()
            == pytest.approx(72.27))
    assert tables["table5"].query("dataset == 'cifar100'").groupby("method").size().tolist() == [5, 5, 5]

# Sums of Tanaka et al.'s rows, in the order of the page, added up by hand from the text.
ROWS = dict(table1=[364.9, 512.1], table2=[402.4, 436.7, 416.6, 454.8])

def test_the_fifth_papers_tables():
    sizes = {name: len(published("tanaka2018", name))
             for paper, name in published_tables() if paper == "tanaka2018"}
    assert (sizes == {f"table{k}{part}": n for k, n in ((1, 12), (2, 20))
                      for part in ("", "_best", "_recovery_best", "_recovery_last")}
            | dict(table3=4, table3_best=2))
    for name, sums in ROWS.items():
        assert (published("tanaka2018", name).groupby("method", sort=False)["mean"].sum().round(1).tolist()
                == pytest.approx(sums))
    assert {published("tanaka2018", name).metric.nunique() for name in sizes} == {1}
    assert published("tanaka2018", "table3").set_index("method")["mean"].to_dict() == dict(
        cross_entropy_quoted=68.94, forward_quoted=69.84, cross_entropy=66.76, joint_optimization=72.23)
