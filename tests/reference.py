"""Weights of the golden files, made from names by the recipe that made the reference's."""

import functools

import numpy as np

from delta_jax import models, weights
from delta_jax.weights.merging import variable_shapes
from delta_jax.weights.name_tables import to_torch_layout, torch_names
from tests.golden import recipe


def state_dict(
    arch: str, num_classes: int = 1000, salt: str = "delta", auxiliary: bool = False
) -> dict[str, np.ndarray]:
    """What torchvision's state_dict held when the golden file of `arch` was made."""
    shapes = variable_shapes(arch, num_classes, auxiliary)
    names = torch_names(models.spec(arch), shapes)
    torch_shapes = {name: to_torch_layout(np.empty(shapes[path]), path[-1]).shape for name, path in names.items()}
    return {name: recipe.fill(salt, arch, name, shape) for name, shape in torch_shapes.items()}


@functools.cache
def variables(arch: str, num_classes: int = 1000, salt: str = "delta", auxiliary: bool = False):
    tensors = state_dict(arch, num_classes, salt, auxiliary)
    return weights.from_torch(tensors, arch, num_classes, auxiliary=auxiliary)


def relative(found, expected) -> float:
    """Largest difference, relative to the largest absolute value: how the golden files state their tolerances."""
    expected = np.asarray(expected)
    assert np.shape(found) == expected.shape
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())
