"""What a step keeps for its backward pass: the same gradients from less."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delta_jax import models
from delta_jax.models.resnet import ResNet


@pytest.fixture(scope="module")
def network():
    model = ResNet((1, 1, 0, 0), True, 3)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 32, 32, 3)), jnp.float32)
    variables = model.init(jax.random.key(0), x)

    def loss(params):
        logits, _ = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(logits))

    return loss, variables["params"]


def test_gradients_are_the_same(network):
    loss, params = network
    found = jax.jit(jax.grad(jax.checkpoint(loss, policy=models.keep_products_and_sums)))(params)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(jax.jit(jax.grad(loss))(params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.max(jnp.abs(b))))


def test_of_a_layer_its_convolution_is_kept_and_not_its_activation(network):
    loss, params = network

    def shapes(function):
        _, backward = jax.vjp(function, params)
        return [leaf.shape for leaf in jax.tree.leaves(backward) if getattr(leaf, "ndim", 0) == 4]

    kept = shapes(jax.checkpoint(loss, policy=models.keep_products_and_sums))
    # By hand, 32 pixels: the stem's 16 x 16 map before BatchNorm, and that of the pooling, 8 x 8, twice: what it gives
    # and what the block begins with are the same array, counted once. After ReLU there is none of 16 x 16.
    assert kept.count((2, 16, 16, 64)) == 1
    assert shapes(loss).count((2, 16, 16, 64)) > 1
    # conv1, conv2 of the first block, and the pooling.
    assert kept.count((2, 8, 8, 64)) == 3
    # conv3 and shortcut of the first block, and its end.
    assert kept.count((2, 8, 8, 256)) == 3
