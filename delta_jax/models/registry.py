"""The networks by name."""

import difflib
from typing import Any

import flax.linen as nn

from delta_jax.models.model_spec import ModelSpec
from delta_jax.models.networks import NETWORKS

_SPECS = {spec.name: spec for spec in NETWORKS}


def names() -> tuple[str, ...]:
    """Names of all networks."""
    return tuple(_SPECS)


def spec(name: str) -> ModelSpec:
    """What is known about the network `name`; ValueError with the closest names when there is none."""
    if name not in _SPECS:
        close = difflib.get_close_matches(name, _SPECS, n=2) or sorted(_SPECS)
        raise ValueError(
            f"no network called {name!r}; did you mean {' or '.join(close)}? Known: {', '.join(sorted(_SPECS))}"
        )
    return _SPECS[name]


def create(
    name: str, *, num_classes: int = 1000, dropout: float = 0.0, frozen_norm: bool = False, dtype: Any = None
) -> nn.Module:
    """The Flax module of the network `name`.

    Args:
      name: a network of `names()`.
      num_classes: outputs of its head.
      dropout: rate in front of the head.
      frozen_norm: BatchNorm keeps to its running statistics in training.
      dtype: of the computation, e.g. jnp.bfloat16; parameters stay float32.

    Returns:
      A module called as `apply(variables, images [B, H, W, 3], train)` -> logits [B, num_classes].
    """
    found = spec(name)
    static = {"num_classes": num_classes, "dropout": dropout, "frozen_norm": frozen_norm, "dtype": dtype}
    return found.module(**found.arguments, **static)
