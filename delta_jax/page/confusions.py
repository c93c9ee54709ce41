"""Which classes are taken for which: the matrix of a few classes, the pairs that are confused most of many."""

import csv
from dataclasses import dataclass
from typing import Any

import numpy as np

from delta_jax.page.reading import SUMMARY, Experiment, Run

MOST_CLASSES = 25  # of a matrix that can be read
MOST_PAIRS = 20


@dataclass(frozen=True)
class Confusion:
    """Of one method, test images summed over its seeds.

    Attributes:
      classes: names, [K].
      counts: int [K, K], rows are true classes.
      runs: how many were summed.
    """

    classes: list[str]
    counts: np.ndarray
    runs: int

    def rows(self) -> list[dict[str, Any]]:
        """Per true class: its name, and per predicted class count and share of the row."""
        totals = self.counts.sum(axis=1)
        return [
            {"true": name, "total": int(total), "cells": [(int(n), n / total if total else 0.0) for n in row]}
            for name, row, total in zip(self.classes, self.counts, totals, strict=True)
        ]

    def pairs(self) -> list[tuple[str, str, int, float]]:
        """The most confused pairs: true class, predicted class, images, share of the true class's images."""
        wrong = self.counts.copy()
        np.fill_diagonal(wrong, 0)
        totals = np.maximum(self.counts.sum(axis=1), 1)
        order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
        places = [np.unravel_index(place, wrong.shape) for place in order]
        return [
            (self.classes[i], self.classes[j], int(wrong[i, j]), float(wrong[i, j] / totals[i]))
            for i, j in places
            if wrong[i, j] > 0
        ]


def of(experiment: Experiment) -> dict[str, Confusion]:
    """{method: confusion of its runs' test images}; without methods whose runs left no predictions."""
    found = {}
    for method, runs in experiment.runs.items():
        tables = [table for run in runs if run.test and (table := _of_run(run))]
        if tables:
            classes = tables[0][0]
            alike = [counts for names, counts in tables if names == classes]
            found[method] = Confusion(classes, np.sum(alike, axis=0), len(alike))
    return found


def _of_run(run: Run) -> tuple[list[str], np.ndarray] | None:
    summary = run.file(SUMMARY)
    if summary.get("confusion_matrix"):
        return summary["classes"], np.array(summary["confusion_matrix"], np.int64)
    # Of many classes, and of older runs, only the predictions are there.
    path = run.folder / "predictions.csv"
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        header = next(csv.reader(file), [])
        classes = [name.removeprefix("p(").removesuffix(")") for name in header[3:]]
        index = {name: i for i, name in enumerate(classes)}
        counts = np.zeros((len(classes), len(classes)), np.int64)
        for line in file:
            # Behind these three stands a probability for each class; to parse them would take most of the time.
            _, true, predicted, *_ = [*(next(csv.reader([line])) if '"' in line else line.split(",", 3)), "", ""]
            if true in index and predicted in index:
                counts[index[true], index[predicted]] += 1
    return (classes, counts) if classes else None
