"""What repeated runs show: spreads, and paired comparisons of two methods.

Two things vary. Another seed gives another network, and another draw of test images another accuracy for the same
network. A difference is only called one here where it is larger than both can explain.
"""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
LEAST_SEEDS = 3  # for a verdict; the spread of two is hardly known
LEAST_RANKS = 6  # of five seeds the least p value of a rank test is 2 / 32, above 1 - CONFIDENCE
_EQUAL = 1e-9  # accuracies that are this close are the same, up to rounding: there is no spread to test with
BETTER, WORSE, UNDECIDED = "better", "worse", "no difference shown"
_Cell = TypeVar("_Cell", bound=Hashable)


class Summary(NamedTuple):
    """Of repeated runs.

    Attributes:
      mean: of the values; NaN where there are none.
      std: with n - 1; NaN below two values.
      low, high: Student's t interval of the mean, 95 %; NaN below two values.
      n: values.
    """

    mean: float
    std: float
    low: float
    high: float
    n: int


class Paired(NamedTuple):
    """The mean of n paired differences.

    Attributes:
      difference: their mean; NaN where there are none.
      low, high: Student's t interval; NaN below two differences.
      p: of the two-sided paired t test; NaN below two differences.
      n: differences.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One run on the test images.

    Attributes:
      top1: accuracy, a fraction.
      correct: {file: right or not} of its test images; empty where the run left no predictions.
    """

    top1: float
    correct: Mapping[str, bool] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One method against another: top-1 of `first` minus that of `second`.

    Attributes:
      first, second: names.
      seeds: over the runs that both have.
      rank_p: of Wilcoxon's test on the seeds, which does not ask for normal differences; NaN below 6 of them.
      images: over the test images that all these runs have, each averaged over the seeds first.
      family: how many comparisons were corrected together.
      adjusted_p: the larger of both p values, after Holm's correction; 1 where one is missing.
      verdict: "better" or "worse" of `first`, or "no difference shown".
      reason: what a verdict is missing, "" for nothing.
    """

    first: str
    second: str
    seeds: Paired
    rank_p: float
    images: Paired
    family: int = 1
    adjusted_p: float = 1.0
    verdict: str = UNDECIDED
    reason: str = ""


def summarize(values: Sequence[float]) -> Summary:
    """Mean and spread of the values of repeated runs."""
    x = np.asarray(values, np.float64)
    if len(x) < 2:
        return Summary(float(x[0]) if len(x) else np.nan, np.nan, np.nan, np.nan, len(x))
    low, high = _interval(x)
    return Summary(float(x.mean()), float(x.std(ddof=1)), low, high, len(x))


def paired(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> Paired:
    """`first` minus `second`, [n] each, in the same order; the paired t test and its 95 % interval.

    Raises:
      ValueError: they are not of the same length.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"pairs are needed: got {a.size} and {b.size} values")
    d = a - b
    if len(d) < 2:
        return Paired(float(d[0]) if len(d) else np.nan, np.nan, np.nan, np.nan, len(d))
    low, high = _interval(d)
    p = float(d.mean() == 0) if np.ptp(d) < _EQUAL else float(stats.ttest_1samp(d, 0.0).pvalue)
    return Paired(float(d.mean()), low, high, p, len(d))


def contrast(
    weights: Mapping[_Cell, float], values: Mapping[_Cell, Sequence[float]], group: Callable[[_Cell], Hashable]
) -> Paired:
    """A weighted sum of cells' means, where cells have too few values each to know their spread alone.

    The variance within cells is pooled over those of a group; the sum's t interval has Satterthwaite's degrees of
    freedom (Biometrics Bulletin 2, 1946).

    Args:
      weights: {cell: factor}.
      values: {cell: its repeated values}: of all cells with a factor, and of others of their groups.
      group: of a cell.

    Returns:
      The sum as a difference, with n the number of values it is made of; without an interval where no cell of a group
      has two values.

    Raises:
      ValueError: a cell has no value.
    """
    empty = [cell for cell in weights if not len(values.get(cell, ()))]
    if empty:
        raise ValueError(f"no values of {', '.join(map(str, empty))}; expected one at least of each cell")
    total = float(sum(factor * np.mean(values[cell]) for cell, factor in weights.items()))
    count = sum(len(values[cell]) for cell in weights)
    groups = {group(cell) for cell in weights}
    freedom = {one: sum(len(x) - 1 for cell, x in values.items() if len(x) and group(cell) == one) for one in groups}
    if not all(freedom.values()):
        return Paired(total, np.nan, np.nan, np.nan, count)
    shares = []  # of the sum's variance and degrees of freedom, a group each
    for one, degrees in freedom.items():
        squares = sum(float(np.var(x)) * len(x) for cell, x in values.items() if len(x) and group(cell) == one)
        factors = sum(factor**2 / len(values[cell]) for cell, factor in weights.items() if group(cell) == one)
        shares.append((factors * squares / degrees, degrees))
    variance = sum(share for share, _ in shares)
    if variance < _EQUAL**2:
        return Paired(total, total, total, float(abs(total) < _EQUAL), count)
    effective = variance**2 / sum(share**2 / degrees for share, degrees in shares)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, effective) * np.sqrt(variance))
    p = float(2 * stats.t.sf(abs(total) / np.sqrt(variance), effective))
    return Paired(total, total - half, total + half, p, count)


def rank_p(differences: Sequence[float] | np.ndarray) -> float:
    """Two-sided p value of Wilcoxon's signed rank test on [n] paired differences; NaN below 6 of them."""
    d = np.asarray(differences, np.float64)
    if len(d) < LEAST_RANKS:
        return float("nan")
    return float(stats.wilcoxon(d).pvalue) if d.any() else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order of `p`: each may be held against the level of the whole family."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(one) for one in adjusted]


def compare(first: str, second: str, outcomes: Mapping[str, Mapping[Any, Outcome]]) -> Comparison:
    """Two methods on the runs that both have; without a verdict, which `judge` gives to a family of comparisons.

    Args:
      first, second: keys of `outcomes`.
      outcomes: {method: {key: outcome}}; runs with equal keys, their seed and fold, are paired.
    """
    a, b = outcomes[first], outcomes[second]
    common = [key for key in a if key in b]
    one, other = ([runs[key].top1 for key in common] for runs in (a, b))
    files, right = _images([runs[key].correct for runs in (a, b) for key in common])
    images = right.reshape(2, -1, len(files)).mean(axis=1) if files else np.zeros((2, 0))
    return Comparison(first, second, paired(one, other), rank_p(np.subtract(one, other)), paired(images[0], images[1]))


def judge(family: Sequence[Comparison]) -> list[Comparison]:
    """Gives a verdict to each comparison of a family, with Holm's correction over it.

    A difference has to exceed what seeds explain and what test images explain, so the larger of both p values counts.
    The intervals become those of the level that Holm's procedure holds the comparison against: where there is a
    verdict, both exclude zero.
    """
    larger = [1.0 if _missing(one) else max(one.seeds.p, one.images.p) for one in family]
    adjusted = holm(larger)
    rejected = sum(p < 1 - CONFIDENCE for p in adjusted)
    judged = list(family)
    for rank, place in enumerate(np.argsort(larger, kind="stable")):
        one, p = family[place], adjusted[place]
        reason, level = _missing(one), 1 - (1 - CONFIDENCE) / (len(family) - min(rank, rejected))
        verdict = UNDECIDED
        if not reason and p < 1 - CONFIDENCE:
            verdict = BETTER if one.seeds.difference > 0 else WORSE
        judged[place] = dataclasses.replace(
            one,
            seeds=_at(one.seeds, level),
            images=_at(one.images, level),
            family=len(family),
            adjusted_p=p,
            verdict=verdict,
            reason=reason,
        )
    return judged


def _missing(comparison: Comparison) -> str:
    """Why there can be no verdict; "" if there can."""
    if comparison.seeds.n < LEAST_SEEDS:
        return f"common seeds: {comparison.seeds.n}; a verdict needs {LEAST_SEEDS}"
    if comparison.images.n < 2:
        return "no common test images in predictions.csv"
    if comparison.seeds.difference * comparison.images.difference < 0:
        return "the predictions contradict the accuracies"
    return ""


def _interval(x: np.ndarray) -> tuple[float, float]:
    if np.ptp(x) < _EQUAL:
        return float(x.mean()), float(x.mean())
    low, high = stats.t.interval(CONFIDENCE, len(x) - 1, loc=x.mean(), scale=stats.sem(x))
    return float(low), float(high)


def _at(pair: Paired, confidence: float) -> Paired:
    """The same with the interval of another level."""
    if pair.n < 2:
        return pair
    wider, given = stats.t.ppf((1 + np.array([confidence, CONFIDENCE])) / 2, pair.n - 1)
    half = float((pair.high - pair.low) / 2 * wider / given)
    return pair._replace(low=pair.difference - half, high=pair.difference + half)


def _images(runs: Sequence[Mapping[str, bool]]) -> tuple[list[str], np.ndarray]:
    """Files that all runs have, and float64 [runs, files]: right or not."""
    files = [file for file in runs[0] if all(file in run for run in runs)] if runs else []
    return files, np.array([[run[file] for file in files] for run in runs], np.float64)
