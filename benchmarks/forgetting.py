"""What finished runs still know of ImageNet: the source's own classifier on their features.

    python benchmarks/forgetting.py --photos=photos/imagenet --weights=pip/efficientnet-lite0 \\
        --runs=runs/rivals/runs/caltech101/efficientnet_lite0 --methods=l2_fe,l2,delta --json=forgetting.jsonl

`--photos` has photos whose file names begin with the number of their ImageNet class, 0 to 999; `--runs` a folder
METHOD/seed-N for each run, as a sweep leaves them. A network that keeps what it came with gives the classifier features
that it knows: top-1, how often its answer is the source's, and the cosine of the features and the source's, each mean
over the photos, at the crop of the runs. The first row is the source itself. What is left of features for other tasks,
`python -m delta_jax.rank` tells: an L2-FE head on another data set, of each run's model.safetensors.
"""

import argparse
from pathlib import Path
from typing import Any

import _finished_runs
import jax
import jax.numpy as jnp
import numpy as np

from delta_jax import features, models, weights
from delta_jax.methods.method import logits_of
from delta_jax.processes import huge_pages
from delta_jax.training.classifier import Classifier


def photos(folder: Path, classifier: Classifier) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [N, resize, resize, 3], classes [N]) of the files that begin with a number."""
    files = [file for file in sorted(folder.iterdir()) if file.name[:4].isdigit()]
    if not files:
        raise SystemExit(f"error: no photos in {folder} whose names begin with the four digits of their class")
    return np.stack([classifier.decode(file) for file in files]), np.array([int(file.name[:4]) for file in files])


def features_of(classifier: Classifier, variables: Any, images: np.ndarray) -> np.ndarray:
    """What the head sees of the centre crops, [N, D]."""
    model = models.create(classifier.arch, num_classes=len(classifier.class_names))
    head = models.spec(classifier.arch).head

    @jax.jit
    def of(variables: Any, pixels: jax.Array) -> jax.Array:
        views = classifier.preprocessing.views(pixels)
        return features.head_inputs(model, variables, views[0], head=head)

    return np.asarray(of(variables, jnp.asarray(images)))


def row(found: np.ndarray, source: np.ndarray, head: Any, labels: np.ndarray) -> dict[str, float]:
    """Top-1 of the source's classifier, its agreement with the source, and the mean cosine of the features."""
    answers, known = (np.asarray(logits_of(head, jnp.asarray(one))).argmax(-1) for one in (found, source))
    norms = np.linalg.norm(found, axis=-1) * np.linalg.norm(source, axis=-1)
    cosine = (found * source).sum(-1) / np.maximum(norms, 1e-12)
    return {
        "top1": float((answers == labels).mean()),
        "agreement": float((answers == known).mean()),
        "cosine": float(cosine.mean()),
        "n": len(labels),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown: a row per method, means over its runs."""
    lines = ["| method | top-1, % | agreement, % | cosine |", "| --- | --- | --- | --- |"]
    for method, (top1, agreement, cosine) in _finished_runs.means(rows, "top1", "agreement", "cosine").items():
        lines.append(f"| `{method}` | {100 * top1:.1f} | {100 * agreement:.1f} | {cosine:.3f} |")
    return "\n".join(lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos named NNNN*")
    parser.add_argument("--weights", required=True, help="of the source, with its classifier")
    _finished_runs.add_arguments(parser)
    return parser.parse_args(arguments)


def main() -> None:
    args = parse()
    networks = _finished_runs.load(args.runs, args.methods)
    first = next(iter(networks.values()))
    images, labels = photos(args.photos, first)
    head = weights.load_head(args.weights, first.arch)
    if head is None:
        raise SystemExit(f"error: {args.weights} has no classifier that fits {first.arch}")
    loaded = weights.load(args.weights, first.arch, len(first.class_names))
    source = features_of(first, loaded, images)
    rows = [{"method": "source", "run": args.weights} | row(source, source, head, labels)]
    for (method, run), network in networks.items():
        found = features_of(network, network.variables, images)
        rows.append({"method": method, "run": run} | row(found, source, head, labels))
    _finished_runs.write(args.json, rows)
    print(table(rows))


if __name__ == "__main__":
    huge_pages.restart()
    main()
