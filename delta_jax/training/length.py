"""How many steps a run takes whose config leaves that to the number of its training images."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import FrozenConfigDict

from delta_jax.training.config import ConfigError
from delta_jax.training.config_checks import MOST_STEPS

BY_IMAGES = 0  # as `steps`: the number follows from the images
TENTHS = -1  # as `eval_every`: ten looks


@dataclasses.dataclass(frozen=True)
class Rule:
    """How many images a run is shown.

    Attributes:
      passes: over the training images.
      least, most: images shown, so that a few dozen photos are enough to move the network, and a hundred thousand end.
    """

    passes: float = 6.0
    least: int = 4_800
    most: int = 32_000

    def steps(self, images: int, batch_size: int, effort: float = 1.0) -> int:
        """Steps of `batch_size` images over so many training images; `effort` multiplies them."""
        shown = min(max(self.passes * images, self.least), self.most)
        return max(round(effort * shown / batch_size), 1)


RULE = Rule()
_FEW = 0.1  # of the images, which may have broken since a run began


def settled(config: FrozenConfigDict, images: int) -> FrozenConfigDict:
    """The config with numbers for `steps` and `eval_every`.

    Args:
      config: resolved.
      images: for training.

    Raises:
      ConfigError: too few steps come out for the warm-up or the new heads, or more than a run may have.
    """
    steps, looks = config.steps, config.eval_every
    if steps != BY_IMAGES and looks != TENTHS:
        return config
    if steps == BY_IMAGES:
        steps = RULE.steps(images, config.batch_size, config.effort)
        if config.warmup_steps >= steps:
            raise ConfigError(
                f"--config.effort={config.effort:g}: {steps} steps of {config.batch_size} images come out, expected "
                f"more than warmup_steps = {config.warmup_steps}; set a larger effort, or --config.steps"
            )
        if steps > MOST_STEPS:
            raise ConfigError(
                f"--config.effort={config.effort:g}: {steps:.3g} steps come out, expected {MOST_STEPS:,} at most"
            )
        if config.head_restarts >= steps:
            raise ConfigError(
                f"--config.head_restarts={config.head_restarts}: expected less than the {steps} steps that come out "
                f"for {images} training images"
            )
    return _with(config, steps=steps, eval_every=max(steps // 10, 1) if looks == TENTHS else looks)


def as_begun(config: FrozenConfigDict, begun: Mapping[str, Any], images: int) -> FrozenConfigDict:
    """The config with the steps of the run that has begun with it: files that broke since do not make it another run.

    Args:
      config: resolved.
      begun: the config that the run has begun with.
      images: for training, now.

    Returns:
      The same config where the run's steps are not those of the rule, but for some images: they were given.
    """
    if config.steps != BY_IMAGES or begun.get("effort") != config.effort:
        return config
    steps = RULE.steps(images, config.batch_size, config.effort)
    return _with(config, steps=begun["steps"]) if abs(begun["steps"] - steps) <= _FEW * steps else config


def said(config: FrozenConfigDict, asked: FrozenConfigDict, images: int) -> str:
    """A line on where the steps come from; "" where they were given.

    Args:
      config: of the run.
      asked: as it was given.
      images: for training.
    """
    if asked.steps != BY_IMAGES:
        return ""
    passes = config.steps * config.batch_size / max(images, 1)
    return (
        f"{config.steps} steps: {passes:.3g} passes over {images:,} training images, by the rule of "
        f"docs/own_photos.md; --config.effort={2 * config.effort:g} doubles them"
    )


def _with(config: FrozenConfigDict, **values: Any) -> FrozenConfigDict:
    return FrozenConfigDict({**config.to_dict(), **values})
