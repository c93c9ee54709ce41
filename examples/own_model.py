"""A network of one's own in the trainer: GroupNorm, blocks in stages in an encoder, a head inside another module.

What delta_jax has to know about it is in `spec` below, and nothing of the network is changed for it:

    python -m delta_jax.describe examples.own_model:spec --classes=3                 # its taps, its price
    python -m examples.own_model own.safetensors                                   # stands for your pretrained weights
    python -m delta_jax.train --config=configs/folder.py --workdir=runs/own --config.data.root=photos \
        --config.arch=examples.own_model:spec --config.weights=own.safetensors
    python -m delta_jax.predict --workdir=runs/own photos

The commands import the module named before the colon, so start them in a folder from which Python finds it.
"""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from delta_jax.models import ModelSpec


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, [B, H, W, C] -> [B, H, W, C]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Adds what the two convolutions find to x."""
        width = x.shape[-1]
        y = nn.relu(nn.GroupNorm(4, name="norm_0")(nn.Conv(width, (3, 3), use_bias=False, name="conv_0")(x)))
        return nn.relu(x + nn.GroupNorm(4, name="norm_1")(nn.Conv(width, (3, 3), use_bias=False, name="conv_1")(y)))


class Stage(nn.Module):
    """Halves height and width, then runs the blocks."""

    width: int
    blocks: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H / 2, W / 2, width]."""
        x = nn.Conv(self.width, (3, 3), strides=(2, 2), name="down")(x)
        for i in range(self.blocks):
            x = Block(name=f"block_{i}")(x)
        return x


class Encoder(nn.Module):
    """The stages one after the other."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [B, H, W, 3] -> feature maps [B, h, w, widths[-1]]."""
        for i, width in enumerate(self.widths):
            x = Stage(width, blocks=1, name=f"stage_{i}")(x)
        return x


class Classifier(nn.Module):
    """LayerNorm, dropout and a Dense layer on the mean over the map."""

    num_classes: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        """[B, h, w, C] -> logits [B, num_classes]."""
        x = nn.LayerNorm(name="norm")(jnp.mean(x, axis=(1, 2)))
        x = nn.Dropout(self.dropout)(x, deterministic=deterministic)
        return nn.Dense(self.num_classes, name="logits")(x)


class OwnNet(nn.Module):
    """Encoder and classifier; `deterministic` is its word for "not in training"."""

    widths: tuple[int, ...]
    num_classes: int
    dropout: float = 0.0

    def setup(self):
        """Names the two children."""
        self.encoder = Encoder(self.widths)
        self.classifier = Classifier(self.num_classes, self.dropout)

    def __call__(self, images: jax.Array, *, deterministic: bool) -> jax.Array:
        """Images [B, H, W, 3] -> logits [B, num_classes]."""
        return self.classifier(self.encoder(images), deterministic)


def spec() -> ModelSpec:
    """What `--config.arch=examples.own_model:spec` stands for."""
    return ModelSpec(
        name="own_net",
        family="own",
        module=OwnNet,
        arguments={"widths": (16, 24, 32)},
        head="classifier/logits",
        taps=("encoder/stage_1/block_0", "encoder/stage_2/block_0/conv_1"),  # a whole block, a single convolution
        input_size=64,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        train_argument="deterministic",
    )


def save_weights(path: str, num_classes: int = 10) -> None:
    """Writes variables in Flax's names: "params/encoder/stage_0/down/kernel". Here they are random; yours are not."""
    images = jnp.zeros((1, 64, 64, 3))
    network = OwnNet(**spec().arguments, num_classes=num_classes)
    variables = jax.jit(lambda key: network.init(key, images, deterministic=True))(jax.random.key(0))
    save_file({name: np.asarray(leaf) for name, leaf in flatten_dict(variables, sep="/").items()}, path)


if __name__ == "__main__":
    save_weights(sys.argv[1])
