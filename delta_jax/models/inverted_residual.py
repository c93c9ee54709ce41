"""The two networks made of inverted residual blocks: MobileNetV2 (Sandler et al., CVPR 2018) and EfficientNet-Lite0."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from delta_jax.models.convolution import Conv
from delta_jax.models.normalization import BatchNorm


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection; added to the input where the shapes allow.

    Children: expand_conv, expand_bn (only if expansion > 1), depthwise_conv, depthwise_bn, project_conv, project_bn.
    """

    features: int
    kernel_size: int
    stride: int
    expansion: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, features]."""
        hidden = x.shape[-1] * self.expansion
        y = x
        if self.expansion > 1:
            y = self.conv(hidden, 1, name="expand_conv")(y)
            y = nn.relu6(self.norm(name="expand_bn")(y, train))
        y = self.conv(hidden, self.kernel_size, self.stride, depthwise=True, name="depthwise_conv")(y)
        y = nn.relu6(self.norm(name="depthwise_bn")(y, train))
        y = self.conv(self.features, 1, name="project_conv")(y)
        y = self.norm(name="project_bn")(y, train)
        return x + y if self.stride == 1 and x.shape[-1] == self.features else y


class InvertedResidualNet(nn.Module):
    """Images [B, H, W, 3] -> logits [B, num_classes].

    Children: stem_conv, stem_bn, block_0, block_1, ..., head_conv, head_bn, classifier.

    Attributes:
      stages: (expansion, features, repeats, first stride, kernel size) of each stage.
      padding: "torch" (MobileNetV2) or "same" (EfficientNet-Lite keeps TensorFlow's).
      epsilon, momentum: of the BatchNorms.
      num_classes: outputs of the head `classifier`.
      dropout: rate in front of the head; needs an rng called "dropout" in training.
      frozen_norm: BatchNorm uses its running statistics in training, too.
      dtype: of the computation (parameters are float32 always); None takes that of the inputs.
    """

    stages: tuple[tuple[int, int, int, int, int], ...]
    padding: str = "torch"
    epsilon: float = 1e-5
    momentum: float = 0.9
    num_classes: int = 1000
    dropout: float = 0.0
    frozen_norm: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits."""
        conv = partial(Conv, padding=self.padding, dtype=self.dtype)
        norm = partial(
            BatchNorm, momentum=self.momentum, epsilon=self.epsilon, frozen=self.frozen_norm, dtype=self.dtype
        )
        x = conv(32, 3, 2, name="stem_conv")(x)
        x = nn.relu6(norm(name="stem_bn")(x, train))
        block = 0
        for expansion, features, repeats, first_stride, kernel_size in self.stages:
            for i in range(repeats):
                stride = first_stride if i == 0 else 1
                x = InvertedResidual(features, kernel_size, stride, expansion, conv, norm, name=f"block_{block}")(
                    x, train
                )
                block += 1
        x = conv(1280, 1, name="head_conv")(x)
        x = nn.relu6(norm(name="head_bn")(x, train))
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
EFFICIENTNET_LITE0_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
