"""Normalised maps against loops and numbers worked out by hand."""

import numpy as np
import pytest
from matplotlib import colormaps

from delta_jax.analysis.activation_maps import low_filters, mean_map, overlay, unit_range


def test_constant_maps_are_all_zero():
    np.testing.assert_array_equal(unit_range(np.full((2, 2), 3.0)), np.zeros((2, 2)))
    # (a - min) / (max - min) by hand
    np.testing.assert_allclose(unit_range(np.array([[-1.0, 0.0], [1.0, 3.0]])), [[0, 0.25], [0.5, 1]])


def test_the_mean_of_maps_that_are_each_scaled_by_themselves():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(2, 3, 4, 5)) * 10.0 ** np.arange(5)  # of very different sizes
    maps[1, :, :, 2] = 7.0
    chosen = np.array([0, 2, 4])
    expected = np.zeros((2, 3, 4))
    for image in range(2):
        for j in chosen:
            one = maps[image, :, :, j]
            if one.max() > one.min():
                expected[image] += (one - one.min()) / (one.max() - one.min()) / 3
    np.testing.assert_allclose(mean_map(maps, chosen), expected, atol=1e-6)
    np.testing.assert_allclose(mean_map(maps[..., chosen]), expected, atol=1e-6)


def test_the_filters_of_low_activation():
    # What is positive of the maps has the means 2, 0 (all negative), 1 and 0.5, over images and positions.
    maps = np.array([[[[2, -9, 2, -8]]], [[[2, -9, -7, 1]]]], np.float32)
    np.testing.assert_array_equal(low_filters(maps, 0.25), [1])
    np.testing.assert_array_equal(low_filters(maps, 0.5), [1, 3])
    np.testing.assert_array_equal(low_filters(maps, 0.01), [1])  # one at least
    np.testing.assert_array_equal(low_filters(maps, 1), [0, 1, 2, 3])
    with pytest.raises(ValueError, match=r"shape \(2, 4\), expected \(images, h, w, filters\)"):
        low_filters(maps[:, 0, 0])


def test_the_overlay_is_half_photo_half_colours():
    photo = np.zeros((8, 12, 3), np.uint8)
    photo[:, 6:] = [30, 60, 90]  # mean grey 60
    shown = overlay(photo, np.array([[-5.0, 3.0]]))
    assert shown.shape == photo.shape
    assert shown.dtype == np.uint8
    low, high = (np.array(colormaps["viridis"](end)[:3]) for end in (0.0, 1.0))
    np.testing.assert_array_equal(shown[0, 0], np.rint(127.5 * low))
    np.testing.assert_array_equal(shown[7, 11], np.rint(30 + 127.5 * high))
