"""Networks as pure Flax Linen modules: variables in, logits out."""

from delta_jax.models.registry import create, names, spec
from delta_jax.models.spec import ModelSpec

__all__ = ["ModelSpec", "create", "names", "spec"]
