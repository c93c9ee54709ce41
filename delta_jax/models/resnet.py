"""ResNets (He et al., CVPR 2016), version 1.5: the stride sits in the 3x3 convolution, as in torchvision.

Variants, by arguments: wide ResNets (Zagoruyko & Komodakis, BMVC 2016), ResNeXt (Xie et al., CVPR 2017), squeeze and
excitation (Hu et al., CVPR 2018), and ResNet-C and -D (He et al., "Bag of tricks", CVPR 2019) as timm has them: three
3x3 convolutions in the stem, and in -D shortcuts that average the map before they halve it.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from delta_jax.models.layers.activation import relu
from delta_jax.models.layers.columns import on_columns
from delta_jax.models.layers.convolution import Conv
from delta_jax.models.layers.memory import kept
from delta_jax.models.layers.normalization import BatchNorm
from delta_jax.models.layers.pooling import average_pool_to_edge, max_pool, max_pool_side_by_side
from delta_jax.models.layers.squeeze_excite import SqueezeExcite


class Block(nn.Module):
    """Residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1 with `bottleneck` (then 4 * width maps come out).

    Children: conv1, bn1, conv2, bn2[, conv3, bn3][, se][, downsample_conv, downsample_bn], after torchvision's names.
    The other attributes are those of `ResNet`.
    """

    width: int
    stride: int = 1
    bottleneck: bool = False
    downsample: bool = False
    groups: int = 1
    group_width: int = 64
    squeeze: bool = False
    average_shortcut: bool = False
    stride_first: bool = False
    frozen_norm: bool = False
    columns: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, width or 4 * width]."""
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(BatchNorm, frozen=self.frozen_norm, dtype=self.dtype)
        out = 4 * self.width if self.bottleneck else self.width
        if self.bottleneck:
            inner = self.width * self.group_width // 64 * self.groups
            layers = [(inner, 1, 1, 1), (inner, 3, self.stride, self.groups), (out, 1, 1, 1)]
        else:
            layers = [(self.width, 3, self.stride, 1), (out, 3, 1, 1)]
        if self.stride_first:
            layers = [
                (width, size, 1 if i else self.stride, groups) for i, (width, size, _, groups) in enumerate(layers)
            ]
        y, columns = x, self.columns
        for i, (features, kernel_size, stride, groups) in enumerate(layers, 1):
            y = conv(features, kernel_size, stride, groups=groups, columns=columns, name=f"conv{i}")(y)
            columns = max(columns // stride, 1)
            y = norm(columns=columns, name=f"bn{i}")(y, train)
            y = on_columns(relu, columns)(y) if i < len(layers) else y
        if self.squeeze:
            y = SqueezeExcite(-(-out // 16 // 8) * 8, dtype=self.dtype, name="se")(y)
        if self.downsample:
            averaged = self.average_shortcut and self.stride > 1
            x = average_pool_to_edge(x, 2, self.stride) if averaged else x
            stride = 1 if averaged else self.stride
            x = conv(out, 1, stride, columns=self.columns, name="downsample_conv")(x)
            x = norm(columns=columns, name="downsample_bn")(x, train)
        return kept(on_columns(lambda x, y: relu(x + y), columns)(x, y))


class ResNet(nn.Module):
    """Images [B, H, W, 3] -> logits [B, num_classes].

    Attributes:
      depths: blocks in each of the four stages.
      bottleneck: 1x1, 3x3, 1x1 blocks (ResNet-50 and deeper).
      num_classes: outputs of the head `fc`.
      dropout: rate in front of the head; needs an rng called "dropout" in training.
      frozen_norm: BatchNorm uses its running statistics in training, too.
      columns: of the first stage's maps that are computed side by side, where the width of the images is a multiple of
        four times as many: a power of two, on TPUs 2, see `layers/columns.py`. The numbers are the same. Variants
        with groups or another stem do without.
      dtype: of the computation (parameters are float32 always); None takes that of the inputs.
      groups: of the 3x3 convolutions in bottlenecks (ResNeXt).
      group_width: channels of a group in the first stage, twice as many in each further one; of 64 in plain ResNets.
      squeeze: blocks end with squeeze and excitation, to a 16th of their maps.
      stem: features of three 3x3 convolutions in the place of the 7x7 one, () for that.
      average_shortcut: shortcuts that halve the map average 2x2 values first, which at an odd edge are fewer.
      stride_first: blocks halve the map in their first convolution, as published, and as in Caffe and Keras.
    """

    depths: tuple[int, int, int, int]
    bottleneck: bool
    num_classes: int = 1000
    dropout: float = 0.0
    frozen_norm: bool = False
    columns: int = 1
    dtype: Any = None
    groups: int = 1
    group_width: int = 64
    squeeze: bool = False
    stem: tuple[int, ...] = ()
    average_shortcut: bool = False
    stride_first: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits."""
        divides = x.shape[2] % (4 * self.columns) == 0
        columns = self.columns if divides and self.groups == 1 and not self.stem else 1
        norm = partial(BatchNorm, frozen=self.frozen_norm, dtype=self.dtype, name="bn1")
        if columns == 1:
            for i, features in enumerate(self.stem[:-1]):
                x = Conv(features, 3, 1 if i else 2, dtype=self.dtype, name=f"conv1_{i}")(x)
                x = relu(BatchNorm(frozen=self.frozen_norm, dtype=self.dtype, name=f"conv1_bn{i}")(x, train))
            last = (self.stem[-1], 3, 1) if self.stem else (64, 7, 2)
            x = Conv(*last, dtype=self.dtype, name="conv1")(x)
            x = max_pool(relu(norm()(x, train)), 3, 2, ((1, 1), (1, 1)))
        else:
            x = Conv(64, 7, 2, columns=4 * columns, evens_first=True, dtype=self.dtype, name="conv1")(x)
            x = norm(columns=2 * columns, evens_first=True)(x, train)
            x = max_pool_side_by_side(on_columns(relu, 2 * columns, evens_first=True)(x), 2 * columns)
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                first = i == 0
                x = Block(
                    64 * 2**stage,
                    stride=2 if first and stage > 0 else 1,
                    bottleneck=self.bottleneck,
                    downsample=first and (stage > 0 or self.bottleneck),
                    stride_first=self.stride_first,
                    groups=self.groups,
                    group_width=self.group_width,
                    squeeze=self.squeeze,
                    average_shortcut=self.average_shortcut,
                    frozen_norm=self.frozen_norm,
                    columns=columns,
                    dtype=self.dtype,
                    name=f"layer{stage + 1}_{i}",
                )(x, train)
                columns = max(columns // 2, 1) if first and stage > 0 else columns
        x = jnp.mean(x, axis=(1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x)
