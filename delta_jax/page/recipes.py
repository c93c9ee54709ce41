"""What a sweep over learning rates shows over all its experiments: accuracy by rate, and gains recipe by recipe."""

from dataclasses import dataclass

import numpy as np

from delta_jax.analysis import recipes
from delta_jax.analysis.recipes import Grid
from delta_jax.page import plots
from delta_jax.page.naming import setting, slug
from delta_jax.page.plots import Chart, Line
from delta_jax.page.reading import Study


@dataclass(frozen=True)
class Gain:
    """A cell: gain in top-1, a fraction, or None where a method has no run; how strong its colour is, of 1."""

    value: float | None
    seeds: int
    share: float


@dataclass(frozen=True)
class Overview:
    """Of a data set and network.

    Attributes:
      id: of its element.
      name: for a heading.
      charts: accuracy against the rate, one of each recipe.
      against: the method that gains are measured on.
      rates: the columns of the tables.
      gains: {method: {recipe: a cell for each rate}}.
    """

    id: str
    name: str
    charts: list[Chart]
    against: str
    rates: tuple[float, ...]
    gains: dict[str, dict[str, list[Gain]]]


def of(study: Study) -> list[Overview]:
    """One for each data set and network of a sweep whose variants are recipes at several rates; else none."""
    variants = study.settings.get("variants")
    if not isinstance(variants, dict) or not all(isinstance(one, dict) for one in variants.values()):
        return []
    runs = [(run.data, run.network, run.variant, run.method, run.test.get("top1")) for run in study.runs()]
    found = recipes.grids(variants, runs)
    named = str(study.settings.get("against") or "")
    return [
        _overview(f"recipes-{slug(data)}-{slug(network)}", setting(data, network), grid, grid.against(named))
        for (data, network), grid in found.items()
    ]


def _overview(identity: str, name: str, grid: Grid, against: str) -> Overview:
    gains = {method: grid.gains(method, against) for method in grid.top1 if method != against}
    extent = recipes.extent(gains.values())

    def cell(method: str, recipe: str, rate: float) -> Gain:
        value, seeds = gains[method].get((recipe, rate), (None, 0))
        return Gain(value, seeds, min(1.0, abs(value or 0.0) / extent))

    return Overview(
        identity,
        name,
        [chart for i, recipe in enumerate(grid.recipes) if (chart := _chart(f"{identity}-{i}", recipe, grid))],
        against,
        grid.rates,
        {
            method: {recipe: [cell(method, recipe, rate) for rate in grid.rates] for recipe in grid.recipes}
            for method in gains
        },
    )


def _chart(identity: str, recipe: str, grid: Grid) -> Chart | None:
    lines = []
    for method, cells in grid.top1.items():
        of_rates = [cells.get((recipe, rate)) for rate in grid.rates]
        mean = np.array([one.mean if one else np.nan for one in of_rates])
        # Of one seed no spread is known.
        spread = np.nan_to_num([one.std if one else 0.0 for one in of_rates])
        if np.isfinite(mean).any():
            x, runs = np.arange(len(grid.rates), dtype=np.float64), max(one.n for one in of_rates if one)
            marks = [(float(i), float(y)) for i, y in enumerate(mean) if np.isfinite(y)]
            lines.append(Line(method, x, mean, mean - spread, mean + spread, runs, marks))
    if not lines:
        return None
    names = [f"{rate:g}" for rate in grid.rates]
    return plots.draw(
        identity, recipe, lines, x_label="learning rate", y_label="test top-1", percent=True, x_names=names
    )
