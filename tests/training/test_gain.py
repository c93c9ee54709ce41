"""Whether a run is better than the head alone: intervals by hand, and the words that go with them."""

import numpy as np
import pytest

from delta_jax.training import gain
from delta_jax.training.evaluation import Look


def looks(right_only_tuned, right_only_head, both, neither, losses=(0.5, 0.5)):
    """Two looks at as many images as the four cells sum to."""
    cells = [(1, 0)] * right_only_tuned + [(0, 1)] * right_only_head + [(1, 1)] * both + [(0, 0)] * neither
    tuned, head = np.array(cells, bool).T
    noise = np.random.default_rng(0).normal(0, 0.01, len(cells))
    return [
        Look({"top1": right.mean(), "cross_entropy": loss}, loss + sign * noise, right)
        for right, loss, sign in ((tuned, losses[0], 1), (head, losses[1], -1))
    ]


def test_the_interval_is_that_of_the_images_and_half_an_image_in_each_cell():
    found = gain.against(*looks(30, 10, 50, 10))
    # The same from its definition: mean and variance of +1, -1 and 0 over the cells with a half added to each.
    values, weights = np.array([1, -1, 0, 0]), np.array([30.5, 10.5, 50.5, 10.5])
    mean = np.average(values, weights=weights)
    error = np.sqrt(np.average((values - mean) ** 2, weights=weights) / weights.sum())
    assert found["top1"]["difference"] == pytest.approx(0.2)
    assert found["top1"]["low"] == pytest.approx(mean - 1.959964 * error)
    assert found["top1"]["high"] == pytest.approx(mean + 1.959964 * error)
    assert found["verdict"] == gain.HELPED
    assert found["said"].startswith("fine-tuning helped: top-1 80.00% instead of 60.00% with the head alone, +20.00 ")


def test_a_gain_within_chance_is_none():
    found = gain.against(*looks(3, 1, 5, 1))
    # By hand: 3.5 and 1.5 of 12, difference 2 / 12, error sqrt(5 - 4 / 12) / 12 = 0.18002.
    assert (found["top1"]["low"], found["top1"]["high"]) == pytest.approx((-0.18617, 0.51950), abs=1e-4)
    assert found["verdict"] == gain.UNDECIDED
    assert "cannot be told" in found["said"]
    assert "probabilities" not in found["said"]


def test_a_loss_says_what_to_take_instead():
    found = gain.against(*looks(10, 30, 50, 10))
    assert found["verdict"] == gain.HURT
    assert "--config.method=l2_fe" in found["said"]


@pytest.mark.parametrize(("losses", "word"), [((0.4, 0.5), "better"), ((0.5, 0.4), "worse")])
def test_probabilities_are_told_apart_where_accuracies_are_not(losses, word):
    found = gain.against(*looks(5, 5, 40, 10, losses))
    assert found["verdict"] == gain.UNDECIDED
    assert found["cross_entropy"]["difference"] == pytest.approx(losses[0] - losses[1], abs=0.01)
    assert f"its probabilities are {word}: cross-entropy {losses[0]:.3f} instead of {losses[1]:.3f}" in found["said"]


def test_where_nothing_differs_the_interval_is_not_empty():
    found = gain.against(*looks(0, 0, 20, 0))
    assert found["top1"]["low"] < 0 < found["top1"]["high"]


def test_the_head_alone_is_not_compared_with_itself_as_if_it_were_tuned():
    tuned, _ = looks(5, 3, 12, 0)
    found = gain.against(tuned, tuned)
    assert "fine-tuning has no part in this network" in found["said"]
    assert found["top1"]["difference"] == 0


def test_one_image_tells_nothing():
    assert gain.against(*looks(1, 0, 0, 0)) == {}
