"""How the weights and inputs behind the reference outputs in this folder are generated (numpy only)."""

import zlib

import numpy as np


def rng(*key: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32("/".join(key).encode())))


def fill(salt: str, arch: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor called `name` in torchvision's state_dict of `arch` (torch layout: OIHW, [out, in])."""
    g = rng(salt, arch, name)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros((), np.int64)
    if leaf == "running_mean":
        return (0.1 * g.standard_normal(shape)).astype(np.float32)
    if leaf == "running_var":
        return g.uniform(0.5, 1.5, shape).astype(np.float32)
    if leaf == "bias":
        return (0.1 * g.standard_normal(shape)).astype(np.float32)
    if len(shape) == 1:  # BatchNorm scale
        return g.uniform(0.3, 0.7, shape).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    return (g.standard_normal(shape) * np.sqrt(2.0 / fan_in)).astype(np.float32)


def images(salt: str, arch: str, tag: str, n: int, h: int, w: int) -> np.ndarray:
    """[n, h, w, 3] float32, already normalised: feed to the network as they are."""
    return rng(salt, arch, tag).standard_normal((n, h, w, 3)).astype(np.float32)


def labels(salt: str, arch: str, tag: str, n: int, classes: int) -> np.ndarray:
    return rng(salt, arch, tag).integers(0, classes, n)


def softmax_attention(salt: str, arch: str, tap: str, channels: int) -> np.ndarray:
    """The attention used in the `attention` trajectory: softmax of standard normal draws."""
    z = rng(salt, arch, "traj-attn", tap).standard_normal(channels).astype(np.float32)
    e = np.exp(z - z.max())
    return e / e.sum()
