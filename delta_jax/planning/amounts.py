"""How many classes and images a run has, from its data where they are found, or as told."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from delta_jax import data
from delta_jax.training.config import ConfigError
from delta_jax.training.setup import found


@dataclass(frozen=True)
class Amounts:
    """Of a run.

    Attributes:
      classes: of the target.
      train, validation, test: images.
      origin: where the numbers come from.
    """

    classes: int
    train: int
    validation: int
    test: int
    origin: str

    def __str__(self) -> str:
        numbers = f"{self.train:,} training, {self.validation:,} validation and {self.test:,} test images"
        return f"{self.classes:,} classes, {numbers}: {self.origin}"

    @property
    def images(self) -> int:
        """All of them."""
        return self.train + self.validation + self.test


def amounts(config: Any, *, classes: int | None = None, images: Sequence[int] = ()) -> Amounts:
    """Those of the data that the config names, of which names alone are read, unless they are told.

    Args:
      config: resolved.
      classes: of the target.
      images: training images; behind them, if they are not to follow from the config's fractions, validation and test
        images.

    Raises:
      ConfigError: the data are not found, and not all is told.
    """
    if classes and images:
        return Amounts(classes, *_splits(config, images), origin=f"as told{_how(images)}")
    try:
        catalogue = found(config)
    except (data.DataError, OSError, ImportError) as error:
        missing = " and ".join(
            flag for flag, given in (("--classes=10", classes), ("--images=3000", images)) if not given
        )
        raise ConfigError(
            f"how many classes and training images the run has is not known: {error}; without the data, tell it by "
            f"{missing}"
        ) from error
    counted = tuple(len(catalogue.rows(split)) for split in data.SPLITS)
    train, validation, test = _splits(config, images) if images else counted
    told = [f"--{name}" for name, given in (("classes", classes), ("images", images)) if given]
    beside = f"; {' and '.join(told)} as told{_how(images)}" if told else ""
    number = classes or len(catalogue.class_names)
    return Amounts(number, train, validation, test, f"images of {catalogue.name}{beside}")


def _splits(config: Any, images: Sequence[int]) -> tuple[int, int, int]:
    """Train, validation, test; those that are not told stand to the training images as the config has it."""
    train, settings = images[0], config.data
    fraction, held_out = settings.validation_fraction, settings.test_fraction
    validation = images[1] if len(images) > 1 else round(train * fraction / (1 - fraction))
    test = images[2] if len(images) > 2 else round((train + validation) * held_out / (1 - held_out))
    return train, validation, test


def _how(images: Sequence[int]) -> str:
    what = {1: "validation and test images", 2: "test images"}.get(len(images))
    return f"; {what} in the proportions of the config" if what else ""
