"""Lines in a small picture: axes, ticks and paths as numbers for the template's SVG, without a chart library.

A library for charts in a browser weighs megabytes, and the page carries all it needs: the pictures are drawn here, and
a few lines of script.js read values off them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from delta_jax.page.naming import colour, label

WIDTH, HEIGHT = 320, 220  # of the viewBox; about as many pixels on a phone
LEFT, RIGHT, TOP, BOTTOM = 48, 8, 8, 38  # margins
MOST_POINTS = 200  # of a line
LEAST_SHARE = 1e-4  # of the largest value on a logarithmic axis
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Line:
    """One method: y against x, with the range over its runs.

    Attributes:
      method: whose name and colour it has.
      x: [N] ascending.
      y: [N], NaN where there is nothing to draw.
      low, high: [N], the range over runs; equal to y for a single run.
      runs: how many there are.
      marks: (x, y) of single measurements, drawn as dots.
    """

    method: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: int = 1
    marks: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Chart:
    """A picture of lines, all that the template needs.

    Attributes:
      id: of the element, unique on the page.
      title: above it.
      description: what a reader who cannot see it is told.
      x_label, y_label: of the axes.
      x_ticks, y_ticks: (position in the viewBox, text).
      paths: per line: method, points of the line, outline of the range, marks (positions).
      readout: what script.js reads values from.
    """

    id: str
    title: str
    description: str
    x_label: str
    y_label: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    paths: list[dict[str, Any]] = field(default_factory=list)
    readout: dict[str, Any] = field(default_factory=dict)


def thinned(values: np.ndarray, *, average: bool) -> tuple[np.ndarray, np.ndarray]:
    """Positions and values of at most 200 of [N] values: means of neighbours, or single values with both ends."""
    if len(values) <= MOST_POINTS:
        return np.arange(len(values), dtype=np.float64), values
    if average:
        edges = np.linspace(0, len(values), MOST_POINTS + 1).round().astype(int)
        return (edges[:-1] + edges[1:] - 1) / 2, np.add.reduceat(values, edges[:-1]) / np.diff(edges)
    kept = np.unique(np.linspace(0, len(values) - 1, MOST_POINTS).round().astype(int))
    return kept.astype(np.float64), values[kept]


def draw(
    identity: str,
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    percent: bool = False,
    logarithmic: bool = False,
    x_names: Sequence[str] = (),
) -> Chart:
    """Axes and paths of some lines.

    Args:
      identity: id of the element.
      title: above the picture.
      lines: at least one with a finite y.
      x_label, y_label: of the axes.
      percent: y are fractions, shown as percentages.
      logarithmic: the axis of y; what is not positive, or less than a 10,000th of the largest, is left out.
      x_names: of x = 0, 1, ...: then these are its ticks.
    """
    shown = _logarithmic(lines) if logarithmic else list(lines)
    x_all = np.concatenate([line.x for line in shown])
    marks = np.array([y for line in shown for _, y in line.marks], np.float64)
    y_all = np.concatenate([marks, *(np.concatenate([line.low, line.high]) for line in shown)])
    y_all = y_all[np.isfinite(y_all)]
    x_at = _scale(
        x_all.min() - 0.3 if x_names else x_all.min(),
        x_all.max() + 0.3 if x_names else x_all.max(),
        LEFT,
        WIDTH - RIGHT,
    )
    y_values = _log_ticks(y_all) if logarithmic else _ticks(y_all.min(), y_all.max())
    bottom, top = min(y_values[0], y_all.min()), max(y_values[-1], y_all.max())
    measure: Callable[[Any], Any] = np.log10 if logarithmic else np.asarray
    y_scale = _scale(float(measure(bottom)), float(measure(top)), HEIGHT - BOTTOM, TOP)

    def y_at(values: Any) -> Any:
        return y_scale(measure(values))

    x_values = [float(i) for i in range(len(x_names))] or [
        x for x in _ticks(x_all.min(), x_all.max()) if x_all.min() <= x <= x_all.max()
    ]
    return Chart(
        id=identity,
        title=title,
        description=_description(title, shown, percent, x_label, x_names),
        x_label=x_label,
        y_label=y_label,
        x_ticks=[(_tenth(x_at(x)), x_names[round(x)] if x_names else _thousands(x)) for x in x_values],
        y_ticks=[(_tenth(y_at(y)), number(y, percent)) for y in y_values],
        paths=[
            {
                "method": line.method,
                "line": _path(x_at(line.x), y_at(line.y)),
                "range": _outline(x_at(line.x), y_at(line.low), y_at(line.high)) if line.runs > 1 else "",
                "marks": [(_tenth(x_at(x)), _tenth(y_at(y))) for x, y in line.marks],
            }
            for line in shown
        ],
        readout={
            "x": [x_at(0.0), x_at(1.0) - x_at(0.0)],
            "xLabel": x_label,
            "xNames": list(x_names),
            "percent": percent,
            "lines": [
                {
                    "name": label(line.method),
                    "class": colour(line.method),
                    "x": [_short(x) for x in line.x],
                    "y": [_short(y) for y in line.y],
                    "at": [_short(y) for y in y_at(line.y)],
                    **(
                        {"low": [_short(y) for y in line.low], "high": [_short(y) for y in line.high]}
                        if line.runs > 1
                        else {}
                    ),
                }
                for line in shown
            ],
        },
    )


def number(value: float, percent: bool = False) -> str:
    """With three or four digits, fractions as percentages on request."""
    if percent:
        return f"{100 * value:.4g} %"
    if value and not 1e-3 <= abs(value) < 1e4:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
        power = str(int(exponent)).translate(_SUPERSCRIPTS)
        return f"10{power}" if mantissa == "1" else f"{mantissa}·10{power}"
    return f"{value:.4g}"


def _description(title: str, lines: Sequence[Line], percent: bool, x_label: str, x_names: Sequence[str]) -> str:
    ends = []
    for line in lines:
        finite = np.flatnonzero(np.isfinite(line.y))
        if not len(finite):
            continue
        first, last = (f"{number(float(line.y[i]), percent)}" for i in (finite[0], finite[-1]))
        where = x_names[round(line.x[finite[-1]])] if x_names else _thousands(float(line.x[finite[-1]]))
        ends.append(f"{label(line.method)} from {first} to {last} at {x_label} {where}")
    return f"{title}: {'; '.join(ends)}."


def _logarithmic(lines: Sequence[Line]) -> list[Line]:
    """Without what is not positive, or so small beside the largest that the rest would be pressed together."""
    least = max((float(np.nanmax(line.y, initial=0.0)) for line in lines), default=0.0) * LEAST_SHARE

    def cut(values: np.ndarray) -> np.ndarray:
        return np.where(values > least, values, np.nan)

    def cut_line(line: Line) -> Line:
        # A range that reaches below ends at the line itself.
        low = np.where(line.low > least, line.low, cut(line.y))
        return Line(line.method, line.x, cut(line.y), low, cut(line.high), line.runs)

    return [cut_line(line) for line in lines]


def _ticks(low: float, high: float) -> list[float]:
    if low == high:
        low, high = low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1
    return [float(tick) for tick in MaxNLocator(nbins=5, steps=[1, 2, 5, 10]).tick_values(low, high)]


def _log_ticks(values: np.ndarray) -> list[float]:
    low, high = float(values.min()), float(values.max())
    # Within two decades, 2 and 5 as well: one power of ten alone says little.
    locator = LogLocator(numticks=6, subs=(1.0,) if high > 100 * low else (1.0, 2.0, 5.0))
    ticks = [float(tick) for tick in locator.tick_values(low, high)]
    inside = [tick for tick in ticks if low <= tick <= high]
    below, above = [t for t in ticks if t < low], [t for t in ticks if t > high]
    return inside if len(inside) > 1 else [*below[-1:], *inside, *above[:1]]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[Any], Any]:
    slope = (end - start) / ((high - low) or 1.0)
    return lambda values: start + (values - low) * slope


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """Of an SVG; it is lifted over what is not finite."""
    parts, lifted = [], True
    for one, other in zip(x, y, strict=True):
        if math.isfinite(other):
            parts.append(f"{'M' if lifted else 'L'}{one:.1f} {other:.1f}")
        lifted = not math.isfinite(other)
    return "".join(parts)


def _outline(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    kept = np.isfinite(low) & np.isfinite(high)
    if kept.sum() < 2:
        return ""
    x, low, high = x[kept], low[kept], high[kept]
    corners = zip(np.concatenate([x, x[::-1]]), np.concatenate([high, low[::-1]]), strict=True)
    return "M" + "L".join(f"{one:.1f} {other:.1f}" for one, other in corners) + "Z"


def _tenth(value: float) -> float:
    return round(float(value), 1)


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _thousands(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:.4g}"
