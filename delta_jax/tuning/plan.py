"""What a search will do: its rungs and the methods it chooses from, by what its budget allows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from delta_jax.tuning import halving, space
from delta_jax.tuning.halving import Rung
from delta_jax.tuning.space import Space
from delta_jax.workdir import json_files

FILE = "plan.json"
SHARE = 0.6  # of the budget for the search; the rest is for the final runs
LEAST_WHOLE = 6.0  # runs of all steps that there has to be time for; else the runs are made shorter
LEAST_STEPS = 30


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
      step_seconds: expected of a step of plain fine-tuning.
    """

    steps: int
    rungs: tuple[Rung, ...]
    space: Space
    folds: int
    refit: bool
    step_seconds: float

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
        }


def make(
    config: ConfigDict,
    given: Sequence[str],
    seconds: float | None,
    *,
    folds: int,
    refit: bool,
    image_seconds: float,
    overhead: float,
) -> Plan:
    """The plan for a time.

    Args:
      config: not yet resolved.
      given: its fields on the command line.
      seconds: left for the search; None: no limit.
      folds, refit: see `Plan`.
      image_seconds: of an image through the network.
      overhead: seconds of a run beside its steps.
    """
    step = 3 * image_seconds * config.batch_size
    steps, runs = int(config.steps), float(2 * halving.ETA * LEAST_WHOLE)
    if seconds is not None:
        # With DELTA's fourth pass, and half as much for what is beside the steps.
        each = 4 / 3 * step
        if "steps" not in given:
            fit = int((seconds / LEAST_WHOLE - overhead) / each) if each else steps
            steps = min(steps, max(LEAST_STEPS, fit))
        runs = seconds / (steps * each + overhead)
    rungs = halving.rungs(steps, runs, folds, longer="steps" not in given and seconds is not None)
    around = space.space(config, given, wide=runs >= 4 * halving.ETA)
    return Plan(steps, tuple(rungs), around, folds, refit, step)


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
        Space(tuple(found["methods"]), rates, strengths),
        found["folds"],
        found["refit"],
        found["step_seconds"],
    )
