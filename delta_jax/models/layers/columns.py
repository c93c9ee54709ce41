"""Neighbouring columns of feature maps, side by side in the channel axis: 64 channels then fill the 128 lanes of a TPU.

A TPU keeps the channels of a map in rows of 128 lanes. Maps of 64 channels leave half of each row empty, and the memory
of the chip, its bandwidth and its matrix unit are used by half. Two columns side by side fill the row:
[B, H, W, 64] is [B, H, W / 2, 128], a reshape. A convolution of such maps is one with a larger kernel, most of it
zeros, that the matrix unit takes no longer for. The numbers are the same; only sums over a batch are grouped otherwise.

Between two layers the maps always have their usual shape. What one layer undoes, the next one does again, and a
compiler drops both.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def side_by_side(x: jax.Array, columns: int, *, evens_first: bool = False) -> jax.Array:
    """[B, H, W, C] -> [B, H, W / columns, columns * C].

    Args:
      x: maps.
      columns: how many lie side by side; a divisor of W.
      evens_first: of each group the even columns in front of the odd ones, as a pooling with stride 2 wants them.
    """
    batch, height, width, channels = x.shape
    if evens_first and columns > 2:
        x = x.reshape(batch, height, width // columns, columns // 2, 2, channels).swapaxes(3, 4)
    return x.reshape(batch, height, width // columns, columns * channels)


def apart(x: jax.Array, columns: int, *, evens_first: bool = False) -> jax.Array:
    """[B, H, W, columns * C] -> [B, H, columns * W, C]: what `side_by_side` did, undone."""
    batch, height, width, channels = x.shape
    if evens_first and columns > 2:
        x = x.reshape(batch, height, width, 2, columns // 2, channels // columns).swapaxes(3, 4)
    return x.reshape(batch, height, columns * width, channels // columns)


def on_columns(
    function: Callable[..., jax.Array], columns: int, *, evens_first: bool = False
) -> Callable[..., jax.Array]:
    """An elementwise function of maps [B, H, W, C], computed with columns side by side."""
    if columns == 1:
        return function

    def run(*maps: jax.Array) -> jax.Array:
        beside = (side_by_side(one, columns, evens_first=evens_first) for one in maps)
        return apart(function(*beside), columns, evens_first=evens_first)

    return run


def wide_kernel(
    kernel: jax.Array, stride: int, padding: tuple[int, int], columns: int, *, evens_first: bool = False
) -> tuple[jax.Array, tuple[int, int]]:
    """The kernel of the same convolution on maps whose columns lie side by side, and its padding along the width.

    In comes a map with `columns` of them, out comes one with columns / stride; the stride along the width is 1 then,
    and the output as wide as the input by the stride, which is for `padding` to see to.

    Args:
      kernel: [h, w, C, features].
      stride: along the width; a divisor of `columns`.
      padding: left and right.
      columns: side by side in the input, in their order.
      evens_first: order of those of the output, see `side_by_side`.

    Returns:
      [h, w', columns * C, columns / stride * features], exactly the numbers of `kernel` and zeros; and (left, right).
    """
    height, width, channels, features = kernel.shape
    out = columns // stride
    # Column o of an output reads, with tap t, column o * stride + t - padding, counted from its first one.
    read = np.arange(out) * stride + np.arange(width)[:, None] - padding[0]  # [w, out]
    first, last = read.min() // columns, read.max() // columns
    place = np.zeros((width, last - first + 1, columns, out), bool)
    for (tap, column), position in np.ndenumerate(read):
        place[tap, position // columns - first, position % columns, column] = True
    if evens_first:
        place = place[..., [*range(0, out, 2), *range(1, out, 2)]]
    # A choice, not a product: on a TPU a product would round float32.
    spread = jnp.where(
        place[None, :, :, :, None, :, None], kernel[:, :, None, None, :, None, :], jnp.zeros((), kernel.dtype)
    )
    return (
        jnp.sum(spread, axis=1).reshape(height, last - first + 1, columns * channels, out * features),
        (-int(first), int(last)),
    )
