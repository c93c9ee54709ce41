"""The runs of configs/map/, with what they answered for each test image."""

import csv
import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Cell = tuple[str, str]  # variant (data set and network, where a sweep has none), method

# Of a file of answers: cross-entropies have three digits, and so much is enough for intervals of a tenth of a point.
_KEPT = np.dtype([("correct", "?"), ("cross_entropy", "<f2"), ("confidence", "<f2")])
_ABOUT = "sweep"  # its entry that is no run


class Predictions(NamedTuple):
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

    Attributes:
      variants: {name: fields}, of the sweep's config.
      records: of all runs that are done.
      final: {cell: records of its final runs}.
      heads: {data/network: test top-1 of the head alone}.
    """

    def __init__(self, path: Path) -> None:
        """Reads the workdir of a sweep, or a file of records that `keep` wrote, the file of answers beside it.

        Raises:
          SystemExit: it is neither, or none of its final runs has finished.
        """
        if path.is_file():
            self._folder, listed = None, path
            if not path.with_suffix(".npz").exists():
                raise SystemExit(f"error: {path} has no {path.stem}.npz beside it; give the --workdir of its sweep")
            with np.load(path.with_suffix(".npz")) as file:
                self._answers = {name: file[name] for name in file.files}
            self._about = json.loads(str(self._answers.pop(_ABOUT)))
        elif (path / "sweep.json").exists() and (path / "results.jsonl").exists():
            self._folder, listed = path, path / "results.jsonl"
            self._about = {"variants": json.loads((path / "sweep.json").read_text())["variants"]}
        else:
            raise SystemExit(f"error: {path} has no sweep.json and results.jsonl; give the --workdir of a sweep")
        self.variants: dict[str, dict[str, Any]] = self._about["variants"]
        self.records = [json.loads(line) for line in listed.read_text().splitlines()]
        self.final = self._cells("final")
        done = [one for runs in self.final.values() for one in runs if one["test"] and self._is_kept(one)]
        if not done:
            raise SystemExit(
                f"error: no final run of the sweep in {path} is there; its command, given again, makes them"
            )
        if self._folder:
            # Of any run: all of a data set and network have the same.
            one_each = {f"{one['data']}/{one['network']}": one["workdir"] for one in done}
            summaries = {
                name: json.loads((self._folder / path / "summary.json").read_text()) for name, path in one_each.items()
            }
            self._about["heads"] = {name: one["l2_fe"]["test"]["top1"] for name, one in summaries.items()}
            self._about["classes"] = {name.split("/")[0]: len(one["classes"]) for name, one in summaries.items()}
        self.heads: dict[str, float] = self._about["heads"]
        # A cell of which nothing is left to run, as no strength had numbers.
        for cell, runs in self._cells("choice").items():
            if cell not in self.final and all(one["error"] for one in runs):
                self.final[cell] = [{**runs[0], "test": {}}] * max(map(len, self.final.values()))

    def _cells(self, kind: str) -> dict[Cell, list[dict[str, Any]]]:
        found: dict[Cell, list[dict[str, Any]]] = {}
        for one in self.records:
            if one["kind"] == kind:
                found.setdefault((one["variant"] or f"{one['data']}/{one['network']}", one["method"]), []).append(one)
        return found

    def rate(self, cell: Cell) -> float:
        """The learning rate of a cell."""
        return float(self.variants[cell[0]]["learning_rate"])

    def answered(self, *methods: str) -> dict[Cell, list[Predictions]]:
        """Of all cells of these methods, but for those of which only the records are left."""
        cells = [cell for cell in self.final if cell[1] in methods]
        return {cell: self.predictions(cell) for cell in cells if all(map(self._is_kept, self.final[cell]))}

    def _is_kept(self, record: dict[str, Any]) -> bool:
        if not record["test"]:
            return True
        if self._folder:
            return (self._folder / record["workdir"] / "predictions.csv").exists()
        return record["workdir"] in self._answers

    def predictions(self, cell: Cell) -> list[Predictions]:
        """Of a cell, one for each seed."""
        return [self._of_run(one) if one["test"] else self._lost(one["data"]) for one in self.final[cell]]

    def keep(self, path: Path) -> None:
        """Writes the records, and beside them, as .npz, what this class needs of the runs that they are of."""
        runs = [one for one in self.records if one["kind"] == "final" and one["test"] and self._is_kept(one)]
        answers = {one["workdir"]: _packed(self._of_run(one)) for one in runs}
        np.savez_compressed(path.with_suffix(".npz"), **{_ABOUT: np.array(json.dumps(self._about)), **answers})
        path.write_text("".join(json.dumps(one) + "\n" for one in self.records))

    def _of_run(self, record: dict[str, Any]) -> Predictions:
        if self._folder:
            return predictions(self._folder / record["workdir"] / "predictions.csv")
        answers = self._answers[record["workdir"]]
        return Predictions(*(answers[name].astype(np.float64) for name in Predictions._fields))

    def _lost(self, data: str) -> Predictions:
        runs = (one for runs in self.final.values() for one in runs)
        images = next(one["test"]["n"] for one in runs if one["test"] and one["data"] == data)
        classes = self._about["classes"][data]
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


def _packed(found: Predictions) -> np.ndarray:
    packed = np.empty(len(found.correct), _KEPT)
    for name in Predictions._fields:
        packed[name] = getattr(found, name)
    return packed
