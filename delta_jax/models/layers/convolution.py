"""The layer of all convolutions here, with torch's explicit padding."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from delta_jax.models.layers.functional_convolution import dense_conv, depthwise_conv, pointwise_conv
from delta_jax.models.layers.windows import Padding


class Conv(nn.Module):
    """Convolution without bias, [B, H, W, C] -> [B, H', W', features]; parameter `kernel` [h, w, C / groups, features].

    Attributes:
      features: number of filters.
      kernel_size: height and width of the kernel; one number for a square one.
      stride: in both directions.
      padding: of an input of a kernel larger than 1x1; None is (kernel_size - 1) // 2 on every side, usual in torch.
      depthwise: one filter per channel (features must equal the number of channels).
      dtype: of the computation; None takes that of the inputs.
    """

    features: int
    kernel_size: int | tuple[int, int] = 3
    stride: int = 1
    padding: Padding | None = None
    depthwise: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the feature maps of all filters."""
        channels, k = x.shape[-1], self.kernel_size
        height, width = (k, k) if isinstance(k, int) else k
        if self.depthwise and channels != self.features:
            raise ValueError(
                f"a depthwise convolution of {channels} channels has {channels} filters, not {self.features}"
            )
        fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        kernel = self.param(
            "kernel", fan_out, (height, width, 1 if self.depthwise else channels, self.features), jnp.float32
        )
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        above, left = (height - 1) // 2, (width - 1) // 2
        padding = self.padding or ((above, above), (left, left))
        if self.depthwise:
            return depthwise_conv(x, kernel, self.stride, padding)
        if height == width == 1:
            return pointwise_conv(x, kernel, self.stride)
        return dense_conv(x, kernel, self.stride, padding)
