"""Tensors of a weights file into the variables of a network here; only its classifiers may differ."""

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from delta_jax import models
from delta_jax.models import Elsewhere
from delta_jax.weights import hallmarks, keras_names, name_tables, prefixes
from delta_jax.weights.errors import WeightsError
from delta_jax.weights.name_tables import FLAX, Path, to_flax_layout

_log = logging.getLogger(__name__)

Variables = dict[str, Any]

_COUNTERS = ("num_batches_tracked", "total_ops", "total_params")


@dataclass(frozen=True)
class Fitted:
    """Variables made of the tensors of a file.

    Attributes:
      variables: {"params": ..., "batch_stats": ...} of jax arrays.
      scheme: whose names the tensors had.
      remarks: lines on what was left out.
      head: {"kernel": [D, K], "bias": [K]} of the file, whatever its K; None where it has no such classifier.
    """

    variables: Variables
    scheme: str
    remarks: tuple[str, ...]
    head: dict[str, np.ndarray] | None = None


@functools.cache
def variable_shapes(arch: str, num_classes: int, auxiliary: bool = False) -> dict[Path, tuple[int, ...]]:
    """{path: shape} of every variable of the network `arch`, its second classifier on demand; nothing is computed."""
    static: dict[str, Any] = {"auxiliary": True} if auxiliary else {}
    spec, model = models.spec(arch), models.create(arch, num_classes=num_classes, **static)
    images = jax.ShapeDtypeStruct((1, spec.input_size, spec.input_size, 3), jnp.float32)
    key = jax.eval_shape(jax.random.key, 0)  # a real one would start the accelerator and take its memory
    variables = jax.eval_shape(model.init, key, images)
    return {path: tuple(leaf.shape) for path, leaf in flatten_dict(variables).items()}


def from_torch(tensors: Mapping[str, np.ndarray], arch: str, num_classes: int, *, auxiliary: bool = False) -> Variables:
    """Variables of the network `arch` from a state_dict in PyTorch's names and layouts.

    The names may be those of any scheme known for the network (torchvision's, timm's, ...): the one with the most
    names in common counts. Names and layouts of Flax, "params/fc/kernel", are understood, too. A beginning that the
    names of the network share, "module.encoder_q.", is taken off, and what lies beside it left out, which is logged.

    A head of another number of classes, of several layers, or none at all, is replaced by zeros [features,
    num_classes]: zero logits, whatever the features. So is the last layer of an auxiliary classifier. Everything else
    has to fit.

    Args:
      tensors: {name: array}; floats keep their width (float32 or float64), half precision becomes float32.
      arch: a network of `models.names()`.
      num_classes: outputs of the head, and of the auxiliary classifier.
      auxiliary: whether the network is made with its auxiliary classifier; without, one in `tensors` is left out.

    Returns:
      {"params": ..., "batch_stats": ...} of jax arrays: the collections that the network has.

    Raises:
      WeightsError: names are missing, unexpected, of another shape or not finite; one error with all of them.
    """
    found = fitted(tensors, arch, num_classes, auxiliary=auxiliary)
    for remark in found.remarks:
        _log.warning("%s", remark)
    return found.variables


def fitted(
    tensors: Mapping[str, np.ndarray],
    arch: str,
    num_classes: int,
    *,
    auxiliary: bool = False,
    said: Sequence[tuple[str, Elsewhere]] = (),
    file: str = "FILE",
) -> Fitted:
    """As `from_torch`, with what was left out; for the error, `said` are the networks that `file` is said to hold."""
    spec = models.spec(arch)
    shapes = variable_shapes(arch, num_classes, auxiliary)
    left_out = ""
    if keras_names.are_keras(tensors):
        tensors, left_out = keras_names.to_flax(tensors, spec, shapes)
    part = prefixes.part(tensors, spec, shapes)
    tensors = part.tensors
    scheme, names = name_tables.detect(tensors, spec, shapes)
    classifiers = [spec.head] + ([spec.auxiliary] if auxiliary else [])

    found: dict[Path, np.ndarray] = {}
    head: dict[str, np.ndarray] = {}
    missing, misshapen, broken = [], [], []
    for name, path in names.items():
        replaceable = _module(path) in classifiers
        if name not in tensors:
            if not replaceable:
                missing.append(name)
            continue
        array = np.asarray(tensors[name])
        array = array if scheme == FLAX else to_flax_layout(array, path[-1], len(shapes[path]))
        if _module(path) == spec.head and array.ndim == len(shapes[path]):
            head[path[-1]] = np.asarray(array, np.float32)
        if array.shape == shapes[path]:
            found[path] = array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)
            if not np.isfinite(found[path]).all():
                broken.append(name)
        elif not replaceable:
            misshapen.append(f"{name} (here {shapes[path]}, in the file {array.shape})")
    for classifier in classifiers:
        paths = [path for path in shapes if _module(path) == classifier]
        if not all(path in found for path in paths):
            found |= {path: np.zeros(shapes[path], np.float32) for path in paths}

    apart = name_tables.auxiliary_prefixes(spec, scheme)
    lines = []
    if auxiliary and not any(name.startswith(apart) for name in tensors):
        missing = [name for name in missing if not name.startswith(apart)]
        lines.append("they have no auxiliary classifier; to train without one, set --config.auxiliary_weight=0")
    statistics = {name for name, path in names.items() if path[0] == "batch_stats"}
    if statistics and statistics.isdisjoint(tensors) and not names.keys().isdisjoint(tensors):
        missing = [name for name in missing if name not in statistics]
        lines.append(
            "they have no running statistics of BatchNorm: they are the parameters alone, where state_dict() has the "
            "statistics, too, or those of a network with other norms, such as timm's resnet50_gn, not supported here"
        )
    unexpected = [name for name in _tensors_of_networks(tensors) if name not in names]
    if not auxiliary:
        unexpected = [name for name in unexpected if not name.startswith(apart)]
    other_head = set(prefixes.heads_of_others(unexpected, spec, scheme))
    unexpected = [name for name in unexpected if name not in other_head]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen, "not finite": broken}
    lines += [f"{len(listed)} {what}: {_shortened(listed)}" for what, listed in problems.items() if listed]
    if lines:
        text = "".join(f"\n  {line}" for line in lines)
        hint = _other_network(tensors, arch, said)
        if not hint and len(misshapen) > len(found) and not missing and not unexpected:
            hint = f"\nThey have the names of {arch}, but other widths: that network is not supported here."
        if not hint and not any((missing, misshapen, broken)):
            hint = _without(unexpected, names, arch, part.prefix, file)
        raise WeightsError(f"these weights do not fit {arch}:{text}{hint}")
    variables = unflatten_dict({path: jnp.asarray(array) for path, array in found.items()})
    remarks = tuple(filter(None, (left_out, part.remark, _remark_on_head(spec.head, other_head))))
    return Fitted(
        variables, scheme, remarks, _whole(head, {p[-1]: n for p, n in shapes.items() if _module(p) == spec.head})
    )


def _whole(head: dict[str, np.ndarray], here: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray] | None:
    """The head of a file where it is one for these features; `here` are the shapes of the network's."""
    alike = head.keys() == here.keys() and all(head[name].shape[:-1] == here[name][:-1] for name in here)
    finite = all(np.isfinite(array).all() for array in head.values())
    return head if alike and finite and len({array.shape[-1] for array in head.values()}) == 1 else None


def _without(others: list[str], names: Iterable[str], arch: str, prefix: str, file: str) -> str:
    """The command that leaves out tensors that stand beside a whole network, "" where they are many."""
    own = {name.partition(".")[0] for name in names}
    firsts = [name.partition(".") for name in others]
    beginnings = dict.fromkeys(
        prefix + (name if first in own else first + dot) for name, (first, dot, _) in zip(others, firsts, strict=True)
    )
    if not others or len(beginnings) > 10:
        return ""
    return (
        f"\nEverything that {arch} needs is there; if they are no part of it, save the rest alone: "
        f"python -c \"import numpy, delta_jax; numpy.savez('weights.npz', **{{n: t for n, t in "
        f'delta_jax.weights.read({file!r}).items() if not n.startswith({tuple(beginnings)})}})"'
    )


def _remark_on_head(head: str, other: Iterable[str]) -> str:
    if not (names := sorted(other)):
        return ""
    return (
        f"the head in the file is of other layers ({_shortened(names)}), so it is left out, and {head} begins as zeros"
    )


def _module(path: Path) -> str:
    return "/".join(path[1:-1])


def _tensors_of_networks(names: Iterable[str]) -> list[str]:
    """Without what nobody needs: the batches that PyTorch's BatchNorm counts, the operations that thop does."""
    return [name for name in names if name.rpartition(".")[2] not in _COUNTERS]


def _shortened(listed: list[str], most: int = 8) -> str:
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def _other_network(tensors: Mapping[str, np.ndarray], arch: str, said: Sequence[tuple[str, Elsewhere]]) -> str:
    """The way out: which of the known networks the names and shapes would fit, if one does, or what else they are."""
    for where, meant in said:
        if not meant.arch:
            return f"\nThey are said to be of {meant.name} ({where}): that network is not supported here."
    for name in models.names():
        spec = models.spec(name)
        if name == arch or not name_tables.may_hold(tensors, spec):
            continue
        shapes = variable_shapes(name, 1)
        scheme, names = name_tables.detect(tensors, spec, shapes)
        apart = name_tables.auxiliary_prefixes(spec, scheme)
        given = {name for name in _tensors_of_networks(tensors) if not name.startswith(apart)}
        body = {n: path for n, path in names.items() if _module(path) != spec.head}
        # No name left over, either: everything of ResNet-18 is in the file of a ResNet-34, too.
        if not body.keys() <= given <= names.keys():
            continue
        arrays = {path: np.asarray(tensors[n]) for n, path in body.items()}
        if scheme != FLAX:
            arrays = {path: to_flax_layout(a, path[-1], len(shapes[path])) for path, a in arrays.items()}
        if all(array.shape == shapes[path] for path, array in arrays.items()):
            return f"\nThey are the weights of {name}."
    if what := hallmarks.foreign(tensors):
        return f"\nThey look like the weights of {what}: that is not supported here."
    return ""
