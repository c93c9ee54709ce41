"""The networks made of inverted residual blocks: MobileNetV2 (Sandler et al., CVPR 2018) and EfficientNet-Lite."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from delta_jax.models.layers.activation import relu6
from delta_jax.models.layers.columns import on_columns
from delta_jax.models.layers.convolution import Conv
from delta_jax.models.layers.memory import kept
from delta_jax.models.layers.normalization import BatchNorm
from delta_jax.models.layers.windows import Padding, same_padding

SMALLEST_IMAGE = 32  # pixels; with EfficientNet-Lite's padding
Stage = tuple[int, int, int, int, int]  # expansion, features, repeats, first stride, kernel size


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection; added to the input where the shapes allow.

    Children: expand_conv, expand_bn (only if `hidden` is wider than the input), depthwise_conv, depthwise_bn, squeeze
    (only if there is one), project_conv, project_bn.
    """

    features: int
    kernel_size: int
    stride: int
    hidden: int
    padding: Padding | None
    conv: Any
    norm: Any
    columns: int = 1
    activation: Callable[[jax.Array], jax.Array] = relu6
    squeeze: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, features]."""
        y, columns = x, self.columns
        if self.hidden > x.shape[-1]:
            y = self.conv(self.hidden, 1, columns=columns, name="expand_conv")(y)
            y = on_columns(self.activation, columns)(self.norm(columns=columns, name="expand_bn")(y, train))
        shape = self.hidden, self.kernel_size, self.stride, self.padding
        y = self.conv(*shape, depthwise=True, columns=columns, name="depthwise_conv")(y)
        columns = max(columns // self.stride, 1)
        y = on_columns(self.activation, columns)(self.norm(columns=columns, name="depthwise_bn")(y, train))
        if self.squeeze is not None:
            y = self.squeeze(name="squeeze")(y)
        y = self.conv(self.features, 1, columns=columns, name="project_conv")(y)
        y = self.norm(columns=columns, name="project_bn")(y, train)
        if self.stride > 1 or x.shape[-1] != self.features:
            return y
        return kept(on_columns(jnp.add, columns)(x, y))


class InvertedResidualNet(nn.Module):
    """Images [B, H, W, 3] -> logits [B, num_classes].

    Children: stem_conv, stem_bn, block_0, block_1, ..., head_conv, head_bn, classifier.

    Attributes:
      stages: (expansion, features, repeats, first stride, kernel size) of each stage.
      same_at: pixels. Every layer is padded as TensorFlow pads it when the images have this size, whatever size they
        have: what the PyTorch port of EfficientNet-Lite does. None pads as torch does.
      epsilon, momentum: of the BatchNorms.
      num_classes: outputs of the head `classifier`.
      dropout: rate in front of the head; needs an rng called "dropout" in training.
      frozen_norm: BatchNorm uses its running statistics in training, too.
      columns: of the largest maps that are computed side by side, where the width of the images is a multiple of twice
        as many: a power of two, on TPUs 4, see `layers/columns.py`. The numbers are the same.
      dtype: of the computation (parameters are float32 always); None takes that of the inputs.
    """

    stages: tuple[Stage, ...]
    same_at: int | None = None
    epsilon: float = 1e-5
    momentum: float = 0.9
    num_classes: int = 1000
    dropout: float = 0.0
    frozen_norm: bool = False
    columns: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits; ValueError for images below 32 pixels where the padding is not torch's."""
        if self.same_at and min(x.shape[1:3]) < SMALLEST_IMAGE:  # the last maps may be empty, and their mean NaN
            raise ValueError(
                f"images of {x.shape[1]}x{x.shape[2]} are too small for a network padded for "
                f"{self.same_at}x{self.same_at}, which needs {SMALLEST_IMAGE} pixels or more on each side; enlarge them"
            )
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(
            BatchNorm, momentum=self.momentum, epsilon=self.epsilon, frozen=self.frozen_norm, dtype=self.dtype
        )
        size = self.same_at  # of the maps, were the images that large

        def padding(kernel_size: int, stride: int) -> Padding | None:
            return same_padding((size, size), kernel_size, stride) if size else None

        columns = self.columns if x.shape[2] % (2 * self.columns) == 0 else 1
        beside = 2 * columns if columns > 1 else 1
        x = conv(32, 3, 2, padding(3, 2), columns=beside, name="stem_conv")(x)
        size = size and math.ceil(size / 2)
        x = on_columns(relu6, columns)(norm(columns=columns, name="stem_bn")(x, train))
        block = 0
        for expansion, features, repeats, first_stride, kernel_size in self.stages:
            for i in range(repeats):
                stride = first_stride if i == 0 else 1
                shape = features, kernel_size, stride, expansion * x.shape[-1], padding(kernel_size, stride)
                x = InvertedResidual(*shape, conv, norm, columns, name=f"block_{block}")(x, train)
                columns = 1 if stride > 1 else columns  # smaller maps have more channels
                size = size and math.ceil(size / stride)
                block += 1
        x = conv(1280, 1, name="head_conv")(x)
        x = relu6(norm(name="head_bn")(x, train))
        x = jnp.mean(x, axis=(1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="classifier")(x)


MOBILENET_V2_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 32, 3, 2, 3),
    (6, 64, 4, 2, 3),
    (6, 96, 3, 1, 3),
    (6, 160, 3, 2, 3),
    (6, 320, 1, 1, 3),
)
_EFFICIENTNET_LITE0_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


def efficientnet_lite_stages(width: float, depth: float) -> tuple[Stage, ...]:
    """The stages of an EfficientNet-Lite: Lite0's, wider and deeper by these factors (Tan & Le, ICML 2019).

    Widths are rounded to the nearest multiple of 8, repeats up; the first and the last stage are not repeated more
    often, and stem and head stay as they are.
    """
    inner = range(1, len(_EFFICIENTNET_LITE0_STAGES) - 1)
    return tuple(
        (expansion, round(width * features / 8) * 8, math.ceil(depth * repeats) if i in inner else repeats, stride, k)
        for i, (expansion, features, repeats, stride, k) in enumerate(_EFFICIENTNET_LITE0_STAGES)
    )
