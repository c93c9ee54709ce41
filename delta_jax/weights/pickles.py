"""Pickles, those inside files of torch.save and of arrays alone, read without running them.

A pickle is a program: loading one with `pickle` may run whatever its author liked. Here the program is not run but
read, operation by operation (`pickletools` splits it): tensors, arrays, plain containers and numbers are understood; an
object of any other class, such as the argparse.Namespace of a training script, is never built, but noted as a `Record`
of what the pickle says of it. Nothing is imported, nothing the file names is called, only plain keys are hashed. Names
whose only use is to run something are refused all the same: a file that has them is no honest one.
"""

import pickletools
from typing import Any, BinaryIO

from delta_jax.weights import pickled_arrays
from delta_jax.weights.errors import WeightsError
from delta_jax.weights.pickled_arrays import Array, Type
from delta_jax.weights.pickled_tensors import (
    PARAMETERS,
    SUBCLASS,
    TENSORS,
    UNTYPED_TENSOR,
    WAY_OUT,
    Global,
    Storage,
    damaged,
    outside,
    tensor,
    untyped_tensor,
)

_PAIRS = {
    *("collections.OrderedDict", "collections.Counter", "builtins.dict", "__builtin__.dict"),
    "flax.core.frozen_dict.FrozenDict",
}
_DEFAULT = "collections.defaultdict"
# How older protocols make an object of a class: the class comes first among the arguments.
_MAKERS = {"copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__", "copyreg.__newobj_ex__"}

_RUNNING_MODULES = {
    *("os", "posix", "nt", "subprocess", "sys", "runpy", "shutil", "socket", "pty", "ctypes", "importlib", "pickle"),
    *("_pickle", "marshal", "code", "codeop", "commands", "webbrowser", "multiprocessing", "asyncio", "requests"),
    *("timeit", "pdb", "bdb", "profile", "cProfile", "trace", "doctest", "urllib", "http", "ftplib", "smtplib", "pip"),
}
_RUNNING = {"eval", "exec", "compile", "open", "execfile", "__import__", "input", "breakpoint", "apply"}

_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
# A set is never looked into; read as a list, nothing has to be hashed.
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_SET": list, "EMPTY_DICT": dict}


class Record:
    """An object that was not built: the name of its class or of the function that makes it, and what it holds.

    Attributes:
      name: "module.name".
      items: what the pickle sets by key, as in a dict.
      attributes: what the pickle sets as attributes; {} where that is no dict.
    """

    __slots__ = ("attributes", "items", "name")

    def __init__(self, name: str):
        self.name = name
        self.items: dict[Any, Any] = {}
        self.attributes: dict[Any, Any] = {}


def decode(stream: BinaryIO, storages: dict[str, Storage] | None = None) -> Any:
    """Reads the next pickle of `stream` and leaves the stream right behind it.

    Args:
      stream: seekable; all of it in memory, for the lengths in a pickle are believed only as far as there are bytes.
      storages: receives the storages that the pickle declares, by key.

    Returns:
      Tensors, numbers, strings and bytes in dicts, lists and tuples; `Record` for every other object, `Global` for a
      class or function. Strings of Python 2 are read as latin-1.

    Raises:
      WeightsError: the pickle asks for what could run code, or is damaged. Other exceptions, such as IndexError and
        ValueError, mean damage too; the caller words them.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    storages = {} if storages is None else storages
    argument: Any

    def pop(count: int) -> list[Any]:
        if not 0 <= count <= len(stack):
            raise damaged("takes more values than it made")
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
            case "NEWOBJ":
                stack.append(_made(pop(2)[0]))
            case "NEWOBJ_EX":
                stack.append(_made(pop(3)[0]))
            case "OBJ":
                stack.append(_made(pop_marked()[0]))
            case "INST":
                pop_marked()
                stack.append(_made(_global(*argument.split(" "))))
            case "BUILD":
                (state,) = pop(1)
                _build(stack[-1], state)
            case "BINPERSID":
                found = outside(pop(1)[0])
                if isinstance(found, Storage) and storages.setdefault(found.key, found)[:3] != found[:3]:
                    raise damaged(f"declares storage {found.key} twice, differently")
                stack.append(found)
            case name:
                raise WeightsError(f"its pickle uses {name}, which no state_dict needs; {WAY_OUT}")
    raise damaged("has no end")


def _global(module: Any, name: Any) -> Global:
    if not isinstance(module, str) or not isinstance(name, str):
        raise damaged("asks for a name that is no text")
    full = f"{module}.{name}"
    runs = name.partition(".")[0] in _RUNNING if module in ("builtins", "__builtin__") else False
    if runs or module.partition(".")[0] in _RUNNING_MODULES:
        raise WeightsError(f"it asks for {full:.80}, which is no data and could run code; {WAY_OUT}")
    return Global(full)


def _reduce(function: Any, arguments: Any) -> Any:
    if not isinstance(function, Global):
        raise damaged("calls what is no function")
    match function.name:
        case name if name in TENSORS:
            return tensor(*arguments[:4])
        case name if name == UNTYPED_TENSOR:
            return untyped_tensor(arguments[:4], arguments[6])
        case name if name in PARAMETERS:
            return arguments[0]
        case name if name == SUBCLASS:  # a tensor or a parameter with attributes of its own
            return _reduce(arguments[0], arguments[2])
        case name if name in _PAIRS:
            given = arguments[0] if arguments else ()
            if isinstance(given, dict):
                return dict(given)
            return _update({}, [item for key, value in given for item in (key, value)])
        case name if name == _DEFAULT:
            return {}
        case name if name in _MAKERS:
            return _made(arguments[0])
        case name:
            found = pickled_arrays.made(name, arguments)
            return Record(name) if found is None else found


def _made(kind: Any) -> Any:
    """An object of a class, empty as yet."""
    if not isinstance(kind, Global):
        raise damaged("makes an object of what is no class")
    return {} if kind.name in {*_PAIRS, _DEFAULT} else Record(kind.name)


def _build(target: Any, state: Any) -> None:
    """Attributes of a record; those of a dict, such as the _metadata of a state_dict, are no weights."""
    if isinstance(target, Array | Type):
        target.build(state)
    if isinstance(target, Record):
        for part in state if isinstance(state, tuple) else (state,):  # (attributes, slots)
            if isinstance(part, dict):
                target.attributes = part


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, Record):  # a kind of list: no weight has its name in there
        return
    if not isinstance(target, list):
        raise damaged("appends to what is no list")
    target.extend(items)


def _update(target: Any, items: list[Any]) -> dict[Any, Any]:
    """Sets items [key, value, key, value, ...]; keys that are not plain name no weight and are left out."""
    target = target.items if isinstance(target, Record) else target
    if not isinstance(target, dict):
        raise damaged("sets an item of what is no dict")
    # Plain keys only: hashing a tuple nested some ten thousand deep would overflow the interpreter's own stack.
    pairs = zip(items[::2], items[1::2], strict=True)
    target.update((key, value) for key, value in pairs if isinstance(key, str | int | float | bytes))
    return target
