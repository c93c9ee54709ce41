"""Crops, mirror images and normalisation, on the device, of batches that were decoded to one size."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def random_crop_mirror(key: jax.Array, images: jax.Array, size: int) -> jax.Array:
    """Cuts a square at random out of each image and mirrors half of them, left to right.

    Args:
      key: the same key gives the same crops, whatever the images.
      images: [B, H, W, C], any dtype.
      size: side of the square, at most H and W.

    Returns:
      [B, size, size, C], the dtype of `images`.
    """
    _require_room(images, size)
    b, h, w, c = images.shape
    key_top, key_left, key_mirror = jax.random.split(key, 3)
    top = jax.random.randint(key_top, (b,), 0, h - size + 1, jnp.int32)
    left = jax.random.randint(key_left, (b,), 0, w - size + 1, jnp.int32)
    mirrored = jax.random.bernoulli(key_mirror, 0.5, (b,))
    zero = jnp.int32(0)

    def cut(image: jax.Array, top: jax.Array, left: jax.Array, mirror: jax.Array) -> jax.Array:
        crop = jax.lax.dynamic_slice(image, (top, left, zero), (size, size, c))
        return jnp.where(mirror, crop[:, ::-1], crop)

    return jax.vmap(cut)(images, top, left, mirrored)


def center_crop(images: jax.Array, size: int) -> jax.Array:
    """The square in the middle, [B, size, size, C]; an odd margin is rounded as torchvision does, half to even."""
    _require_room(images, size)
    h, w = images.shape[1:3]
    top, left = round((h - size) / 2), round((w - size) / 2)
    return images[:, top : top + size, left : left + size]


def ten_crop(images: jax.Array, size: int) -> jax.Array:
    """The four corners and the middle, then the same of the mirrored images.

    Args:
      images: [B, H, W, C].
      size: side of the squares, at most H and W.

    Returns:
      [10, B, size, size, C]: top left, top right, bottom left, bottom right, middle; and again, mirrored first.
    """
    _require_room(images, size)
    crops = []
    for view in (images, images[:, :, ::-1]):
        crops += [view[:, :size, :size], view[:, :size, -size:], view[:, -size:, :size], view[:, -size:, -size:]]
        crops.append(center_crop(view, size))
    return jnp.stack(crops)


def normalize(
    images: jax.Array, mean: Sequence[float], std: Sequence[float], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """(images / 255 - mean) / std, computed in float32.

    Args:
      images: uint8 [..., C].
      mean: of each channel, in 0..1.
      std: of each channel, in 0..1.
      dtype: of the result.

    Returns:
      [..., C].
    """
    channels = images.shape[-1]
    if not len(mean) == len(std) == channels:
        raise ValueError(f"mean has {len(mean)} and std {len(std)} values, expected {channels}: one per channel")
    shape = (1,) * (images.ndim - 1) + (channels,)
    centre = jnp.asarray(mean, jnp.float32).reshape(shape)
    spread = jnp.asarray(std, jnp.float32).reshape(shape)
    return ((images.astype(jnp.float32) / 255 - centre) / spread).astype(dtype)


def _require_room(images: jax.Array, size: int) -> None:
    if images.ndim != 4 or not 1 <= size <= min(images.shape[1:3]):
        raise ValueError(f"a crop of {size} pixels does not fit images of shape {images.shape}, expected [B, H, W, C]")
