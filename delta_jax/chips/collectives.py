"""What a compiled program sends between devices, and how many operations it starts: read from its text."""

import collections
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")

_COLLECTIVE = re.compile(rf"^\s*(?:ROOT )?%?[\w.-]+ = (.*?) ({'|'.join(KINDS)})(-start)?\(", re.MULTILINE)
_ARRAY = re.compile(r"([a-z]+[0-9]*\w*)\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.-]+ = .*? ([a-z][\w-]*)\(")
_BITS = {"pred": 8, "bf16": 16}
_NO_WORK = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id", "after-all")


@dataclass(frozen=True)
class Collective:
    """One instruction; XLA may have put several of a kind into one.

    Attributes:
      kind: one of KINDS.
      arrays: (type, shape) of every array that comes out, e.g. ("f32", (3, 3, 64, 64)).
    """

    kind: str
    arrays: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def bytes(self) -> int:
        """Of all arrays that come out."""
        return sum(_bits(dtype) * math.prod(shape) for dtype, shape in self.arrays) // 8

    @property
    def only_vectors(self) -> bool:
        """Whether nothing in it has two axes or more: sums over channels and scalars, such as BatchNorm's."""
        return all(len(shape) < 2 for _, shape in self.arrays)


def of_program(text: str) -> list[Collective]:
    """The collectives of a program compiled for several devices, in the order of its text; in a loop they count once.

    Args:
      text: `compiled.as_text()`, of `jax.jit(...).lower(...).compile()`.
    """
    found = []
    for match in _COLLECTIVE.finditer(text):
        arrays = tuple(
            (dtype, tuple(map(int, filter(None, shape.split(","))))) for dtype, shape in _ARRAY.findall(match[1])
        )
        if match[3] and match[2] != "all-reduce":  # what goes in, then what comes out, then counters
            counters = sum(dtype == "u32" and not shape for dtype, shape in arrays)
            arrays = arrays[(len(arrays) - counters) // 2 : len(arrays) - counters]
        found.append(Collective(match[2], arrays))
    return found


def operations(text: str) -> Mapping[str, int]:
    """{opcode: how often the program starts one}: a fusion is one, a loop too, whatever is inside."""
    entry = text[text.index("\nENTRY ") :].splitlines()
    opcodes = (match[1] for line in entry if (match := _INSTRUCTION.match(line)))
    return collections.Counter(opcode for opcode in opcodes if opcode not in _NO_WORK)


def _bits(dtype: str) -> int:
    return _BITS[dtype] if dtype in _BITS else int(re.sub(r"\D*(\d+).*", r"\1", dtype))
