"""Networks as pure Flax Linen modules: variables in, logits out."""

from delta_jax.models.model_spec import ModelSpec
from delta_jax.models.registry import create, names, spec

__all__ = ["ModelSpec", "create", "names", "spec"]
