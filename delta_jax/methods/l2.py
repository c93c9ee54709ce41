"""L2: plain fine-tuning."""

from dataclasses import dataclass

from delta_jax.methods.method import Method


@dataclass(frozen=True)
class L2(Method):
    """Plain fine-tuning with weight decay on every parameter."""

    decays_weights = True
    penalizes_head = False
    default_alpha = 0.0
