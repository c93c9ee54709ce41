"""A finished run for people: pictures, the page, and the table that a command ends with."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from delta_jax import data, processes
from delta_jax.analysis import fonts, gallery, pictures
from delta_jax.training import evaluation
from delta_jax.training.trainer import Fitted
from delta_jax.workdir import logs

_FILES = ("summary.json", "predictions.csv", "confusion.png", "curves.png", "filters.png")


def show(fitted: Fitted) -> None:
    """Writes pictures and page of a run, and prints its table; the first process alone does.

    Nothing of it is measured: the same call again makes the same files. Of a run whose test images were not looked at,
    which serves a choice, nothing is shown.

    Args:
      fitted: what `trainer.fit` returned.
    """
    if fitted.probabilities is None or not processes.is_first():
        return
    from delta_jax import page  # 0.7 s to import, most of it scipy's statistics, wanted only at the end

    _draw_confusion(fitted, fitted.probabilities)
    _draw_curves(fitted)
    gallery.write(fitted.setup, fitted.workdir, fitted.before, fitted.after, fitted.probabilities)
    written = page.write(fitted.workdir)  # made of all the other files
    _print_table(fitted.summary)
    if said := fitted.summary.get("convergence", {}).get("said"):
        logs.say(f"validation images: {said}")
    if said := fitted.summary.get("gain", {}).get("said"):
        logs.say(said)
    for path in (fitted.workdir / name for name in _FILES):
        if path.exists():
            logs.say(f"  {path}")
    logs.say(f"All of it on one page, for a browser: {written}")
    logs.say(f"Licence of the images: {fitted.setup.catalogue.licence}")
    if not data.is_own(fitted.summary["data"]):
        logs.say(
            "Your own images, one folder per class: "
            "python -m delta_jax.train --config=folder --workdir=runs/mine --config.data.root=FOLDER"
        )


def _draw_confusion(fitted: Fitted, probabilities: np.ndarray) -> None:
    """confusion.png: which classes the test images were taken for."""
    names = fitted.setup.catalogue.class_names
    counted = evaluation.confusion_matrix(probabilities, fitted.setup.test.labels)
    pictures.confusion(counted, names, fitted.workdir / "confusion.png")
    if unknown := [f"{number} is {name}" for number, name in enumerate(names) if not fonts.legible(name)]:
        logs.say(
            f"no font on this machine has all letters of some classes ({len(unknown)}), numbered in pictures: "
            f"{data.listed(unknown)}; for names install one, such as Noto Sans CJK, and remove ~/.cache/matplotlib"
        )


def _draw_curves(fitted: Fitted) -> None:
    """curves.png, where there was fine-tuning."""
    there = (fitted.workdir / logs.METRICS_FILE).exists()
    records = logs.read(fitted.workdir) if there else []
    if any(record["phase"] == "fine_tune" for record in records):
        pictures.curves(records, fitted.workdir / "curves.png")


def _print_table(summary: Mapping[str, Any]) -> None:
    def row(name: str, measured: Mapping[str, Any], seconds: float) -> list[str]:
        validation, test = measured["validation"], measured["test"]
        shown = f"{validation['top1']:.2%}" if validation else "-"
        return [name, shown, f"{test['top1']:.2%}", f"{test['balanced_accuracy']:.2%}", f"{seconds:.0f}"]

    seconds = summary["seconds"]
    rows = [row("l2_fe", summary["l2_fe"], seconds["head"])]
    if summary["method"] != "l2_fe":
        rows.append(row(summary["method"], summary, sum(seconds.values())))
    columns = ["method", "validation top-1", "test top-1", "balanced", "seconds"]
    logs.table(f"{summary['data']}, {summary['test']['n']} test images, seed {summary['seed']}", columns, rows)
