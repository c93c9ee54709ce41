"""Max pooling with torch's padding, and a gradient that is quick on a CPU."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from delta_jax.models.layers.windows import Padding, windows


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(x: jax.Array, size: int, stride: int, padding: Padding) -> jax.Array:
    """The largest value of each size x size window: x [B, H, W, C] -> [B, H', W', C].

    Its gradient goes to the first of equal values, row by row, as torch has it.
    """
    return nn.max_pool(x, (size, size), (stride, stride), padding)


def _forward(x, size, stride, padding):
    y = max_pool(x, size, stride, padding)
    return y, (x, y)


def _plain_gradient(x, y, cotangent, size: int, stride: int, padding: Padding):
    del y
    return jax.vjp(lambda x: nn.max_pool(x, (size, size), (stride, stride), padding), x)[1](cotangent)[0]


def _shifted_gradient(x, y, cotangent, size: int, stride: int, padding: Padding):
    """A sum of shifted views. XLA's own way on a CPU, which writes down where every value came from, takes longer."""
    height, width = (n + low + high for n, (low, high) in zip(x.shape[1:3], padding, strict=True))
    lowest, nothing = jnp.array(-jnp.inf, x.dtype), jnp.zeros((), x.dtype)
    total = jnp.zeros((x.shape[0], height, width, x.shape[3]), x.dtype)
    taken = jnp.zeros(y.shape, bool)
    for (i, j), view in windows(x, (size, size), stride, padding, lowest):
        here = (view == y) & ~taken
        taken |= here
        spread = [
            (start, whole - start - (n - 1) * stride - 1, stride - 1)
            for start, whole, n in zip((i, j), (height, width), y.shape[1:3], strict=True)
        ]
        total += lax.pad(jnp.where(here, cotangent, nothing), nothing, [(0, 0, 0), *spread, (0, 0, 0)])
    (top, _), (left, _) = padding
    return total[:, top : top + x.shape[1], left : left + x.shape[2]]


def _backward(size, stride, padding, residuals, cotangent):
    settings = {"size": size, "stride": stride, "padding": padding}
    on_cpu, default = partial(_shifted_gradient, **settings), partial(_plain_gradient, **settings)
    return (lax.platform_dependent(*residuals, cotangent, cpu=on_cpu, default=default),)


max_pool.defvjp(_forward, _backward)
