"""Published figures of chips, for one device as jax counts them."""

import math
from dataclasses import dataclass

_GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
      name: for tables.
      flops: per second, bfloat16, dense.
      memory: bytes that a program can have: of the published memory, what runtime and compiler leave.
      bandwidth: of the memory, bytes per second.
      clock: of the matrix unit, Hz: what the compiler's cycles are of; None where it counts none.
      devices_per_chip: TPUs whose chips have two cores that are not joined count as two devices.
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    clock: float | None
    devices_per_chip: int = 1


# By `device_kind`; of a chip that is two devices, half of what is published for it.
#
# Peak and bandwidth: cloud.google.com/tpu/docs/v3, /v4, /v5e, /v5p, /v6e, /tpu7x. Memory: what libtpu 0.0.42 names
# as available when a program needs more; published are 16 (v3, a core), 32, 16, 95, 32 and 96 (TPU7x, a core) GiB.
# Clock: v3 Norrie et al., IEEE Micro 2021; v4 Jouppi et al., ISCA 2023; v5e and v5p jax-ml.github.io/scaling-book,
# "How to Think About TPUs"; v6e and TPU7x are not published: the peak over the 2 * 4 * 256 * 256 operations of a cycle,
# of which the compiler's cycles of a product of 8,192 square come to 0.70 and 0.80 (0.88 to 0.97 on the others).
#
# H100 SXM: nvidia.com/en-us/data-center/h100. Of its memory, 84,978,434,048 bytes as XLA has it, jax takes three
# quarters, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
CHIPS = {
    "TPU v3": Chip("TPU v3", 61.5e12, 15.48 * _GIB, 450e9, 0.94e9, 2),
    "TPU v4": Chip("TPU v4", 275e12, 30.75 * _GIB, 1228e9, 1.05e9),
    "TPU v5 lite": Chip("TPU v5e", 197e12, 15.75 * _GIB, 819e9, 1.5e9),
    "TPU v5": Chip("TPU v5p", 459e12, 95.74 * _GIB, 2765e9, 1.75e9),
    "TPU v6 lite": Chip("TPU v6e", 918e12, 31.25 * _GIB, 1640e9, 1.75e9),
    "TPU7x": Chip("TPU7x", 1153.5e12, 94.75 * _GIB, 3690e9, 2.2e9, 2),
    "NVIDIA H100 80GB HBM3": Chip("H100", 989e12, 0.75 * 84_978_434_048, 3.35e12, None),
    # A stand-in, for tests and for those without a compiler: as much memory as anything needs, and no speed is known.
    "cpu": Chip("CPU (simulated)", math.inf, 2**50, math.inf, None),
}
