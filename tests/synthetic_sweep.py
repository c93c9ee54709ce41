"""A sweep's folder as delta_jax.sweep leaves it, made up: five methods, five seeds, all files that the page reads."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

METHODS = ("l2_fe", "l2", "l2_sp", "delta_without_attention", "delta")
# A name that breaks out of HTML, attributes and scripts, where it is not escaped.
CLASSES = ('<b>"x"&', "finch", "jay", "</script>'", "wren")
TAPS = ("layer3_5/conv2", "layer4_2/conv2")
_TOP1 = {"l2_fe": 0.85, "l2": 0.84, "l2_sp": 0.883, "delta_without_attention": 0.884, "delta": 0.9}
_STRENGTHS = {"l2_sp": ("alpha", (0.001, 0.01, 0.1)), "delta": ("alpha_relative", (0.1, 1.0, 10.0))}
SETTINGS = {
    "name": "table1",
    "title": "Table 1: top-1 of five methods",
    "table": "table1",
    "small": False,
    "data_sets": {"stanford_dogs": {}},
    "networks": {"resnet101": {}},
    "variants": {},
    "methods": list(METHODS),
}


def make(folder: Path, *, seeds: int = 5, steps: int = 9000, filters: int = 512, images: int = 200) -> Path:
    """Writes the folder.

    Args:
      folder: to be made.
      seeds: of each method.
      steps: of a run; a record every 20.
      filters: of each of eight convolutions.
      images: of the test split.
    """
    rng = np.random.default_rng(0)
    records = [_run(folder, rng, method, seed, steps, filters, images) for method in METHODS for seed in range(seeds)]
    for method, (field, values) in _STRENGTHS.items():
        for value in values:
            for fold in range(5):
                top1 = _TOP1[method] - 0.01 * abs(np.log10(value / values[1])) + rng.normal(0, 0.004)
                place = f"choice/stanford_dogs/resnet101/{method}/{field}={value}/fold-{fold}"
                records.append(
                    record(
                        method, 0, place, kind="choice", fold=fold, strength={field: value}, validation=_measures(top1)
                    )
                )
    write_json(folder / "sweep.json", {**SETTINGS, "seeds": list(range(seeds))})
    (folder / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    write_json(folder / "comparisons.json", {"comparisons": [_comparison(a, b) for a, b in _pairs()]})
    (folder / "command.txt").write_text(
        "python -m delta_jax.sweep --config=configs/paper/table1.py --workdir=runs/t1\n"
    )
    return folder


def record(method: str, seed: int, workdir: str, **changed: Any) -> dict[str, Any]:
    """A line of results.jsonl."""
    return {
        "kind": "final",
        "data": "stanford_dogs",
        "network": "resnet101",
        "variant": "",
        "method": method,
        "seed": seed,
        "fold": 0,
        "strength": {},
        "workdir": workdir,
        "test": {},
        "validation": {},
        "alpha": 0.00012,
        "seconds": 120.3,
        "images": "",
        "error": "",
    } | changed


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _run(
    folder: Path, rng: np.random.Generator, method: str, seed: int, steps: int, filters: int, images: int
) -> dict[str, Any]:
    place = f"runs/stanford_dogs/resnet101/{method}/seed-{seed}"
    workdir = folder / place
    top1 = _TOP1[method] + rng.normal(0, 0.002)
    strength = {_STRENGTHS[method][0]: _STRENGTHS[method][1][1]} if method in _STRENGTHS else {}
    config = {"arch": "resnet101", "method": method, "seed": seed, "steps": steps, "data": {"name": "tfds/dogs"}}
    write_json(
        workdir / "config.json",
        {**config, "learning_rate": 0.01, "alpha_relative": strength.get("alpha_relative", 1.0)},
    )
    packages = {"delta_jax": "0.1.0", "jax": "0.10.2"}
    write_json(
        workdir / "versions.json",
        {"python": "3.11", "platform": "Linux", "devices": "1 x H100 (gpu)", "packages": packages},
    )
    (workdir / "command.txt").write_text(f"python -m delta_jax.train --config.method={method} --config.seed={seed}\n")
    summary = {
        "method": method,
        "seed": seed,
        "preset": "reference",
        "classes": list(CLASSES),
        "test": _measures(top1, images),
    }
    write_json(workdir / "summary.json", {**summary, "confusion_matrix": None, "seconds": {"fine_tune": 120.3}})
    _write_predictions(workdir / "predictions.csv", rng, top1, images)
    _write_gallery(workdir / "gallery", method)
    if method != "l2_fe":
        _write_metrics(workdir / "metrics.jsonl", rng, top1, steps)
        scale = {"l2": 0.5, "l2_sp": 0.1}.get(method, 0.2)
        layers = [
            {
                "name": f"layer{stage}_{block}/conv1",
                "stage": f"layer{stage}",
                "distance": [float(f"{d:.4g}") for d in scale * rng.lognormal(0, 0.7, filters)],
            }
            for stage in (1, 2, 3, 4)
            for block in (0, 1)
        ]
        write_json(workdir / "drift.json", {"layers": layers})
    if method == "delta":
        weights = np.sort(rng.lognormal(0, 0.4, (len(TAPS), filters)), axis=-1)[:, ::-1]
        taps = [{"name": tap, "scaled": one.round(4).tolist()} for tap, one in zip(TAPS, weights, strict=True)]
        write_json(workdir / "attention_profile.json", {"taps": taps})
    return record(method, seed, place, strength=strength, test=_measures(top1, images))


def _measures(top1: float, n: int = 200) -> dict[str, float]:
    return {"top1": top1, "balanced_accuracy": top1 - 0.01, "cross_entropy": 1.2 - top1, "n": n}


def _write_predictions(path: Path, rng: np.random.Generator, top1: float, images: int) -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "true", "predicted", *(f"p({name})" for name in CLASSES)])
        for i in range(images):
            true = i % len(CLASSES)
            predicted = true if rng.random() < top1 else int(rng.integers(len(CLASSES)))
            rows.writerow([f"{i}.jpg", CLASSES[true], CLASSES[predicted], *["0.200000"] * len(CLASSES)])


def _write_metrics(path: Path, rng: np.random.Generator, top1: float, steps: int) -> None:
    lines = []
    for step in range(20, steps + 1, 20):
        loss = 2.5 * np.exp(-4 * step / steps) + 0.3 + rng.normal(0, 0.05)
        values = {"cross_entropy": loss, "loss": loss + 0.2, "penalty": 1000.0 * step / steps, "learning_rate": 0.01}
        lines.append({"phase": "fine_tune", "step": step, "time": 1.79e9 + step, **values})
        if step % (steps // 10 // 20 * 20) == 0:
            reached = top1 - 0.3 * np.exp(-6 * step / steps) + rng.normal(0, 0.004)
            lines.append({"phase": "validation", "step": step, "time": 1.79e9 + step, "top1": reached})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _write_gallery(folder: Path, method: str) -> None:
    folder.mkdir(parents=True)
    # The same photos in every run: from a generator of their own.
    rng = np.random.default_rng(1)

    def save(name: str, side: int) -> str:
        coarse = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / name, quality=80)
        return name

    photos = [
        {
            "name": f"photo{i}.jpg",
            "true": CLASSES[i % len(CLASSES)],
            "predicted": CLASSES[i % len(CLASSES)] if i or method != "l2" else CLASSES[1],
            "probability": 0.93,
            "photo": save(f"photo-{i}.jpg", 160),
            "maps": [
                {
                    "tap": tap,
                    "source": save(f"photo-{i}-{tap.replace('/', '-')}-source.jpg", 160),
                    "trained": save(f"photo-{i}-{tap.replace('/', '-')}-trained.jpg", 160),
                }
                for tap in TAPS
            ],
        }
        for i in range(6)
    ]
    mistakes = [
        {
            "name": f"m{i}.jpg",
            "true": CLASSES[0],
            "predicted": CLASSES[2],
            "probability": 0.99 - i / 50,
            "photo": save(f"mistake-{i}.jpg", 128),
        }
        for i in range(8)
    ]
    write_json(folder / "gallery.json", {"photos": photos, "mistakes": mistakes})


def _pairs() -> list[tuple[str, str]]:
    return [(a, b) for i, a in enumerate(METHODS) for b in METHODS[i + 1 :]]


def _comparison(first: str, second: str) -> dict[str, Any]:
    difference = _TOP1[first] - _TOP1[second]
    interval = {"difference": difference, "low": difference - 0.008, "high": difference + 0.008, "p": 0.01, "n": 5}
    verdict = "better" if difference > 0.008 else "worse" if difference < -0.008 else "no difference shown"
    setting = {"data": "stanford_dogs", "network": "resnet101", "variant": "", "reason": "", "adjusted_p": 0.03}
    return {**setting, "first": first, "second": second, "verdict": verdict, "seeds": interval, "images": interval}
