"""Variables of a network here into a state_dict that PyTorch's network of the same kind loads with strict=True."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from delta_jax import models
from delta_jax.weights import merging, name_tables
from delta_jax.weights.errors import WeightsError


def to_torch(variables: Mapping[str, Any], arch: str, scheme: str) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`: PyTorch's names and layouts.

    Args:
      variables: {"params": ..., "batch_stats": ...} of the network `arch`, with or without its auxiliary classifier.
      arch: a network of `models.names()`.
      scheme: whose names: "torchvision", "timm", "efficientnet_lite_pytorch", or "own" for those by
        `ModelSpec.torch_name`.

    Returns:
      {name: array} of C-contiguous copies, in the dtypes of the variables. BatchNorm's counters of batches, which
      strict loading asks for, are zeros (int64).

    Raises:
      WeightsError: `arch` has no names in this scheme, or the variables are of another network.
    """
    spec = models.spec(arch)
    known = name_tables.torch_schemes(spec)
    if scheme not in known:
        others = f"it has those of {' and '.join(known)}" if known else "no scheme is known for it"
        raise WeightsError(f"there are no names of {scheme} for {arch}; {others}")
    flat = {path: np.asarray(leaf) for path, leaf in flatten_dict(variables).items()}
    _check(flat, spec)
    tensors = {}
    for name, path in name_tables.torch_names(spec, flat, scheme).items():
        trailing = name_tables.trailing_axes(spec, scheme, path)
        # A copy in order: whoever writes a view's memory to a file writes it in the order before the transposition.
        tensors[name] = np.array(name_tables.to_torch_layout(flat[path], path[-1], trailing), order="C")
        if path[0] == "batch_stats" and path[-1] == "var":
            tensors[f"{name.removesuffix('running_var')}num_batches_tracked"] = np.zeros((), np.int64)
    return tensors


def has_auxiliary(paths: Mapping[name_tables.Path, Any], spec: models.ModelSpec) -> bool:
    """Whether the variables with these paths include those of the second classifier."""
    return bool(spec.auxiliary) and f"params/{spec.auxiliary}/kernel" in map("/".join, paths)


def _check(flat: Mapping[name_tables.Path, np.ndarray], spec: models.ModelSpec) -> None:
    kernels = [array for path, array in flat.items() if "/".join(path) == f"params/{spec.head}/kernel"]
    num_classes = kernels[0].shape[-1] if kernels else 1
    expected = merging.variable_shapes(spec.name, num_classes, has_auxiliary(flat, spec))
    found = {path: array.shape for path, array in flat.items()}
    wrong = {path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path)}
    if wrong:
        names = sorted("/".join(path) for path in wrong)
        raise WeightsError(
            f"these variables are not of {spec.name}: {len(names)} are missing, unexpected or of another shape, such "
            f"as {', '.join(names[:4])}"
        )
