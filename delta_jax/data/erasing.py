"""Random erasing on the device (Zhong et al., AAAI 2020), with torchvision's defaults."""

import math

import jax
import jax.numpy as jnp

# Of the erased rectangle: its share of the image, its height to its width, and how often one is drawn that fits.
AREAS, RATIOS, TRIES = (0.02, 0.33), (0.3, 3.3), 10


def random_erasing(key: jax.Array, images: jax.Array, probability: float) -> jax.Array:
    """Sets a rectangle of some of the images to 0, which is the mean color of normalised ones.

    The share of the area is uniform, the logarithm of height / width, too; the first of ten rectangles that is smaller
    than the image on both sides is taken, and none where there is none.

    Args:
      key: decides.
      images: normalised [B, H, W, C].
      probability: that an image loses a rectangle.

    Returns:
      As images.
    """
    key_coin, key_box = jax.random.split(key)
    top, left, h, w = (side[:, None] for side in erased_boxes(key_box, *images.shape[:3]).T)
    row, column = (jnp.arange(length, dtype=jnp.int32)[None] for length in images.shape[1:3])
    rows, columns = (row >= top) & (row < top + h), (column >= left) & (column < left + w)
    chosen = jax.random.bernoulli(key_coin, probability, (images.shape[0],))
    inside = rows[:, :, None] & columns[:, None, :] & chosen[:, None, None]
    return jnp.where(inside[..., None], jnp.zeros((), images.dtype), images)


def erased_boxes(key: jax.Array, b: int, height: int, width: int) -> jax.Array:
    """Rectangles within images of one size, int32 [B, 4]: top, left, height, width; of height 0 where none fits."""
    key_area, key_ratio, key_top, key_left = jax.random.split(key, 4)
    area = height * width * jax.random.uniform(key_area, (TRIES, b), jnp.float32, *AREAS)
    log_ratio = jax.random.uniform(key_ratio, (TRIES, b), jnp.float32, *map(math.log, RATIOS))
    tried_h = jnp.round(jnp.sqrt(area * jnp.exp(log_ratio))).astype(jnp.int32)
    tried_w = jnp.round(jnp.sqrt(area / jnp.exp(log_ratio))).astype(jnp.int32)
    fits = (tried_h < height) & (tried_w < width)
    first, rows = jnp.argmax(fits, axis=0), jnp.arange(b)
    h, w = tried_h[first, rows], tried_w[first, rows]
    found = jnp.any(fits, axis=0)
    h, w = jnp.where(found, h, 0), jnp.where(found, w, 0)
    top = jax.random.randint(key_top, (b,), 0, height - h + 1, jnp.int32)
    left = jax.random.randint(key_left, (b,), 0, width - w + 1, jnp.int32)
    return jnp.stack([top, left, h, w], axis=1)
