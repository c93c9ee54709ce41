"""The pickles inside files of torch.save, read without running them.

A pickle is a program: loading one with `pickle` may run whatever its author liked. Here the program is not run but
read, operation by operation (`pickletools` splits it): tensors, plain containers and numbers are understood, every name
outside a short list is refused. Nothing is imported, nothing the file names is called, only plain keys are hashed.
"""

import pickletools
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from delta_jax.weights.errors import WeightsError

WAY_OUT = (
    "if you trust the file, load it with torch where it was made and save the weights alone: "
    "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
)

_STORAGES = {
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.CharStorage": np.dtype("i1"),
    "torch.ByteStorage": np.dtype("u1"),
    "torch.BoolStorage": np.dtype("?"),
}
_TENSORS = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
_PARAMETER = "torch._utils._rebuild_parameter"
_DICT = "collections.OrderedDict"
# Plain values beside the weights of a checkpoint: nobody looks at them, so they are never built and read as `_UNREAD`.
_PLAIN = {
    *("torch.Size", "torch.device", "torch.float32", "torch.float16", "torch.bfloat16", "torch.float64", "torch.int64"),
    *("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "_codecs.encode"),
    *("builtins.set", "builtins.frozenset", "builtins.complex", "builtins.slice", "builtins.range"),
    *("__builtin__.set", "__builtin__.frozenset", "__builtin__.complex", "__builtin__.slice", "__builtin__.xrange"),
}
_UNREAD = object()

_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
# A set is never looked into; read as a list, nothing has to be hashed.
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_SET": list, "EMPTY_DICT": dict}


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
    """A tensor in a storage; offset and strides in elements, none of them negative."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def decode(stream: BinaryIO, storages: dict[str, Storage] | None = None) -> Any:
    """Reads the next pickle of `stream` and leaves the stream right behind it.

    Args:
      stream: seekable; all of it in memory, for the lengths in a pickle are believed only as far as there are bytes.
      storages: receives the storages that the pickle declares, by key.

    Returns:
      Tensors, numbers, strings and bytes in dicts, lists and tuples. Strings of Python 2 are read as latin-1.

    Raises:
      WeightsError: the pickle asks for a name that is not plain data, or is damaged. Other exceptions, such as
        IndexError and ValueError, mean damage too; the caller words them.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    storages = {} if storages is None else storages
    argument: Any

    def pop(count: int) -> list[Any]:
        if not 0 <= count <= len(stack):
            raise _damaged("takes more values than it made")
        start = len(stack) - count
        items = stack[start:]
        del stack[start:]
        return items

    def pop_marked() -> list[Any]:
        return pop(len(stack) - marks.pop())

    for operation, argument, _ in pickletools.genops(stream):
        match operation.name:
            case "STOP":
                return stack.pop()
            case "PROTO" | "FRAME":
                pass
            case name if name in _LITERALS:
                stack.append(argument)
            case name if name in _EMPTY:
                stack.append(_EMPTY[name]())
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(operation.name == "NEWTRUE")
            case "MARK":
                marks.append(len(stack))
            case "POP":
                pop(1)
            case "POP_MARK":
                pop_marked()
            case "DUP":
                stack.append(stack[-1])
            case "TUPLE":
                stack.append(tuple(pop_marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(pop(int(operation.name[-1]))))
            case "LIST" | "FROZENSET":
                stack.append(pop_marked())
            case "DICT":
                stack.append(_update({}, pop_marked()))
            case "APPEND":
                items = pop(1)
                _extend(stack[-1], items)
            case "APPENDS" | "ADDITEMS":
                items = pop_marked()
                _extend(stack[-1], items)
            case "SETITEM":
                items = pop(2)
                _update(stack[-1], items)
            case "SETITEMS":
                items = pop_marked()
                _update(stack[-1], items)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_global(*argument.split(" ")))
            case "STACK_GLOBAL":
                stack.append(_global(*pop(2)))
            case "REDUCE":
                stack.append(_reduce(*pop(2)))
            case "BUILD":  # attributes of an object, such as the _metadata of a state_dict: none of them is a weight
                pop(1)
            case "BINPERSID":
                storage = _storage(*pop(1)[0])
                if storages.setdefault(storage.key, storage)[:3] != storage[:3]:
                    raise _damaged(f"declares storage {storage.key} twice, differently")
                stack.append(storage)
            case name:
                if name == "INST":  # an old way to make an object: let the error name its class
                    _global(*argument.split(" "))
                raise WeightsError(f"its pickle uses {name}, which no state_dict needs; {WAY_OUT}")
    raise _damaged("has no end")


def _global(module: Any, name: Any) -> Global:
    if not isinstance(module, str) or not isinstance(name, str):
        raise _damaged("asks for a name that is no text")
    full = f"{module}.{name}"
    if full not in _TENSORS | _STORAGES.keys() | _PLAIN | {_PARAMETER, _DICT}:
        raise WeightsError(
            f"it asks for {full:.80}, which is neither a tensor nor plain data and could run code; {WAY_OUT}"
        )
    return Global(full)


def _reduce(function: Any, arguments: Any) -> Any:
    match function:
        case Global(name) if name in _TENSORS:
            return _tensor(*arguments[:4])
        case Global(name) if name == _PARAMETER:
            return arguments[0]
        case Global(name) if name == _DICT:
            pairs = arguments[0] if arguments else ()
            return _update({}, [item for key, value in pairs for item in (key, value)])
        case Global(name) if name in _PLAIN:
            return _UNREAD
    raise _damaged("calls what is no function")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
    if not (isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)):
        raise _damaged("makes a tensor of what is no storage, shape or strides")
    if len(shape) != len(strides) or len(shape) > 32 or not all(map(_is_count, (offset, *shape, *strides))):
        raise _damaged("makes a tensor of impossible offset, shape or strides")
    return Tensor(storage, offset, shape, strides)


def _storage(kind: Any, storage_type: Any, key: Any, _location: Any, size: Any, view: Any = None) -> Storage:
    """The persistent ids of torch; `view` (key, first element, elements) is of the older stream."""
    if kind != "storage" or not isinstance(storage_type, Global) or storage_type.name not in _STORAGES:
        raise WeightsError(f"it holds something that is not a storage of plain numbers; {WAY_OUT}")
    start = 0 if view is None else view[1]
    if not isinstance(key, str) or not _is_count(size) or not _is_count(start):
        raise _damaged("declares a storage of impossible key, size or offset")
    return Storage(key, _STORAGES[storage_type.name], size, start)


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 <= number < 2**63


def _extend(target: Any, items: list[Any]) -> None:
    if not isinstance(target, list):
        raise _damaged("appends to what is no list")
    target.extend(items)


def _update(target: Any, items: list[Any]) -> dict[Any, Any]:
    """Sets items [key, value, key, value, ...]; keys that are not plain name no weight and are left out."""
    if not isinstance(target, dict):
        raise _damaged("sets an item of what is no dict")
    # Plain keys only: hashing a tuple nested some ten thousand deep would overflow the interpreter's own stack.
    pairs = zip(items[::2], items[1::2], strict=True)
    target.update((key, value) for key, value in pairs if isinstance(key, str | int | float | bytes))
    return target


def _damaged(what: str) -> WeightsError:
    return WeightsError(f"its pickle {what}; the file is damaged, fetch it again")
