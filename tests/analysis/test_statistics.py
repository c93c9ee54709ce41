"""Spreads and comparisons against numbers from textbooks, tables of quantiles and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from delta_jax.analysis import statistics
from delta_jax.analysis.statistics import Outcome

# "Student" (1908), The probable error of a mean, Biometrika 6: additional hours of sleep of ten patients by the two
# optical isomers of hyoscyamine. His mean difference is 1.58 hours; R's documentation of `sleep` has the t test.
SLEEP_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def outcomes(rights, seeds=None):
    """{method: {seed: Outcome}} of bool [seeds, images]."""
    return {
        method: {
            seed: Outcome(float(row.mean()), {f"{i}.png": bool(one) for i, one in enumerate(row)})
            for seed, row in zip(seeds or range(len(right)), right, strict=True)
        }
        for method, right in rights.items()
    }


def test_summary_by_hand():
    # 88.5, 88.7, 88.9: mean 88.7, deviation 0.2; t of 2 degrees is 4.3027, so the interval is 4.3027 * 0.2 / sqrt(3).
    found = statistics.summarize([0.885, 0.887, 0.889])
    assert found.mean == pytest.approx(0.887)
    assert found.std == pytest.approx(0.002)
    assert found.high - found.mean == pytest.approx(4.3027 * 0.002 / math.sqrt(3), rel=1e-4)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    assert found.n == 3


def test_one_value_has_no_spread_and_equal_values_none_but_zero():
    one = statistics.summarize([0.5])
    assert (one.mean, one.n) == (0.5, 1)
    assert all(math.isnan(value) for value in (one.std, one.low, one.high))
    assert math.isnan(statistics.summarize([]).mean)
    same = statistics.summarize([0.1 + 0.2, 0.3, 0.3])  # apart by rounding
    assert same.low == same.high == pytest.approx(0.3)


def test_students_sleep():
    found = statistics.paired(SLEEP_2, SLEEP_1)
    assert found.difference == pytest.approx(1.58)
    # R: t.test(extra ~ group, paired = TRUE): p-value = 0.002833, interval 0.7001142 to 2.4598858.
    assert found.p == pytest.approx(0.002833, abs=1e-6)
    assert found.low == pytest.approx(0.7001142, abs=1e-6)
    assert found.high == pytest.approx(2.4598858, abs=1e-6)
    with pytest.raises(ValueError, match="got 2 and 3 values"):
        statistics.paired([1, 2], [1, 2, 3])


def test_rank_test_needs_six_and_is_exact():
    assert math.isnan(statistics.rank_p([1, 2, 3, 4, 5]))
    assert statistics.rank_p([1, 2, 3, 4, 5, 6]) == 2 / 2**6  # all signs equal: two of all 64 patterns
    assert statistics.rank_p([0.0] * 6) == 1


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, none below the one before: 0.04, 0.06, 0.06, 0.06.
    assert statistics.holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert statistics.holm([0.9, 0.8]) == [1, 1]
    assert statistics.holm([]) == []


def test_interval_over_images_is_that_of_the_bootstrap():
    rng = np.random.default_rng(0)
    right = {"delta": rng.random((3, 400)) < 0.9, "l2": rng.random((3, 400)) < 0.8}
    found = statistics.compare("delta", "l2", outcomes(right)).images
    differences = right["delta"].mean(0) - right["l2"].mean(0)
    again = stats.bootstrap((differences,), np.mean, random_state=0).confidence_interval
    assert found.difference == pytest.approx(differences.mean())
    assert [found.low, found.high] == pytest.approx([again.low, again.high], abs=0.003)
    assert found.n == 400


def plain(seeds, images, *, noise=0.0, gain):
    """A method that gets `gain` more of the images right than another, the images of both being the same ones."""
    rng = np.random.default_rng(1)
    level = rng.random(images)
    jitter = rng.normal(0, noise, (2, seeds, 1))
    return {"l2": level < 0.7 + jitter[0], "delta": level < 0.7 + gain + jitter[1]}


@pytest.mark.parametrize(
    ("right", "verdict"),
    [
        (plain(5, 2000, noise=0.002, gain=0.05), "better"),
        (plain(5, 2000, noise=0.002, gain=-0.05), "worse"),
        (plain(5, 2000, noise=0.2, gain=0.05), "no difference shown"),  # the seeds differ by more
        (plain(5, 40, noise=0.0, gain=0.05), "no difference shown"),  # two or three images
        (plain(2, 2000, noise=0.002, gain=0.05), "no difference shown"),
    ],
)
def test_the_verdict_on_two_methods(right, verdict):
    found = statistics.compare("delta", "l2", outcomes(right))
    (judged,) = statistics.judge([found])
    assert judged.verdict == verdict
    excluded = [pair.low * pair.high > 0 for pair in (judged.seeds, judged.images)]
    if verdict == "no difference shown":
        assert not all(excluded)
    else:
        assert all(excluded)


def test_two_seeds_are_too_few_however_clear():
    (judged,) = statistics.judge([statistics.compare("delta", "l2", outcomes(plain(2, 2000, gain=0.2)))])
    assert judged.verdict == "no difference shown"
    assert judged.reason == "common seeds: 2; a verdict needs 3"


def test_only_common_seeds_and_images_count():
    right = outcomes(plain(4, 50, noise=0.01, gain=0.1))
    right["l2"] = {seed: one for seed, one in right["l2"].items() if seed != 2}
    right["delta"][0].correct.pop("7.png")
    found = statistics.compare("delta", "l2", right)
    assert found.seeds.n == 3
    assert found.images.n == 49
    by_hand = np.mean([right["delta"][seed].top1 - right["l2"][seed].top1 for seed in (0, 1, 3)])
    assert found.seeds.difference == pytest.approx(by_hand)


def test_without_predictions_there_is_no_verdict():
    runs = {name: {seed: Outcome(top1 + seed / 1000) for seed in range(5)} for name, top1 in (("a", 0.5), ("b", 0.9))}
    runs["a"][3] = Outcome(0.52)
    (judged,) = statistics.judge([statistics.compare("a", "b", runs)])
    assert judged.seeds.p < 1e-4
    assert (judged.verdict, judged.reason) == ("no difference shown", "no common test images in predictions.csv")


def test_nothing_in_common():
    runs = {"a": {0: Outcome(0.5)}, "b": {1: Outcome(0.6)}}
    (judged,) = statistics.judge([statistics.compare("a", "b", runs)])
    assert judged.seeds.n == 0
    assert judged.adjusted_p == 1


def test_a_family_is_corrected_together():
    """The same difference, alone and among 20 that show nothing: the correction takes the verdict away."""
    right = plain(5, 2000, noise=0.006, gain=0.022)
    alone = statistics.compare("delta", "l2", outcomes(right))
    none = statistics.compare("delta", "l2", outcomes(plain(5, 2000, noise=0.02, gain=0.0)))
    assert statistics.judge([alone])[0].verdict == "better"
    family = statistics.judge([none] * 10 + [alone] + [none] * 10)
    assert {one.verdict for one in family} == {"no difference shown"}
    assert family[10].family == 21
    assert family[10].adjusted_p == pytest.approx(21 * max(alone.seeds.p, alone.images.p))
    # t of 4 degrees at 1 - 0.05 / 21 / 2 against that at 0.975, from scipy's table of quantiles
    for before, after in ((alone, family[10]), (none, family[0]), (none, family[20])):  # Holm stops at the first
        wider = (after.seeds.high - after.seeds.low) / (before.seeds.high - before.seeds.low)
        assert wider == pytest.approx(stats.t.ppf(1 - 0.025 / 21, 4) / 2.7764, rel=1e-4)


def test_false_verdicts_are_rare():
    """Five methods that are the same, 60 times: a verdict in 5 % of the families would be 3; seeds and images vary."""
    rng, false = np.random.default_rng(0), 0
    for _ in range(60):
        level = rng.random(300)
        runs = outcomes({f"m{i}": level < 0.7 + rng.normal(0, 0.02, (5, 1)) for i in range(5)})
        pairs = [(a, b) for a in runs for b in runs if a < b]
        judged = statistics.judge([statistics.compare(a, b, runs) for a, b in pairs])
        false += any(one.verdict != "no difference shown" for one in judged)
    assert false <= 3


def test_a_contrast_of_one_group_with_two_cells_is_the_t_test_with_equal_variances():
    a, b = [0.61, 0.67, 0.64], [0.52, 0.58, 0.59]
    found = statistics.contrast({"a": 1.0, "b": -1.0}, {"a": a, "b": b}, lambda _: "all")
    theirs = stats.ttest_ind(a, b)  # scipy's, pooled
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-9)
    interval = theirs.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert found.n == 6


def test_a_contrast_of_two_groups_is_welchs_test():
    a, b = [0.61, 0.67, 0.64, 0.7], [0.52, 0.53, 0.52]
    found = statistics.contrast({"a": 1.0, "b": -1.0}, {"a": a, "b": b}, lambda cell: cell)
    theirs = stats.ttest_ind(a, b, equal_var=False)  # scipy's, with Satterthwaite's degrees of freedom
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert found.low == pytest.approx(theirs.confidence_interval().low, rel=1e-9)


def test_a_contrast_pools_the_spread_of_cells_that_have_no_factor():
    values = {"a": [0.5, 0.7], "b": [0.4, 0.4], "c": [0.1, 0.5], "other": [0.0, 9.0]}
    found = statistics.contrast({"a": 0.5, "b": 0.5}, values, lambda cell: cell == "other")
    # By hand: squares 0.02 + 0 + 0.08 over 3 degrees of freedom; factors 2 * 0.25 / 2; t of 3 degrees is 3.182446.
    half = 3.182446 * (0.25 * 0.1 / 3) ** 0.5
    assert (found.difference, found.low, found.high) == pytest.approx((0.5, 0.5 - half, 0.5 + half), rel=1e-6)


def test_a_contrast_of_single_values_has_no_interval_and_of_none_no_sum():
    found = statistics.contrast({"a": 1.0, "b": -1.0}, {"a": [0.5], "b": [0.25]}, lambda cell: cell)
    assert found.difference == 0.25
    assert math.isnan(found.low)
    with pytest.raises(ValueError, match="no values of b"):
        statistics.contrast({"a": 1.0, "b": -1.0}, {"a": [0.5], "b": []}, lambda cell: cell)
