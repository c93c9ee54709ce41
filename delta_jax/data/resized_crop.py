"""Random resized crops: rectangles of random area and shape, each scaled to one square, on the device."""

import math

import jax
import jax.numpy as jnp

from delta_jax.data.canvas import Canvas, Pixels, turn

# Of a rectangle's width to its height, and how often one that does not fit is drawn again: torchvision's values.
RATIOS = (3 / 4, 4 / 3)
TRIES = 10


def random_boxes(key: jax.Array, heights: jax.Array, widths: jax.Array, least_area: float) -> jax.Array:
    """Rectangles as torchvision's RandomResizedCrop draws them (Szegedy et al., 2015).

    The area is uniform in [least_area, 1] of the image's, the logarithm of width / height uniform; the first of ten
    that fits is taken, and the largest in the middle where none does.

    Args:
      key: decides.
      heights: int32 [B], of the images in pixels.
      widths: int32 [B].
      least_area: as a share of the image's area, in (0, 1].

    Returns:
      int32 [B, 4]: top, left, height and width in pixels.
    """
    b = heights.shape[0]
    key_area, key_ratio, key_top, key_left = jax.random.split(key, 4)
    share = jax.random.uniform(key_area, (TRIES, b), jnp.float32, least_area, 1.0)
    log_ratio = jax.random.uniform(key_ratio, (TRIES, b), jnp.float32, math.log(RATIOS[0]), math.log(RATIOS[1]))
    area, ratio = share * (heights * widths).astype(jnp.float32)[None], jnp.exp(log_ratio)
    tried_w = jnp.round(jnp.sqrt(area * ratio)).astype(jnp.int32)
    tried_h = jnp.round(jnp.sqrt(area / ratio)).astype(jnp.int32)
    fits = (tried_w > 0) & (tried_w <= widths[None]) & (tried_h > 0) & (tried_h <= heights[None])
    first, rows = jnp.argmax(fits, axis=0), jnp.arange(b)

    # The largest rectangle within the ratios: all of the image, unless it is too wide or too high.
    most_w = jnp.round(heights.astype(jnp.float32) * RATIOS[1]).astype(jnp.int32)
    most_h = jnp.round(widths.astype(jnp.float32) / RATIOS[0]).astype(jnp.int32)
    largest_w, largest_h = jnp.minimum(widths, most_w), jnp.minimum(heights, most_h)

    found = jnp.any(fits, axis=0)
    height = jnp.where(found, tried_h[first, rows], largest_h)
    width = jnp.where(found, tried_w[first, rows], largest_w)
    top = jax.random.randint(key_top, (b,), 0, heights - height + 1, jnp.int32)
    left = jax.random.randint(key_left, (b,), 0, widths - width + 1, jnp.int32)
    top = jnp.where(found, top, (heights - height) // 2)
    left = jnp.where(found, left, (widths - width) // 2)
    return jnp.stack([top, left, height, width], axis=1)


def resized_crop(images: Pixels, boxes: jax.Array, size: int, interpolation: str) -> jax.Array:
    """Cuts a rectangle out of each image and scales it to a square, as Pillow's crop and resize do.

    Args:
      images: uint8 [B, H, W, C], or a Canvas.
      boxes: int32 [B, 4], top, left, height and width of rectangles within the images as they are seen.
      size: side of the squares, pixels.
      interpolation: "bilinear" or "bicubic", both with the antialiasing of Pillow.

    Returns:
      uint8 [B, size, size, C], within 1 grey level of Pillow's, but for single pixels where a bicubic filter overshoots
      black or white: Pillow clips after each of the two sides, and since Pillow 13.0 their order depends on the shape
      (https://github.com/python-pillow/Pillow/pull/9549); here it is done once, at the end.
    """
    top, left, height, width = boxes.T
    if not isinstance(images, Canvas):
        return _scale(jnp.asarray(images), (top, height), (left, width), size, interpolation)
    turned = jnp.asarray(images.transposed)
    first = jnp.where(turned, left, top), jnp.where(turned, width, height)
    second = jnp.where(turned, top, left), jnp.where(turned, height, width)
    return turn(_scale(jnp.asarray(images.pixels), first, second, size, interpolation), turned)


def _scale(
    pixels: jax.Array,
    first: tuple[jax.Array, jax.Array],
    second: tuple[jax.Array, jax.Array],
    size: int,
    interpolation: str,
) -> jax.Array:
    rows = _weights(*first, pixels.shape[1], size, interpolation)
    columns = _weights(*second, pixels.shape[2], size, interpolation)
    # In full precision: the short floats and TF32 that accelerators take by default are off by a grey level.
    exact = jax.lax.Precision.HIGHEST
    scaled = jnp.einsum("bxw,bhwc->bhxc", columns, pixels.astype(jnp.float32), precision=exact)
    scaled = jnp.einsum("byh,bhxc->byxc", rows, scaled, precision=exact)
    return jnp.clip(jnp.round(scaled), 0, 255).astype(jnp.uint8)


def _weights(start: jax.Array, length: jax.Array, within: int, size: int, interpolation: str) -> jax.Array:
    """How much each of `within` pixels counts for each of `size` ones, float32 [B, size, within]; rows sum to 1.

    Not `jax.image.scale_and_translate`, which also lets pixels around the rectangle count.
    """
    scale = (length.astype(jnp.float32) / size)[:, None, None]
    centres = (jnp.arange(size, dtype=jnp.float32) + 0.5)[None, :, None] * scale
    pixel = jnp.arange(within, dtype=jnp.int32)[None, None, :] - start[:, None, None]
    # Antialiasing: where the image shrinks the filter becomes as much wider.
    distance = jnp.abs(pixel.astype(jnp.float32) + 0.5 - centres) / jnp.maximum(scale, 1)
    weight = _triangle(distance) if interpolation == "bilinear" else _cubic(distance)
    weight = jnp.where((pixel >= 0) & (pixel < length[:, None, None]), weight, 0)
    return weight / weight.sum(-1, keepdims=True)


def _triangle(x: jax.Array) -> jax.Array:
    return jnp.maximum(1 - x, 0)


def _cubic(x: jax.Array) -> jax.Array:
    """Keys' cubic convolution with a = -1/2, which is Pillow's."""
    near = ((1.5 * x - 2.5) * x) * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))
