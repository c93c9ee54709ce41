"""DenseNet-121 to -201 (Huang et al., CVPR 2017): every layer of a block reads the maps of all layers before it."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from delta_jax.models.layers.activation import relu
from delta_jax.models.layers.convolution import Conv
from delta_jax.models.layers.normalization import BatchNorm
from delta_jax.models.layers.pooling import average_pool, max_pool

EXPANSION = 4  # maps of a layer's 1x1 convolution by those that it adds


class DenseLayer(nn.Module):
    """Normalisation, ReLU and convolution, 1x1 and 3x3; children norm1, conv1, norm2, conv2."""

    growth: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, growth], the new maps alone."""
        y = relu(self.norm(name="norm1")(x, train))
        y = self.conv(EXPANSION * self.growth, 1, name="conv1")(y)
        y = relu(self.norm(name="norm2")(y, train))
        return self.conv(self.growth, 3, name="conv2")(y)


class DenseNet(nn.Module):
    """Images [B, H, W, 3] -> logits [B, num_classes].

    Children: conv0, norm0, block1_1, block1_2, ..., transition1_norm, transition1_conv, ..., norm5, classifier.

    Attributes:
      depths: layers in each of the four blocks.
      growth: maps that a layer adds.
      stem: maps of the first convolution.
      num_classes: outputs of the head `classifier`.
      dropout: rate in front of the head; needs an rng called "dropout" in training.
      frozen_norm: BatchNorm uses its running statistics in training, too.
      dtype: of the computation (parameters are float32 always); None takes that of the inputs.
    """

    depths: tuple[int, int, int, int]
    growth: int = 32
    stem: int = 64
    num_classes: int = 1000
    dropout: float = 0.0
    frozen_norm: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits; ValueError for images below 32 pixels, of which no map is left."""
        if min(x.shape[1:3]) < 29:
            raise ValueError(
                f"images of {x.shape[1]}x{x.shape[2]} are too small for a DenseNet, which needs 29 pixels or more on "
                "each side; enlarge them"
            )
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(BatchNorm, frozen=self.frozen_norm, dtype=self.dtype)
        x = conv(self.stem, 7, 2, name="conv0")(x)
        x = max_pool(relu(norm(name="norm0")(x, train)), 3, 2, ((1, 1), (1, 1)))
        for block, depth in enumerate(self.depths, 1):
            for layer in range(1, depth + 1):
                new = DenseLayer(self.growth, conv, norm, name=f"block{block}_{layer}")(x, train)
                x = jnp.concatenate([x, new], axis=-1)
            if block < len(self.depths):
                x = relu(norm(name=f"transition{block}_norm")(x, train))
                x = average_pool(conv(x.shape[-1] // 2, 1, name=f"transition{block}_conv")(x), 2, 2)
        x = relu(norm(name="norm5")(x, train))
        x = jnp.mean(x, axis=(1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="classifier")(x)
