"""ResNetV2 as in BiT (Kolesnikov et al., ECCV 2020): group normalisation, convolutions with standardised weights."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from delta_jax.models.layers.activation import relu
from delta_jax.models.layers.functional_convolution import dense_conv, pointwise_conv
from delta_jax.models.layers.memory import kept
from delta_jax.models.layers.pooling import max_pool
from delta_jax.models.layers.sample_normalization import GroupNorm


class StandardizedConv(nn.Module):
    """Convolution whose filters have mean 0 and variance 1 (Qiao et al., 2019); parameter `kernel` [h, w, C, features].

    Attributes:
      features: number of filters.
      kernel_size: height and width of the kernel.
      stride: in both directions.
      dtype: of the computation; None takes that of the inputs. Filters are standardised in float32 at least.
    """

    features: int
    kernel_size: int
    stride: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, features]."""
        size, edge = self.kernel_size, (self.kernel_size - 1) // 2
        fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        kernel = self.param("kernel", fan_out, (size, size, x.shape[-1], self.features), jnp.float32)
        kernel = jax.nn.standardize(kernel, axis=(0, 1, 2), epsilon=1e-8)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        if size == 1:
            return pointwise_conv(x, kernel, self.stride)
        return dense_conv(x, kernel, self.stride, ((edge, edge), (edge, edge)))


class Block(nn.Module):
    """Residual block with normalisation and ReLU in front of each of its convolutions: 1x1, 3x3, 1x1.

    Children: norm1, conv1, norm2, conv2, norm3, conv3[, downsample_conv].
    """

    width: int
    stride: int
    downsample: bool
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, 4 * width]."""
        y = relu(self.norm(name="norm1")(x))
        if self.downsample:
            x = self.conv(4 * self.width, 1, self.stride, name="downsample_conv")(y)
        y = self.conv(self.width, 1, name="conv1")(y)
        y = self.conv(self.width, 3, self.stride, name="conv2")(relu(self.norm(name="norm2")(y)))
        y = self.conv(4 * self.width, 1, name="conv3")(relu(self.norm(name="norm3")(y)))
        return kept(x + y)


class ResNetV2(nn.Module):
    """Images [B, H, W, 3] -> logits [B, num_classes].

    Children: stem_conv, stage1_0, ..., norm, fc. Without BatchNorm there is nothing to freeze: it computes the same in
    training and in evaluation, but for dropout.

    Attributes:
      depths: blocks in each of the four stages.
      num_classes: outputs of the head `fc`.
      dropout: rate in front of the head; needs an rng called "dropout" in training.
      dtype: of the computation (parameters are float32 always); None takes that of the inputs.
    """

    depths: tuple[int, int, int, int]
    num_classes: int = 1000
    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits."""
        conv = partial(StandardizedConv, dtype=self.dtype)
        norm = partial(GroupNorm, dtype=self.dtype)
        x = conv(64, 7, 2, name="stem_conv")(x)
        # BiT pads with zeros, which are larger than negative values.
        x = max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2, ((0, 0), (0, 0)))
        for stage, depth in enumerate(self.depths, 1):
            for i in range(depth):
                stride = 2 if i == 0 and stage > 1 else 1
                x = Block(64 * 2 ** (stage - 1), stride, i == 0, conv, norm, name=f"stage{stage}_{i}")(x)
        x = jnp.mean(relu(norm(name="norm")(x)), axis=(1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x)
