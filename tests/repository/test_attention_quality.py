"""The statistics of benchmarks/attention_quality.py against scipy and hand-computed numbers, and the script once."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from delta_jax import precision
from delta_jax.analysis import gap_statistics
from delta_jax.models import registry
from tests import benchmark_scripts, small_network
from tests.small_network import FILTERS
from tests.small_run import make_photos, weights_of

RNG = np.random.default_rng(0)
BFLOAT16 = precision.computes_bfloat16()  # else its gaps are what lay in memory


quality = benchmark_scripts.load("attention_quality")


def test_rank_correlation_is_scipys():
    a, b = RNG.standard_normal((2, 5, 30))
    a[:, ::3] = 0  # ties, as among filters that are dead
    expected = [scipy.stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(gap_statistics.rank_correlation(a, b), expected, atol=1e-12)


def test_rank_correlation_with_a_constant_is_no_number():
    found = gap_statistics.rank_correlation(
        np.array([[1.0, 1.0, 1.0], [3.0, 1.0, 2.0]]), np.array([[1.0, 2.0, 3.0]] * 2)
    )
    # Ranks 3 1 2 against 1 2 3: 1 - 6 * (4 + 1 + 1) / (3 * 8) = -1/2.
    np.testing.assert_allclose(found, [np.nan, -0.5])


def test_relative_error_is_in_standard_deviations_of_the_truth():
    truth = np.array([[1.0, 3.0], [2.0, 2.0]])  # standard deviations 1 and 0
    found = np.array([[4.0, 7.0], [2.0, 2.0]])  # off by 3 and 4: RMS sqrt(25 / 2)
    np.testing.assert_allclose(gap_statistics.relative_error(found, truth), [np.sqrt(12.5), np.nan])


def test_sign_changes_do_not_count_zeros():
    # Of the four only the last two have another sign: a zero is neither positive nor negative.
    assert gap_statistics.sign_changes(np.array([1.0, -2.0, 0.0, 3.0]), np.array([0.5, -0.1, 1.0, -3.0])) == 0.5


@pytest.mark.parametrize(("first", "last", "sizes"), [(4, 4, [4]), (4, 31, [4, 8, 16]), (4, 32, [4, 8, 16, 32])])
def test_numbers_of_images_double_up_to_the_last(first, last, sizes):
    assert quality.doubling(first, last) == sizes


def test_the_same_time_is_spent_in_every_way():
    seconds = {"exact": 1.0, "first_order": 0.1, "mixed_0": 0.25}
    # 10 s: 100 images at 0.1, 40 at 0.25; an exact image with 16 estimated ones takes 5 s.
    expected = {"exact": (0, 10), "first_order": (100, 0), "mixed_0": (40, 0), "two_phase": (32, 2)}
    assert quality.images_for_the_time(10, seconds, 1000) == expected
    # Of 20 images all are estimated, in 5 s, and 5 measured.
    assert quality.images_for_the_time(10, seconds, 20)["two_phase"] == (20, 5)


def test_errors_for_the_same_time_are_those_of_the_means():
    exact = RNG.standard_normal((32, 10)).astype(np.float32) + np.arange(10, dtype=np.float32)
    found = {"exact": {"tap": exact}, "mixed_0": {"tap": exact + 7}}  # which two phases correct
    told = quality.for_the_time("tap", found, {"exact": 1.0, "mixed_0": 0.01}, seed=0)
    assert list(told) == ["8", "16"]
    assert told["8"]["two_phase"] == {
        "estimated": 32,
        "exact": 7,
        "spearman": pytest.approx(1),
        "weights": pytest.approx(0, abs=1e-6),
    }
    assert told["8"]["mixed_0"]["spearman"] == pytest.approx(1)
    assert 0 < told["16"]["exact"]["weights"] < told["8"]["exact"]["weights"]


def test_split_half_reliability_is_1_where_images_agree_and_about_0_where_they_do_not():
    alike = np.tile(RNG.standard_normal(50), (16, 1))
    np.testing.assert_allclose(gap_statistics.split_half_reliability(alike, 8, splits=5, seed=0), np.ones(5))
    unlike = RNG.standard_normal((16, 2000))
    # Of 2,000 filters the standard deviation of a rank correlation is 1 / sqrt(1999) = 0.022 by chance.
    assert np.abs(gap_statistics.split_half_reliability(unlike, 8, splits=5, seed=0)).max() < 0.11


def test_split_half_reliability_grows_as_spearman_and_brown_say():
    # Gap = filter + noise, both of variance 1: halves of n images correlate n / (n + 1). The rank correlation of normal
    # numbers that correlate rho is 6 / pi * arcsin(rho / 2).
    gaps = RNG.standard_normal(4000) + RNG.standard_normal((32, 4000))
    for n in (1, 4, 16):
        expected = 6 / np.pi * np.arcsin(n / (n + 1) / 2)
        found = gap_statistics.split_half_reliability(gaps, n, splits=20, seed=0)
        np.testing.assert_allclose(found.mean(), expected, atol=0.02)
        assert found.shape == (20,)


def test_the_halves_are_disjoint():
    # Image i has a large gap at filter i alone, so filters are ranked high in one half only: of 4 filters, ranks
    # 3.5 3.5 1.5 1.5 against 1.5 1.5 3.5 3.5.
    np.testing.assert_allclose(gap_statistics.split_half_reliability(np.eye(4), 2, splits=6, seed=1), -np.ones(6))


def test_agreement_with_all_is_1_for_all_and_scipys_for_one():
    gaps = RNG.standard_normal((8, 30))
    np.testing.assert_allclose(gap_statistics.agreement_with_all(gaps, 8, splits=3, seed=0), np.ones(3))
    # One image of two: the mean over the choices lies between those of the two images.
    pair = gaps[:2]
    expected = [scipy.stats.spearmanr(image, pair.mean(0)).statistic for image in pair]
    found = gap_statistics.agreement_with_all(pair, 1, splits=20, seed=0)
    np.testing.assert_allclose(np.unique(found.round(9)), np.unique(np.round(expected, 9)))


def test_attention_spread_is_relative_to_uniform_weights():
    weights = np.array([[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0], [0.7, 0.1, 0.1, 0.1]], np.float32)
    found = gap_statistics.attention_spread(weights)
    np.testing.assert_allclose(found["lowest"], [1, 0, 0.4], rtol=1e-6)
    np.testing.assert_allclose(found["highest"], [1, 2, 2.8], rtol=1e-6)
    np.testing.assert_allclose(found["effective_filters"], np.exp(scipy.stats.entropy(weights, axis=1)), rtol=1e-6)


def test_two_estimates_are_compared_as_by_hand():
    truth = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])
    found = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [5.0, 5.0, -5.0]])
    measured = gap_statistics.compare(found, truth)
    # Images: 1, -1, and none for the constant one. Means 3, 3, -1/3 against 7/3, 3, 11/3: ranks 2.5 2.5 1 and 1 2 3.
    assert measured["spearman_per_image"] == 0
    np.testing.assert_allclose(measured["spearman_of_mean"], scipy.stats.spearmanr([3, 3, 0], [1, 2, 3]).statistic)
    # RMS 0 and sqrt(8 / 3), standard deviations sqrt(2 / 3): errors 0 and 2, median 1.
    np.testing.assert_allclose(measured["error_per_image"], 1)
    # Differences 2/3, 0 and -4 of the means, whose standard deviation is that of 7, 9, 11 thirds: sqrt(8 / 3) / 3.
    np.testing.assert_allclose(measured["error_of_mean"], np.sqrt((4 / 9 + 16) / 3) / (np.sqrt(8 / 3) / 3))
    np.testing.assert_allclose(measured["sign_changes"], 1 / 9)


def test_the_median_image_is_one_of_those_that_have_a_number():
    assert gap_statistics.median(np.array([1.0, np.nan, 2.0, 9.0])) == 2
    assert np.isnan(gap_statistics.median(np.array([np.nan])))


def test_plain_is_json_of_four_digits_without_nan():
    found = quality.plain({"a": np.float64(0.123456), 8: [float("nan"), 1e-5, 3], "b": {"c": float("inf")}})
    assert found == {"a": 0.1235, "8": [None, 1e-5, 3], "b": {"c": None}}


def test_exact_gaps_are_found_again_for_the_same_key_only(tmp_path):
    path = tmp_path / "gaps.npz"
    gaps = {"z/conv": np.eye(2), "a": np.zeros((2, 5))}
    assert quality.load_exact(path, "one") is None
    quality.save_exact(path, "one", 0.5, gaps)
    assert quality.load_exact(path, "another") is None
    seconds, found = quality.load_exact(path, "one")
    assert seconds == 0.5
    assert list(found) == ["z/conv", "a"]  # in the order of the network
    np.testing.assert_equal(found, gaps)


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """Of three classes, 14 of them for training; the network is one that compiles fast."""
    photos = make_photos(tmp_path / "photos" / "train", per_class=8)
    monkeypatch.setitem(registry._SPECS, "small_network", small_network.spec())
    monkeypatch.setattr(quality, "sources", lambda: {"small_network": str(weights_of(photos))})
    monkeypatch.setenv("DELTA_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "as conftest.py says")  # only whether it is set is looked at
    return tmp_path / "photos"


def test_the_script_on_a_few_photos(photos, tmp_path, capsys):
    arguments = [f"--photos={photos}", f"--out={tmp_path / 'out'}", "--arch=small_network", "--images=8", "--size=32"]
    arguments += ["--exact_filters=24"]
    quality.main(arguments)
    printed = capsys.readouterr().out
    stem = tmp_path / "out" / "attention_quality_small_network_photos"
    assert stem.with_suffix(".md").read_text() in printed
    assert stem.with_suffix(".png").stat().st_size > 10_000
    result = json.loads(stem.with_suffix(".json").read_text())
    assert not result["exact_from_earlier_run"]
    assert list(result["seconds_per_image"]) == [
        *("exact", "first_order", "linear_logits", "linear_logits_2", "mixed_0", "mixed_24"),
    ]
    assert {tap: facts["filters"] for tap, facts in result["taps"].items()} == FILTERS
    for facts in result["taps"].values():
        errors = {name: one["error_per_image"] for name, one in facts["estimators"].items()}
        assert errors["mixed_24"] < errors["first_order"]
        assert (errors["mixed_24"] < 1e-5) == (facts["filters"] == 24), errors  # where all filters are exact
        errors = {name: one["error_per_image"] for name, one in facts["precision"].items()}
        assert errors["float32 against float64"] < 1e-2
        if BFLOAT16:
            assert errors["bfloat16 against float64"] > 1e-2

    quality.main([*arguments, "--skip_precision"])
    again = json.loads(stem.with_suffix(".json").read_text())
    assert again["exact_from_earlier_run"]
    assert again["seconds_per_image"]["exact"] == result["seconds_per_image"]["exact"]
    for facts in result["taps"].values():
        del facts["precision"]
    for facts in (*again["taps"].values(), *result["taps"].values()):
        assert "exact" in facts.pop("for_the_time")["8"]  # how many images it is depends on the clock
    assert again["taps"] == result["taps"]


def test_too_many_images_are_one_clear_error(photos, tmp_path):
    with pytest.raises(SystemExit, match="--images=99: there are only 14 training images; take fewer"):
        quality.main([f"--photos={photos}", f"--out={tmp_path}", "--arch=small_network", "--images=99", "--size=32"])
