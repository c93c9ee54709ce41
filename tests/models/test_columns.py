"""Layers with columns side by side have the numbers of plain layers: jax's own, and numpy loops."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delta_jax import features, models
from delta_jax.models.inverted_residual import InvertedResidualNet
from delta_jax.models.layers.columns import apart, on_columns, side_by_side, wide_kernel
from delta_jax.models.layers.convolution import Conv
from delta_jax.models.layers.normalization import BatchNorm
from delta_jax.models.layers.pooling import max_pool_side_by_side
from delta_jax.models.resnet import ResNet


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_columns_side_by_side_are_where_they_are_said_to_be():
    x = np.arange(2 * 3 * 8 * 5).reshape(2, 3, 8, 5)
    beside = side_by_side(jnp.asarray(x), 4, evens_first=True)
    assert beside.shape == (2, 3, 2, 20)
    for group in range(2):
        for place, column in enumerate((0, 2, 1, 3)):
            found = beside[:, :, group, 5 * place : 5 * place + 5]
            assert np.array_equal(found, x[:, :, 4 * group + column])
    assert np.array_equal(apart(beside, 4, evens_first=True), x)
    assert np.array_equal(apart(side_by_side(jnp.asarray(x), 4), 4), x)
    assert np.array_equal(on_columns(jnp.negative, 2)(jnp.asarray(x)), -x)


@pytest.mark.parametrize("evens_first", [False, True])
def test_a_wide_kernel_holds_the_numbers_of_the_kernel_and_zeros(evens_first):
    kernel = np.asarray(draw(0, 1, 7, 3, 2))
    wide, around = wide_kernel(jnp.asarray(kernel), 2, (3, 3), 8, evens_first=evens_first)
    assert wide.shape == (1, 3, 24, 8)
    assert around == (1, 1)  # the columns -3 to 9 that four outputs read lie in three groups of eight
    expected = np.zeros((3, 8, 3, 4, 2), np.float32)
    for out in range(4):
        for tap in range(7):
            column = 2 * out + tap - 3 + 8
            place = (0, 2, 1, 3).index(out) if evens_first else out
            expected[column // 8, column % 8, :, place] = kernel[0, tap]
    assert np.array_equal(wide[0].reshape(3, 8, 3, 4, 2), expected)


@pytest.mark.parametrize(
    ("size", "stride", "columns", "evens_first"),
    [(1, 1, 2, False), (1, 2, 2, False), (3, 1, 2, False), (3, 2, 2, False), (3, 1, 4, True), (7, 2, 8, True)],
)
def test_convolutions(size, stride, columns, evens_first):
    plain = Conv(3, size, stride)
    beside = Conv(3, size, stride, columns=columns, evens_first=evens_first)
    x, weight = draw(1, 2, 6, 8, 5), draw(2, 2, 6 // stride, 8 // stride, 3)
    variables = plain.init(jax.random.key(0), x)

    def run(layer, variables, x):
        return jnp.sum(layer.apply(variables, x) * weight)

    for found, expected in zip(
        jax.tree.leaves(jax.value_and_grad(lambda *a: run(beside, *a), (0, 1))(variables, x)),
        jax.tree.leaves(jax.value_and_grad(lambda *a: run(plain, *a), (0, 1))(variables, x)),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("train", [True, False])
def test_batch_normalisation(train):
    x, weight = draw(3, 2, 3, 8, 5), draw(4, 2, 3, 8, 5)
    variables = {
        "params": {"scale": draw(5, 5), "bias": draw(6, 5)},
        "batch_stats": {"mean": draw(7, 5), "var": jnp.abs(draw(8, 5))},
    }

    def run(layer, params, x):
        y, updated = layer.apply({**variables, "params": params}, x, train, mutable=["batch_stats"])
        return jnp.sum(y * weight), updated

    found, expected = (
        jax.value_and_grad(lambda *a, layer=layer: run(layer, *a), (0, 1), has_aux=True)(variables["params"], x)
        for layer in (BatchNorm(columns=4, evens_first=True), BatchNorm())
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), found, expected)


def test_max_pooling():
    x, weight = draw(9, 2, 7, 8, 3), draw(10, 2, 4, 4, 3)

    def plain(x):
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

    def beside(x):
        return max_pool_side_by_side(x, 4)

    assert np.array_equal(beside(x), plain(x))
    found, expected = (jax.grad(lambda x, pool=pool: jnp.sum(pool(x) * weight))(x) for pool in (beside, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_of_equal_values_one_alone_gets_the_gradient_of_a_maximum():
    gradient = jax.grad(lambda x: jnp.sum(max_pool_side_by_side(x, 4)))(jnp.ones((1, 8, 8, 1)))
    assert np.sum(gradient) == 16  # one for each of 4 x 4 windows
    assert np.array_equal(np.unique(gradient), [0, 1])  # the first of a window is in no other one


@pytest.mark.parametrize(("size", "stride", "columns"), [(3, 1, 4), (5, 2, 4), (3, 2, 2)])
def test_depthwise_convolutions(size, stride, columns):
    """Against numpy: every channel with its own kernel, position by position."""
    x, kernel = np.asarray(draw(13, 2, 6, 8, 3)), np.asarray(draw(14, size, size, 1, 3))
    layer = Conv(3, size, stride, depthwise=True, columns=columns)
    found = layer.apply({"params": {"kernel": kernel}}, x)
    edge = size // 2
    padded = np.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    for i, j in np.ndindex(6 // stride, 8 // stride):
        window = padded[:, stride * i : stride * i + size, stride * j : stride * j + size]
        expected = (window * kernel[None, :, :, 0]).sum((1, 2))
        np.testing.assert_allclose(found[:, i, j], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("same_at", [None, 32])
def test_inverted_residuals_have_the_same_logits_and_gradients(same_at):
    stages = (1, 8, 2, 1, 3), (6, 12, 1, 2, 5), (6, 12, 1, 1, 3)
    plain, beside = (InvertedResidualNet(stages, same_at, num_classes=3, columns=columns) for columns in (1, 4))
    x = draw(15, 2, 36, 32, 3)
    variables = plain.init(jax.random.key(0), x)

    def run(network, params):
        logits, updated = network.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(logits)), (logits, updated)

    found, expected = (
        jax.jit(jax.value_and_grad(lambda params, network=network: run(network, params), has_aux=True))(
            variables["params"]
        )
        for network in (beside, plain)
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(
        beside.apply(variables, x), plain.apply(variables, x), rtol=1e-5, atol=1e-5
    )  # with the running statistics


@pytest.mark.parametrize("bottleneck", [True, False])
def test_a_network_has_the_same_maps_gradients_and_statistics(bottleneck):
    plain = ResNet((1, 1, 0, 0), bottleneck, 3)
    beside = ResNet((1, 1, 0, 0), bottleneck, 3, columns=2)
    x = draw(11, 2, 40, 32, 3)
    variables = plain.init(jax.random.key(0), x)
    taps = ("conv1", "bn1", "layer1_0/conv1", "layer1_0", "layer2_0/conv2", "layer2_0/downsample_bn")

    def run(network, params):
        logits, maps, updated = features.apply_with_taps(
            network, {**variables, "params": params}, x, taps, mutable=("batch_stats",), train=True
        )
        return jnp.sum(jnp.sin(logits)) + 1e-3 * jnp.sum(jnp.sin(maps["layer1_0/conv1"])), (maps, updated)

    found, expected = (
        jax.jit(jax.value_and_grad(lambda params, network=network: run(network, params), has_aux=True))(
            variables["params"]
        )
        for network in (beside, plain)
    )
    shapes = jax.tree.map(jnp.shape, (found, expected))
    assert shapes[0] == shapes[1]
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * float(jnp.max(jnp.abs(b))))


@pytest.mark.parametrize("width", [36, 33])
def test_images_whose_columns_do_not_come_in_groups_are_taken_one_by_one(width):
    x = draw(12, 1, 32, width, 3)
    plain, beside = (ResNet((1, 1, 0, 0), False, 3, columns=columns) for columns in (1, 2))
    variables = plain.init(jax.random.key(0), x)
    assert np.array_equal(plain.apply(variables, x), beside.apply(variables, x))


def test_networks_have_a_form_for_tpus_where_they_are_made_for_one():
    assert models.create("resnet50", platform="tpu").columns == 2
    assert models.create("resnet50").columns == models.create("resnet50", platform="gpu").columns == 1
    assert models.create("mobilenet_v2", platform="tpu").columns == 4
    models.create("inception_v3", platform="tpu")  # has none
