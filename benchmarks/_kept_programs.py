"""What is read of programs that were compiled for chips, kept in a folder: each takes seconds to minutes."""

import gzip
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from delta_jax import chips

PACKAGES = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin", "jax-cuda13-pjrt")


@dataclass(frozen=True)
class Kept:
    """What is read of a compiled program, as it was when it was compiled.

    Attributes:
      text: of the compiled program.
      memory: of its memory analysis.
      costs: of its cost analysis; empty where the compiler makes none.
      seconds: that compiling took.
    """

    text: str
    memory: Mapping[str, int]
    costs: Mapping[str, float]
    seconds: float

    @property
    def program(self) -> chips.Program:
        """What it costs."""
        return chips.read(self)

    def as_text(self) -> str:
        """As of a compiled program."""
        return self.text

    def memory_analysis(self) -> Any:
        """As of a compiled program."""
        return SimpleNamespace(**self.memory)

    def cost_analysis(self) -> Mapping[str, float]:
        """As of a compiled program."""
        return self.costs


def versions() -> dict[str, str]:
    """{package: version} of the compilers."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def compiled(lowered: Any, topology: chips.Topology, cache: Path) -> Kept:
    """The program, compiled or as it was kept."""
    depends = [lowered.as_text(), topology.name, versions(), os.environ.get("XLA_FLAGS", "")]
    file = cache / f"{hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:32]}.json.gz"
    if file.exists():
        return Kept(**json.loads(gzip.decompress(file.read_bytes())))
    began = time.perf_counter()
    with topology.compiling():
        done = lowered.compile()
    memory, costs = done.memory_analysis(), done.cost_analysis() or {}
    costs = costs[0] if isinstance(costs, list) else costs
    sizes = ("argument", "output", "alias", "temp")
    record = {
        "text": done.as_text(),
        "memory": {name: getattr(memory, name) for name in (f"{size}_size_in_bytes" for size in sizes)},
        "costs": {name: costs[name] for name in ("flops", "bytes accessed") if name in costs},
        "seconds": time.perf_counter() - began,
    }
    cache.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_bytes(gzip.compress(json.dumps(record).encode()))
    partial.replace(file)
    return Kept(**record)
