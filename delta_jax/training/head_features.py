"""What the head sees of the training and validation images: features of the frozen source, and where they are kept."""

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from delta_jax import processes
from delta_jax.processes import sharding
from delta_jax.training import provenance
from delta_jax.training.head import get_head
from delta_jax.training.image_sets import ImageSet
from delta_jax.training.setup import Setup
from delta_jax.workdir import json_files, logs
from delta_jax.workdir.stored_trees import CheckpointError
from delta_jax.workdir.variable_files import load_variables, save_variables

# To be raised when `compute` finds other features than before.
VERSION = 1
FEATURES, FACTS = "features.safetensors", "features.json"


class Features(NamedTuple):
    """Of V views of an image, as it is and, if that is on, mirrored.

    Attributes:
      train: float32 [V, N, D].
      validation: [V, M, D].
    """

    train: np.ndarray
    validation: np.ndarray


def compute(setup: Setup) -> Features:
    """The features of all training and validation images."""
    views = setup.head_features()

    def of(images: ImageSet) -> np.ndarray:
        parts = [np.zeros((_views(setup), 0, _width(setup)), np.float32)]
        for _, mask, batch in images.batches(setup.config.eval_batch_size):
            kept = int(mask.sum())
            parts.append(sharding.on_host(views(setup.source, batch["image"]))[:, :kept])
            bar.advance(kept)
        return np.concatenate(parts, axis=1)

    with logs.progress(len(setup.train) + len(setup.validation), "features for the head") as bar:
        return Features(of(setup.train), of(setup.validation))


def identity(setup: Setup) -> str:
    """A name for the features of `compute`: of all that they depend on."""
    return provenance.key(
        {
            "version": VERSION,
            "arch": provenance.of_network(setup),
            "variables": provenance.of_variables(setup.source),
            "train": provenance.of_examples(setup.train),
            "validation": provenance.of_examples(setup.validation),
            "mirror": setup.config.data.mirror,
            **provenance.of_pixels(setup),
        }
    )


def kept(setup: Setup, name: str) -> tuple[Features, float]:
    """The features from the cache, computed where it has none, and the seconds that this took.

    The file is of the first process, which alone gets what was kept; the others get arrays without images then.

    Args:
      setup: of the network and the images.
      name: their `identity`.
    """
    folder = setup.cache_dir / "features" / name
    found = _read(folder / FEATURES, setup) if processes.is_first() else None
    if processes.from_first("" if found is None else "there"):
        return found or _empty(setup, 0, 0), json_files.read(folder / FACTS)["seconds"]
    began = time.monotonic()
    found = compute(setup)
    seconds = time.monotonic() - began
    json_files.write(folder / FACTS, {"seconds": seconds})
    save_variables(folder / FEATURES, found._asdict())  # last: it says that both are there
    return found, seconds


def _read(path: Path, setup: Setup) -> Features | None:
    """What was kept; None where there is nothing, or nothing that can be read, which is said."""
    if not path.exists():
        return None
    try:
        return Features(**load_variables(path, _empty(setup, len(setup.train), len(setup.validation))._asdict()))
    except CheckpointError as error:
        logs.say(f"{error}; computed again")
        return None


def _empty(setup: Setup, train: int, validation: int) -> Features:
    """Zeros for so many images."""
    return Features(*(np.zeros((_views(setup), images, _width(setup)), np.float32) for images in (train, validation)))


def _width(setup: Setup) -> int:
    return int(get_head(setup.source["params"], setup.spec.head)["kernel"].shape[0])


def _views(setup: Setup) -> int:
    return 2 if setup.config.data.mirror else 1
