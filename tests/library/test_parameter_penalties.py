"""Penalties of other methods on parameters and their gradients, and where MARS-SP moves parameters, in float64.

Expected numbers are those of MARS-SP's public code (tests/golden/public_methods.py), or worked out by hand.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delta_jax import methods
from delta_jax.methods import mars_sp
from tests.golden import public_methods as public

pytestmark = pytest.mark.usefixtures("wide")

# MARS-SP.


@pytest.mark.parametrize("name", public.KERNELS)
def test_projections_of_kernels_are_those_of_the_authors_code(published, name):
    kernel, centre, radius = public.KERNELS[name], public.CENTRES[name], public.RADIUS[name]
    found = np.asarray(mars_sp.project_rows(kernel, centre, radius))
    np.testing.assert_allclose(found, published[f"mars/{name}"], rtol=1e-12)
    rows = np.abs(found - centre).sum(tuple(range(found.ndim - 1)))
    before = np.abs(kernel - centre).sum(tuple(range(found.ndim - 1)))
    assert 0 < (before > radius).sum() < len(before)
    np.testing.assert_allclose(rows, np.minimum(before, radius), rtol=1e-12)


def test_projections_of_gains_are_those_of_the_authors_code(published):
    found = mars_sp.project_gains(
        public.GAIN, public.VARIANCE, public.CENTRE_GAIN, public.CENTRE_VARIANCE, public.GAIN_RADIUS
    )
    np.testing.assert_allclose(found, published["mars/gain"], rtol=1e-12)
    assert 0 < np.sum(np.abs(np.asarray(found) - public.GAIN) < 1e-12) < 7


def test_a_step_of_mars_sp_moves_kernels_and_gains_and_leaves_biases():
    def variables(scale):
        kernel = {"kernel": scale * jnp.ones((3, 2)), "bias": scale * jnp.ones(2)}
        norm = {"scale": scale * jnp.ones(2), "bias": scale * jnp.ones(2)}
        params = {"body": {"dense": kernel, "norm": norm, "layer": {"scale": scale * jnp.ones(2)}}, "head": kernel}
        stats = {"body": {"norm": {"mean": jnp.zeros(2), "var": jnp.ones(2)}}}
        return {"params": params, "batch_stats": stats}

    method = methods.create("mars_sp", radius=1.5, head_radius=0.9)
    found = method.project(variables(5.0), variables(1.0), ("head",))
    np.testing.assert_allclose(found["body"]["dense"]["kernel"], 1.5)  # 1 + 4 each, 12 a row, so an eighth of the way
    np.testing.assert_allclose(found["body"]["norm"]["scale"], 2.5, rtol=1e-6)
    np.testing.assert_allclose(found["head"]["kernel"], 0.3)
    for free in (found["body"]["dense"]["bias"], found["head"]["bias"], found["body"]["norm"]["bias"]):
        np.testing.assert_array_equal(free, 5)
    np.testing.assert_array_equal(found["body"]["layer"]["scale"], 5)  # a LayerNorm divides by no variance of its own
    near = method.project(variables(1.01), variables(1.0), "head")
    np.testing.assert_array_equal(near["body"]["dense"]["kernel"], 1.01)


# L2-SP on kernels.


def test_l2_sp_on_kernels_leaves_norms_biases_and_the_head_out():
    params = {"body": {"kernel": jnp.array([1.0, 3.0]), "bias": jnp.array([9.0])}, "norm": {"scale": jnp.array([4.0])}}
    params |= {"head": {"kernel": jnp.array([7.0])}}
    source = jax.tree.map(jnp.zeros_like, params)
    method = methods.create("l2_sp_kernels")
    assert method.parameter_penalty(params, source, "head") == 5  # 1/2 (1 + 9)
    assert methods.create("l2_sp").parameter_penalty(params, source, "head") == 0.5 * (1 + 9 + 81 + 16)
    gradient = jax.grad(method.parameter_penalty)(params, source, "head")
    np.testing.assert_array_equal(gradient["body"]["kernel"], [1, 3])
    assert gradient["body"]["bias"] == gradient["norm"]["scale"] == gradient["head"]["kernel"] == 0
    bare = {"body": {"weight": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}}
    with pytest.raises(ValueError, match="no parameter outside of head is called kernel"):
        method.parameter_penalty(bare, bare, "head")


def test_fisher_weighs_each_kernel_and_nothing_else():
    params = {"body": {"kernel": jnp.array([1.0, 3.0]), "bias": jnp.array([9.0])}, "head": {"kernel": jnp.array([7.0])}}
    source = jax.tree.map(jnp.zeros_like, params)
    fisher = {"fisher": {"body": {"kernel": jnp.array([0.5, 4.0])}}}
    method = methods.create("l2_sp_fisher")
    value, gradient = jax.value_and_grad(method.parameter_penalty)(params, source, "head", fisher)
    assert value == 0.5 * (0.5 * 1 + 4 * 9)
    np.testing.assert_array_equal(gradient["body"]["kernel"], [0.5, 12])
    assert gradient["body"]["bias"] == gradient["head"]["kernel"] == 0
    with pytest.raises(ValueError, match="none of the weights is of a parameter that counts"):
        method.parameter_penalty(params, source, "head", {"fisher": {"other": {"kernel": jnp.ones(2)}}})
