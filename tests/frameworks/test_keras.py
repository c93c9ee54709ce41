"""Keras models by layer name: against the models themselves, called in Keras' own way."""

import importlib
import os
import sys

import jax
import numpy as np
import pytest

from delta_jax import attention, features
from tests.frameworks import plain

os.environ["KERAS_BACKEND"] = "jax"  # read when keras is imported
keras = pytest.importorskip("keras", reason="Keras is no requirement")
from keras import layers  # noqa: E402

from delta_jax.frameworks.keras import adapt  # noqa: E402


class Block(layers.Layer):
    """Its call takes no `training`; the layers within are told nevertheless."""

    def __init__(self, width, **options):
        super().__init__(**options)
        self.conv = layers.Conv2D(width, 3, padding="same", name="conv", dtype="float64")
        self.norm = layers.BatchNormalization(name="norm", momentum=0.9, dtype="float64")

    def call(self, x):
        return x + keras.ops.relu(self.norm(self.conv(x)))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(dtype="float64")
        self.stem = layers.Conv2D(6, 3, name="stem", dtype="float64")
        self.blocks = [Block(6, name=f"block_{i}", dtype="float64") for i in range(2)]
        self.drop = layers.Dropout(0.1, name="drop", dtype="float64")
        self.head = layers.Dense(plain.CLASSES, name="head", dtype="float64")

    def call(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.drop(keras.ops.mean(x, (1, 2))))


def functional():
    """With two models in it whose layers have the same names, and an operation that is no layer."""

    def body(name):
        inputs = keras.Input((None, None, 6), dtype="float64")
        conv = layers.Conv2D(6, 3, padding="same", name="conv", dtype="float64")(inputs)
        norm = layers.BatchNormalization(name="norm", momentum=0.9, dtype="float64")(conv)
        return keras.Model(inputs, inputs + keras.ops.relu(norm), name=name)

    inputs = keras.Input((plain.SIZE, plain.SIZE, 3), dtype="float64")
    x = layers.Conv2D(6, 3, name="stem", dtype="float64")(inputs)
    for i in range(2):
        x = body(f"block_{i}")(x)
    x = layers.GlobalAveragePooling2D(name="pool", dtype="float64")(x)
    x = layers.Dropout(0.1, name="drop", dtype="float64")(x)
    return keras.Model(inputs, layers.Dense(plain.CLASSES, name="head", dtype="float64")(x))


@pytest.fixture(scope="module", params=["functional", "subclassed"])
def net(request):
    keras.utils.set_random_seed(0)
    model = functional() if request.param == "functional" else Subclassed()
    model(np.zeros((1, plain.SIZE, plain.SIZE, 3)))
    return model


def test_taps_and_variables(net):
    model, variables = adapt(net)
    shapes = features.list_taps(model, variables, plain.batch()[0])
    blocks = {f"block_{i}{part}" for i in (0, 1) for part in ("", "/conv", "/norm")}
    assert set(shapes) - {"pool"} == blocks | {"stem", "drop", "head"}
    assert shapes["block_1/conv"] == (3, 6, 6, 6)
    assert variables["params"]["block_0"]["norm"].keys() == {"gamma", "beta"}
    assert variables["batch_stats"]["block_0"]["norm"].keys() == {"moving_mean", "moving_variance"}


@pytest.mark.parametrize("tap", ["stem", "block_1/conv"])
def test_gaps_are_those_of_a_plain_loop(net, tap):
    batch = plain.batch()
    model, variables = adapt(net)
    layer = net.get_layer(tap.split("/")[0])
    layer = layer if tap == "stem" else layer.conv if isinstance(layer, Block) else layer.get_layer("conv")
    kernel, bias = (np.asarray(variable.value) for variable in (layer.kernel, layer.bias))

    def run(j):
        keep = np.arange(6) != (-1 if j is None else j)
        layer.kernel.assign(kernel * keep)
        layer.bias.assign(bias * keep)
        try:
            return net(batch[0], training=False)
        finally:
            layer.kernel.assign(kernel)
            layer.bias.assign(bias)

    plain.check_gaps(model, variables, tap, run, batch, range(6))


def test_a_training_pass_is_that_of_the_model(net):
    images, _ = plain.batch()
    model, variables = adapt(net)
    key = {"dropout": jax.random.key(0)}
    run = jax.jit(lambda v, key: model.apply(v, images, train=True, mutable=("batch_stats", "seeds"), rngs=key))
    _, updated = run(variables, key)
    outputs = [np.asarray(run(variables, {"dropout": jax.random.key(k)})[0]) for k in (0, 0, 1)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert not np.allclose(outputs[0], outputs[2])
    # Without a key, random layers go on from their own seeds, as the model does.
    output, _ = run(variables, None)
    np.testing.assert_allclose(output, net(images, training=True), rtol=1e-5)  # statistics in float32
    try:
        for path in (("block_0", "norm", "moving_mean"), ("block_1", "norm", "moving_variance")):
            found, expected = (tree["batch_stats"][path[0]][path[1]][path[2]] for tree in (updated, adapt(net)[1]))
            np.testing.assert_allclose(found, expected, rtol=1e-5)
    finally:
        model.assign(variables)
    np.testing.assert_allclose(net(images, training=False), model.apply(variables, images), rtol=1e-12)


def test_delta_fine_tunes_it(net):
    images, labels = plain.batch(12)
    model, variables = adapt(net)
    losses = plain.fine_tune(model, variables, images, labels, ("block_0",), mutable=("batch_stats",), steps=8)
    assert losses[-1] < losses[0]
    assert features.head_inputs(model, variables, images, "head").shape == (12, 6)


def test_models_that_cannot_be_taken():
    images, labels = plain.batch()
    shared = layers.Conv2D(3, 3, padding="same", name="shared")
    inputs = keras.Input((8, 8, 3))
    twice = keras.Model(inputs, layers.GlobalAveragePooling2D(name="pool")(shared(shared(inputs))))
    model, variables = adapt(twice)
    with pytest.raises(ValueError, match="'shared' is reached 2 times"):
        attention.filter_gaps(model, variables, images, labels, taps=("shared",))
    with pytest.raises(ValueError, match="did you mean pool"):
        attention.filter_gaps(model, variables, images, labels, taps=("pol",))
    alike = Subclassed()
    alike.blocks[1].name = "block_0"
    alike(np.zeros((1, plain.SIZE, plain.SIZE, 3)))
    with pytest.raises(ValueError, match="two layers of the Keras model are called 'block_0"):
        adapt(alike)
    with pytest.raises(ValueError, match="function is no Keras model"):
        adapt(lambda x: x)
    with pytest.raises(ValueError, match="'net' is not built; call it once"):
        adapt(keras.Sequential([layers.Dense(2)], name="net"))
    first = keras.Sequential([keras.Input((3, 8, 8)), layers.Conv2D(2, 3, name="c", data_format="channels_first")])
    with pytest.raises(ValueError, match="the layer c has its channels first"):
        adapt(first)


def test_another_backend_is_said_at_once(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "numpy")
    monkeypatch.delitem(sys.modules, "delta_jax.frameworks.keras")
    with pytest.raises(ImportError, match=r"KERAS_BACKEND=jax before anything imports keras; its backend is numpy"):
        importlib.import_module("delta_jax.frameworks.keras")
