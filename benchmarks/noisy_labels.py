"""A manifest of a folder of photos in which a share of the training labels is wrong.

    python benchmarks/noisy_labels.py --root=photos/caltech101_30 --share=0.2 --out=photos/noisy20.csv

ROOT has train/CLASS/* and test/CLASS/*. Of every class the share of its training photos, rounded, is given another
class each, drawn evenly from the others; the test labels stay right. The same seed gives the same file.
"""

import argparse
import csv
import os
from pathlib import Path

import numpy as np

from delta_jax.data.image_files import SUFFIXES


def disturbed(labels: list[str], share: float, rng: np.random.Generator) -> list[str]:
    """The labels, of which `share` of each class are another one's."""
    found, classes = list(labels), sorted(set(labels))
    for name in classes:
        own = [place for place, label in enumerate(labels) if label == name]
        for place in rng.permutation(own)[: round(share * len(own))]:
            others = [other for other in classes if other != name]
            found[place] = others[rng.integers(len(others))]
    return found


def photos(root: Path, split: str) -> list[tuple[Path, str]]:
    """(file, class) of a split, in the order of their names."""
    folders = sorted(path for path in (root / split).iterdir() if path.is_dir())
    files = [(file, folder.name) for folder in folders for file in sorted(folder.iterdir())]
    return [(file, label) for file, label in files if file.suffix.lower() in SUFFIXES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with train/CLASS/* and test/CLASS/*")
    parser.add_argument("--share", type=float, required=True, help="of the training labels, 0 to 1")
    parser.add_argument("--out", type=Path, required=True, help="CSV to write; paths in it are relative to its folder")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train, test = photos(args.root, "train"), photos(args.root, "test")
    labels = disturbed([label for _, label in train], args.share, np.random.default_rng(args.seed))
    rows = [(file, label, "train") for (file, _), label in zip(train, labels, strict=True)]
    rows += [(file, label, "test") for file, label in test]
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split"))
        writer.writerows((os.path.relpath(path, args.out.parent), label, split) for path, label, split in rows)
    wrong = sum(label != right for label, (_, right) in zip(labels, train, strict=True))
    print(f"{args.out}: {len(train)} training photos, {wrong} of them with a wrong label, {len(test)} test photos")


if __name__ == "__main__":
    main()
