"""What a run does otherwise than the paper's protocol, in a line: optimizer, labels, images, rates, average."""

from collections.abc import Iterator
from typing import Any

from delta_jax.methods import Method


def said(config: Any, method: Method) -> str:
    """Of a resolved config; "" for SGD with momentum on plain labels and crops."""
    found = [*_of_steps(config, method), *_of_images(config), *_of_layers(config)]
    return f"trained with {'; '.join(found)}" if found else ""


def _of_steps(config: Any, method: Method) -> Iterator[str]:
    if config.optimizer == "adamw":
        decay = f"decoupled weight decay {config.weight_decay:g}" if method.decays_weights else "no weight decay"
        yield f"adamw, {decay}"
    elif config.optimizer != "sgd":
        yield config.optimizer
    if config.label_smoothing:
        gaps = ", which the gaps of the attention do not have" if method.uses_attention else ""
        yield f"label smoothing {config.label_smoothing:g}{gaps}"
    if config.batch_norm == "stochastic":
        yield "the running statistics in half of the channels of each BatchNorm"


def _of_images(config: Any) -> Iterator[str]:
    settings = config.data
    mixed = [f"{name} {a:g}" for name, a in zip(("mixup", "CutMix"), settings.mix, strict=True) if a]
    if mixed:
        yield " and ".join(mixed)
    if settings.rand_augment[0]:
        yield "RandAugment, {} operations of magnitude {}".format(*settings.rand_augment)
    if settings.erase:
        yield f"a rectangle erased in {settings.erase:.0%} of the images"
    if not settings.upright:
        yield "images turned by quarters"


def _of_layers(config: Any) -> Iterator[str]:
    if config.layer_decay != 1:
        yield f"each layer at {config.layer_decay:g} of the rate of the next"
    if config.surgical:
        yield "rates by the relative norm of the gradient"
    if config.unfreeze:
        yield f"layer after layer from the head on, all from step {round(config.unfreeze * config.steps)}"
    if config.head_restarts:
        yield f"a new head {config.head_restarts} times"
    if config.average:
        yield f"the average of the weights, decay {config.average:g}, which is looked at and kept"
