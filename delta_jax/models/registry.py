"""The networks by name, and what a user has to know about each: input, preprocessing, taps, head."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn

from delta_jax.models.inverted_residual import EFFICIENTNET_LITE0_STAGES, MOBILENET_V2_STAGES, InvertedResidualNet
from delta_jax.models.resnet import ResNet

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelSpec:
    """One network, as data.

    Attributes:
      name: in this registry.
      family: which table of parameter names applies.
      module: class of the Flax module.
      arguments: its static arguments, beside num_classes, dropout, frozen_norm and dtype.
      head: path of the classifier's Dense layer.
      taps: default module paths whose feature maps DELTA compares, from the input to the output.
      torch_taps: {name of the module in PyTorch: module path here} for the same taps.
      input_size: height and width it was trained with, pixels.
      mean, std: per channel, of images scaled to [0, 1].
      interpolation: of the resize its published accuracy was measured with.
    """

    name: str
    family: str
    module: type[nn.Module]
    arguments: Mapping[str, Any]
    head: str
    torch_taps: Mapping[str, str]
    input_size: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bilinear"

    @property
    def taps(self) -> tuple[str, ...]:
        """Module paths of the default taps."""
        return tuple(self.torch_taps.values())


def _resnet(name: str, depths: tuple[int, int, int, int], bottleneck: bool) -> ModelSpec:
    # The last convolution of each stage, as in the published code (layer2 of the deep ones: block 3, its last).
    conv = "conv3" if bottleneck else "conv2"
    last = [(f"layer{stage}", depth - 1) for stage, depth in enumerate(depths, 1)]
    torch_taps = {f"{layer}.{i}.{conv}": f"{layer}_{i}/{conv}" for layer, i in last}
    return ModelSpec(name, "resnet", ResNet, {"depths": depths, "bottleneck": bottleneck}, "fc", torch_taps)


_SPECS = {
    spec.name: spec
    for spec in (
        _resnet("resnet18", (2, 2, 2, 2), False),
        _resnet("resnet34", (3, 4, 6, 3), False),
        _resnet("resnet50", (3, 4, 6, 3), True),
        _resnet("resnet101", (3, 4, 23, 3), True),
        _resnet("resnet152", (3, 8, 36, 3), True),
        ModelSpec(
            "mobilenet_v2",
            "mobilenet_v2",
            InvertedResidualNet,
            {"stages": MOBILENET_V2_STAGES},
            "classifier",
            {
                "features.3.conv.2": "block_2/project_conv",
                "features.6.conv.2": "block_5/project_conv",
                "features.13.conv.2": "block_12/project_conv",
                "features.18.0": "head_conv",
            },
        ),
        ModelSpec(
            "efficientnet_lite0",
            "efficientnet_lite",
            InvertedResidualNet,
            {"stages": EFFICIENTNET_LITE0_STAGES, "padding": "same", "epsilon": 1e-3},
            "classifier",
            {
                "_blocks.2._project_conv": "block_2/project_conv",
                "_blocks.4._project_conv": "block_4/project_conv",
                "_blocks.10._project_conv": "block_10/project_conv",
                "_conv_head": "head_conv",
            },
            mean=(0.498, 0.498, 0.498),
            std=(0.502, 0.502, 0.502),
            interpolation="bicubic",
        ),
    )
}


def names() -> tuple[str, ...]:
    """Names of all networks."""
    return tuple(_SPECS)


def spec(name: str) -> ModelSpec:
    """What is known about the network `name`; ValueError with the closest names when there is none."""
    if name not in _SPECS:
        close = difflib.get_close_matches(name, _SPECS, n=2) or sorted(_SPECS)
        raise ValueError(
            f"no network called {name!r}; did you mean {' or '.join(close)}? Known: {', '.join(sorted(_SPECS))}"
        )
    return _SPECS[name]


def create(
    name: str, *, num_classes: int = 1000, dropout: float = 0.0, frozen_norm: bool = False, dtype: Any = None
) -> nn.Module:
    """The Flax module of the network `name`.

    Args:
      name: a network of `names()`.
      num_classes: outputs of its head.
      dropout: rate in front of the head.
      frozen_norm: BatchNorm keeps to its running statistics in training.
      dtype: of the computation, e.g. jnp.bfloat16; parameters stay float32.

    Returns:
      A module called as `apply(variables, images [B, H, W, 3], train)` -> logits [B, num_classes].
    """
    found = spec(name)
    static = {"num_classes": num_classes, "dropout": dropout, "frozen_norm": frozen_norm, "dtype": dtype}
    return found.module(**found.arguments, **static)
