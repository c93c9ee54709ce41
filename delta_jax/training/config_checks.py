"""What the fields of a config may be, each by itself and beside the others; nothing of it needs data."""

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from delta_jax import attention, data, methods, models, precision, regularizers, weights
from delta_jax.training.attention_pass import PER
from delta_jax.training.combinations import problems
from delta_jax.training.optim import BATCH_NORM_POLICIES, OPTIMIZERS, SCHEDULES


class ConfigError(ValueError):
    """A field has a value that cannot work; the message says which values do."""


class InUseError(ConfigError):
    """Another run is working in the same workdir."""


# What is done about classes with more images than others; see `steps.class_weights` and `data.balanced_table`.
IMBALANCE = ("ignore", "weighted_loss", "balanced_sampling")

CHOICES: dict[str, tuple[Any, ...]] = {
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
    "select": ("last", "best", "wise_ft"),
    "imbalance": IMBALANCE,
    "data.on_broken": ("stop", "skip"),
    "data.on_device": ("auto", "yes", "no"),
    "data.aspect": data.ASPECTS,
    "data.interpolation": tuple(data.INTERPOLATIONS),
    "data.augment": data.AUGMENTATIONS,
}
AT_LEAST = {
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
MOST_STEPS = 10_000_000  # each has a learning rate in a table on the device
_BELOW_ONE = ("momentum", "dropout", "label_smoothing", "average", "data.validation_fraction", "data.test_fraction")


def choices(values: Mapping[str, Any]) -> None:
    """Raises ConfigError for a field that is none of its CHOICES."""
    for field, known in CHOICES.items():
        value = _field(values, field)
        require(value in known, field, value, f"one of {', '.join(map(str, known))}")


def finite(values: Mapping[str, Any], prefix: str = "") -> None:
    """Raises ConfigError for a number, or one in a tuple, that is infinite or none."""
    for name, value in values.items():
        field = prefix + name
        if isinstance(value, Mapping):
            finite(value, f"{field}.")
            continue
        numbers = value if isinstance(value, (tuple, list)) else (value,)
        known = all(math.isfinite(one) for one in numbers if isinstance(one, float))
        require(known, field, value, "finite numbers" if numbers is value else "a finite number")


def tuples(values: Mapping[str, Any]) -> None:
    """Raises ConfigError for what is wrong in a tuple: of what is in them ml_collections knows no type."""
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
        require(known, field, value, expected)
    taps = tuple(values["taps"])
    require(len(set(taps)) == len(taps), "taps", taps, "each module path once")


def ranges(values: Mapping[str, Any]) -> None:
    """Raises ConfigError for a number out of its range, and for fields that do not go together."""
    for field, least in AT_LEAST.items():
        value = _field(values, field)
        require(value >= least, field, value, f"{least} or more")
    for field in _BELOW_ONE:
        require(_field(values, field) < 1, field, _field(values, field), "less than 1")
    require(values["steps"] <= MOST_STEPS, "steps", values["steps"], f"{MOST_STEPS:,} at most")
    alpha = values["alpha"]
    require(alpha is None or alpha >= 0, "alpha", alpha, "0 or more")
    _check_search(values)
    temperature, decay_at = values["attention_temperature"], values["decay_at"]
    for field in ("radius", "head_radius"):
        require(values[field] > 0, field, values[field], "more than 0")
    require(temperature > 0, "attention_temperature", temperature, "more than 0")
    require(0 < decay_at <= 1, "decay_at", decay_at, "in (0, 1]")
    white = values["data"].get("white")
    require(white is None or white >= 1, "data.white", white, "1 or more, the value that shows white")
    crop, resize = values["data"]["crop"], values["data"]["resize"]
    require(crop <= resize, "data.crop", crop, f"at most data.resize = {resize}")
    _check_augmentation(values["data"], values["eval_crops"])
    for field in ("mean", "std"):
        if problem := weights.problem_of_channels(values["data"][field], positive=field == "std"):
            require(False, f"data.{field}", values["data"][field], problem)
    require(values["effort"] > 0, "effort", values["effort"], "more than 0")
    require(
        values["steps"] == 0 or values["warmup_steps"] < values["steps"],
        "warmup_steps",
        values["warmup_steps"],
        f"less than steps = {values['steps']}",
    )
    grid = values["head_l2"]
    require(
        bool(grid) and min(grid) > 0, "head_l2", grid, "positive numbers: without a penalty the head has no optimum"
    )
    if not models.spec(values["arch"]).auxiliary:
        why = f"0: {values['arch']} has no auxiliary classifier"
        require(values["auxiliary_weight"] == 0, "auxiliary_weight", values["auxiliary_weight"], why)
    if urlsplit(values["weights"]).password:
        # The value itself is not repeated: it would stand in logs.
        raise ConfigError(
            "--config.weights: an address with a password; the workdir keeps the config in plain text, so put the "
            "password into ~/.netrc instead"
        )
    require(bool(values["taps"]), "taps", values["taps"], "module paths, or ('default',)")
    folds = values["data"]["validation_fraction"]
    if folds == 0:
        require(values["select"] == "last", "select", values["select"], "last: data.validation_fraction is 0")
    if values["patience"]:
        require(values["eval_every"] != 0, "eval_every", 0, "1 or more, for looks that patience can count")
    if values["select"] == "best":
        require(values["eval_every"] != 0, "eval_every", 0, "1 or more, to select the best of")
    if values["select"] == "wise_ft":
        why = "l2_fe: select=wise_ft goes from the source's trained head to the fine-tuned network"
        require(values["head_init"] == "l2_fe", "head_init", values["head_init"], why)
    part, shots = values["data"]["train_fraction"], values["data"]["shots"]
    require(0 < part <= 1, "data.train_fraction", part, "above 0 to 1 (all)")
    require(part == 1 or shots == 0, "data.train_fraction", part, f"1: data.shots is {shots}, set one of them")
    for field in ("attention_batch", "attention_chunk"):
        require(values[field] is None or values[field] >= 1, field, values[field], "1 or more")
    uses_attention = methods.create(values["method"]).uses_attention
    if uses_attention and values["attention_per"] == "image":
        why = "a weight per image needs the gaps of every training image"
        require(values["attention_images"] == 0, "attention_images", values["attention_images"], f"0: {why}")
        require(values["attention_tolerance"] == 0, "attention_tolerance", values["attention_tolerance"], f"0: {why}")
    if uses_attention and values["attention_estimator"] == "two_phase" and not values["attention_file"]:
        per, tolerance = values["attention_per"], values["attention_tolerance"]
        others = f"{', '.join(attention.ESTIMATORS)}: two_phase gives means over all images, and attention_per is {per}"
        require(per == "data_set", "attention_estimator", "two_phase", others)
        why = "attention_estimator=two_phase has a number of images of its own"
        require(tolerance == 0, "attention_tolerance", tolerance, f"0: {why}")
    for field, value, expected in problems(values):
        require(False, field, value, expected)
    if values["attention_file"]:
        per = values["attention_per"]
        require(per == "data_set", "attention_per", per, "data_set: attention_file has one gap per filter")


def _check_search(values: Mapping[str, Any]) -> None:
    """Of the strength, within a run."""
    if not values["strength_search"]:
        return
    method = methods.create(values["method"])
    able = ", ".join(name for name in methods.names() if methods.create(name).has_one_strength)
    require(
        method.has_one_strength,
        "strength_search",
        True,
        f"False: {values['method']} {_why_no_search(method)}; it is for {able}",
    )
    field = "weight_decay" if method.decays_weights else "alpha"
    if field == "alpha" and values["alpha"] is None:
        field = "alpha_relative"
    require(values[field] > 0, field, values[field], "more than 0: a search (--config.strength_search) multiplies it")


def _why_no_search(method: methods.Method) -> str:
    if not method.trains_backbone:
        return "trains the head alone, and has no strength to search"
    if method.projects:
        return "has no strength but a radius, in which its steps end"
    if method.has_own_parameters:
        return "has parameters of its own, which move along with the strength"
    return "has two strengths, alpha and weight_decay"


def _check_augmentation(settings: Mapping[str, Any], eval_crops: int) -> None:
    least = settings["least_area"]
    require(0 < least <= 1, "data.least_area", least, "more than 0 and at most 1, a share of the image")
    jitter = settings["color_jitter"]
    known = len(jitter) == 4 and all(strength >= 0 for strength in jitter) and jitter[3] <= 0.5
    strengths = "four strengths of 0 or more, of brightness, contrast, saturation and hue, that of the hue at most 0.5"
    require(known, "data.color_jitter", jitter, strengths)
    require(settings["erase"] <= 1, "data.erase", settings["erase"], "0 to 1, a probability")
    drawn = settings["rand_augment"]
    known = len(drawn) == 2 and 0 <= drawn[0] <= 14 and 0 <= drawn[1] <= 30
    require(known, "data.rand_augment", drawn, "how many operations, 0 to 14, and their magnitude, 0 to 30")
    mix = settings["mix"]
    two = len(mix) == 2 and all(a >= 0 for a in mix)
    require(two, "data.mix", mix, "two numbers of 0 or more: a of Beta(a, a) for mixup and for CutMix")
    if settings["augment"] == "none":
        require(settings["upright"], "data.upright", settings["upright"], "True: data.augment is none")
        require(settings["erase"] == 0, "data.erase", settings["erase"], "0: data.augment is none")
        require(drawn[0] == 0, "data.rand_augment", drawn, "(0, 9), no operations: data.augment is none")
        require(not any(jitter), "data.color_jitter", jitter, "(0.0, 0.0, 0.0, 0.0): data.augment is none")
    if not settings["mirror"]:
        require(eval_crops == 1, "eval_crops", eval_crops, "1: five of the ten are mirrored, and data.mirror is off")


def _field(values: Mapping[str, Any], dotted: str) -> Any:
    node: Any = values
    for name in dotted.split("."):
        node = node[name]
    return node


def require(condition: bool, field: str, value: Any, expected: str) -> None:
    """Raises ConfigError, with what was found and what was expected, unless the condition holds."""
    if not condition:
        raise ConfigError(f"--config.{field}={value!r}: expected {expected}")
