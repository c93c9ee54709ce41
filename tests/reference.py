"""Weights of the golden files, made from names by the recipe that made the reference's."""

import functools
import re
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from delta_jax import models, weights
from delta_jax.weights.merging import variable_shapes
from delta_jax.weights.name_tables import to_torch_layout, torch_names, torch_schemes, trailing_axes
from tests.golden import recipe

# Without networks that differ from one of these in widths and depths alone: to trace them all takes minutes.
_OF_MANY = re.compile(
    r"(wide_)?(se)?resne(t|xt)\d+(c|d|_\d+x\dd|d_\d+x\dd|_2)|resnet26|seresnet50|vgg|alexnet|densenet|regnet"
    r"|(tf_)?efficientnet_b[1-4]|convnext_(small|base)|resnetv2_101"
)
_FEW = (
    *("resnext50_32x4d", "wide_resnet50_2", "resnet18d", "seresnext26d_32x4d", "vgg11", "vgg11_gap"),
    *("alexnet", "densenet121", "regnetx_002", "regnety_004"),
)
NETWORKS = tuple(name for name in models.names() if name in _FEW or not _OF_MANY.match(name))


def state_dict(
    arch: str, num_classes: int = 1000, salt: str = "delta", auxiliary: bool = False
) -> dict[str, np.ndarray]:
    """What torchvision's state_dict held when the golden file of `arch` was made."""
    shapes, spec = variable_shapes(arch, num_classes, auxiliary), models.spec(arch)
    scheme = torch_schemes(spec)[0]
    torch_shapes = {
        name: to_torch_layout(np.empty(shapes[path]), path[-1], trailing_axes(spec, scheme, path)).shape
        for name, path in torch_names(spec, shapes, scheme).items()
    }
    return {name: recipe.fill(salt, arch, name, shape) for name, shape in torch_shapes.items()}


@functools.cache
def variables(arch: str, num_classes: int = 1000, salt: str = "delta", auxiliary: bool = False):
    tensors = state_dict(arch, num_classes, salt, auxiliary)
    return weights.from_torch(tensors, arch, num_classes, auxiliary=auxiliary)


def random_variables(model: nn.Module, x: jax.Array) -> dict[str, Any]:
    """Random numbers in the shapes and types of the model's variables: compiling `init` takes longer than many tests.

    Maps stay about as large as the images: kernels have the standard deviation 1 / sqrt(inputs of an output).
    """
    rng = np.random.default_rng(1)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        values = rng.standard_normal(leaf.shape)
        if path[-1].key in ("var", "scale"):
            values = 1 + 0.1 * np.abs(values)
        elif len(leaf.shape) > 1:
            values /= np.sqrt(leaf.size / leaf.shape[-1])
        else:
            values *= 0.1
        return values.astype(leaf.dtype)

    return jax.tree.map_with_path(draw, dict(jax.eval_shape(model.init, jax.random.key(0), x)))


def in_float64(tree: Any) -> Any:
    """The same numbers as arrays of float64, which jax has to be told to keep: `jax.enable_x64(True)`."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def cross_entropy(logits: Any, labels: Any) -> np.ndarray:
    """Of each image, by numpy."""
    logits = np.asarray(logits)
    exps = np.exp(logits - logits.max(-1, keepdims=True))
    return -np.log(exps[np.arange(len(logits)), np.asarray(labels)] / exps.sum(-1))


def relative(found, expected) -> float:
    """Largest difference, relative to the largest absolute value: how the golden files state their tolerances."""
    expected = np.asarray(expected)
    assert np.shape(found) == expected.shape
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())
