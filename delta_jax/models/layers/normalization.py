"""Batch normalisation with torch's running statistics."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from delta_jax.models.layers.columns import apart, side_by_side


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize_batch(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Batch normalisation with the statistics of the batch, in float32 at least.

    The gradient is written by hand: two sums over the batch, then one pass over it. Differentiated step by step, XLA
    reads and writes the maps more often.

    Args:
      x: [..., C], or [..., n * C] with n columns side by side (`columns.py`), which share their statistics.
      scale: [C].
      bias: [C].
      epsilon: added to the variance.

    Returns:
      As x, and mean and biased variance [C], which carry no gradient.
    """
    y, mean, var, _ = _normalize_batch(x, scale, bias, epsilon)
    return y, mean, var


def _normalize_batch(x, scale, bias, epsilon):
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    channels = len(scale)
    count = x.size // channels
    mean = _sum(wide, channels) / count
    # E[x^2] - E[x]^2 needs one pass over x, but cancels; activations before a BatchNorm are centred well enough
    # for the golden running statistics to hold, and flax computes it this way as well.
    var = jnp.maximum(_sum(lax.square(wide), channels) / count - lax.square(mean), 0.0)
    inverse = lax.rsqrt(var + epsilon)
    factor = scale.astype(wide.dtype) * inverse
    return _affine(wide, factor, bias.astype(wide.dtype) - mean * factor), mean, var, inverse


def _sum(x: jax.Array, channels: int) -> jax.Array:
    """[..., n * C] -> [C]."""
    total = jnp.sum(x, tuple(range(x.ndim - 1)))
    return total if len(total) == channels else jnp.sum(total.reshape(-1, channels), 0)


def _along(v: jax.Array, x: jax.Array) -> jax.Array:
    """[C] -> what can be combined with x [..., n * C]."""
    n = x.shape[-1] // len(v)
    return jnp.expand_dims(v if n == 1 else jnp.tile(v, n), tuple(range(x.ndim - 1)))


def _affine(x: jax.Array, factor: jax.Array, offset: jax.Array) -> jax.Array:
    return x * _along(factor, x) + _along(offset, x)


def _normalize_batch_forward(x, scale, bias, epsilon):
    y, mean, var, inverse = _normalize_batch(x, scale, bias, epsilon)
    return (y, mean, var), (x, scale, bias, mean, inverse)


def _normalize_batch_backward(epsilon, residuals, cotangents):
    x, scale, bias, mean, inverse = residuals
    wide, g = x.astype(mean.dtype), cotangents[0].astype(mean.dtype)
    channels = len(scale)
    count = x.size // channels
    d_bias = _sum(g, channels)
    d_scale = _sum(g * (wide - _along(mean, wide)), channels) * inverse
    # scale / std * (g - mean(g) - x_hat * mean(g * x_hat)), sorted by g, x and neither.
    of_g = scale.astype(mean.dtype) * inverse
    of_x = -of_g * inverse * d_scale / count
    rest = -of_g * d_bias / count - of_x * mean
    d_x = _affine(g, of_g, rest) + wide * _along(of_x, wide)
    return d_x.astype(x.dtype), d_scale.astype(scale.dtype), d_bias.astype(bias.dtype)


normalize_batch.defvjp(_normalize_batch_forward, _normalize_batch_backward)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, as torch does it.

    Differs from `flax.linen.BatchNorm` in two things: the running variance follows the unbiased batch variance (n - 1),
    so statistics continue where torch left them, and `frozen` normalises with the running statistics in training, too.
    Under `jit` with a sharded batch the statistics are those of the global batch.

    Attributes:
      momentum: share of the old running statistics that is kept; torch's momentum 0.1 is 0.9 here.
      epsilon: added to the variance.
      frozen: use the running statistics always and leave them alone.
      columns, evens_first: of the input that are computed side by side, see `columns.py`; they divide the width.
      dtype: of the output; None takes that of the inputs. Statistics are computed in float32 at least.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    frozen: bool = False
    columns: int = 1
    evens_first: bool = False
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
        count = x.size // x.shape[-1]
        if self.columns > 1:
            x = side_by_side(x, self.columns, evens_first=self.evens_first)
        if train and not self.frozen and not self.is_initializing():
            y, batch_mean, batch_var = normalize_batch(x, scale, bias, self.epsilon)
            keep, unbiased = self.momentum, count / max(count - 1, 1)
            mean.value = keep * mean.value + (1 - keep) * batch_mean.astype(mean.value.dtype)
            var.value = keep * var.value + (1 - keep) * unbiased * batch_var.astype(var.value.dtype)
        else:
            wide_dtype = np.promote_types(x.dtype, np.float32)
            factor = scale * lax.rsqrt(var.value + self.epsilon).astype(scale.dtype)
            offset = bias - mean.value.astype(scale.dtype) * factor
            y = _affine(x.astype(wide_dtype), factor.astype(wide_dtype), offset.astype(wide_dtype))
        y = y.astype(out_dtype)
        return apart(y, self.columns, evens_first=self.evens_first) if self.columns > 1 else y
