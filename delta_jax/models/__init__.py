"""Networks as pure Flax Linen modules: variables in, logits out."""

from delta_jax.models.adapter import adapt
from delta_jax.models.checks import check, check_head, module_path
from delta_jax.models.elsewhere import Elsewhere, like, lookalikes, mentioned_elsewhere, named_elsewhere
from delta_jax.models.layers.memory import keep_products_and_sums
from delta_jax.models.layers.stochastic_norm import stochastic_norm
from delta_jax.models.model_spec import ModelSpec
from delta_jax.models.registry import create, names, register, spec

__all__ = [
    "Elsewhere",
    "ModelSpec",
    "adapt",
    "check",
    "check_head",
    "create",
    "keep_products_and_sums",
    "like",
    "lookalikes",
    "mentioned_elsewhere",
    "module_path",
    "named_elsewhere",
    "names",
    "register",
    "spec",
    "stochastic_norm",
]
