"""Penalties against loops in numpy and numbers worked out by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delta_jax import regularizers

SHAPES = {"early": (3, 5, 4, 6), "late": (3, 2, 3, 8)}


def _maps(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {tap: rng.standard_normal(shape).astype(np.float32) for tap, shape in SHAPES.items()}


def _loop(maps, source, weights, scale):
    """Eq. 5, written out: sum over taps and filters of s * W_ij * (sum over positions of the squared difference)."""
    total = np.zeros(3)
    for tap, (batch, height, width, channels) in SHAPES.items():
        factor = {"paper": 1.0, "reference": 0.5 if weights is None else 0.5 * channels / (height * width)}[scale]
        for i in range(batch):
            for j in range(channels):
                weight = 1.0 if weights is None else np.broadcast_to(weights[tap], (batch, channels))[i, j]
                difference = maps[tap][i, :, :, j].astype(np.float64) - source[tap][i, :, :, j]
                total[i] += factor * weight * (difference**2).sum()
    return total


@pytest.mark.parametrize("scale", ["paper", "reference"])
@pytest.mark.parametrize("kind", ["none", "per data set", "per image"])
def test_feature_distance_is_the_sum_over_taps_filters_and_positions(kind, scale):
    maps, source, rng = _maps(0), _maps(1), np.random.default_rng(2)
    shapes = {"per data set": lambda b, c: (c,), "per image": lambda b, c: (b, c)}
    weights: Any = None
    if kind != "none":
        weights = {t: rng.uniform(0, 1, shapes[kind](s[0], s[-1])).astype(np.float32) for t, s in SHAPES.items()}
    found = regularizers.feature_distance(maps, source, weights, scale=scale)
    assert found.shape == (3,)
    np.testing.assert_allclose(found, _loop(maps, source, weights, scale), rtol=1e-5)


def test_filter_distances_keep_image_and_filter_apart():
    maps, source = _maps(0)["early"], _maps(1)["early"]
    found = regularizers.filter_distances(jnp.asarray(maps), jnp.asarray(source))
    expected = [[((maps[i, ..., j] - source[i, ..., j]) ** 2).sum() for j in range(6)] for i in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_features_without_positions_are_compared_value_by_value():
    # A Dense layer as tap, [B, C]: the squared differences by hand.
    found = regularizers.filter_distances(jnp.array([[1.0, 5.0]]), jnp.array([[4.0, 4.0]]))
    np.testing.assert_array_equal(found, [[9.0, 1.0]])


def test_maps_in_bfloat16_are_summed_in_float32():
    # 1 + 2^-7 and 1 are neighbours in bfloat16. 64 x 64 squares of 2^-7 are 4096 / 16384 = 1/4 for each of 2 filters;
    # sums in bfloat16 stop growing at 256 of them.
    ones = jnp.ones((1, 64, 64, 2), jnp.bfloat16)
    found = regularizers.feature_distance({"tap": ones + jnp.bfloat16(2**-7)}, {"tap": ones})
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, [0.5])


def test_gradient_where_both_networks_agree_is_zero():
    maps = {"tap": jnp.asarray(_maps(0)["early"])}
    gradient = jax.grad(lambda m: jnp.sum(regularizers.feature_distance(m, maps)))(maps)
    np.testing.assert_array_equal(gradient["tap"], np.zeros(SHAPES["early"]))


def test_gradient_is_twice_the_weighted_difference():
    # d/dx of W_j (x - s)^2 by hand.
    maps, source, weights = _maps(0)["early"], _maps(1)["early"], np.arange(6, dtype=np.float32)
    gradient = jax.grad(
        lambda m: jnp.sum(regularizers.feature_distance({"t": m}, {"t": source}, {"t": jnp.asarray(weights)}))
    )(jnp.asarray(maps))
    np.testing.assert_allclose(gradient, 2 * weights * (maps - source), rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_together_is_named():
    maps, source = _maps(0), _maps(1)
    late = {"late": maps["late"]}
    with pytest.raises(ValueError, match=r"same taps.*'maps': \['early', 'late'\], 'source_maps': \['late'\]"):
        regularizers.feature_distance(maps, late)
    with pytest.raises(ValueError, match="same taps"):
        regularizers.feature_distance(late, late, {"early": jnp.ones(6)})
    with pytest.raises(ValueError, match="at least one"):
        regularizers.feature_distance({}, {})
    with pytest.raises(ValueError, match=r"attention at late has shape \(6,\); expected \(8,\) or \(3, 8\)"):
        regularizers.feature_distance(late, late, {"late": jnp.ones(6)})
    with pytest.raises(ValueError, match=r"\(3, 2, 3, 8\) cannot be compared .* \(3, 5, 4, 6\)"):
        regularizers.feature_distance(late, {"late": source["early"]})
    with pytest.raises(ValueError, match="scale 'mean' is not one of"):
        regularizers.feature_distance(maps, source, scale="mean")


PARAMS = {
    "body": {"conv": {"kernel": jnp.array([1.0, 2.0, 3.0])}},
    "encoder": {"head": {"kernel": jnp.array([[3.0], [4.0]]), "bias": jnp.array([2.0])}, "norm": jnp.array([5.0])},
}


def test_l2_sp_leaves_out_a_nested_head():
    # 1/2 * (1^2 + 2^2 for the kernel, 3^2 for encoder/norm) = 7; the heads differ in shape and do not count.
    source = {
        "body": {"conv": {"kernel": jnp.array([0.0, 4.0, 3.0])}},
        "encoder": {"head": {"kernel": jnp.zeros((2, 9)), "bias": jnp.zeros(9)}, "norm": jnp.array([2.0])},
    }
    assert regularizers.l2_sp(PARAMS, source, head="encoder/head") == 7.0
    gradient = jax.grad(lambda p: regularizers.l2_sp(p, source, head="encoder/head"))(PARAMS)
    np.testing.assert_array_equal(gradient["body"]["conv"]["kernel"], [1.0, -2.0, 0.0])
    np.testing.assert_array_equal(gradient["encoder"]["head"]["kernel"], np.zeros((2, 1)))


def test_l2_sp_does_not_need_the_sources_head():
    source = {"body": PARAMS["body"], "encoder": {"norm": jnp.array([5.0])}}
    assert regularizers.l2_sp(PARAMS, source, head="encoder/head") == 0.0


def test_l2_sp_of_another_network_is_refused():
    source = {"body": PARAMS["body"], "encoder": {"scale": jnp.array([5.0])}}
    with pytest.raises(ValueError, match=r"parameters differ.*'encoder', 'norm'"):
        regularizers.l2_sp(PARAMS, source, head="encoder/head")


def test_head_l2_is_half_the_squares_of_kernel_and_bias():
    # 1/2 * (9 + 16 + 4) by hand.
    assert regularizers.head_l2(PARAMS, head="encoder/head") == 14.5


def test_a_head_that_is_not_there_is_refused():
    for wrong in ("fc", "encoder/fc", "enc"):
        with pytest.raises(ValueError, match=rf"no parameters under the head path '{wrong}'.*\['body', 'encoder'\]"):
            regularizers.head_l2(PARAMS, head=wrong)
