"""Networks as pure Flax Linen modules: variables in, logits out."""

from delta_jax.models.registry import ModelSpec, create, names, spec

__all__ = ["ModelSpec", "create", "names", "spec"]
