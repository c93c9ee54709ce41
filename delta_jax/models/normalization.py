"""Batch normalisation with torch's running statistics."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, as torch does it.

    Differs from `flax.linen.BatchNorm` in two things: the running variance follows the unbiased batch variance (n - 1),
    so statistics continue where torch left them, and `frozen` normalises with the running statistics in training, too.
    Under `jit` with a sharded batch the statistics are those of the global batch.

    Attributes:
      momentum: share of the old running statistics that is kept; torch's momentum 0.1 is 0.9 here.
      epsilon: added to the variance.
      frozen: use the running statistics always and leave them alone.
      dtype: of the output; None takes that of the inputs. Statistics are computed in float32 at least.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    frozen: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[..., C] -> [..., C]; updates `batch_stats` (mean, var) when training and not frozen."""
        features = (x.shape[-1],)
        mean = self.variable("batch_stats", "mean", jnp.zeros, features, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, features, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, features, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, features, jnp.float32)
        out_dtype = self.dtype or x.dtype
        if train and not self.frozen and not self.is_initializing():
            axes = tuple(range(x.ndim - 1))
            wide = x.astype(np.promote_types(x.dtype, np.float32))
            batch_mean = jnp.mean(wide, axes)
            # E[x^2] - E[x]^2 needs one pass over x, but cancels; activations before a BatchNorm are centred well enough
            # for the golden running statistics to hold, and flax computes it this way as well.
            batch_var = jnp.maximum(jnp.mean(lax.square(wide), axes) - lax.square(batch_mean), 0.0)
            count = x.size // x.shape[-1]
            keep, unbiased = self.momentum, count / max(count - 1, 1)
            mean.value = keep * mean.value + (1 - keep) * batch_mean.astype(mean.value.dtype)
            var.value = keep * var.value + (1 - keep) * unbiased * batch_var.astype(var.value.dtype)
        else:
            batch_mean, batch_var = mean.value, var.value
        factor = scale * lax.rsqrt(batch_var + self.epsilon).astype(scale.dtype)
        offset = bias - batch_mean.astype(scale.dtype) * factor
        wide_dtype = np.promote_types(x.dtype, np.float32)
        factor, offset = (jnp.expand_dims(v.astype(wide_dtype), tuple(range(x.ndim - 1))) for v in (factor, offset))
        return (x.astype(wide_dtype) * factor + offset).astype(out_dtype)
