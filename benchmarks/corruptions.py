"""How accurate finished runs are on corrupted test photos: ImageNet-C's corruptions at three strengths.

    pip install imagecorruptions==1.1.2
    python benchmarks/corruptions.py --root=photos/caltech101_30/test --methods=l2_fe,l2,delta \\
        --runs=runs/rivals/runs/caltech101/efficientnet_lite0 --json=corruptions.jsonl

`--runs` has a folder METHOD/seed-N for each run, as a sweep leaves them, of networks with the same images and classes.
Of each class the first photos in the order of their names are squashed to 224 x 224 pixels, for which the corruptions
were defined (Hendrycks and Dietterich, ICLR 2019; the package is Michaelis et al.'s, 2019), corrupted, and then decoded
as the runs decode theirs. Seven kinds of noise, blur, weather and digital, at severities 1, 3 and 5; of the package's
others, glass_blur, gaussian_blur and fog do not run with scikit-image 0.26 and numpy 2. What is random is drawn from
the same seed for a photo in every call, so all networks see the same pixels.
"""

import argparse
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _finished_runs
import jax
import numpy as np
from PIL import Image

from delta_jax import data
from delta_jax.data.image_files import SUFFIXES
from delta_jax.processes import huge_pages
from delta_jax.training.classifier import Classifier

KINDS = ("gaussian_noise", "shot_noise", "defocus_blur", "motion_blur", "brightness", "contrast", "jpeg_compression")
SEVERITIES = (1, 3, 5)
SIDE = 224  # pixels, that the corruptions were defined for
BATCH = 100


def photos(root: Path, classes: tuple[str, ...], each: int) -> list[tuple[Path, int]]:
    """(file, class) of the first `each` photos of every class."""
    found = []
    for number, name in enumerate(classes):
        files = sorted(file for file in (root / name).iterdir() if file.suffix.lower() in SUFFIXES)
        found += [(file, number) for file in files[:each]]
    return found


def corrupted(image: np.ndarray, kind: str, severity: int, seed: int) -> np.ndarray:
    """uint8 [224, 224, 3], the same in each call; as it is where the severity is 0."""
    if not severity:
        return image
    from imagecorruptions import corrupt

    # The package draws from the global generator.
    np.random.seed(seed)  # noqa: NPY002
    return corrupt(image, corruption_name=kind, severity=severity)


def decoded(
    files: list[tuple[Path, int]], kind: str, severity: int, classifier: Classifier
) -> Iterator[tuple[np.ndarray, int]]:
    """(uint8 [resize, resize, 3], class) of each photo."""
    seen = classifier.preprocessing
    for seed, (file, label) in enumerate(files):
        with Image.open(file) as photo:
            square = np.asarray(photo.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        png = io.BytesIO()
        Image.fromarray(corrupted(square, kind, severity, seed)).save(png, "png", compress_level=1)
        yield data.decode_image(png.getvalue(), seen.resize, interpolation=seen.interpolation), label


def measured(classifier: Classifier, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Top-1 and mean cross-entropy."""
    parts = [classifier.probabilities(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    probabilities = np.concatenate(parts)
    of_label = probabilities[np.arange(len(labels)), labels]
    return {
        "top1": float((probabilities.argmax(-1) == labels).mean()),
        "cross_entropy": float(-np.log(np.maximum(of_label, 1e-30)).mean()),
        "n": len(labels),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown: top-1 of each method in percent, mean over its runs and kinds."""
    levels = {
        severity: _finished_runs.means([row for row in rows if row["severity"] == severity], "top1")
        for severity in (0, *SEVERITIES)
    }
    lines = ["| method | clean | severity 1 | 3 | 5 |", "| --- | --- | --- | --- | --- |"]
    for method in levels[0]:
        cells = (f"{100 * of_method[method][0]:.1f}" for of_method in levels.values())
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of the test photos: ROOT/CLASS/*")
    parser.add_argument("--each", type=int, default=5, help="photos a class")
    _finished_runs.add_arguments(parser)
    return parser.parse_args(arguments)


def main() -> None:
    args = parse()
    networks = _finished_runs.load(args.runs, args.methods)
    first = next(iter(networks.values()))
    files = photos(args.root, first.class_names, args.each)
    print(f"{len(networks)} runs, {len(files)} photos, jax {jax.__version__} on {jax.devices()[0].device_kind}")
    rows: list[dict[str, Any]] = []
    for kind, severity in [("none", 0), *itertools.product(KINDS, SEVERITIES)]:
        pairs = list(decoded(files, kind, severity, first))
        images, labels = np.stack([image for image, _ in pairs]), np.array([label for _, label in pairs])
        for (method, run), network in networks.items():
            row = {"method": method, "run": run, "kind": kind, "severity": severity}
            rows.append(row | measured(network, images, labels))
        mean = np.mean([row["top1"] for row in rows[-len(networks) :]])
        print(f"{kind} {severity}: top-1 {mean:.1%} over all runs", flush=True)
    _finished_runs.write(args.json, rows)
    print(table(rows))


if __name__ == "__main__":
    huge_pages.restart()
    main()
