"""From the records of a sweep to what they show: the mean of every cell, and which methods and variants differ."""

import csv
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from delta_jax.analysis import published, statistics
from delta_jax.analysis.statistics import Comparison, Outcome, Summary

Record = Mapping[str, Any]  # a line of results.jsonl


class Setting(NamedTuple):
    """What is the same for methods that are compared."""

    data: str
    network: str
    variant: str


class Column(NamedTuple):
    """What is the same for variants that are compared."""

    data: str
    network: str
    method: str


Where = TypeVar("Where", Setting, Column)


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
    """Of a sweep: `cells`, `comparisons` of two methods each, and `variants`: of two variants of one method."""

    cells: tuple[Cell, ...]
    comparisons: tuple[tuple[Setting, Comparison], ...]
    variants: tuple[tuple[Column, Comparison], ...] = ()


def find(folder: Path, records: Sequence[Record], against: str = "") -> Findings:
    """Compares all methods of each setting, or each with one of them, and all variants of each method.

    Of one data set and network the comparisons of methods, in all variants, are a family that is corrected together.
    Those of variants answer another question: they are a family of their own.

    Args:
      folder: of the sweep: the runs' predictions.csv lie below it.
      records: of results.jsonl; those of choice runs are left out.
      against: the method that the others are compared with; "" for every two.
    """
    grouped: dict[Setting, dict[str, list[Record]]] = {}
    for record in records:
        if record["kind"] == "final":
            setting = Setting(record["data"], record["network"], record["variant"])
            grouped.setdefault(setting, {}).setdefault(record["method"], []).append(record)
    found: list[tuple[Setting, Comparison]] = []
    across: list[tuple[Column, Comparison]] = []
    families = itertools.groupby(sorted(grouped, key=_layout), key=lambda setting: (setting.data, setting.network))
    for (data, network), members in families:
        # By method and by variant, so that a run's predictions are read once.
        outcomes = {
            setting.variant: {method: _outcomes(folder, runs) for method, runs in _methods(grouped[setting])}
            for setting in members
        }
        of_methods = [
            (Setting(data, network, variant), one)
            for variant, runs in outcomes.items()
            for one in _pairs(runs, against)
        ]
        of_variants = [
            (Column(data, network, method), one)
            for method in sorted({name for runs in outcomes.values() for name in runs}, key=_known_first)
            for one in _pairs({variant: runs[method] for variant, runs in outcomes.items() if method in runs})
        ]
        found += _judged(of_methods)
        across += _judged(of_variants)
    cells = [
        _cell(setting, method, grouped[setting], found)
        for setting in sorted(grouped, key=_layout)
        for method, _ in _methods(grouped[setting])
    ]
    return Findings(tuple(cells), tuple(found), tuple(across))


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
    return {
        "measure": "top1",
        "confidence": statistics.CONFIDENCE,
        "table": table,
        "cells": cells,
        "comparisons": [_as_row(*one) for one in findings.comparisons],
        "variants": [_as_row(*one) for one in findings.variants],
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


def _outcomes(folder: Path, runs: Sequence[Record]) -> dict[tuple[int, int], Outcome]:
    """{(seed, fold): outcome} of the runs that have numbers."""
    return {
        (run["seed"], run["fold"]): Outcome(
            run["test"]["top1"], read_correct(folder / run["workdir"] / "predictions.csv")
        )
        for run in runs
        if run["test"]
    }


def _pairs(outcomes: Mapping[str, Mapping[Any, Outcome]], against: str = "") -> list[Comparison]:
    """The later one against the earlier: DELTA against what it is to improve on; or all against the one named."""
    every = itertools.combinations(outcomes, 2)
    pairs = ((against, name) for name in outcomes if name != against) if against else every
    return [
        statistics.compare(later, earlier, outcomes)
        for earlier, later in pairs
        if outcomes.get(earlier) and outcomes[later]
    ]


def _judged(pairs: Sequence[tuple[Where, Comparison]]) -> list[tuple[Where, Comparison]]:
    """The pairs as one family."""
    judged = statistics.judge([one for _, one in pairs])
    return list(zip((where for where, _ in pairs), judged, strict=True))


def _as_row(where: Setting | Column, one: Comparison) -> dict[str, Any]:
    return {
        **where._asdict(),
        "first": one.first,
        "second": one.second,
        "verdict": one.verdict,
        "reason": one.reason,
        "seeds": _known(one.seeds._asdict()),
        "images": _known(one.images._asdict()),
        **_known({"rank_p": one.rank_p, "adjusted_p": one.adjusted_p}),
        "family": one.family,
    }


def _methods(by_method: Mapping[str, list[Record]]) -> list[tuple[str, list[Record]]]:
    return sorted(by_method.items(), key=lambda one: _known_first(one[0]))


def _known_first(method: str) -> tuple[int, str]:
    return place(method, published.METHODS)


def _cell(
    setting: Setting,
    method: str,
    by_method: Mapping[str, Sequence[Record]],
    found: Sequence[tuple[Setting, Comparison]],
) -> Cell:
    runs = by_method[method]
    done = [run for run in runs if run["test"]]
    others = [name for name, records in by_method.items() if name != method and any(run["test"] for run in records)]
    own = [one for where, one in found if where == setting and method in (one.first, one.second)]
    won = (statistics.BETTER if one.first == method else statistics.WORSE for one in own)
    # Where all are compared with one alone, no more than that one can be known to be better than every other.
    best = 0 < len(own) == len(others) and all(one.verdict == needed for one, needed in zip(own, won, strict=True))
    top1 = statistics.summarize([run["test"]["top1"] for run in done])
    return Cell(setting, method, top1, len(runs) - len(done), runs[0]["strength"], best)


def _layout(setting: Setting) -> tuple[Any, ...]:
    """The order of the paper's tables: by network, then data set."""
    return (*place(setting.network, published.NETWORKS), *place(setting.data, published.DATA_SETS), setting.variant)


def _known(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
