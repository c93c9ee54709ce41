"""Accuracy against the learning rate, recipe by recipe, and what a method gains on another in each of them.

For sweeps whose variants differ in `learning_rate`: what else they differ in is the recipe.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from delta_jax.analysis import pictures
from delta_jax.analysis.statistics import Summary, summarize

RATE = "learning_rate"
REFERENCE = "l2"  # what gains are measured on where the sweep names nothing else
ALIKE = "all runs"  # the recipe of variants that differ in nothing but the rate
COLUMNS = 2  # recipes beside each other in the figure
# Of the colours, fractions: gains that are all smaller than a point stay pale, and one of 70 points, where the other
# method was lost, does not make the rest so.
LEAST_RANGE, MOST_RANGE = 0.01, 0.1


@dataclass(frozen=True)
class Grid:
    """The final runs of one data set and network.

    Attributes:
      recipes: what variants have besides their rate, such as "batch_norm train, head_init normal".
      rates: that any of them has, rising.
      top1: {method: {(recipe, rate): test accuracy over the seeds}}; of no value where all runs of a cell failed.
    """

    recipes: tuple[str, ...]
    rates: tuple[float, ...]
    top1: Mapping[str, Mapping[tuple[str, float], Summary]]

    def against(self, named: str = "") -> str:
        """The method that gains are measured on: the one named, or L2, or else the first."""
        known = [name for name in (named, REFERENCE) if name in self.top1]
        return (known or list(self.top1))[0]

    def gains(self, method: str, against: str) -> dict[tuple[str, float], tuple[float, int]]:
        """{(recipe, rate): (mean top-1 of `method` minus that of `against`, the fewer of their seeds)}."""
        found = {}
        for cell, one in self.top1[method].items():
            other = self.top1[against].get(cell)
            if other and one.n and other.n:
                found[cell] = (one.mean - other.mean, min(one.n, other.n))
        return found


def split(variants: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, float]]:
    """{variant: (recipe, learning rate)}; {} where no recipe has two rates, or not every variant has one.

    Args:
      variants: {name: {field: value}}, as in the config of a sweep.
    """
    fields = {name: flatten_dict(dict(values), sep=".") for name, values in variants.items()}
    if not all(isinstance(one.get(RATE), (int, float)) for one in fields.values()):
        return {}
    others = [field for field in dict.fromkeys(f for one in fields.values() for f in one) if field != RATE]
    differing = [field for field in others if len({repr(one.get(field)) for one in fields.values()}) > 1]
    found = {
        name: (", ".join(f"{field} {one[field]}" for field in differing if field in one) or ALIKE, float(one[RATE]))
        for name, one in fields.items()
    }
    return found if len(found) > len({recipe for recipe, _ in found.values()}) else {}


def grids(
    variants: Mapping[str, Mapping[str, Any]], runs: Iterable[tuple[str, str, str, str, float | None]]
) -> dict[tuple[str, str], Grid]:
    """{(data set, network): grid}; {} for a sweep whose variants are no such recipes.

    Args:
      variants: {name: {field: value}}, as in the config of a sweep.
      runs: (data set, network, variant, method, top-1 of the test images as a fraction) of each final run; None for one
        that diverged.
    """
    places = split(variants)
    found: dict[tuple[str, str], dict[str, dict[tuple[str, float], list[float]]]] = {}
    for data, network, variant, method, top1 in runs:
        if variant in places:
            cell = found.setdefault((data, network), {}).setdefault(method, {}).setdefault(places[variant], [])
            cell += [] if top1 is None else [top1]
    rates = tuple(sorted({rate for _, rate in places.values()}))
    recipes = tuple(dict.fromkeys(recipe for recipe, _ in places.values()))
    return {place: _grid(recipes, rates, by_method) for place, by_method in found.items()}


def of_records(
    variants: Mapping[str, Mapping[str, Any]], records: Iterable[Mapping[str, Any]]
) -> dict[tuple[str, str], Grid]:
    """As `grids`, of the lines of a results.jsonl; choice runs are left out."""
    final = [one for one in records if one["kind"] == "final"]
    names = ("data", "network", "variant", "method")
    return grids(variants, ((*(str(one[name]) for name in names), one["test"].get("top1")) for one in final))


def plot_rates(grid: Grid, path: str | Path, level: float | None = None) -> None:
    """Draws top-1 against the learning rate as a PNG: a panel per recipe, a line per method.

    Bands are the standard deviation over the seeds; a cell of one seed is a hollow dot.

    Args:
      grid: of one data set and network.
      path: of the picture; its folder exists.
      level: top-1 of the head alone, a fraction, drawn as a line.
    """
    rows, columns = -(-len(grid.recipes) // COLUMNS), min(len(grid.recipes), COLUMNS)
    figure = Figure(figsize=(5 * columns + 0.5, 3.4 * rows + 0.3), layout=ConstrainedLayoutEngine())
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, recipe in zip(panels.flat, grid.recipes, strict=False):
        for index, cells in enumerate(grid.top1.values()):
            known = {rate: one for rate in grid.rates if (one := cells.get((recipe, rate))) and one.n}
            _draw_line(axes, known, f"C{index}")
        if level is not None:
            axes.axhline(100 * level, color="0.5", lw=1, ls="--")
        axes.set_xscale("log")
        axes.set_xlim(grid.rates[0] / 1.4, grid.rates[-1] * 1.4)  # also where there is nothing yet
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(grid.rates, [f"{rate:g}" for rate in grid.rates])
        axes.set_title(recipe, fontsize=9, parse_math=False)
        axes.grid(alpha=0.3)
    for axes in panels.flat[len(grid.recipes) :]:
        axes.set_axis_off()
    for axes in panels[-1]:
        axes.set_xlabel("learning rate")
    for row in panels:
        row[0].set_ylabel("test top-1, %")
    entries = [Line2D([], [], color=f"C{index}", label=method) for index, method in enumerate(grid.top1)]
    if level is not None:
        entries.append(Line2D([], [], color="0.5", ls="--", label="the head alone"))
    panels[0, 0].legend(handles=entries, fontsize=8, loc="best")
    pictures.save(figure, path)


def plot_gains(grid: Grid, against: str, path: str | Path) -> None:
    """Draws heat maps as a PNG: a panel per method, what it has more than `against` in points of top-1.

    Rows are recipes, columns rates; a number in brackets is of one seed; "none": one of both has no number.

    Args:
      grid: of one data set and network.
      against: a method of the grid.
      path: of the picture; its folder exists.
    """
    methods = [method for method in grid.top1 if method != against]
    figure = Figure(figsize=(3.1 * len(methods) + 2.6, 0.5 * len(grid.recipes) + 1.5), layout=ConstrainedLayoutEngine())
    panels = figure.subplots(1, len(methods), squeeze=False, sharey=True)[0]
    gains = {method: grid.gains(method, against) for method in methods}
    limit = 100 * extent(gains.values())
    scale = ScalarMappable(Normalize(-limit, limit), "RdBu")
    for axes, method in zip(panels, methods, strict=True):
        values = np.full((len(grid.recipes), len(grid.rates)), np.nan)
        for row, recipe in enumerate(grid.recipes):
            for column, rate in enumerate(grid.rates):
                gain, seeds = gains[method].get((recipe, rate), (math.nan, 0))
                values[row, column] = 100 * gain
                text = "none" if not seeds else f"{100 * gain:+.1f}" if seeds > 1 else f"({100 * gain:+.1f})"
                dark = abs(values[row, column]) > 0.7 * limit
                axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
        axes.imshow(values, cmap=scale.cmap, norm=scale.norm, aspect="auto")
        axes.set_title(f"{method} minus {against}", fontsize=9, parse_math=False)
        axes.set_xticks(range(len(grid.rates)), [f"{rate:g}" for rate in grid.rates], fontsize=8)
        axes.set_yticks(range(len(grid.recipes)), grid.recipes, fontsize=8, parse_math=False)
        axes.set_xlabel("learning rate", fontsize=8)
    figure.colorbar(scale, ax=panels, label="points of top-1", shrink=0.9, extend="both")
    pictures.save(figure, path)


def extent(gains: Iterable[Mapping[Any, tuple[float, int]]]) -> float:
    """The gain, a fraction, from which on colours are strongest: the largest of all, within 1 and 10 points."""
    largest = max((abs(gain) for cells in gains for gain, _ in cells.values()), default=0.0)
    return min(max(largest, LEAST_RANGE), MOST_RANGE)


def _grid(
    recipes: tuple[str, ...],
    rates: tuple[float, ...],
    by_method: Mapping[str, Mapping[tuple[str, float], list[float]]],
) -> Grid:
    """Without the recipes that have not been run."""
    there = {recipe for cells in by_method.values() for recipe, _ in cells}
    top1 = {name: {cell: summarize(values) for cell, values in cells.items()} for name, cells in by_method.items()}
    return Grid(tuple(recipe for recipe in recipes if recipe in there), rates, top1)


def _draw_line(axes: Axes, known: Mapping[float, Summary], colour: str) -> None:
    rates, mean = list(known), np.array([100 * one.mean for one in known.values()])
    spread = np.array([100 * one.std if one.n > 1 else 0.0 for one in known.values()])
    axes.plot(rates, mean, color=colour, lw=1.4)
    axes.fill_between(rates, mean - spread, mean + spread, color=colour, alpha=0.2, lw=0)
    for rate, one in known.items():
        axes.plot(rate, 100 * one.mean, "o", ms=5, color=colour, mfc=colour if one.n > 1 else "white")
