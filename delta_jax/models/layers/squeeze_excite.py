"""Squeeze and excitation (Hu et al., CVPR 2018): channels weighed by what the whole map holds."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from delta_jax.models.layers.convolution import Conv


class SqueezeExcite(nn.Module):
    """Means over the map, two 1x1 convolutions with a bias, and a factor per channel; children reduce and expand.

    Attributes:
      features: of the first convolution.
      activation: behind it.
      gate: behind the second one, to [0, 1].
      dtype: of the computation; None takes that of the inputs.
    """

    features: int
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    gate: Callable[[jax.Array], jax.Array] = nn.sigmoid
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, C]."""
        y = jnp.mean(x, axis=(1, 2), keepdims=True)
        y = self.activation(Conv(self.features, 1, use_bias=True, dtype=self.dtype, name="reduce")(y))
        y = Conv(x.shape[-1], 1, use_bias=True, dtype=self.dtype, name="expand")(y)
        return x * self.gate(y)
