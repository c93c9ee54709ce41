"""DELTA at the corners of what configs/map/recipes.py holds still: a table of cells and the effect of each factor.

    python benchmarks/corner_map.py --sweep=runs/map/corners [--keep=docs/study]
    python benchmarks/corner_map.py --sweep=docs/study/map_corners.jsonl

A quarter of 2^5 cells (configs/map/corners.py): each effect is the mean of four cells minus that of the four others,
and is mixed up with products of two other factors, not with another effect.
"""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _recipe_runs import Cell, Predictions, Sweep

from delta_jax.configs.map.corners import NETWORKS, PHOTOS, SETS

PLAIN, METHODS = "l2", ("delta_without_attention", "delta")
NORMAL = 1.959964  # of 95 %


class Corner(NamedTuple):
    """The levels of a cell."""

    data: str
    photos: int
    network: str
    steps: int
    recipe: str


# What is subtracted from what.
EFFECTS = {
    "data": SETS,
    "photos": PHOTOS,
    "network": NETWORKS,
    "steps": (300, 1500),
    "recipe": ("gentle", "harsh"),
}
CELLS = 2 ** len(EFFECTS) // 4


class Difference(NamedTuple):
    """With its interval of 95 % over test images; fractions."""

    value: float
    low: float
    high: float


def corner(setting: str) -> Corner:
    """Of a data set and network as the config names them."""
    (data, photos), (network, steps) = (name.rsplit("_", 1) for name in setting.split("/"))
    gentle = (data == SETS[0]) == (int(photos) == PHOTOS[0])
    return Corner(data, int(photos), network, int(steps), "gentle" if gentle else "harsh")


def difference(weights: Mapping[Cell, float], of: Mapping[Cell, list[Predictions]]) -> Difference:
    """The weighted sum of accuracies; test images of two data sets are drawn apart, those of one are the same."""
    sums: dict[str, np.ndarray] = {}
    for cell, weight in weights.items():
        data = corner(cell[0]).data
        correct = weight * np.mean([one.correct for one in of[cell]], axis=0)
        sums[data] = sums[data] + correct if data in sums else correct
    value = float(sum(one.mean() for one in sums.values()))
    half = NORMAL * math.sqrt(sum(one.var(ddof=1) / len(one) for one in sums.values()))
    return Difference(value, value - half, value + half)


def gain(method: str, setting: str, weight: float = 1.0) -> dict[Cell, float]:
    """{cell: factor} of what a method has more than L2."""
    return {(setting, method): weight, (setting, PLAIN): -weight}


def cell_table(sweep: Sweep) -> str:
    """In Markdown, a line for each cell that a method has run in; "-" for what has not."""
    lines = [
        "| set | photos | network | steps | recipe | head alone | "
        + " | ".join(f"`{one}`" for one in (PLAIN, *METHODS))
        + " | "
        + " | ".join(f"`{one}` minus L2" for one in METHODS)
        + " |"
    ]
    lines.append("|" + " --- |" * (6 + 1 + 2 * len(METHODS)))
    for setting in sorted({cell[0] for cell in sweep.final}, key=corner):
        of = {cell: sweep.predictions(cell) for cell in sweep.final if cell[0] == setting}
        top1 = [_percent(of.get((setting, method))) for method in (PLAIN, *METHODS)]
        both = [{(setting, method), (setting, PLAIN)} <= of.keys() for method in METHODS]
        gains = [
            _points(difference(gain(method, setting), of)) if there else "-"
            for method, there in zip(METHODS, both, strict=True)
        ]
        levels = [str(one) for one in corner(setting)]
        lines.append(f"| {' | '.join([*levels, f'{100 * sweep.heads[setting]:.1f}', *top1, *gains])} |")
    return "\n".join(lines)


def effect_table(sweep: Sweep, method: str) -> str:
    """In Markdown: how each factor changes what a method has more than L2; "" where cells are missing."""
    settings = sorted({cell[0] for cell in sweep.final})
    if len(settings) < CELLS or any(
        (setting, one) not in sweep.final for setting in settings for one in (method, PLAIN)
    ):
        return ""
    of = {cell: sweep.predictions(cell) for cell in sweep.final if cell[1] in (method, PLAIN)}
    lines = [f"| what changes `{method}` minus L2 | points |", "| --- | --- |"]
    everywhere = {cell: factor for one in settings for cell, factor in gain(method, one, 1 / len(settings)).items()}
    lines.append(f"| mean of {len(settings)} cells | {_points(difference(everywhere, of))} |")
    for factor, (low, high) in EFFECTS.items():
        weights: dict[Cell, float] = {}
        for level, sign in ((low, -1), (high, 1)):
            there = [one for one in settings if getattr(corner(one), factor) == level]
            for one in there:
                weights |= gain(method, one, sign / len(there))
        lines.append(f"| {factor}: {high} instead of {low} | {_points(difference(weights, of))} |")
    return "\n".join(lines)


def _percent(runs: list[Predictions] | None) -> str:
    return "-" if runs is None else f"{100 * np.mean([one.correct.mean() for one in runs]):.1f}"


def _points(one: Difference) -> str:
    bold = "**" if not one.low <= 0 <= one.high else ""
    return f"{bold}{100 * one.value:+.1f}{bold} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", type=Path, required=True, help="workdir of configs/map/corners.py, or its records")
    parser.add_argument("--keep", type=Path, help="folder for the records and answers")
    args = parser.parse_args(arguments)
    sweep = Sweep(args.sweep)
    if args.keep:
        sweep.keep(args.keep / "map_corners.jsonl")
    seeds = sorted({len(runs) for runs in sweep.final.values()})
    print(f"seeds a cell: {', '.join(map(str, seeds))}; intervals over test images\n\n{cell_table(sweep)}")
    for method in METHODS:
        if table := effect_table(sweep, method):
            print(f"\n{table}")


if __name__ == "__main__":
    main()
