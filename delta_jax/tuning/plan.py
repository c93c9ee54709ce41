"""What a search will do: its rungs and the methods it chooses from, by what its budget allows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from delta_jax.tuning import halving, pace, space
from delta_jax.tuning.halving import Rung
from delta_jax.tuning.space import Space
from delta_jax.workdir import json_files

FILE = "plan.json"
SHARE = 0.6  # of the budget for the search; the rest is for the final runs
SEEDS = 3  # that the final network is made of, where there is time
# Runs of all steps that there has to be time for; else the runs are made shorter. Few, as shorter ones cost more than a
# choice among many of them brings: docs/tuning.md.
LEAST_WHOLE = 3.0
LEAST_STEPS = 60  # for fewer, images are made smaller
_SIZES = 32  # pixels: the smaller and larger sizes are multiples


@dataclass(frozen=True)
class Limits:
    """When a search ends: the first of these; with neither, when it does not pay any more.

    Attributes:
      seconds: for everything; None: no limit.
      trials: settings beside the head alone; None: no limit.
    """

    seconds: float | None = None
    trials: int | None = None


@dataclass(frozen=True)
class Plan:
    """As it was made when the search began; a restart keeps it.

    Attributes:
      steps: of a whole run.
      rungs: of successive halving; the first one with `steps` and those behind it are whole runs.
      space: that settings are drawn from.
      folds: there are.
      refit: whether there are validation images to train on at the end.
      step_seconds: expected of a step of plain fine-tuning at the config's size.
      crop: the config's size, pixels.
    """

    steps: int
    rungs: tuple[Rung, ...]
    space: Space
    folds: int
    refit: bool
    step_seconds: float
    crop: int

    @property
    def whole(self) -> int:
        """The rung of the first whole runs."""
        return next(number for number, rung in enumerate(self.rungs) if rung.steps >= self.steps)

    def as_json(self) -> dict[str, Any]:
        """For plan.json."""
        return {
            "steps": self.steps,
            "rungs": [list(rung) for rung in self.rungs],
            "methods": list(self.space.methods),
            "rates": list(self.space.rates or ()),
            "strengths": {method: list(one) for method, one in self.space.strengths.items()},
            "folds": self.folds,
            "refit": self.refit,
            "step_seconds": self.step_seconds,
            "crop": self.crop,
            "crops": list(self.space.crops),
            "ratio": self.space.ratio,
            "heads": list(self.space.heads),
        }


def make(
    config: ConfigDict,
    given: Sequence[str],
    seconds: float | None,
    *,
    folds: int,
    refit: bool,
    size: tuple[int, int],
    native: int,
    image_seconds: float,
    overhead: float,
) -> Plan:
    """The plan for a time.

    Args:
      config: not yet resolved.
      given: its fields on the command line.
      seconds: left for the search; None: no limit.
      folds, refit: see `Plan`.
      size: crop and resize of the config, pixels.
      native: the crop that the weights were trained with.
      image_seconds: of an image of this size through the network.
      overhead: seconds of a run beside its steps.
    """
    step = pace.PASSES["l2"] * image_seconds * config.batch_size
    # As long as those of the method that takes longest.
    each = pace.PASSES["delta"] / pace.PASSES["l2"] * step
    crop, steps, ratio = size[0], int(config.steps), size[1] / size[0]
    sized = not {"data.crop", "data.resize"} & set(given)
    larger = min(native, _multiple(1.4 * crop))
    heads = tuple(one for one in sorted({larger, native}) if sized and one > crop)
    if seconds is None:
        around = space.space(config, given, wide=True, ratio=ratio, heads=heads)
        return Plan(
            steps, tuple(halving.rungs(steps, 4.0 * halving.ETA, folds, longer=False)), around, folds, refit, step, crop
        )
    usual = crop
    if "steps" not in given and each:
        steps = min(steps, _fitting(seconds, overhead, each))
        wanted = min(int(config.steps), LEAST_STEPS)
        while sized and steps < wanted and (smaller := _multiple(0.8 * usual)) < usual and smaller >= 2 * _SIZES:
            usual = smaller
            steps = min(int(config.steps), _fitting(seconds, overhead, each * (usual / crop) ** 2))
        steps = max(steps, min(wanted, LEAST_STEPS))
    runs = seconds / (steps * each * (usual / crop) ** 2 + overhead)
    wide = runs >= 4 * halving.ETA
    crops = (usual,) if usual < crop else (crop, larger) if sized and wide and larger > crop else ()
    rungs = halving.rungs(steps, runs, folds, longer="steps" not in given)
    around = space.space(config, given, wide=wide, crops=crops, ratio=ratio, heads=heads)
    return Plan(steps, tuple(rungs), around, folds, refit, step, crop)


def _fitting(seconds: float, overhead: float, each: float) -> int:
    """Steps of a whole run, of which three fit."""
    return max(0, int((seconds / LEAST_WHOLE - overhead) / each))


def _multiple(size: float) -> int:
    return max(1, round(size / _SIZES)) * _SIZES


def read(folder: Path) -> Plan | None:
    """That of plan.json; None if there is none yet."""
    found = json_files.read(folder / FILE)
    return _from_json(found) if found else None


def write(folder: Path, plan: Plan) -> None:
    """Writes plan.json."""
    json_files.write(folder / FILE, plan.as_json())


def _from_json(found: Mapping[str, Any]) -> Plan:
    strengths = {method: (field, low, high) for method, (field, low, high) in found["strengths"].items()}
    rates = tuple(found["rates"]) or None
    return Plan(
        found["steps"],
        tuple(Rung(*rung) for rung in found["rungs"]),
        Space(tuple(found["methods"]), rates, strengths, tuple(found["crops"]), found["ratio"], tuple(found["heads"])),
        found["folds"],
        found["refit"],
        found["step_seconds"],
        found["crop"],
    )
