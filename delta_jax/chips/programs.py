"""What a compiled program costs on one device, read from what its compiler says of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from delta_jax.chips import collectives
from delta_jax.chips.collectives import Collective

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_NAMED = re.compile(r"^\s*(ROOT )?%?([\w.-]+) = .*? ([a-z][\w-]*)\((.*)$")
_WHILE = re.compile(r"condition=%?([\w.-]+), body=%?([\w.-]+)")
_INNER = re.compile(r"(?:to_apply|branch_computations|true_computation|false_computation)=\{?((?<=\{)[^}]*|%[\w.-]+)")


@dataclass(frozen=True)
class Program:
    """Per device.

    Attributes:
      arguments, outputs, aliased, temporary: bytes; aliased outputs lie in arguments.
      flops, bytes_accessed: the compiler's count, in which a loop's body counts once; None where it does not tell.
      cycles: the TPU compiler's own estimate, a loop's body as often as it runs; None for other compilers.
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
    cycles, unknown = cycles_of(text)
    return Program(
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        flops=costs.get("flops"),
        bytes_accessed=costs.get("bytes accessed"),
        cycles=cycles or None,
        unknown_loops=unknown,
        collectives=tuple(collectives.of_program(text)),
    )


def cycles_of(text: str) -> tuple[int, int]:
    """The TPU compiler's cycles of a program's text, and how many of its loops have a length that it does not say.

    Cycles are written beside every operation. They know nothing of waiting: for other chips, or for copies that go on
    beside the operations.
    """
    bodies, entry = _computations(text)
    known: dict[str, tuple[int, int]] = {}

    def of(name: str) -> tuple[int, int]:
        if name not in known:
            total = unknown = 0
            for line in bodies.get(name, ()):
                found = _CYCLES.search(line)
                total += int(found[1]) if found else 0
                loop = _WHILE.search(line)
                if loop and " while(" in line:
                    inner, unsaid = of(loop[2])
                    times = _trips(bodies, bodies[name], line, loop[1])
                    total += inner * (1 if times is None else times)
                    unknown += unsaid + (times is None)
                elif " conditional(" in line or " call(" in line:
                    branches = [
                        of(branch.strip().lstrip("%")) for group in _INNER.findall(line) for branch in group.split(",")
                    ]
                    if branches:  # which one runs is not known: the longest
                        longest = max(branches)
                        total, unknown = total + longest[0], unknown + longest[1]
            known[name] = total, unknown
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


def _trips(bodies: Mapping[str, list[str]], outside: list[str], loop: str, condition: str) -> int | None:
    """How often a loop that counts up by one runs; None where its bounds are not constants."""
    inside, around = _instructions(bodies.get(condition, [])), _instructions(outside)
    compare = next((one for one in inside.values() if one[0] and one[1] == "compare"), None)
    if compare is None or "direction=LT" not in compare[2]:
        return None
    start = re.search(r" while\(%?([\w.-]+)\)", loop)
    carried = _operands(around[start[1]][2]) if start and start[1] in around else []

    def value(name: str) -> int | None:
        _, opcode, rest = inside[name]
        if opcode == "constant":
            return _integer(rest)
        index = re.search(r"index=(\d+)", rest)
        if opcode != "get-tuple-element" or not index or int(index[1]) >= len(carried):
            return None
        found = carried[int(index[1])]
        while found in around and around[found][1] in ("copy", "bitcast", "convert"):
            found = _operands(around[found][2])[0]
        return _integer(around[found][2]) if found in around and around[found][1] == "constant" else None

    first, last = (value(name) for name in _operands(compare[2])[:2])
    return None if first is None or last is None else max(last - first, 0)


def _instructions(lines: list[str]) -> dict[str, tuple[bool, str, str]]:
    """{name: (whether it is the root, opcode, what follows the opening parenthesis)}."""
    return {found[2]: (bool(found[1]), found[3], found[4]) for line in lines if (found := _NAMED.match(line))}


def _operands(rest: str) -> list[str]:
    return re.findall(r"%([\w.-]+)", rest.partition(")")[0])


def _integer(rest: str) -> int | None:
    found = re.match(r"(-?\d+)\)", rest)
    return int(found[1]) if found else None
