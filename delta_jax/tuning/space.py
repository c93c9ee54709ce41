"""What is searched, and around which values: of the config's fields those that are not given on the command line."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from delta_jax import methods

HEAD, CONFIGURED = 0, 1  # settings that are always there: the head alone, and the config as it is
RATES = (0.25, 5.0)  # times the config's learning rate
# The field with the strength of a method, and how far around the config's value; L2's weight decay is left alone, as
# it is a constant of the compiled step and moves little in a short run.
STRENGTHS = {
    "delta": ("alpha_relative", (0.03, 10.0)),
    "delta_without_attention": ("alpha_relative", (0.03, 10.0)),
    "delta_cosine": ("alpha_relative", (0.03, 10.0)),
    "afd": ("alpha_relative", (0.03, 10.0)),
    **{name: ("alpha", (0.03, 3.0)) for name in methods.names() if methods.create(name).default_alpha},
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One way to train.

    Attributes:
      number: 0, 1, ... in the order in which they are tried.
      fields: of the config, by dotted name, in which it differs from it; the method is always among them.
    """

    number: int
    fields: Mapping[str, Any]

    @property
    def method(self) -> str:
        """That it trains with."""
        return str(self.fields["method"])

    def describe(self) -> str:
        """Its fields in a line."""
        hidden = ("method", "data.resize")
        rest = ", ".join(f"{name} {value:.3g}" for name, value in self.fields.items() if name not in hidden)
        what = self.method + (f", {rest}" if rest else "")
        return f"{what} (as configured)" if self.number == CONFIGURED else what


@dataclasses.dataclass(frozen=True)
class Space:
    """Where settings are drawn from.

    Attributes:
      methods: to choose from; each is a program to compile.
      rates: least and largest learning rate; None where it is not searched.
      strengths: {method: (field, least, largest)} of those methods whose strength is searched.
      crops: sizes in pixels to choose from, the usual one first; () for the config's.
      ratio: of `data.resize` over `data.crop`.
      heads: larger sizes at which the head alone is tried, which costs a pass over the images.
    """

    methods: tuple[str, ...]
    rates: tuple[float, float] | None
    strengths: Mapping[str, tuple[str, float, float]]
    crops: tuple[int, ...] = ()
    ratio: float = 1.0
    heads: tuple[int, ...] = ()

    def size(self, crop: int) -> dict[str, int]:
        """Fields of a size; {} for the config's."""
        return {"data.crop": crop, "data.resize": round(crop * self.ratio)} if crop else {}


def space(
    config: ConfigDict,
    given: Sequence[str],
    *,
    wide: bool,
    crops: tuple[int, ...] = (),
    ratio: float = 1.0,
    heads: tuple[int, ...] = (),
) -> Space:
    """The space around a config.

    Args:
      config: not yet resolved.
      given: its fields on the command line, which stay as they are.
      wide: whether there is time for more methods than the config's and plain fine-tuning.
      crops, ratio, heads: see `Space`.
    """
    own = str(config.method)
    tried = [own] if methods.create(own).trains_backbone else []
    if "method" not in given:
        tried += ["l2", *(("delta_without_attention", "l2_sp") if wide else ())]
    strengths = {}
    for method in dict.fromkeys(tried):
        if method in STRENGTHS:
            field, (low, high) = STRENGTHS[method]
            value = _value(config, field, method)
            fixed = {field, "alpha"} & set(given)
            if value and not fixed and (field == "alpha" or config.alpha is None):
                strengths[method] = (field, low * value, high * value)
    rate = float(config.learning_rate)
    rates = (RATES[0] * rate, RATES[1] * rate) if "learning_rate" not in given and rate > 0 else None
    return Space(tuple(dict.fromkeys(tried)), rates, strengths, crops, ratio, heads)


def first(config: ConfigDict, around: Space) -> list[Setting]:
    """The settings that come before any is drawn: the head alone, the config, and what is worth a try beside it.

    Plain fine-tuning comes first, which is cheaper and was no less accurate on the sets of docs/results.md.
    """
    own = str(config.method) if str(config.method) in around.methods else around.methods[0]
    usual, larger = (*around.crops, 0, 0)[0], around.crops[1:]
    other = next((method for method in around.methods if method != own), own)
    plain = "l2" if "l2" in around.methods else other

    def of(method: str, strength: float, rate: float, crop: int) -> dict[str, Any]:
        return {"method": method, **_fields(config, around, method, strength, rate), **around.size(crop)}

    found: list[dict[str, Any]] = [{"method": "l2_fe"}, of(own, 1, 1, usual)]
    found += [{"method": "l2_fe", **around.size(crop)} for crop in around.heads]
    found.append(of(plain, 1, 1, usual))
    found += [of(plain, 1, 1, crop) for crop in larger]
    found += [of(own, 0.3, 2, usual), of(plain, 1, 2.5, usual), of(own, 3, 1, usual), of(plain, 1, 0.5, usual)]
    unique = [one for place, one in enumerate(found) if one not in found[:place]]
    return [Setting(number, fields) for number, fields in enumerate(unique)]


def configured(
    base: ConfigDict, setting: Setting, *, steps: int, fold: int, seed: int, refit: float = 0.0
) -> ConfigDict:
    """The config of a run.

    Args:
      base: of the command.
      setting: in which it differs.
      steps: of a schedule of its own, with the warm-up in proportion.
      fold: of the validation images.
      seed: of the run.
      refit: the penalty of its L2-FE head where it trains on the validation images, too; 0: it does not.
    """
    config = base.copy_and_resolve_references()
    config.update_from_flattened_dict(dict(setting.fields))
    config.warmup_steps = min(round(config.warmup_steps * steps / config.steps), steps - 1)
    config.steps, config.seed = steps, seed
    config.data.validation_fold = fold
    # What is compared is what a run ends with, and where there are no validation images nothing else can be had.
    config.select, config.eval_every, config.patience = "last", 0, 0
    config.checkpoint_every = min(config.checkpoint_every, max(10, steps // 5))
    if refit:
        config.data.validation_fraction, config.data.validation_fold = 0.0, 0
        config.head_l2 = (refit,)
    return config


def _value(config: ConfigDict, field: str, method: str) -> float:
    if field == "alpha" and config.alpha is None:
        return methods.create(method).default_alpha or 0.0
    return float(config[field])


def _fields(config: ConfigDict, around: Space, method: str, strength: float, rate: float) -> dict[str, Any]:
    found = {}
    if around.rates:
        found["learning_rate"] = min(rate * float(config.learning_rate), around.rates[1])
    if method in around.strengths:
        field, low, high = around.strengths[method]
        found[field] = min(max(strength * _value(config, field, method), low), high)
    return found
