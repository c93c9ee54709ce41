"""From the records of a sweep to what they show: the mean of every cell, and which methods differ."""

import csv
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from delta_jax.sweeps import published, statistics
from delta_jax.sweeps.statistics import Comparison, Outcome, Summary

Record = Mapping[str, Any]  # a line of results.jsonl


class Setting(NamedTuple):
    """What is the same for methods that are compared."""

    data: str
    network: str
    variant: str


@dataclasses.dataclass(frozen=True)
class Cell:
    """A method in a setting.

    Attributes:
      setting, method: names.
      top1: of the test images, over the seeds.
      failed: runs without numbers, such as those that diverged.
      strength: {field: value} of the runs; {} where the config's was used.
      best: better than every other method of the setting, by the verdicts of `statistics.judge`.
    """

    setting: Setting
    method: str
    top1: Summary
    failed: int
    strength: Mapping[str, Any]
    best: bool = False


@dataclasses.dataclass(frozen=True)
class Findings:
    """Of a sweep: `cells`, and `comparisons` of two methods each, with the setting they are of."""

    cells: tuple[Cell, ...]
    comparisons: tuple[tuple[Setting, Comparison], ...]


def find(folder: Path, records: Sequence[Record]) -> Findings:
    """Compares all methods of each setting; those of one data set and network are a family, its variants included.

    Args:
      folder: of the sweep: the runs' predictions.csv lie below it.
      records: of results.jsonl; those of choice runs are left out.
    """
    grouped: dict[Setting, dict[str, list[Record]]] = {}
    for record in records:
        if record["kind"] == "final":
            setting = Setting(record["data"], record["network"], record["variant"])
            grouped.setdefault(setting, {}).setdefault(record["method"], []).append(record)
    found: list[tuple[Setting, Comparison]] = []
    families = itertools.groupby(sorted(grouped, key=_layout), key=lambda setting: (setting.data, setting.network))
    for _, settings in families:
        pairs = [pair for setting in settings for pair in _pairs(setting, grouped[setting], folder)]
        judged = statistics.judge([comparison for _, comparison in pairs])
        found += zip((setting for setting, _ in pairs), judged, strict=True)
    cells = [
        _cell(setting, method, runs, found)
        for setting in sorted(grouped, key=_layout)
        for method, runs in _methods(grouped[setting])
    ]
    return Findings(tuple(cells), tuple(found))


def as_dict(findings: Findings, table: str) -> dict[str, Any]:
    """The content of comparisons.json: accuracies and differences are fractions, what is unknown is null.

    Args:
      findings: of a sweep.
      table: of the paper, see `published.accuracy`; "" for none.
    """
    cells = [
        {
            **cell.setting._asdict(),
            "method": cell.method,
            **_known(cell.top1._asdict()),
            "failed": cell.failed,
            "strength": dict(cell.strength),
            "best": cell.best,
            "published": published.accuracy(table, cell.setting.data, cell.setting.network, cell.method),
        }
        for cell in findings.cells
    ]
    comparisons = [
        {
            **setting._asdict(),
            "first": one.first,
            "second": one.second,
            "verdict": one.verdict,
            "reason": one.reason,
            "seeds": _known(one.seeds._asdict()),
            "images": _known(one.images._asdict()),
            **_known({"rank_p": one.rank_p, "adjusted_p": one.adjusted_p}),
            "family": one.family,
        }
        for setting, one in findings.comparisons
    ]
    return {
        "measure": "top1",
        "confidence": statistics.CONFIDENCE,
        "table": table,
        "cells": cells,
        "comparisons": comparisons,
    }


def read_correct(path: Path) -> dict[str, bool]:
    """{file: right or not} of a predictions.csv; {} where there is none."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file)
        next(rows, None)
        return {row[0]: row[1] == row[2] for row in rows}


def place(name: str, known: Mapping[str, str]) -> tuple[int, str]:
    """A key to sort by: what the paper has comes first, in its order; then the others by name."""
    return (list(known).index(name) if name in known else len(known)), name


def _pairs(setting: Setting, by_method: Mapping[str, list[Record]], folder: Path) -> list[tuple[Setting, Comparison]]:
    outcomes = {
        method: {
            (run["seed"], run["fold"]): Outcome(
                run["test"]["top1"], read_correct(folder / run["workdir"] / "predictions.csv")
            )
            for run in runs
            if run["test"]
        }
        for method, runs in _methods(by_method)
    }
    # The later one against the earlier: DELTA against what it is to improve on.
    return [
        (setting, statistics.compare(later, earlier, outcomes))
        for earlier, later in itertools.combinations(outcomes, 2)
        if outcomes[earlier] and outcomes[later]
    ]


def _methods(by_method: Mapping[str, list[Record]]) -> list[tuple[str, list[Record]]]:
    return sorted(by_method.items(), key=lambda one: place(one[0], published.METHODS))


def _cell(setting: Setting, method: str, runs: Sequence[Record], found: Sequence[tuple[Setting, Comparison]]) -> Cell:
    done = [run for run in runs if run["test"]]
    own = [one for where, one in found if where == setting and method in (one.first, one.second)]
    won = (statistics.BETTER if one.first == method else statistics.WORSE for one in own)
    best = bool(own) and all(one.verdict == needed for one, needed in zip(own, won, strict=True))
    top1 = statistics.summarize([run["test"]["top1"] for run in done])
    return Cell(setting, method, top1, len(runs) - len(done), runs[0]["strength"], best)


def _layout(setting: Setting) -> tuple[Any, ...]:
    """The order of the paper's tables: by network, then data set."""
    return (*place(setting.network, published.NETWORKS), *place(setting.data, published.DATA_SETS), setting.variant)


def _known(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
