"""One finished result of a run, such as the head or the final parameters, as one safetensors file.

A file appears under its name only when complete, so a process killed at any moment leaves the one before it intact.
"""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from delta_jax import processes
from delta_jax.processes import sharding
from delta_jax.workdir.stored_trees import CheckpointError, compare, named_leaves, place, reason, signature_of, storable


def save_variables(path: Path, tree: Any) -> None:
    """Writes a pytree of arrays to one safetensors file, with names such as "params/head/kernel".

    Whoever reads `path` meanwhile sees the old file or the new one, never a part. On several hosts the first one
    writes; arrays that are spread over hosts have to be gathered before.

    Raises:
      CheckpointError: the tree holds something else than arrays and numbers, or the disk is full or read-only.
    """
    signature_of(tree)
    if not processes.is_first():
        return
    # safetensors writes the bytes as they lie in memory: a transposed view would come back scrambled.
    arrays = {name: np.asarray(storable(leaf), order="C") for name, leaf in named_leaves(tree).items()}
    if "__metadata__" in arrays:  # which safetensors writes, and cannot read
        raise CheckpointError(f"{path}: an array cannot be called __metadata__ in a safetensors file; rename it")
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not save_file, which makes files that only their owner can read: a workdir may be shared.
        unfinished.write_bytes(safetensors.numpy.save(arrays))
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())  # or a power cut could leave the new name with an empty file
        unfinished.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} could not be written: {reason(error)}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def load_variables(path: Path, like: Any) -> Any:
    """Reads what `save_variables` wrote, as a tree like `like`: see `Checkpoints.restore`.

    Raises:
      CheckpointError: no such file, a damaged one, or names, shapes or dtypes differ from `like`.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} could not be read: {reason(error)}") from error
    compare(signature_of(arrays), signature_of(like), str(path))
    return jax.tree.map(
        place, jax.tree.unflatten(jax.tree.structure(like), [arrays[n] for n in named_leaves(like)]), like
    )


def kept_variables(path: Path, like: Any) -> Any:
    """What the first process finds at `path`, see `load_variables`, on every process; None where there is no file.

    Raises:
      CheckpointError: as `load_variables`.
    """
    if not processes.from_first("there" if path.exists() else ""):
        return None
    arrays = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    if processes.is_first():
        arrays = load_variables(path, arrays)
    return jax.tree.map(place, sharding.tree_from_first(arrays), like)


def stored_names(path: Path) -> frozenset[str]:
    """Names of the arrays that `save_variables` wrote; raises CheckpointError as `load_variables` does."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return frozenset(file.keys())
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} could not be read: {reason(error)}") from error
