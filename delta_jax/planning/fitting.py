"""Which batch fits, and which change of the config makes a training step fit: found by compiling."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from delta_jax.planning.costs import Cost
from delta_jax.planning.works import changed
from delta_jax.training import checks
from delta_jax.training.config import ConfigError
from delta_jax.training.programs import Programs

TRIES = 6  # compilations for the largest batch; memory is nearly affine in it, so that two or three are enough
_FEW = 16  # images a device, up to which they are counted one by one, above by eights
_MOST_PARTS = 16  # of a batch
MOST_CHANGES = 2 + 4 + 5  # compilations


@dataclass(frozen=True)
class Largest:
    """The largest batch that fits.

    Attributes:
      batch_size: over all devices; 0 where not even the smallest fits.
      cost: of a step of it; None with 0.
      next_size: the smallest batch that was seen not to fit; None where there was none to try: `why`.
      why: "" or what ended the search.
    """

    batch_size: int
    cost: Cost | None
    next_size: int | None
    why: str


def largest_batch(cost_of: Callable[[int], Cost], first: int, least: int, most: int, memory: float) -> Largest:
    """Searches among the multiples of `least`, of a few of them by ones, of many by eights.

    Args:
      cost_of: of a step of a batch.
      first: a batch to begin with.
      least: the smallest batch: one image for each device and part of a batch.
      most: the largest that makes sense: the training images.
      memory: that a step may take on a device, bytes.
    """
    seen: dict[int, Cost] = {}

    def look(size: int) -> bool:
        seen[size] = cost_of(size)
        return seen[size].memory <= memory

    fits, fails = 0, least * (most // least + 1)  # the last is no batch of this data
    size = first
    for _ in range(TRIES):
        if look(size):
            fits = max(fits, size)
        else:
            fails = min(fails, size)
        grain = least if fits < _FEW * least else 8 * least
        if fails - fits <= grain:
            break
        size = _estimate(seen, memory) // grain * grain
        if size >= fails:  # at most what is below the smallest that does not fit
            size = (fails - 1) // grain * grain if fails <= most else most // least * least
        size = max(size, fits + grain)
    else:
        return Largest(fits, seen.get(fits), fails if fails <= most else None, f"{TRIES} compilations")
    refused = fails if fails <= most else None
    return Largest(fits, seen.get(fits), refused, "" if refused else "all training images")


def _estimate(seen: dict[int, Cost], memory: float) -> int:
    """Where memory ends by the line through the two batches nearest to it; by proportion where there is one."""
    nearest = sorted(seen, key=lambda size: abs(seen[size].memory - memory))[:2]
    one = nearest[0]
    if len(nearest) == 1:
        fixed = 0 if seen[one].needed is not None else seen[one].held
        slope = max(seen[one].memory - fixed, 1) / one
        return int((memory - fixed) / slope)
    other = nearest[1]
    slope = (seen[one].memory - seen[other].memory) / (one - other)
    if slope <= 0:
        return 2 * max(nearest)
    return int(one + (memory - seen[one].memory) / slope)


@dataclass(frozen=True)
class Change:
    """A change of the config, and what a step costs with it.

    Attributes:
      fields: of the config, and their values.
      cost: of a step.
      fits: whether it does.
    """

    fields: dict[str, Any]
    cost: Cost
    fits: bool


def changes(programs: Programs, cost_of: Callable[[Programs], Cost], memory: float) -> Iterator[Change]:
    """Each change alone, the batch in twice as many parts until it fits; all of them together where none is enough.

    Args:
      programs: of a run whose step does not fit.
      cost_of: of the step of a run.
      memory: that a step may take on a device, bytes.
    """
    config = programs.config

    def look(**fields: Any) -> Change | None:
        other = changed(programs, **fields)
        try:
            checks.batches_divide(other.config, programs.mesh)
            checks.blocks_to_recompute(other.config, programs.source)
            checks.network_trains(other.config, other.trained_network)
        except ConfigError:
            return None
        found = cost_of(other)
        return Change(fields, found, found.memory <= memory)

    def in_parts(parts: int, **fields: Any) -> Iterator[Change]:
        while parts <= _MOST_PARTS and (change := look(**fields, accumulate=parts)):
            yield change
            if change.fits:
                return
            parts *= 2

    found: list[Change] = []
    for field, value in (("compute_dtype", "bfloat16"), ("remat", True)):
        if config[field] != value and (change := look(**{field: value})):
            found.append(change)
            yield change
    together = {field: value for change in found for field, value in change.fields.items()}
    for change in in_parts(2 * config.accumulate):
        found.append(change)
        yield change
    if together and not any(change.fits for change in found):
        yield from in_parts(config.accumulate * (1 if len(together) > 1 else 2), **together)
