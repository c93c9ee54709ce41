"""What a compiled program costs on one device, read from what its compiler says of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from delta_jax.chips import collectives
from delta_jax.chips.collectives import Collective

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_NAMED = re.compile(r"^\s*(ROOT )?%?([\w.-]+) = .*? ([a-z][\w-]*)\((.*)$")
_WHILE = re.compile(r"condition=%?([\w.-]+), body=%?([\w.-]+)")
_INTEGER = re.compile(r"(-?\d+)\)")
_INNER = re.compile(r"(?:to_apply|branch_computations|true_computation|false_computation)=\{?((?<=\{)[^}]*|%[\w.-]+)")


@dataclass(frozen=True)
class Program:
    """Per device.

    Attributes:
      arguments, outputs, aliased, temporary: bytes; aliased outputs lie in arguments.
      flops, bytes_accessed: the compiler's count, in which a loop's body counts once; None where it does not tell.
      cycles: the TPU compiler's own estimate, a loop's body as often as it runs; None for other compilers.
      bounded_loops: loops that the data may end earlier; their bodies are in `cycles` as often as they run at most.
      unknown_loops: loops whose length the program does not say; their bodies are in `cycles` once.
      collectives: what is sent between devices.
    """

    arguments: int
    outputs: int
    aliased: int
    temporary: int
    flops: float | None
    bytes_accessed: float | None
    cycles: int | None
    bounded_loops: int
    unknown_loops: int
    collectives: tuple[Collective, ...]

    @property
    def held(self) -> int:
        """Bytes of arguments and results."""
        return self.arguments + self.outputs - self.aliased

    @property
    def memory(self) -> int:
        """Bytes in all."""
        return self.held + self.temporary


def read(compiled: Any) -> Program:
    """Of what `jax.jit(...).lower(...).compile()` returns."""
    memory, costs, text = compiled.memory_analysis(), compiled.cost_analysis() or {}, compiled.as_text() or ""
    costs = costs[0] if isinstance(costs, list) else costs
    cycles = cycles_of(text)
    return Program(
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        flops=costs.get("flops"),
        bytes_accessed=costs.get("bytes accessed"),
        cycles=cycles.total or None,
        bounded_loops=cycles.bounded,
        unknown_loops=cycles.unknown,
        collectives=tuple(collectives.of_program(text)),
    )


class Cycles(NamedTuple):
    """Of a computation, or the sum of several.

    Attributes:
      total: a loop's body as often as it runs.
      bounded, unknown: loops, as in `Program`.
    """

    total: int = 0
    bounded: int = 0
    unknown: int = 0

    def plus(self, other: "Cycles", times: int = 1) -> "Cycles":
        """With another computation that runs a number of times; its loops count once."""
        return Cycles(self.total + times * other.total, self.bounded + other.bounded, self.unknown + other.unknown)


def cycles_of(text: str) -> Cycles:
    """The TPU compiler's cycles of a program's text.

    Cycles are written beside every operation. They know nothing of waiting: for other chips, or for copies that go on
    beside the operations.
    """
    bodies, entry = _computations(text)
    known: dict[str, Cycles] = {}

    def of(name: str) -> Cycles:
        if name not in known:
            cycles = Cycles()
            for line in bodies.get(name, ()):
                found = _CYCLES.search(line)
                cycles = cycles.plus(Cycles(int(found[1]) if found else 0))
                loop = _WHILE.search(line)
                if loop and " while(" in line:
                    trips = _trips(bodies, bodies[name], line, loop[1])
                    cycles = cycles.plus(of(loop[2]), 1 if trips is None else trips.value)
                    cycles = cycles.plus(Cycles(0, trips is not None and trips.at_most, trips is None))
                elif " conditional(" in line or " call(" in line:
                    branches = [
                        of(branch.strip().lstrip("%")) for group in _INNER.findall(line) for branch in group.split(",")
                    ]
                    if branches:  # which one runs is not known: the longest
                        cycles = cycles.plus(max(branches))
            known[name] = cycles
        return known[name]

    return of(entry)


def _computations(text: str) -> tuple[Mapping[str, list[str]], str]:
    bodies: dict[str, list[str]] = {}
    entry, current = "", ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = head[1]
            bodies[current] = []
            entry = current if line.startswith("ENTRY") else entry
        elif current:
            bodies[current].append(line)
    return bodies, entry


class _Number(NamedTuple):
    """A whole number that the text tells, or that it tells a bound of."""

    value: int
    at_most: bool


def _trips(bodies: Mapping[str, list[str]], outside: list[str], loop: str, condition: str) -> _Number | None:
    """How often a loop that counts up by one runs; None where its bounds are not constants."""
    inside, around = _instructions(bodies.get(condition, [])), _instructions(outside)
    compare = next((one for one in inside.values() if one[0] and one[1] == "compare"), None)
    if compare is None or "direction=LT" not in compare[2]:
        return None
    start = re.search(r" while\(%?([\w.-]+)\)", loop)
    carried = _operands(around[start[1]][2]) if start and start[1] in around else []

    def bound(name: str) -> _Number | None:
        _, opcode, rest = inside[name]
        if opcode == "constant":
            return _constant(inside, name)
        index = re.search(r"index=(\d+)", rest)
        if opcode != "get-tuple-element" or not index or int(index[1]) >= len(carried):
            return None
        return _constant(around, carried[int(index[1])])

    first, last = (bound(name) for name in _operands(compare[2])[:2])
    if first is None or first.at_most or last is None:
        return None
    return _Number(max(last.value - first.value, 0), last.at_most)


def _constant(instructions: Mapping[str, tuple[bool, str, str]], name: str) -> _Number | None:
    """The number that an instruction yields, or the constant that it is the minimum of with something else."""
    while name in instructions and instructions[name][1] in ("copy", "bitcast", "convert"):
        name = _operands(instructions[name][2])[0]
    if name not in instructions:
        return None
    _, opcode, rest = instructions[name]
    if opcode == "minimum":
        sides = [_constant(instructions, operand) for operand in _operands(rest)]
        bounds = [side.value for side in sides if side is not None]
        return _Number(min(bounds), at_most=True) if bounds else None
    found = _INTEGER.match(rest) if opcode == "constant" else None
    return _Number(int(found[1]), at_most=False) if found else None


def _instructions(lines: list[str]) -> dict[str, tuple[bool, str, str]]:
    """{name: (whether it is the root, opcode, what follows the opening parenthesis)}."""
    return {found[2]: (bool(found[1]), found[3], found[4]) for line in lines if (found := _NAMED.match(line))}


def _operands(rest: str) -> list[str]:
    return re.findall(r"%([\w.-]+)", rest.partition(")")[0])
