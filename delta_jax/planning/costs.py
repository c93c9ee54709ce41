"""What a program costs on one device: compiled, or read where it was compiled before."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

import jax

from delta_jax.chips import Topology, flops, programs
from delta_jax.planning.works import Work
from delta_jax.workdir import json_files, logs

# To be raised when other things are read from a program than before, so that what lies in the cache is not taken.
_VERSION = 1
_PACKAGES = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin", "jax-cuda12-plugin")
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")

_TOO_LARGE = re.compile(r"\(?(?P<needed>[\d.]+)(?P<unit>[KMGT]?)\)? (?:exceeds available HBM \(|of )(?P<there>[\d.]+)")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one call of a program, on one device. Bytes, unless said otherwise.

    Attributes:
      arguments, outputs, aliased, temporary: see `chips.Program`; 0 where the compiler refused the program.
      needed: what a program that the compiler refused needs, by its message; None for others.
      flops: of convolutions and matrix products, counted from the traced program; a loop of unknown length counts once.
      bytes_accessed: the compiler's count, in which a loop's body counts once; None where it does not tell.
      cycles, bounded_loops, unknown_loops: see `chips.Program`.
      collectives: {kind: {"count", "bytes"}}; in a loop they count once.
      compile_seconds: on the machine where it was compiled.
    """

    arguments: int
    outputs: int
    aliased: int
    temporary: int
    needed: int | None
    flops: float
    bytes_accessed: float | None
    cycles: int | None
    bounded_loops: int
    unknown_loops: int
    collectives: Mapping[str, Mapping[str, int]]
    compile_seconds: float

    @property
    def held(self) -> int:
        """Arguments and results."""
        return self.arguments + self.outputs - self.aliased

    @property
    def memory(self) -> int:
        """In all."""
        return self.held + self.temporary if self.needed is None else self.needed


def cost(work: Work, topology: Topology, folder: Path) -> Cost:
    """Of a program on a topology's device; the folder keeps what was compiled."""
    function, arguments = work.make()
    lowered = topology.lower(function, *arguments)
    file = folder / f"{_key(lowered.as_text(), topology)}.json"
    if kept := json_files.read(file):
        return Cost(**kept)
    logs.say(f"{work.name}, {work.images} images: compiling for {topology.name}")
    with topology.compiling():
        counted = flops.count(function, *arguments) / (len(topology.devices) if work.split else 1)
    began = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        found = _refused(str(error), counted, time.monotonic() - began)
    else:
        found = _accepted(programs.read(compiled), counted, time.monotonic() - began)
    json_files.write(file, dataclasses.asdict(found))
    return found


def _accepted(program: programs.Program, counted: float, seconds: float) -> Cost:
    collectives: dict[str, dict[str, int]] = {}
    for one in program.collectives:
        of_kind = collectives.setdefault(one.kind, {"count": 0, "bytes": 0})
        of_kind["count"] += 1
        of_kind["bytes"] += one.bytes
    names = ("arguments", "outputs", "aliased", "temporary", "bytes_accessed", "cycles", "bounded_loops")
    read = {name: getattr(program, name) for name in (*names, "unknown_loops")}
    return Cost(**read, needed=None, flops=counted, collectives=collectives, compile_seconds=round(seconds, 1))


def _refused(message: str, counted: float, seconds: float) -> Cost:
    nothing = dict.fromkeys(("arguments", "outputs", "aliased", "temporary", "bounded_loops", "unknown_loops"), 0)
    return Cost(
        **nothing,
        needed=needed(message),
        flops=counted,
        bytes_accessed=None,
        cycles=None,
        collectives={},
        compile_seconds=round(seconds, 1),
    )


def needed(message: str) -> int:
    """The bytes that the TPU compiler's refusal of a program says it needs.

    Raises:
      ValueError: it does not say.
    """
    found = _TOO_LARGE.search(message)
    if not found:
        raise ValueError(f"the compiler refused a program, and how much memory it needs is not to be read: {message}")
    return int(float(found["needed"]) * _UNITS[found["unit"]])


def _key(text: str, topology: Topology) -> str:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    flags = {name: os.environ.get(name, "") for name in _FLAGS}
    where = [topology.name, topology.platform, len(topology.devices)]
    depends = json.dumps([_VERSION, versions, flags, where, hashlib.sha256(text.encode()).hexdigest()])
    return hashlib.sha256(depends.encode()).hexdigest()[:24]
