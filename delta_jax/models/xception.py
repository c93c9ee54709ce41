"""Xception (Chollet, CVPR 2017), as its port to PyTorch, or padded as Keras pads: its first two layers not at all."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from delta_jax.models.layers.activation import relu
from delta_jax.models.layers.convolution import Conv
from delta_jax.models.layers.memory import kept
from delta_jax.models.layers.normalization import BatchNorm
from delta_jax.models.layers.pooling import max_pool
from delta_jax.models.layers.windows import same_padding

SMALLEST_IMAGE = 7  # pixels; leaves something behind the first two convolutions
NO_PADDING = ((0, 0), (0, 0))
# Of each block the widths of its separable convolutions, and whether it halves the map.
BLOCKS = (
    ((128, 128), True),
    ((256, 256), True),
    ((728, 728), True),
    *((((728, 728, 728), False),) * 8),
    ((728, 1024), True),
)


class Block(nn.Module):
    """ReLU, depthwise 3x3, 1x1 and BatchNorm, several times; a pooling in the end or none; a shortcut.

    Children: depthwise1, pointwise1, bn1, depthwise2, ..., [skip_conv, skip_bn].
    """

    widths: tuple[int, ...]
    halves: bool
    rectified: bool  # its first layer has an activation in front
    same: bool
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H', W', widths[-1]]."""
        y = x
        for i, width in enumerate(self.widths, 1):
            y = relu(y) if self.rectified or i > 1 else y
            y = self.conv(y.shape[-1], 3, depthwise=True, name=f"depthwise{i}")(y)
            y = self.norm(name=f"bn{i}")(self.conv(width, 1, name=f"pointwise{i}")(y), train)
        if self.halves:
            y = max_pool(y, 3, 2, same_padding(y.shape[1:3], 3, 2) if self.same else ((1, 1), (1, 1)))
            x = self.conv(self.widths[-1], 1, 2, name="skip_conv")(x)
            x = self.norm(name="skip_bn")(x, train)
        return kept(x + y)


class Xception(nn.Module):
    """Images [B, H, W, 3] of 7 pixels or more on each side -> logits [B, num_classes].

    Children: conv1, bn1, conv2, bn2, block1, ..., block12, depthwise3, pointwise3, bn3, depthwise4, pointwise4, bn4,
    fc.

    Attributes:
      blocks: (widths of the separable convolutions, whether it halves the map) of each block.
      same: poolings are padded as TensorFlow pads them, else as torch does; convolutions are padded alike in both.
      epsilon: of the BatchNorms.
      num_classes: outputs of the head `fc`.
      dropout: rate in front of the head; needs an rng called "dropout" in training.
      frozen_norm: BatchNorm uses its running statistics in training, too.
      dtype: of the computation (parameters are float32 always); None takes that of the inputs.
    """

    blocks: tuple[tuple[tuple[int, ...], bool], ...] = BLOCKS
    same: bool = False
    epsilon: float = 1e-5
    num_classes: int = 1000
    dropout: float = 0.0
    frozen_norm: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits; ValueError for images that are too small."""
        if min(x.shape[1:3]) < SMALLEST_IMAGE:  # an empty map has the mean NaN
            raise ValueError(
                f"images of {x.shape[1]}x{x.shape[2]} are too small for Xception, which needs {SMALLEST_IMAGE} pixels "
                "or more on each side; enlarge them"
            )
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(BatchNorm, epsilon=self.epsilon, frozen=self.frozen_norm, dtype=self.dtype)
        x = relu(norm(name="bn1")(conv(32, 3, 2, NO_PADDING, name="conv1")(x), train))
        x = relu(norm(name="bn2")(conv(64, 3, 1, NO_PADDING, name="conv2")(x), train))
        for i, (widths, halves) in enumerate(self.blocks):
            x = Block(widths, halves, i > 0, self.same, conv, norm, name=f"block{i + 1}")(x, train)
        for i, width in ((3, 1536), (4, 2048)):
            x = conv(x.shape[-1], 3, depthwise=True, name=f"depthwise{i}")(x)
            x = relu(norm(name=f"bn{i}")(conv(width, 1, name=f"pointwise{i}")(x), train))
        x = jnp.mean(x, axis=(1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x)
