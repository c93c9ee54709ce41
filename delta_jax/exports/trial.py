"""A written program tried on photos, beside the network it was made from."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from delta_jax import data, weights
from delta_jax.exports import programs
from delta_jax.exports.errors import ExportError
from delta_jax.processes import sharding
from delta_jax.training import config as configs
from delta_jax.training import measured_images, stored_config
from delta_jax.training.classifier import Classifier
from delta_jax.training.setup import Setup
from delta_jax.workdir import logs

TOLERANCE = 1e-4  # of a probability
TIED = 1e-5  # two classes this near to one another may change places
MADE_UP = 32


@dataclass(frozen=True)
class Photos:
    """What a program is tried on.

    Attributes:
      count: how many there are.
      batches: called for all of them in order, uint8 [B, crop, crop, 3].
      name: "57 test photos of the run", for people.
    """

    count: int
    batches: Callable[[], Iterator[np.ndarray]]
    name: str


def photos_of(workdir: Path, trained: Classifier) -> Photos:
    """The test photos of the run in `workdir`; where they cannot be had, images of noise, and the name says why."""
    try:
        stored = ConfigDict(stored_config.read(workdir).to_dict())
        stored.data.white = trained.preprocessing.white
        config = configs.resolve(stored)
        setup = Setup(config, images=measured_images.own(workdir, config, "test"), trains=False)
        test = setup.test
        if not len(test):
            raise data.DataError("the run has no test images")
    except (configs.ConfigError, data.DataError, weights.WeightsError) as error:
        return made_up(trained, str(error))
    crop = jax.jit(lambda images: data.center_crop(images, trained.preprocessing.crop))

    def batches() -> Iterator[np.ndarray]:
        for _, mask, batch in test.batches(config.eval_batch_size):
            yield sharding.on_host(crop(batch["image"]))[: int(mask.sum())]

    return Photos(len(test), batches, data.counted(len(test), "test photo of the run", "test photos of the run"))


def made_up(trained: Classifier, why: str) -> Photos:
    """Images of noise, where there are no photos; why is part of the name."""
    side = trained.preprocessing.crop
    images = np.random.default_rng(0).integers(0, 256, (MADE_UP, side, side, 3), np.uint8)
    reason = why.splitlines()[0]
    return Photos(MADE_UP, lambda: iter([images]), f"{MADE_UP} images of noise, for want of test photos ({reason})")


@dataclass(frozen=True)
class Trial:
    """What it came to.

    Attributes:
      photos: what it was tried on, in words.
      largest: difference of a probability.
      theirs, ours: images per second, without the first batch, by which compilers are warmed up.
    """

    photos: str
    largest: float
    theirs: float
    ours: float

    def __str__(self) -> str:
        return (
            f"tried on {self.photos}: the same class for all, probabilities within {self.largest:.1e}; "
            f"{self.theirs:,.1f} images/s, by jax here {self.ours:,.1f}"
        )


def tried(trained: Classifier, theirs: Callable[[np.ndarray], np.ndarray], photos: Photos, *, pixels: bool) -> Trial:
    """Runs the photos through a written program and through the network here.

    Args:
      trained: the network.
      theirs: the program, images -> probabilities [B, K].
      photos: to try it on.
      pixels: whether the program takes uint8, or normalised images.

    Raises:
      ExportError: another class for any photo (two within TIED may change places), or a probability that differs by
        more than TOLERANCE, or is no number.
    """
    ours = jax.jit(programs.program(trained, pixels=True))
    seen = trained.preprocessing
    prepare = jax.jit(lambda images: data.normalize(images, seen.mean, seen.std))
    seconds, size, largest, others, warm = np.zeros(2), 0, 0.0, 0, False
    with logs.progress(photos.count, "try the file") as bar:
        for batch in photos.batches():
            size = max(size, len(batch))
            # One shape for every batch, so that each is compiled once.
            padded = np.concatenate([batch, np.repeat(batch[:1], size - len(batch), 0)])
            given = padded if pixels else np.asarray(prepare(padded))
            if not warm:
                theirs(given), jax.block_until_ready(ours(padded))
                warm = True
            started = time.perf_counter()
            found = theirs(given)[: len(batch)]
            between = time.perf_counter()
            expected = np.asarray(ours(padded))[: len(batch)]
            seconds += (between - started, time.perf_counter() - between)
            if found.shape != expected.shape or not np.isfinite(found).all():
                raise ExportError(f"it gives {found.shape} with values that are no numbers or too few; {_KEPT}")
            largest = max(largest, float(np.abs(found - expected).max()))
            chosen = np.take_along_axis(expected, found.argmax(-1)[:, None], -1)[:, 0]
            others += int((chosen < expected.max(-1) - TIED).sum())
            bar.advance(len(batch))
    if others or largest > TOLERANCE:
        raise ExportError(
            f"what was written does not compute what the network does: of {photos.name}, {others} get another class, "
            f"and probabilities differ by up to {largest:.1e}, where {TOLERANCE:g} is allowed; {_KEPT}"
        )
    return Trial(photos.name, largest, *(photos.count / np.maximum(seconds, 1e-9)))


_KEPT = "nothing is kept of it"
