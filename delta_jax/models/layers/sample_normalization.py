"""Normalisation of each image by itself, the same in training and in evaluation: LayerNorm and GroupNorm as in torch.

flax's own refuse bfloat16 where promotion is strict.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def _normalized(x: jax.Array, axes: tuple[int, ...], epsilon: float) -> jax.Array:
    # Means of squares less squared means lose digits that torch keeps.
    centred = x - jnp.mean(x, axes, keepdims=True)
    return centred * lax.rsqrt(jnp.mean(lax.square(centred), axes, keepdims=True) + epsilon)


class _Norm(nn.Module):
    """Parameters scale and bias [C].

    Attributes:
      epsilon: added to the variance.
      dtype: of the output; None takes that of the inputs. Statistics are computed in float32 at least.
    """

    epsilon: float = 1e-5
    dtype: Any = None

    def _whitened(self, x: jax.Array) -> jax.Array:
        raise NotImplementedError

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> [..., C]."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        y = self._whitened(x.astype(np.promote_types(x.dtype, np.float32)))
        scale, bias = (jnp.expand_dims(v.astype(y.dtype), range(y.ndim - 1)) for v in (scale, bias))
        return (y * scale + bias).astype(self.dtype or x.dtype)


class LayerNorm(_Norm):
    """Normalisation over the channels of each position (Ba et al., 2016); parameters scale and bias [C]."""

    def _whitened(self, x: jax.Array) -> jax.Array:
        return _normalized(x, (-1,), self.epsilon)


class GroupNorm(_Norm):
    """Normalisation over all positions and the channels of a group (Wu & He, ECCV 2018); scale and bias [C].

    Attributes:
      groups: of neighbouring channels; a divisor of their number.
    """

    groups: int = 32

    def _whitened(self, x: jax.Array) -> jax.Array:
        grouped = x.reshape(x.shape[0], -1, self.groups, x.shape[-1] // self.groups)
        return _normalized(grouped, (1, 3), self.epsilon).reshape(x.shape)
