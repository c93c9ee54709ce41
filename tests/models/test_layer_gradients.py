"""The gradients written by hand against those that JAX derives from the plain formulas, in float64."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delta_jax.models.layers import activation, functional_convolution
from delta_jax.models.layers.functional_convolution import DIMENSIONS, dense_conv, depthwise_conv, pointwise_conv
from delta_jax.models.layers.normalization import normalize_batch
from delta_jax.models.layers.pooling import max_pool


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def same_gradients(ours, plain, *arguments):
    """Of a random linear function of the outputs, with respect to every argument."""
    cotangent = draw(9, *jax.eval_shape(plain, *arguments).shape)

    def run(function):
        def value_and_gradients(*arguments):
            out, back = jax.vjp(function, *arguments)
            return out, back(cotangent)

        return jax.jit(value_and_gradients)(*arguments)

    (out, gradients), (expected, plain_gradients) = run(ours), run(plain)
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12)
    for found, wanted in zip(gradients, plain_gradients, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-11)


def test_the_gradient_of_batch_normalisation_is_that_of_its_formula():
    def plain(x, scale, bias):
        mean, var = jnp.mean(x, (0, 1, 2), keepdims=True), jnp.var(x, (0, 1, 2), keepdims=True)
        return (x - mean) / jnp.sqrt(var + 1e-5) * scale.reshape(1, 1, 1, -1) + bias.reshape(1, 1, 1, -1)

    same_gradients(
        lambda *arguments: normalize_batch(*arguments, 1e-5)[0],
        plain,
        draw(0, 3, 4, 5, 6) + 0.3,
        draw(1, 6),
        draw(2, 6),
    )


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_gradient_of_a_pointwise_convolution_is_that_of_a_matrix_product(stride):
    def product(x, kernel):
        return jnp.einsum("bhwc,cf->bhwf", x[:, ::stride, ::stride], kernel[0, 0])

    same_gradients(partial(pointwise_conv, stride=stride), product, draw(0, 2, 6, 5, 3), draw(1, 1, 1, 3, 7))


@pytest.mark.parametrize(
    ("kernel_hw", "stride", "padding", "at_once"),  # images in a group, of six
    [
        ((3, 3), 1, ((1, 1), (1, 1)), 1),
        ((3, 3), 1, ((1, 1), (1, 1)), 2),
        ((3, 3), 2, ((0, 1), (0, 1)), 2),
        ((1, 7), 1, ((0, 0), (3, 3)), 2),
        ((5, 5), 2, ((2, 2),) * 2, 6),
    ],
)
def test_convolutions_sum_their_kernels_gradient_over_groups_of_images(
    kernel_hw, stride, padding, at_once, monkeypatch
):
    x, kernel, kernels = draw(0, 6, 10, 9, 3), draw(1, *kernel_hw, 3, 4), draw(2, *kernel_hw, 1, 3)

    def plain(x, kernel, groups=1):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=DIMENSIONS, feature_group_count=groups
        )

    positions = plain(x, kernel)[0, ..., 0].size
    monkeypatch.setattr(functional_convolution, "FEW_POSITIONS", 0)
    monkeypatch.setattr(functional_convolution, "PATCHES_GROUP", at_once * positions * kernel[..., 0].size)
    monkeypatch.setattr(functional_convolution, "DEPTHWISE_GROUP", at_once * positions * 3)
    same_gradients(lambda x, kernel: dense_conv(x, kernel, stride, padding), plain, x, kernel)
    same_gradients(
        lambda x, kernel: depthwise_conv(x, kernel, stride, padding),
        lambda x, kernel: plain(x, kernel, groups=3),
        x,
        kernels,
    )


@pytest.mark.parametrize(
    ("images", "of_one", "together", "size"),
    [(6, 10, 25, 2), (6, 10, 9, 1), (7, 1, 6, 1), (6, 10, 60, 6)],  # 7 has no divisors between 1 and 7
)
def test_groups_divide_the_images_and_fit(images, of_one, together, size):
    seen = []

    def of_images(x, _):
        seen.append(len(x))
        return jnp.sum(x, 0)

    x = draw(0, images, 3)
    total = functional_convolution._sum_over_groups(of_images, x, x, size=of_one, most=together)
    np.testing.assert_allclose(total, jnp.sum(x, 0), rtol=1e-12)
    assert set(seen) == {size}


@pytest.mark.parametrize("padding", [((1, 1), (1, 1)), ((0, 0), (0, 0)), ((0, 1), (1, 0))])
@pytest.mark.parametrize("size", [(9, 8), (4, 5)])
def test_the_gradient_of_max_pooling_is_flaxs(padding, size):
    x = draw(0, 2, *size, 3)
    same_gradients(lambda x: max_pool(x, 3, 2, padding), lambda x: nn.max_pool(x, (3, 3), (2, 2), padding), x)


def test_of_equal_values_the_first_takes_the_gradient_of_a_maximum():
    # 3x3 windows of stride 2 over 5x5 zeros: each one's first value is its upper left corner.
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(max_pool(x, 3, 2, ((0, 0), (0, 0))))))(np.zeros((1, 5, 5, 1)))
    expected = np.zeros((5, 5))
    expected[np.ix_([0, 2], [0, 2])] = 1
    np.testing.assert_array_equal(gradient[0, :, :, 0], expected)


@pytest.mark.parametrize(("name", "expected"), [("relu", [0, 0, 1, 1, 1]), ("relu6", [0, 0, 1, 0, 0])])
def test_activations_have_no_gradient_at_their_corners(name, expected):
    # torch.nn.functional.relu and hardtanh give 0 there.
    gradient = jax.vmap(jax.grad(getattr(activation, name)))(jnp.array([-1.0, 0.0, 3.0, 6.0, 7.0]))
    np.testing.assert_array_equal(gradient, expected)


def test_bfloat16_maps_are_normalised_in_float32():
    x = draw(0, 4, 3, 3, 8).astype(jnp.bfloat16)
    ones, zeros = jnp.ones(8, jnp.float32), jnp.zeros(8, jnp.float32)
    y, mean, var = jax.eval_shape(lambda x: normalize_batch(x, ones, zeros, 1e-5), x)
    assert y.dtype == mean.dtype == var.dtype == jnp.float32
    d_x = jax.eval_shape(jax.grad(lambda x: jnp.sum(normalize_batch(x, ones, zeros, 1e-5)[0] ** 2)), x)
    assert d_x.dtype == jnp.bfloat16
