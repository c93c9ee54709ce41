"""Images of different lengths in one array, and squares cut out of them."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# An image is stored up to this many times as long as it is wide; of a longer one the middle is kept.
LONGEST = 2


class Canvas(NamedTuple):
    """B images whose shorter sides are equal, each from the start of a canvas that fits the longest.

    The long side comes first, so that one canvas fits both orientations. Only the image itself ever shows in a crop,
    and crops come out the right way round.

    Attributes:
      pixels: uint8 [B, L, S, C]; the long sides are at most L, the short ones S. What lies beyond an image is 0.
      lengths: int32 [B], long sides in pixels, S to L.
      transposed: bool [B], whether rows and columns are exchanged: so for images that are wider than high.
    """

    pixels: jax.Array | np.ndarray
    lengths: jax.Array | np.ndarray
    transposed: jax.Array | np.ndarray


# What a batch of decoded images is: squares uint8 [B, S, S, C], or whole images.
Pixels = jax.Array | np.ndarray | Canvas


class Strip(NamedTuple):
    """M images one below the other, without the gaps of a canvas: how they are kept on a device.

    Attributes:
      pixels: uint8 [T, S, C], then as many rows again as a canvas has.
      starts: int32 [M], first row of each image.
      lengths: int32 [M].
      transposed: bool [M].
    """

    pixels: jax.Array | np.ndarray
    starts: jax.Array | np.ndarray
    lengths: jax.Array | np.ndarray
    transposed: jax.Array | np.ndarray


def long_side_first(image: np.ndarray) -> tuple[np.ndarray, bool]:
    """An image [H, W, C] with H >= W, and whether rows and columns were exchanged for that."""
    wide = image.shape[1] > image.shape[0]
    return (np.ascontiguousarray(image.swapaxes(0, 1)) if wide else image), wide


def to_canvas(images: Sequence[np.ndarray]) -> Canvas:
    """Images uint8 [H, W, C] with equal shorter sides S -> a canvas of LONGEST * S, on the host."""
    turned = [long_side_first(image) for image in images]
    size = turned[0][0].shape[1]
    pixels = np.zeros((len(turned), LONGEST * size, *turned[0][0].shape[1:]), np.uint8)
    for canvas, (image, _) in zip(pixels, turned, strict=True):
        canvas[: len(image)] = image
    lengths = np.array([len(image) for image, _ in turned], np.int32)
    return Canvas(pixels, lengths, np.array([wide for _, wide in turned]))


@partial(jax.jit, static_argnames="length")
def from_strip(strip: Strip, index: jax.Array, *, length: int) -> Canvas:
    """The images `index` [B] on canvases of `length` rows."""
    lengths = strip.lengths[index]

    def unroll(start: jax.Array) -> jax.Array:
        zero = jnp.int32(0)
        return jax.lax.dynamic_slice(strip.pixels, (start, zero, zero), (length, *strip.pixels.shape[1:]))

    inside = jnp.arange(length, dtype=jnp.int32)[None, :] < lengths[:, None]
    pixels = jnp.where(inside[:, :, None, None], jax.vmap(unroll)(strip.starts[index]), jnp.uint8(0))
    return Canvas(pixels, lengths, strip.transposed[index])


def sides(images: Pixels) -> tuple[jax.Array, jax.Array]:
    """Heights and widths of the images as they are seen, int32 [B] each."""
    if isinstance(images, Canvas):
        turned, long = jnp.asarray(images.transposed), jnp.asarray(images.lengths)
        short = jnp.full_like(long, images.pixels.shape[2])
        return jnp.where(turned, short, long), jnp.where(turned, long, short)
    b, h, w, _ = images.shape
    return jnp.full((b,), h, jnp.int32), jnp.full((b,), w, jnp.int32)


def cut(images: Pixels, top: jax.Array, left: jax.Array, size: int) -> jax.Array:
    """The squares [B, size, size, C] with these corners, int32 [B], of the images as they are seen."""

    if not isinstance(images, Canvas):
        return _squares(jnp.asarray(images), top, left, size)
    turned = jnp.asarray(images.transposed)
    pixels = jnp.asarray(images.pixels)
    return turn(_squares(pixels, jnp.where(turned, left, top), jnp.where(turned, top, left), size), turned)


def _squares(images: jax.Array, top: jax.Array, left: jax.Array, size: int) -> jax.Array:
    # On a TPU slices at places of their own are cut image by image: 2.7 M cycles for 32 of 224 pixels on v5e; products
    # with ones and zeros, which its matrix unit does exactly, take 0.06 M.
    slices, products = partial(squares_by_slices, size=size), partial(squares_by_products, size=size)
    if images.dtype != jnp.uint8:
        return slices(images, top, left)
    return jax.lax.platform_dependent(images, top, left, tpu=products, default=slices)


def squares_by_slices(images: jax.Array, top: jax.Array, left: jax.Array, *, size: int) -> jax.Array:
    """`cut` of images [B, H, W, C]."""

    def one(image: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (first, second, jnp.int32(0)), (size, size, image.shape[-1]))

    return jax.vmap(one)(images, top, left)


def squares_by_products(images: jax.Array, top: jax.Array, left: jax.Array, *, size: int) -> jax.Array:
    """The same of uint8 images: bfloat16 holds whole numbers up to 256, and each sum has one term that is not zero."""

    def rows_of_ones(start: jax.Array, length: int) -> jax.Array:
        wanted = start[:, None] + jnp.arange(size, dtype=start.dtype)[None, :]
        places = jnp.arange(length, dtype=start.dtype)[None, None, :]
        return (wanted[:, :, None] == places).astype(jnp.bfloat16)

    rows = jnp.einsum("bsh,bhwc->bswc", rows_of_ones(top, images.shape[1]), images.astype(jnp.bfloat16))
    return jnp.einsum("btw,bswc->bstc", rows_of_ones(left, images.shape[2]), rows).astype(jnp.uint8)


def turn(squares: jax.Array, which: jax.Array) -> jax.Array:
    """Exchanges rows and columns of some of the squares [B, size, size, C]: those where `which` [B] is true."""
    return jnp.where(which[:, None, None, None], squares.swapaxes(1, 2), squares)
