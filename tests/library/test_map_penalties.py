"""Penalties of other methods on feature maps, example by example, and their gradients, in float64.

Expected numbers are those of the methods' public code (tests/golden/public_methods.py), of loops in numpy, and of
finite differences.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delta_jax import methods
from delta_jax.methods import Shapes, afd, attention_transfer, delta_cosine
from tests.finite_differences import along
from tests.golden import public_methods as public

pytestmark = pytest.mark.usefixtures("wide")
RNG = np.random.default_rng(0)
SHAPES = Shapes({"tap": (4, 5, 6)}, features=10)
MAPS, SOURCE = ({"tap": one} for one in (public.MAPS, public.SOURCE_MAPS))  # of numpy: made outside of float64 mode

# Attention transfer.


def test_attention_transfer_is_that_of_its_authors(published):
    def mean(maps):
        return jnp.mean(attention_transfer.attention_distance({"tap": maps}, SOURCE))

    value, gradient = jax.value_and_grad(mean)(MAPS["tap"])
    np.testing.assert_allclose(value, published["at"], rtol=1e-12)
    np.testing.assert_allclose(gradient, published["at/gradient"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("maps", [SOURCE["tap"], np.zeros_like(SOURCE["tap"])], ids=["alike", "silent"])
@pytest.mark.parametrize("name", ["attention_transfer", "delta_cosine"])
def test_where_both_networks_agree_and_where_maps_are_silent_gradients_are_zero(name, maps):
    weights = {"tap": jnp.ones(6)}

    def mean(tap_maps):
        return jnp.mean(methods.create(name).example_penalty({"tap": tap_maps}, SOURCE, weights))

    value, gradient = jax.value_and_grad(mean)(maps)
    assert np.isfinite(value)
    np.testing.assert_allclose(gradient, 0, atol=1e-16)


# DELTA with cosine distance.


@pytest.mark.parametrize("rectify", [True, False])
@pytest.mark.parametrize("each", [True, False])
def test_cosine_distance_is_one_minus_the_cosine_of_every_filter(rectify, each):
    weights = RNG.uniform(0, 1, (3, 6) if each else 6)
    maps, source = public.MAPS.copy(), public.SOURCE_MAPS.copy()
    if rectify:
        maps, source = np.maximum(maps, 0), np.maximum(source, 0)
    by_hand = np.zeros(3)
    for image in range(3):
        for filter_ in range(6):
            one, other = maps[image, :, :, filter_].ravel(), source[image, :, :, filter_].ravel()
            cosine = one @ other / np.sqrt((one @ one) * (other @ other))
            by_hand[image] += np.broadcast_to(weights, (3, 6))[image, filter_] * (1 - cosine)
    method = methods.create("delta_cosine", rectify=rectify)
    attention = {"tap": jnp.asarray(weights)}
    np.testing.assert_allclose(method.example_penalty(MAPS, SOURCE, attention), by_hand, rtol=1e-12)
    difference, gradient = along(
        lambda x: jnp.mean(method.example_penalty({"tap": x}, SOURCE, attention)), MAPS["tap"], RNG
    )
    np.testing.assert_allclose(gradient, difference, rtol=1e-6)


def test_a_silent_map_has_no_direction():
    silent = {"tap": np.zeros_like(SOURCE["tap"])}
    weights = {"tap": jnp.full(6, 1 / 6)}
    np.testing.assert_allclose(delta_cosine.cosine_distance(silent, SOURCE, weights), 0.5)
    np.testing.assert_allclose(delta_cosine.cosine_distance(silent, silent, weights), 0)


@pytest.mark.parametrize("name", ["attention_transfer", "delta_cosine"])
def test_maps_of_one_pixel_cannot_be_compared_by_position(name):
    method = methods.create(name)
    assert method.problem(SHAPES, 8) == ""
    assert method.problem(Shapes({"a": (1, 1, 5), "b": (2, 1, 5)}, 5), 8) == ""
    assert "the maps at a, b are of one pixel" in method.problem(Shapes({"a": (1, 1, 5), "b": (1, 1, 6)}, 5), 8)


# Attentive feature distillation.


def predictors(height=4):
    return {
        "tap": {"hidden": jnp.asarray(RNG.standard_normal((20, height))), "out": jnp.asarray(RNG.standard_normal(4))}
    }


def test_the_learned_attention_and_its_distance_by_hand():
    made = predictors()
    hidden, out = (np.asarray(made["tap"][name]) for name in ("hidden", "out"))
    weights = np.zeros((3, 6))
    for image in range(3):
        scores = [
            np.maximum(public.SOURCE_MAPS[image, :, :, filter_].ravel() @ hidden, 0) @ out for filter_ in range(6)
        ]
        weights[image] = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(afd.learned_attention(SOURCE, made)["tap"], weights, rtol=1e-12)
    distances = ((public.MAPS - public.SOURCE_MAPS) ** 2).sum((1, 2))
    method = methods.create("afd", rectify=False)
    found = method.example_penalty(MAPS, SOURCE, None, {"attention": made})
    np.testing.assert_allclose(found, (weights * distances).sum(1), rtol=1e-12)

    def penalty(trained):
        return jnp.mean(method.example_penalty(trained["maps"], SOURCE, None, {"attention": trained["own"]}))

    difference, gradient = along(penalty, {"maps": MAPS, "own": made}, RNG)
    np.testing.assert_allclose(gradient, difference, rtol=1e-6)


def test_at_first_all_filters_weigh_the_same_and_weights_can_be_learned():
    method = methods.create("afd")
    own = method.own_parameters(jax.random.key(0), SHAPES)
    maps, source = ({"tap": one["tap"].astype(np.float32)} for one in (MAPS, SOURCE))
    found = afd.learned_attention(source, own["attention"])["tap"]
    np.testing.assert_allclose(found, 1 / 6, rtol=1e-6)
    gradient = jax.grad(lambda own: jnp.mean(method.example_penalty(maps, source, None, own)))(own)
    assert np.abs(gradient["attention"]["tap"]["out"]).max() > 0
