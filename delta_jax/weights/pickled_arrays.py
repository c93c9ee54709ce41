"""The arrays of numpy and jax in pickles: which names make them, and where their numbers lie. Nothing is called."""

import math
import re
from typing import Any

import ml_dtypes
import numpy as np

from delta_jax.weights.errors import WeightsError
from delta_jax.weights.pickled_tensors import Global, damaged

DTYPE = "numpy.dtype"
EMPTY = {f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")}
BUFFERS = {f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")}
JAX = {"jax._src.array._reconstruct_array", "jax._src.device_array.reconstruct_device_array"}
BYTES, NO_BYTES = "_codecs.encode", "__builtin__.bytes"  # how protocols below 3 keep bytes, and none


class Type:
    """A numpy.dtype in the making: numbers only."""

    def __init__(self, code: Any):
        if isinstance(code, Global) and code.name == "ml_dtypes.bfloat16":
            self.numbers = np.dtype(ml_dtypes.bfloat16)
        elif isinstance(code, str) and re.fullmatch(r"[fiu][1248]|b1", code) and code != "f1":
            self.numbers = np.dtype(code)
        else:
            what = code.name if isinstance(code, Global) else repr(code)
            raise WeightsError(f"it holds arrays of the type {what:.40}, which are no plain numbers")

    def build(self, state: Any) -> None:
        """The order of their bytes; the rest of the state is of types with fields."""
        if state[1] in ("<", ">"):
            self.numbers = self.numbers.newbyteorder(state[1])


class Array:
    """A numpy.ndarray in the making; `array` is None until the pickle sets its state."""

    def __init__(self) -> None:
        self.array: np.ndarray | None = None

    def build(self, state: Any) -> None:
        """(version, shape, type, whether in Fortran's order, numbers), as ndarray.__setstate__ takes it."""
        _, shape, numbers, fortran, raw = state
        self.fill(raw, numbers, shape, "F" if fortran else "C")

    def fill(self, raw: Any, numbers: Any, shape: Any, order: Any) -> "Array":
        """Sets the numbers, once they are known to be as many as the shape says."""
        if isinstance(raw, str):  # of Python 2
            raw = raw.encode("latin-1")
        sizes = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape) and len(shape) <= 32
        if not (sizes and isinstance(numbers, Type) and isinstance(raw, bytes | bytearray) and order in ("C", "F")):
            raise damaged("makes an array of what is no shape, type or numbers")
        if len(raw) != math.prod(shape) * numbers.numbers.itemsize:
            raise damaged(f"makes an array {shape} of {len(raw):,} bytes")
        self.array = np.frombuffer(raw, numbers.numbers).reshape(shape, order=order)
        return self


def made(function: str, arguments: Any) -> Any:
    """What the call of a name above gives; None for any other name."""
    if function == DTYPE:
        return Type(arguments[0])
    if function in EMPTY:
        return Array()
    if function in BUFFERS:  # (numbers, type, shape, order)
        return Array().fill(*arguments)
    if function in JAX:  # (what makes an array of numpy, its arguments, its state, what else jax knows of it)
        found = Array()
        found.build(arguments[2])
        return found
    if function == BYTES and arguments[1] in ("latin1", "latin-1"):
        return arguments[0].encode("latin-1")
    if function == NO_BYTES and not arguments:
        return b""
    return None


def flattened(tree: Any, before: str = "") -> dict[str, np.ndarray]:
    """{"params/conv/kernel": array} of the arrays in nested dicts, lists and tuples."""
    if isinstance(tree, Array):
        return {before: tree.array} if tree.array is not None else {}
    if isinstance(tree, dict):
        pairs = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list | tuple):
        pairs = [(str(i), value) for i, value in enumerate(tree)]
    else:
        return {}
    found: dict[str, np.ndarray] = {}
    for key, value in pairs:
        found |= flattened(value, f"{before}/{key}" if before else key)
    return found
