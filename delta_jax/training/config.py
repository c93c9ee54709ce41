"""The config of a run: presets filled in, and checked before anything slow."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from delta_jax import methods, models, weights
from delta_jax.data.splits import listed
from delta_jax.training import config_checks
from delta_jax.training.config_checks import AT_LEAST, CHOICES, ConfigError, require


@dataclasses.dataclass(frozen=True)
class Preset:
    """Where the paper and its published code differ: fields of the config; docs/fidelity.md has the reasons."""

    rectify: bool
    penalty_scale: str
    attention_per: str
    attention_normalization: str
    attention_temperature: float
    optimizer: str = "sgd"
    head_learning_rate_factor: float = 1.0


PRESETS = {
    "paper": Preset(True, "paper", "image", "softmax", 1.0),
    "reference": Preset(False, "reference", "data_set", "standardized_softmax", 5.0),
    # TLLib's examples with --finetune: the backbone has a tenth of the head's rate.
    "tllib": Preset(False, "reference", "data_set", "standardized_softmax", 5.0, "nesterov", 10.0),
}

# Where a method's penalty has one scale for all networks, the published strength. Distances of feature maps differ by
# orders of magnitude between networks: there alpha is measured, see `alpha_relative`.
DEFAULT_ALPHA = {name: alpha for name in methods.names() if (alpha := methods.create(name).default_alpha) is not None}


def resolve(config: ConfigDict) -> FrozenConfigDict:
    """Checks every field that can be checked without data, and fills in what the preset and the method leave open.

    Raises:
      ConfigError: with the field, its value and the values that work.
    """
    values = config.to_dict()
    there = flat(values)
    if missing := [name for name in ("method", "taps", "preset", *CHOICES, *AT_LEAST) if name not in there]:
        whose = (
            "it is the config of a sweep, for delta_jax.sweep"
            if "run" in values
            else "start from delta_jax.configs.default"
        )
        raise ConfigError(f"the config has no field {listed(missing)}; {whose}")
    try:
        methods.create(values["method"])
        spec = models.spec(values["arch"])
    except ValueError as error:
        raise ConfigError(str(error)) from error
    require(values["preset"] in PRESETS, "preset", values["preset"], f"one of {', '.join(PRESETS)}")
    for field, value in dataclasses.asdict(PRESETS[values["preset"]]).items():
        if values[field] is None:
            values[field] = value
    config_checks.tuples(values)
    _fill_preprocessing(values)
    config_checks.choices(values)
    if values["alpha"] is None:
        values["alpha"] = DEFAULT_ALPHA.get(values["method"])
    config_checks.ranges(values)
    config_checks.finite(values)
    if tuple(values["taps"]) == ("default",):
        values["taps"] = spec.taps
    return FrozenConfigDict(values)


def _fill_preprocessing(values: dict[str, Any]) -> None:
    """What `data` leaves open: as the weights were trained, or the network for weights of unknown origin."""
    settings, spec = values["data"], models.spec(values["arch"])
    # Where all is said, as in the config of a run, nobody has to ask a network for the rest.
    complete = None not in [settings.get(field) for field in ("interpolation", "crop", "resize", "mean", "std")]
    source = (weights.SOURCES.get if complete else weights.named)(values["weights"])
    beside = None if source else weights.images(values["weights"])
    known = source or spec
    crop, resize = (source.crop, source.resize) if source else (spec.input_size, spec.resize)
    if beside and beside.crop:
        crop, resize = beside.crop, beside.resize or round(beside.crop * resize / crop)
    if settings["interpolation"] is None:
        settings["interpolation"] = (beside and beside.interpolation) or known.interpolation
    if settings["crop"] is None:
        given = settings["resize"]
        settings["crop"] = crop if given is None else max(1, round(given * crop / resize))
    if settings["resize"] is None:
        settings["resize"] = round(settings["crop"] * resize / crop)
    for field, usual in (("mean", known.mean), ("std", known.std)):
        given = settings.get(field)  # runs of before there was the field have none
        if given is None:
            settings[field] = (beside and getattr(beside, field)) or usual
        else:
            settings[field] = tuple(given) * 3 if len(given) == 1 else tuple(given)  # one number for all channels


def origin_of_preprocessing(config: FrozenConfigDict) -> str:
    """A line on how images are normalised where that is not as a named source of weights says; "" where it is."""
    settings, spec, source = config.data, models.spec(config.arch), weights.named(config.weights)
    beside = None if source else weights.images(config.weights)
    reasons = []
    for field in ("mean", "std"):
        value = tuple(settings[field])
        if source and value == getattr(source, field):
            why = ""
        elif beside and value == getattr(beside, field):
            why = f"as {beside.where} says"
        elif not source and value == getattr(spec, field):
            why = f"as usual for {config.arch}: nothing beside the weights says how they were trained"
        else:
            why = f"as --config.data.{field} says"
        reasons.append((f"{field} {' '.join(f'{number:g}' for number in value)}", why))
    (mean, why), (std, other) = reasons
    if not why and not other:
        return ""
    if why == other:
        return f"images: resize {settings.resize}, {settings.interpolation}, crop {settings.crop}; {mean}, {std}, {why}"
    return f"images: {mean}{why and f', {why}'}; {std}{other and f', {other}'}"


# What other libraries and papers call a field.
_ALSO_CALLED = {
    **dict.fromkeys(("ema", "ema_decay", "swa", "polyak"), "average"),
    **dict.fromkeys(("mixup", "cutmix", "mixup_alpha", "cutmix_alpha"), "data.mix"),
    **dict.fromkeys(("reprob", "random_erasing"), "data.erase"),
    **dict.fromkeys(("auto_augment", "randaugment"), "data.rand_augment"),
    **dict.fromkeys(("rifle", "reinit"), "head_restarts"),
    **dict.fromkeys(("epochs", "num_epochs", "iterations", "max_steps"), "steps"),
    **dict.fromkeys(("wd", "decay"), "weight_decay"),
    **dict.fromkeys(("smoothing",), "label_smoothing"),
    **dict.fromkeys(("img_size", "image_size", "input_size"), "data.crop"),
    "lr": "learning_rate",
}


def check_field(config: ConfigDict, name: str) -> None:
    """Raises ConfigError unless the config has a field, or a group of fields, of this dotted name."""
    known = list(flat(config.to_dict()))
    if any(field == name or field.startswith(f"{name}.") for field in known):
        return
    last = name.rpartition(".")[2]

    def likeness(field: str) -> float:
        own = field.rpartition(".")[2]  # the field may stand in another group, or in none
        if last and own.startswith(last):
            return 0.9 + 0.1 * len(last) / len(own)
        return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in ((name, field), (last, own)))

    if (meant := _ALSO_CALLED.get(last)) in known:
        raise ConfigError(f"--config.{name}: no such field; here it is {meant}")
    best = max(map(likeness, known))
    # A beginning of a name is hardly meant for another one.
    enough = 0.9 if best >= 0.9 else 0.6
    close = [field for field in sorted(known, key=likeness, reverse=True) if likeness(field) >= enough][:3]
    hint = f"did you mean {' or '.join(close)}?" if close else f"the fields are {listed(known)}"
    raise ConfigError(f"--config.{name}: no such field; {hint}")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The fields by dotted name."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found
