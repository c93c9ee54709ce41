"""Verdicts on learning curves; the numbers are worked out by hand beside each."""

import math
import re

import numpy as np
import pytest

from delta_jax.training import convergence
from delta_jax.training.convergence import Looks, change, judge, without_improvement

SIGNS = np.tile([1.0, -1.0], 8)  # of 16 images: mean 0, standard deviation sqrt(16 / 15)


def looks_of(levels, *, every=10, spread=0.0, right=None):
    """Looks with these mean losses at 16 images; every second one, half the images differ by `spread` either way."""
    losses = [level + spread * SIGNS * (number % 2) for number, level in enumerate(levels)]
    right = np.ones(len(levels)) if right is None else right
    return Looks(
        every * np.arange(1, len(levels) + 1),
        np.array(losses, np.float32),
        np.array([np.arange(16) < 16 * share for share in right]),
    )


def constant(steps):
    return np.ones(steps, np.float32)


def cosine(steps):
    return ((1 + np.cos(np.pi * np.arange(steps) / steps)) / 2).astype(np.float32)


def step(steps):
    return np.where(np.arange(steps) < steps * 2 / 3, 1, 0.1).astype(np.float32)


def test_a_change_is_of_the_same_images():
    values = np.array([[1.0, 2.0, 3.0], [1.0, 1.0, 2.0]], np.float32)
    mean, error = change(values, 0, 1)  # differences 0, -1, -1: variance (4/9 + 1/9 + 1/9) / 2 = 1/3
    assert mean == pytest.approx(-2 / 3)
    assert error == pytest.approx(math.sqrt(1 / 3 / 3))
    assert change(values, 1, 0) == pytest.approx((2 / 3, 1 / 3))
    assert change(values[:, :1], 0, 1) == (0.0, math.inf)


def test_the_bounce_of_the_looks_is_part_of_the_error():
    # Second differences -0.4 and 0.4: variance 0.16 / 6, and twice that for the difference of two looks.
    assert convergence.bounce(looks_of([1.0, 1.2, 1.0, 1.2]).losses) == pytest.approx(math.sqrt(0.16 / 6))
    assert convergence.bounce(looks_of(FALLING).losses) == pytest.approx(0, abs=1e-6)
    assert convergence.bounce(looks_of([1.0, 2.0]).losses) == 0
    values = looks_of([9.0, 1.0, 1.2, 1.0, 1.2], spread=0.1).losses
    assert convergence.trend(values, 1, 4) == pytest.approx((0.2, math.hypot(0.02582, math.sqrt(0.16 / 3))), rel=1e-3)
    # Of two looks nothing is known of it: the one before is taken in. Second difference -8 + 0.2.
    assert convergence.trend(values, 1, 2)[1] == pytest.approx(math.hypot(0.02582, math.sqrt(8.2**2 / 3)), rel=1e-3)


def test_looks_are_kept_as_they_are_on_disk():
    looks = Looks.none()
    for at in (5, 10, 12):
        looks = looks.and_one(at, np.array([1 / 3, at]), np.array([True, False]))
    assert (looks.steps.tolist(), looks.losses.dtype, looks.losses.shape) == ([5, 10, 12], np.float32, (3, 2))
    assert looks.until(11).steps.tolist() == looks.until(10).steps.tolist() == [5, 10]
    assert looks.since(10).steps.tolist() == looks.since(6).steps.tolist() == [10, 12]
    assert len(looks.until(4)) == len(looks.since(13)) == 0


@pytest.mark.parametrize(
    ("levels", "more", "expected"),
    [
        ([1.0], {}, 0),
        ([1.0, 0.9, 0.8], {}, 0),
        ([1.0, 0.9, 0.9, 0.95], {}, 2),  # the same again is none
        ([1.0, 1.1, 1.2], {}, 2),
        ([0.0030, 0.0022, 0.0018], {}, 0),  # 0.001 at once is enough, and so are 0.0008 and 0.0004
        ([0.0030, 0.0022, 0.0021], {}, 2),
        # The error between an even and an odd look is 0.1 sqrt(16/15) / 4 = 0.0258; between two even ones it is 0.
        ([1.0, 0.98], {"spread": 0.1}, 1),
        ([1.0, 0.97], {"spread": 0.1}, 0),
        ([1.0, 0.98, 0.98, 0.96], {"spread": 0.1}, 1),  # look 2 is an improvement, 3 is not
        ([1.0, 0.985, 1.0, 0.97], {"spread": 0.1}, 0),  # what is too small at once adds up
        # Classes get better while probabilities do not. 8 to 12 of 16: 4 of 16 images change, sd 0.447, error 0.112.
        ([1.0, 1.1, 1.2], {"right": [0.5, 0.75, 0.75]}, 1),
        ([1.0, 1.1, 1.2], {"right": [0.75, 0.5, 0.25]}, 2),
        ([1.0, math.nan, math.nan], {}, 2),
    ],
)
def test_how_many_looks_are_without_improvement(levels, more, expected):
    assert without_improvement(looks_of(levels, **more)) == expected


FALLING = [1.0 - 0.08 * k for k in range(10)]
SETTLED = [1.0, 0.6, 0.4, *[0.3] * 7]
RISING = [1.0, 0.6, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1]


@pytest.mark.parametrize(
    ("levels", "rates", "stretches", "verdict", "between", "since"),
    [
        # 10 looks in 100 steps; the last quarter of the steps is from 70 on, as 75 was not looked at.
        (FALLING, constant(100), False, "improving", (70, 100), None),
        (SETTLED, constant(100), False, "converged", (40, 100), 40),
        (RISING, constant(100), False, "worse", (30, 100), 30),
        # Cosine, way (t + sin(pi t) / pi) / 2 of 1/2: from 40 to 60 the rate falls from 0.65 to 0.35 and a fifth of the
        # way is made; any later two are less than a sixth apart, or the rate more than halves.
        (FALLING, cosine(100), True, "improving", (40, 60), None),
        (SETTLED, cosine(100), True, "converged", (40, 60), 40),
        (RISING, cosine(100), True, "worse", (30, 100), 30),
        # Far from the end when the rate fell, and at rest for that alone: the last quarter says nothing.
        ([*FALLING[:7], 0.5, 0.5, 0.5], cosine(100), True, "improving", (40, 60), None),
        # At rest, and then better by the decay alone.
        ([1.0, 0.6, 0.5, 0.5, 0.5, 0.5, 0.4, 0.3, 0.3, 0.3], cosine(100), True, "converged", (30, 60), 30),
        # Step, decay at 67: way 67 + 3.3; a quarter of it is 17.6, so 40 and 60; or the tail from 70 on.
        ([1.0, 0.6, 0.5, 0.5, 0.5, 0.5, 0.3, 0.3, 0.3, 0.3], step(100), True, "converged", (30, 60), 30),
        ([1.0, 0.6, 0.5, 0.5, 0.5, 0.5, 0.4, 0.3, 0.2, 0.1], step(100), True, "improving", (70, 100), None),
        (FALLING[:6] + [0.5] * 4, step(100), True, "improving", (40, 60), None),
        # A rate that decays whatever the steps are: more of them come at the end.
        ([*FALLING[:6], *[0.6] * 4], 0.97 ** np.arange(100), False, "converged", (60, 100), 60),
    ],
)
def test_verdicts(levels, rates, stretches, verdict, between, since):
    found = judge(looks_of(levels), rates, stretches=stretches)
    assert (found.verdict, found.between, found.since) == (verdict, between, since), found.said
    assert (found.looks, found.images) == (10, 16)
    first, second = (levels[at // 10 - 1] for at in between)
    assert found.cross_entropy == pytest.approx((second - first, 0), abs=1e-5)


@pytest.mark.parametrize(
    ("levels", "since"),
    [([0.7, 0.4, 0.1, 0.05, 0.02, 0.009, 0.005, 0.004, 0.003, 0.002], 60), ([*[0.7] * 9, 0.009], 90)],
)
def test_where_nothing_is_left_to_gain_more_steps_do_not_pay(levels, since):
    for rates in (constant(100), cosine(100)):
        found = judge(looks_of(levels), rates, stretches=True)
        assert (found.verdict, found.between, found.since) == ("converged", (since, 100), since)


def test_the_sentence_has_the_numbers():
    found = judge(
        looks_of([1.0, 0.9, 0.8, 0.5], spread=0.1, right=[0.5, 0.5, 0.5, 0.75]), constant(40), stretches=False
    )
    # From look 3 to 4: error 0.0258, and bounce, by look 2: 0.2 / sqrt(3). 4 of 16 images more are right: error
    # 0.447 / 4 = 0.112, and bounce 0.25 / sqrt(3).
    assert found.said == (
        "still improving: more steps pay; the validation cross-entropy fell by 0.300 ± 0.237 from step 30 to 40 "
        "(two standard errors, of 16 images and the bounce of the looks; top-1 by +25.0 ± 36.5 points)"
    )
    assert found.as_dict()["cross_entropy"] == pytest.approx({"change": -0.3, "standard_error": 0.1183}, rel=1e-3)
    said = judge(looks_of(SETTLED), constant(100), stretches=False).said
    assert said.startswith(
        "converged at step 40: the next 6 looks, until step 100, changed the validation cross-entropy"
    )
    said = judge(looks_of(RISING), constant(100), stretches=False).said
    assert said.startswith(
        "getting worse since step 30: overfitting; the validation cross-entropy rose by 0.700 ± 0.000"
    )


@pytest.mark.parametrize(
    ("looks", "rates", "said"),
    [
        (looks_of([1.0]), constant(10), "one look at the validation images"),
        (Looks(np.array([5, 10]), np.ones((2, 9), np.float32), np.ones((2, 9), bool)), constant(10), "9 validation"),
        (looks_of([1.0, math.nan]), constant(20), "not finite"),
        # 0.0775 of the images, 0.1 / sqrt(3) of the bounce: neither no change nor one.
        (looks_of([1.0, 0.9, 0.9, 0.8], spread=0.3), constant(40), "changed by -0.100 ± 0.193 from step 30 to 40"),
        (looks_of([1.0, 0.9, 0.8], every=200), cosine(600), "looked at 3 times.*--config.eval_every=60"),
    ],
)
def test_what_cannot_be_told(looks, rates, said):
    found = judge(looks, rates, stretches=len(rates) == 600)
    assert found.verdict == convergence.UNKNOWN
    assert re.search(f"cannot be told: .*{said}", found.said)


def test_where_every_rate_is_0_nothing_changes():
    found = judge(looks_of([1.0] * 4), np.zeros(40, np.float32), stretches=True)
    assert (found.verdict, found.since) == ("converged", 10)
    assert "changed the validation cross-entropy by +0.000 ± 0.000" in found.said


def test_warm_up_is_no_witness():
    rates = constant(40)
    rates[:30] = np.linspace(0, 1, 30, endpoint=False)
    for stretches in (True, False):
        found = judge(looks_of([2.0, 1.5, 1.0, 0.5]), rates, stretches=stretches)
        assert "looked at 4 times, too seldom" in found.said  # one of them after warm-up
