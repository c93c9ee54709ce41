"""Rectangles scaled to squares against Pillow, and the rectangles drawn against torchvision's rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from delta_jax.data import random_resized_crop, to_canvas
from delta_jax.data.resized_crop import random_boxes, resized_crop

# Height and width of images; top, left, height and width of a rectangle in each: shrunk, blown up, thin, whole, edge.
CASES = [
    ((40, 60), (3, 7, 30, 41)),
    ((40, 60), (31, 50, 9, 10)),
    ((64, 40), (0, 0, 64, 40)),
    ((64, 40), (40, 13, 24, 27)),
    ((40, 80), (0, 33, 40, 47)),
    ((40, 40), (5, 5, 20, 20)),
    ((40, 40), (39, 0, 1, 40)),
]
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def pillow(image: np.ndarray, box: tuple[int, ...], size: int, interpolation: str) -> np.ndarray:
    top, left, height, width = box
    part = Image.fromarray(image).crop((left, top, left + width, top + height))
    return np.asarray(part.resize((size, size), FILTERS[interpolation])).astype(int)


# Noise of all levels; for the bicubic filter of 60 to 195, so that it does not overshoot black or white.
@pytest.mark.parametrize(("interpolation", "low", "high"), [("bilinear", 0, 256), ("bicubic", 60, 196)])
@pytest.mark.parametrize("size", [20, 33])
def test_within_one_grey_level_of_pillow(interpolation, low, high, size):
    rng = np.random.default_rng(0)
    images = [rng.integers(low, high, (*shape, 3), np.uint8) for shape, _ in CASES]
    boxes = np.array([box for _, box in CASES], np.int32)
    canvas = to_canvas(images)
    for i, length in enumerate(canvas.lengths):
        canvas.pixels[i, length:] = 255  # must not show
    found = np.asarray(jax.jit(resized_crop, static_argnums=(2, 3))(canvas, boxes, size, interpolation)).astype(int)
    for square, image, box in zip(found, images, boxes, strict=True):
        assert np.abs(square - pillow(image, box, size, interpolation)).max() <= 1
    squares = np.stack(images[-2:])  # the two of 40 x 40, in an array
    again = np.asarray(jax.jit(resized_crop, static_argnums=(2, 3))(squares, boxes[-2:], size, interpolation))
    # Another program: where a level lies in the middle between two whole ones, it may round the other way.
    assert np.abs(again - found[-2:]).max() <= 1
    assert (again != found[-2:]).mean() < 0.005


def test_a_step_from_black_to_white_is_clipped_as_pillow_does():
    image = np.zeros((30, 40, 3), np.uint8)
    image[:, 20:] = 255
    scale = jax.jit(resized_crop, static_argnums=(2, 3))
    found = np.asarray(scale(to_canvas([image]), np.array([[0, 10, 30, 20]], np.int32), 50, "bicubic"))[0].astype(int)
    assert np.abs(found - pillow(image, (0, 10, 30, 20), 50, "bicubic")).max() <= 1


def test_boxes_are_within_the_image_and_of_the_areas_and_shapes_asked_for():
    heights, widths = jnp.full((4000,), 256, jnp.int32), jnp.full((4000,), 341, jnp.int32)
    boxes = np.asarray(jax.jit(random_boxes, static_argnums=3)(jax.random.key(0), heights, widths, 0.2))
    top, left, height, width = boxes.T
    assert min(top.min(), left.min()) == 0
    assert (top + height).max() == 256
    assert (left + width).max() == 341
    share, ratio = height * width / (256 * 341), width / height
    # Rounding to whole pixels moves a side of 100 pixels or more by half a pixel.
    assert 0.2 * 0.99 < share.min() < 0.21
    assert 0.95 < share.max() <= 1
    assert 0.75 * 0.99 < ratio.min() < 0.76
    assert 1.32 < ratio.max() < 4 / 3 * 1.01
    # What torchvision's loop draws, written out in numpy: the same mean area and shape (standard errors 0.004).
    rng, drawn = np.random.default_rng(0), []
    while len(drawn) < 4000:
        area, shape = 256 * 341 * rng.uniform(0.2, 1), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * shape)), round(np.sqrt(area / shape))
        if w <= 341 and h <= 256:
            drawn.append((h * w / (256 * 341), w / h))
    np.testing.assert_allclose([share.mean(), ratio.mean()], np.mean(drawn, axis=0), atol=0.015)


def test_where_nothing_fits_the_largest_in_the_middle_is_taken():
    # All of the area is asked for, and 1 : 2 and 2 : 1 are beyond 3 : 4 and 4 : 3: torchvision's fallback by hand.
    heights, widths = jnp.array([40, 20], jnp.int32), jnp.array([20, 40], jnp.int32)
    boxes = jax.jit(random_boxes, static_argnums=3)(jax.random.key(0), heights, widths, 1.0)
    # 20 / (3/4) = 26.67 -> 27 high, (40 - 27) // 2 = 6 from the top; the same lying down, 20 * 4/3 -> 27 wide.
    np.testing.assert_array_equal(boxes, [[6, 0, 27, 20], [0, 6, 20, 27]])


def test_the_key_decides_and_half_are_mirrored():
    # A ramp from left to right: mirrored where it falls.
    ramp = np.broadcast_to(np.arange(0, 240, 5, np.uint8)[None, :, None], (32, 48, 3))
    images = to_canvas([ramp] * 200)
    crop = jax.jit(
        lambda seed, mirror: random_resized_crop(jax.random.key(seed), images, 8, mirror=mirror), static_argnums=1
    )
    first, straight = np.asarray(crop(0, True)), np.asarray(crop(0, False))
    np.testing.assert_array_equal(crop(0, True), first)
    assert (crop(1, True) != first).any()
    falls = first[:, 0, 0, 0] > first[:, 0, -1, 0]
    assert 70 < falls.sum() < 130
    assert not (straight[:, 0, 0, 0] > straight[:, 0, -1, 0]).any()
    np.testing.assert_array_equal(straight[falls][:, :, ::-1], first[falls])
