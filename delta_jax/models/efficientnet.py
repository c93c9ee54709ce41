"""EfficientNet (Tan & Le, ICML 2019), EfficientNetV2 (ICML 2021), and the network that MobileNetV3 is, too."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from delta_jax.models.inverted_residual import InvertedResidual
from delta_jax.models.layers.activation import relu
from delta_jax.models.layers.convolution import Conv
from delta_jax.models.layers.memory import kept
from delta_jax.models.layers.normalization import BatchNorm
from delta_jax.models.layers.squeeze_excite import SqueezeExcite
from delta_jax.models.layers.windows import Padding, same_padding

INVERTED, FUSED, PLAIN = "inverted residual", "fused inverted residual", "convolution"


class Row(NamedTuple):
    """A block as data.

    Attributes:
      hidden: channels inside the block; of a PLAIN one none are.
      features: channels of its output.
      kernel_size: of the depthwise convolution; of the only large one in the other kinds.
      stride: of the same convolution.
      squeezed: channels of the squeeze in squeeze-and-excitation, 0 for a block without; of INVERTED ones alone.
      kind: INVERTED, FUSED or PLAIN.
      rectified: its activation is ReLU, whatever that of the network is.
    """

    hidden: int
    features: int
    kernel_size: int
    stride: int
    squeezed: int
    kind: str = INVERTED
    rectified: bool = False

    def parts(self, channels: int) -> tuple[str, ...]:
        """How the names of the block's children begin, in their order, for an input of so many channels."""
        if self.kind == PLAIN:
            return ("",)
        if self.kind == FUSED:
            return ("expand", "project")
        there = {"expand": self.hidden > channels, "depthwise": True, "squeeze": bool(self.squeezed), "project": True}
        return tuple(part for part, is_there in there.items() if is_there)


Stages = tuple[tuple[Row, ...], ...]


class FusedInvertedResidual(nn.Module):
    """A convolution that expands, and a linear 1x1 projection; added to the input where the shapes allow.

    Children: expand_conv, expand_bn, project_conv, project_bn; with `row.kind` PLAIN conv and bn, one convolution with
    an activation.
    """

    row: Row
    padding: Padding | None
    conv: Any
    norm: Any
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, features]."""
        row = self.row
        if row.kind == PLAIN:
            y = self.conv(row.features, row.kernel_size, row.stride, self.padding, name="conv")(x)
            y = self.activation(self.norm(name="bn")(y, train))
        else:
            y = self.conv(row.hidden, row.kernel_size, row.stride, self.padding, name="expand_conv")(x)
            y = self.activation(self.norm(name="expand_bn")(y, train))
            y = self.norm(name="project_bn")(self.conv(row.features, 1, name="project_conv")(y), train)
        return y if row.stride > 1 or x.shape[-1] != row.features else kept(x + y)


class EfficientNet(nn.Module):
    """Images [B, H, W, 3] -> logits [B, num_classes].

    Children: stem_conv, stem_bn, block_0, block_1, ..., head_conv, head_bn, classifier; with `hidden` also `hidden`.
    Blocks are not left out at random in training (stochastic depth), as their authors do when they train from scratch.

    Attributes:
      stages: the blocks.
      stem: features of the first convolution.
      head: features of the last one.
      hidden: features of a Dense layer behind the mean over the map, with an activation; 0 for none.
      same: layers are padded as TensorFlow pads them, else as torch does.
      epsilon, momentum: of the BatchNorms.
      activation: of the network.
      gate: of squeeze-and-excitation.
      squeeze_activation: inside of it; None for the network's.
      num_classes: outputs of the head `classifier`.
      dropout: rate in front of it; needs an rng called "dropout" in training.
      frozen_norm: BatchNorm uses its running statistics in training, too.
      dtype: of the computation (parameters are float32 always); None takes that of the inputs.
    """

    stages: Stages
    stem: int = 32
    head: int = 1280
    hidden: int = 0
    same: bool = False
    epsilon: float = 1e-5
    momentum: float = 0.9
    activation: Callable[[jax.Array], jax.Array] = nn.silu
    gate: Callable[[jax.Array], jax.Array] = nn.sigmoid
    squeeze_activation: Callable[[jax.Array], jax.Array] | None = None
    num_classes: int = 1000
    dropout: float = 0.0
    frozen_norm: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits."""
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(
            BatchNorm, momentum=self.momentum, epsilon=self.epsilon, frozen=self.frozen_norm, dtype=self.dtype
        )
        squeeze = partial(
            SqueezeExcite, activation=self.squeeze_activation or self.activation, gate=self.gate, dtype=self.dtype
        )

        def padding(kernel_size: int, stride: int) -> Padding | None:
            return same_padding(x.shape[1:3], kernel_size, stride) if self.same else None

        x = self.activation(norm(name="stem_bn")(conv(self.stem, 3, 2, padding(3, 2), name="stem_conv")(x), train))
        for i, row in enumerate(itertools.chain(*self.stages)):
            activation, around = relu if row.rectified else self.activation, padding(row.kernel_size, row.stride)
            block: nn.Module
            if row.kind == INVERTED:
                block = InvertedResidual(
                    row.features,
                    row.kernel_size,
                    row.stride,
                    row.hidden,
                    around,
                    conv,
                    norm,
                    activation=activation,
                    squeeze=partial(squeeze, row.squeezed) if row.squeezed else None,
                    name=f"block_{i}",
                )
            else:
                block = FusedInvertedResidual(row, around, conv, norm, activation, name=f"block_{i}")
            x = block(x, train)
        x = self.activation(norm(name="head_bn")(conv(self.head, 1, name="head_conv")(x), train))
        x = jnp.mean(x, axis=(1, 2))
        if self.hidden:
            x = self.activation(nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="classifier")(x)


def rounded(channels: float) -> int:
    """To the nearest multiple of 8, to the next one where more than a tenth would be lost."""
    found = max(8, int(channels + 4) // 8 * 8)
    return found + 8 if found < 0.9 * channels else found


# (kind, expansion, features, repeats, first stride, kernel size) of each stage; squeezed is a quarter of the input.
_Table = tuple[tuple[str, int, int, int, int, int], ...]
_B0: _Table = (
    (INVERTED, 1, 16, 1, 1, 3),
    (INVERTED, 6, 24, 2, 2, 3),
    (INVERTED, 6, 40, 2, 2, 5),
    (INVERTED, 6, 80, 3, 2, 3),
    (INVERTED, 6, 112, 3, 1, 5),
    (INVERTED, 6, 192, 4, 2, 5),
    (INVERTED, 6, 320, 1, 1, 3),
)
_V2_S: _Table = (
    (PLAIN, 1, 24, 2, 1, 3),
    (FUSED, 4, 48, 4, 2, 3),
    (FUSED, 4, 64, 4, 2, 3),
    (INVERTED, 4, 128, 6, 2, 3),
    (INVERTED, 6, 160, 9, 1, 3),
    (INVERTED, 6, 256, 15, 2, 3),
)


def _stages(table: _Table, stem: int) -> Stages:
    stages, channels = [], stem
    for kind, expansion, features, repeats, first_stride, kernel_size in table:
        rows = []
        for i in range(repeats):
            squeezed, stride = channels // 4 if kind == INVERTED else 0, first_stride if i == 0 else 1
            rows.append(Row(expansion * channels, features, kernel_size, stride, squeezed, kind))
            channels = features
        stages.append(tuple(rows))
    return tuple(stages)


def scaled(width: float, depth: float) -> dict[str, Any]:
    """The arguments of an EfficientNet: B0's stages, wider and deeper by these factors."""
    table = tuple(
        (kind, expansion, rounded(width * features), math.ceil(depth * repeats), stride, kernel_size)
        for kind, expansion, features, repeats, stride, kernel_size in _B0
    )
    stem = rounded(32 * width)
    return {"stages": _stages(table, stem), "stem": stem, "head": rounded(1280 * width)}


V2_S: dict[str, Any] = {"stages": _stages(_V2_S, 24), "stem": 24}
# timm's own one: the first stage has projections, the last one is wider, and so is the head.
V2_RW_S: dict[str, Any] = {
    "stages": _stages(((FUSED, *_V2_S[0][1:]), *_V2_S[1:-1], (INVERTED, 6, 272, 15, 2, 3)), 24),
    "stem": 24,
    "head": 1792,
}
