"""RandAugment on the device (Cubuk et al., NeurIPS 2020): operations of Pillow, with torchvision's magnitudes.

An operation either moves pixels, mixes an image with another form of itself, or looks levels up in a table. So a batch
in which every image has an operation of its own goes once through each of the three.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from delta_jax.data.color import grey

OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "color", "contrast", "sharpness"),
    *("posterize", "solarize", "autocontrast", "equalize"),
)
LARGEST = 30  # magnitude


def rand_augment(key: jax.Array, images: jax.Array, count: int, magnitude: int) -> jax.Array:
    """`count` operations on each image, drawn alike from all, one after the other.

    Args:
      key: decides.
      images: uint8 [B, S, S, 3].
      count: of operations.
      magnitude: of those that have one, 0 to 30; in which direction, a coin decides.

    Returns:
      uint8 [B, S, S, 3].
    """
    for one in jax.random.split(key, count):
        which, sign = jax.random.split(one)
        operations = jax.random.randint(which, images.shape[:1], 0, len(OPERATIONS), jnp.int32)
        signs = jnp.where(jax.random.bernoulli(sign, 0.5, images.shape[:1]), 1.0, -1.0).astype(jnp.float32)
        images = operate(images, operations, signs, magnitude)
    return images


def operate(images: jax.Array, operations: jax.Array, signs: jax.Array, magnitude: int) -> jax.Array:
    """Each image after its operation, a place in OPERATIONS, int32 [B], in the direction of `signs`, float32 [B]."""
    pixels = _moved(images, operations, signs, magnitude / LARGEST).astype(jnp.int32)
    pixels = _blended(pixels, operations, 1 + signs * (0.9 * magnitude / LARGEST))
    return _looked_up(pixels, operations, magnitude).astype(jnp.uint8)


def _chosen(operations: jax.Array, name: str) -> jax.Array:
    return operations == OPERATIONS.index(name)


def _moved(images: jax.Array, operations: jax.Array, signs: jax.Array, level: float) -> jax.Array:
    """By the nearest pixel; black where there is none."""
    b, height, width, channels = images.shape

    def where(name: str, value: jax.Array | float, otherwise: jax.Array | float) -> jax.Array:
        return jnp.where(_chosen(operations, name), value, otherwise).astype(jnp.float32)

    angle = -signs * math.radians(30 * level)
    cos, sin = where("rotate", jnp.cos(angle), 1.0), where("rotate", jnp.sin(angle), 0.0)
    matrix = (
        (cos, where("shear_x", signs * (0.3 * level), sin)),
        (where("shear_y", signs * (0.3 * level), -sin), cos),
    )
    moves = [
        where(f"translate_{axis}", -signs * int(150 / 331 * side * level), 0.0)
        for axis, side in (("x", width), ("y", height))
    ]
    # Pillow shears about the corner and rotates about the middle.
    turned = _chosen(operations, "rotate")
    middle = [jnp.where(turned, side / 2, 0).astype(jnp.float32) for side in (width, height)]
    x = jnp.arange(width, dtype=jnp.float32)[None, None, :] + 0.5 - middle[0][:, None, None]
    y = jnp.arange(height, dtype=jnp.float32)[None, :, None] + 0.5 - middle[1][:, None, None]
    column, row = (
        jnp.floor(of_x[:, None, None] * x + of_y[:, None, None] * y + (move + centre)[:, None, None]).astype(jnp.int32)
        for (of_x, of_y), move, centre in zip(matrix, moves, middle, strict=True)
    )
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
    found = jnp.take_along_axis(images.reshape(b, -1, channels), place.reshape(b, -1, 1), axis=1)
    return jnp.where(inside[..., None], found.reshape(images.shape), jnp.zeros((), images.dtype))


def _blended(pixels: jax.Array, operations: jax.Array, factors: jax.Array) -> jax.Array:
    """int32: mixed with black, their grey, the mean of their grey, or themselves smoothed; 1 changes nothing."""
    plain = pixels.astype(jnp.float32)
    shades = grey(plain)
    mean = jnp.floor(jnp.mean(shades, axis=(1, 2, 3), keepdims=True) + 0.5)
    other = jnp.zeros_like(plain)
    for name, form in (("color", shades), ("contrast", mean), ("sharpness", _smoothed(plain))):
        other = jnp.where(_chosen(operations, name)[:, None, None, None], form, other)
    mixed = jnp.clip(other + factors[:, None, None, None] * (plain - other), 0, 255)
    first, last = (OPERATIONS.index(name) for name in ("brightness", "sharpness"))
    chosen = (operations >= first) & (operations <= last)
    return jnp.where(chosen[:, None, None, None], mixed.astype(jnp.int32), pixels)


def _smoothed(plain: jax.Array) -> jax.Array:
    """Each pixel 5/13 and its neighbours 1/13 each, in whole levels; those at the edge as they are."""
    height, width = plain.shape[1:3]
    around = sum(plain[:, i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3))
    inner = jnp.floor((around + 4 * plain[:, 1:-1, 1:-1]) / 13 + 0.5)
    return plain.at[:, 1:-1, 1:-1].set(inner)


def _looked_up(pixels: jax.Array, operations: jax.Array, magnitude: int) -> jax.Array:
    """int32, with the level that a table of each image and channel has in place of each level."""
    b, _, _, channels = pixels.shape
    levels = np.arange(256)
    bits = 8 - round(magnitude / (LARGEST / 4))
    fixed = {
        "posterize": levels & -(2 ** (8 - bits)),
        "solarize": np.where(levels < 255 * (1 - magnitude / LARGEST), levels, 255 - levels),
    }
    counts = _histogram(pixels)
    made = {"autocontrast": _stretching(counts), "equalize": _equalizing(counts)}
    table = jnp.broadcast_to(jnp.asarray(levels, jnp.int32)[None, :, None], (b, 256, channels))
    tables = {name: jnp.asarray(one, jnp.int32)[None, :, None] for name, one in fixed.items()} | made
    for name, one in tables.items():
        table = jnp.where(_chosen(operations, name)[:, None, None], one, table)
    return jnp.take_along_axis(table, pixels.reshape(b, -1, channels), axis=1).reshape(pixels.shape)


def _histogram(pixels: jax.Array) -> jax.Array:
    """How often each level occurs, int32 [B, 256, C]."""
    return jax.lax.platform_dependent(pixels, tpu=compared, default=scattered)


def scattered(pixels: jax.Array) -> jax.Array:
    """Counted one by one."""
    b, _, _, channels = pixels.shape
    flat = pixels.reshape(b, -1, channels)
    image, channel = jnp.arange(b)[:, None, None], jnp.arange(channels)[None, None]
    return jnp.zeros((b, 256, channels), jnp.int32).at[image, flat, channel].add(1)


def compared(pixels: jax.Array) -> jax.Array:
    """Each level with all pixels: more work, and none of it the scattering that TPUs do one after the other."""
    count = jax.lax.map(lambda level: jnp.sum(pixels == level, axis=(1, 2), dtype=jnp.int32), jnp.arange(256))
    return jnp.moveaxis(count, 0, 1)


def _stretching(counts: jax.Array) -> jax.Array:
    """From the darkest and the brightest level of a channel to black and white."""
    there = counts > 0
    low = jnp.argmax(there, axis=1, keepdims=True)
    high = 255 - jnp.argmax(there[:, ::-1], axis=1, keepdims=True)
    levels = jnp.arange(256, dtype=jnp.int32)[None, :, None]
    # In whole numbers: Pillow's quotient of floats falls short by one in 0.4 % of all cases.
    stretched = 255 * (levels - low) // jnp.maximum(high - low, 1)
    return jnp.where(high > low, jnp.clip(stretched, 0, 255), levels).astype(jnp.int32)


def _equalizing(counts: jax.Array) -> jax.Array:
    """To levels that are about equally frequent, by Pillow's rule."""
    there = counts > 0
    high = 255 - jnp.argmax(there[:, ::-1], axis=1, keepdims=True)
    last = jnp.take_along_axis(counts, high, axis=1)
    step = (jnp.sum(counts, axis=1, keepdims=True) - last) // 255
    before = jnp.cumsum(counts, axis=1) - counts
    levels = jnp.arange(256, dtype=jnp.int32)[None, :, None]
    spread = jnp.clip((before + step // 2) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, spread, levels).astype(jnp.int32)
