"""How long a run goes on, and at which learning rates: as configured, until the validation images show a plateau.

On a plateau the steps at a rate that brings no more are left out, and the decay that was to follow is not: a run that
stops before it loses what it gains. Where the rate is constant from there on, the run stops.
"""

from dataclasses import dataclass

import numpy as np

from delta_jax.training.convergence import Looks, without_improvement

# The rest of the schedule takes at most so many steps for each that was made: a third of all is then decay, as in the
# paper, where 9,000 steps decay after 6,000.
_TAIL = 0.5


@dataclass(frozen=True, eq=False)
class Course:
    """The steps of a run.

    Attributes:
      rates: float32 [T], the learning rate of each.
    """

    rates: np.ndarray

    @property
    def steps(self) -> int:
        """After which the run ends."""
        return len(self.rates)

    def table(self, length: int) -> np.ndarray:
        """float32 [length]: the rates, and the last one again and again."""
        return np.pad(self.rates, (0, length - self.steps), mode="edge")


def shortened(course: Course, step: int) -> Course:
    """The course of a run that has come to a plateau after `step` steps.

    The rate that it has is left at once, and the rest of the schedule follows, of which rates are left out evenly.
    """
    made, rest = course.rates[:step], course.rates[step:]
    others = np.flatnonzero(rest != made[-1])
    rest = rest[others[0] :] if len(others) else rest[:0]
    length = min(len(rest), int(np.ceil(_TAIL * step)))
    kept = np.ceil(np.arange(1, length + 1) * len(rest) / max(length, 1)).astype(int) - 1
    return Course(np.append(made, rest[kept]))


def ends_early(course: Course, looks: Looks, patience: int) -> bool:
    """Whether the last of the looks shows a plateau that makes the course shorter.

    Args:
      course: so far.
      looks: up to now.
      patience: looks in a row without an improvement after which a run is on a plateau; 0 for never.
    """
    step = int(looks.steps[-1])
    if not patience or step >= course.steps:
        return False
    # At another rate the counting starts again: after warm-up, and after a drop to less than half.
    drops = 1 + np.flatnonzero(course.rates[1:step] < course.rates[: step - 1] / 2)
    counted = looks.since(max(int(course.rates.argmax()), int(drops[-1]) if len(drops) else 0))
    if not len(counted) or without_improvement(counted) < patience:
        return False
    return shortened(course, step).steps < course.steps


def plateaus(course: Course, looks: Looks, patience: int) -> list[int]:
    """The steps after which a run that looked so came to a plateau: its course is `shortened` there, in turn."""
    found = []
    for count in range(1, len(looks) + 1):
        if ends_early(course, looks.first(count), patience):
            found.append(int(looks.steps[count - 1]))
            course = shortened(course, found[-1])
    return found
