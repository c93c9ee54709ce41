"""Pretrained weights: files read without torch, names translated, everything but the head checked."""

from delta_jax.weights.errors import WeightsError
from delta_jax.weights.exporting import to_torch
from delta_jax.weights.merging import Variables, from_torch
from delta_jax.weights.reading import read
from delta_jax.weights.sources import locate


def load(name_or_path: str, arch: str, num_classes: int, *, auxiliary: bool = False) -> Variables:
    """Variables of the network `arch` from a named source or a weights file.

    Args:
      name_or_path: a name like "pip/efficientnet-lite0", or a .safetensors, .npz or .pth file.
      arch: a network of `models.names()`.
      num_classes: outputs of the head; a head of another shape in the file is replaced by zeros.
      auxiliary: with the network's auxiliary classifier; it is read as the head is.

    Returns:
      {"params": ..., "batch_stats": ...} of jax arrays.

    Raises:
      WeightsError: the file is missing, damaged, unsafe, or of another network.
    """
    path, source = locate(name_or_path)
    if source is not None and source.arch != arch:
        raise WeightsError(f"{name_or_path} holds weights of {source.arch}, not of {arch}; set arch to {source.arch}")
    try:
        return from_torch(read(path), arch, num_classes, auxiliary=auxiliary)
    except WeightsError as error:
        raise error if str(path) in str(error) else WeightsError(f"{path}: {error}") from None


__all__ = ["Variables", "WeightsError", "from_torch", "load", "locate", "read", "to_torch"]
