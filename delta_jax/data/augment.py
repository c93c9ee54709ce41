"""What the network sees of decoded images: random crops in training, fixed ones in evaluation; all on the device."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from delta_jax.data.canvas import Canvas, Pixels, cut, sides
from delta_jax.data.color import color_jitter
from delta_jax.data.rand_augment import rand_augment
from delta_jax.data.resized_crop import random_boxes, resized_crop

AUGMENTATIONS = ("crop", "resized_crop", "none")


def random_view(
    key: jax.Array,
    images: Pixels,
    size: int,
    *,
    augment: str = "crop",
    mirror: bool = True,
    interpolation: str = "bilinear",
    least_area: float = 0.08,
    jitter: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
    upright: bool = True,
    operations: tuple[int, int] = (0, 0),
) -> jax.Array:
    """One view of each image for training.

    Args:
      key: decides; the same key gives the same views on any number of devices.
      images: uint8 [B, H, W, 3], or a Canvas.
      size: side of the views, pixels.
      augment: "crop" cuts a square at random, "resized_crop" scales a random rectangle, "none" takes the centre crop.
      mirror: whether half of the images are mirrored, left to right; not with "none".
      interpolation: of the resized crop, "bilinear" or "bicubic".
      least_area: of the resized crop, as a share of the image.
      jitter: strengths of `color_jitter`.
      upright: False for images without an up: each is turned by 0, 1, 2 or 3 quarters; not with "none". With the
        mirror images that makes all eight positions, upside down ones among them.
      operations: of `rand_augment` how many, 0 for none, and their magnitude; not with "none".

    Returns:
      uint8 [B, size, size, 3].
    """
    if augment == "none":
        return center_crop(images, size)
    if augment == "crop":
        views = random_crop_mirror(key, images, size, mirror=mirror)
    else:
        views = random_resized_crop(
            key, images, size, mirror=mirror, interpolation=interpolation, least_area=least_area
        )
    # The keys of what follows are not among those that the crop splits off.
    if not upright:
        views = quarter_turns(jax.random.fold_in(key, 2), views)
    if operations[0]:
        views = rand_augment(jax.random.fold_in(key, 5), views, *operations)
    return color_jitter(jax.random.fold_in(key, 1), views, jitter) if any(jitter) else views


def random_crop_mirror(key: jax.Array, images: Pixels, size: int, *, mirror: bool = True) -> jax.Array:
    """Cuts a square at random out of each image and mirrors half of them, left to right.

    Args:
      key: the same key gives the same crops of images of the same sides, whatever they show.
      images: [B, H, W, C], any dtype, or a Canvas.
      size: side of the square, at most the shorter side of the images.
      mirror: False leaves all the right way round.

    Returns:
      [B, size, size, C], the dtype of `images`.
    """
    _require_room(images, size)
    heights, widths = sides(images)
    key_top, key_left, key_mirror = jax.random.split(key, 3)
    top = jax.random.randint(key_top, heights.shape, 0, heights - size + 1, jnp.int32)
    left = jax.random.randint(key_left, widths.shape, 0, widths - size + 1, jnp.int32)
    crops = cut(images, top, left, size)
    return _mirror_half(key_mirror, crops) if mirror else crops


def random_resized_crop(
    key: jax.Array,
    images: Pixels,
    size: int,
    *,
    mirror: bool = True,
    interpolation: str = "bilinear",
    least_area: float = 0.08,
) -> jax.Array:
    """Scales a random rectangle of each image to a square and mirrors half of them, left to right.

    The rectangles are cut from the decoded image, so one that is smaller than `size` is blown up.

    Args:
      key: as for `random_crop_mirror`.
      images: uint8 [B, H, W, C], or a Canvas.
      size: side of the squares, pixels.
      mirror: False leaves all the right way round.
      interpolation: "bilinear" or "bicubic", with antialiasing.
      least_area: smallest area of a rectangle, as a share of the image's, in (0, 1].

    Returns:
      uint8 [B, size, size, C].
    """
    key_box, key_mirror = jax.random.split(key)
    crops = resized_crop(images, random_boxes(key_box, *sides(images), least_area), size, interpolation)
    return _mirror_half(key_mirror, crops) if mirror else crops


def center_crop(images: Pixels, size: int) -> jax.Array:
    """The square in the middle, [B, size, size, C]; an odd margin is rounded as torchvision does, half to even."""
    _require_room(images, size)
    if not isinstance(images, Canvas):
        h, w = images.shape[1:3]
        top, left = round((h - size) / 2), round((w - size) / 2)
        return jnp.asarray(images)[:, top : top + size, left : left + size]
    heights, widths = sides(images)
    return cut(images, _middle(heights, size), _middle(widths, size), size)


def ten_crop(images: Pixels, size: int) -> jax.Array:
    """The four corners and the middle, then the same of the mirrored images.

    Args:
      images: [B, H, W, C], or a Canvas: then the corners are those of each image.
      size: side of the squares, at most the shorter side of the images.

    Returns:
      [10, B, size, size, C]: top left, top right, bottom left, bottom right, middle; and again, mirrored first.
    """
    _require_room(images, size)
    heights, widths = sides(images)
    none, bottom, right = jnp.zeros_like(heights), heights - size, widths - size
    corners = [(none, none), (none, right), (bottom, none), (bottom, right)]
    straight = [cut(images, top, left, size) for top, left in corners]
    # A crop of the mirrored image is the mirrored crop from the other side.
    mirrored = [cut(images, top, right - left, size)[:, :, ::-1] for top, left in corners]
    top, left = _middle(heights, size), _middle(widths, size)
    middle = [cut(images, top, left, size), cut(images, top, right - left, size)[:, :, ::-1]]
    return jnp.stack([*straight, middle[0], *mirrored, middle[1]])


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


def quarter_turns(key: jax.Array, squares: jax.Array) -> jax.Array:
    """Turns each square [B, S, S, C] counterclockwise by 0 to 3 quarters, all alike probable."""
    quarters = jax.random.randint(key, squares.shape[:1], 0, 4, jnp.int32)[:, None, None, None]
    turned = jnp.where(quarters % 2 == 1, jnp.rot90(squares, axes=(1, 2)), squares)
    return jnp.where(quarters >= 2, turned[:, ::-1, ::-1], turned)


def _mirror_half(key: jax.Array, crops: jax.Array) -> jax.Array:
    mirrored = jax.random.bernoulli(key, 0.5, crops.shape[:1])
    return jnp.where(mirrored[:, None, None, None], crops[:, :, ::-1], crops)


def _middle(sides: jax.Array, size: int) -> jax.Array:
    """round((side - size) / 2), half to even, in whole numbers."""
    margin = sides - size
    return margin // 2 + jnp.where(margin % 4 == 3, 1, 0)


def _require_room(images: Pixels, size: int) -> None:
    shape = images.pixels.shape if isinstance(images, Canvas) else images.shape
    if len(shape) != 4 or not 1 <= size <= min(shape[1:3]):
        raise ValueError(f"a crop of {size} pixels does not fit images of shape {shape}, expected [B, H, W, C]")
