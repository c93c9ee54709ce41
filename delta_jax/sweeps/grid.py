"""Which runs a sweep consists of: data sets x networks x variants x methods, their strengths, folds and seeds."""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from delta_jax import methods
from delta_jax.data.splits import listed
from delta_jax.training import config as configs
from delta_jax.training.config import ConfigError

# Fields of a sweep's config; configs/paper/table1.py says what each is.
FIELDS = (
    "name",
    "title",
    "table",
    "small",
    "run",
    "data_sets",
    "networks",
    "variants",
    "methods",
    "strengths",
    "folds",
    "seeds",
    "refit",
    "against",
    "stand_in",
)
_DEFAULTS = {"against": ""}  # of fields that sweeps written before did not have
# Replaced as a whole by a stand-in, as the paper's data sets are not to be left among those of a small one.
_WHOLE = ("data_sets", "networks", "variants", "strengths")
_WHERE = "data_sets"  # of a network: the data sets that it runs on, where not on all
_PLAIN = re.compile(r"[A-Za-z0-9_.+-]+")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One entry of a table: a method on a data set, with a network, in a variant.

    Attributes:
      data, network, variant, method: names; the variant of a sweep without variants is "".
      field: what is searched for the method, such as "alpha_relative"; "" for nothing.
      values: of that field, to choose from; one value is not searched.
    """

    data: str
    network: str
    variant: str
    method: str
    field: str = ""
    values: tuple[Any, ...] = ()

    @property
    def path(self) -> str:
        """The folder of its runs, below that of their kind."""
        return "/".join(filter(None, (*self.setting, self.method)))

    @property
    def setting(self) -> tuple[str, str, str]:
        """What it shares with the cells that it is compared with."""
        return self.data, self.network, self.variant


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run of a sweep.

    Attributes:
      kind: "choice", on the validation images alone, or "final".
      cell: that it belongs to.
      strength: {field: value} of the method; {} where the config's own is used.
      seed: of a final run; that of the config's run in a choice.
      fold: of the validation images.
      head_l2: the penalty of the L2-FE head of a run without validation images; None: the config's.
    """

    kind: str
    cell: Cell
    strength: tuple[tuple[str, Any], ...]
    seed: int
    fold: int
    head_l2: tuple[float, ...] | None = None

    @property
    def path(self) -> str:
        """Its workdir, below the sweep's."""
        if self.kind == "final":
            return f"runs/{self.cell.path}/seed-{self.seed}"
        chosen = ",".join(f"{field}={_short(value)}" for field, value in self.strength) or "as-configured"
        return f"choice/{self.cell.path}/{chosen}/fold-{self.fold}"


def resolve(sweep: ConfigDict) -> ConfigDict:
    """The sweep as it is to be run, the stand-in in place if `small` says so, and every field checked.

    Raises:
      ConfigError: with the field, what was found and what was expected.
    """
    if unknown := sorted(set(sweep) - set(FIELDS)):
        whose = "; a config with a method is that of a run, for delta_jax.train" if "method" in unknown else ""
        raise ConfigError(f"a sweep has no field {listed(unknown)}; its fields are {', '.join(FIELDS)}{whose}")
    if missing := sorted(set(FIELDS) - set(sweep) - set(_DEFAULTS)):
        raise ConfigError(f"the config has no field {', '.join(missing)}; is it one of a sweep, such as paper/table1?")
    sweep = ConfigDict(_DEFAULTS | dict(sweep.copy_and_resolve_references()))
    if sweep.small:
        for field, value in sweep.stand_in.items():
            if field == "run":
                _update(sweep.run, value, "stand_in.run")
            elif field in _WHOLE:
                sweep[field] = ConfigDict(value)
            elif field in FIELDS:
                sweep[field] = value
            else:
                raise ConfigError(f"stand_in.{field}: a sweep has no such field; its fields are {', '.join(FIELDS)}")
    configs.check_field(sweep.run, "data.validation_fraction")  # a run's config, and not a part of one
    for field in ("data_sets", "networks", "methods"):
        _require(bool(len(sweep[field])), field, "one or more", "nothing")
    for field in ("data_sets", "networks", "variants"):
        for name in sweep[field]:
            _require(
                bool(_PLAIN.fullmatch(name)), field, "names of letters, digits and _.+-, as they are folders", name
            )
    for name, network in sweep.networks.items():
        others = sorted(set(network.get(_WHERE, ())) - set(sweep.data_sets))
        _require(not others, f"networks.{name}.{_WHERE}", f"some of {', '.join(sweep.data_sets)}", others)
    for field, kind, what in (
        ("seeds", int, "whole numbers"),
        ("folds", int, "whole numbers"),
        ("methods", str, "names"),
    ):
        values = tuple(sweep[field])
        _require(all(type(value) is kind for value in values), field, f"a tuple of {what}", values)
        _require(len(set(values)) == len(values), field, "each once", values)
    _require(
        sweep.against in ("", *sweep.methods), "against", f"one of {', '.join(sweep.methods)}, or ''", sweep.against
    )
    _check_strengths(sweep)
    searched = any(len(values) > 1 for fields in sweep.strengths.values() for values in fields.values())
    _require(bool(len(sweep.seeds)) or searched, "seeds", "one or more, as nothing is to be chosen", "nothing")
    checked: set[Any] = set()
    for cell in cells(sweep):
        first = {cell.field: cell.values[0]} if cell.values else {}
        for run in (*choice_runs(sweep, cell), *final_runs(sweep, cell, first)):
            # Each value and each fold once: a table of the paper has a thousand runs.
            facts = {(cell, run.kind, run.strength), (cell.setting, run.kind, run.fold)}
            if not facts <= checked:
                config = config_of(sweep, run)
                configs.resolve(config)
                trains_on_all = run.kind == "final" and sweep.refit
                why = "False: a strength is searched (strength_search) by validation images"
                _require(not (trains_on_all and config.strength_search), "refit", why, True)
                checked |= facts
    return sweep


def cells(sweep: ConfigDict) -> list[Cell]:
    """Of a resolved sweep; those with the same data, network and variant stand together."""
    settings = [
        (data, network, variant)
        for data, network, variant in itertools.product(sweep.data_sets, sweep.networks, list(sweep.variants) or [""])
        if data in sweep.networks[network].get(_WHERE, tuple(sweep.data_sets))
    ]
    found = []
    for (data, network, variant), method in itertools.product(settings, sweep.methods):
        field, values = next(iter(sweep.strengths.get(method, {}).items()), ("", ()))
        found.append(Cell(data, network, variant, method, field, tuple(values)))
    return found


def choice_runs(sweep: ConfigDict, cell: Cell) -> list[Run]:
    """The runs that choose the strength of a method, folds of one value together; none where there is one value."""
    if len(cell.values) < 2:
        return []
    seed = int(sweep.run.seed)
    return [
        Run("choice", cell, ((cell.field, value),), seed, fold)
        for value, fold in itertools.product(cell.values, sweep.folds)
    ]


def final_runs(
    sweep: ConfigDict, cell: Cell, strength: Mapping[str, Any], head_l2: tuple[float, ...] | None = None
) -> list[Run]:
    """One per seed, with the strength that was chosen."""
    fold = int(sweep.run.data.validation_fold)
    chosen = tuple((field, value) for field, value in strength.items() if field)
    return [Run("final", cell, chosen, int(seed), fold, head_l2 if sweep.refit else None) for seed in sweep.seeds]


def config_of(sweep: ConfigDict, run: Run) -> ConfigDict:
    """The config that `trainer.fit` is given.

    Raises:
      ConfigError: a data set, network, variant or strength sets a field that runs do not have.
    """
    config, cell = sweep.run.copy_and_resolve_references(), run.cell
    for group, name in (("data_sets", cell.data), ("networks", cell.network), ("variants", cell.variant)):
        if name:
            fields = {field: value for field, value in sweep[group][name].items() if field != _WHERE}
            _update(config, ConfigDict(fields), f"{group}.{name}")
    config.method = cell.method
    config.seed = run.seed
    _update(config, dict(run.strength), f"strengths.{cell.method}")
    config.data.validation_fold = run.fold
    # The head alone has no strength, and is a baseline of those that search theirs.
    config.strength_search = config.strength_search and methods.create(cell.method).trains_backbone
    if run.kind == "final" and sweep.refit:
        # What the folds were for is chosen: every image that is not for testing trains.
        config.data.validation_fraction, config.data.validation_fold = 0.0, 0
        config.select, config.eval_every, config.patience = "last", 0, 0
    if run.head_l2 is not None:
        config.head_l2 = run.head_l2
    return config


def _check_strengths(sweep: ConfigDict) -> None:
    searched = {}
    for method, fields in sweep.strengths.items():
        _require(method in methods.names(), "strengths", f"methods: {', '.join(methods.names())}", method)
        _require(len(fields) == 1, f"strengths.{method}", "one field and its values", list(fields))
        field, values = next(iter(fields.items()))
        known = isinstance(values, (tuple, list)) and bool(values)
        _require(known, f"strengths.{method}.{field}", "a tuple of values", values)
        searched[method] = len(values)
    if not searched or not set(searched) & set(sweep.methods):
        return
    # The head of L2-FE is a matter of seconds, and needs a grid of its own.
    effort = {method: searched[method] for method in sweep.methods if method in searched and method != "l2_fe"}
    if len(set(effort.values())) > 1:
        listed = ", ".join(f"{method} {n}" for method, n in effort.items())
        raise ConfigError(
            f"strengths: {listed} values; a comparison is fair where every method may choose from as many: "
            "give each the same number"
        )
    if any(n > 1 for n in searched.values()):
        _require(bool(sweep.folds), "folds", "the folds to choose strengths on", tuple(sweep.folds))
        fraction = sweep.run.data.validation_fraction
        _require(fraction > 0, "run.data.validation_fraction", "above 0, as strengths are chosen on folds", fraction)


def _update(config: ConfigDict, values: Mapping[str, Any], where: str) -> None:
    plain = values.to_dict() if isinstance(values, ConfigDict) else values
    for name, value in configs.flat(plain).items():
        try:
            configs.check_field(config, name)
            config.update_from_flattened_dict({name: value})
        except (ConfigError, TypeError, ValueError) as error:
            raise ConfigError(f"{where}.{name}={value!r}: {error}") from error


def _require(condition: bool, field: str, expected: str, found: Any) -> None:
    if not condition:
        raise ConfigError(f"--config.{field}: expected {expected}, got {found!r}")


def _short(value: Any) -> str:
    values: Sequence[Any] = value if isinstance(value, (tuple, list)) else [value]
    return "+".join(f"{one:g}" if isinstance(one, (int, float)) else str(one) for one in values)
