"""Learning curves of several runs: validation accuracy over the steps, mean and spread over the seeds (Fig. 2).

python -m delta_jax.analysis.curves [--panels=schedule] --out=curves.png WORKDIR...
"""

import argparse
import functools
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from delta_jax.analysis import pictures
from delta_jax.training import config as configs
from delta_jax.training import stored_config
from delta_jax.workdir import logs

MEASURE = "top1"


@dataclass(frozen=True, eq=False)
class Curve:
    """Validation accuracy over the steps of one run, or of several: then their mean.

    Attributes:
      steps: int [T], rising.
      mean: [T], fractions.
      spread: standard deviation over the runs [T]; zeros for one run.
      runs: how many.
    """

    steps: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    runs: int


def learning_curve(records: Iterable[Mapping[str, Any]], measure: str = MEASURE) -> Curve:
    """The curve of one run.

    Args:
      records: of `training.logs.read`; those of phase "validation" count, and of two at one step the later.
      measure: name of the value.

    Raises:
      ValueError: the run was never validated.
    """
    found = {record["step"]: record[measure] for record in records if record.get("phase") == "validation"}
    if not found:
        raise ValueError("no validation records; expected a run with validation images and --config.eval_every")
    steps = np.array(sorted(found))
    values = np.array([found[step] for step in steps.tolist()])
    return Curve(steps, values, np.zeros(len(values)), 1)


def over_runs(curves: Sequence[Curve]) -> Curve:
    """Mean and standard deviation (n - 1) over runs, at the steps that all of them have.

    Raises:
      ValueError: they share no step.
    """
    steps = curves[0].steps
    for curve in curves[1:]:
        steps = np.intersect1d(steps, curve.steps)
    if not len(steps):
        told = "; ".join(", ".join(str(step) for step in curve.steps[:3].tolist()) + ", ..." for curve in curves)
        raise ValueError(f"the runs were validated at different steps ({told}); expected the same --config.eval_every")
    values = np.stack([curve.mean[np.isin(curve.steps, steps)] for curve in curves])
    spread = values.std(0, ddof=1) if len(curves) > 1 else np.zeros(len(steps))
    return Curve(steps, values.mean(0), spread, len(curves))


def read(workdirs: Iterable[Path], panels: str = "") -> dict[str, dict[str, Curve]]:
    """{panel: {method: its curve over all its runs}}, in the order of the workdirs.

    Args:
      workdirs: of runs, finished or not.
      panels: a field of the config by whose values runs are told apart, such as "schedule" or "data.augment"; "" for
        one panel.

    Raises:
      ConfigError, OSError, ValueError: a workdir holds no such run, or the runs of a method do not go together.
    """
    found: dict[str, dict[str, list[Curve]]] = defaultdict(lambda: defaultdict(list))
    for workdir in map(Path, workdirs):
        config = stored_config.read(workdir)
        try:
            curve = learning_curve(logs.read(workdir))
        except ValueError as error:
            raise ValueError(f"{workdir}: {error}") from error
        panel = ""
        if panels:
            configs.check_field(config, panels)
            panel = f"{panels}: {functools.reduce(getattr, panels.split('.'), config)}"
        found[panel][config.method].append(curve)
    return {
        panel: {method: over_runs(curves) for method, curves in of_panel.items()} for panel, of_panel in found.items()
    }


def plot(panels: Mapping[str, Mapping[str, Curve]], path: str | Path) -> None:
    """Draws Fig. 2 as a PNG: one panel per variant, such as the schedule, one line and band per method.

    Args:
      panels: {title: {method: curve}}; a method has the same colour in all.
      path: of the picture; its folder exists.
    """
    methods = list(dict.fromkeys(method for curves in panels.values() for method in curves))
    layout = ConstrainedLayoutEngine(wspace=pictures.GUTTER)
    figure = Figure(figsize=(5 * len(panels) + 0.5, 3.8), layout=layout)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, curves) in zip(grid, panels.items(), strict=True):
        for method, curve in curves.items():
            colour = f"C{methods.index(method)}"
            label = f"{method}, {curve.runs} runs" if curve.runs > 1 else method
            marker = "o" if len(curve.steps) == 1 else None
            axes.plot(curve.steps, 100 * curve.mean, color=colour, lw=1.4, marker=marker, label=label)
            low, high = (100 * (curve.mean + sign * curve.spread) for sign in (-1, 1))
            axes.fill_between(curve.steps, low, high, color=colour, alpha=0.2, lw=0)
        axes.set_title(title, fontsize=10, parse_math=False)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower right")
    grid[0].set_ylabel("validation top-1, %")
    pictures.save(figure, path)


def main(arguments: Sequence[str]) -> None:
    """Draws the figure of some workdirs, and prints where the curves end."""
    parser = argparse.ArgumentParser(prog="delta_jax.analysis.curves", description="Learning curves (Fig. 2).")
    parser.add_argument("workdirs", nargs="+", type=Path, help="of runs, finished or not")
    parser.add_argument("--panels", default="", help="field of the config that tells panels apart, such as schedule")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="picture to write")
    given = parser.parse_args(arguments)
    try:
        found = read(given.workdirs, given.panels)
    except (configs.ConfigError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    rows = [
        [panel or "-", method, curve.runs, curve.steps[-1], f"{curve.mean[-1]:.2%} ± {curve.spread[-1]:.2%}"]
        for panel, curves in found.items()
        for method, curve in curves.items()
    ]
    logs.table("validation top-1 at the last common step", ["panel", "method", "runs", "step", "top-1"], rows)
    plot(found, given.out)
    logs.say(f"  {given.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
