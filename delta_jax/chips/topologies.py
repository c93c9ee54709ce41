"""Compilers for TPUs and GPUs that are not here, by names such as v5e:4x4 and h100x8."""

import difflib
import importlib.util
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from delta_jax.chips.figures import CHIPS, Chip
from delta_jax.chips.target import Target, compiling_for

# What XLA asks a GPU when one is there: published figures, in the fields of XLA's GpuTargetConfigProto.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  core_count: 132 fpus_per_core: 128 registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84978434048
  cuda_compute_capability { major: 9 minor: 0 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
# Tried out on a GPU: without one, the compiler stops at the first thing that it would like to time.
_NO_AUTOTUNING = "--xla_gpu_autotune_level=0"

# {generation: the longest sides of a slice that can be had}; names are judged here, before libtpu is asked.
_TPUS = {
    "v3": (16, 16),
    "v4": (16, 16, 16),
    "v5e": (16, 16),
    "v5p": (16, 20, 28),
    "v6e": (16, 16),
    "tpu7x": (16, 24, 24),
}
_CHIPS_OF_A_HOST = (2, 2, 1)
EXAMPLES = (
    *("v5e:1x1", "v5e:4x4", "v5e:16x16", "v5e:2x2", "v6e:4x4", "v5p:4x4x4", "v5p:2x2x1", "v4:2x2x1", "v3:2x2"),
    *("tpu7x:2x2x1", "h100x1", "h100x8"),
)
_INSTALL = "pip install 'delta_jax[aot]'"


class TopologyError(ValueError):
    """No compiler for such chips."""


@dataclass(frozen=True)
class Topology:
    """Devices to compile for.

    Attributes:
      name: as given.
      platform: "tpu", "cuda", or "cpu" for the stand-in.
      devices: for a mesh; nothing can be put on those that are not here.
      chip: published figures of one device.
    """

    name: str
    platform: str
    devices: tuple[Any, ...]
    chip: Chip

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Inside, programs are traced for these devices."""
        with compiling_for(Target(self.platform, int(self.chip.memory))):
            yield

    def lower(self, function: Any, *arguments: Any) -> Any:
        """A jitted function lowered for these devices; its arguments are shapes with shardings on them."""
        with self.compiling():
            return function.trace(*arguments).lower(lowering_platforms=(self.platform,))

    def compile(self, function: Any, *arguments: Any) -> Any:
        """The compiled program of a jitted function; see `lower`."""
        return self.lower(function, *arguments).compile()


def find(name: str) -> Topology:
    """The devices called `name`: TPUs as v5e:4x4 or v5p:2x2x1, GPUs as h100x8; cpu:4 for a stand-in of CPU devices.

    Call it before the first compilation: GPUs need an XLA flag, and simulated CPU devices their number.

    Raises:
      TopologyError: there are no such chips, or their compiler is not installed.
    """
    if gpus := re.fullmatch(r"h100x([1-9]\d*)", name):
        return _gpus(name, int(gpus[1]))
    if cpus := re.fullmatch(r"cpu:([1-9]\d*)", name):
        return _cpus(name, int(cpus[1]))
    return _tpus(name, *_generation_and_sides(name))


def _generation_and_sides(name: str) -> tuple[str, tuple[int, ...]]:
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if not found or found[1] not in _TPUS:
        close = difflib.get_close_matches(name.lower(), EXAMPLES, n=2, cutoff=0.5)
        meant = f"did you mean {' or '.join(close)}? " if close else ""
        raise TopologyError(f"no chips called {name!r}; {meant}Some that there are: {', '.join(EXAMPLES)}")
    generation, sides = found[1], tuple(map(int, found[2].split("x")))
    longest = _TPUS[generation]
    shape = f"{len(longest)} sides, at most {'x'.join(map(str, longest))}"
    if len(sides) != len(longest) or any(not 1 <= n <= most for n, most in zip(sides, longest, strict=True)):
        raise TopologyError(f"{name}: a slice of {generation} has {shape}; such as {_example(generation)}")
    if math.prod(sides) > 1 and any(n % of for n, of in zip(sides, _CHIPS_OF_A_HOST, strict=False)):
        one = "x".join("1" * len(longest))
        raise TopologyError(
            f"{name}: hosts have 2x2 chips, so the first two sides are even; such as {_example(generation)}, or "
            f"{generation}:{one} for a single chip"
        )
    return generation, sides


def _example(generation: str) -> str:
    return next(one for one in reversed(EXAMPLES) if one.startswith(f"{generation}:"))


def _tpus(name: str, generation: str, sides: tuple[int, ...]) -> Topology:
    from jax.experimental import topologies

    if importlib.util.find_spec("libtpu") is None:
        raise TopologyError(f"{name}: the compiler for TPUs is not installed; {_INSTALL}, or 'jax[tpu]' of your jax")
    # Else libtpu asks a metadata server, and only one process of a machine may load it: here it drives no chip.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
    options: dict[str, Any] = {"chips_per_host_bounds": [1, 1, 1]} if math.prod(sides) == 1 else {}
    if generation == "v4":  # as jax runs there: the two cores of a chip are one device
        options["chip_config_name"] = "megacore"
    try:
        devices: Any = topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except (RuntimeError, jax.errors.JaxRuntimeError) as error:
        raise TopologyError(f"no compiler for {name!r}: {error}") from error
    return Topology(name, "tpu", tuple(devices), CHIPS[devices[0].device_kind])


def _gpus(name: str, count: int) -> Topology:
    from jax.experimental import topologies

    if not any(map(importlib.util.find_spec, ("jax_cuda13_plugin", "jax_cuda12_plugin"))):
        raise TopologyError(
            f"{name}: the compiler for GPUs is not installed; {_INSTALL}, or jax-cuda13-plugin and jax-cuda13-pjrt of "
            "your jax's version"
        )
    if not _finds_ptxas():
        raise TopologyError(
            f"{name}: no ptxas, which the compiler for GPUs calls; install CUDA 13, or pip install nvidia-cuda-nvcc"
        )
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_gpu_autotune_level" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_NO_AUTOTUNING}".strip()
    try:
        devices: Any = topologies.get_topology_desc(
            platform="cuda", topology_name="h100", target_config=_H100, topology=f"1x1x{count}"
        ).devices
    except (NotImplementedError, RuntimeError, jax.errors.JaxRuntimeError) as error:
        raise TopologyError(f"no compiler for {name!r}: {error}") from error
    return Topology(name, "cuda", tuple(devices), CHIPS[devices[0].device_kind])


def _finds_ptxas() -> bool:
    """Where XLA looks for it, too."""
    folders = [Path(home) / "bin" for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home]
    packages = importlib.util.find_spec("nvidia")
    roots = packages.submodule_search_locations if packages else None
    folders += [found.parent for root in roots or () for found in Path(root).glob("*/bin/ptxas")]
    return bool(shutil.which("ptxas")) or any((folder / "ptxas").exists() for folder in folders)


def _cpus(name: str, count: int) -> Topology:
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with suppress(RuntimeError):  # refused after jax has started, with as many devices as it has
            jax.config.update("jax_num_cpu_devices", count)
    there = jax.devices("cpu")
    if len(there) < count:
        raise TopologyError(f"{name}: this process has {len(there)} CPU devices already, expected {count}")
    return Topology(name, "cpu", tuple(there[:count]), CHIPS["cpu"])
