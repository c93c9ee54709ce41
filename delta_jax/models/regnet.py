"""RegNetX, and RegNetY with squeeze and excitation (Radosavovic et al., CVPR 2020): stages of grouped bottlenecks."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from delta_jax.models.layers.activation import relu
from delta_jax.models.layers.convolution import Conv
from delta_jax.models.layers.memory import kept
from delta_jax.models.layers.normalization import BatchNorm
from delta_jax.models.layers.squeeze_excite import SqueezeExcite


class Block(nn.Module):
    """1x1, 3x3 in groups, 1x1, all of `width` maps, added to the input.

    Children: conv1, bn1, conv2, bn2[, se], conv3, bn3[, downsample_conv, downsample_bn].

    Attributes:
      width: maps.
      group_width: channels of a group of the 3x3 convolution.
      stride: of the 3x3 convolution.
      squeeze: squeeze and excitation behind the 3x3 convolution, to a quarter of the block's input maps.
      conv, norm: the layers.
      dtype: of the computation.
    """

    width: int
    group_width: int
    stride: int
    squeeze: bool
    conv: Any
    norm: Any
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, width]."""
        y = relu(self.norm(name="bn1")(self.conv(self.width, 1, name="conv1")(x), train))
        y = self.conv(self.width, 3, self.stride, groups=self.width // self.group_width, name="conv2")(y)
        y = relu(self.norm(name="bn2")(y, train))
        if self.squeeze:
            y = SqueezeExcite(round(x.shape[-1] / 4), dtype=self.dtype, name="se")(y)
        y = self.norm(name="bn3")(self.conv(self.width, 1, name="conv3")(y), train)
        if self.stride > 1 or x.shape[-1] != self.width:
            x = self.norm(name="downsample_bn")(self.conv(self.width, 1, self.stride, name="downsample_conv")(x), train)
        return kept(relu(x + y))


class RegNet(nn.Module):
    """Images [B, H, W, 3] -> logits [B, num_classes].

    Children: stem_conv, stem_bn, s1_1, s1_2, ..., s4_1, ..., fc.

    Attributes:
      depths: blocks of each stage; every stage halves the map.
      widths: maps of each stage.
      group_width: channels of a group of the 3x3 convolutions; of a narrower stage, all.
      squeeze: RegNetY.
      num_classes: outputs of the head `fc`.
      dropout: rate in front of the head; needs an rng called "dropout" in training.
      frozen_norm: BatchNorm uses its running statistics in training, too.
      dtype: of the computation (parameters are float32 always); None takes that of the inputs.
    """

    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]
    group_width: int
    squeeze: bool
    num_classes: int = 1000
    dropout: float = 0.0
    frozen_norm: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits."""
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(BatchNorm, frozen=self.frozen_norm, dtype=self.dtype)
        x = relu(norm(name="stem_bn")(conv(32, 3, 2, name="stem_conv")(x), train))
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), 1):
            for i in range(1, depth + 1):
                shape = width, min(self.group_width, width), 2 if i == 1 else 1, self.squeeze
                x = Block(*shape, conv, norm, self.dtype, name=f"s{stage}_{i}")(x, train)
        x = jnp.mean(x, axis=(1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x)


# Depths, widths and width of a group: what the papers' linear rule gives, as timm 1.0.31 rounds it. The number is that
# of millions of multiply-adds, by 100. _tv: widths that torchvision rounds otherwise.
SIZES: dict[str, tuple[tuple[int, int, int, int], tuple[int, int, int, int], int]] = {
    "regnetx_002": ((1, 1, 4, 7), (24, 56, 152, 368), 8),
    "regnetx_004": ((1, 2, 7, 12), (32, 64, 160, 384), 16),
    "regnetx_004_tv": ((1, 2, 7, 12), (32, 64, 160, 400), 16),
    "regnetx_006": ((1, 3, 5, 7), (48, 96, 240, 528), 24),
    "regnetx_008": ((1, 3, 7, 5), (64, 128, 288, 672), 16),
    "regnetx_016": ((2, 4, 10, 2), (72, 168, 408, 912), 24),
    "regnetx_032": ((2, 6, 15, 2), (96, 192, 432, 1008), 48),
    "regnetx_040": ((2, 5, 14, 2), (80, 240, 560, 1360), 40),
    "regnetx_064": ((2, 4, 10, 1), (168, 392, 784, 1624), 56),
    "regnetx_080": ((2, 5, 15, 1), (80, 240, 720, 1920), 120),
    "regnetx_120": ((2, 5, 11, 1), (224, 448, 896, 2240), 112),
    "regnetx_160": ((2, 6, 13, 1), (256, 512, 896, 2048), 128),
    "regnetx_320": ((2, 7, 13, 1), (336, 672, 1344, 2520), 168),
    "regnety_002": ((1, 1, 4, 7), (24, 56, 152, 368), 8),
    "regnety_004": ((1, 3, 6, 6), (48, 104, 208, 440), 8),
    "regnety_006": ((1, 3, 7, 4), (48, 112, 256, 608), 16),
    "regnety_008": ((1, 3, 8, 2), (64, 128, 320, 768), 16),
    "regnety_008_tv": ((1, 3, 8, 2), (64, 144, 320, 784), 16),
    "regnety_016": ((2, 6, 17, 2), (48, 120, 336, 888), 24),
    "regnety_032": ((2, 5, 13, 1), (72, 216, 576, 1512), 24),
    "regnety_040": ((2, 6, 12, 2), (128, 192, 512, 1088), 64),
    "regnety_064": ((2, 7, 14, 2), (144, 288, 576, 1296), 72),
    "regnety_080": ((2, 4, 10, 1), (168, 448, 896, 2016), 56),
    "regnety_080_tv": ((2, 4, 10, 1), (224, 448, 896, 2016), 56),
    "regnety_120": ((2, 5, 11, 1), (224, 448, 896, 2240), 112),
    "regnety_160": ((2, 4, 11, 1), (224, 448, 1232, 3024), 112),
    "regnety_320": ((2, 5, 12, 1), (232, 696, 1392, 3712), 232),
}
# Names of those that torchvision has, too, by multiply-adds.
TORCHVISION = {
    "regnetx_004_tv": "regnet_x_400mf",
    "regnetx_008": "regnet_x_800mf",
    "regnetx_016": "regnet_x_1_6gf",
    "regnetx_032": "regnet_x_3_2gf",
    "regnetx_080": "regnet_x_8gf",
    "regnetx_160": "regnet_x_16gf",
    "regnetx_320": "regnet_x_32gf",
    "regnety_004": "regnet_y_400mf",
    "regnety_008_tv": "regnet_y_800mf",
    "regnety_016": "regnet_y_1_6gf",
    "regnety_032": "regnet_y_3_2gf",
    "regnety_080_tv": "regnet_y_8gf",
    "regnety_160": "regnet_y_16gf",
    "regnety_320": "regnet_y_32gf",
}
