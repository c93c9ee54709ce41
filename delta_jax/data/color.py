"""Color jitter on the device: brightness, contrast, saturation and hue, as torchvision and timm define them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

# Of red, green and blue in the grey that Pillow's "L" is: 0.299, 0.587 and 0.114 (ITU-R BT.601) in 16 bits.
_GREY = (19595 / 65536, 38470 / 65536, 7471 / 65536)


def color_jitter(key: jax.Array, images: jax.Array, strengths: Sequence[float]) -> jax.Array:
    """Changes the colors of each image at random.

    Brightness, contrast and saturation are multiplied by a factor uniform in [max(0, 1 - strength), 1 + strength], the
    hue is turned by an angle uniform in [-strength, strength] of the circle. Always in this order; torchvision draws
    the order, too. What has strength 0 is left out.

    Args:
      key: decides.
      images: uint8 [B, H, W, 3], RGB.
      strengths: of brightness, contrast, saturation (each 0 or more) and hue (0 to 0.5).

    Returns:
      uint8 [B, H, W, 3].
    """
    pixels = images.astype(jnp.float32)
    keys = jax.random.split(key, 4)
    for i, adjust in enumerate((adjust_brightness, adjust_contrast, adjust_saturation)):
        if strengths[i] > 0:
            low, high = max(0.0, 1 - strengths[i]), 1 + strengths[i]
            pixels = adjust(pixels, jax.random.uniform(keys[i], pixels.shape[:1], jnp.float32, low, high))
    if strengths[3] > 0:
        turn = jax.random.uniform(keys[3], pixels.shape[:1], jnp.float32, -strengths[3], strengths[3])
        pixels = adjust_hue(pixels, turn)
    return jnp.round(pixels).astype(jnp.uint8)


def adjust_brightness(pixels: jax.Array, factor: jax.Array) -> jax.Array:
    """Mixes each image with black; float32 [B, H, W, 3] in 0..255 and [B], 1 changes nothing."""
    return _mix(pixels, jnp.zeros_like(pixels[:, :1, :1]), factor)


def adjust_contrast(pixels: jax.Array, factor: jax.Array) -> jax.Array:
    """Mixes each image with the mean of its grey."""
    mean = jnp.mean(grey(pixels), axis=(1, 2, 3), keepdims=True)
    return _mix(pixels, jnp.floor(mean + 0.5), factor)


def adjust_saturation(pixels: jax.Array, factor: jax.Array) -> jax.Array:
    """Mixes each pixel with its grey."""
    return _mix(pixels, grey(pixels), factor)


def adjust_hue(pixels: jax.Array, turn: jax.Array) -> jax.Array:
    """Turns the hue of HSV by a share [B] of the circle; saturation and value of each pixel stay."""
    value = pixels.max(-1, keepdims=True)
    chroma = value - pixels.min(-1, keepdims=True)
    r, g, b = jnp.split(pixels, 3, axis=-1)
    safe = jnp.where(chroma > 0, chroma, 1)
    # No `value == r`: a compiler may compute the two apart, and round them differently. Here the branches meet.
    of_others = jnp.where(g >= b, 2 + (b - r) / safe, 4 + (r - g) / safe)
    sixth = jnp.where((r >= g) & (r >= b), (g - b) / safe, of_others)
    sixth = sixth + 6 * turn[:, None, None, None]
    # Each channel is a trapezium over the circle: red is full around 0, green around 2 and blue around 4 sixths.
    distance = jnp.mod(sixth + jnp.array([[[[5.0, 3.0, 1.0]]]], jnp.float32), 6)
    return value - chroma * jnp.clip(jnp.minimum(distance, 4 - distance), 0, 1)


def _mix(pixels: jax.Array, other: jax.Array, factor: jax.Array) -> jax.Array:
    share = factor[:, None, None, None]
    return jnp.clip(share * pixels + (1 - share) * other, 0, 255)


def grey(pixels: jax.Array) -> jax.Array:
    """In whole levels, as Pillow's "L": [B, H, W, 3] -> [B, H, W, 1]."""
    # A sum, not a product of matrices: those are of low precision on accelerators.
    return jnp.floor(jnp.sum(pixels * jnp.array([[[_GREY]]], jnp.float32), axis=-1, keepdims=True) + 0.5)
