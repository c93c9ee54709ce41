"""The mesh of devices and how arrays lie on it; the one module that knows about either."""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def set_up_process() -> None:
    """What every command does first: programs compiled by an earlier one are taken from disk, and jax starts quietly.

    JAX_COMPILATION_CACHE_DIR chooses another place than $DELTA_JAX_CACHE or ~/.cache/delta_jax.
    """
    logging.set_verbosity(logging.WARNING)  # jax tells of every platform it does not find
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = Path(os.environ.get("DELTA_JAX_CACHE") or Path.home() / ".cache" / "delta_jax")
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))


def make_mesh() -> Mesh:
    """All devices along one axis, "data"."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def check_divides(batch_size: int, mesh: Mesh, field: str) -> None:
    """Raises ValueError unless a batch divides into equal parts for the devices."""
    n = mesh.size
    if batch_size % n:
        raise ValueError(
            f"--config.{field}={batch_size} is not a multiple of the {n} devices; try {max(batch_size // n, 1) * n}"
        )


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The arrays of `tree` on every device of the mesh, whole."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def split(tree: Any, mesh: Mesh) -> Any:
    """The arrays of `tree`, their first axis cut into one part per device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec("data")))


def device_memory_bytes() -> int | None:
    """What one device can hold, None where the platform does not say (CPUs)."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def on_host(tree: Any) -> Any:
    """The arrays of `tree` as numpy arrays."""
    return jax.tree.map(np.asarray, tree)
