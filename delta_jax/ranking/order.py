"""From what was measured of each weights to an order, a table and a few sentences."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from delta_jax.analysis import statistics
from delta_jax.data.splits import listed

SCORES = {"logme": "LogME", "shrunk_h_score": "shrunk H-score", "h_score": "H-score"}
COLUMNS = (
    *("weights", "L2-FE top-1", "LogME", "shrunk H-score", "H-score", "features"),
    *("seconds: features", "LogME", "H-scores", "L2-FE"),
)

Row = Mapping[str, Any]


def ordered(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best first: by L2-FE's top-1 on the validation images, of equal ones by its cross-entropy, else by LogME."""
    return sorted(rows, key=lambda row: (-_top1(row), row["l2_fe"].get("cross_entropy", 0.0), -score(row, "logme")))


def cells(row: Row) -> list[object]:
    """One line of the table."""
    validated, seconds = row["l2_fe"], row["seconds"]
    return [
        row["weights"],
        f"{validated['top1']:.2%}" if "top1" in validated else "-",
        *(f"{score(row, name):.4f}" for name in SCORES),
        row["features"],
        *(f"{seconds[what]:.1f}" for what in ("features", "logme", "h_scores", "l2_fe")),
    ]


def agreements(rows: Sequence[Row]) -> dict[str, tuple[int, int]]:
    """{score: (pairs of weights that it orders as L2-FE does, pairs that differ in both)}."""
    found = {}
    for name in SCORES:
        signs = [
            np.sign(_top1(a) - _top1(b)) * np.sign(score(a, name) - score(b, name))
            for a, b in itertools.combinations(rows, 2)
        ]
        found[name] = (int(np.sum(np.greater(signs, 0))), int(np.count_nonzero(signs)))
    return found


def words(rows: Sequence[Row]) -> str:
    """What the order says, and how sure that is.

    Args:
      rows: of `ordered`.
    """
    best, *others = rows
    if not best["validation"]:
        by_logme = (
            "There are no validation images, so the order is that of LogME, on the training images alone; "
            "--config.data.validation_fraction=0.2 holds some out."
        )
        return " ".join([by_logme, *_limits(rows)])
    parts = [f"{best['weights']} is first: the head alone has {_top1(best):.1%} of {best['validation']} images right."]
    if others:
        parts += [_against(best, others[0]), *_apart(best, others[1:]), _agreement(rows)]
    return " ".join([*parts, *_limits(rows)])


def score(row: Row, name: str) -> float:
    """One of `SCORES`; JSON has no number for one without bound."""
    return np.inf if row[name] is None else float(row[name])


def _top1(row: Row) -> float:
    return float(row["l2_fe"].get("top1", 0.0))


def _right(row: Row) -> np.ndarray:
    right = np.ones(row["validation"])
    right[row["wrong"]] = 0
    return right


def _against(best: Row, second: Row) -> str:
    pair = statistics.paired(_right(best), _right(second))
    if not np.isfinite(pair.low):
        return f"Next is {second['weights']}."
    sure = "which the images are enough to show" if pair.low > 0 else "which may be chance"
    return (
        f"That is {100 * pair.difference:.1f} points above {second['weights']} ({statistics.CONFIDENCE:.0%} interval "
        f"{100 * pair.low:+.1f} to {100 * pair.high:+.1f}), {sure}."
    )


def _apart(best: Row, others: Sequence[Row]) -> list[str]:
    """Which of the others the images cannot tell from the best."""
    near = [row["weights"] for row in others if not statistics.paired(_right(best), _right(row)).low > 0]
    return [f"The images do not tell it from {listed(near)} either."] if near else []


def _agreement(rows: Sequence[Row]) -> str:
    counts = agreements(rows)
    if not max(pairs for _, pairs in counts.values()):
        return "The scores have nothing to agree with: no two of the accuracies differ."
    said = [f"{SCORES[name]} {same} of {pairs}" for name, (same, pairs) in counts.items()]
    return f"Pairs that the scores order in the same way: {', '.join(said)}."


def _limits(rows: Sequence[Row]) -> list[str]:
    """What keeps the numbers from being compared."""
    found = []
    if full := [row["weights"] for row in rows if row["train"] <= row["features"]]:
        found.append(
            f"The plain H-score says nothing of {listed(full)}: with no more training images than features it is the "
            "number of classes - 1 whatever the features are; the shrunk one is for that."
        )
    if endless := [row["weights"] for row in rows if not np.isfinite(score(row, "logme"))]:
        found.append(f"LogME of {listed(endless)} has no bound: some class is a linear function of the features.")
    if len({row["crop"] for row in rows}) > 1:
        sizes = ", ".join(f"{row['weights']} {row['crop']} px" for row in rows)
        found.append(f"Each saw the images as it was trained ({sizes}); --config.data.crop makes them equal.")
    return found
