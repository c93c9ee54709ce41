"""Images of different sizes on one canvas: every crop against the same crop of the image by itself, in numpy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delta_jax.data import Canvas, center_crop, random_crop_mirror, random_view, ten_crop, to_canvas
from delta_jax.data import canvas as canvases

S = 8
# Height and width: wide, high, square, as long as a canvas, odd margins of every kind.
SHAPES = [(8, 11), (11, 8), (8, 8), (16, 8), (8, 16), (9, 8), (8, 13), (8, 15), (10, 8)]


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in SHAPES]


@pytest.fixture(scope="module")
def canvas(images) -> Canvas:
    """Beyond each image lies 255, which no image has more than a few of: it would show."""
    made = to_canvas(images)
    pixels = made.pixels.copy()
    for i, length in enumerate(made.lengths):
        assert not pixels[i, length:].any()
        pixels[i, length:] = 255
    return Canvas(pixels, made.lengths, made.transposed)


def test_the_long_side_comes_first(images, canvas):
    assert canvas.pixels.shape == (len(SHAPES), 2 * S, S, 3)
    assert canvas.lengths.tolist() == [max(shape) for shape in SHAPES]
    assert canvas.transposed.tolist() == [w > h for h, w in SHAPES]
    for image, stored, length, transposed in zip(images, *canvas, strict=True):
        np.testing.assert_array_equal(stored[:length].swapaxes(0, 1) if transposed else stored[:length], image)


@pytest.mark.parametrize("size", [8, 7, 6, 3])
def test_center_crop_is_that_of_each_image(images, canvas, size):
    crops = jax.jit(center_crop, static_argnums=1)(canvas, size)
    for image, crop in zip(images, crops, strict=True):
        # Python's round, as torchvision's center_crop.
        top, left = (round((side - size) / 2) for side in image.shape[:2])
        np.testing.assert_array_equal(crop, image[top : top + size, left : left + size])


@pytest.mark.parametrize("size", [8, 5])
def test_ten_crops_are_those_of_each_image(images, canvas, size):
    crops = np.asarray(jax.jit(ten_crop, static_argnums=1)(canvas, size))
    assert crops.shape == (10, len(SHAPES), size, size, 3)
    for n, image in enumerate(images):
        expected = []
        for view in (image, image[:, ::-1]):
            h, w = view.shape[:2]
            middle = round((h - size) / 2), round((w - size) / 2)
            for top, left in [(0, 0), (0, w - size), (h - size, 0), (h - size, w - size), middle]:
                expected.append(view[top : top + size, left : left + size])
        np.testing.assert_array_equal(crops[:, n], expected)


@pytest.mark.parametrize("mirror", [True, False])
def test_random_crops_come_from_everywhere_within_the_image(images, canvas, mirror):
    size, draws = 7, 300
    crop = jax.jit(jax.vmap(lambda key: random_crop_mirror(key, canvas, size, mirror=mirror)))
    crops = np.asarray(crop(jax.random.split(jax.random.key(0), draws)))
    for n, image in enumerate(images):
        places = {}
        for top in range(image.shape[0] - size + 1):
            for left in range(image.shape[1] - size + 1):
                cut = image[top : top + size, left : left + size]
                places[cut.tobytes()] = (top, left, False)
                if mirror:
                    places[cut[:, ::-1].tobytes()] = (top, left, True)
        # At most 40 places: of 300 draws one is missed with chance 40 * (39/40)^300 = 0.02, for the longest images.
        found = {places[crop.tobytes()] for crop in crops[:, n]}
        assert len(found) >= len(places) - 1


def test_squares_on_a_canvas_get_the_crops_of_squares_in_an_array(images):
    squares = np.random.default_rng(1).integers(0, 256, (16, S, S, 3), np.uint8)
    view = jax.jit(lambda images, augment: random_view(jax.random.key(3), images, 6, augment=augment), static_argnums=1)
    for augment in ("crop", "resized_crop", "none"):
        np.testing.assert_array_equal(view(to_canvas(list(squares)), augment), view(squares, augment))


def test_split_over_devices_the_views_are_the_same(images):
    canvas = jax.tree.map(jnp.asarray, to_canvas(images[:8]))
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    split = jax.device_put(canvas, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    view = jax.jit(lambda key, x: random_view(key, x, 6, augment="resized_crop", jitter=(0.4, 0.4, 0.4, 0.1)))
    np.testing.assert_array_equal(view(jax.random.key(1), split), view(jax.random.key(1), canvas))


def test_images_of_other_sizes_need_no_other_program(images):
    programs = []

    @jax.jit
    def view(key, canvas):
        programs.append(1)
        return random_view(key, canvas, 6, augment="resized_crop")

    view(jax.random.key(0), to_canvas(images[:4]))
    view(jax.random.key(1), to_canvas(images[4:8]))
    assert len(programs) == 1


def test_a_crop_larger_than_the_shorter_side_is_refused(canvas):
    for crop in (center_crop, ten_crop, lambda x, size: random_crop_mirror(jax.random.key(0), x, size)):
        with pytest.raises(ValueError, match="a crop of 9 pixels does not fit"):
            crop(canvas, 9)


def test_squares_by_products_are_those_by_slices():
    # All values of a byte, odd sides, every corner: what TPUs compute, computed here in bfloat16.
    images = np.arange(6 * 9 * 8 * 3, dtype=np.int64).reshape(6, 9, 8, 3).astype(np.uint8)
    top, left = np.array([0, 0, 4, 4, 2, 1], np.int32), np.array([0, 3, 0, 3, 1, 2], np.int32)
    expected = np.stack([image[t : t + 5, s : s + 5] for image, t, s in zip(images, top, left, strict=True)])
    for squares in (canvases.squares_by_slices, canvases.squares_by_products):
        np.testing.assert_array_equal(jax.jit(partial(squares, size=5))(images, top, left), expected)


def test_tpus_cut_by_products_and_others_by_slices():
    def text(images, platform):
        whole = np.zeros(4, np.int32)
        traced = jax.jit(partial(canvases.cut, size=5)).trace(images, whole, whole)
        return traced.lower(lowering_platforms=(platform,)).as_text()

    images = np.zeros((4, 8, 8, 3), np.uint8)
    assert [platform for platform in ("cpu", "cuda", "tpu") if "dot_general" in text(images, platform)] == ["tpu"]
    assert "dot_general" not in text(images.astype(np.float32), "tpu")  # only bytes are exact
