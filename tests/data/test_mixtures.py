"""Mixup, CutMix, random erasing and quarter turns: what they do to pixels and labels, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delta_jax import data
from delta_jax.data import erasing

B, SIDE, K = 64, 16, 5
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((B, SIDE, SIDE, 3)).astype(np.float32)
LABELS = RNG.integers(0, K, B)


def mixed(key=0, images=IMAGES, **amounts):
    make = jax.jit(lambda key: data.mix_batch(key, jnp.asarray(images), jnp.asarray(LABELS), K, **amounts))
    return [np.asarray(one) for one in make(jax.random.key(key))]


def share_of_own(shares):
    """The share of each image itself, NaN where its partner has the same class."""
    before = np.roll(LABELS, 1)
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-6)
    own = shares[np.arange(B), LABELS]
    np.testing.assert_allclose(own + np.where(before == LABELS, 0, shares[np.arange(B), before]), 1, rtol=1e-6)
    return np.where(before == LABELS, np.nan, own)


def test_mixup_is_the_weighted_mean_of_an_image_and_the_one_before_it():
    images, shares = mixed(mixup=0.4)
    own, partners = share_of_own(shares), np.roll(IMAGES, 1, axis=0)
    told = np.flatnonzero(~np.isnan(own))
    assert len(told) > 40
    for i in told:
        np.testing.assert_allclose(images[i], own[i] * IMAGES[i] + (1 - own[i]) * partners[i], atol=1e-5)
    # Beta(a, a) has the mean 1/2 and the variance 1 / (4 (2 a + 1)): 0.139 for 0.4; errors of 64 draws.
    assert abs(np.nanmean(own) - 0.5) < 0.2
    assert 0.09 < np.nanvar(own) < 0.19


def test_cutmix_puts_a_rectangle_of_the_one_before_into_an_image():
    images, shares = mixed(cutmix=1.0)
    own, partners = share_of_own(shares), np.roll(IMAGES, 1, axis=0)
    seen = set()
    for i in range(B):
        taken = (images[i] == partners[i]).all(-1)
        np.testing.assert_array_equal(images[i], np.where(taken[..., None], partners[i], IMAGES[i]))
        rows, columns = taken.any(1), taken.any(0)
        np.testing.assert_array_equal(taken, rows[:, None] & columns[None])  # it is a rectangle, and in one piece
        for line in (rows, columns):
            assert np.abs(np.diff(line.astype(int))).sum() <= 2
        if not np.isnan(own[i]):
            assert own[i] == pytest.approx(1 - taken.mean(), abs=1e-6)  # what is left after clipping at the edge
        seen.add(int(taken.sum()))
    assert len(seen) > 20


def test_with_both_each_image_is_mixed_in_one_of_the_ways():
    images, _ = mixed(mixup=1.0, cutmix=1.0)
    partners = np.roll(IMAGES, 1, axis=0)
    pasted = [((found == a) | (found == b)).all() for found, a, b in zip(images, IMAGES, partners, strict=True)]
    assert 16 < sum(pasted) < 48
    other, _ = mixed(1, mixup=1.0, cutmix=1.0)
    assert (other != images).any()


def test_mixtures_keep_the_type_of_the_images():
    images, shares = mixed(images=IMAGES.astype(jnp.bfloat16), mixup=0.4)
    exact, _ = mixed(mixup=0.4)
    assert (images.dtype, shares.dtype) == (jnp.bfloat16, np.float32)
    np.testing.assert_allclose(images.astype(np.float32), exact, atol=0.05)


def test_erasing_leaves_a_hole_of_zeros_in_as_many_images_as_asked_for():
    images = np.ones((600, 20, 20, 3), np.float32)
    found = np.asarray(jax.jit(data.random_erasing)(jax.random.key(0), images, 0.25))
    holes = found[..., 0] == 0
    np.testing.assert_array_equal(found, np.where(holes[..., None], 0, images))
    lost = holes.any((1, 2))
    assert 110 < lost.sum() < 190  # 150 expected, standard deviation 10.6
    for hole in holes[lost]:
        np.testing.assert_array_equal(hole, hole.any(1)[:, None] & hole.any(0)[None])


def test_erased_boxes_are_of_the_areas_and_shapes_asked_for_and_fit():
    b, height, width = 4000, 200, 260
    boxes = np.asarray(jax.jit(erasing.erased_boxes, static_argnums=(1, 2, 3))(jax.random.key(1), b, height, width))
    top, left, h, w = boxes.T.astype(float)
    assert (h > 0).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()
    area, ratio = h * w / (height * width), h / w
    # Rounding of a side moves both by a few per cent; the area is uniform, so its mean is (0.02 + 0.33) / 2.
    assert 0.018 < area.min() < 0.03
    assert 0.31 < area.max() < 0.34
    assert area.mean() == pytest.approx(0.175, abs=0.006)
    assert 0.28 < ratio.min() < 0.35
    assert 2.7 < ratio.max() < 3.5
    assert np.log(ratio).mean() == pytest.approx(0, abs=0.05)


def test_photos_without_an_up_are_turned_by_all_quarters():
    squares = RNG.integers(0, 256, (200, 4, 4, 3), np.uint8)
    turned = np.asarray(jax.jit(data.quarter_turns)(jax.random.key(0), squares))
    found = []
    for square, one in zip(squares, turned, strict=True):
        (k,) = [k for k in range(4) if np.array_equal(np.rot90(square, k), one)]
        found.append(k)
    assert min(np.bincount(found, minlength=4)) > 25  # 50 expected


@pytest.mark.parametrize(("mirror", "positions"), [(True, 8), (False, 4)])
def test_a_view_of_a_photo_without_an_up_has_any_of_its_positions(mirror, positions):
    photo = RNG.integers(0, 256, (6, 6, 3), np.uint8)
    photos = np.broadcast_to(photo, (400, 6, 6, 3))
    view = jax.jit(lambda key: data.random_view(key, photos, 6, mirror=mirror, upright=False))
    found = {one.tobytes() for one in np.asarray(view(jax.random.key(0)))}
    every = {np.rot90(side, k).tobytes() for side in (photo, photo[:, ::-1])[: 1 + mirror] for k in range(4)}
    assert found == every
    assert len(every) == positions
    assert photo[::-1].tobytes() in every or not mirror  # upside down


def test_a_photo_with_an_up_has_the_views_that_it_always_had():
    photos = RNG.integers(0, 256, (8, 9, 9, 3), np.uint8)
    view = jax.jit(lambda key, upright: data.random_view(key, photos, 6, upright=upright), static_argnums=1)
    plain = jax.jit(data.random_crop_mirror, static_argnums=2)(jax.random.key(3), photos, 6)
    np.testing.assert_array_equal(view(jax.random.key(3), True), plain)
    for turned, crop in zip(view(jax.random.key(3), False), plain, strict=True):  # the same crops, turned
        assert any(np.array_equal(np.rot90(crop, k), turned) for k in range(4))
