"""The networks that a sweep's runs ended with, for benchmarks that ask what is left in them."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delta_jax.training.classifier import Classifier


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--runs, --methods and --json."""
    parser.add_argument("--runs", type=Path, required=True, help="folder with METHOD/seed-N")
    parser.add_argument("--methods", default="", help="names with commas between; all if not given")
    parser.add_argument("--json", type=Path, help="file for a line per measurement")


def load(folder: Path, methods: str) -> dict[tuple[str, str], Classifier]:
    """{(method, seed-N): network} of the finished ones.

    Raises:
      SystemExit: there are none, or not all have the same classes and pixels.
    """
    names = [name for name in methods.split(",") if name]
    found = {}
    for method in names or sorted(path.name for path in folder.iterdir() if path.is_dir()):
        for run in sorted((folder / method).glob("seed-*")):
            if (run / "summary.json").exists():
                found[method, run.name] = Classifier(run)
    if not found:
        raise SystemExit(f"error: no finished runs in {folder}/METHOD/seed-N")
    if len({(one.class_names, one.preprocessing) for one in found.values()}) > 1:
        raise SystemExit(f"error: the runs in {folder} are not of the same classes and pixels")
    return found


def means(rows: Sequence[Mapping[str, Any]], *fields: str) -> dict[str, list[float]]:
    """{method: mean of each field over its rows}."""
    return {
        method: [float(np.mean([row[field] for row in rows if row["method"] == method])) for field in fields]
        for method in dict.fromkeys(row["method"] for row in rows)
    }


def write(path: Path | None, rows: Sequence[Mapping[str, Any]]) -> None:
    """As JSON lines, where a file is wanted."""
    if path:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
