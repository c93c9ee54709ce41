"""The device that a program is traced for: the one that is here, unless it is compiled for another."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import jax


@dataclass(frozen=True)
class Target:
    """What a program may depend on while it is traced.

    Attributes:
      platform: "cpu", "tpu" or "cuda".
      memory: bytes of one device; None where the platform does not say.
    """

    platform: str
    memory: int | None


# Part of the key under which jit keeps its traces: a program for another device is never taken for one for this.
_elsewhere = jax.make_user_context(None)


@contextmanager
def compiling_for(target: Target) -> Iterator[None]:
    """Programs that are traced inside are for this device; `current` says so."""
    with _elsewhere(target):
        yield


def current() -> Target:
    """That of `compiling_for`, or else the first device of this process."""
    given = _elsewhere.value
    if given is not None:
        return given
    platform = jax.default_backend()
    memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return Target("cuda" if platform == "gpu" else platform, memory)
