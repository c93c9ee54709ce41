"""The paper's numbers against the text of its tables, and against what it says of them."""

import statistics

import pytest

from delta_jax import methods
from delta_jax.analysis import published


@pytest.mark.parametrize(
    ("table", "data", "network", "method", "expected"),
    [  # as printed in the paper
        ("table1", "stanford_dogs", "resnet101", "delta", (0.887, 0.001)),
        ("table1", "indoor67", "resnet101", "l2_fe", (0.804, 0.002)),
        ("table1", "food101", "resnet101", "l2_sp", (0.864, 0.001)),
        ("table1", "caltech256_30", "inception_v3", "delta_without_attention", (0.834, 0.003)),
        ("table2", "cub200", "resnet101", "l2", (0.817, 0.002)),
        ("table2", "stanford_dogs", "inception_v3", "l2_sp", (0.919, 0.001)),
        ("table2", "caltech256_60", "resnet101", "delta", (0.891, 0.001)),
    ],
)
def test_numbers_of_the_paper(table, data, network, method, expected):
    assert published.accuracy(table, data, network, method) == expected


@pytest.mark.parametrize(
    ("table", "network", "method", "expected"),
    [  # means over the rows of a column, added up on paper from the printed table
        ("table1", "resnet101", "l2_fe", (80.4 + 84.7 + 82.9 + 85.3 + 61.5 + 64.3) / 6),
        ("table1", "resnet101", "delta", (85.5 + 88.7 + 86.6 + 88.7 + 80.5 + 86.3) / 6),
        ("table1", "inception_v3", "l2_sp", (74.6 + 89.4 + 83.3) / 3),
        ("table2", "resnet101", "l2_sp", (85.2 + 90.8 + 86.4 + 88.3 + 82.3 + 87.2) / 6),
        ("table2", "inception_v3", "delta", (78.7 + 92.1 + 85.5) / 3),
    ],
)
def test_columns_of_the_papers_tables(table, network, method, expected):
    found = [published.accuracy(table, data, network, method) for data in published.DATA_SETS]
    assert 100 * statistics.mean(one[0] for one in found if one) == pytest.approx(expected)


def test_what_the_paper_does_not_have():
    assert published.accuracy("table2", "cub200", "resnet101", "l2_fe") is None
    assert published.accuracy("table1", "food101", "inception_v3", "delta") is None
    assert published.accuracy("table1", "elpv", "resnet101", "delta") is None
    assert published.accuracy("", "cub200", "resnet101", "delta") is None


def test_names_are_those_of_the_methods():
    of_the_paper = methods.names()[:5]  # later ones follow
    assert tuple(published.METHODS) == of_the_paper
    assert set(published.PART_ACTIVATIONS) == {published.SOURCE, *of_the_paper} - {"l2_fe"}
    # Section 4.4: "DELTA got the highest average activations".
    assert max(published.PART_ACTIVATIONS, key=published.PART_ACTIVATIONS.get) == "delta"
