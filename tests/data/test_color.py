"""Color jitter against Pillow's ImageEnhance and Python's colorsys."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from delta_jax.data import color_jitter
from delta_jax.data.color import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Noise, greys, pure colors and black and white, as a dark, a bright and two full images."""
    made = np.random.default_rng(0).integers(0, 256, (4, 9, 11, 3), np.uint8)
    made[0] //= 3
    made[1] = 255 - made[1] // 3
    made[2, :, :5] = made[2, :, :5, :1]
    made[3, 0, :8] = [[255 * bit for bit in map(int, f"{n:03b}")] for n in range(8)]
    return made


@pytest.mark.parametrize(
    ("adjust", "enhance"),
    [
        (adjust_brightness, ImageEnhance.Brightness),
        (adjust_contrast, ImageEnhance.Contrast),
        (adjust_saturation, ImageEnhance.Color),
    ],
)
def test_within_one_grey_level_of_pillow(images, adjust, enhance):
    factors = np.array([0.0, 1.7, 0.6, 1.2], np.float32)
    found = np.asarray(jax.jit(adjust)(jnp.asarray(images, jnp.float32), factors))
    for image, factor, adjusted in zip(images, factors, found, strict=True):
        expected = np.asarray(enhance(Image.fromarray(image)).enhance(float(factor))).astype(float)
        assert np.abs(adjusted - expected).max() <= 1
    unchanged = adjust(jnp.asarray(images, jnp.float32), jnp.ones(4, jnp.float32))
    np.testing.assert_allclose(unchanged, images, atol=1e-3)


def test_hue_turns_as_in_colorsys(images):
    turns = np.array([0.1, -0.1, 0.5, -0.37], np.float32)
    found = np.asarray(jax.jit(adjust_hue)(jnp.asarray(images, jnp.float32), turns))
    for n, turn in enumerate(turns):
        for place in np.ndindex(images.shape[1:3]):
            hue, saturation, value = colorsys.rgb_to_hsv(*(images[n][place] / 255).tolist())
            expected = colorsys.hsv_to_rgb((hue + float(turn)) % 1, saturation, value)
            np.testing.assert_allclose(found[n][place] / 255, expected, atol=1e-4)


def test_the_factors_are_drawn_per_image_within_their_strengths():
    grey = jnp.full((500, 2, 2, 3), 100, jnp.uint8)
    levels = np.asarray(color_jitter(jax.random.key(0), grey, (0.4, 0, 0, 0)))[:, 0, 0, 0]
    assert levels.min() in (60, 61)
    assert levels.max() in (139, 140)
    assert abs(levels.mean() - 100) < 4  # standard error 40 / sqrt(3 * 500) = 1
    # A factor below 0 would turn the image into its negative.
    assert np.asarray(color_jitter(jax.random.key(0), grey, (1.5, 0, 0, 0))).min() in (0, 1)


def test_in_the_order_brightness_contrast_saturation_hue(images):
    strengths, key = (0.4, 0.3, 0.2, 0.1), jax.random.key(5)
    found = np.asarray(jax.jit(lambda x: color_jitter(key, x, strengths))(images))
    keys = jax.random.split(key, 4)
    pixels = jnp.asarray(images, jnp.float32)
    for n, adjust in enumerate((adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)):
        middle = 0 if n == 3 else 1
        low, high = middle - strengths[n], middle + strengths[n]
        pixels = adjust(pixels, jax.random.uniform(keys[n], (4,), jnp.float32, low, high))
    np.testing.assert_allclose(found, pixels, atol=0.51)
    assert (found != images).any()
    np.testing.assert_array_equal(color_jitter(key, jnp.asarray(images), (0, 0, 0, 0)), images)
