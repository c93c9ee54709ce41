"""The layer of all convolutions here, with torch's explicit padding."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from delta_jax.models.layers import columns
from delta_jax.models.layers.functional_convolution import DIMENSIONS, dense_conv, depthwise_conv, pointwise_conv
from delta_jax.models.layers.windows import Padding


class Conv(nn.Module):
    """Convolution, [B, H, W, C] -> [B, H', W', features]; parameter `kernel` [h, w, C / groups, features].

    Attributes:
      features: number of filters.
      kernel_size: height and width of the kernel; one number for a square one.
      stride: in both directions.
      padding: of an input of a kernel larger than 1x1; None is (kernel_size - 1) // 2 on every side, usual in torch.
      depthwise: one filter per channel (features must equal the number of channels).
      use_bias: adds the parameter `bias` [features].
      columns: of the input that are computed side by side, see `columns.py`; they divide the width, and the stride
        divides them.
      evens_first: order of the output's columns while they are side by side.
      dtype: of the computation; None takes that of the inputs.
    """

    features: int
    kernel_size: int | tuple[int, int] = 3
    stride: int = 1
    padding: Padding | None = None
    depthwise: bool = False
    use_bias: bool = False
    columns: int = 1
    evens_first: bool = False
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
        above, left = (height - 1) // 2, (width - 1) // 2
        padding = self.padding or ((above, above), (left, left))
        y = self._convolved(x, kernel, padding)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y += bias.astype(y.dtype)[None, None, None]
        return y

    def _convolved(self, x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
        if self.columns > 1:
            return self._side_by_side(x, kernel, padding)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        if self.depthwise:
            return depthwise_conv(x, kernel, self.stride, padding)
        if kernel.shape[:2] == (1, 1):
            return pointwise_conv(x, kernel, self.stride)
        return dense_conv(x, kernel, self.stride, padding)

    def _side_by_side(self, x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
        if self.depthwise:  # by the matrix unit, which takes a fraction of the time of one channel after the other
            kernel = jnp.where(np.eye(self.features, dtype=bool), kernel, jnp.zeros((), kernel.dtype))
        # Before the kernel is rounded to the type of the maps, so that its gradient is summed in float32.
        kernel, around = columns.wide_kernel(
            kernel, self.stride, padding[1], self.columns, evens_first=self.evens_first
        )
        x, kernel = nn.dtypes.promote_dtype(columns.side_by_side(x, self.columns), kernel, dtype=self.dtype)
        y = lax.conv_general_dilated(x, kernel, (self.stride, 1), (padding[0], around), dimension_numbers=DIMENSIONS)
        return columns.apart(y, self.columns // self.stride, evens_first=self.evens_first)
