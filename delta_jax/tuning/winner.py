"""Which setting is the best one, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from delta_jax.analysis import statistics
from delta_jax.analysis.statistics import Paired
from delta_jax.training.fine_tune import DivergedError
from delta_jax.tuning.decision import State
from delta_jax.tuning.space import CONFIGURED, HEAD
from delta_jax.tuning.trials import Run

Key = tuple[int, int]  # setting, steps


@dataclass(frozen=True)
class Candidate:
    """A setting with so many steps, as it did on the folds that all candidates were run on.

    Attributes:
      setting, steps: of it.
      value: that is compared, mean over the folds.
      top1: mean over the folds.
      folds: how many.
    """

    setting: int
    steps: int
    value: float
    top1: float
    folds: int


def candidates(state: State) -> list[Candidate]:
    """Those that were run to the end on most folds, the best first; of equal ones the earlier."""
    found: list[Candidate] = []
    for number, rung in enumerate(state.plan.rungs):
        for setting in state.on(number):
            value = state.value(setting, number)
            if value is not None:
                top1 = [state.results[run.path].top1 for run in state.runs(setting, number)]
                found.append(Candidate(setting, rung.steps, value, float(np.mean(top1)), rung.folds))
    whole = [one for one in found if one.steps >= state.plan.steps] or found
    most = max((one.folds for one in whole), default=1)
    heads = [state.results.get(Run(HEAD, 0, fold, state.seed).path) for fold in range(most)]
    known = [one for one in heads if one]
    if len(known) == most:
        value, correct = (float(np.mean([getattr(one, name) for one in known])) for name in ("value", "top1"))
        whole.append(Candidate(HEAD, 0, value, correct, most))
    return sorted((one for one in whole if one.folds == most), key=lambda one: (-one.value, one.setting, one.steps))


def choose(found: Sequence[Candidate]) -> Candidate:
    """The best one: a setting that does no better than the config as it is does not take its place.

    Raises:
      DivergedError: every run has diverged.
    """
    finite = [one for one in found if one.value > -1]
    if not finite:
        raise DivergedError("every run diverged; try a lower --config.learning_rate, or --config.clip_norm=1")
    order = {HEAD: 0, CONFIGURED: 1}
    return min(finite, key=lambda one: (-one.value, order.get(one.setting, 2), one.setting, one.steps))


def against(winner: np.ndarray, other: np.ndarray) -> Paired:
    """The difference of two accuracies over the same validation images, bool [N] each: right or not."""
    return statistics.paired(winner.astype(np.float64), other.astype(np.float64))


def indistinguishable(right: Mapping[Key, np.ndarray], winner: Key) -> list[Key]:
    """Keys of `right` whose accuracy is not lower than the winner's by more than the images can tell."""
    found = []
    for key, one in right.items():
        pair = against(right[winner], one)
        if key != winner and not pair.low > 0:
            found.append(key)
    return found
