"""The networks as a Flax user writes them, of nn.Conv, nn.BatchNorm and nn.Dense, and their training step.

But for two tables of stages nothing here is of the library: it is what that measures itself against. Each network
follows its paper's table of layers with the padding of the library's; parameters, their number and the feature maps
that are compared are the same.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from delta_jax.models.inverted_residual import MOBILENET_V2_STAGES, efficientnet_lite_stages

METHODS = ("l2", "delta")
Maps = list[jax.Array]
_conv = partial(nn.Conv, use_bias=False, dtype=jnp.bfloat16)


def _norms(train: bool, epsilon: float = 1e-5) -> Any:
    return partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=epsilon, dtype=jnp.bfloat16)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1; returns its output and that of its last convolution."""

    width: int
    stride: int
    bottleneck: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """[B, H, W, C] -> two of [B, H / stride, W / stride, width or 4 width]."""
        norm, strides = _norms(train), (self.stride, self.stride)
        out = 4 * self.width if self.bottleneck else self.width
        three = partial(_conv, self.width, (3, 3), padding=((1, 1), (1, 1)))
        if self.bottleneck:
            y = nn.relu(norm()(_conv(self.width, (1, 1))(x)))
            y = nn.relu(norm()(three(strides=strides)(y)))
            last = _conv(out, (1, 1))(y)
        else:
            y = nn.relu(norm()(three(strides=strides)(x)))
            last = three()(y)
        y = norm()(last)
        if x.shape != y.shape:
            x = norm(name="shortcut_norm")(_conv(out, (1, 1), strides, name="shortcut")(x))
        return nn.relu(x + y), last


class ResNet(nn.Module):
    """He et al., CVPR 2016, table 1; the stride in the 3x3 convolution. Taps: the last convolution of each stage."""

    depths: tuple[int, ...]
    bottleneck: bool
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, Maps]:
        """Images [B, H, W, 3] -> logits [B, classes], feature maps."""
        x = _conv(64, (7, 7), (2, 2), padding=((3, 3), (3, 3)))(x)
        x = nn.relu(_norms(train)()(x))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        maps = []
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                stride = 2 if stage and i == 0 else 1
                x, last = ResidualBlock(64 << stage, stride, self.bottleneck, name=f"stage{stage}_{i}")(x, train)
            maps.append(last)
        return nn.Dense(self.classes, dtype=jnp.float32)(x.mean((1, 2))), maps


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection; returns its output and that of the projection."""

    expansion: int
    features: int
    kernel: int
    stride: int
    padding: Any
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """[B, H, W, C] -> two of [B, H / stride, W / stride, features]."""
        norm, hidden = _norms(train, self.epsilon), self.expansion * x.shape[-1]
        y = x
        if self.expansion > 1:
            y = nn.relu6(norm()(_conv(hidden, (1, 1))(y)))
        size, strides = (self.kernel, self.kernel), (self.stride, self.stride)
        y = _conv(hidden, size, strides, padding=self.padding, feature_group_count=hidden)(y)
        projected = _conv(self.features, (1, 1))(nn.relu6(norm()(y)))
        y = norm()(projected)
        return (x + y if x.shape == y.shape else y), projected


class InvertedResidualNet(nn.Module):
    """Sandler et al., CVPR 2018, table 2, and EfficientNet-Lite0: other widths, kernels and TensorFlow's padding.

    Attributes:
      stages: (expansion, features, repeats, first stride, kernel size).
      taps: numbers of the blocks whose projection is compared; the last convolution is as well.
      same: TensorFlow's padding, else torch's.
      epsilon: of the BatchNorms.
      classes: outputs of the head.
    """

    stages: tuple[tuple[int, int, int, int, int], ...]
    taps: tuple[int, ...]
    same: bool
    epsilon: float
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, Maps]:
        """Images [B, H, W, 3] -> logits [B, classes], feature maps."""

        def padding(kernel: int) -> Any:
            return "SAME" if self.same else kernel // 2

        norm, maps, block = _norms(train, self.epsilon), [], 0
        x = nn.relu6(norm()(_conv(32, (3, 3), (2, 2), padding=padding(3))(x)))
        for expansion, features, repeats, first, kernel in self.stages:
            for stride in (first, *[1] * (repeats - 1)):
                sizes = (expansion, features, kernel, stride, padding(kernel))
                x, projected = InvertedResidual(*sizes, self.epsilon, name=f"block{block}")(x, train)
                maps += [projected] if block in self.taps else []
                block += 1
        last = _conv(1280, (1, 1))(x)
        x = nn.relu6(norm()(last))
        return nn.Dense(self.classes, dtype=jnp.float32)(x.mean((1, 2))), [*maps, last]


class InceptionV3(nn.Module):
    """Szegedy et al., CVPR 2016, table 1 and figures 5 to 7, as published with weights: factored 7x7, no second head.

    Taps, after BatchNorm and ReLU: the third and the fifth convolution, the last map of 35x35 and of 17x17.
    """

    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, Maps]:
        """Images [B, H, W, 3] -> logits [B, classes], feature maps."""
        norm = _norms(train, 1e-3)

        def unit(x, features, size=(1, 1), stride=1, padding="SAME"):
            return nn.relu(norm()(_conv(features, size, (stride, stride), padding=padding)(x)))

        def chain(x, *layers):
            for features, *size in layers:
                x = unit(x, features, tuple(size))
            return x

        def halved(x, features):
            return unit(x, features, (3, 3), 2, "VALID")

        def pooled(x, features):
            return unit(nn.avg_pool(x, (3, 3), (1, 1), "SAME"), features)

        def largest(x):
            return nn.max_pool(x, (3, 3), (2, 2), "VALID")

        def joined(*branches):
            return jnp.concatenate(branches, -1)

        x = unit(halved(x, 32), 32, (3, 3), padding="VALID")
        third = unit(x, 64, (3, 3))
        fifth = unit(unit(largest(third), 80), 192, (3, 3), padding="VALID")
        x = largest(fifth)
        for features in (32, 64, 64):
            wide, twice = chain(x, (48, 1, 1), (64, 5, 5)), chain(x, (64, 1, 1), (96, 3, 3), (96, 3, 3))
            x = joined(unit(x, 64), wide, twice, pooled(x, features))
        of_35 = x
        x = joined(halved(x, 384), halved(chain(x, (64, 1, 1), (96, 3, 3)), 96), largest(x))
        for n in (128, 160, 160, 192):
            once = chain(x, (n, 1, 1), (n, 1, 7), (192, 7, 1))
            twice = chain(x, (n, 1, 1), (n, 7, 1), (n, 1, 7), (n, 7, 1), (192, 1, 7))
            x = joined(unit(x, 192), once, twice, pooled(x, 192))
        of_17 = x
        x = joined(halved(unit(x, 192), 320), halved(chain(x, (192, 1, 1), (192, 1, 7), (192, 7, 1)), 192), largest(x))
        for _ in range(2):
            once, twice = unit(x, 384), chain(x, (448, 1, 1), (384, 3, 3))
            forks = [unit(y, 384, size) for y in (once, twice) for size in ((1, 3), (3, 1))]
            x = joined(unit(x, 320), *forks, pooled(x, 192))
        return nn.Dense(self.classes, dtype=jnp.float32)(x.mean((1, 2))), [third, fifth, of_35, of_17]


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "resnet18": partial(ResNet, (2, 2, 2, 2), False),
    "resnet34": partial(ResNet, (3, 4, 6, 3), False),
    "resnet50": partial(ResNet, (3, 4, 6, 3), True),
    "resnet101": partial(ResNet, (3, 4, 23, 3), True),
    "resnet152": partial(ResNet, (3, 8, 36, 3), True),
    "mobilenet_v2": partial(InvertedResidualNet, MOBILENET_V2_STAGES, (2, 5, 12), False, 1e-5),
    "efficientnet_lite0": partial(InvertedResidualNet, efficientnet_lite_stages(1.0, 1.0), (2, 4, 10), True, 1e-3),
    "inception_v3": InceptionV3,
}


def build(name: str, images: Any, labels: Any, *, classes: int, method: str) -> tuple[Callable[..., Any], list[Any]]:
    """(step, shapes of its state, of the source and of the batch); the first three arguments are to be donated.

    Args:
      name: one of NETWORKS.
      images, labels: shapes, [B, H, W, 3] and [B].
      classes: outputs of the head.
      method: "l2", plain fine-tuning, or "delta": with the squared distance to the source's feature maps.
    """
    model, tx = NETWORKS[name](classes), optax.sgd(0.01, momentum=0.9)
    source = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)

    def step(params, statistics, momentum, source, images, labels):
        def loss(params):
            variables = {"params": params, "batch_stats": statistics}
            (logits, maps), updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
            total = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            if method == "delta":
                _, source_maps = model.apply(source, images, train=False)
                for ours, theirs in zip(maps, source_maps, strict=True):
                    difference = ours.astype(jnp.float32) - theirs.astype(jnp.float32)
                    total += 0.01 * jnp.sum(jnp.square(difference)) / len(images)
            return total, updated["batch_stats"]

        (total, updated), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, momentum = tx.update(gradients, momentum, params)
        return optax.apply_updates(params, updates), updated, momentum, total

    state = [source["params"], source["batch_stats"], jax.eval_shape(tx.init, source["params"])]
    return step, [*state, source, images, labels]
