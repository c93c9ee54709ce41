"""Weights of the golden files, made from names by the recipe that made the reference's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from delta_jax import models, weights
from delta_jax.weights.merging import variable_shapes
from delta_jax.weights.name_tables import to_flax_layout, to_torch_layout, torch_names
from tests.golden import recipe


def state_dict(arch: str, num_classes: int = 1000, salt: str = "delta") -> dict[str, np.ndarray]:
    """What torchvision's state_dict held when the golden file of `arch` was made."""
    shapes = variable_shapes(arch, num_classes)
    names = torch_names(models.spec(arch), shapes)
    torch_shapes = {name: to_torch_layout(np.empty(shapes[path]), path[-1]).shape for name, path in names.items()}
    return {name: recipe.fill(salt, arch, name, shape) for name, shape in torch_shapes.items()}


@functools.cache
def variables(arch: str, num_classes: int = 1000, salt: str = "delta"):
    return weights.from_torch(state_dict(arch, num_classes, salt), arch, num_classes)


@functools.cache
def variables_with_auxiliary(arch: str, num_classes: int = 1000, salt: str = "delta"):
    """As `variables`, for the network with its auxiliary classifier."""
    spec, model = models.spec(arch), models.create(arch, num_classes=num_classes, auxiliary=True)
    images = jax.ShapeDtypeStruct((1, spec.input_size, spec.input_size, 3), jnp.float32)
    shapes = flatten_dict(jax.eval_shape(model.init, jax.random.key(0), images))
    found = {}
    for name, path in torch_names(spec.family, shapes).items():
        shape = to_torch_layout(np.empty(shapes[path].shape), path[-1]).shape
        found[path] = jnp.asarray(to_flax_layout(recipe.fill(salt, arch, name, shape), path[-1]))
    return unflatten_dict(found)


def relative(found, expected) -> float:
    """Largest difference, relative to the largest absolute value: how the golden files state their tolerances."""
    expected = np.asarray(expected)
    assert np.shape(found) == expected.shape
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())
