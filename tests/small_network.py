"""A network that compiles in a second, for tests of what happens around a network.

Its "pretrained" weights are random, with the running statistics that noise leaves: activations are as large as in a
trained network, so heads can be fitted to them and filters matter.
"""

import functools
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

from delta_jax.models import ModelSpec
from delta_jax.models.layers.convolution import Conv
from delta_jax.models.layers.normalization import BatchNorm

ARCH = f"{__name__}:spec"
FILTERS = {"block_0/project_conv": 24, "block_1/conv": 40}  # of the default taps


class Separable(nn.Module):
    """Depthwise 3x3 convolution that halves the map, linear 1x1 projection."""

    features: int
    norm: dict[str, Any]
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = Conv(x.shape[-1], 3, 2, depthwise=True, dtype=self.dtype, name="depthwise_conv")(x)
        x = nn.relu(BatchNorm(**self.norm, name="depthwise_bn")(x, train))
        x = Conv(self.features, 1, dtype=self.dtype, name="project_conv")(x)
        return BatchNorm(**self.norm, name="project_bn")(x, train)


class Residual(nn.Module):
    """3x3 convolution, and a shortcut around what follows it."""

    features: int
    norm: dict[str, Any]
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = Conv(self.features, 3, 2, dtype=self.dtype, name="conv")(x)
        x = nn.relu(BatchNorm(**self.norm, name="bn")(x, train))
        y = Conv(self.features, 1, dtype=self.dtype, name="around_conv")(x)
        return nn.relu(x + BatchNorm(**self.norm, name="around_bn")(y, train))


class SmallNet(nn.Module):
    """Images [B, H, W, 3] -> logits [B, num_classes]."""

    num_classes: int
    dropout: float = 0.0
    frozen_norm: bool = False
    dtype: Any = None
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        norm = {"momentum": self.momentum, "frozen": self.frozen_norm, "dtype": self.dtype}
        x = Conv(16, 3, 2, dtype=self.dtype, name="stem_conv")(x)
        x = nn.relu(BatchNorm(**norm, name="stem_bn")(x, train))
        x = Separable(24, norm, self.dtype, name="block_0")(x, train)
        x = Residual(40, norm, self.dtype, name="block_1")(x, train)
        x = nn.Dropout(self.dropout, deterministic=not train)(jnp.mean(x, (1, 2)))
        return nn.Dense(self.num_classes, dtype=self.dtype, name="classifier")(x)


def spec() -> ModelSpec:
    """What `--config.arch=tests.small_network:spec` stands for."""
    return ModelSpec("small_network", "none", SmallNet, {}, "classifier", taps=tuple(FILTERS), input_size=32)


def save_weights(path: Path) -> None:
    """Writes its weights, in Flax's names, with a head of 10 classes."""
    save_file(_weights(), path)


@functools.cache
def _weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((32, 32, 32, 3)).astype(np.float32)
    network = SmallNet(10, momentum=0.0)  # the running statistics are then those of the one batch
    shapes = jax.eval_shape(network.init, jax.random.key(0), images)
    variables = {name: np.zeros(leaf.shape, np.float32) for name, leaf in flatten_dict(shapes, sep="/").items()}
    for name, array in variables.items():
        if name.endswith("/kernel"):
            fan_in = array.size // array.shape[-1]
            array[...] = rng.standard_normal(array.shape) * np.sqrt(2 / fan_in)
        elif name.endswith("/scale"):
            array[...] = 1

    @jax.jit
    def statistics(variables):
        return network.apply(variables, images, train=True, mutable=["batch_stats"])[1]

    found = flatten_dict(statistics(unflatten_dict(variables, sep="/")), sep="/")
    return variables | {name: np.asarray(leaf) for name, leaf in found.items()}


class NormedNet(nn.Module):
    """Images [B, H, W, 3] -> logits [B, 3]: one convolution and its normalisation, for tests of single steps."""

    filters: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Conv(self.filters, (3, 3), name="conv")(x)
        x = BatchNorm(name="bn")(x, train)
        return nn.Dense(3, name="head")(jnp.mean(nn.tanh(x), (1, 2)))
