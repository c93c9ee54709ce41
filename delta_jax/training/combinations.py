"""Fields of a config that do not go together, of optimizer, mixed images and ways of training."""

from collections.abc import Iterator, Mapping
from typing import Any

from delta_jax import methods


def problems(values: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """(field, its value, what is expected instead and why) of a config that is resolved but for this."""
    yield from _of_optimizer(values)
    yield from _of_mixed_images(values)


def _of_optimizer(values: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    if values["optimizer"] == "nesterov" and not values["momentum"]:
        yield "momentum", values["momentum"], "more than 0: nesterov looks ahead along it; or --config.optimizer=sgd"


def _of_mixed_images(values: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    mix = values["data"]["mix"]
    if not any(mix):
        return
    if values["batch_size"] < 2:
        yield "batch_size", values["batch_size"], f"2 or more: data.mix is {mix}, and images are mixed within a batch"
    per = values["attention_per"]
    if methods.create(values["method"]).uses_attention and per != "data_set":
        why = f"a mixed image is of two, and attention_per is {per}; or --config.attention_per=data_set"
        yield "data.mix", mix, f"(0.0, 0.0): {why}"
