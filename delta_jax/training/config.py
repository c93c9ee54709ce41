"""The config of a run: presets filled in, checked before anything slow, compared with what a workdir holds."""

import dataclasses
import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ml_collections import ConfigDict, FrozenConfigDict

from delta_jax import attention, data, methods, models, precision, regularizers, weights
from delta_jax.data.splits import listed
from delta_jax.training.attention_pass import PER
from delta_jax.training.combinations import problems
from delta_jax.training.optim import BATCH_NORM_POLICIES, OPTIMIZERS, SCHEDULES


class ConfigError(ValueError):
    """A field has a value that cannot work; the message says which values do."""


class InUseError(ConfigError):
    """Another run is working in the same workdir."""


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

# What is done about classes with more images than others; see `steps.class_weights` and `data.balanced_table`.
IMBALANCE = ("ignore", "weighted_loss", "balanced_sampling")

_CHOICES: dict[str, tuple[Any, ...]] = {
    "preset": tuple(PRESETS),
    "head_init": ("normal", "zeros", "l2_fe"),
    "batch_norm": BATCH_NORM_POLICIES,
    "compute_dtype": ("float32", "bfloat16"),
    "matmul_precision": precision.PRECISIONS,
    "penalty_scale": regularizers.SCALES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "attention_estimator": (*attention.ESTIMATORS, "two_phase"),
    "attention_normalization": attention.NORMALIZATIONS,
    "attention_over": attention.SCOPES,
    "attention_per": PER,
    "eval_crops": (1, 10),
    "select": ("last", "best", "mixed"),
    "imbalance": IMBALANCE,
    "data.on_broken": ("stop", "skip"),
    "data.on_device": ("auto", "yes", "no"),
    "data.aspect": data.ASPECTS,
    "data.interpolation": tuple(data.INTERPOLATIONS),
    "data.augment": data.AUGMENTATIONS,
}
_AT_LEAST = {
    "seed": 0,
    "steps": 0,
    "batch_size": 1,
    "accumulate": 1,
    "warmup_steps": 0,
    "eval_batch_size": 1,
    "eval_every": -1,
    "patience": 0,
    "checkpoint_every": 1,
    "log_every": 1,
    "attention_images": 0,
    "attention_exact_filters": 0,
    "attention_share": 0,
    "attention_tolerance": 0,
    "learning_rate": 0,
    "head_learning_rate_factor": 0,
    "alpha_relative": 0,
    "beta": 0,
    "auxiliary_weight": 0,
    "weight_decay": 0,
    "clip_norm": 0,
    "momentum": 0,
    "data.split_seed": 0,
    "data.validation_fold": 0,
    "data.crop": 1,
    "data.resize": 1,
    "data.validation_fraction": 0,
    "data.test_fraction": 0,
    "data.shots": 0,
    "singular_values": 1,
    "decay_factor": 0,
    "epoch_decay_factor": 0,
    "dropout": 0,
    "label_smoothing": 0,
    "layer_decay": 0,
    "unfreeze": 0,
    "head_restarts": 0,
    "average": 0,
    "data.erase": 0,
}
_BELOW_ONE = ("momentum", "dropout", "label_smoothing", "average", "data.validation_fraction", "data.test_fraction")


def resolve(config: ConfigDict) -> FrozenConfigDict:
    """Checks every field that can be checked without data, and fills in what the preset and the method leave open.

    Raises:
      ConfigError: with the field, its value and the values that work.
    """
    values = config.to_dict()
    there = flat(values)
    if missing := [name for name in ("method", "taps", *_CHOICES, *_AT_LEAST) if name not in there]:
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
    _require(values["preset"] in PRESETS, "preset", values["preset"], f"one of {', '.join(PRESETS)}")
    for field, value in dataclasses.asdict(PRESETS[values["preset"]]).items():
        if values[field] is None:
            values[field] = value
    _check_tuples(values)
    _fill_preprocessing(values)
    _check_choices(values)
    if values["alpha"] is None:
        values["alpha"] = DEFAULT_ALPHA.get(values["method"])
    _check_ranges(values)
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


def _check_choices(values: Mapping[str, Any]) -> None:
    for field, choices in _CHOICES.items():
        value = _field(values, field)
        _require(value in choices, field, value, f"one of {', '.join(map(str, choices))}")


def _check_tuples(values: Mapping[str, Any]) -> None:
    """Of what is in tuples ml_collections knows no type."""
    for field, kind, expected in (
        ("taps", str, "module paths, or ('default',), in quotes: --config.taps=\"('layer1_0','layer2_0')\""),
        ("head_l2", float, 'positive numbers, in quotes: --config.head_l2="(0.1,0.001)"'),
        ("data.rand_augment", int, 'two whole numbers, in quotes: --config.data.rand_augment="(2,9)"'),
        ("data.mix", float, 'two numbers, of mixup and CutMix, in quotes: --config.data.mix="(0.2,0.0)"'),
        ("data.color_jitter", float, 'four numbers, in quotes: --config.data.color_jitter="(0.4,0.4,0.4,0.1)"'),
    ):
        value = _field(values, field)
        kinds = (float, int) if kind is float else (kind,)
        known = all(isinstance(one, kinds) and not isinstance(one, bool) and one != "" for one in value)
        _require(known, field, value, expected)
    taps = tuple(values["taps"])
    _require(len(set(taps)) == len(taps), "taps", taps, "each module path once")


def _check_ranges(values: Mapping[str, Any]) -> None:
    for field, least in _AT_LEAST.items():
        value = _field(values, field)
        _require(value >= least, field, value, f"{least} or more")
    for field in _BELOW_ONE:
        _require(_field(values, field) < 1, field, _field(values, field), "less than 1")
    alpha = values["alpha"]
    _require(alpha is None or alpha >= 0, "alpha", alpha, "0 or more")
    _check_search(values)
    temperature, decay_at = values["attention_temperature"], values["decay_at"]
    for field in ("radius", "head_radius"):
        _require(values[field] > 0, field, values[field], "more than 0")
    _require(temperature > 0, "attention_temperature", temperature, "more than 0")
    _require(0 < decay_at <= 1, "decay_at", decay_at, "in (0, 1]")
    white = values["data"].get("white")
    _require(white is None or white >= 1, "data.white", white, "1 or more, the value that shows white")
    crop, resize = values["data"]["crop"], values["data"]["resize"]
    _require(crop <= resize, "data.crop", crop, f"at most data.resize = {resize}")
    _check_augmentation(values["data"], values["eval_crops"])
    for field in ("mean", "std"):
        if problem := weights.problem_of_channels(values["data"][field], positive=field == "std"):
            _require(False, f"data.{field}", values["data"][field], problem)
    _require(values["effort"] > 0, "effort", values["effort"], "more than 0")
    _require(
        values["steps"] == 0 or values["warmup_steps"] < values["steps"],
        "warmup_steps",
        values["warmup_steps"],
        f"less than steps = {values['steps']}",
    )
    grid = values["head_l2"]
    _require(
        bool(grid) and min(grid) > 0, "head_l2", grid, "positive numbers: without a penalty the head has no optimum"
    )
    if not models.spec(values["arch"]).auxiliary:
        why = f"0: {values['arch']} has no auxiliary classifier"
        _require(values["auxiliary_weight"] == 0, "auxiliary_weight", values["auxiliary_weight"], why)
    if urlsplit(values["weights"]).password:
        # The value itself is not repeated: it would stand in logs.
        raise ConfigError(
            "--config.weights: an address with a password; the workdir keeps the config in plain text, so put the "
            "password into ~/.netrc instead"
        )
    _require(bool(values["taps"]), "taps", values["taps"], "module paths, or ('default',)")
    folds = values["data"]["validation_fraction"]
    if folds == 0:
        _require(values["select"] == "last", "select", values["select"], "last: data.validation_fraction is 0")
    if values["patience"]:
        _require(values["eval_every"] != 0, "eval_every", 0, "1 or more, for looks that patience can count")
    if values["select"] == "best":
        _require(values["eval_every"] != 0, "eval_every", 0, "1 or more, to select the best of")
    if values["select"] == "mixed":
        why = "l2_fe: select=mixed needs a way that begins at the source's trained head"
        _require(values["head_init"] == "l2_fe", "head_init", values["head_init"], why)
    part, shots = values["data"]["train_fraction"], values["data"]["shots"]
    _require(0 < part <= 1, "data.train_fraction", part, "above 0 to 1 (all)")
    _require(part == 1 or shots == 0, "data.train_fraction", part, f"1: data.shots is {shots}, set one of them")
    for field in ("attention_batch", "attention_chunk"):
        _require(values[field] is None or values[field] >= 1, field, values[field], "1 or more")
    uses_attention = methods.create(values["method"]).uses_attention
    if uses_attention and values["attention_per"] == "image":
        why = "a weight per image needs the gaps of every training image"
        _require(values["attention_images"] == 0, "attention_images", values["attention_images"], f"0: {why}")
        _require(values["attention_tolerance"] == 0, "attention_tolerance", values["attention_tolerance"], f"0: {why}")
    if uses_attention and values["attention_estimator"] == "two_phase" and not values["attention_file"]:
        per, tolerance = values["attention_per"], values["attention_tolerance"]
        others = f"{', '.join(attention.ESTIMATORS)}: two_phase gives means over all images, and attention_per is {per}"
        _require(per == "data_set", "attention_estimator", "two_phase", others)
        why = "attention_estimator=two_phase has a number of images of its own"
        _require(tolerance == 0, "attention_tolerance", tolerance, f"0: {why}")
    for field, value, expected in problems(values):
        _require(False, field, value, expected)
    if values["attention_file"]:
        per = values["attention_per"]
        _require(per == "data_set", "attention_per", per, "data_set: attention_file has one gap per filter")


def _check_search(values: Mapping[str, Any]) -> None:
    """Of the strength, within a run."""
    if not values["strength_search"]:
        return
    method = methods.create(values["method"])
    why = f"False: {values['method']} trains the head alone, and has no strength to search"
    _require(method.trains_backbone, "strength_search", True, why)
    why = f"False: {values['method']} has parameters of its own, no strength, or two, an alpha and a weight decay"
    _require(method.has_one_strength, "strength_search", True, why)
    field = "weight_decay" if method.decays_weights else "alpha"
    if field == "alpha" and values["alpha"] is None:
        field = "alpha_relative"
    _require(values[field] > 0, field, values[field], "more than 0: a search (--config.strength_search) multiplies it")


def _check_augmentation(settings: Mapping[str, Any], eval_crops: int) -> None:
    least = settings["least_area"]
    _require(0 < least <= 1, "data.least_area", least, "more than 0 and at most 1, a share of the image")
    jitter = settings["color_jitter"]
    known = len(jitter) == 4 and all(strength >= 0 for strength in jitter) and jitter[3] <= 0.5
    strengths = "four strengths of 0 or more, of brightness, contrast, saturation and hue, that of the hue at most 0.5"
    _require(known, "data.color_jitter", jitter, strengths)
    _require(settings["erase"] <= 1, "data.erase", settings["erase"], "0 to 1, a probability")
    drawn = settings["rand_augment"]
    known = len(drawn) == 2 and drawn[0] >= 0 and 0 <= drawn[1] <= 30
    _require(known, "data.rand_augment", drawn, "how many operations, 0 or more, and their magnitude, 0 to 30")
    mix = settings["mix"]
    two = len(mix) == 2 and all(a >= 0 for a in mix)
    _require(two, "data.mix", mix, "two numbers of 0 or more: a of Beta(a, a) for mixup and for CutMix")
    if settings["augment"] == "none":
        _require(settings["upright"], "data.upright", settings["upright"], "True: data.augment is none")
        _require(settings["erase"] == 0, "data.erase", settings["erase"], "0: data.augment is none")
        _require(drawn[0] == 0, "data.rand_augment", drawn, "(0, 9), no operations: data.augment is none")
        _require(not any(jitter), "data.color_jitter", jitter, "(0.0, 0.0, 0.0, 0.0): data.augment is none")
    if not settings["mirror"]:
        _require(eval_crops == 1, "eval_crops", eval_crops, "1: five of the ten are mirrored, and data.mirror is off")


def _field(values: Mapping[str, Any], dotted: str) -> Any:
    node: Any = values
    for name in dotted.split("."):
        node = node[name]
    return node


def _require(condition: bool, field: str, value: Any, expected: str) -> None:
    if not condition:
        raise ConfigError(f"--config.{field}={value!r}: expected {expected}")


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


# Fields that change how fast or where something happens, and no number: free to differ when a run goes on. Images that
# have moved are the same images: they are known by their contents.
_FREE = (
    *("log_every", "data.root", "data.cache_dir", "data.on_device", "data.near_doubles"),
    *("checkpoint_every", "attention_chunk", "attention_batch"),
)


# Fields that came later, and what runs did before there were any.
_BEFORE: dict[str, Any] = {
    "attention_share": 0.0,
    "attention_shrink": False,
    "matmul_precision": "default",
    "strength_search": False,
    "optimizer": "sgd",
    "label_smoothing": 0.0,
    "layer_decay": 1.0,
    "surgical": False,
    "unfreeze": 0.0,
    "head_restarts": 0,
    "average": 0.0,
    "data.upright": True,
    "data.erase": 0.0,
    "data.rand_augment": (0, 9),
    "data.mix": (0.0, 0.0),
    "patience": 0,
    "effort": 1.0,
    "singular_values": 1,
    "radius": 7.4,
    "head_radius": 7.4,
    "data.split_column": "",
    "data.group": "",
    "data.image_column": "",
    "data.label_column": "",
    "data.white": None,
    "data.near_doubles": False,
}


def _as_before(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a stored config, with those that came later as they would have been."""
    later = {field: value for field, value in _BEFORE.items() if value is not None}
    fields = json.loads(json.dumps(later)) | flat(stored)
    if "data.mean" not in fields and "arch" in fields:
        known = weights.SOURCES.get(fields["weights"]) or models.spec(fields["arch"])
        fields |= {"data.mean": list(known.mean), "data.std": list(known.std)}
    return fields


def differences(config: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """Lines "field: stored value, now value" for every field that would change the result of a run."""
    now, before = flat(json.loads(json.dumps(dict(config)))), _as_before(stored)
    fields = sorted((now.keys() | before.keys()) - set(_FREE))
    missing = "(not there)"
    return [
        f"{field}: {before.get(field, missing)!r} there, {now.get(field, missing)!r} here"
        for field in fields
        if now.get(field) != before.get(field)  # not set is what a field was before there was one
    ]


def read(workdir: Path) -> FrozenConfigDict:
    """The resolved config of the run in `workdir`."""
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; is {workdir} the workdir of a run?")
    values = json.loads(path.read_text())
    if "mean" not in values.get("data", {}):  # of before these were fields: the classifier knows them
        facts = path.with_name("classifier.json")
        seen = json.loads(facts.read_text())["preprocessing"] if facts.is_file() else {}
        values.get("data", {}).update({field: seen[field] for field in ("mean", "std") if field in seen})
    for field, value in _BEFORE.items():
        *group, name = field.split(".")
        (values.setdefault(group[0], {}) if group else values).setdefault(name, value)
    return FrozenConfigDict(ConfigDict(values, convert_dict=True))
