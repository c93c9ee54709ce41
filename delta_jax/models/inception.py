"""Inception-V3 (Szegedy et al., CVPR 2016) with torchvision's geometry; module paths are its names, "/" for "."."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from delta_jax.models.layers.activation import relu
from delta_jax.models.layers.convolution import Conv
from delta_jax.models.layers.normalization import BatchNorm
from delta_jax.models.layers.pooling import average_pool, max_pool
from delta_jax.models.layers.windows import Padding

NO_PADDING = ((0, 0), (0, 0))
SMALLEST_IMAGE = 75  # pixels; leaves one position in front of the head
# The auxiliary classifier's pooling and its 5x5 convolution need this map of Mixed_6e, and it this image, in pixels.
AUXILIARY_MAP, SMALLEST_AUXILIARY_IMAGE = 17, 299


class ConvNormReLU(nn.Module):
    """Convolution, batch normalisation (epsilon 1e-3), ReLU; children conv and bn."""

    features: int
    kernel_size: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: Padding | None = None
    frozen_norm: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H', W', features]."""
        x = Conv(self.features, self.kernel_size, self.stride, self.padding, dtype=self.dtype, name="conv")(x)
        return relu(BatchNorm(epsilon=1e-3, frozen=self.frozen_norm, dtype=self.dtype, name="bn")(x, train))


@dataclass(frozen=True)
class Layer:
    """A `ConvNormReLU` of a block; one that halves the map has no padding."""

    name: str
    features: int
    kernel_size: tuple[int, int] = (1, 1)
    halves: bool = False


# A branch is a chain of poolings and layers; a tuple of layers is a fork, whose outputs are concatenated.
AVERAGE, MAXIMUM = "average pooling, 3x3", "maximum pooling, 3x3, halves the map"
Branch = tuple[str | Layer | tuple[Layer, ...], ...]


class Mixed(nn.Module):
    """Branches side by side, concatenated along the channels in their order."""

    branches: tuple[Branch, ...]
    frozen_norm: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H', W', sum of the branches' features]."""

        def run(layer: Layer, y: jax.Array) -> jax.Array:
            block = ConvNormReLU(
                layer.features,
                layer.kernel_size,
                stride=2 if layer.halves else 1,
                padding=NO_PADDING if layer.halves else None,
                frozen_norm=self.frozen_norm,
                dtype=self.dtype,
                name=layer.name,
            )
            return block(y, train)

        outputs = []
        for branch in self.branches:
            y = x
            for step in branch:
                if isinstance(step, Layer):
                    y = run(step, y)
                elif isinstance(step, tuple):
                    y = jnp.concatenate([run(layer, y) for layer in step], axis=-1)
                elif step == AVERAGE:
                    y = average_pool(y, 3, 1, edge=1)
                else:
                    y = max_pool(y, 3, 2, NO_PADDING)
            outputs.append(y)
        return jnp.concatenate(outputs, axis=-1)


class AuxiliaryHead(nn.Module):
    """The classifier on the maps of Mixed_6e that is trained along with the main one; children conv0, conv1, fc."""

    num_classes: int
    frozen_norm: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C], H and W 17 or more -> logits [B, num_classes]."""
        conv = partial(ConvNormReLU, padding=NO_PADDING, frozen_norm=self.frozen_norm, dtype=self.dtype)
        x = average_pool(x, 5, 3)
        x = conv(128, name="conv0")(x, train)
        x = conv(768, (5, 5), name="conv1")(x, train)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(jnp.mean(x, axis=(1, 2)))


class InceptionV3(nn.Module):
    """Images [B, H, W, 3] of 75 pixels or more on each side -> logits [B, num_classes].

    Children: Conv2d_1a_3x3, Conv2d_2a_3x3, Conv2d_2b_3x3, Conv2d_3b_1x1, Conv2d_4a_3x3, Mixed_5b to _5d, Mixed_6a to
    _6e, Mixed_7a to _7c, fc, and with `auxiliary` AuxLogits.

    Attributes:
      num_classes: outputs of the head `fc` and of the auxiliary one.
      dropout: rate in front of the head; needs an rng called "dropout" in training.
      frozen_norm: BatchNorm uses its running statistics in training, too.
      dtype: of the computation (parameters are float32 always); None takes that of the inputs.
      auxiliary: has the second classifier. It runs in training only, on images of 299 pixels or more; its logits are
        what the module AuxLogits returns: read them with a tap.
    """

    num_classes: int = 1000
    dropout: float = 0.0
    frozen_norm: bool = False
    dtype: Any = None
    auxiliary: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits of the main head; ValueError for images that are too small."""
        self._check_size(x.shape[1], x.shape[2], train)
        norm: dict[str, Any] = {"frozen_norm": self.frozen_norm, "dtype": self.dtype}
        conv: Any = partial(ConvNormReLU, **norm)  # Any: mypy takes what partial fixes by keyword for positional
        x = conv(32, (3, 3), stride=2, padding=NO_PADDING, name="Conv2d_1a_3x3")(x, train)
        x = conv(32, (3, 3), padding=NO_PADDING, name="Conv2d_2a_3x3")(x, train)
        x = conv(64, (3, 3), name="Conv2d_2b_3x3")(x, train)
        x = max_pool(x, 3, 2, NO_PADDING)
        x = conv(80, name="Conv2d_3b_1x1")(x, train)
        x = conv(192, (3, 3), padding=NO_PADDING, name="Conv2d_4a_3x3")(x, train)
        x = max_pool(x, 3, 2, NO_PADDING)
        for name, branches in BLOCKS.items():
            x = Mixed(branches, **norm, name=name)(x, train)
            if name == "Mixed_6e" and self.auxiliary and (train or self.is_initializing()):
                # Without training, parameters are all that is wanted, whatever the size of the image.
                maps = x if train else jnp.zeros((1, AUXILIARY_MAP, AUXILIARY_MAP, x.shape[-1]), x.dtype)
                AuxiliaryHead(self.num_classes, **norm, name="AuxLogits")(maps, train)
        x = jnp.mean(x, axis=(1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x)

    def _check_size(self, height: int, width: int, train: bool) -> None:
        # Unpadded convolutions would leave an empty map, and its mean is NaN.
        if min(height, width) < SMALLEST_IMAGE:
            raise ValueError(
                f"images of {height}x{width} are too small for Inception-V3, which needs {SMALLEST_IMAGE} pixels or "
                "more on each side; enlarge them"
            )
        if self.auxiliary and train and min(height, width) < SMALLEST_AUXILIARY_IMAGE:
            raise ValueError(
                f"images of {height}x{width} are too small to train Inception-V3's auxiliary classifier, which needs "
                f"{SMALLEST_AUXILIARY_IMAGE} pixels or more on each side; enlarge them, or do without it "
                "(auxiliary=False)"
            )


def _block_a(pooled: int) -> tuple[Branch, ...]:
    return (
        (Layer("branch1x1", 64),),
        (Layer("branch5x5_1", 48), Layer("branch5x5_2", 64, (5, 5))),
        (Layer("branch3x3dbl_1", 64), Layer("branch3x3dbl_2", 96, (3, 3)), Layer("branch3x3dbl_3", 96, (3, 3))),
        (AVERAGE, Layer("branch_pool", pooled)),
    )


_BLOCK_B: tuple[Branch, ...] = (
    (Layer("branch3x3", 384, (3, 3), halves=True),),
    (
        Layer("branch3x3dbl_1", 64),
        Layer("branch3x3dbl_2", 96, (3, 3)),
        Layer("branch3x3dbl_3", 96, (3, 3), halves=True),
    ),
    (MAXIMUM,),
)


def _block_c(width: int) -> tuple[Branch, ...]:
    return (
        (Layer("branch1x1", 192),),
        (Layer("branch7x7_1", width), Layer("branch7x7_2", width, (1, 7)), Layer("branch7x7_3", 192, (7, 1))),
        (
            Layer("branch7x7dbl_1", width),
            Layer("branch7x7dbl_2", width, (7, 1)),
            Layer("branch7x7dbl_3", width, (1, 7)),
            Layer("branch7x7dbl_4", width, (7, 1)),
            Layer("branch7x7dbl_5", 192, (1, 7)),
        ),
        (AVERAGE, Layer("branch_pool", 192)),
    )


_BLOCK_D: tuple[Branch, ...] = (
    (Layer("branch3x3_1", 192), Layer("branch3x3_2", 320, (3, 3), halves=True)),
    (
        Layer("branch7x7x3_1", 192),
        Layer("branch7x7x3_2", 192, (1, 7)),
        Layer("branch7x7x3_3", 192, (7, 1)),
        Layer("branch7x7x3_4", 192, (3, 3), halves=True),
    ),
    (MAXIMUM,),
)
_BLOCK_E: tuple[Branch, ...] = (
    (Layer("branch1x1", 320),),
    (Layer("branch3x3_1", 384), (Layer("branch3x3_2a", 384, (1, 3)), Layer("branch3x3_2b", 384, (3, 1)))),
    (
        Layer("branch3x3dbl_1", 448),
        Layer("branch3x3dbl_2", 384, (3, 3)),
        (Layer("branch3x3dbl_3a", 384, (1, 3)), Layer("branch3x3dbl_3b", 384, (3, 1))),
    ),
    (AVERAGE, Layer("branch_pool", 192)),
)
BLOCKS = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": _BLOCK_B,
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": _BLOCK_D,
    "Mixed_7b": _BLOCK_E,
    "Mixed_7c": _BLOCK_E,
}
