"""The runs of configs/map/, with what they answered for each test image."""

import csv
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

Cell = tuple[str, str]  # variant, method


@dataclass(frozen=True)
class Predictions:
    """Of one run: whether each test image was right, its cross-entropy, and the probability of the class answered."""

    correct: np.ndarray
    cross_entropy: np.ndarray
    confidence: np.ndarray


@cache
def predictions(path: Path) -> Predictions:
    """Of a predictions.csv, images in the order of their names; probabilities there have six digits."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    rows.sort()
    column = {name[2:-1]: place for place, name in enumerate(header) if name.startswith("p(")}
    probability = np.array([[float(one) for one in row[3:]] for row in rows])
    of_true = probability[np.arange(len(rows)), [column[row[1]] - 3 for row in rows]]
    return Predictions(
        np.array([float(row[1] == row[2]) for row in rows]),
        -np.log(np.maximum(of_true, 5e-7)),
        probability.max(1),
    )


class Sweep:
    """The runs of a sweep: records of final runs by (variant, method), and the choices that stand before them.

    A run that diverged is wrong on every image and as unsure as can be; so are all of a cell whose every choice did.

    Raises:
      SystemExit: the folder is no sweep's, or none of its final runs has finished.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "sweep.json").exists() or not (folder / "results.jsonl").exists():
            raise SystemExit(f"error: {folder} has no sweep.json and results.jsonl; give the --workdir of a sweep")
        self.folder = folder
        self.variants: dict[str, dict[str, Any]] = json.loads((folder / "sweep.json").read_text())["variants"]
        self.records = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
        self.final = self._cells("final")
        if not any(one["test"] for runs in self.final.values() for one in runs):
            raise SystemExit(f"error: no final run of the sweep in {folder} has finished; the same command goes on")
        # A cell of which nothing is left to run, as no strength had numbers.
        for cell, runs in self._cells("choice").items():
            if cell not in self.final and all(one["error"] for one in runs):
                self.final[cell] = [{"test": {}}] * max(map(len, self.final.values()))

    def _cells(self, kind: str) -> dict[Cell, list[dict[str, Any]]]:
        found: dict[Cell, list[dict[str, Any]]] = {}
        for one in self.records:
            if one["kind"] == kind:
                found.setdefault((one["variant"], one["method"]), []).append(one)
        return found

    def rate(self, cell: Cell) -> float:
        """The learning rate of a cell."""
        return float(self.variants[cell[0]]["learning_rate"])

    def predictions(self, cell: Cell) -> list[Predictions]:
        """Of a cell, one for each seed."""
        return [
            predictions(self.folder / one["workdir"] / "predictions.csv") if one["test"] else self._lost()
            for one in self.final[cell]
        ]

    def _lost(self) -> Predictions:
        done = next(one for runs in self.final.values() for one in runs if one["test"])
        summary = json.loads((self.folder / done["workdir"] / "summary.json").read_text())
        images, classes = done["test"]["n"], len(summary["classes"])
        return Predictions(np.zeros(images), np.full(images, np.log(classes)), np.full(images, 1 / classes))

    def validated(self, method: str) -> dict[str, tuple[float, float]]:
        """{variant: (top-1, minus cross-entropy) of the validation images at the strength that was chosen}."""
        found: dict[str, tuple[float, float]] = {}
        for (variant, name), runs in self._cells("choice").items():
            measured = [one["validation"] for one in runs if one["validation"]]
            if name == method:
                # What diverged with every strength is below all that did not.
                found[variant] = max(((one["top1"], -one["cross_entropy"]) for one in measured), default=(-1.0, 0.0))
        return {variant: value for variant, value in found.items() if (variant, method) in self.final}
