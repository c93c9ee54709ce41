"""Haiku transforms by module name: against the transforms themselves, applied in Haiku's own way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delta_jax import attention, features
from tests.frameworks import plain

hk = pytest.importorskip("haiku", reason="Haiku is no requirement")
from delta_jax.frameworks.haiku import adapt  # noqa: E402


class Base(hk.Module):
    def __call__(self, x):
        return jnp.tanh(x)


class Block(Base):
    """Calls the `__call__` of its base, which is no second output."""

    def __call__(self, x):
        return x + super().__call__(hk.Conv2D(6, 3, name="conv")(x))


def network(images, is_training):
    x = hk.Conv2D(6, 3, stride=2, name="stem")(images)
    x = hk.BatchNorm(True, True, 0.9, name="norm")(x, is_training)
    x = Block(name="block")(jax.nn.relu(x))
    if is_training:
        x = hk.dropout(hk.next_rng_key(), 0.5, x)
    return hk.Linear(plain.CLASSES, name="head")(jnp.mean(x, (1, 2)))


@pytest.fixture(scope="module")
def made():
    transformed = hk.transform_with_state(network)
    images, _ = plain.batch()
    return transformed, adapt(transformed), transformed.init(jax.random.key(0), images, True)


def test_taps_and_variables(made):
    transformed, model, (params, state) = made
    images, _ = plain.batch()
    variables = model.init(jax.random.key(0), images)
    jax.tree.map(np.testing.assert_array_equal, variables, {"params": params, "state": state})
    maps = (3, 4, 4, 6)
    taps = {"stem": maps, "norm": maps, "block": maps, "block/conv": maps, "head": (3, plain.CLASSES)}
    assert features.list_taps(model, variables, images) == taps
    assert (model, hash(model)) == (adapt(transformed), hash(adapt(transformed)))


@pytest.mark.parametrize("tap", ["stem", "block/conv"])
def test_gaps_are_those_of_a_plain_loop(made, tap):
    transformed, model, (params, state) = made
    batch = plain.batch()

    def run(j):
        layer = params[tap]
        if j is not None:
            layer = {"w": layer["w"].at[..., j].set(0), "b": layer["b"].at[j].set(0)}
        return transformed.apply({**params, tap: layer}, state, None, batch[0], False)[0]

    plain.check_gaps(model, {"params": params, "state": state}, tap, run, batch, range(6))


def test_a_training_pass_is_that_of_the_transform(made):
    transformed, model, (params, state) = made
    images, _ = plain.batch()
    key = jax.random.key(5)
    expected = transformed.apply(params, state, key, images, True)
    options = {"train": True, "mutable": ("state",), "rngs": {"dropout": key}}
    output, updated = model.apply({"params": params, "state": state}, images, **options)
    np.testing.assert_allclose(output, expected[0], rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), updated["state"], expected[1])


def test_delta_fine_tunes_it(made):
    _, model, (params, state) = made
    images, labels = plain.batch(12)
    variables = {"params": params, "state": state}
    losses = plain.fine_tune(model, variables, images, labels, ("block",), mutable=("state",), steps=8)
    assert losses[-1] < losses[0]
    inputs = features.head_inputs(model, variables, images, "head")
    head = params["head"]
    np.testing.assert_allclose(inputs @ head["w"] + head["b"], model.apply(variables, images), rtol=1e-10)


def test_a_transform_without_state_with_a_layer_that_runs_twice():
    def twice(images):
        conv = hk.Conv2D(3, 3, name="conv")
        return hk.Linear(plain.CLASSES, name="head")(jnp.mean(conv(conv(images)), (1, 2)))

    images, labels = plain.batch()
    model = adapt(hk.transform(twice), call=lambda run, x, train: run(x))
    variables = model.init(jax.random.key(0), images)
    assert variables.keys() == {"params"}
    with pytest.raises(ValueError, match="'conv' is reached 2 times"):
        attention.filter_gaps(model, variables, images, labels, taps=("conv",))
    with pytest.raises(ValueError, match="function is no Haiku transform"):
        adapt(twice)
