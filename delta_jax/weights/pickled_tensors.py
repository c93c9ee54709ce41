"""The tensors in the pickles of torch: which names of torch make them, and where their numbers lie."""

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from delta_jax.weights.errors import WeightsError

WAY_OUT = (
    "if you trust the file, load it with torch where it was made and save the weights alone: "
    "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
)

# Numbers by torch's name of their type. A storage without a type ("untyped") is one of bytes.
_TYPES = {
    "Float": np.dtype("<f4"),
    "Double": np.dtype("<f8"),
    "Half": np.dtype("<f2"),
    "BFloat16": np.dtype(ml_dtypes.bfloat16),
    "Long": np.dtype("<i8"),
    "Int": np.dtype("<i4"),
    "Short": np.dtype("<i2"),
    "Char": np.dtype("i1"),
    "Byte": np.dtype("u1"),
    "Bool": np.dtype("?"),
    "ComplexFloat": np.dtype("<c8"),
    "ComplexDouble": np.dtype("<c16"),
    "QInt8": np.dtype("i1"),
    "QUInt8": np.dtype("u1"),
    "QInt32": np.dtype("<i4"),
}
_STORAGES = {f"torch.{name}Storage": dtype for name, dtype in _TYPES.items()} | {
    "torch.storage.UntypedStorage": np.dtype("u1"),
    "torch.UntypedStorage": np.dtype("u1"),
}
_DTYPES: dict[str, np.dtype[Any]] = {  # of tensors in storages without a type
    "torch.uint16": np.dtype("<u2"),
    "torch.uint32": np.dtype("<u4"),
    "torch.uint64": np.dtype("<u8"),
}
TENSORS = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
UNTYPED_TENSOR = "torch._utils._rebuild_tensor_v3"
PARAMETERS = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
SUBCLASS = "torch._tensor._rebuild_from_type_v2"


class Global(NamedTuple):
    """A name of a Python object that the pickle asks for, as "module.name"; the object itself stays untouched."""

    name: str


class Storage(NamedTuple):
    """Numbers kept outside the pickle under `key`: `size` elements of `dtype`; a view of them begins at `start`."""

    key: str
    dtype: np.dtype
    size: int
    start: int


class Tensor(NamedTuple):
    """A tensor in a storage; offset and strides in elements, none of them negative.

    `unread` is torch's name of a type of numbers that is not read here, such as "torch.float8_e4m3fn".
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    unread: str = ""


def tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
    """A tensor, once it is known to be possible."""
    if not (isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)):
        raise damaged("makes a tensor of what is no storage, shape or strides")
    if len(shape) != len(strides) or len(shape) > 32 or not all(map(_is_count, (offset, *shape, *strides))):
        raise damaged("makes a tensor of impossible offset, shape or strides")
    return Tensor(storage, offset, shape, strides)


def untyped_tensor(place: tuple[Any, ...], dtype: Any) -> Tensor:
    """A tensor whose storage does not tell the type of its numbers."""
    found = tensor(*place)
    if not isinstance(dtype, Global):
        raise damaged("makes a tensor of no type")
    if dtype.name not in _DTYPES:
        return found._replace(unread=dtype.name)
    numbers, given = _DTYPES[dtype.name], found.storage
    width = numbers.itemsize // given.dtype.itemsize
    return found._replace(storage=Storage(given.key, numbers, given.size // width, given.start // width))


def outside(identity: Any) -> Storage | Global:
    """The persistent ids of torch: of a storage, or of a class whose source its older files carry."""
    if identity[0] == "module" and len(identity) > 1 and isinstance(identity[1], Global):
        return identity[1]
    return _storage(*identity)


def _storage(kind: Any, storage_type: Any, key: Any, _location: Any, size: Any, view: Any = None) -> Storage:
    """`view` (key, first element, elements) is of the older stream."""
    if kind != "storage" or not isinstance(storage_type, Global) or storage_type.name not in _STORAGES:
        raise WeightsError(f"it holds something that is not a storage of plain numbers; {WAY_OUT}")
    start = 0 if view is None else view[1]
    if not isinstance(key, str) or not _is_count(size) or not _is_count(start):
        raise damaged("declares a storage of impossible key, size or offset")
    return Storage(key, _STORAGES[storage_type.name], size, start)


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 <= number < 2**63


def damaged(what: str) -> WeightsError:
    """The error for a pickle that no honest program writes."""
    return WeightsError(f"its pickle {what}; the file is damaged, fetch it again")
