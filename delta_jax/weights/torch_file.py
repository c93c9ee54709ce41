"""Files of torch.save, the zip format and the older stream, read without torch and without running their pickles."""

import io
import math
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from delta_jax.weights import checkpoint_states
from delta_jax.weights.checkpoint_states import State
from delta_jax.weights.errors import WeightsError
from delta_jax.weights.pickled_tensors import WAY_OUT, Storage, Tensor
from delta_jax.weights.pickles import decode

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the older stream
LEGACY_PROTOCOL = 1001  # the second


def is_legacy(head: bytes) -> bool:
    """Whether a file that begins with `head` (32 bytes or more) is of torch < 1.6, or asks for that format."""
    return head.startswith(b"\x80") and LEGACY_MAGIC.to_bytes(10, "little") in head[:32]


def is_program(member: str) -> bool:
    """Whether the zip member `member` is the pickle of a torch file: data.pkl, at the top or in the one folder."""
    return member == "data.pkl" or (member.endswith("/data.pkl") and member.count("/") == 1)


def read_zip(archive: zipfile.ZipFile, *, choice: str = "", budget: int) -> tuple[dict[str, np.ndarray], State]:
    """Reads a file of torch >= 1.6.

    Args:
      archive: open for reading; has a member that `is_program`.
      choice: keys of the state that is meant, see `checkpoint_states.find`.
      budget: bytes that one member, and all arrays together, may take.

    Returns:
      ({name: array} in the types of the file, the state that they are).

    Raises:
      WeightsError: the file is unsafe, damaged or without named tensors. zipfile's and Python's own errors mean damage.
    """
    folder = next(filter(is_program, archive.namelist())).removesuffix("data.pkl")
    storages: dict[str, bytes] = {}

    def member(name: str) -> bytes:
        size = archive.getinfo(folder + name).file_size
        if size > budget:
            raise WeightsError(f"its member {name} claims {size:,} bytes, more than a file of this size can mean")
        return archive.read(folder + name)

    def stored(storage: Storage) -> bytes:
        if storage.key not in storages:
            storages[storage.key] = member(f"data/{storage.key}")
        return storages[storage.key]

    if f"{folder}byteorder" in archive.namelist() and member("byteorder") != b"little":
        raise WeightsError(f"its numbers are in big-endian order; {WAY_OUT}")
    if f"{folder}constants.pkl" in archive.namelist():
        raise WeightsError(
            "is a TorchScript archive: a program with its weights; save those alone, with torch: "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
        )
    return _arrays(decode(io.BytesIO(member("data.pkl"))), stored, choice, budget)


def read_legacy(data: bytes, *, choice: str = "", budget: int) -> tuple[dict[str, np.ndarray], State]:
    """Reads the bytes of a file of torch < 1.6: five pickles, then the storages; the rest as `read_zip`."""
    stream = io.BytesIO(data)
    if decode(stream) != LEGACY_MAGIC or decode(stream) != LEGACY_PROTOCOL:
        raise WeightsError(f"it begins like a file of torch.save, but in an unknown version; {WAY_OUT}")
    if decode(stream)["little_endian"] is not True:
        raise WeightsError(f"its numbers are in big-endian order; {WAY_OUT}")
    declared: dict[str, Storage] = {}
    program = decode(stream, declared)
    storages: dict[str, bytes] = {}
    for key in decode(stream):
        if not isinstance(key, str) or key not in declared:
            raise WeightsError("it lists storages that no tensor uses; the file is damaged, fetch it again")
        size, storage = int.from_bytes(stream.read(8), "little"), declared[key]
        if size != storage.size:
            raise WeightsError(
                f"storage {key} has {size:,} elements where {storage.size:,} are declared; fetch it again"
            )
        storages[key] = stream.read(size * storage.dtype.itemsize)
    return _arrays(program, lambda storage: storages[storage.key], choice, budget)


def _arrays(
    program: Any, stored: Callable[[Storage], bytes], choice: str, budget: int
) -> tuple[dict[str, np.ndarray], State]:
    state = checkpoint_states.find(program, choice)
    tensors = state.tensors
    # Expanded and shared tensors may be larger than what is stored: know the sum before the first one is made.
    total = sum(math.prod(tensor.shape) * tensor.storage.dtype.itemsize for tensor in tensors.values())
    if total > budget:
        raise WeightsError(f"its tensors claim {total:,} bytes, more than a file of this size can mean")
    return {name: _array(name, tensor, stored(tensor.storage)) for name, tensor in tensors.items()}, state


def _array(name: str, tensor: Tensor, raw: bytes) -> np.ndarray:
    storage, shape, strides = tensor.storage, tensor.shape, tensor.strides
    if len(raw) != storage.size * storage.dtype.itemsize:
        raise WeightsError(
            f"the storage of {name} has {len(raw):,} bytes where {storage.size:,} elements of {storage.dtype} are "
            "declared; the file is cut off or damaged, fetch it again"
        )
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    start = storage.start + tensor.offset
    last = start + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if last >= storage.size:  # as_strided would read memory beyond the storage
        raise WeightsError(f"{name} {shape} reaches element {last:,} of a storage of {storage.size:,}; fetch it again")
    elements = np.frombuffer(raw, storage.dtype)[start:]
    steps = [stride * storage.dtype.itemsize for stride in strides]
    return np.array(np.lib.stride_tricks.as_strided(elements, shape, steps), order="C")
