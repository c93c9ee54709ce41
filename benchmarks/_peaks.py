"""The most that a chip can compute: published for accelerators, measured for CPUs."""

import re
import time

import jax
import jax.numpy as jnp

# Dense matrix products, FLOP/s of one chip: in bfloat16, and in float32 as jax computes it where nothing is set (TF32
# on NVIDIA GPUs since the A100, bfloat16 on TPUs). NVIDIA prints figures with sparsity for some: those are halved.
#   H100, H200 (SXM): nvidia.com/en-us/data-center/h100 and /h200: 1,979 with sparsity, TF32 989 with sparsity
#   H100 PCIe: the same data sheet: 1,513 and 756 with sparsity
#   A100: nvidia.com/en-us/data-center/a100: 312, TF32 156
#   L4: nvidia.com/en-us/data-center/l4: 242 and 120 with sparsity
#   V100 (SXM2): NVIDIA V100 data sheet: 125 (float16; it has no bfloat16), float32 15.7
#   TPUs: cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e: 275, 197, 459, 918
# By a pattern that jax's device_kind contains; the first that fits counts.
PUBLISHED: tuple[tuple[str, dict[str, float]], ...] = (
    (r"H100 PCIe", {"bfloat16": 756.5e12, "float32": 378e12}),
    (r"H[12]00\b", {"bfloat16": 989.4e12, "float32": 494.7e12}),
    (r"A100\b", {"bfloat16": 312e12, "float32": 156e12}),
    (r"V100\b", {"bfloat16": 125e12, "float32": 15.7e12}),
    (r"\bL4\b", {"bfloat16": 121e12, "float32": 60e12}),
    (r"TPU v4\b", {"bfloat16": 275e12, "float32": 275e12}),
    (r"TPU v5 ?(lite|e)\b", {"bfloat16": 197e12, "float32": 197e12}),
    (r"TPU v5p?\b", {"bfloat16": 459e12, "float32": 459e12}),
    (r"TPU v6 ?(lite|e)\b", {"bfloat16": 918e12, "float32": 918e12}),
)


def published(device_kind: str, dtype: str) -> float | None:
    """FLOP/s of one chip, None for a kind that is not in the table."""
    for pattern, peaks in PUBLISHED:
        if re.search(pattern, device_kind):
            return peaks[dtype]
    return None


def measured(dtype: str, size: int = 3072, repeats: int = 5) -> float:
    """FLOP/s of the fastest of a few products of two square matrices, with all cores of the process."""
    x = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a, b: a @ b).lower(x, x).compile()
    product(x, x).block_until_ready()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        product(x, x).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)


def peak(dtype: str) -> tuple[float | None, str]:
    """(FLOP/s of the first device, where the number is from)."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return measured(dtype), f"a matrix product in {dtype}, measured"
    return published(device.device_kind, dtype), f"published for {device.device_kind}"
