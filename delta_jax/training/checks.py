"""What can be wrong with a run, found from fields, file names and shapes: nothing here takes longer than a second."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import FrozenConfigDict

from delta_jax import data, features, models
from delta_jax.training import channel_weights, distributed
from delta_jax.training.config import ConfigError
from delta_jax.training.state import Variables


def batches_divide(config: FrozenConfigDict, mesh: distributed.Mesh) -> None:
    """Raises ConfigError unless every batch can be split over the devices."""
    for field in ("batch_size", "eval_batch_size", "attention_batch"):
        try:
            distributed.check_divides(config[field], mesh, field)
        except ValueError as error:
            raise ConfigError(str(error)) from error


def counts(config: FrozenConfigDict, catalogue: data.Catalogue) -> None:
    """Raises ConfigError where there are too few images to train or none to test on."""
    n = {split: len(catalogue.rows(split)) for split in data.SPLITS}
    for field, way_out in (("batch_size", "take a smaller batch"), ("attention_images", "0 takes all")):
        if config[field] > n["train"]:
            raise ConfigError(
                f"--config.{field}={config[field]}: there are only {n['train']} training images; {way_out}"
            )
    if not n["test"]:
        raise ConfigError("there are no test images; set --config.data.test_fraction to hold some out")


def network_fits(config: FrozenConfigDict, spec: models.ModelSpec, network: Any, num_classes: int) -> None:
    """Raises ConfigError unless the network runs on images of the crop's size and has its head."""
    try:
        models.check(network, spec.head, num_classes, size=config.data.crop)
    except ValueError as error:
        raise ConfigError(f"--config.arch={config.arch}: {error}") from error


def network_trains(config: FrozenConfigDict, make: Callable[[], Any]) -> None:
    """Raises ConfigError unless the network that `make` returns can be made and, with a second classifier, trained."""
    try:
        network = make()
    except ValueError as error:
        raise ConfigError(f"--config.arch={config.arch}: {error}") from error
    if config.auxiliary_weight == 0:
        return
    key = jax.eval_shape(jax.random.key, 0)
    try:
        shapes = jax.eval_shape(network.init, key, _images(config))
        jax.eval_shape(
            lambda v, x, k: network.apply(v, x, train=True, mutable=["batch_stats"], rngs={"dropout": k}),
            shapes,
            _images(config),
            key,
        )
    except ValueError as error:
        raise ConfigError(f"--config.auxiliary_weight={config.auxiliary_weight}: {error}") from error


def taps_fit(config: FrozenConfigDict, spec: models.ModelSpec, network: Any, source: Variables) -> dict[str, int]:
    """{tap: how many filters it has}.

    Raises:
      ConfigError: a tap is not there or returns no feature maps, the head does not see features [B, D], or the gaps of
        `attention_file` are of other taps.
    """
    images = _images(config)
    try:
        features.check_taps(network, source, images, config.taps)
    except ValueError as error:
        raise ConfigError(f"--config.taps: {error}") from error
    try:
        jax.eval_shape(lambda v, x: features.head_inputs(network, v, x, head=spec.head), source, images)
    except ValueError as error:
        raise ConfigError(f"--config.arch={config.arch}: {error}") from error
    shapes = features.list_taps(network, source, images)
    flat = [tap for tap in config.taps if len(shapes[tap]) != 4]
    if flat:
        raise ConfigError(
            f"--config.taps: {flat[0]} returns shape {shapes[flat[0]]}, expected feature maps [B, H, W, C]"
        )
    channels = {tap: shapes[tap][-1] for tap in config.taps}
    if config.attention_file:
        channel_weights.read(config.attention_file, channels)  # complains now, not after the head
    return channels


def _images(config: FrozenConfigDict) -> Any:
    return jax.ShapeDtypeStruct((1, config.data.crop, config.data.crop, 3), jnp.float32)
