"""Published figures of chips, for one device as jax counts them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
      name: for tables.
      flops: per second, bfloat16, dense.
      memory: bytes.
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


# By `device_kind`. Per device; where a chip is two devices, half of what is published for the chip.
CHIPS = {
    "TPU v5 lite": Chip("TPU v5e", 197e12, 16e9, 819e9, 1.5e9),
    "TPU v5": Chip("TPU v5p", 459e12, 95e9, 2765e9, 1.75e9),
    "TPU v6 lite": Chip("TPU v6e", 918e12, 32e9, 1640e9, 1.75e9),
    "TPU v4": Chip("TPU v4", 137.5e12, 16e9, 614e9, 1.05e9, 2),
    "NVIDIA H100 80GB HBM3": Chip("H100", 989e12, 80e9, 3.35e12, None),
}
