"""Normalisations of gaps against scipy, and the share of them that is signal against numpy."""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from delta_jax import attention

RNG = np.random.default_rng(0)
GAPS: dict[str, Any] = {
    "per image": RNG.standard_normal((3, 7)).astype(np.float32),
    "mean": RNG.standard_normal(5).astype(np.float32),
}


@pytest.mark.parametrize("temperature", [1.0, 0.1, 5.0])
@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_softmax_is_scipys_at_every_temperature(temperature, array):
    found = attention.normalize({name: array(gap) for name, gap in GAPS.items()}, "softmax", temperature=temperature)
    for name, gap in GAPS.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], scipy.special.softmax(gap / temperature, axis=-1), rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 5.0])
@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_standardized_softmax_takes_z_scores_per_tap_and_image(temperature, array):
    gaps = {name: array(gap) for name, gap in GAPS.items()}
    found = attention.normalize(gaps, "standardized_softmax", temperature=temperature)
    for name, gap in GAPS.items():
        z = (gap - gap.mean(-1, keepdims=True)) / gap.std(-1, keepdims=True)
        np.testing.assert_allclose(found[name], scipy.special.softmax(z / temperature, axis=-1), rtol=1e-5)


def test_standardized_softmax_does_not_depend_on_the_size_of_the_gaps():
    # Why the published code uses it: gaps of 1e-4 give the same weights as gaps of 1.
    small: dict[str, Any] = {name: 1e-4 * gap for name, gap in GAPS.items()}
    found, expected = (attention.normalize(gaps, "standardized_softmax", temperature=5.0) for gaps in (small, GAPS))
    for name in GAPS:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4)


@pytest.mark.parametrize("how", attention.NORMALIZATIONS)
@pytest.mark.parametrize("value", [0.0, 0.1, -3e-5])
def test_equal_gaps_give_uniform_weights(how, value):
    for full in (jnp.full, np.full):
        found = attention.normalize({"tap": full((2, 7), value)}, how)
        np.testing.assert_allclose(found["tap"], np.full((2, 7), 1 / 7), rtol=1e-6)


def test_uniform_ignores_the_gaps():
    found = attention.normalize(GAPS, "uniform")
    np.testing.assert_allclose(found["per image"], np.full((3, 7), 1 / 7), rtol=1e-6)
    np.testing.assert_allclose(found["mean"], np.full(5, 1 / 5), rtol=1e-6)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("how", ["softmax", "standardized_softmax"])
def test_over_all_taps_the_filters_of_all_taps_compete(how, array):
    gaps: Any = {"a": array(GAPS["per image"]), "b": array(3 * RNG.standard_normal((3, 4)).astype(np.float32))}
    found = attention.normalize(gaps, how, temperature=2.0, over="all_taps")
    joined = np.concatenate([gaps["a"], gaps["b"]], axis=1)
    if how == "standardized_softmax":
        joined = (joined - joined.mean(1, keepdims=True)) / joined.std(1, keepdims=True)
    expected = 2 * scipy.special.softmax(joined / 2.0, axis=1)  # two taps
    np.testing.assert_allclose(np.concatenate([found["a"], found["b"]], axis=1), expected, rtol=1e-5)
    assert list(found) == ["a", "b"]


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("how", ["softmax", "standardized_softmax"])
@pytest.mark.parametrize("over", attention.SCOPES)
def test_what_is_noise_is_shrunk_towards_the_mean_of_its_tap(array, how, over):
    gaps: Any = {"a": array(GAPS["mean"]), "b": array(3 * GAPS["mean"][:4] + 1)}
    found = attention.normalize(gaps, how, temperature=2.0, over=over, signal={"a": 0.25, "b": 0.0})
    a, b = (np.asarray(gap, np.float64) for gap in gaps.values())
    if how == "standardized_softmax":
        scales = (a, b) if over == "tap" else [np.concatenate([a, b])] * 2
        a, b = ((x - scale.mean()) / scale.std() for x, scale in zip((a, b), scales, strict=True))
    a, b = (a.mean() + 0.25 * (a - a.mean())) / 2.0, np.full(4, b.mean()) / 2.0
    expected = np.concatenate([scipy.special.softmax(a), scipy.special.softmax(b)])
    if over == "all_taps":
        expected = 2 * scipy.special.softmax(np.concatenate([a, b]))
    np.testing.assert_allclose(np.concatenate([found["a"], found["b"]]), expected, rtol=1e-5)


def test_weights_that_are_shrunk_by_hand():
    # Gaps 0 and ln 9 have weights 1/10 and 9/10; by a half: exponents 0 and ln 3, so 1/4 and 3/4; by all: uniform.
    gaps = {"tap": np.array([0.0, np.log(9.0)])}
    for share, expected in ((1.0, [0.1, 0.9]), (0.5, [0.25, 0.75]), (0.0, [0.5, 0.5])):
        np.testing.assert_allclose(attention.normalize(gaps, signal={"tap": share})["tap"], expected, rtol=1e-12)


def test_the_signal_is_what_halves_share_averaged_over_all_ways_to_halve():
    table = RNG.standard_normal((6, 9)) + 0.8 * RNG.standard_normal(9) + 5 * RNG.standard_normal((6, 1))
    shares = []
    for half in itertools.combinations(range(6), 3):
        a = table[list(half)].sum(0)
        b = table.sum(0) - a
        shares.append(4 * np.cov(a, b)[0, 1] / np.var(a + b, ddof=1))
    assert 0.1 < np.mean(shares) < 0.9
    assert attention.signal_of(table) == pytest.approx(np.mean(shares), rel=1e-12)


def test_the_signal_by_hand():
    # Filter means 0, 1, 2, 3 and residuals of +-1: variance between filters 2 * 5/3, residual 8 / 3; 1 - 8/10.
    level, noise = np.arange(4.0), np.array([1.0, -1.0, -1.0, 1.0])
    assert attention.signal_of(np.stack([level + noise, level - noise])) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], 1.0),  # alike but for a shift of a whole image
        ([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]], 0.0),  # the opposite of each other
        ([[1.0, 2.0, 3.0]], 0.0),
        ([[1.0], [2.0]], 0.0),
        ([[0.0, 0.0], [0.0, 0.0]], 0.0),
    ],
)
def test_the_signal_of_tables_that_need_no_arithmetic(gaps, expected):
    assert attention.signal_of(np.array(gaps)) == pytest.approx(expected)


def test_noise_has_no_signal_on_average():
    # Of noise 1 - residual / between is 0 on average but for the ratio's own mean: (C - 1) / (C - 3) of residual's.
    found = [attention.signal_of(RNG.standard_normal((20, 200))) for _ in range(50)]
    assert np.mean(found) < 0.06


def test_normalisations_that_do_not_exist():
    with pytest.raises(ValueError, match="normalisation over 'filters', expected one of"):
        attention.normalize(GAPS, over="filters")
    with pytest.raises(ValueError, match="normalisation 'sigmoid' is not one of"):
        attention.normalize(GAPS, "sigmoid")
    with pytest.raises(ValueError, match="temperature 0 is not positive"):
        attention.normalize(GAPS, "softmax", temperature=0)
    with pytest.raises(ValueError, match=r"tap: a signal of 1.5, expected a share in \[0, 1\]"):
        attention.normalize({"tap": np.zeros(3)}, signal={"tap": 1.5})
