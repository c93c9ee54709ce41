"""Convolutions as functions, and what a CPU needs to be quick with them and their gradients.

XLA's CPU backend runs grouped convolutions one group at a time: a depthwise 3x3 layer of MobileNetV2 costs 88 ms
forward and 453 ms for its input gradient where nine shifted multiply-adds need 4 and 5 ms. Groups of
several channels are worse in training: the gradients of a layer of ResNeXt-50 (8 images, 56x56, 32 groups of 4) take 40
seconds, and 0.2 with eight groups in one kernel. On GPU and TPU the plain convolution stays.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from delta_jax.models.layers.windows import Padding, windows

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# Numbers that the kernels' gradients of convolutions work on at once: the caches of a core hold them.
DEPTHWISE_GROUP = 300_000
PATCHES_GROUP = 2_000_000
FEW_POSITIONS = 256  # of an output map
# Channels that the groups of a convolution are bundled to, and how many bundles there are at most: each is compiled.
BUNDLE, MOST_BUNDLES = 32, 8

# x [B, H, W, C], kernel [h, w, C / groups, features], stride, padding -> [B, H', W', features]
_Convolution = Callable[[jax.Array, jax.Array, int, Padding], jax.Array]


def depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """Depthwise convolution: x [B, H, W, C], kernel [h, w, 1, C] -> [B, H', W', C]."""
    return _depthwise(x, kernel, stride, padding)


def dense_conv(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """Convolution without groups: x [B, H, W, C], kernel [h, w, C, features] -> [B, H', W', features]."""
    positions = math.prod(
        (size + sum(edges) - k) // stride + 1
        for size, edges, k in zip(x.shape[1:3], padding, kernel.shape[:2], strict=True)
    )
    # XLA's own gradient is as fast with few positions, and quicker to trace and compile.
    return (_plain if positions < FEW_POSITIONS else _dense)(x, kernel, stride, padding)


def pointwise_conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """1x1 convolution: x [B, H, W, C], kernel [1, 1, C, features] -> [B, H', W', features].

    On a CPU a matrix product, in training 1.3 times as fast as the convolution. TPU compilers fuse the normalisation in
    front of a convolution into it, and the sums behind it, and give neighbours one layout; GPUs have cuDNN's.
    """
    return _pointwise(x, kernel, stride, ((0, 0), (0, 0)))


def grouped_conv(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """Convolution in groups: x [B, H, W, C], kernel [h, w, C / groups, features] -> [B, H', W', features]."""
    return _in_groups(x, kernel, stride, padding)


def _product(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    del padding
    return lax.dot_general(x[:, ::stride, ::stride], kernel[0, 0], (((3,), (0,)), ((), ())))


def _product_gradients(x, kernel, cotangent, stride: int, padding: Padding):
    del padding
    shape, x = x.shape, x[:, ::stride, ::stride]
    # Else XLA fuses what made them with their transposition, and transposes with strided loops: ten times slower.
    x, cotangent = lax.optimization_barrier(x), lax.optimization_barrier(cotangent)
    pixels, of_pixels = x.reshape(-1, x.shape[-1]), cotangent.reshape(-1, cotangent.shape[-1])
    d_kernel = lax.dot_general(pixels, of_pixels, (((0,), (0,)), ((), ())))
    d_x = lax.dot_general(of_pixels, kernel[0, 0], (((1,), (1,)), ((), ()))).reshape(x.shape)
    if stride > 1:
        behind = [size - (n - 1) * stride - 1 for size, n in zip(shape[1:3], x.shape[1:3], strict=True)]
        spread = [(0, 0, 0), *((0, rest, stride - 1) for rest in behind), (0, 0, 0)]
        d_x = lax.pad(d_x, jnp.zeros((), d_x.dtype), spread)
    return d_x, d_kernel[None, None]


def _with_gradients(forward: _Convolution, plain: _Convolution, on_cpu: Callable) -> _Convolution:
    """`forward` with gradients of its own on CPUs, and elsewhere those of `plain`.

    The choice by platform sits inside the custom gradient: differentiating through platform_dependent would keep the
    residuals of every platform's branch.

    Args:
      forward: a convolution.
      plain: the same one, as XLA has it.
      on_cpu: (x, kernel, cotangent, stride, padding) -> gradients of x and of the kernel.
    """
    found = jax.custom_vjp(forward, nondiff_argnums=(2, 3))

    def keep(x, kernel, stride, padding):
        return forward(x, kernel, stride, padding), (x, kernel)

    def backward(stride, padding, residuals, cotangent):
        def by_xla(x, kernel, cotangent):
            return jax.vjp(lambda x, kernel: plain(x, kernel, stride, padding), x, kernel)[1](cotangent)

        own = partial(on_cpu, stride=stride, padding=padding)
        return lax.platform_dependent(*residuals, cotangent, cpu=own, default=by_xla)

    found.defvjp(keep, backward)
    return found


def _grouped(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=DIMENSIONS,
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


def _plain(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=DIMENSIONS)


def _bundled(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """Several groups at once, with zeros in the kernel where one would read the channels of another."""
    channels, features = kernel.shape[2:]
    groups = x.shape[-1] // channels
    per_group = features // groups
    at_once = max(BUNDLE // channels, -(-groups // MOST_BUNDLES))
    parts = []
    for first in range(0, groups, at_once):
        n = min(at_once, groups - first)
        own = kernel[..., first * per_group : (first + n) * per_group].reshape(*kernel.shape[:3], n, per_group)
        same = np.eye(n, dtype=bool)[:, None, :, None]
        wide = jnp.where(same, own[:, :, None], jnp.zeros((), kernel.dtype))
        wide = wide.reshape(*kernel.shape[:2], n * channels, n * per_group)
        parts.append(_plain(x[..., first * channels : (first + n) * channels], wide, stride, padding))
    return jnp.concatenate(parts, axis=-1)


def _bundled_gradients(x, kernel, cotangent, stride: int, padding: Padding):
    return jax.vjp(lambda x, kernel: _bundled(x, kernel, stride, padding), x, kernel)[1](cotangent)


def _shifted_sum(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    hw = (kernel.shape[0], kernel.shape[1])
    wide = np.promote_types(x.dtype, np.float32)  # sums in bfloat16 would lose what a convolution keeps
    weights = jnp.expand_dims(kernel.astype(wide), tuple(range(2, x.ndim)))  # [h, w, 1, ..., 1, C]
    terms = [window.astype(wide) * weights[i, j] for (i, j), window in windows(x, hw, stride, padding)]
    return sum(terms[1:], terms[0]).astype(x.dtype)


def _by_platform(on_cpu: _Convolution, elsewhere: _Convolution) -> _Convolution:
    def convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
        return lax.platform_dependent(
            x,
            kernel,
            cpu=lambda x, kernel: on_cpu(x, kernel, stride, padding),
            default=lambda x, kernel: elsewhere(x, kernel, stride, padding),
        )

    return convolve


def _sum_over_groups(of_images, x: jax.Array, cotangent: jax.Array, *, size: int, most: int) -> jax.Array:
    """The sum of of_images(x, cotangent) over groups of images, one after the other so that a group fits in the cache.

    Args:
      of_images: some of the images of x and cotangent -> array.
      x, cotangent: [B, ...].
      size: numbers that one image takes.
      most: numbers that a group takes, if it is more than one image.
    """
    n = max(n for n in range(1, len(x) + 1) if len(x) % n == 0 and (n == 1 or n * size <= most))
    if n == len(x):
        return of_images(x, cotangent)
    groups = tuple(a.reshape(-1, n, *a.shape[1:]) for a in (x, cotangent))
    shape = jax.eval_shape(of_images, *(a[0] for a in groups))
    zeros = jnp.zeros(shape.shape, shape.dtype)
    return lax.scan(lambda total, group: (total + of_images(*group), None), zeros, groups)[0]


def _shifted_sum_gradients(x, kernel, cotangent, stride: int, padding: Padding):
    kh, kw = kernel.shape[:2]
    # d input: the cotangent, spread by the stride, correlated with the flipped kernel. Rows it never reached get 0.
    spread = ((cotangent.shape[1] - 1) * stride + 1, (cotangent.shape[2] - 1) * stride + 1)
    edges = [
        (k - 1 - low, size + low - s)
        for k, (low, _), size, s in zip((kh, kw), padding, x.shape[1:3], spread, strict=True)
    ]
    config = [(0, 0, 0), *((low, high, stride - 1) for low, high in edges), (0, 0, 0)]
    dilated = lax.pad(cotangent, jnp.zeros((), cotangent.dtype), config)
    d_x = _shifted_sum(dilated, kernel[::-1, ::-1], 1, ((0, 0), (0, 0)))

    wide = np.promote_types(x.dtype, np.float32)

    # d kernel: as kh * kw reductions over the whole batch it takes six times as long.
    def of_images(some_x, some_g):
        some_x, some_g = some_x.astype(wide), some_g.astype(wide)
        sums = [jnp.sum(window * some_g, axis=(0, 1, 2)) for _, window in windows(some_x, (kh, kw), stride, padding)]
        return jnp.stack(sums)

    total = _sum_over_groups(of_images, x, cotangent, size=cotangent[0].size, most=DEPTHWISE_GROUP)
    return d_x, total.reshape(kernel.shape).astype(kernel.dtype)


def _gradients_with_patches(x, kernel, cotangent, stride: int, padding: Padding):
    """The kernel's gradient on CPUs: cotangent times patches of the input.

    XLA's convolution over the positions takes up to four times as long where there are many of them and few channels.
    """
    kh, kw, channels, features = kernel.shape
    wide = np.promote_types(x.dtype, np.float32)

    def of_images(some_x, some_g):
        patches = jnp.concatenate([window for _, window in windows(some_x, (kh, kw), stride, padding)], -1)
        pixels, of_pixels = patches.reshape(-1, patches.shape[-1]), some_g.reshape(-1, features)
        return lax.dot_general(of_pixels, pixels, (((0,), (0,)), ((), ())), preferred_element_type=wide)

    size = math.prod(cotangent.shape[1:3]) * kh * kw * channels
    total = _sum_over_groups(of_images, x, cotangent, size=size, most=PATCHES_GROUP)
    (d_x,) = jax.vjp(lambda x: _plain(x, kernel, stride, padding), x)[1](cotangent)
    return d_x, total.T.reshape(kernel.shape).astype(kernel.dtype)


_depthwise = _with_gradients(_by_platform(_shifted_sum, _grouped), _grouped, _shifted_sum_gradients)
_pointwise = _with_gradients(_by_platform(_product, _plain), _plain, _product_gradients)
_dense = _with_gradients(_plain, _plain, _gradients_with_patches)
_in_groups = _with_gradients(_by_platform(_bundled, _grouped), _grouped, _bundled_gradients)
