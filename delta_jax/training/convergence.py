"""What the looks at the validation images say of a run: still improving, converged, or getting worse.

Every look is at the same images, so two looks are compared image by image: the standard error of the mean change is
that of the differences, which is much smaller than that of either mean. Beside it a network that is being trained
bounces from look to look, more so at a high rate: how much, the looks themselves tell.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import numpy as np

IMPROVING, CONVERGED, WORSE, UNKNOWN = "improving", "converged", "worse", "unknown"
LEAST_IMAGES = 10  # the standard error of fewer differences is itself hardly known
# A change of less than this share of the cross-entropy, or of so many nats, is none that anybody would train on for.
_SHARE, _NATS = 0.05, 0.01
_LEAST_BETTER = 0.001  # nats: a network that is sure of every image grows ever surer, by next to nothing


class Change(NamedTuple):
    """Of a mean over images: later minus earlier, and its standard error."""

    mean: float
    error: float


@dataclass(frozen=True, eq=False)
class Looks:
    """All looks of a run at its validation images, in order.

    Attributes:
      steps: int64 [L], rising: how many had been made.
      losses: float32 [L, n], cross-entropy of each image in nats.
      right: bool [L, n], whether its class was recognised.
    """

    steps: np.ndarray
    losses: np.ndarray
    right: np.ndarray

    @classmethod
    def none(cls) -> Self:
        """Before the first look."""
        return cls(np.zeros(0, np.int64), np.zeros((0, 0), np.float32), np.zeros((0, 0), bool))

    def __len__(self) -> int:
        return len(self.steps)

    def first(self, count: int) -> "Looks":
        """The first `count` of them."""
        return Looks(self.steps[:count], self.losses[:count], self.right[:count])

    def until(self, step: int) -> "Looks":
        """Those after `step` steps or fewer."""
        return self.first(int(np.searchsorted(self.steps, step, side="right")))

    def since(self, step: int) -> "Looks":
        """Those after `step` steps or more."""
        start = int(np.searchsorted(self.steps, step))
        return Looks(self.steps[start:], self.losses[start:], self.right[start:])

    def and_one(self, step: int, losses: np.ndarray, right: np.ndarray) -> "Looks":
        """These and a look after `step` steps, losses and right [n]."""
        # As they are on disk: a run that was stopped has to find what one that was not remembers.
        new = np.asarray(losses, np.float32)[None]
        if not len(self):
            return Looks(np.array([step]), new, right[None])
        return Looks(np.append(self.steps, step), np.append(self.losses, new, 0), np.append(self.right, right[None], 0))


def change(values: np.ndarray, first: int, second: int) -> Change:
    """From look `first` to look `second` of values [L, n]; the error is infinite for a single image."""
    differences = values[second].astype(np.float64) - values[first].astype(np.float64)
    n = len(differences)
    return Change(float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf)


def bounce(values: np.ndarray) -> float:
    """Standard deviation of looks about a straight line, from the means of values [L, n]; 0 for fewer than three.

    By second differences, of which each is that of three looks with the factors 1, -2, 1: the squares' mean is 6 times
    the variance.
    """
    seconds = np.diff(values.mean(axis=1, dtype=np.float64), 2)
    return math.sqrt(float(np.mean(np.square(seconds))) / 6) if len(seconds) else 0.0


def trend(values: np.ndarray, first: int, second: int) -> Change:
    """`change`, whose error is also that of the bounce of both looks."""
    mean, error = change(values, first, second)
    around = bounce(values[max(min(first, second - 2), 0) : second + 1])
    return Change(mean, math.hypot(error, math.sqrt(2) * around))


def without_improvement(looks: Looks) -> int:
    """How many looks have passed since the last that was better than the best before.

    Better is a lower cross-entropy or a higher top-1, by more than the standard error of the change, and than 0.001
    nats; what is better by less is not yet the best, so that a slow improvement adds up.
    """
    newest = 0
    for values, least in ((looks.losses, _LEAST_BETTER), (~looks.right, 0.0)):
        best = 0
        for look in range(1, len(looks)):
            mean, error = change(values, best, look)
            if mean < -max(error, least):
                best = look
        newest = max(newest, best)
    return len(looks) - 1 - newest


@dataclass(frozen=True)
class Verdict:
    """Whether more steps would pay.

    Attributes:
      verdict: "improving", "converged", "worse" or "unknown".
      said: the same as a sentence.
      since: step from which on it has converged, or gets worse; None where it does not.
      between: the steps of the two looks that were compared; None for none.
      cross_entropy, top1: their `trend` between these; None for none.
      looks, images: how many.
    """

    verdict: str
    said: str
    since: int | None = None
    between: tuple[int, int] | None = None
    cross_entropy: Change | None = None
    top1: Change | None = None
    looks: int = 0
    images: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        changes = {
            name: None if one is None else {"change": one.mean, "standard_error": one.error}
            for name, one in (("cross_entropy", self.cross_entropy), ("top1", self.top1))
        }
        return asdict(self) | changes


def judge(looks: Looks, rates: np.ndarray, *, stretches: bool) -> Verdict:
    """Whether a run of so many steps would have gained by more.

    A schedule whose decay is a share of the steps is stretched by more of them. Its end is no witness then: as the rate
    falls every run comes to rest, and gets better by it, however far it still had to go. So two looks are compared
    while the rate stays within a half of itself: the last that are apart by about a quarter of the whole way, which is
    the sum of the rates; and the last of a constant tail. Where more steps would be added at the end, it is the last
    quarter.

    Args:
      looks: of the run; some, and not from the first on, of one that was begun without.
      rates: learning rates [T] of its T steps.
      stretches: whether the schedule would be that of a longer run ("step", "cosine"), rather than go on.
    """
    said = _too_few(looks)
    if said:
        return Verdict(UNKNOWN, said, looks=len(looks), images=looks.losses.shape[1])
    means = looks.losses.mean(axis=1, dtype=np.float64)
    last, best = len(looks) - 1, int(means.argmin())
    if means[last] <= _NATS:  # nothing is left to gain, however it fell
        since = min(int(np.flatnonzero(means <= _NATS)[0]), last - 1)
        return _verdict(looks, CONVERGED, since, last, since=since)
    if best != last and _moved(looks, best, last) == "rose":
        return _verdict(looks, WORSE, best, last, since=best)
    pairs = _pairs(looks, np.asarray(rates, np.float64), stretches)
    for pair in pairs:
        if _moved(looks, *pair) == "fell":
            return _verdict(looks, IMPROVING, *pair)
    if not pairs:
        times = f"the validation images were looked at {len(looks)} times, too seldom for this schedule"
        said = f"cannot be told: {times}; try --config.eval_every={max(len(rates) // 10, 1)}"
        return Verdict(UNKNOWN, said, looks=len(looks), images=looks.losses.shape[1])
    first, second = pairs[0]
    if _moved(looks, first, second) == "unclear":
        return _verdict(looks, UNKNOWN, first, second)
    since = first
    while since and _moved(looks, since - 1, second) in ("stayed", "rose"):
        since -= 1
    return _verdict(looks, CONVERGED, first, second, since=since)


def _too_few(looks: Looks) -> str:
    images = looks.losses.shape[1]
    if len(looks) < 2:
        return "cannot be told: one look at the validation images; a smaller --config.eval_every shows a curve"
    if images < LEAST_IMAGES:
        return f"cannot be told: {images} validation images, expected {LEAST_IMAGES} or more"
    if not np.isfinite(looks.losses).all():
        return "cannot be told: a validation cross-entropy is not finite"
    return ""


def _moved(looks: Looks, first: int, second: int) -> str:
    """What the cross-entropy did: "fell", "rose", "stayed", or "unclear"; intervals are two standard errors."""
    mean, error = trend(looks.losses, first, second)
    matters = max(_SHARE * float(looks.losses[first].mean(dtype=np.float64)), _NATS)
    low, high = mean - 2 * error, mean + 2 * error
    if -matters <= low and high <= matters:
        return "stayed"
    return "fell" if high < 0 else "rose" if low > 0 else "unclear"


def _pairs(looks: Looks, rates: np.ndarray, stretches: bool) -> list[tuple[int, int]]:
    """The looks to compare, (earlier, later); [] where they are too few."""
    steps, at = looks.steps, rates[looks.steps - 1]
    past = steps > int(rates.argmax())  # warm-up is another matter
    if not stretches:
        pair = _pair(steps, len(rates), lambda i, j: bool(past[i]) and j == len(looks) - 1)
        return [pair] if pair else []

    def alike(i: int, j: int) -> bool:
        return bool(past[i]) and at[j] >= at[i] / 2

    way = np.cumsum(rates)
    whole = float(way[-1]) or 1.0  # where every rate is 0
    found = [_pair(way[steps - 1], whole, alike), _pair(steps, len(rates), alike)]
    return list(dict.fromkeys(pair for pair in found if pair))


def _pair(way: np.ndarray, whole: float, fits: Callable[[int, int], bool]) -> tuple[int, int] | None:
    """The latest two that are a quarter of the way apart, or as much of it as fits, a sixth or more."""
    for j in range(len(way) - 1, 0, -1):
        apart = {i: (way[j] - way[i]) / whole for i in range(j) if fits(i, j)}
        enough = [i for i, part in apart.items() if part > 0.2499]
        if enough:
            return max(enough), j
        if some := [i for i, part in apart.items() if part > 1 / 6 - 1e-4]:
            return min(some), j
    return None


def _verdict(looks: Looks, kind: str, first: int, second: int, since: int | None = None) -> Verdict:
    """Of the two looks; or of the one that it has stayed as it was, or risen, since, and the second."""
    start = first if since is None else since
    between = (int(looks.steps[start]), int(looks.steps[second]))
    loss, top1 = (trend(values, start, second) for values in (looks.losses, looks.right))
    images = looks.losses.shape[1]
    points = f"top-1 by {round(100 * top1.mean, 1) + 0.0:+.1f} ± {200 * top1.error:.1f} points"
    errors = f"two standard errors, of {images} images and the bounce of the looks; {points}"
    return Verdict(
        kind,
        f"{_sentence(kind, *between, loss, second - start)} ({errors})",
        since=None if since is None else between[0],
        between=between,
        cross_entropy=loss,
        top1=top1,
        looks=len(looks),
        images=images,
    )


def _sentence(kind: str, first: int, second: int, loss: Change, later: int) -> str:
    moved = round(loss.mean, 3) + 0.0  # no "-0.000"
    what, between, error = "the validation cross-entropy", f"from step {first} to {second}", f"± {2 * loss.error:.3f}"
    if kind == IMPROVING:
        return f"still improving: more steps pay; {what} fell by {-moved:.3f} {error} {between}"
    if kind == WORSE:
        return f"getting worse since step {first}: overfitting; {what} rose by {moved:.3f} {error} until step {second}"
    if kind == CONVERGED:
        looks = "look" if later == 1 else f"{later} looks"
        changed = f"changed {what} by {moved:+.3f} {error}"
        return f"converged at step {first}: the next {looks}, until step {second}, {changed}"
    return f"cannot be told: {what} changed by {moved:+.3f} {error} {between}, too uncertain for either"
