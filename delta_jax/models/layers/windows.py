"""Windows of feature maps, with torch's explicit padding: what convolution and pooling are made of on CPUs."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]]  # ((top, bottom), (left, right))


def same_padding(size: Sequence[int], kernel_size: int, stride: int) -> Padding:
    """TensorFlow's SAME padding of an input [height, width]: the odd pixel goes to the bottom and the right."""

    def one(n: int) -> tuple[int, int]:
        total = max((-(-n // stride) - 1) * stride + kernel_size - n, 0)
        return total // 2, total - total // 2

    return one(size[0]), one(size[1])


def padded_alike(size: int, other: int) -> bool:
    """Whether TensorFlow's SAME padding is the same in networks on images of these two sizes, in pixels.

    It differs where the map in front of one of five halvings is odd for one of them alone.
    """

    def odd(size: int) -> list[bool]:
        sizes = [size]
        for _ in range(4):
            sizes.append(-(-sizes[-1] // 2))
        return [size % 2 == 1 for size in sizes]

    return odd(size) == odd(other)


def windows(x: jax.Array, kernel_hw: tuple[int, int], stride: int, padding: Padding, edge: float | jax.Array = 0):
    """The kernel_h * kernel_w shifted, strided views of padded x [..., H, W, C]: pairs ((i, j), [..., H', W', C]).

    Beyond the edges lie values `edge`.
    """
    x = jnp.pad(x, ((0, 0),) * (x.ndim - 3) + (*padding, (0, 0)), constant_values=edge)
    height, width = x.shape[-3], x.shape[-2]
    out_h, out_w = (height - kernel_hw[0]) // stride + 1, (width - kernel_hw[1]) // stride + 1
    for i in range(kernel_hw[0]):
        for j in range(kernel_hw[1]):
            rows = lax.slice_in_dim(x, i, i + (out_h - 1) * stride + 1, stride, x.ndim - 3)
            yield (i, j), lax.slice_in_dim(rows, j, j + (out_w - 1) * stride + 1, stride, x.ndim - 2)
