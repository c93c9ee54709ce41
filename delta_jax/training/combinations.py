"""Fields of a config that do not go together, of optimizer, mixed images and ways of training."""

from collections.abc import Iterator, Mapping
from typing import Any

from delta_jax import methods


def problems(values: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """(field, its value, what is expected instead and why) of a config that is resolved but for this."""
    yield from _of_optimizer(values)
    yield from _of_mixed_images(values)
    yield from _of_layers(values)
    yield from _of_a_search(values)


def _of_optimizer(values: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    if values["optimizer"] == "nesterov" and not values["momentum"]:
        yield "momentum", values["momentum"], "more than 0: nesterov looks ahead along it; or --config.optimizer=sgd"


def _of_layers(values: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    decay, share, restarts = values["layer_decay"], values["unfreeze"], values["head_restarts"]
    if not 0 < decay <= 1:
        yield "layer_decay", decay, "more than 0 and at most 1, which gives all layers the same rate"
    if not share <= 1:
        yield "unfreeze", share, "0 to 1, a share of the steps"
    if values["steps"] and restarts >= values["steps"]:
        yield "head_restarts", restarts, f"less than steps = {values['steps']}"
    for field, value in (("unfreeze", share), ("head_restarts", restarts)):
        if value and values["patience"]:
            yield field, value, "0: it follows a number of steps, and patience may end the run at another"
        if value and values["optimizer"] == "adamw":
            why = "AdamW's averages count from the run's first step, not from a layer's"
            yield field, value, f"0: {why}; or --config.optimizer=sgd"
    if restarts and values["select"] == "wise_ft":
        yield (
            "select",
            "wise_ft",
            f"last or best: after {restarts} new heads no way leads from the first to the last one",
        )


def _of_a_search(values: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    # Its slope is that of a step of SGD at one rate for all layers, on images that are not mixed.
    if not values["strength_search"]:
        return
    for field in ("layer_decay", "surgical", "unfreeze", "head_restarts"):
        usual = {"layer_decay": 1, "surgical": False}.get(field, 0)
        if values[field] != usual:
            yield field, values[field], f"{usual}: a search for the strength (--config.strength_search) takes one rate"
    if values["optimizer"] == "adamw":
        yield "optimizer", "adamw", "sgd or nesterov: a search for the strength (--config.strength_search) is of those"
    if any(values["data"]["mix"]):
        why = "a search for the strength (--config.strength_search) compares images that are not mixed"
        yield "data.mix", values["data"]["mix"], f"(0.0, 0.0): {why}"


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
