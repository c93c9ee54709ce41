"""A network that lies in a larger one: the tensors whose names share a beginning that training scripts put there."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from delta_jax.models import ModelSpec
from delta_jax.weights import name_tables
from delta_jax.weights.errors import WeightsError
from delta_jax.weights.name_tables import FLAX, Path

# Words for averages of the weights that are trained, beside which they lie.
_AVERAGED = re.compile(r"(^|[._])(ema|averaged?|swa|momentum|target|teacher|encoder_k|key_encoder)([._]|$)")


@dataclass(frozen=True)
class Part:
    """The tensors of one network among others.

    Attributes:
      tensors: by the names of the network.
      prefix: what was taken off, "" for nothing.
      remark: what was left out, in a line; "" for nothing.
    """

    tensors: Mapping[str, np.ndarray]
    prefix: str = ""
    remark: str = ""


def part(tensors: Mapping[str, np.ndarray], spec: ModelSpec, paths: Iterable[Path]) -> Part:
    """The tensors whose names are those of a network, everything but its head, once a common beginning is taken off.

    Args:
      tensors: by the names in the file.
      spec: of the network.
      paths: of its variables.

    Returns:
      The tensors as they are where they have the names already, or where no beginning gives all of them.

    Raises:
      WeightsError: several beginnings do, and nothing tells which is meant.
    """
    paths = tuple(paths)
    fitting: list[str] = []
    for names in _bodies(spec, paths):
        if names <= tensors.keys():
            return Part(tensors)
        first = min(names)
        found = [name.removesuffix(first) for name in tensors if name.endswith(f".{first}")]
        fitting += [prefix for prefix in found if all(f"{prefix}{name}" in tensors for name in names)]
    fitting = list(dict.fromkeys(fitting))
    if not fitting:
        return Part(tensors)
    trained = [prefix for prefix in fitting if not _AVERAGED.search(prefix)] or fitting
    if len(trained) > 1:
        listed = ", ".join(trained)
        raise WeightsError(
            f"they hold {len(trained)} networks like {spec.name}, whose names begin with {listed}; say which is meant: "
            f"add '#{trained[0].removesuffix('.')}' to the name of the file"
        )
    prefix = trained[0]
    taken = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return Part(taken, prefix, _remark(tensors, prefix, [other for other in fitting if other != prefix]))


def _bodies(spec: ModelSpec, paths: tuple[Path, ...]) -> list[set[str]]:
    """Per scheme of PyTorch, the names of all variables but the head's."""
    bodies = []
    for scheme in name_tables.torch_schemes(spec):
        names = name_tables.torch_names(spec, paths, scheme)
        apart = name_tables.auxiliary_prefixes(spec, scheme)
        bodies.append({n for n, path in names.items() if path[1:-1] != _head(spec) and not n.startswith(apart)})
    return [names for names in bodies if names]


def _head(spec: ModelSpec) -> Path:
    return tuple(spec.head.split("/"))


def heads_of_others(tensors: Iterable[str], spec: ModelSpec, scheme: str) -> list[str]:
    """Names of tensors that stand in the place of the head, in several layers: fc.0.weight, fc.2.weight."""
    if scheme == FLAX:
        return []
    (name, *_) = name_tables.torch_names(spec, [("params", *_head(spec), "kernel")], scheme)
    # A head in a container ends in its place there: classifier.1
    place = re.sub(r"\.\d+$", "", name.removesuffix(".weight")) + "."
    return [other for other in tensors if other.startswith(place)]


def _remark(tensors: Mapping[str, np.ndarray], prefix: str, others: list[str]) -> str:
    left = [name for name in tensors if not name.startswith(prefix)]
    if not left:
        return ""
    first = list(dict.fromkeys(name.partition(".")[0] for name in left))
    shown = ", ".join(first[:10]) + (f" and {len(first) - 10} more" if len(first) > 10 else "")
    way = (
        f"; for the network under {others[0]} add '#{others[0].removesuffix('.')}' to the file's name" if others else ""
    )
    return f"the tensors under {prefix} are taken, and {len(left)} others left out ({shown}){way}"
