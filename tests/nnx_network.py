"""A small network of NNX for tests of the trainer, as somebody would write it who knows nothing of delta_jax."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from delta_jax.frameworks.nnx import adapt
from delta_jax.models import ModelSpec

ARCH = f"{__name__}:spec"
TAPS = ("blocks/0", "blocks/1/conv")


class Block(nnx.Module):
    """Convolution of stride 2 and BatchNorm."""

    def __init__(self, inputs: int, width: int, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(inputs, width, (3, 3), strides=(2, 2), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.norm(self.conv(x)))


class Net(nnx.Module):
    """Images [B, H, W, 3] -> logits [B, num_classes]."""

    def __init__(self, num_classes: int, dropout: float = 0.0, *, rngs: nnx.Rngs):
        self.blocks = nnx.List([Block(inputs, width, rngs=rngs) for inputs, width in ((3, 16), (16, 24))])
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.head = nnx.Linear(24, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for block in self.blocks:
            x = block(x)
        return self.head(self.dropout(jnp.mean(x, (1, 2))))


def spec() -> ModelSpec:
    """What `--config.arch=tests.nnx_network:spec` stands for."""
    return ModelSpec("nnx_network", "none", Net, {}, "head", taps=TAPS, input_size=32)


def save_weights(path: Path) -> None:
    """Writes random weights in the module's own names, with a head of 10 classes."""
    _, variables = adapt(Net(10, rngs=nnx.Rngs(0)))
    save_file({name: np.asarray(leaf) for name, leaf in flatten_dict(variables, sep="/").items()}, path)
