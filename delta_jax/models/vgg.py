"""VGG-11 to -19 (Simonyan & Zisserman, ICLR 2015), with and without batch normalisation, and AlexNet (one tower).

Chains of convolutions with poolings between them, and three dense layers. The first of these reads a map of 7x7 (of
AlexNet 6x6) values, which maps of every other size are averaged to, as in torchvision. timm's VGGs do that with smaller
maps only, and let this layer slide over larger ones. With `hidden` 0 the network ends behind its convolutions: the mean
over the map, and a new head.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from delta_jax.models.layers.activation import relu
from delta_jax.models.layers.convolution import Conv
from delta_jax.models.layers.normalization import BatchNorm
from delta_jax.models.layers.pooling import adaptive_average_pool, max_pool
from delta_jax.models.layers.windows import Padding

NO_PADDING: Padding = ((0, 0), (0, 0))
Layer = tuple[int, int, int, int]  # features, kernel size, stride, padding on every side


class VGG(nn.Module):
    """Images [B, H, W, 3] -> logits [B, num_classes].

    Children: conv1_1, conv1_2, conv2_1, ... by stage, with `norm` bn1_1, ...; with `hidden` fc1 and fc2; fc.

    Attributes:
      stages: layers of each; a maximum pooling ends each where `pooled` says so.
      pooled: of each stage.
      pool_size: of these poolings, whose stride is 2.
      norm: batch normalisation behind each convolution.
      hidden: features of the two dense layers in front of the head; 0 for the mean over the map instead of them.
      map_size: height and width of the map that the first dense layer reads.
      drop_first: dropout is in front of the dense layers (AlexNet), not behind them.
      num_classes: outputs of the head `fc`.
      dropout: rate at the two hidden dense layers, 0.5 where these networks were trained; without them in front of the
        head. Needs an rng called "dropout" in training.
      frozen_norm: BatchNorm uses its running statistics in training, too.
      dtype: of the computation (parameters are float32 always); None takes that of the inputs.
    """

    stages: tuple[tuple[Layer, ...], ...]
    pooled: tuple[bool, ...]
    pool_size: int = 2
    norm: bool = False
    hidden: int = 4096
    map_size: int = 7
    drop_first: bool = False
    num_classes: int = 1000
    dropout: float = 0.0
    frozen_norm: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns the logits; ValueError for images so small that no map is left."""
        height, width = x.shape[1:3]
        for stage, (layers, pooled) in enumerate(zip(self.stages, self.pooled, strict=True), 1):
            for i, (features, kernel_size, stride, edge) in enumerate(layers, 1):
                padding = ((edge, edge), (edge, edge))
                name = f"{stage}_{i}"
                x = Conv(features, kernel_size, stride, padding, use_bias=True, dtype=self.dtype, name=f"conv{name}")(x)
                if self.norm:
                    x = BatchNorm(frozen=self.frozen_norm, dtype=self.dtype, name=f"bn{name}")(x, train)
                x = relu(x)
            if pooled and min(x.shape[1:3]) < self.pool_size:
                raise ValueError(f"images of {height}x{width} are too small: no map is left behind stage {stage}")
            x = max_pool(x, self.pool_size, 2, NO_PADDING) if pooled else x
        if not self.hidden:
            x = self._dropped(jnp.mean(x, axis=(1, 2)), train)
            return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x)
        x = adaptive_average_pool(x, self.map_size)
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)  # in torch's order
        for name in ("fc1", "fc2"):
            x = self._dropped(x, train) if self.drop_first else x
            x = relu(nn.Dense(self.hidden, dtype=self.dtype, name=name)(x))
            x = x if self.drop_first else self._dropped(x, train)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x)

    def _dropped(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.Dropout(self.dropout, deterministic=not train)(x)


_WIDTHS = (64, 128, 256, 512, 512)
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # of each stage


def vgg(depth: int) -> dict[str, Any]:
    """The arguments of VGG-`depth`."""
    stages = tuple(((width, 3, 1, 1),) * n for width, n in zip(_WIDTHS, DEPTHS[depth], strict=True))
    return {"stages": stages, "pooled": (True,) * 5}


ALEXNET: dict[str, Any] = {
    "stages": (((64, 11, 4, 2),), ((192, 5, 1, 2),), ((384, 3, 1, 1),), ((256, 3, 1, 1),), ((256, 3, 1, 1),)),
    "pooled": (True, True, False, False, True),
    "pool_size": 3,
    "map_size": 6,
    "drop_first": True,
}
