"""L2-FE: the source network as fixed feature extractor."""

from dataclasses import dataclass

from delta_jax.methods.method import Method


@dataclass(frozen=True)
class L2FE(Method):
    """The source network as fixed feature extractor: only the head is trained."""

    trains_backbone = False
    default_alpha = 0.0
