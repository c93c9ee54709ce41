"""The strength of a method, chosen on validation folds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Tried(NamedTuple):
    """One value of a strength.

    Attributes:
      value: of the field.
      top1: mean accuracy over the folds, a fraction; NaN where a fold has none, as when its run diverged.
      cross_entropy: mean over the folds, nats.
      folds: accuracies of the single folds.
    """

    value: Any
    top1: float
    cross_entropy: float
    folds: tuple[float, ...]


def tried(records: Sequence[Mapping[str, Any]], field: str, values: Sequence[Any]) -> list[Tried]:
    """What the choice runs of one cell say of each value, in the order of `values`.

    Args:
      records: of results.jsonl, the choice runs of the cell.
      field: that is chosen.
      values: of it.
    """
    found = []
    for value in values:
        own = [one["validation"] for one in records if _same(one["strength"].get(field), value)]
        top1 = tuple(float(one.get("top1", math.nan)) for one in own)
        losses = [float(one.get("cross_entropy", math.nan)) for one in own]
        count = len(own) or math.nan
        found.append(Tried(value, sum(top1) / count, sum(losses) / count, top1))
    return found


def choose(candidates: Sequence[Tried]) -> Tried:
    """The value with the highest mean accuracy; of equal ones the one with the least cross-entropy.

    A value with a fold that diverged is not chosen.

    Raises:
      ValueError: all have diverged.
    """
    finite = [one for one in candidates if math.isfinite(one.top1)]
    if not finite:
        listed = ", ".join(str(one.value) for one in candidates)
        raise ValueError(f"no value of {listed} has an accuracy on every fold; add smaller ones, or set run.clip_norm")
    return max(finite, key=lambda one: (one.top1, -one.cross_entropy))


def _same(found: Any, value: Any) -> bool:
    # JSON has lists where a config has tuples.
    return (list(found) if isinstance(found, (list, tuple)) else found) == (
        list(value) if isinstance(value, (list, tuple)) else value
    )
