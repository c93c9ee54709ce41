"""Settings that work and are hardly meant: fields that a run does not read, values that cancel each other.

Nothing here stops a run; each finding is a line at its beginning.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from flax.traverse_util import flatten_dict
from ml_collections import FrozenConfigDict

from delta_jax import methods
from delta_jax.data.splits import listed
from delta_jax.models.layers.windows import padded_alike
from delta_jax.training import checks, strength
from delta_jax.training import config as configs
from delta_jax.training.setup import Setup
from delta_jax.workdir import logs

_ATTENTION = (
    *("attention_images", "attention_estimator", "attention_exact_filters", "attention_tolerance", "attention_batch"),
    *("attention_chunk", "attention_share", "attention_shrink"),
)
_WEIGHTS = ("attention_per", "attention_normalization", "attention_temperature", "attention_over", "attention_file")
_TRAINING = (
    *("steps", "batch_size", "accumulate", "learning_rate", "head_learning_rate_factor", "momentum", "schedule"),
    *("warmup_steps", "decay_at", "decay_factor", "epoch_decay_factor", "clip_norm", "head_init", "batch_norm"),
    *(
        "dropout",
        "matmul_precision",
        "freeze_until",
        "remat",
        "eval_every",
        "select",
        "patience",
        "effort",
        "checkpoint_every",
        "log_every",
        "auxiliary_weight",
    ),
    *("matmul_precision", "data.augment", "data.least_area", "data.color_jitter"),
    *("optimizer", "label_smoothing", "data.mix", "data.erase", "data.upright", "data.rand_augment"),
    *("layer_decay", "surgical", "unfreeze", "head_restarts", "average"),
)
_SCALED = ("delta", "delta_without_attention", "afd")  # methods that read penalty_scale
_ENOUGH_LOOKS = 20
_LARGE_FOR_ADAM = 0.005
_SEEN_TWICE = 40  # images, before which the jackknife over 20 groups says nothing


def _unread(config: FrozenConfigDict) -> Iterator[tuple[str, Sequence[str]]]:
    """(why, fields) of a resolved config."""
    method, settings = methods.create(config.method), config.data
    if not method.trains_backbone:
        yield f"{config.method} trains the head alone", _TRAINING
    if not method.uses_source_maps:
        # The preset tllib is an optimizer, too.
        also = () if config.preset == "tllib" and method.trains_backbone else ("preset",)
        yield f"{config.method} compares no feature maps", ("taps", "rectify", "penalty_scale", *also)
    elif config.method not in _SCALED:
        yield f"{config.method} has one scale", ("penalty_scale",)
    if method.default_alpha is not None:
        yield f"alpha is not measured for {config.method}", ("alpha_relative",)
    if method.default_alpha == 0:
        yield f"{config.method} has no penalty with a weight alpha", ("alpha",)
    if not (method.penalizes_head and method.trains_backbone) and settings.validation_fraction:
        yield f"{config.method} has no penalty with a weight beta", ("beta",)
    if not method.decays_weights:
        yield f"{config.method} has no weight decay", ("weight_decay",)
    if not method.uses_attention:
        yield f"{config.method} has no attention", (*_ATTENTION, *_WEIGHTS)
    others = {field for name in methods.names() for field in methods.options(name)} - set(
        methods.options(config.method)
    )
    yield f"they are not of {config.method}", sorted(others)
    if config.attention_file:
        yield "attention_file is read instead", _ATTENTION
    if config.attention_estimator != "mixed":
        yield f"attention_estimator is {config.attention_estimator}", ("attention_exact_filters",)
    if config.attention_per == "image":
        yield "attention_per is image", ("attention_share",)
    if config.attention_per != "data_set":
        yield f"attention_per is {config.attention_per}", ("attention_shrink",)
    if config.attention_normalization == "uniform":
        yield "attention_normalization is uniform", ("attention_temperature", "attention_over", "attention_shrink")
    if config.steps:
        yield f"steps is {config.steps}", ("effort",)
    if config.alpha is not None:
        yield f"alpha is {config.alpha:g}", ("alpha_relative",)
    if config.schedule != "step":
        yield f"schedule is {config.schedule}", ("decay_at", "decay_factor")
    if config.schedule != "exponential":
        yield f"schedule is {config.schedule}", ("epoch_decay_factor",)
    if settings.augment != "resized_crop":
        yield f"data.augment is {settings.augment}", ("data.least_area",)
    if not settings.validation_fraction:
        yield "data.validation_fraction is 0", ("data.validation_fold",)


def say_unread(config: Any, given: Sequence[str]) -> None:
    """One line with the fields that are given on the command line and change nothing in this run.

    Args:
      config: not yet resolved.
      given: the fields, by dotted name. What a config file sets is often meant for several methods.

    Raises:
      ConfigError: a field has a value that cannot work.
    """
    if not given:
        return
    left, groups = list(given), []
    for why, fields in _unread(configs.resolve(config)):
        if unread := [f"--config.{field}" for field in left if field in fields]:
            groups.append(f"{listed(unread)} ({why})")
            left = [field for field in left if field not in fields]
    if groups:
        logs.say(f"note: without effect in this run: {'; '.join(groups)}")


def remarks(setup: Setup) -> list[str]:
    """What is to be said of a run before it begins; nothing for the configs that come with the library."""
    config = setup.config
    found = list(_of_evaluation(setup))
    if setup.method.trains_backbone:
        found += [*_of_steps(setup), *_of_batches(setup), *_of_penalties(config), *_of_search(config)]
    return found


def _of_search(config: FrozenConfigDict) -> Iterator[str]:
    looks = strength.looks(config.steps)
    if config.strength_search and looks < _ENOUGH_LOOKS:
        yield (
            f"--config.strength_search=True: {config.steps} steps leave {looks} looks at the validation images, each "
            f"of which moves the strength by a factor of {math.exp(strength.LARGEST_MOVE):.1f} at most"
        )


def _of_evaluation(setup: Setup) -> Iterator[str]:
    config, settings, spec = setup.config, setup.config.data, setup.spec
    if config.eval_crops == 10 and settings.aspect == "squash" and settings.crop == settings.resize:
        yield (
            f"--config.eval_crops=10: data.crop = data.resize = {settings.crop}, so the ten are the centre and "
            "its mirror image, five times each; a larger data.resize makes room"
        )
    if len(config.head_l2) > 1 and not len(setup.catalogue.rows("validation")):
        yield (
            f"--config.head_l2: there are no validation images to choose by, so it is {config.beta or 1e-2:g} (beta); "
            "give one value to set it"
        )
    padded_for, crop = spec.arguments.get("same_at"), settings.crop
    if padded_for and not padded_alike(crop, padded_for):
        alike = [size for size in range(crop - 64, crop + 65) if size > 0 and padded_alike(size, padded_for)]
        near = sorted(alike, key=lambda size: abs(size - crop))[:2]
        yield (
            f"--config.data.crop={crop}: {config.arch} is padded as for the {padded_for} pixels that its weights were "
            f"trained at; timm pads for {crop} pixels and gives other logits, not so at "
            f"{' or '.join(map(str, sorted(near)))}"
        )
    if jax.default_backend() == "cpu" and config.compute_dtype == "bfloat16":
        yield "--config.compute_dtype=bfloat16: it is for GPUs and TPUs and rounds more than float32; this is a CPU"


def _of_steps(setup: Setup) -> Iterator[str]:
    config, settings = setup.config, setup.config.data
    images, shown = len(setup.catalogue.rows("train")), config.steps * config.batch_size
    if config.optimizer == "adamw" and config.learning_rate >= _LARGE_FOR_ADAM:
        yield (
            f"--config.optimizer=adamw: its steps are about as large as the rate, whatever the gradient is, and "
            f"--config.learning_rate={config.learning_rate:g} is one for SGD; try 0.001 to 0.0001"
        )
    if config.learning_rate == 0:
        yield "--config.learning_rate=0: the network stays as it starts"
    if config.head_learning_rate_factor == 0 and config.head_init != "l2_fe":
        yield (
            f"--config.head_learning_rate_factor=0: the head stays as it starts, {config.head_init}; expected "
            "--config.head_init=l2_fe with it"
        )
    if shown < images:
        yield (
            f"{config.steps} steps of {config.batch_size} are {shown} of the {images} training images, less than an "
            f"epoch; all are seen from --config.steps={-(-images // config.batch_size)} on"
        )
    if config.schedule == "step" and config.warmup_steps >= round(config.decay_at * config.steps):
        decay = round(config.decay_at * config.steps)
        yield (
            f"--config.warmup_steps={config.warmup_steps}: the rate decays at step {decay}, before it has "
            f"grown to --config.learning_rate={config.learning_rate:g}"
        )
    if config.select == "best" and config.eval_every >= config.steps:
        yield (
            f"--config.select=best: with eval_every={config.eval_every} the validation images are looked at once, "
            f"after the last of {config.steps} steps; there is nothing to select from"
        )
    looks = -(-config.steps // config.eval_every) if config.eval_every else 0
    if config.patience and config.patience >= looks - 1:
        yield (
            f"--config.patience={config.patience}: with eval_every={config.eval_every} there are {looks} looks at the "
            f"validation images in {config.steps} steps, so it cannot end the run; try "
            f"--config.eval_every={max(config.steps // (3 * config.patience + 1), 1)}"
        )
    elif config.patience and (seen := config.patience * config.eval_every * config.batch_size) < images:
        yield (
            f"--config.patience={config.patience}: so many looks, {config.eval_every} steps of {config.batch_size} "
            f"images apart, see {seen} of {images} training images, and a bounce passes for a plateau; an epoch is "
            f"--config.patience={-(-images // (config.eval_every * config.batch_size))}"
        )
    if settings.augment == "crop" and settings.aspect == "squash" and settings.crop == settings.resize:
        yield (
            f"--config.data.augment=crop: data.crop = data.resize = {settings.crop} leaves no room for random crops, "
            "the whole image is taken; a larger data.resize, or data.augment=resized_crop"
        )


def _of_batches(setup: Setup) -> Iterator[str]:
    config = setup.config
    if checks.images_of_statistics(config, setup.source) == 1:
        yield (
            f"--config.batch_size={config.batch_size} in {config.accumulate} part(s): BatchNorm takes its statistics "
            "from one image at a time, and keeps a mean of such ones for evaluation; a larger batch, or "
            "--config.batch_norm=frozen_stats"
        )
    scales = any(path[-1] == "scale" for path in flatten_dict(dict(setup.source["params"])))
    if not setup.source.get("batch_stats") and (
        config.batch_norm == "frozen_stats" or (config.batch_norm == "frozen" and not scales)
    ):
        kept = "; frozen leaves scale and bias of its normalisations alone" if scales else ""
        yield (
            f"--config.batch_norm={config.batch_norm}: {config.arch} has no running statistics, so it trains as with "
            f"batch_norm=train{kept}"
        )
    if config.remat and jax.default_backend() == "cpu":
        yield "--config.remat=True: it computes blocks twice to save the memory of GPUs and TPUs; this is a CPU"


def _of_penalties(config: FrozenConfigDict) -> Iterator[str]:
    method = methods.create(config.method)
    weight = config.alpha if config.alpha is not None else config.alpha_relative
    if method.default_alpha != 0 and weight == 0:
        field = "alpha" if config.alpha is not None else "alpha_relative"
        yield f"--config.{field}=0: the penalty of {config.method} counts for nothing, this is plain fine-tuning"
    images = config.attention_images
    if method.uses_attention and config.attention_tolerance and 0 < images < _SEEN_TWICE:
        yield (
            f"--config.attention_tolerance={config.attention_tolerance:g}: not known before {_SEEN_TWICE} images, so "
            f"all {images} of attention_images are measured"
        )
