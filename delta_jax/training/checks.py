"""What can be wrong with a run, found from fields, file names and shapes: nothing here takes longer than a second."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from ml_collections import FrozenConfigDict

from delta_jax import data, features, models, precision
from delta_jax.chips import target
from delta_jax.methods import Method, Shapes
from delta_jax.processes import sharding
from delta_jax.training import channel_weights, layer_rates
from delta_jax.training.config import ConfigError
from delta_jax.training.convergence import LEAST_IMAGES
from delta_jax.training.state import Variables


def batches_divide(config: FrozenConfigDict, mesh: sharding.Mesh) -> None:
    """Raises ConfigError unless every batch can be split over the devices, and that of training into its parts."""
    wrong = []
    for field in ("batch_size", "eval_batch_size", "attention_batch"):
        if config[field] is None:
            continue  # it follows the devices
        try:
            sharding.check_divides(config[field], mesh, field)
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise ConfigError("; ".join(wrong))
    batch, parts = config.batch_size, config.accumulate
    whole = parts * mesh.size
    if batch % whole:
        raise ConfigError(
            f"--config.accumulate={parts}: a batch_size of {batch} does not divide into {parts} equal parts for "
            f"{mesh.size} devices; try --config.batch_size={max(batch // whole, 1) * whole}"
        )


def computes(config: FrozenConfigDict) -> None:
    """Raises ConfigError where the network is to compute in what this platform's compiler gets wrong."""
    on_cpu = target.current().platform == "cpu"
    if config.compute_dtype == "bfloat16" and on_cpu and not precision.computes_bfloat16():
        raise ConfigError(
            f"--config.compute_dtype=bfloat16: jax {jax.__version__} computes it wrongly on CPUs; take float32, or set "
            "XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type= in the environment"
        )


def counts(config: FrozenConfigDict, catalogue: data.Catalogue) -> None:
    """Raises ConfigError where there are too few images to train or none to test on."""
    enough_to_train(config, len(catalogue.rows("train")))
    enough_to_search(config, len(catalogue.rows("validation")))
    if not len(catalogue.rows("test")):
        raise ConfigError("there are no test images; set --config.data.test_fraction to hold some out")
    looked_at = len(catalogue.rows("validation"))
    if config.patience and looked_at < LEAST_IMAGES:
        raise ConfigError(
            f"--config.patience={config.patience}: there are {looked_at} validation images, expected {LEAST_IMAGES} or "
            "more to tell a plateau by; hold more out by --config.data.validation_fraction, or set --config.patience=0"
        )


def enough_to_train(config: FrozenConfigDict, images: int) -> None:
    """Raises ConfigError where so many training images are too few."""
    for field, way_out in (("batch_size", "take a smaller batch"), ("attention_images", "0 takes all")):
        if config[field] > images:
            raise ConfigError(f"--config.{field}={config[field]}: there are only {images} training images; {way_out}")


def enough_to_search(config: FrozenConfigDict, images: int) -> None:
    """Raises ConfigError where so many validation images are too few to find a strength by."""
    if config.strength_search and images < config.batch_size:
        raise ConfigError(
            f"--config.strength_search=True: there are {images} validation images, expected {config.batch_size} or "
            "more, a batch; hold more out by --config.data.validation_fraction, take a smaller --config.batch_size, or "
            "set --config.strength_search=False"
        )


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
    if config.remat and not isinstance(network, nn.Module):
        raise ConfigError(
            f"--config.remat=True: {config.arch} is no Linen module; put nnx.remat around its blocks, or try "
            "--config.accumulate=2 to save memory"
        )
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


def images_of_statistics(config: FrozenConfigDict, source: Variables) -> int | None:
    """How many images BatchNorm takes its statistics from in a training step; None where it takes none."""
    uses = config.batch_norm in ("train", "stochastic") and bool(source.get("batch_stats"))
    return config.batch_size // config.accumulate if uses else None


def batch_statistics(config: FrozenConfigDict, network: Any, source: Variables, frozen: Sequence[str]) -> None:
    """Raises ConfigError if a BatchNorm sees one value per channel: less its mean it is 0, whatever the image."""
    if images_of_statistics(config, source) != 1:
        return
    shapes = features.list_taps(network, source, _images(config))
    norms = {"/".join(path[:-1]) for path in flatten_dict(dict(source["batch_stats"]))}
    single = [name for name in shapes if name in norms and set(shapes[name][:-1]) == {1} and not _within(name, frozen)]
    if single:
        raise ConfigError(
            f"--config.batch_size={config.batch_size} in {config.accumulate} part(s) of one image, and maps of one "
            f"pixel at {single[0]}: BatchNorm has one value per channel and makes 0 of it; take a larger batch, fewer "
            "--config.accumulate, a larger --config.data.crop or --config.batch_norm=frozen_stats"
        )


def frozen_modules(config: FrozenConfigDict, network: Any, source: Variables, heads: Sequence[str]) -> tuple[str, ...]:
    """Paths of the modules that `freeze_until` freezes, none within another.

    Raises:
      ConfigError: there is no such module, what runs before it cannot be replayed, or a head is among it.
    """
    if not config.freeze_until:
        return ()
    found: list[str] = []

    def run(variables: Variables, images: jax.Array) -> None:
        found.extend(features.Prefix(network, variables, images).outputs_until(config.freeze_until))

    try:
        jax.eval_shape(run, source, _images(config))
    except ValueError as error:
        raise ConfigError(f"--config.freeze_until: expected the path of a module, as of a tap; {error}") from error
    if inside := [head for head in heads if _within(head, found)]:
        raise ConfigError(
            f"--config.freeze_until={config.freeze_until}: the head {inside[0]} would be frozen with it; "
            "choose a module in front of it"
        )
    return tuple(found)


def taps_outside(config: FrozenConfigDict, frozen: Sequence[str]) -> tuple[str, ...]:
    """The taps that are not frozen, where the distance to the source could only be 0.

    Raises:
      ConfigError: there are none.
    """
    kept = tuple(tap for tap in config.taps if not _within(tap, frozen))
    if not kept:
        raise ConfigError(
            f"--config.freeze_until={config.freeze_until}: all taps, {', '.join(config.taps)}, are frozen; choose a "
            "module in front of the last one, other --config.taps, or a method that compares no feature maps"
        )
    return kept


def _within(path: str, modules: Sequence[str]) -> bool:
    return any(f"{path}/".startswith(f"{module}/") for module in modules)


def blocks_to_recompute(config: FrozenConfigDict, source: Variables) -> None:
    """Raises ConfigError if `remat` is on for a network that has no blocks."""
    if config.remat and not features.blocks(source["params"]):
        raise ConfigError(
            f"--config.remat=True: {config.arch} has no modules of two or more layers, so there are no blocks that "
            "could be computed again; try --config.accumulate=2 to save memory"
        )


def stochastic_norm(config: FrozenConfigDict, network: Any, source: Variables) -> None:
    """Raises ConfigError if `batch_norm` is stochastic for a network without layers that can be so."""
    if config.batch_norm != "stochastic":
        return
    changed: list[int] = []
    key = jax.eval_shape(jax.random.key, 0)

    def run(variables: Variables, images: jax.Array, key: jax.Array) -> Any:
        with models.stochastic_norm(lambda: changed.append(1)):
            return network.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})

    jax.eval_shape(run, source, _images(config), key)
    if not changed:
        raise ConfigError(
            f"--config.batch_norm=stochastic: {config.arch} has none of the library's BatchNorm layers, which it "
            "changes; expected train"
        )


def layers(
    config: FrozenConfigDict, network: Any, source: Variables, heads: Sequence[str]
) -> layer_rates.Layers | None:
    """The layers of the network where their rates differ; None where not.

    Raises:
      ConfigError: they are not known.
    """
    asked = {
        "layer_decay": config.layer_decay != 1,
        "unfreeze": config.unfreeze > 0,
        "head_restarts": config.head_restarts > 0,
        "surgical": config.surgical,
    }
    if not any(asked.values()):
        return None
    # Of training: the second classifier of Inception-V3 runs there alone.
    order = features.order(network, source, _images(config), train=True, rngs={"dropout": jax.random.key(0)})
    try:
        return layer_rates.of_network(source["params"], order, heads)
    except ValueError as error:
        field = next(field for field, wanted in asked.items() if wanted)
        raise ConfigError(f"--config.{field}={config[field]}: {config.arch}: {error}") from error


def taps_fit(config: FrozenConfigDict, spec: models.ModelSpec, network: Any, source: Variables) -> Shapes:
    """Shapes of the feature maps, and of what the head sees.

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
        seen = jax.eval_shape(lambda v, x: features.head_inputs(network, v, x, head=spec.head), source, images)
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
    return Shapes({tap: tuple(shapes[tap][1:]) for tap in config.taps}, seen.shape[-1])


def method_fits(config: FrozenConfigDict, method: Method, shapes: Shapes) -> None:
    """Raises ConfigError where the method cannot work on what it is to see."""
    if problem := method.problem(shapes, config.batch_size // config.accumulate):
        raise ConfigError(problem)
    if method.knows_examples and any(config.data.mix):
        raise ConfigError(
            f"--config.data.mix={tuple(config.data.mix)}: {config.method} goes by the label or the row of each image, "
            "and a mixed one has two; expected (0.0, 0.0), or another method"
        )
    if method.carries and config.accumulate > 1:
        raise ConfigError(
            f"--config.accumulate={config.accumulate}: {config.method} compares a batch with queues that it then "
            "joins, as a whole; set --config.accumulate=1, and a smaller --config.batch_size to save memory"
        )


def _images(config: FrozenConfigDict) -> Any:
    return jax.ShapeDtypeStruct((1, config.data.crop, config.data.crop, 3), jnp.float32)
