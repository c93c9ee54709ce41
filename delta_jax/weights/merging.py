"""PyTorch's tensors into the variables of a network here; only the head may differ."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from delta_jax import models
from delta_jax.weights.errors import WeightsError
from delta_jax.weights.name_tables import Path, to_flax_layout, torch_names

Variables = dict[str, Any]


@functools.cache
def variable_shapes(arch: str, num_classes: int) -> dict[Path, tuple[int, ...]]:
    """{path: shape} of every variable of the network `arch`; nothing is computed."""
    spec, model = models.spec(arch), models.create(arch, num_classes=num_classes)
    images = jax.ShapeDtypeStruct((1, spec.input_size, spec.input_size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    return {path: tuple(leaf.shape) for path, leaf in flatten_dict(variables).items()}


def from_torch(tensors: Mapping[str, np.ndarray], arch: str, num_classes: int) -> Variables:
    """Variables of the network `arch` from a state_dict in PyTorch's names and layouts.

    A head of another number of classes, or none at all, is replaced by zeros [features, num_classes]: zero logits,
    whatever the features. Everything else has to fit.

    Args:
      tensors: {name: array}; floats keep their width (float32 or float64), half precision becomes float32.
      arch: a network of `models.names()`.
      num_classes: outputs of the head.

    Returns:
      {"params": ..., "batch_stats": ...} of jax arrays.

    Raises:
      WeightsError: names are missing, unexpected, of another shape or not finite; one error with all of them.
    """
    spec = models.spec(arch)
    shapes = variable_shapes(arch, num_classes)
    names = torch_names(spec.family, shapes)
    head = tuple(spec.head.split("/"))

    found: dict[Path, np.ndarray] = {}
    missing, misshapen, broken = [], [], []
    for name, path in names.items():
        is_head = path[1:-1] == head
        if name not in tensors:
            if not is_head:
                missing.append(name)
            continue
        array = to_flax_layout(np.asarray(tensors[name]), path[-1])
        if array.shape == shapes[path]:
            found[path] = array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)
            if not np.isfinite(found[path]).all():
                broken.append(name)
        elif not is_head:
            misshapen.append(f"{name} (here {shapes[path]}, in the file {array.shape})")
    head_paths = [path for path in shapes if path[1:-1] == head]
    if not all(path in found for path in head_paths):
        found |= {path: np.zeros(shapes[path], np.float32) for path in head_paths}

    unexpected = [name for name in tensors if name not in names and not name.endswith("num_batches_tracked")]
    problems = [
        ("missing", missing),
        ("unexpected", unexpected),
        ("of another shape", misshapen),
        ("not finite", broken),
    ]
    if any(listed for _, listed in problems):
        lines = [f"  {len(listed)} {what}: {_shortened(listed)}" for what, listed in problems if listed]
        raise WeightsError(f"these weights do not fit {arch}:\n" + "\n".join(lines) + _other_network(tensors, arch))
    return unflatten_dict({path: jnp.asarray(array) for path, array in found.items()})


def _shortened(listed: list[str], most: int = 8) -> str:
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def _other_network(tensors: Mapping[str, np.ndarray], arch: str) -> str:
    """The way out: which of the known networks the names and shapes would fit, if one does."""
    given = {name for name in tensors if not name.endswith("num_batches_tracked")}
    for name in models.names():
        shapes = variable_shapes(name, 1)
        names = torch_names(models.spec(name).family, shapes)
        head = tuple(models.spec(name).head.split("/"))
        body = {n: path for n, path in names.items() if path[1:-1] != head}
        # No name left over, either: everything of ResNet-18 is in the file of a ResNet-34, too.
        same_names = name != arch and body.keys() <= given <= names.keys()
        if same_names and all(
            to_flax_layout(np.asarray(tensors[n]), path[-1]).shape == shapes[path] for n, path in body.items()
        ):
            return f"\nThey are the weights of {name}."
    return ""
