"""ELPV: 2,624 photos of solar cells under current, from good to broken.

C. Buerhop-Lutz et al., "A Benchmark for Visual Identification of Defective Solar Cells in Electroluminescence Imagery",
2018; split as in S. Deitsch et al., "Automatic classification of defective photovoltaic module cells in
electroluminescence images", Solar Energy 2019: a quarter of the cells for testing, in proportion over the probability
of a defect and the kind of cell.
"""

import importlib.util
from pathlib import Path

import numpy as np

from delta_jax.data import filling, splits
from delta_jax.data.catalogue import Catalogue
from delta_jax.data.errors import DataError

LICENCE = "CC BY-NC-SA 4.0"
TWO_CLASSES = ("functional", "defective")
# What the four values of the labels 0, 1/3, 2/3, 1 stand for.
FOUR_CLASSES = ("functional", "probably functional", "probably defective", "defective")
TEST_FRACTION = 0.25
# The test cells are the same for every seed of a config: results compare only on the same ones.
TEST_SEED = 0


def find(
    name: str,
    root: str,
    how: splits.Splitting,
) -> Catalogue:
    """Lists the cells; see `delta_jax.data.find`.

    Args:
      name: "elpv" (defective from a probability of 1/2) or "elpv_4class".
      root: the folder with labels.csv, or "" for that of the package elpv-dataset.
      how: the seed is of the validation folds, and of `shots` or `train_fraction`, only; test_fraction is 0.25, the
        published one.
    """
    if how.test_fraction != TEST_FRACTION:
        raise DataError(
            f"test_fraction is {how.test_fraction}, but the test cells of elpv are the published quarter; "
            f"set test_fraction={TEST_FRACTION}"
        )
    folder = Path(root).expanduser() if root else _package_folder()
    files, thirds, kinds = _labels(folder / "labels.csv")
    sizes = []
    for file in files:
        try:
            sizes.append((folder / file).stat().st_size)
        except OSError as error:
            raise DataError(
                f"labels.csv names {file}, which cannot be read in {folder} ({error.strerror}); "
                "install elpv-dataset again or unpack all of it"
            ) from error

    strata = np.unique(np.stack([thirds, kinds]), axis=1, return_inverse=True)[1].reshape(-1)
    two = name == "elpv"
    labels = ((thirds >= 2) if two else thirds).astype(np.int32)
    class_names = TWO_CLASSES if two else FOUR_CLASSES
    published = np.where(splits.hold_out(strata, TEST_FRACTION, TEST_SEED), "test", "train")
    split, notes = filling.fill(published, labels, class_names, how, strata=strata)
    return Catalogue(
        name=name,
        files=tuple(files),
        labels=labels,
        split=split,
        class_names=class_names,
        licence=LICENCE,
        read=lambda i: (folder / files[i]).read_bytes(),
        sizes=np.array(sizes, np.int64),
        paths=tuple(folder / file for file in files),
        notes=notes,
    )


def _package_folder() -> Path:
    # The package is found, not imported: nothing of it but the files is needed.
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("the solar cells of elpv are not installed; run: pip install elpv-dataset")
    return Path(spec.submodule_search_locations[0]) / "data"


def _labels(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """File names, thirds of the probability (0 to 3) and 1 for a polycrystalline cell, in the order of the table."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise DataError(
            f"no table of labels at {path} ({error.strerror}); "
            "run: pip install --force-reinstall elpv-dataset, or set root to the folder with labels.csv"
        ) from error
    files, thirds, kinds = [], [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            file, probability, kind = line.split()
            files.append(file)
            thirds.append(round(3 * float(probability)))
            kinds.append(("mono", "poly").index(kind))
        except ValueError as error:
            raise DataError(
                f"{path}, line {number}: found {line!r}, expected a path, a probability and mono or poly"
            ) from error
    if len(files) == 0 or not 0 <= min(thirds) <= max(thirds) <= 3:
        raise DataError(f"{path}: expected lines with probabilities from 0 to 1; install elpv-dataset again")
    return files, np.array(thirds), np.array(kinds)
