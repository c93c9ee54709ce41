"""Where the time of a compiled program goes: a trace of jax's profiler, by operation and by kind of operation."""

import collections
import gzip
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

# "  %name = f32[2,3]{1,0} opcode(...), ..., metadata={op_name="..." ...}" of an HLO text.
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = .*? ([a-z][\w-]*)\(", re.MULTILINE)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$", re.MULTILINE)
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CALLS = re.compile(r"calls=%?([\w.-]+)")

_PRODUCTS = ("convolution", "dot")
_COPIES = (
    "copy",
    "transpose",
    "bitcast",
    "pad",
    "slice",
    "dynamic-slice",
    "dynamic-update-slice",
    "concatenate",
    "gather",
)
_REDUCTIONS = ("reduce", "reduce-window", "select-and-scatter")
_NO_WORK = ("parameter", "constant", "broadcast", "bitcast", "tuple", "get-tuple-element", "convert", "iota")


def kinds(program: str) -> dict[str, str]:
    """{instruction: kind of work} of the text of a compiled program.

    Convolutions and matrix products are told apart by direction: forward, or backward where jax names them transposed.
    Depthwise ones are a kind of their own: on CPUs they are sums of shifted products. Anything else is a reduction, a
    collective, a copy (moves numbers without changing them), or elementwise.
    """
    inside: dict[str, list[tuple[str, str]]] = collections.defaultdict(list)  # (opcode, line) by computation
    instructions: list[tuple[str, str, str]] = []
    computation = ""
    for line in program.splitlines():
        if start := _COMPUTATION.match(line):
            computation = start[1]
        elif instruction := _INSTRUCTION.match(line):
            inside[computation].append((instruction[2], line))
            instructions.append((instruction[1], instruction[2], line))
    found = {}
    for name, opcode, line in instructions:
        called = _CALLS.search(line)
        parts = inside[called[1]] if opcode == "fusion" and called else []
        found[name] = _kind(parts or [(opcode, line)], op_name(line) or _of_product(parts))
    return found


def op_name(line: str) -> str:
    """Where in the Python code an instruction comes from: "jit(train_step)/jvp(ResNet)/conv1/conv_general_dilated"."""
    found = _OP_NAME.search(line)
    return found[1] if found else ""


def _of_product(parts: Iterable[tuple[str, str]]) -> str:
    return next((op_name(line) for opcode, line in parts if opcode in _PRODUCTS and op_name(line)), "")


def _kind(parts: Iterable[tuple[str, str]], where: str) -> str:
    working = {opcode for opcode, _ in parts} - set(_NO_WORK)
    direction = "backward" if "transpose(" in where else "forward"
    if any(opcode.startswith(("all-", "reduce-scatter", "collective-")) for opcode in working):
        return "collectives"
    # A library's kernel: XLA calls cuDNN and cuBLAS for convolutions and products, and for little else.
    if working & {*_PRODUCTS, "custom-call"}:
        return f"convolutions, {direction}"
    if "depthwise_conv" in where:
        return f"depthwise, {direction}"
    if working & {"while", "call", "conditional"}:
        return "loops"
    if working & set(_REDUCTIONS):
        return "reductions"
    return "copies" if working <= set(_COPIES) else "elementwise"


def self_times(events: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """{instruction: microseconds} of the events of a trace; an operation that holds others counts without them."""
    by_thread: dict[Any, list[Mapping[str, Any]]] = collections.defaultdict(list)
    for event in events:
        if event.get("ph") == "X" and "hlo_op" in event.get("args", {}):
            by_thread[event["pid"], event["tid"]].append(event)
    found: dict[str, float] = collections.defaultdict(float)
    for thread in by_thread.values():
        open_events: list[tuple[float, str]] = []  # (end, instruction), the innermost last
        for event in sorted(thread, key=lambda event: (event["ts"], -event["dur"])):
            name, began, length = event["args"]["hlo_op"], event["ts"], event["dur"]
            while open_events and open_events[-1][0] <= began:
                open_events.pop()
            if open_events and open_events[-1][0] >= began + length:
                found[open_events[-1][1]] -= length
            found[name] += length
            open_events.append((began + length, name))
    return dict(found)


def report(folder: Path, run: Callable[[], Any], program: str, repeats: int, heaviest: int = 15) -> dict[str, Any]:
    """Traces `run` into the folder and prints the times; {kind: milliseconds per call} and the heaviest instructions.

    Args:
      folder: for the trace, which TensorBoard and ui.perfetto.dev show.
      run: one call of the program, to its end.
      program: its text.
      repeats: calls.
      heaviest: how many instructions to print.
    """
    with jax.profiler.trace(str(folder)):
        for _ in range(repeats):
            run()
    newest = max(folder.rglob("*.trace.json.gz"), key=lambda path: path.stat().st_mtime)
    with gzip.open(newest) as file:
        times = self_times(json.load(file)["traceEvents"])
    if not times:
        print(f"the trace {newest} has no operations of the program")
        return {}
    kind_of = kinds(program)
    names = {found[1]: op_name(line) for line in program.splitlines() if (found := _INSTRUCTION.match(line))}
    total = sum(times.values())
    by_kind: dict[str, float] = collections.defaultdict(float)
    for name, microseconds in times.items():
        by_kind[kind_of.get(name, "other")] += microseconds
    print(f"time in operations, all threads: {total / repeats / 1e3:.1f} ms a step; trace: {newest}")
    for kind, microseconds in sorted(by_kind.items(), key=lambda pair: -pair[1]):
        print(f"  {kind:24}{microseconds / repeats / 1e3:9.2f} ms {microseconds / total:7.1%}")
    ranked = sorted(times.items(), key=lambda pair: -pair[1])[:heaviest]
    for name, microseconds in ranked:
        print(f"  {microseconds / repeats / 1e3:9.2f} ms {microseconds / total:7.1%}  {name}  {names.get(name, '')}")
    per_call = {kind: microseconds / repeats / 1e3 for kind, microseconds in by_kind.items()}
    return {
        "milliseconds": per_call,
        "heaviest": [
            {"instruction": name, "op_name": names.get(name, ""), "milliseconds": microseconds / repeats / 1e3}
            for name, microseconds in ranked
        ],
    }
