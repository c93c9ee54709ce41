"""How long a run will take, by those that were timed in this folder."""

from collections.abc import Sequence
from typing import NamedTuple

from delta_jax import methods

# A step over a pass through the network, per image: on CPUs more than the three passes of the arithmetic, as gradients
# are slower there; DELTA runs the source along (docs/performance.md: 8 to 41 % more).
PASSES = {
    name: (4.0 + method.uses_source_maps + method.carries) * method.trains_backbone
    for name, method in ((name, methods.create(name)) for name in methods.names())
}
_FIRST_S = 30.0  # guess of what the first run of all spends on compiling


class Timed(NamedTuple):
    """A run that was timed, in seconds.

    Attributes:
      method, crop, steps, fold: of the run.
      whole: from its beginning to its end.
      step: of one step; 0 for a run without steps.
      once: of head and attention, where it found none; the next run of this method, size and fold does.
    """

    method: str
    crop: int
    steps: int
    fold: int
    whole: float
    step: float
    once: float

    @property
    def rest(self) -> float:
        """What is neither steps nor shared."""
        return max(0.0, self.whole - self.steps * self.step - self.once)


def predicted(runs: Sequence[Timed], method: str, crop: int, steps: int, fold: int, step: float = 0.0) -> float:
    """Seconds of a run.

    Args:
      runs: timed so far, in their order.
      method, crop, steps, fold: of the run.
      step: seconds of a step of plain fine-tuning at this size, where no run has taken any yet.
    """

    def scaled(one: Timed) -> float:
        return one.step * (crop / one.crop) ** 2

    alike = [one for one in runs if one.method == method]
    own = [one for one in alike if one.crop == crop]
    trained = [one for one in runs if one.step]
    if alike and alike[-1].step:
        each = scaled((own or alike)[-1])
    elif trained:
        each = max(scaled(one) / PASSES[one.method] for one in trained) * PASSES[method]
    else:
        each = step * PASSES[method] / PASSES["l2"]
    if own:
        rest = min(one.rest for one in own)
    elif trained and PASSES[method]:
        rest = max(one.rest for one in trained)  # it has a program of its own to compile
    else:
        rest = max([one.rest for one in runs if not one.step], default=0.0) + (_FIRST_S if PASSES[method] else 0.0)
    if any(one.fold == fold for one in own):
        once = 0.0
    else:
        # Of another fold of its own, else what the head took, which is there for this fold or is not.
        found = any((one.crop, one.fold) == (crop, fold) for one in runs)
        known = alike or ([] if found else runs)
        once = max((one.once * (crop / one.crop) ** 2 for one in known), default=0.0)
    return steps * each + rest + once
