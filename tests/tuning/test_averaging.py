"""The average of networks, and when it takes the place of one of them."""

import math

import numpy as np
import pytest

from delta_jax.analysis.statistics import Paired
from delta_jax.tuning import averaging, ending


def test_the_average_is_that_of_every_array_in_its_own_type():
    networks = [{"params": {"a": np.float32([1, 2])}, "batch_stats": {"b": np.float32(x)}} for x in (1, 2, 6)]
    networks[2]["params"]["a"] = np.float32([4, 5])
    found = averaging.average(networks)
    np.testing.assert_array_equal(found["params"]["a"], np.float32([2, 3]))
    assert found["batch_stats"]["b"] == 3
    assert found["params"]["a"].dtype == np.float32


@pytest.mark.parametrize(
    ("top1", "loss", "high", "expected"),
    [
        (0.73, 0.9, 0.05, True),
        (0.75, 1.2, 0.05, True),
        (0.72, 0.9, 0.01, True),  # a point less of 100 images, and a lower cross-entropy
        (0.72, 1.1, 0.01, False),
        (0.60, 0.9, -0.02, False),  # the images show that it is worse
        (0.73, 0.9, math.nan, True),
    ],
)
def test_an_average_pays_unless_both_measures_or_the_images_say_otherwise(top1, loss, high, expected):
    single = [{"top1": 0.72, "cross_entropy": 0.9}, {"top1": 0.74, "cross_entropy": 1.1}]
    measured = {"single": single, "average": {"top1": top1, "cross_entropy": loss}}
    assert averaging.pays(measured, Paired(top1 - 0.73, -0.2, high, 0.5, 100)) == expected


@pytest.mark.parametrize(
    ("left", "refit", "expected"),
    # By hand, runs of 10 s, and 4 s for head and attention on all images: three seeds take 2 * 10 + 4 + 3 * 10 = 54 s,
    # two 10 + 4 + 20 = 34 s, one 14 s; without such runs 20, 10 and 0 s; a fifth more is to be left.
    [
        (64.9, True, 3),
        (64.7, True, 2),
        (40.9, True, 2),
        (40.7, True, 1),
        (16.9, True, 1),
        (16.7, True, 0),
        (24.1, False, 3),
        (12.1, False, 2),
        (11.9, False, 1),
    ],
)
def test_as_many_seeds_as_the_time_allows(left, refit, expected):
    assert ending.seeds(left, 10.0, 4.0, refit) == expected


@pytest.mark.parametrize(("left", "expected"), [(34, 3), (33, 2), (24, 2), (23, 1), (14, 1), (13, 0)])
def test_as_many_runs_on_all_images_as_there_is_time_left_for(left, expected):
    assert ending.refits(left, 10.0, 4.0, 3) == expected


@pytest.mark.parametrize(
    ("left", "expected"),
    # By hand, a second a step, and a fifth more is to be left: 1.2 * 990 = 1188; the next ones that are looked at are a
    # hundredth of 990 apart, 981 with 1177.2, and the last one above 1.2 * 400 steps is 486 with 583.2.
    [(1e9, 990), (1189, 990), (1187, 981), (1177, 972), (584, 486), (583, 400), (0, 400)],
)
def test_the_end_has_the_steps_that_the_config_asks_for_if_there_is_time(left, expected):
    assert ending.longer(990, 400, left, float) == expected


def test_other_seeds_have_to_fit_behind_the_longer_runs():
    # By hand: on all images (3 - 1) * 10 + 4 + 3 * 20 = 84 s, (2 - 1) * 10 + 4 + 2 * 20 = 54 s; on the fold 3 * 20.
    assert [ending.seeds(1.2 * left + 0.1, 10.0, 4.0, True, 20.0) for left in (84, 54, 24, 23)] == [3, 2, 1, 0]
    assert [ending.seeds(1.2 * left + 0.1, 10.0, 4.0, False, 20.0) for left in (60, 40, 20, 19)] == [3, 2, 1, 0]
