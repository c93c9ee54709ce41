"""What a run says at its start and leaves at its end: what it runs with, predictions, summary."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from delta_jax.training import advice, evaluation, length, techniques
from delta_jax.training.setup import Setup
from delta_jax.workdir import json_files, logs

SUMMARY, ALPHA, FINE_TUNE = "summary.json", "alpha.json", "fine_tune.json"
LARGEST_TABLE = 200  # classes whose confusion matrix stands in summary.json; predictions.csv has what it is made of


def announce(setup: Setup, workdir: Path) -> None:
    """Says what is about to run."""
    config = setup.config
    logs.say(setup.catalogue.describe())
    for note in setup.catalogue.notes:
        logs.say(note)
    setup.warn_of_leaks()
    logs.say(
        f"{config.method} ({config.preset} preset: {config.penalty_scale} scale, "
        f"{'rectified' if config.rectify else 'raw'} maps, {config.attention_normalization} at temperature "
        f"{config.attention_temperature:g}, attention per {config.attention_per.replace('_', ' ')}), "
        f"beta {config.beta:g}, seed {config.seed}"
    )
    logs.say(
        f"{config.arch} from {config.weights}, {config.data.crop} px, batch {config.batch_size}, {config.steps} steps, "
        f"{jax.device_count()} {jax.devices()[0].platform} device(s); workdir {workdir}"
    )
    if setup.method.trains_backbone and (line := length.said(config, setup.asked, len(setup.catalogue.rows("train")))):
        logs.say(line)
    if setup.method.trains_backbone and (line := techniques.said(config, setup.method)):
        logs.say(line)
    for remark in advice.remarks(setup):
        logs.say(f"note: {remark}")


def write_predictions(path: Path, setup: Setup, probabilities: np.ndarray) -> None:
    """One line per test image: file, true class, predicted class, probability of every class."""
    names = setup.catalogue.class_names
    # Names of files need not be UTF-8: their bytes are written as they are.
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "true", "predicted", *(f"p({name})" for name in names)])
        for example, label, one in zip(setup.test.files, setup.test.labels, probabilities, strict=True):
            rows.writerow([example, names[label], names[int(one.argmax())], *(f"{p:.6f}" for p in one)])


def summarize(
    setup: Setup,
    workdir: Path,
    measured: Mapping[str, Any],
    baseline: Mapping[str, Any],
    confusion: np.ndarray | None,
    evaluate_seconds: float,
) -> dict[str, Any]:
    """The content of summary.json; accuracies are fractions, and `confusion` int [K, K] is of the test images.

    Where these were not looked at, it is None, and what would be said of them is empty.
    """

    fine_tune, head, attention, alpha = (
        json_files.read(workdir / name) for name in (FINE_TUNE, "head.json", "attention.json", ALPHA)
    )
    config, names = setup.config, setup.catalogue.class_names
    strength = fine_tune.get("strength", {})
    searched = strength if strength.get("field") == "alpha" else {}
    return {
        "method": config.method,
        "preset": config.preset,
        "arch": config.arch,
        "data": config.data.name,
        "classes": list(names),
        "alpha": searched.get("found", alpha.get("alpha") if config.alpha is None else config.alpha),
        "strength": strength,
        "seed": config.seed,
        "test": measured["test"],
        "validation": measured["validation"],
        "per_class_recall": {} if confusion is None else dict(zip(names, evaluation.recalls(confusion), strict=True)),
        "per_class_f1": {} if confusion is None else dict(zip(names, evaluation.f1_scores(confusion), strict=True)),
        "confusion_matrix": None if confusion is None or len(names) > LARGEST_TABLE else confusion.tolist(),
        "l2_fe": {split: baseline.get(split, {}) for split in ("test", "validation")} | {"l2": head.get("l2")},
        "gain": baseline.get("gain", {}),
        "seconds": {
            "head": head.get("seconds", 0.0),
            "attention": attention.get("seconds", 0.0),
            "fine_tune": fine_tune.get("seconds", 0.0),
            "evaluate": evaluate_seconds,
        },
        "steps": fine_tune.get("steps", 0),
        "selected_step": fine_tune.get("selected_step", 0),
        "wise_ft": fine_tune.get("wise_ft", {}),
        "convergence": fine_tune.get("convergence", {}),
        "images_per_second": fine_tune.get("images_per_second", 0.0),
    }
