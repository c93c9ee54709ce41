"""Networks as pure Flax Linen modules: variables in, logits out."""

from delta_jax.models.adapter import adapt
from delta_jax.models.checks import check
from delta_jax.models.registry import create, names, register, spec
from delta_jax.models.model_spec import ModelSpec

__all__ = ["ModelSpec", "adapt", "check", "create", "names", "register", "spec"]
