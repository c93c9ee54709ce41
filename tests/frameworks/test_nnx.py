"""NNX modules by path: against the modules themselves, run in NNX' own way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from delta_jax import attention, features
from delta_jax.frameworks.nnx import adapt, from_function
from tests.frameworks import plain


class Block(nnx.Module):
    def __init__(self, width, rngs):
        self.conv = nnx.Conv(width, width, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return x + self.dropout(nnx.relu(self.norm(self.conv(x))))


class Net(nnx.Module):
    """Lists, a Sequential, a module at two paths, BatchNorm, Dropout, nnx.remat and an array of its own."""

    def __init__(self, num_classes=plain.CLASSES, *, rngs):
        self.stem = nnx.Sequential(nnx.Conv(3, 6, (3, 3), rngs=rngs), nnx.relu)
        self.blocks = nnx.List([Block(6, rngs) for _ in range(2)])
        self.last = self.blocks[1].conv
        self.scale = nnx.data(jnp.asarray(2.0))
        self.head = nnx.Linear(6, num_classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.remat(lambda block, x: block(x))(self.blocks[0], self.stem(x))
        return self.head(self.scale * jnp.mean(self.blocks[1](x), (1, 2)))


@pytest.fixture(scope="module")
def net():
    module = Net(rngs=nnx.Rngs(0, dropout=1))
    nnx.update(module, jax.tree.map(lambda a: a.astype(jnp.float64), nnx.state(module, (nnx.Param, nnx.BatchStat))))
    module.scale = module.scale.astype(jnp.float64)
    return module


def test_taps_and_variables(net):
    model, variables = adapt(net)
    shapes = features.list_taps(model, variables, plain.batch()[0])
    names = {f"blocks/{i}{part}" for i in (0, 1) for part in ("", "/conv", "/norm", "/dropout")}
    assert set(shapes) == names | {"stem", "stem/layers/0", "last", "head"}
    assert shapes["blocks/0/conv"] == (3, 8, 8, 6)
    assert variables["params"]["blocks"]["0"]["norm"].keys() == {"scale", "bias"}
    assert variables["batch_stats"]["blocks"]["0"]["norm"].keys() == {"mean", "var"}
    assert variables["arrays"].keys() == {"scale"}


@pytest.mark.parametrize("tap", ["stem/layers/0", "blocks/1/conv", "last"])
def test_gaps_are_those_of_a_plain_loop(net, tap):
    batch = plain.batch()
    model, variables = adapt(net)

    def run(j):
        changed = nnx.clone(net)
        changed.eval()
        conv = changed.stem.layers[0] if tap == "stem/layers/0" else changed.blocks[1].conv
        if j is not None:
            conv.kernel[...] = conv.kernel[...].at[..., j].set(0)
            conv.bias[...] = conv.bias[...].at[j].set(0)
        return changed(batch[0])

    plain.check_gaps(model, variables, tap, run, batch, range(6))


def test_a_training_pass_is_that_of_the_module(net):
    """Output and statistics; what Dropout draws is decided by the key."""
    images, _ = plain.batch()
    model, variables = adapt(net)
    module = nnx.clone(net)
    module.train()
    for block in module.blocks:
        block.dropout.rate = 0.0
    alone, its_variables = adapt(module)
    output, updated = alone.apply(its_variables, images, train=True, mutable=("batch_stats",))
    np.testing.assert_allclose(output, module(images), rtol=1e-12)
    for i in (0, 1):
        for name in ("mean", "var"):
            found = updated["batch_stats"]["blocks"][str(i)]["norm"][name]
            np.testing.assert_allclose(found, getattr(module.blocks[i].norm, name)[...], rtol=1e-12)

    def run(key):
        return np.asarray(model.apply(variables, images, train=True, rngs={"dropout": jax.random.key(key)}))

    np.testing.assert_array_equal(run(0), run(0))
    assert not np.allclose(run(0), run(1))
    with pytest.raises(ValueError, match=r"draws from its random stream 'dropout'; give a key for it"):
        model.apply(variables, images, train=True)
    restored = model.module(variables)
    restored.eval()
    np.testing.assert_array_equal(restored(images), model.apply(variables, images))


def test_networks_built_alike_are_equal_and_share_compiled_programs():
    images, _ = plain.batch()
    first, second = from_function(Net), from_function(Net)
    assert (first, hash(first)) == (second, hash(second))
    assert first != from_function(Net, frozen_norm=True)
    variables = jax.jit(first.init)(jax.random.key(0), images)
    run = jax.jit(lambda model, v: model.apply(v, images), static_argnums=0)
    np.testing.assert_array_equal(run(first, variables), run(second, variables))
    assert run._cache_size() == 1
    frozen = from_function(Net, frozen_norm=True)
    updated = frozen.apply(variables, images, train=True, mutable=("batch_stats",), rngs={"dropout": jax.random.key(0)})
    jax.tree.map(np.testing.assert_array_equal, updated[1]["batch_stats"], variables["batch_stats"])


def test_delta_fine_tunes_it(net):
    images, labels = plain.batch(12)
    model, variables = adapt(net)
    losses = plain.fine_tune(model, variables, images, labels, ("blocks/0",), mutable=("batch_stats",))
    assert losses[-1] < losses[0]
    assert features.head_inputs(model, variables, images, "head").shape == (12, 6)


class Strange(nnx.Module):
    """Called with words of its own; a convolution runs twice, another in a loop, modules in a tuple and a dict."""

    def __init__(self, rngs):
        self.twice = nnx.Conv(3, 3, (3, 3), rngs=rngs)
        self.parts = nnx.data(({"a": nnx.Conv(3, 3, (1, 1), rngs=rngs)},))
        self.looped = nnx.Conv(3, 3, (1, 1), rngs=rngs)
        self.head = nnx.Linear(3, plain.CLASSES, rngs=rngs)

    def __call__(self, x, *, is_training):
        x = self.parts[0]["a"](self.twice(self.twice(x)))
        graph, state = nnx.split(self.looped)
        x = jax.lax.fori_loop(0, 2, lambda _, x: nnx.merge(graph, state)(x), x)
        return self.head(jnp.mean(x, (1, 2))) + float(is_training)


def test_taps_that_are_none_say_why():
    images, labels = plain.batch()
    model, variables = adapt(Strange(nnx.Rngs(0)), call=lambda net, x, train, rngs: net(x, is_training=train))
    assert set(features.list_taps(model, variables, images)) == {"parts/0/a", "head"}
    for tap, complaint in {
        "twice": "'twice' is reached 2 times",
        "looped": "'looped' is reached within",
        "parts/0/b": "did you mean .*parts/0/a",
    }.items():
        with pytest.raises(ValueError, match=complaint):
            attention.filter_gaps(model, variables, images, labels, taps=(tap,))
    np.testing.assert_allclose(
        model.apply(variables, images, train=True), model.apply(variables, images) + 1, rtol=1e-6
    )
    with pytest.raises(ValueError, match="function is no NNX module"):
        adapt(lambda x: x)
    with pytest.raises(ValueError, match="take the variables that adapt returned"):
        model.init(jax.random.key(0), images)
