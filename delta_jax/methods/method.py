"""What every fine-tuning method says of itself: what it trains, which penalties it adds, what it needs for that."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

Maps = Mapping[str, jax.Array]
Head = str | Sequence[str]  # module path of the classifier, or of several


@dataclass(frozen=True)
class Method:
    """A method adds up to one penalty per example and one on the parameters.

    Attributes:
      scale: "paper" or "reference", see `regularizers.feature_distance`.
      rectify: feature maps pass a ReLU before they are compared (the paper, section 3.3).
    """

    scale: str = "paper"
    rectify: bool = True

    trains_backbone = True
    decays_weights = False  # weight decay on all parameters takes the place of the penalties
    penalizes_head = True
    uses_source_maps = False
    uses_attention = False

    def example_penalty(self, maps: Maps, source_maps: Maps, attention: Maps | None) -> jax.Array | None:
        """[B], or None where there is nothing to pay per example."""
        return None

    def parameter_penalty(self, params: Mapping[str, Any], source_params: Mapping[str, Any], head: Head) -> jax.Array:
        """A scalar."""
        return jnp.zeros((), jnp.float32)
