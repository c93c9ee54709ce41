"""ConvNeXt (Liu et al., CVPR 2022): depthwise 7x7 convolutions, LayerNorm, GELU, a factor per channel in each block."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from delta_jax.models.layers.convolution import Conv
from delta_jax.models.layers.memory import kept
from delta_jax.models.layers.sample_normalization import LayerNorm

SMALLEST_IMAGE = 32  # pixels; leaves one position in front of the head
NO_PADDING = ((0, 0), (0, 0))


class Block(nn.Module):
    """Residual block: depthwise 7x7, LayerNorm, 1x1 to four times the width, GELU, 1x1 back, a factor per channel.

    Children: depthwise_conv, norm, expand, project; parameter layer_scale [C].
    """

    conv: Any
    norm: Any
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, C]."""
        width = x.shape[-1]
        y = self.conv(width, 7, depthwise=True, name="depthwise_conv")(x)
        y = nn.Dense(4 * width, dtype=self.dtype, name="expand")(self.norm(name="norm")(y))
        y = nn.Dense(width, dtype=self.dtype, name="project")(nn.gelu(y, approximate=False))
        scale = self.param("layer_scale", nn.initializers.constant(1e-6), (width,), jnp.float32)
        return kept(x + y * scale.astype(y.dtype)[None, None, None])


class ConvNeXt(nn.Module):
    """Images [B, H, W, 3] of 32 pixels or more on each side -> logits [B, num_classes].

    Children: stem_conv, stem_norm, stage1_0, ..., stage2_downsample_norm, stage2_downsample_conv, stage2_0, ..., norm,
    fc. Blocks are not left out at random in training (stochastic depth), as its authors do. Without BatchNorm there
    is nothing to freeze: it computes the same in training and in evaluation, but for dropout.

    Attributes:
      depths: blocks in each of the four stages.
      widths: channels of each stage.
      num_classes: outputs of the head `fc`.
      dropout: rate in front of the head; needs an rng called "dropout" in training.
      dtype: of the computation (parameters are float32 always); None takes that of the inputs.
    """

    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int] = (96, 192, 384, 768)
    num_classes: int = 1000
    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits; ValueError for images that are too small."""
        if min(x.shape[1:3]) < SMALLEST_IMAGE:  # the last map would be empty, and its mean NaN
            raise ValueError(
                f"images of {x.shape[1]}x{x.shape[2]} are too small for ConvNeXt, which needs {SMALLEST_IMAGE} pixels "
                "or more on each side; enlarge them"
            )
        conv = partial(Conv, use_bias=True, dtype=self.dtype)
        norm = partial(LayerNorm, epsilon=1e-6, dtype=self.dtype)
        x = norm(name="stem_norm")(conv(self.widths[0], 4, 4, NO_PADDING, name="stem_conv")(x))
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), 1):
            if stage > 1:
                x = norm(name=f"stage{stage}_downsample_norm")(x)
                x = conv(width, 2, 2, NO_PADDING, name=f"stage{stage}_downsample_conv")(x)
            for i in range(depth):
                x = Block(conv, norm, self.dtype, name=f"stage{stage}_{i}")(x)
        x = norm(name="norm")(jnp.mean(x, axis=(1, 2)))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x)
