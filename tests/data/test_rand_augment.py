"""RandAugment's operations against Pillow, whose they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from delta_jax.data import rand_augment
from delta_jax.data.rand_augment import OPERATIONS, compared, operate, scattered

SIDE = 24
RNG = np.random.default_rng(0)
# Noise, noise of few levels, one colour, and one with a channel of one level.
IMAGES = np.stack(
    [
        RNG.integers(0, 256, (SIDE, SIDE, 3)),
        RNG.integers(60, 120, (SIDE, SIDE, 3)),
        np.full((SIDE, SIDE, 3), (10, 200, 30)),
        np.concatenate([RNG.integers(0, 9, (SIDE, SIDE, 2)), np.full((SIDE, SIDE, 1), 77)], -1),
    ]
).astype(np.uint8)


def pillow(image, name, sign, magnitude):
    """As torchvision 0.29.1's RandAugment has Pillow do it: `_augmentation_space`, `_apply_op`."""
    level = sign * magnitude / 30
    moved = {
        "shear_x": (1, 0.3 * level, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, 0.3 * level, 1, 0),
        "translate_x": (1, 0, -int(150 / 331 * SIDE * level), 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, -int(150 / 331 * SIDE * level)),
    }
    blends = {
        "brightness": ImageEnhance.Brightness,
        "color": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "sharpness": ImageEnhance.Sharpness,
    }
    if name in moved:
        return image.transform(image.size, Image.Transform.AFFINE, moved[name], Image.Resampling.NEAREST)
    if name in blends:
        return blends[name](image).enhance(1 + 0.9 * level)
    plain = {
        "identity": lambda: image,
        "rotate": lambda: image.rotate(30 * level, Image.Resampling.NEAREST),
        "posterize": lambda: ImageOps.posterize(image, 8 - round(magnitude / 7.5)),
        "solarize": lambda: ImageOps.solarize(image, 255 - 255 * magnitude / 30),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
    }
    return plain[name]()


@pytest.mark.parametrize("magnitude", [9, 30])
def test_every_operation_is_pillows(magnitude):
    signs = np.array([1.0, -1.0, 1.0, -1.0], np.float32)
    run = jax.jit(operate, static_argnums=3)
    for number, name in enumerate(OPERATIONS):
        found = np.asarray(run(IMAGES, jnp.full(4, number, jnp.int32), signs, magnitude))
        for one, image, sign in zip(found, IMAGES, signs, strict=True):
            expected = np.asarray(pillow(Image.fromarray(image), name, float(sign), magnitude))
            if name == "rotate":  # float32: a pixel on the border of two
                assert (one != expected).any(-1).mean() < 0.01
            else:
                np.testing.assert_array_equal(one, expected, err_msg=f"{name} {sign}")


def test_every_image_of_a_batch_has_an_operation_of_its_own():
    photos = np.broadcast_to(IMAGES[0], (14, SIDE, SIDE, 3))
    numbers = jnp.arange(14, dtype=jnp.int32)
    together = jax.jit(operate, static_argnums=3)(photos, numbers, jnp.ones(14), 9)
    for name, one in zip(OPERATIONS, np.asarray(together), strict=True):
        expected = np.asarray(pillow(Image.fromarray(IMAGES[0]), name, 1.0, 9))
        assert (one != expected).any(-1).mean() < 0.01, name
    assert len({one.tobytes() for one in np.asarray(together)}) > 11


def test_both_ways_to_count_levels_are_numpys():
    expected = [[np.bincount(image[..., c].ravel(), minlength=256) for c in range(3)] for image in IMAGES]
    expected = np.moveaxis(np.array(expected), 1, 2)
    for count in (scattered, compared):
        np.testing.assert_array_equal(jax.jit(count)(IMAGES.astype(np.int32)), expected)


def test_operations_are_drawn_alike_and_in_both_directions():
    photos = np.broadcast_to(IMAGES[0], (700, SIDE, SIDE, 3))
    found = np.asarray(jax.jit(rand_augment, static_argnums=(2, 3))(jax.random.key(0), photos, 1, 9))
    seen = [one.tobytes() for one in found]
    counts = {form: seen.count(form) for form in set(seen)}
    # Nine of the fourteen have two directions. One channel of this noise is not of all levels: autocontrast shows.
    assert len(counts) == 14 + 9
    assert counts[IMAGES[0].tobytes()] > 25  # 50 expected
    assert min(counts.values()) > 8  # 25 expected of one direction
    twice = jax.jit(rand_augment, static_argnums=(2, 3))(jax.random.key(0), photos[:50], 2, 9)
    assert len({one.tobytes() for one in np.asarray(twice)}) > 35
