"""The networks that come with the library, as data."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from delta_jax.models import regnet
from delta_jax.models.block_networks import BLOCK_NETWORKS
from delta_jax.models.densenet import DenseNet
from delta_jax.models.inception import InceptionV3
from delta_jax.models.inverted_residual import MOBILENET_V2_STAGES, InvertedResidualNet, efficientnet_lite_stages
from delta_jax.models.model_spec import ModelSpec
from delta_jax.models.regnet import RegNet
from delta_jax.models.resnet import ResNet
from delta_jax.models.vgg import ALEXNET, DEPTHS, VGG, vgg


def _resnet(name: str, depths: tuple[int, int, int, int], bottleneck: bool) -> ModelSpec:
    # The last convolution of each stage, as in the published code (layer2 of the deep ones: block 3, its last).
    conv = "conv3" if bottleneck else "conv2"
    last = [(f"layer{stage}", depth - 1) for stage, depth in enumerate(depths, 1)]
    torch_taps = {f"{layer}.{i}.{conv}": f"{layer}_{i}/{conv}" for layer, i in last}
    arguments = {"depths": depths, "bottleneck": bottleneck}
    return ModelSpec(name, "resnet", ResNet, arguments, "fc", torch_taps, on_tpu={"columns": 2})


def _resnet_variant(
    name: str,
    depths: tuple[int, int, int, int],
    bottleneck: bool = True,
    *,
    interpolation: str = "bicubic",
    input_size: int = 224,
    **arguments: Any,
) -> ModelSpec:
    plain = _resnet(name, depths, bottleneck)
    return dataclasses.replace(
        plain,
        family="timm_resnet" if interpolation == "bicubic" else "resnet",
        arguments={**plain.arguments, **arguments},
        input_size=input_size,
        interpolation=interpolation,
        on_tpu={},
    )


_C: dict[str, Any] = {"stem": (32, 32, 64)}
_D: dict[str, Any] = {**_C, "average_shortcut": True}
_SE: dict[str, Any] = {"squeeze": True}
_RESNET_VARIANTS = (
    *(
        _resnet_variant(name, depths, groups=groups, group_width=width, interpolation="bilinear")  # torchvision's
        for name, depths, groups, width in (
            ("resnext50_32x4d", (3, 4, 6, 3), 32, 4),
            ("resnext101_32x8d", (3, 4, 23, 3), 32, 8),
            ("resnext101_64x4d", (3, 4, 23, 3), 64, 4),
            ("wide_resnet50_2", (3, 4, 6, 3), 1, 128),
            ("wide_resnet101_2", (3, 4, 23, 3), 1, 128),
        )
    ),
    _resnet_variant("resnext101_32x4d", (3, 4, 23, 3), groups=32, group_width=4),
    _resnet_variant("resnext50d_32x4d", (3, 4, 6, 3), groups=32, group_width=4, **_D),
    _resnet_variant("resnet26", (2, 2, 2, 2)),
    _resnet_variant("resnet50c", (3, 4, 6, 3), **_C),
    _resnet_variant("resnet101c", (3, 4, 23, 3), **_C),
    _resnet_variant("resnet152c", (3, 8, 36, 3), **_C),
    _resnet_variant("resnet18d", (2, 2, 2, 2), False, **_D),
    _resnet_variant("resnet26d", (2, 2, 2, 2), **_D),
    _resnet_variant("resnet34d", (3, 4, 6, 3), False, **_D),
    _resnet_variant("resnet50d", (3, 4, 6, 3), **_D),
    _resnet_variant("resnet101d", (3, 4, 23, 3), input_size=256, **_D),
    _resnet_variant("resnet152d", (3, 8, 36, 3), input_size=256, **_D),
    _resnet_variant("resnet200d", (3, 24, 36, 3), input_size=256, **_D),
    _resnet_variant("seresnet50", (3, 4, 6, 3), **_SE),
    _resnet_variant("seresnet152d", (3, 8, 36, 3), input_size=256, **_SE, **_D),
    _resnet_variant("seresnext26d_32x4d", (2, 2, 2, 2), groups=32, group_width=4, **_SE, **_D),
    _resnet_variant("seresnext50_32x4d", (3, 4, 6, 3), groups=32, group_width=4, **_SE),
    _resnet_variant("seresnext101_32x4d", (3, 4, 23, 3), groups=32, group_width=4, **_SE),
    _resnet_variant("seresnext101_32x8d", (3, 4, 23, 3), groups=32, group_width=8, **_SE),
    _resnet_variant("seresnext101_64x4d", (3, 4, 23, 3), groups=64, group_width=4, **_SE),
    _resnet_variant("seresnext101d_32x8d", (3, 4, 23, 3), groups=32, group_width=8, **_SE, **_D),
)


def _vgg(name: str, arguments: Mapping[str, Any], stages: tuple[int, ...]) -> tuple[ModelSpec, ModelSpec]:
    """The network, and the one that ends behind its convolutions; stages: those whose last convolution is a tap."""
    # Not VGG's first stage: its 64 maps of the images' size would take more memory than all others together.
    taps = tuple(f"conv{stage}_{len(arguments['stages'][stage - 1])}" for stage in stages)
    headless = {**arguments, "hidden": 0}
    return (
        ModelSpec(name, name.partition("_")[0].rstrip("0123456789"), VGG, arguments, "fc", taps=taps),
        ModelSpec(f"{name}_gap", "vgg_gap", VGG, headless, "fc", taps=taps),
    )


def _densenet(name: str, depths: tuple[int, int, int, int], growth: int = 32, stem: int = 64) -> ModelSpec:
    # Of the first three blocks the convolution behind them, which reads all of their maps; of the last, which has none,
    # all maps: the last convolution of a block has no more than `growth`.
    torch_taps = {f"features.transition{i}.conv": f"transition{i}_conv" for i in (1, 2, 3)} | {
        "features.norm5": "norm5"
    }
    arguments = {"depths": depths, "growth": growth, "stem": stem}
    return ModelSpec(name, "densenet", DenseNet, arguments, "classifier", torch_taps)


def _regnet(name: str) -> ModelSpec:
    depths, widths, group_width = regnet.SIZES[name]
    arguments = {"depths": depths, "widths": widths, "group_width": group_width, "squeeze": name.startswith("regnety")}
    family = "regnet" if name in regnet.TORCHVISION else "timm_regnet"
    torch_taps = {f"s{i}.b{depth}.conv3.conv": f"s{i}_{depth}/conv3" for i, depth in enumerate(depths, 1)}
    return ModelSpec(name, family, RegNet, arguments, "fc", torch_taps, interpolation="bicubic")


_CHAINS = (
    *itertools.chain(
        *(
            _vgg(f"vgg{depth}{'_bn' if norm else ''}", vgg(depth) | {"norm": norm}, (2, 3, 4, 5))
            for depth in DEPTHS
            for norm in (False, True)
        ),
        _vgg("alexnet", ALEXNET, (1, 2, 5)),  # in front of each pooling
    ),
    _densenet("densenet121", (6, 12, 24, 16)),
    _densenet("densenet161", (6, 12, 36, 24), growth=48, stem=96),
    _densenet("densenet169", (6, 12, 32, 32)),
    _densenet("densenet201", (6, 12, 48, 32)),
    *map(_regnet, regnet.SIZES),
)


def _efficientnet_lite(name: str, *, width: float, depth: float, input_size: int) -> ModelSpec:
    stages = efficientnet_lite_stages(width, depth)
    # The last projections in front of each halving of the map from a quarter of the input on, and the last convolution.
    ends = list(itertools.accumulate(repeats for _, _, repeats, _, _ in stages))
    last = [ends[stage] - 1 for stage in (1, 2, 4)]
    return ModelSpec(
        name,
        "efficientnet_lite",
        InvertedResidualNet,
        {"stages": stages, "same_at": input_size, "epsilon": 1e-3},
        "classifier",
        {f"_blocks.{i}._project_conv": f"block_{i}/project_conv" for i in last} | {"_conv_head": "head_conv"},
        input_size=input_size,
        mean=(0.498, 0.498, 0.498),
        std=(0.502, 0.502, 0.502),
        interpolation="bicubic",
        on_tpu={"columns": 4},
    )


def _timm_efficientnet_lite(name: str, *, width: float, depth: float, input_size: int) -> ModelSpec:
    """timm's networks without tf_: the same layers, padded as torch pads, and torch's epsilon in BatchNorm."""
    stages = efficientnet_lite_stages(width, depth)
    # The same taps as those of the others: places by stage and block.
    last = [
        (stage, stages[stage][2] - 1, sum(repeats for _, _, repeats, *_ in stages[: stage + 1]) - 1)
        for stage in (1, 2, 4)
    ]
    return ModelSpec(
        name,
        "timm_efficientnet_lite",
        InvertedResidualNet,
        {"stages": stages},
        "classifier",
        {f"blocks.{stage}.{i}.conv_pwl": f"block_{block}/project_conv" for stage, i, block in last}
        | {"conv_head": "head_conv"},
        input_size=input_size,
        interpolation="bicubic",
        on_tpu={"columns": 4},
    )


NETWORKS = (
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
        on_tpu={"columns": 4},
    ),
    _efficientnet_lite("efficientnet_lite0", width=1.0, depth=1.0, input_size=224),
    _efficientnet_lite("efficientnet_lite1", width=1.0, depth=1.1, input_size=240),
    _efficientnet_lite("efficientnet_lite2", width=1.1, depth=1.2, input_size=260),
    _timm_efficientnet_lite("timm_efficientnet_lite0", width=1.0, depth=1.0, input_size=224),
    _timm_efficientnet_lite("timm_efficientnet_lite1", width=1.0, depth=1.1, input_size=240),
    _timm_efficientnet_lite("timm_efficientnet_lite2", width=1.1, depth=1.2, input_size=260),
    ModelSpec(
        "inception_v3",
        "inception",
        InceptionV3,
        {},
        "fc",
        # The published code's. Unlike those of the ResNets all four are behind BatchNorm and ReLU: modules of these
        # names are convolution, BatchNorm and ReLU in one, or blocks of such.
        {name: name for name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e")},
        input_size=299,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        auxiliary="AuxLogits/fc",
    ),
    *_RESNET_VARIANTS,
    *_CHAINS,
    *BLOCK_NETWORKS,
)
