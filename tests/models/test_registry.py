"""The registry of networks: complete specs, modules that jit can compare, a hint for a wrong name."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from delta_jax import features, models


@pytest.mark.parametrize("name", models.names())
def test_the_spec_fits_its_network(name):
    spec, model = models.spec(name), models.create(name, num_classes=7)
    assert spec.name == name
    size = spec.input_size
    images: Any = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    shapes = features.list_taps(model, variables, images)
    assert set(spec.taps) <= set(shapes)
    # From the input to the output: maps get smaller, and end at a 32nd of the input (Inception: at Mixed_6e, 17x17).
    sides = [shapes[tap][1] for tap in spec.taps]
    assert sides == sorted(sides, reverse=True)
    assert sides[-1] == (17 if name == "inception_v3" else math.ceil(size / 32))
    assert shapes[spec.head] == (2, 7)
    assert set(variables["params"][spec.head]) == {"kernel", "bias"}
    assert len(spec.mean) == len(spec.std) == 3
    assert all(0 < value < 1 for value in (*spec.mean, *spec.std))
    assert spec.interpolation in ("bilinear", "bicubic")


# Parameters with 1,000 classes: torchvision's documentation, and the README of efficientnet_lite_pytorch.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "mobilenet_v2": 3_504_872,
    "efficientnet_lite0": 4_652_008,
    "efficientnet_lite1": 5_416_680,
    "efficientnet_lite2": 6_092_072,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name):
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(models.create(name).init, jax.random.key(0), images)["params"]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == PARAMETERS[name]


@pytest.mark.parametrize("name", models.names())
def test_modules_are_values(name):
    # filter_gaps and the trainer's functions are compiled once per module: it must be hashable and equal to its twin.
    options = {"num_classes": 7, "dropout": 0.2, "frozen_norm": True, "dtype": jnp.bfloat16}
    assert models.create(name, **options) == models.create(name, **options)
    assert hash(models.create(name, **options)) == hash(models.create(name, **options))
    assert models.create(name, **options) != models.create(name, **(options | {"num_classes": 8}))


def test_unknown_names():
    with pytest.raises(
        ValueError, match=r"no network called 'resnet5'; did you mean resnet50 or .*Known: efficientnet_lite0"
    ):
        models.create("resnet5")
    with pytest.raises(ValueError, match=r"no network called 'zzz'.*Known: .*resnet152"):
        models.spec("zzz")
