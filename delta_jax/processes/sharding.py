"""The mesh of devices and how arrays lie on it; the one module that knows about either."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from delta_jax.processes import group


def make_mesh() -> Mesh:
    """All devices along one axis, "data"."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def mesh_of(devices: Sequence[Any]) -> Mesh:
    """The same of these devices, which need not be here."""
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def check_divides(batch_size: int, mesh: Mesh, field: str) -> None:
    """Raises ValueError unless a batch divides into equal parts for the devices."""
    n = mesh.size
    if batch_size % n:
        raise ValueError(
            f"--config.{field}={batch_size} is not a multiple of the {n} devices; try {max(batch_size // n, 1) * n}"
        )


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The arrays of `tree`, the same on every process, on every device of the mesh, whole."""
    return _put(tree, NamedSharding(mesh, PartitionSpec()))


def split(tree: Any, mesh: Mesh) -> Any:
    """The arrays of `tree`, the same on every process, their first axis cut into one part per device."""
    return _put(tree, NamedSharding(mesh, PartitionSpec("data")))


def planned(tree: Any, mesh: Mesh, *, split: bool = False) -> Any:
    """Shapes and types of the arrays of `tree`, and how they lie on the mesh after `replicate`, or after `split`."""
    sharding = NamedSharding(mesh, PartitionSpec("data") if split else PartitionSpec())
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def local_part(n: int, mesh: Mesh) -> np.ndarray:
    """Which of the n positions of a batch the devices of this process hold, ascending."""
    places = NamedSharding(mesh, PartitionSpec("data")).addressable_devices_indices_map((n,))
    return np.unique(np.concatenate([np.arange(n)[index] for index in places.values() if index is not None]))


def split_of_parts(tree: Any, mesh: Mesh) -> Any:
    """As `split`, of arrays of which every process has only its `local_part`."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    count = jax.process_count()
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(
            sharding, np.asarray(leaf), (len(leaf) * count, *np.shape(leaf)[1:])
        ),
        tree,
    )


def _put(tree: Any, sharding: NamedSharding) -> Any:
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def put(leaf: Any) -> jax.Array:
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(put, tree)


def per_device(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """(whole arrays, *arrays cut along their first axis) -> arrays cut alike: each device runs `function` on its part.

    Unlike under `jit` alone, loops whose length depends on the data end on each device at its own time.
    """

    def run(whole: Any, *parts: Any) -> Any:
        specs = (PartitionSpec(), *(PartitionSpec("data") for _ in parts))
        mapped = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec("data"), check_vma=False)
        return mapped(whole, *parts)

    return jax.jit(run)


@functools.cache
def device_memory_bytes() -> int | None:
    """What a device of this process can hold, None where the platform does not say (CPUs)."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def least_memory_bytes(of_host: int) -> int:
    """What one device can hold, or `of_host` where the platform does not say (CPUs); the least of all processes.

    All processes ask for it, the first time at the same point of the run: what depends on it is the same everywhere.
    """
    own = device_memory_bytes() or of_host
    return min(int(told) for told in group.gather(str(own)))


def from_first(array: np.ndarray | None, row: tuple[int, ...]) -> np.ndarray:
    """float32 [n, *row] of the first process, on every process; the others pass anything."""
    if jax.process_count() == 1:
        assert array is not None
        return array
    given = array if array is not None and group.is_first() else np.zeros((0, *row), np.float32)
    count = int(group.from_first(str(len(given))))
    return tree_from_first(given if len(given) == count else np.zeros((count, *row), np.float32))


def tree_from_first(tree: Any) -> Any:
    """The arrays of the first process as numpy arrays, on every process; the others pass arrays of the same shapes."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(tree, is_source=group.is_first()))


def as_on_first(tree: Any, mesh: Mesh) -> Any:
    """Replicated arrays as the first process has them: the same to the last bit on every process."""
    if jax.process_count() == 1:
        return tree
    return replicate(tree_from_first(on_host(tree)), mesh)


def on_host(tree: Any) -> Any:
    """The arrays of `tree` as numpy arrays, whole on every process."""

    def whole(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return leaf
        return multihost_utils.process_allgather(leaf, tiled=True)

    # device_get asks for the copy. np.asarray alone is one that jax.transfer_guard("disallow") refuses, from jax 0.12
    # on for arrays on several CPU devices, too.
    return jax.tree.map(np.asarray, jax.device_get(jax.tree.map(whole, tree)))


def own_copy(tree: Any) -> Any:
    """The arrays of `tree`, whole on every device, as arrays of one device of this process, to compute with alone."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)
