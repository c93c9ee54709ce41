"""Equinox modules by path: against the modules themselves, run in Equinox' own way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delta_jax import attention, features
from tests.frameworks import plain

eqx = pytest.importorskip("equinox", reason="Equinox is no requirement")
from delta_jax.frameworks.equinox import adapt  # noqa: E402


class Mixer(eqx.Module):
    """As in ConvNeXt: channels by a linear layer that is mapped over the positions."""

    depthwise: eqx.nn.Conv2d
    linear: eqx.nn.Linear

    def __init__(self, width, key):
        self.depthwise = eqx.nn.Conv2d(width, width, 3, padding=1, groups=width, key=key)
        self.linear = eqx.nn.Linear(width, width, key=key)

    def __call__(self, x):
        y = jax.vmap(jax.vmap(self.linear))(jnp.moveaxis(self.depthwise(x), 0, -1))
        return x + jnp.tanh(jnp.moveaxis(y, -1, 0))


@eqx.filter_jit
def jitted(layer, x):
    return layer(x)


class Net(eqx.Module):
    stem: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    layers: list
    head: eqx.nn.Linear

    def __init__(self, key, dropout=0.5):
        keys = jax.random.split(key, 4)
        self.stem = eqx.nn.Conv2d(3, 6, 3, key=keys[0])
        self.norm = eqx.nn.BatchNorm(6, "batch", mode="batch")
        self.dropout = eqx.nn.Dropout(dropout)
        self.layers = [eqx.nn.Sequential([eqx.nn.Conv2d(6, 6, 3, key=keys[1])]), Mixer(6, keys[2])]
        self.head = eqx.nn.Linear(6, plain.CLASSES, key=keys[3])

    def __call__(self, x, state, *, key=None):
        x, state = self.norm(self.stem(x), state)
        x = eqx.filter_checkpoint(self.layers[0])(jax.nn.relu(self.dropout(x, key=key)))
        return self.head(jnp.mean(jitted(self.layers[1], x), (1, 2))), state


def run_plainly(net, state, images, keys=None):
    """(logits, state) as Equinox' documentation has it."""
    run = jax.vmap(
        lambda x, state, key: net(x, state, key=key),
        axis_name="batch",
        in_axes=(0, None, None if keys is None else 0),
        out_axes=(0, None),
    )
    return run(jnp.moveaxis(images, -1, 1), state, keys)


@pytest.fixture(scope="module")
def made():
    return eqx.nn.make_with_state(Net)(jax.random.key(0))


def test_taps_and_variables(made):
    model, variables = adapt(*made)
    shapes = features.list_taps(model, variables, plain.batch()[0])
    assert shapes == {
        **dict.fromkeys(("stem", "norm", "dropout"), (3, 6, 6, 6)),
        **dict.fromkeys(("layers/0", "layers/0/layers/0"), (3, 4, 4, 6)),
        **dict.fromkeys(("layers/1", "layers/1/depthwise", "layers/1/linear"), (3, 4, 4, 6)),
        "head": (3, plain.CLASSES),
    }
    assert variables["params"]["layers"]["0"]["layers"]["0"].keys() == {"weight", "bias"}
    assert variables["batch_stats"].keys() == {"norm"}
    module, state = model.module(variables)
    assert eqx.tree_equal(module, made[0])
    assert eqx.tree_equal(state, made[1])


WHERE = {
    "stem": lambda net: net.stem,
    "layers/0/layers/0": lambda net: net.layers[0].layers[0],
    "layers/1/linear": lambda net: net.layers[1].linear,
}


@pytest.mark.parametrize("tap", WHERE)
def test_gaps_are_those_of_a_plain_loop(made, tap):
    net, state = made
    batch = plain.batch()
    where = WHERE[tap]

    def run(j):
        changed = eqx.nn.inference_mode(net)
        if j is not None:
            layer = where(changed)
            pairs = (layer.weight.at[j].set(0), layer.bias.at[j].set(0))
            changed = eqx.tree_at(lambda net: (where(net).weight, where(net).bias), changed, pairs)
        return run_plainly(changed, state, batch[0])[0]

    plain.check_gaps(*adapt(net, state), tap, run, batch, range(6))


def test_a_training_pass_is_that_of_the_module(made):
    """Output and statistics, with the same keys; nothing of an earlier pass is left in what filter_jit keeps."""
    net, state = made
    images, _ = plain.batch()
    model, variables = adapt(net, state)
    key = jax.random.key(3)
    expected, expected_state = run_plainly(net, state, images, jax.random.split(key, 3))
    for _ in range(2):
        output, updated = model.apply(variables, images, train=True, mutable=("batch_stats",), rngs={"dropout": key})
        np.testing.assert_allclose(output, expected, rtol=1e-12)
        found = model.module({**variables, **updated})[1]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected_state)


def test_delta_fine_tunes_it(made):
    images, labels = plain.batch(12)
    model, variables = adapt(*made)
    losses = plain.fine_tune(model, variables, images, labels, ("layers/0",), mutable=("batch_stats",), steps=8)
    assert losses[-1] < losses[0]
    inputs = features.head_inputs(model, variables, images, "head")
    weight, bias = (variables["params"]["head"][name] for name in ("weight", "bias"))
    np.testing.assert_allclose(inputs @ weight.T + bias, model.apply(variables, images), rtol=1e-10)


class LastChannels(eqx.Module):
    """Without state or key, channels last, a word of its own for training, one layer at two places."""

    first: eqx.nn.Linear
    second: eqx.nn.Linear

    def __init__(self, key):
        self.first = self.second = eqx.nn.Linear(3, 3, key=key)

    def __call__(self, x, training):
        return jnp.mean(jax.vmap(jax.vmap(lambda v: self.second(self.first(v))))(x), (0, 1)) + training


def test_a_module_with_words_of_its_own():
    images, labels = plain.batch()
    with pytest.warns(UserWarning, match=r"first/weight and second/weight .* are one array, and will be two"):
        model, variables = adapt(
            LastChannels(jax.random.key(0)),
            call=lambda net, x, state, key, train: net(x, float(train)),
            channels_first=False,
        )
    assert features.list_taps(model, variables, images) == dict.fromkeys(("first", "second"), (3, 8, 8, 3))
    np.testing.assert_allclose(model.apply(variables, images, train=True), model.apply(variables, images) + 1)
    with pytest.raises(ValueError, match="did you mean first"):
        attention.filter_gaps(model, variables, images, labels, taps=("firsts",))
    with pytest.raises(ValueError, match="function is no Equinox module"):
        adapt(lambda x: x)
