"""Data sets by name."""

import difflib
from typing import Any

from delta_jax.data import elpv, folder, tfds_source
from delta_jax.data.catalogue import Catalogue
from delta_jax.data.errors import DataError

NAMES = ("elpv", "elpv_4class", "folder")


def find(
    name: str,
    *,
    root: str = "",
    seed: int = 0,
    validation_fraction: float = 0.2,
    test_fraction: float = 0.25,
    fold: int = 0,
) -> Catalogue:
    """Lists a data set, checks it and splits it; no image is decoded.

    Args:
      name: "elpv", "elpv_4class", "folder" or "tfds/NAME[/CONFIG]".
      root: where the images lie; "folder" needs it, the others have a default.
      seed: draws the splits that the data set does not bring along.
      validation_fraction: part of the training images to validate on, 1/k for k folds; 0 for none.
      test_fraction: part of the images to test on, where the data set has no test images; 0 for none.
      fold: which of the k validation folds, 0 to k - 1; the folds are disjoint.

    Raises:
      DataError: unknown name, images missing, or classes too small to split.
    """
    options: dict[str, Any] = {
        "root": root,
        "seed": seed,
        "validation_fraction": validation_fraction,
        "test_fraction": test_fraction,
        "fold": fold,
    }
    if name in ("elpv", "elpv_4class"):
        return elpv.find(name, **options)
    if name == "folder":
        return folder.find(**options)
    if name.startswith("tfds/") and len(name) > len("tfds/"):
        return tfds_source.find(name.removeprefix("tfds/"), **options)
    near = difflib.get_close_matches(name, NAMES, n=2, cutoff=0.5)
    raise DataError(
        f"no data set is called {name!r}; {f'did you mean {near[0]}? ' if near else ''}"
        f"Names: {', '.join(NAMES)}, tfds/NAME for NAME in TensorFlow Datasets"
    )
