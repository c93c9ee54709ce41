"""How long a run will take, by those that were timed in this folder."""

from collections.abc import Sequence
from typing import NamedTuple

# Passes through the network per image and step, a gradient being two: DELTA runs the source along.
PASSES = {"l2_fe": 0.0, "l2": 3.0, "l2_sp": 3.0, "delta_without_attention": 4.0, "delta": 4.0}
_FIRST_S = 30.0  # guess of what the first run of all spends on compiling


class Timed(NamedTuple):
    """A run that was timed, in seconds.

    Attributes:
      method, steps, fold: of the run.
      whole: from its beginning to its end.
      step: of one step; 0 for a run without steps.
      once: of head and attention, which the next run on this fold finds done.
    """

    method: str
    steps: int
    fold: int
    whole: float
    step: float
    once: float

    @property
    def rest(self) -> float:
        """What is neither steps nor shared."""
        return max(0.0, self.whole - self.steps * self.step - self.once)


def predicted(runs: Sequence[Timed], method: str, steps: int, fold: int, step: float = 0.0) -> float:
    """Seconds of a run.

    Args:
      runs: timed so far, in their order.
      method, steps, fold: of the run.
      step: seconds of a step of plain fine-tuning, where no run has taken any yet.
    """
    own = [one for one in runs if one.method == method]
    trained = [one for one in runs if one.step]
    if own and own[-1].step:
        each = own[-1].step
    elif trained:
        each = max(one.step / PASSES[one.method] for one in trained) * PASSES[method]
    else:
        each = step * PASSES[method] / PASSES["l2"]
    if own:
        rest = min(one.rest for one in own)
    elif trained:
        rest = max(one.rest for one in trained)  # it has a program of its own to compile
    else:
        rest = max([one.rest for one in runs], default=0.0) + (_FIRST_S if PASSES[method] else 0.0)
    there = any(one.fold == fold for one in own)
    alike = own or runs
    once = 0.0 if there or not alike else max(one.once for one in alike)
    return steps * each + rest + once
