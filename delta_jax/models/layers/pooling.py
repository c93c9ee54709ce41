"""Pooling with torch's padding; of max pooling a gradient that is quick on a CPU."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from delta_jax.models.layers.columns import apart, side_by_side, wide_kernel
from delta_jax.models.layers.functional_convolution import DIMENSIONS
from delta_jax.models.layers.windows import Padding, windows


def average_pool(x: jax.Array, size: int, stride: int, edge: int = 0) -> jax.Array:
    """Mean over size x size windows of x [B, H, W, C]; the zeros of the edge count, as in torch."""
    # flax's nn.avg_pool divides by an integer array, which strict dtype promotion refuses.
    return nn.pool(x, 0.0, lax.add, (size, size), (stride, stride), ((edge, edge), (edge, edge))) / size**2


def average_pool_to_edge(x: jax.Array, size: int, stride: int) -> jax.Array:
    """Mean over size x size windows of x [B, H, W, C]; the last ones may reach beyond the map: of what is in them.

    torch's ceil_mode=True, count_include_pad=False.
    """
    height, width = ((-(n - size) % stride) for n in x.shape[1:3])
    padding = ((0, height), (0, width))
    counts = nn.pool(jnp.ones((1, *x.shape[1:3], 1), x.dtype), 0.0, lax.add, (size, size), (stride, stride), padding)
    return nn.pool(x, 0.0, lax.add, (size, size), (stride, stride), padding) / counts


def adaptive_average_pool(x: jax.Array, size: int) -> jax.Array:
    """[B, H, W, C] -> [B, size, size, C]: means over size x size windows that cover the map, as torch divides it."""
    for axis in (1, 2):
        n = x.shape[axis]
        if n != size:
            ends = [(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
            x = jnp.concatenate(
                [jnp.mean(lax.slice_in_dim(x, *end, axis=axis), axis, keepdims=True) for end in ends], axis
            )
    return x


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(x: jax.Array, size: int, stride: int, padding: Padding) -> jax.Array:
    """The largest value of each size x size window: x [B, H, W, C] -> [B, H', W', C].

    Its gradient goes to the first of equal values, row by row, as torch has it.
    """
    return nn.max_pool(x, (size, size), (stride, stride), padding)


def _forward(x, size, stride, padding):
    y = nn.max_pool(x, (size, size), (stride, stride), padding)
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


def max_pool_side_by_side(x: jax.Array, columns: int) -> jax.Array:
    """`max_pool` of 3 x 3 windows with stride 2 and padding 1, computed with columns side by side (`columns.py`).

    First down the rows, then across: of equal values the gradient goes to the first one column by column.

    Args:
      x: [B, H, W, C].
      columns: of the input, even ones first; of the output half as many. An even divisor of W.
    """
    wide = side_by_side(x, columns, evens_first=True)
    tallest = nn.max_pool(wide, (3, 1), (2, 1), ((1, 1), (0, 0)))
    return apart(_across(tallest, columns), columns // 2)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _across(x: jax.Array, columns: int) -> jax.Array:
    """[B, H, W, columns * C], even columns first -> [B, H, W, columns / 2 * C]."""
    left, middle, right = _three_columns(x, columns)
    return jnp.maximum(jnp.maximum(left, middle), right)


def _three_columns(x: jax.Array, columns: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of every other column, the one on its left, itself, and the one on its right."""
    evens, odds = jnp.split(x, 2, axis=-1)
    left = _shifted(odds, columns // 2, to_right=True)
    channels = x.shape[-1] // columns
    at_edge = np.zeros((x.shape[2], evens.shape[-1]), bool)
    at_edge[0, :channels] = True
    return jnp.where(at_edge, jnp.array(-jnp.inf, x.dtype), left), evens, odds


def _shifted(x: jax.Array, columns: int, *, to_right: bool) -> jax.Array:
    """[B, H, W, columns * C] with each column one place further, and zeros at the edge.

    A convolution with ones and zeros, exact: a TPU's matrix unit moves lanes quicker than slices of them are copied.
    """
    channels = x.shape[-1] // columns
    one, none = jnp.eye(channels, dtype=x.dtype), jnp.zeros((channels, channels), x.dtype)
    taps, padding = ([one, none], (1, 0)) if to_right else ([none, one], (0, 1))
    kernel, around = wide_kernel(jnp.stack(taps)[None], 1, padding, columns)
    return lax.conv_general_dilated(
        x, kernel, (1, 1), ((0, 0), around), dimension_numbers=DIMENSIONS, precision=lax.Precision.HIGHEST
    )


def _across_forward(x, columns):
    y = _across(x, columns)
    return y, (x, y)


def _across_backward(columns, residuals, cotangent):
    x, y = residuals
    left, middle, _ = _three_columns(x, columns)
    nothing = jnp.zeros((), cotangent.dtype)
    to_left = left == y
    to_middle = (middle == y) & ~to_left
    d_middle = jnp.where(to_middle, cotangent, nothing)
    d_right = jnp.where(to_left | to_middle, nothing, cotangent)
    d_left = _shifted(jnp.where(to_left, cotangent, nothing), columns // 2, to_right=False)
    return (jnp.concatenate([d_middle, d_right + d_left], -1),)


_across.defvjp(_across_forward, _across_backward)
