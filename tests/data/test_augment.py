"""Crops and normalisation, against loops over the pixels in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delta_jax.data import (
    center_crop,
    color_jitter,
    normalize,
    random_crop_mirror,
    random_resized_crop,
    random_view,
    ten_crop,
)

crops_of = jax.jit(random_crop_mirror, static_argnums=2)  # one program for all that have a shape in common


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def all_crops(image: np.ndarray, size: int) -> dict[bytes, tuple[int, int, bool]]:
    """Every crop there is: its pixels, and where it comes from."""
    found = {}
    for top in range(image.shape[0] - size + 1):
        for left in range(image.shape[1] - size + 1):
            crop = image[top : top + size, left : left + size]
            found[crop.tobytes()] = (top, left, False)
            found[crop[:, ::-1].tobytes()] = (top, left, True)
    return found


def test_random_crops_are_crops_from_everywhere():
    images = noise(400, 8, 9, 3)
    crops = crops_of(jax.random.key(0), images, 6)
    assert crops.shape == (400, 6, 6, 3)
    assert crops.dtype == jnp.uint8
    origins = [all_crops(image, 6)[np.asarray(crop).tobytes()] for image, crop in zip(images, crops, strict=True)]
    # 3 * 4 places, each mirrored or not: of 400 draws none of the 24 is missed (chance 24 * (23/24)^400 < 1e-6).
    assert len(set(origins)) == 24
    assert {top for top, _, _ in origins} == {0, 1, 2}
    assert {left for _, left, _ in origins} == {0, 1, 2, 3}
    assert 150 < sum(mirrored for _, _, mirrored in origins) < 250


def test_the_same_key_gives_the_same_crops_and_another_one_others():
    images = noise(16, 8, 8, 3)
    first = crops_of(jax.random.key(1), images, 6)
    np.testing.assert_array_equal(crops_of(jax.random.key(1), images, 6), first)
    assert (crops_of(jax.random.key(2), images, 6) != first).any()


def test_known_crops():
    # Recorded once, with the crops of version 0.1: a run resumed with another version must see the same crops.
    images = np.arange(8 * 5 * 6, dtype=np.uint8).reshape(8, 5, 6, 1)
    crops = np.asarray(jax.jit(random_view, static_argnums=2)(jax.random.key(5), images, 3))
    np.testing.assert_array_equal(crops[:, 0, 0, 0] - images[:, 0, 0, 0], [6, 14, 11, 14, 13, 16, 0, 13])
    np.testing.assert_array_equal(np.flatnonzero(crops[:, 0, 0, 0] > crops[:, 0, 1, 0]), [2, 5])


def test_each_augmentation_by_its_name_gives_the_views_of_its_function():
    images, key = noise(8, 8, 9, 3), jax.random.key(2)

    @jax.jit
    def both(images):
        crop = random_crop_mirror(key, images, 6)
        resized = random_resized_crop(key, images, 6, interpolation="bicubic", least_area=0.5)
        return [
            (random_view(key, images, 6, augment="none"), center_crop(images, 6)),
            (random_view(key, images, 6), crop),
            (random_view(key, images, 6, mirror=False), random_crop_mirror(key, images, 6, mirror=False)),
            (
                random_view(key, images, 6, jitter=(0.4, 0, 0, 0)),
                color_jitter(jax.random.fold_in(key, 1), crop, (0.4, 0, 0, 0)),
            ),
            (random_view(key, images, 6, augment="resized_crop", interpolation="bicubic", least_area=0.5), resized),
        ]

    found = jax.tree.map(np.asarray, both(images))
    for view, expected in found:
        np.testing.assert_array_equal(view, expected)
    plain, straight = found[1][0], found[2][0]
    mirrored = (straight != plain).any((1, 2, 3))
    assert 0 < mirrored.sum() < 8
    np.testing.assert_array_equal(straight[mirrored][:, :, ::-1], plain[mirrored])


def test_sharded_batches_get_the_same_crops():
    images = noise(16, 8, 8, 3)
    devices = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    sharding = jax.sharding.NamedSharding(devices, jax.sharding.PartitionSpec("data"))
    sharded = crops_of(jax.random.key(1), jax.device_put(images, sharding), 6)
    np.testing.assert_array_equal(sharded, crops_of(jax.random.key(1), images, 6))


@pytest.mark.parametrize(("side", "size", "start"), [(8, 8, 0), (8, 6, 1), (7, 6, 0), (9, 6, 2), (11, 6, 2)])
def test_center_crop_rounds_half_to_even(side, size, start):
    # start: int(round((side - size) / 2)) with Python's round, as in torchvision's center_crop: 0.5 -> 0, 1.5 -> 2
    images = noise(2, side, side, 3)
    expected = images[:, start : start + size, start : start + size]
    np.testing.assert_array_equal(center_crop(jnp.asarray(images), size), expected)


def test_ten_crops_are_corners_and_middle_straight_and_mirrored():
    images = noise(2, 8, 9, 3)
    crops = np.asarray(jax.jit(ten_crop, static_argnums=1)(images, 6))
    assert crops.shape == (10, 2, 6, 6, 3)
    # Top and left of the corners of 8 x 9, and of the middle: round(2 / 2), round(3 / 2).
    places = [(0, 0), (0, 3), (2, 0), (2, 3), (1, 2)]
    for i, (top, left) in enumerate(places):
        np.testing.assert_array_equal(crops[i], images[:, top : top + 6, left : left + 6])
        mirrored = images[:, :, ::-1]
        np.testing.assert_array_equal(crops[5 + i], mirrored[:, top : top + 6, left : left + 6])


@pytest.mark.parametrize("shape", [(2, 3, 3, 3), (10, 2, 3, 3, 3)])
def test_pixels_are_centred_and_scaled_channel_by_channel(shape):
    images, mean, std = noise(*shape), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    result = jax.jit(lambda x: normalize(x, mean, std, jnp.float32))(images)
    expected = np.empty(shape)
    for index, value in np.ndenumerate(images):
        expected[index] = (value / 255 - mean[index[-1]]) / std[index[-1]]
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, atol=1e-6)
    low = normalize(jnp.asarray(images), mean, std, jnp.bfloat16)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), expected, atol=0.01)


def test_a_crop_that_does_not_fit_and_a_mean_of_another_length_are_refused():
    images = jnp.zeros((2, 8, 8, 3), jnp.uint8)
    for crop in (center_crop, ten_crop, lambda x, size: random_crop_mirror(jax.random.key(0), x, size)):
        with pytest.raises(ValueError, match=r"crop of 9 pixels does not fit images of shape \(2, 8, 8, 3\)"):
            crop(images, 9)
    with pytest.raises(ValueError, match="mean has 1 and std 3 values, expected 3"):
        normalize(images, (0.5,), (1.0, 1.0, 1.0))
