"""The fine-tuning methods that are compared: a file each, with the equation, and a line in the registry below.

The loss of every method is  CE + alpha * penalty + beta * 1/2 ||head||^2;  cross-entropy and penalties per example are
averaged over the batch.
"""

import difflib

from delta_jax.methods.delta import Delta, DeltaWithoutAttention
from delta_jax.methods.l2 import L2
from delta_jax.methods.l2_fe import L2FE
from delta_jax.methods.l2_sp import L2SP
from delta_jax.methods.method import Method

__all__ = ["L2", "L2FE", "L2SP", "Delta", "DeltaWithoutAttention", "Method", "create", "names"]

_METHODS: dict[str, type[Method]] = {
    "l2_fe": L2FE,
    "l2": L2,
    "l2_sp": L2SP,
    "delta_without_attention": DeltaWithoutAttention,
    "delta": Delta,
}


def names() -> tuple[str, ...]:
    """Names of all methods."""
    return tuple(_METHODS)


def create(name: str, *, scale: str = "paper", rectify: bool = True) -> Method:
    """The method `name`; ValueError with the known names when there is none."""
    if name not in _METHODS:
        close = difflib.get_close_matches(name, _METHODS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(f"no method called {name!r}; {hint}Known: {', '.join(_METHODS)}")
    return _METHODS[name](scale=scale, rectify=rectify)
