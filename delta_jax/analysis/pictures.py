"""Pictures of a run: its curves over the steps, and what single filters see before and after fine-tuning."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from delta_jax.analysis import fonts
from delta_jax.analysis.activation_maps import overlay

LOSS_PARTS = {
    "loss": "loss",
    "cross_entropy": "cross-entropy",
    "penalty": "penalty, before alpha",
    "head_penalty": "head penalty, before beta",
}
DOTS_PER_INCH = 110
CELL = 1.5  # inches, side of one photo in a grid
ANNOTATED, NAMED = 25, 60  # up to how many classes a confusion matrix has counts, and names
GUTTER = 0.06  # between two photos, of their side


def curves(records: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draws a run's losses and learning rate (left) and validation accuracy (right) over its steps, as a PNG.

    Args:
      records: of `training.logs.read`: phase "fine_tune" with any of loss, cross_entropy, penalty, head_penalty and
        learning_rate; phase "validation" with top1, a fraction.
      path: of the picture; its folder exists.

    Raises:
      ValueError: there is nothing to draw.
    """
    steps = [record for record in records if record.get("phase") == "fine_tune"]
    checks = [record for record in records if record.get("phase") == "validation" and "top1" in record]
    if not steps and not checks:
        phases = ", ".join(sorted({str(record.get("phase")) for record in records})) or "none"
        raise ValueError(f"no records of the phases fine_tune and validation to draw, found: {phases}")
    figure = Figure(figsize=(11, 4), layout=ConstrainedLayoutEngine(wspace=GUTTER))
    losses, accuracy = figure.subplots(1, 2)
    _draw_losses(losses, steps)
    check_steps, top1 = _series(checks, "top1")
    accuracy.plot(check_steps, 100 * top1, color="C0", marker="o", markersize=3)
    accuracy.set(title="validation", xlabel="step", ylabel="top-1, %")
    for axes in (losses, accuracy):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    save(figure, path)


def confusion(matrix: np.ndarray, class_names: Sequence[str], path: str | Path) -> None:
    """Draws which classes images were taken for, as a PNG: rows are the true classes, columns the predicted ones.

    Few classes: the counts, coloured by their part of the row, so that rare classes show as strongly as common ones.
    Many classes: counts by colour on a logarithmic scale, white for none; too many to name are numbered.

    Args:
      matrix: int [K, K].
      class_names: K of them.
      path: of the picture; its folder exists.

    Raises:
      ValueError: the shapes do not go together.
    """
    count = len(class_names)
    if matrix.shape != (count, count):
        raise ValueError(f"a matrix of shape {matrix.shape} for {count} classes, expected ({count}, {count})")
    side = min(12.0, max(3.5, 0.45 * count)) if count <= ANNOTATED else 9.0
    figure = Figure(figsize=(side + 2.5, side + 1.5), layout=ConstrainedLayoutEngine())
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    if count <= ANNOTATED:
        drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), n in np.ndenumerate(matrix):
            if n:
                colour = "white" if shares[row, column] > 0.6 else "black"
                axes.text(column, row, str(n), ha="center", va="center", fontsize=7, color=colour)
    else:
        norm = LogNorm(1, max(int(matrix.max()), 2))
        drawn = axes.imshow(
            np.ma.masked_equal(matrix, 0), cmap="viridis_r", norm=norm, interpolation="nearest", aspect="equal"
        )
    if count <= NAMED:
        names = fonts.labels(class_names)
        size, family = 8 if count <= ANNOTATED else 6, fonts.families(names)
        style: dict[str, Any] = {"fontsize": size, "family": family, "parse_math": False}
        axes.set_xticks(range(count), names, rotation=90, **style)
        axes.set_yticks(range(count), names, **style)
    number = "" if count <= NAMED else ", number from 0"
    axes.set(xlabel=f"predicted class{number}", ylabel=f"true class{number}")
    right, n = int(np.trace(matrix)), int(matrix.sum())
    axes.set_title(f"{right} of {n} right", fontsize=9)
    label = "part of the true class" if count <= ANNOTATED else "images"
    plain = "%g" if count <= ANNOTATED else "%d"
    figure.colorbar(drawn, ax=axes, shrink=0.7, label=label, format=plain)
    save(figure, path)


def filters(
    photos: np.ndarray,
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
    filter_ids: Mapping[str, Sequence[int]],
    path: str | Path,
    titles: Sequence[str],
) -> None:
    """Draws where chosen filters are active, before and after fine-tuning, as a PNG: one row per photo.

    The columns are the photo, then per filter its map before and after, laid over the photo. Every map is scaled by
    itself, (a - min) / (max - min), as in section 4.4 of the paper: shapes can be compared, heights cannot. A constant
    map shows as all zero.

    Args:
      photos: uint8 [P, H, W, 3].
      before, after: {tap: [P, h, w, K]} feature maps of K chosen filters, of any size.
      filter_ids: {tap: K numbers} of these filters in their layer, for the headings.
      path: of the picture; its folder exists.
      titles: P texts, one per photo.

    Raises:
      ValueError: the shapes do not go together.
    """
    columns = {}
    for tap, ids in filter_ids.items():
        expected = (len(photos), len(ids))
        for maps in (before[tap], after[tap]):
            if maps.ndim != 4 or (maps.shape[0], maps.shape[3]) != expected:
                raise ValueError(f"{tap}: maps of shape {maps.shape}, expected ({expected[0]}, h, w, {expected[1]})")
        for index, number in enumerate(ids):
            for when, maps in (("before", before[tap]), ("after", after[tap])):
                columns[f"{tap}\nfilter {number}\n{when}"] = maps[..., index]
    activations(photos, columns, path, titles)


def activations(photos: np.ndarray, columns: Mapping[str, np.ndarray], path: str | Path, titles: Sequence[str]) -> None:
    """Draws maps laid over photos, as Fig. 4 of the paper, as a PNG: a row per photo, which stands in the first column.

    Args:
      photos: uint8 [P, H, W, 3].
      columns: {heading: [P, h, w]} maps of any size, such as {"source": ..., "l2_sp": ..., "delta": ...} of
        `activation_maps.mean_map`; every one is scaled by itself.
      path: of the picture; its folder exists.
      titles: P texts, one per photo.

    Raises:
      ValueError: the shapes do not go together.
    """
    for heading, maps in columns.items():
        if maps.ndim != 3 or len(maps) != len(photos):
            raise ValueError(f"{heading}: maps of shape {maps.shape}, expected ({len(photos)}, h, w)")
    overlaid = {
        heading: [overlay(photo, one) for photo, one in zip(photos, maps, strict=True)]
        for heading, maps in columns.items()
    }
    beside(list(photos), overlaid, path, titles)


def beside(
    photos: Sequence[np.ndarray], columns: Mapping[str, Sequence[np.ndarray]], path: str | Path, titles: Sequence[str]
) -> None:
    """Draws photos, one below the other, and pictures of each to its right, as a PNG.

    Args:
      photos: P of uint8 [H, W, 3].
      columns: {heading: P pictures, uint8 [H, W, 3]}.
      path: of the picture; its folder exists.
      titles: P texts, one per photo.

    Raises:
      ValueError: there is not one title per photo.
    """
    if len(titles) != len(photos):
        raise ValueError(f"{len(titles)} titles for {len(photos)} photos; give one per photo")
    height, width = photos[0].shape[:2]
    size = ((1 + len(columns)) * CELL + 0.5, len(photos) * CELL * height / width + 0.8)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.03, wspace=GUTTER, hspace=GUTTER))
    grid = figure.subplots(len(photos), 1 + len(columns), squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    family = fonts.families(titles)
    for row, photo, title in zip(grid, photos, titles, strict=True):
        row[0].imshow(photo)
        row[0].set_ylabel(title, fontsize=8, parse_math=False, family=family)
    for column, (heading, pictures) in zip(grid.T[1:], columns.items(), strict=True):
        column[0].set_title(heading, fontsize=7, parse_math=False)
        for axes, picture in zip(column, pictures, strict=True):
            axes.imshow(picture)
    save(figure, path)


def _draw_losses(axes: Axes, records: Sequence[Mapping[str, Any]]) -> None:
    for index, (name, label) in enumerate(LOSS_PARTS.items()):
        steps, values = _series(records, name)
        if (values > 0).any():  # a method without this penalty writes zeros, and a logarithmic axis has no zero
            marker = "o" if len(steps) == 1 else None
            axes.plot(
                steps, np.where(values > 0, values, np.nan), label=label, color=f"C{index}", lw=1.2, marker=marker
            )
    drawn = axes.get_lines()
    axes.set(title="fine-tuning", xlabel="step", ylabel="loss")
    if drawn:
        axes.set_yscale("log")
    steps, rates = _series(records, "learning_rate")
    if np.isfinite(rates).any():
        right = axes.twinx()
        drawn = [*drawn, *right.plot(steps, rates, label="learning rate (right)", color="0.6", lw=1, ls="--")]
        right.set_ylim(bottom=0)
        right.tick_params(colors="0.5")
    if drawn:
        axes.legend(handles=drawn, fontsize=8, loc="best")


def _series(records: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(record["step"], record[name]) for record in records if name in record]
    steps, values = np.array(points, np.float64).reshape(-1, 2).T
    return steps, values


def save(figure: Figure, path: str | Path) -> None:
    """Writes a PNG; the same numbers give the same bytes."""
    with warnings.catch_warnings():
        # Names of runs and folders may be in any script; a box in place of a letter is no reason to stop.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        # matplotlib's version stays out of it.
        figure.savefig(path, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
