"""What a run leaves for people: what it ran with, predictions, summary, pictures, and a table at the end."""

import csv
import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from delta_jax import data
from delta_jax.analysis import fonts, pictures
from delta_jax.training import advice, evaluation, logs, processes
from delta_jax.training.setup import Setup

_PACKAGES = ("delta_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "ml-collections", "numpy", "pillow")
ALPHA = "alpha.json"
_NUMBERS = re.compile(r"\[\s[-+.\deE,\s]*\]")
LARGEST_TABLE = 200  # classes whose confusion matrix stands in summary.json; predictions.csv has what it is made of


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a file, and its folder, that is there whole or not at all; the first process alone does."""
    if not processes.is_first():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: runs that start at once write the same files of the cache.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text = json.dumps(values, indent=2)
    # A list of numbers on one line: a confusion matrix is then a table.
    text = _NUMBERS.sub(lambda found: " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]"), text)
    unfinished.write_text(text + "\n")
    unfinished.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """What the first process finds in a file, on every process; {} where there is none."""
    return json.loads(processes.from_first(path.read_text() if processes.is_first() and path.exists() else "{}"))


def versions() -> dict[str, str]:
    """Of the packages that results depend on."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def write_environment(workdir: Path) -> None:
    """Appends to command.txt, and writes versions.json: interpreter, packages, devices."""
    line = shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]])
    with (workdir / "command.txt").open("a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(line + "\n")
    device = jax.devices()[0]
    facts = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "packages": versions(),
    }
    (workdir / "versions.json").write_text(json.dumps(facts, indent=2) + "\n")


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
        read_json(workdir / name) for name in ("fine_tune.json", "head.json", "attention.json", ALPHA)
    )
    config, names = setup.config, setup.catalogue.class_names
    return {
        "method": config.method,
        "preset": config.preset,
        "arch": config.arch,
        "data": config.data.name,
        "classes": list(names),
        "alpha": alpha.get("alpha") if config.alpha is None else config.alpha,
        "seed": config.seed,
        "test": measured["test"],
        "validation": measured["validation"],
        "per_class_recall": {} if confusion is None else dict(zip(names, evaluation.recalls(confusion), strict=True)),
        "confusion_matrix": None if confusion is None or len(names) > LARGEST_TABLE else confusion.tolist(),
        "l2_fe": {split: baseline.get(split, {}) for split in ("test", "validation")} | {"l2": head.get("l2")},
        "seconds": {
            "head": head.get("seconds", 0.0),
            "attention": attention.get("seconds", 0.0),
            "fine_tune": fine_tune.get("seconds", 0.0),
            "evaluate": evaluate_seconds,
        },
        "steps": fine_tune.get("steps", 0),
        "selected_step": fine_tune.get("selected_step", 0),
        "images_per_second": fine_tune.get("images_per_second", 0.0),
    }


def write_confusion(setup: Setup, workdir: Path, confusion: np.ndarray) -> None:
    """confusion.png: which classes the test images were taken for."""
    names = setup.catalogue.class_names
    pictures.confusion(confusion, names, workdir / "confusion.png")
    if unknown := [f"{number} is {name}" for number, name in enumerate(names) if not fonts.legible(name)]:
        logs.say(
            f"no font on this machine has all letters of some classes ({len(unknown)}), numbered in pictures: "
            f"{data.listed(unknown)}; for names install one, such as Noto Sans CJK, and remove ~/.cache/matplotlib"
        )


def write_curves(workdir: Path) -> None:
    """curves.png, where there was fine-tuning."""
    records = logs.read(workdir) if (workdir / logs.METRICS_FILE).exists() else []
    if any(record["phase"] == "fine_tune" for record in records):
        pictures.curves(records, workdir / "curves.png")


def write_page(workdir: Path) -> Path:
    """report.html."""
    from delta_jax import page  # 0.7 s to import, most of it scipy's statistics, wanted only at the end

    return page.write(workdir)


def show(summary: Mapping[str, Any], workdir: Path, setup: Setup, page: Path) -> None:
    """The table at the end of a run, and where its files are."""

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
    for name in ("summary.json", "predictions.csv", "confusion.png", "curves.png", "filters.png"):
        if (workdir / name).exists():
            logs.say(f"  {workdir / name}")
    logs.say(f"All of it on one page, for a browser: {page}")
    logs.say(f"Licence of the images: {setup.catalogue.licence}")
    if summary["data"] not in ("folder", "manifest"):
        logs.say(
            "Your own images, one folder per class: "
            "python -m delta_jax.train --config=configs/folder.py --workdir=runs/mine --config.data.root=FOLDER"
        )
