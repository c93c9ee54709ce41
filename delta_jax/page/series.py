"""The lines of an experiment's pictures: learning curves, drift of filters, attention, choice of the strength."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from delta_jax.analysis import drift as filter_drift
from delta_jax.page import plots
from delta_jax.page.naming import label, slug
from delta_jax.page.plots import Chart, Line
from delta_jax.page.reading import Experiment, Run, objects

# Phase and name in metrics.jsonl, title, label of the axis.
_CURVES = (
    ("validation", "top1", "Validation accuracy", "top-1"),
    ("validation", "cross_entropy", "Validation: cross-entropy", "nats"),
    ("fine_tune", "cross_entropy", "Training: cross-entropy", "nats"),
    ("fine_tune", "loss", "Training: whole loss", "nats"),
    ("fine_tune", "penalty", "Training: weighted penalty", "alpha times penalty"),
)


def learning_curves(experiment: Experiment, prefix: str) -> list[Chart]:
    """Accuracy on validation images and losses against the step; mean and range over the seeds of each method."""
    records = {method: [(run, run.records()) for run in runs] for method, runs in experiment.runs.items()}
    charts = []
    for phase, name, title, y_label in _CURVES:
        penalty = name == "penalty"
        lines = []
        for method, of_runs in records.items():
            # Penalties of two methods can only be compared with their weights.
            values = [_values(one, phase, name, (run.alpha or 0.0) if penalty else 1.0) for run, one in of_runs]
            line = _over_steps(method, values, average=phase == "fine_tune")
            if line and (not penalty or (line.y > 0).any()):
                lines.append(line)
        if lines:
            chart = plots.draw(
                f"{prefix}-curve-{slug(phase + ' ' + name)}",
                title,
                lines,
                x_label="step",
                y_label=y_label,
                percent=name == "top1",
                logarithmic=penalty,
            )
            charts.append(chart)
    return charts


def drift(experiment: Experiment, prefix: str) -> list[Chart]:
    """Distance of every convolution filter from its start, per stage, in falling order (paper, Fig. 3)."""
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for method, runs in experiment.runs.items():
        for run in runs:
            for stage, distances in _stages(run).items():
                found.setdefault(stage, {}).setdefault(method, []).append(np.sort(distances)[::-1])
    return [
        chart
        for stage, by_method in found.items()
        if (chart := _ranked(f"{prefix}-drift-{slug(stage)}", stage, by_method, "filters, by distance", "distance"))
    ]


def farther(experiment: Experiment, first: str, second: str) -> float | None:
    """Share of the filters that `first` moved farther than `second`, over the seeds of both; None without the files."""
    by_seed = [{run.seed: _filters(run) for run in experiment.runs.get(method, ())} for method in (first, second)]
    shares = []
    for seed, moved in by_seed[0].items():
        other = by_seed[1].get(seed)
        if (
            moved
            and other
            and {name: one.shape for name, one in moved.items()} == {name: one.shape for name, one in other.items()}
        ):
            shares.append(filter_drift.share_farther(moved, other)["all"])
    return float(np.mean(shares)) if shares else None


def attention(experiment: Experiment, prefix: str) -> list[Chart]:
    """The weight of each filter times their number, per tap, in falling order: 1 everywhere is no attention at all."""
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for method, runs in experiment.runs.items():
        for run in runs:
            for tap in objects(run.file("attention_profile.json"), "taps"):
                scaled = _finite(tap.get("scaled"))
                if len(scaled):
                    found.setdefault(str(tap.get("name")), {}).setdefault(method, []).append(np.sort(scaled)[::-1])
    return [
        chart
        for tap, by_method in found.items()
        if (chart := _ranked(f"{prefix}-attention-{slug(tap)}", tap, by_method, "filters, by weight", "C·W"))
    ]


def strengths(experiment: Experiment, prefix: str) -> list[tuple[str, Chart]]:
    """For every method whose strength was searched: accuracy on the validation folds against the value."""
    charts = []
    for method, runs in experiment.choices.items():
        by_value: dict[str, list[float]] = {}
        for run in sorted(runs, key=lambda run: _size(_value(run))):
            if run.strength and (top1 := run.validation.get("top1")) is not None:
                by_value.setdefault(_tick(_value(run)), []).append(float(top1))
        if not by_value:
            continue
        names = list(by_value)
        y = np.array([np.mean(by_value[name]) for name in names])
        low, high = (np.array([pick(by_value[name]) for name in names]) for pick in (min, max))
        marks = [(float(i), top1) for i, name in enumerate(names) for top1 in by_value[name]]
        folds = max(map(len, by_value.values()))
        field = ", ".join(next(run.strength for run in runs if run.strength))
        line = Line(method, np.arange(len(names), dtype=np.float64), y, low, high, folds, marks)
        chart = plots.draw(
            f"{prefix}-strength-{slug(method)}",
            label(method),
            [line],
            x_label=field,
            y_label="validation top-1",
            percent=True,
            x_names=names,
        )
        charts.append((method, chart))
    return charts


def chosen(experiment: Experiment, method: str) -> str:
    """The strength of the final runs, as `field = value`; "" where none was searched or no final run is there yet."""
    values = {
        ", ".join(f"{name} = {_shown(value)}" for name, value in run.strength.items())
        for run in experiment.runs.get(method, ())
    }
    return "; ".join(sorted(values - {""}))


def _ranked(
    identity: str, title: str, by_method: Mapping[str, Sequence[np.ndarray]], x_label: str, y_label: str
) -> Chart | None:
    lines = []
    for method, runs in by_method.items():
        # Networks with other filters cannot be averaged: the first one's stand for the method.
        alike = np.stack([run for run in runs if len(run) == len(runs[0])])
        x, y = plots.thinned(alike.mean(axis=0), average=False)
        low, high = (plots.thinned(pick(alike, axis=0), average=False)[1] for pick in (np.min, np.max))
        if (y > 0).any():
            lines.append(Line(method, x + 1, y, low, high, len(alike)))
    if not lines:
        return None
    return plots.draw(identity, title, lines, x_label=x_label, y_label=y_label, logarithmic=True)


def _over_steps(method: str, runs: Iterable[Mapping[int, float]], *, average: bool) -> Line | None:
    found = [run for run in runs if run]
    steps = np.array(sorted(set().union(*found)), np.float64)
    if not len(steps):
        return None
    table = np.array([[run.get(int(step), math.nan) for step in steps] for run in found])
    there = np.isfinite(table)
    # A step that no run has a finite value of is a gap in the line.
    count = np.maximum(there.sum(axis=0), 1)
    mean = np.where(there.any(axis=0), np.where(there, table, 0.0).sum(axis=0) / count, math.nan)
    low = np.where(there.any(axis=0), np.where(there, table, math.inf).min(axis=0), math.nan)
    high = np.where(there.any(axis=0), np.where(there, table, -math.inf).max(axis=0), math.nan)
    if not np.isfinite(mean).any():
        return None
    x, y, low, high = (plots.thinned(values, average=average)[1] for values in (steps, mean, low, high))
    return Line(method, x, y, low, high, len(found))


def _values(records: Iterable[Mapping[str, Any]], phase: str, name: str, factor: float) -> dict[int, float]:
    return {int(one["step"]): factor * float(one[name]) for one in records if one.get("phase") == phase and name in one}


def _filters(run: Run) -> dict[str, np.ndarray]:
    """{layer: distances of its filters}."""
    return {
        str(one.get("name")): _finite(one.get("distance")) for one in objects(run.file(filter_drift.FILE), "layers")
    }


def _stages(run: Run) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {}
    for layer in objects(run.file(filter_drift.FILE), "layers"):
        found.setdefault(str(layer.get("stage", "all")), []).append(_finite(layer.get("distance")))
    return {stage: np.concatenate(parts) for stage, parts in found.items()}


def _finite(values: Any) -> np.ndarray:
    kept = [v for v in values if isinstance(v, (int, float)) and math.isfinite(v)] if isinstance(values, list) else []
    return np.array(kept, np.float64)


def _value(run: Run) -> Any:
    """Of the strength: fields that are searched over tuples of one number, as head_l2, count as that number."""
    value = next(iter(run.strength.values()), None)
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _size(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, (int, float))
    return (not number, float(value) if number else 0.0, str(value))


def _tick(value: Any) -> str:
    return plots.number(value) if isinstance(value, (int, float)) else _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
