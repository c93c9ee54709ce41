"""Exact gaps of a few images with estimates of many: by hand, and against what repeated samples scatter by."""

import numpy as np
import pytest

from delta_jax.training import two_phase
from delta_jax.training.attention_pass import AttentionPass


def test_by_hand():
    # Estimates 0, 2 of the images that have exact gaps 1, 2: slope 1/2. All four estimates have the mean 3, the first
    # two 1: the mean gap is 1.5 + (3 - 1) / 2. The rests are 1 and 1.
    rows = two_phase.combined(np.array([[1.0], [2.0]]), np.array([[0.0], [2.0], [4.0], [6.0]]))
    np.testing.assert_allclose(rows[:, 0], [1.0, 2.0, 3.0, 4.0])
    assert rows.mean() == pytest.approx(2.5)


def test_by_hand_where_the_rests_differ():
    # Two filters share the slope: (1 * 2 + 0) / 2 would be 1 of the first alone, the second has no spread of estimates.
    exact, estimates = np.array([[1.0, 5.0], [3.0, 7.0]]), np.array([[0.0, 1.0], [2.0, 1.0], [7.0, 4.0]])
    rows = two_phase.combined(exact, estimates)
    # Rests 1, 1 and 4, 6: mean 5, and each 3/2 times its deviation more.
    np.testing.assert_allclose(rows, [[1.0, 6.0 - 1.5], [3.0, 6.0 + 1.5], [8.0, 9.0]])
    np.testing.assert_allclose(rows.mean(0), exact.mean(0) + estimates.mean(0) - estimates[:2].mean(0))


@pytest.mark.parametrize(
    ("estimates", "slope"),
    [([[0.0], [1.0]], 1.0), ([[0.0], [-4.0]], 0.0), ([[0.0], [0.0]], 0.0), ([[0.0], [40.0]], 0.1)],
)
def test_the_slope_is_between_0_and_1(estimates, slope):
    exact, table = np.array([[0.0], [4.0]]), np.array([*estimates, [100.0]])
    expected = exact.mean() + slope * (table.mean() - table[:2].mean())
    assert two_phase.combined(exact, table).mean() == pytest.approx(expected)


def test_where_all_are_exact_estimates_count_for_nothing():
    exact = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    assert two_phase.combined(exact, np.zeros((5, 3))) is exact
    assert two_phase.combined(exact[:0], exact) is exact  # and where none are, they are all there is


def test_the_standard_errors_are_the_spread_of_repeated_samples():
    """Of 400 samples of 40 exact gaps and 240 estimates each, which are biased and correlated by 0.9 with the gaps."""
    rng = np.random.default_rng(1)
    means, errors = [], []
    for _ in range(400):
        estimates = rng.normal(size=(240, 6))
        exact = 3.0 + 0.9 * estimates[:40] + np.sqrt(1 - 0.81) * rng.normal(size=(40, 6))
        rows = two_phase.combined(exact, estimates + 10)
        found = AttentionPass({"tap": rows}, np.arange(240))
        means.append(found.mean()["tap"])
        errors.append(found.standard_error()["tap"])
    scatter = np.std(means, axis=0).mean()
    assert np.mean(means) == pytest.approx(3.0, abs=0.02)
    assert np.mean(errors) == pytest.approx(scatter, rel=0.07)
    # By hand: 0.81 / 240 + 0.19 / 40 is 0.0081, and 40 exact gaps alone have 1 / 40.
    assert scatter == pytest.approx(np.sqrt(0.0081), rel=0.07)
