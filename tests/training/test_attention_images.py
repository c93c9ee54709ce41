"""Which images the attention is measured on: their order, and how many a share of the fine-tuning's time pays for."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from delta_jax.processes import sharding
from delta_jax.training import attention_images, attention_program, config
from delta_jax.training.attention_images import Number
from delta_jax.training.programs import Programs
from tests.small_run import small_config

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 5], [40, 20, 7, 1]))


def test_every_beginning_has_the_classes_in_proportion():
    order = attention_images.order(LABELS)
    assert sorted(order) == list(range(68))
    for m in range(1, 69):
        counts = np.bincount(LABELS[order[:m]], minlength=6)[[0, 1, 2, 5]]
        # To within one; and one more where the threshold itself is to within one image.
        assert np.all(np.abs(counts - m * np.array([40, 20, 7, 1]) / 68) < 2)


def test_of_classes_of_one_size_each_is_seen_before_one_is_seen_twice():
    labels = np.tile(np.arange(10), 6)
    order = attention_images.order(labels)
    for start in range(0, 60, 10):
        assert sorted(labels[order[start : start + 10]]) == list(range(10))
    assert not np.array_equal(labels[order[:10]], labels[order[10:20]]) or not np.array_equal(order[:10], np.arange(10))


def test_the_order_is_random_within_a_class_and_always_the_same():
    first, again = attention_images.order(LABELS), attention_images.order(LABELS)
    np.testing.assert_array_equal(first, again)
    own = [image for image in first if LABELS[image] == 0]
    assert own != sorted(own)


# The small network at 32 px, three classes, by hand, twice the multiplications: convolutions 3x3 to 16x16x16, depthwise
# to 8x8x16, 1x1 to 8x8x24 (a tap), 3x3 to 4x4x40 (a tap), 1x1 to 4x4x40; linear layer 40 to 3.
LAYERS = [2 * n for n in (16 * 16 * 16 * 27, 64 * 16 * 9, 64 * 24 * 16, 16 * 40 * 216, 16 * 40 * 40, 40 * 3)]
FORWARD, BEHIND = sum(LAYERS), {"block_0/project_conv": sum(LAYERS[3:]), "block_1/conv": sum(LAYERS[4:])}
GAPS = {
    "exact": FORWARD + 24 * BEHIND["block_0/project_conv"] + 40 * BEHIND["block_1/conv"],
    "first_order": 3 * FORWARD,
    "mixed": 4 * FORWARD + 24 * BEHIND["block_0/project_conv"] + 30 * BEHIND["block_1/conv"],  # 30 of 24 are 24
}
STEP = 4 * FORWARD  # the source forwards, the network forwards and, twice as much, backwards
TIME = attention_images._TIME_OF_AN_OPERATION["cpu"]


def paid_for(estimator: str) -> int:
    """A quarter of the time of 2,000 images that are trained on, in whole passes of 8."""
    return int(0.25 * 2000 * STEP / (TIME * GAPS[estimator])) // 8 * 8


def programs(tmp_path, **changed: Any) -> Programs:
    resolved = config.resolve(small_config(tmp_path / "photos", attention_exact_filters=30, **changed))
    return Programs(resolved, sharding.make_mesh(), 3)


@pytest.mark.parametrize("estimator", GAPS)
def test_operations_are_counted_as_by_hand(tmp_path, estimator):
    run = programs(tmp_path, attention_estimator=estimator)
    (own,) = attention_program.estimators(run.config)
    assert attention_images.operations_of_gaps(run, own) == GAPS[estimator]
    assert attention_images.operations_of_step(run) == STEP


def test_of_a_network_that_is_frozen_in_part_the_rest_is_trained(tmp_path):
    run = programs(tmp_path, freeze_until="block_0/project_conv", taps=("block_1/conv",))
    assert attention_images.operations_of_step(run) == FORWARD + 3 * BEHIND["block_0/project_conv"]


@pytest.mark.parametrize(
    ("changed", "there", "expected"),
    [
        ({}, 1000, Number((1000,), None)),
        ({"attention_images": 50}, 1000, Number((50,), None)),
        ({"attention_images": 50}, 40, Number((40,), None)),
        ({"attention_share": 0.25}, 1000, paid_for("exact")),
        ({"attention_share": 0.25, "attention_images": 50}, 1000, 50),
        ({"attention_share": 0.25}, 40, 40),
        ({"attention_share": 1e-4}, 1000, 8),
        ({"attention_share": 0.25, "attention_per": "class"}, 1000, paid_for("exact")),
        ({"attention_share": 0.25, "attention_per": "image"}, 1000, 1000),
        ({"attention_share": 0.25, "attention_estimator": "first_order"}, 10_000, paid_for("first_order")),
    ],
)
def test_a_share_of_the_time_pays_for_so_many_images(tmp_path, changed, there, expected):
    found = attention_images.number(programs(tmp_path, steps=250, **changed), there)
    if isinstance(expected, int):
        estimator = changed.get("attention_estimator", "exact")
        cost = pytest.approx(TIME * expected * GAPS[estimator] / (2000 * STEP))
        expected = Number((expected,), cost)
    assert found == expected


@pytest.mark.parametrize(
    ("changed", "there", "expected"),
    [
        ({}, 1000, (1000, 56)),  # 1 of 16 in whole passes: 62.5
        ({"attention_images": 5}, 1000, (5, 5)),
        # A quarter of 2,000 steps' images is 1,644.5 MFLOP at three quarters of an operation's time; 10.5 for one exact
        # image, 2.47 for one estimated: 16 of these with each exact one make 32.9, and with 300 of them 85.8 are left.
        ({"attention_share": 0.25}, 10_000, (512, 32)),
        ({"attention_share": 0.25}, 300, (300, 80)),
        ({"attention_share": 0.25}, 100, (100, 100)),
        # Fewer than 16 exact images would add more noise than they correct: a hundredth is 65.8 MFLOP.
        ({"attention_share": 0.01}, 1000, (24, 0)),
        ({"attention_share": 1e-4}, 1000, (8, 0)),
    ],
)
def test_of_two_phases_the_first_has_16_times_the_images(tmp_path, changed, there, expected):
    run = programs(tmp_path, steps=250, attention_estimator="two_phase", **changed)
    found = attention_images.number(run, there)
    assert found.of_estimators == expected
    if found.cost is not None:
        operations = TIME * (expected[0] * 4 * FORWARD + expected[1] * GAPS["exact"])
        assert found.cost == pytest.approx(operations / (2000 * STEP))


def test_the_line_says_what_was_chosen_and_why():
    def said(images: int, cost: float | None, per: str = "data_set") -> str:
        settings = SimpleNamespace(attention_share=0.25, attention_per=per)
        return attention_images.described(Number((images,), cost), 2424, settings)

    assert said(2424, None) == ""
    assert said(96, 0.2412) == (
        "attention on 96 of 2,424 images: 0.24 of the fine-tuning's time by counted operations "
        "(attention_share is 0.25)"
    )
    assert said(8, 0.5).endswith("although attention_share is 0.25: no fewer are measured")
    assert said(2424, 9.3, "image").endswith("although attention_share is 0.25: each has weights of its own")
