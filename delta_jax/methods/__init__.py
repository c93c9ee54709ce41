"""The fine-tuning methods that are compared: a file each, with the equation, and a line in the registry below.

The loss of every method is  CE + alpha * penalty + beta * 1/2 ||head||^2;  cross-entropy and penalties per example are
averaged over the batch. docs/methods.md has them side by side.
"""

import dataclasses
import difflib
from typing import Any

from delta_jax.methods.afd import AttentiveFeatureDistillation
from delta_jax.methods.attention_transfer import AttentionTransfer
from delta_jax.methods.bi_tuning import BiTuning
from delta_jax.methods.bss import BatchSpectralShrinkage
from delta_jax.methods.co_tuning import CoTuning
from delta_jax.methods.delta import Delta, DeltaWithoutAttention
from delta_jax.methods.delta_cosine import DeltaCosine
from delta_jax.methods.l2 import L2
from delta_jax.methods.l2_fe import L2FE
from delta_jax.methods.l2_sp import L2SP, L2SPKernels
from delta_jax.methods.l2_sp_fisher import L2SPFisher
from delta_jax.methods.lwf import LwF
from delta_jax.methods.mars_sp import MarsSP
from delta_jax.methods.method import Method, Seen, Shapes

__all__ = [
    "L2",
    "L2FE",
    "L2SP",
    "AttentionTransfer",
    "AttentiveFeatureDistillation",
    "BatchSpectralShrinkage",
    "BiTuning",
    "CoTuning",
    "Delta",
    "DeltaCosine",
    "DeltaWithoutAttention",
    "L2SPFisher",
    "L2SPKernels",
    "LwF",
    "MarsSP",
    "Method",
    "Seen",
    "Shapes",
    "create",
    "names",
    "options",
]

_METHODS: dict[str, type[Method]] = {
    "l2_fe": L2FE,
    "l2": L2,
    "l2_sp": L2SP,
    "delta_without_attention": DeltaWithoutAttention,
    "delta": Delta,
    "l2_sp_kernels": L2SPKernels,
    "l2_sp_fisher": L2SPFisher,
    "mars_sp": MarsSP,
    "bss": BatchSpectralShrinkage,
    "attention_transfer": AttentionTransfer,
    "afd": AttentiveFeatureDistillation,
    "delta_cosine": DeltaCosine,
    "lwf": LwF,
    "co_tuning": CoTuning,
    "bi_tuning": BiTuning,
}


def names() -> tuple[str, ...]:
    """Names of all methods."""
    return tuple(_METHODS)


def options(name: str) -> tuple[str, ...]:
    """Fields of the config that the method reads, or another one of its kind, and no other method."""
    return tuple(field.name for field in dataclasses.fields(_class(name)) if field.name not in ("scale", "rectify"))


def create(name: str, *, scale: str = "paper", rectify: bool = True, **fields: Any) -> Method:
    """The method `name`; ValueError with the known names when there is none.

    Args:
      name: one of `names`.
      scale, rectify: see `Method`.
      **fields: those of `options(name)`; each has a default.
    """
    return _class(name)(scale=scale, rectify=rectify, **fields)


def _class(name: str) -> type[Method]:
    if name not in _METHODS:
        close = difflib.get_close_matches(name, _METHODS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(f"no method called {name!r}; {hint}Known: {', '.join(_METHODS)}")
    return _METHODS[name]
