"""Compilers for TPUs and GPUs that are not here, by names such as v5e:4x4 and h100x8."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


class TopologyError(ValueError):
    """No compiler for such chips."""


@dataclass(frozen=True)
class Topology:
    """Devices to compile for.

    Attributes:
      name: as given.
      platform: "tpu" or "cuda".
      devices: for a mesh; nothing can be put on them.
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

    def compile(self, function: Any, *arguments: Any) -> Any:
        """The compiled program of a jitted function; its arguments are shapes with shardings on these devices."""
        with self.compiling():
            return function.trace(*arguments).lower(lowering_platforms=(self.platform,)).compile()


def find(name: str) -> Topology:
    """The devices called `name`: v5e:4x4, v5p:2x2x1 as jax names them, or h100x8.

    Raises:
      TopologyError: the compiler is not installed, or knows no such chips.
    """
    from jax.experimental import topologies

    # Else libtpu asks a metadata server, and only one process of a machine may load it: here it drives no chip.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
    try:
        if gpu := re.fullmatch(r"h100x(\d+)", name):
            found = topologies.get_topology_desc(
                platform="cuda", topology_name="h100", target_config=_H100, topology=f"1x1x{gpu[1]}"
            )
        else:
            found = topologies.get_topology_desc(platform="tpu", topology_name=name)
    except (RuntimeError, jax.errors.JaxRuntimeError) as error:
        raise TopologyError(f"no compiler for {name!r}: {error}") from error
    devices: tuple[Any, ...] = tuple(found.devices)
    return Topology(name, "cuda" if gpu else "tpu", devices, CHIPS[devices[0].device_kind])
