"""Successive halving that waits for nobody (Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020).

A setting goes on to the next rung once it is among the best third of those that have passed its own; whatever has not
gone on yet may still do so later. optuna's pruner decides once, when a setting comes to a rung, and of a dozen settings
that are tried in half an hour it would keep the first ones.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

ETA = 3  # one of so many goes on, to so many times the steps


class Rung(NamedTuple):
    """What a setting is given.

    Attributes:
      steps: of each run.
      folds: it is run on the folds 0 to folds - 1.
    """

    steps: int
    folds: int = 1


class Promotion(NamedTuple):
    """A setting, and the rung it goes on to."""

    setting: int
    rung: int


def promotion(
    values: Sequence[Mapping[int, float]], begun: Sequence[Collection[int]], always: int = -1
) -> Promotion | None:
    """The next setting that has earned its next rung, the highest rung first; None if there is none.

    Args:
      values: of each rung {setting: value} of those that passed it; larger is better.
      begun: of each rung the settings that are or were on it.
      always: a setting that goes on wherever another one does, and first, as all are compared with it; -1 for none.
    """
    for rung in reversed(range(len(values) - 1)):
        ranked = sorted(values[rung], key=lambda setting: (-values[rung][setting], setting))
        earned = [setting for setting in ranked[: len(ranked) // ETA] if setting not in begun[rung + 1]]
        if always in values[rung] and always not in begun[rung + 1] and (earned or begun[rung + 1]):
            return Promotion(always, rung + 1)
        # As many as there are places: one that has gone on may have been overtaken since.
        if earned and len(set(begun[rung + 1]) - {always}) < len(ranked) // ETA:
            return Promotion(earned[0], rung + 1)
    return None


def best_left(values: Sequence[Mapping[int, float]], begun: Sequence[Collection[int]], up_to: int) -> Promotion | None:
    """The best setting that could still go on to a rung of at most `up_to`, for the time that is left at the end."""
    for rung in reversed(range(min(up_to, len(values) - 1))):
        left = [setting for setting in values[rung] if setting not in begun[rung + 1]]
        if left:
            return Promotion(max(left, key=lambda setting: (values[rung][setting], -setting)), rung + 1)
    return None


def rungs(steps: int, whole_runs: float, folds: int, *, longer: bool) -> list[Rung]:
    """The rungs that are worth their time.

    Args:
      steps: of the config.
      whole_runs: of so many steps, that there is time for.
      folds: there are.
      longer: whether more steps than the config's may be tried.
    """
    found = [Rung(max(1, round(steps / ETA))), Rung(steps)]
    if whole_runs >= 10 * ETA and longer:
        found.append(Rung(ETA * steps))
    if whole_runs >= 20 * ETA and steps >= 9 * ETA:
        found.insert(0, Rung(max(1, round(steps / ETA**2))))
    if folds > 1 and whole_runs >= 4 * ETA:
        found.append(Rung(found[-1].steps, min(ETA, folds)))
    return list(dict.fromkeys(found))
