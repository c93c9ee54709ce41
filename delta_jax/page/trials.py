"""The settings that a search tried: a table, the best first, and their accuracies against the learning rate."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from delta_jax.page import plots
from delta_jax.page.plots import Chart, Line
from delta_jax.page.reading import Study, objects

_RATE = "learning_rate"


def table(study: Study) -> list[dict[str, Any]]:
    """A row for each run on validation images: those of more steps first, and of these the most accurate."""
    rows = [one for one in objects(study.settings, "trials") if not one.get("refit")]
    won = study.settings.get("winner") or {}
    found = [
        {
            **one,
            "won": (one.get("setting"), one.get("steps")) == (won.get("setting"), won.get("steps")),
            "method": str((one.get("fields") or {}).get("method", "")),
            "others": {k: v for k, v in (one.get("fields") or {}).items() if k not in ("method", _RATE)},
            "rate": (one.get("fields") or {}).get(_RATE),
        }
        for one in rows
    ]
    return sorted(found, key=lambda one: (-(one.get("steps") or 0), -(one.get("top1") or 0.0)))


def charts(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """For each number of steps validation accuracies against the learning rate; without those that chose no rate."""
    steps = sorted({one["steps"] for one in rows if one["rate"]}, reverse=True)
    found = []
    for count in steps:
        own = [one for one in rows if one["steps"] == count and one["rate"] and one.get("top1") is not None]
        if len({one["rate"] for one in own}) > 1:
            found.append(_chart(count, own))
    return found


def _chart(steps: int, rows: Sequence[Mapping[str, Any]]) -> Chart:
    lines = []
    for method in dict.fromkeys(one["method"] for one in rows):
        points = sorted((math.log10(one["rate"]), float(one["top1"])) for one in rows if one["method"] == method)
        x = np.array([at for at, _ in points])
        nothing = np.full(len(x), np.nan)
        lines.append(Line(method, x, nothing, nothing, nothing, len(x), points))
    return plots.draw(
        f"trials-{steps}",
        f"{steps} steps",
        lines,
        x_label="log₁₀ of the learning rate",
        y_label="validation top-1, %",
        percent=True,
    )
