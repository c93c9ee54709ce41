"""MobileNetV3, EfficientNet, ConvNeXt, ResNetV2 of BiT and Xception, as data: a part of `networks`."""

import itertools
from typing import Any

from delta_jax.models import efficientnet, mobilenet_v3
from delta_jax.models.convnext import ConvNeXt
from delta_jax.models.efficientnet import EfficientNet
from delta_jax.models.model_spec import ModelSpec
from delta_jax.models.resnetv2 import ResNetV2
from delta_jax.models.xception import Xception

_HALF: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def _of_stages(
    name: str, family: str, arguments: dict[str, Any], stages: tuple[int, int, int], **facts: Any
) -> ModelSpec:
    """An EfficientNet or MobileNetV3, with the last projections of three stages and the last convolution as taps."""
    ends = list(itertools.accumulate(map(len, arguments["stages"])))
    taps = (*(f"block_{ends[stage] - 1}/project_conv" for stage in stages), "head_conv")
    return ModelSpec(name, family, EfficientNet, arguments, "classifier", taps=taps, **facts)


_TF: dict[str, Any] = {"same": True, "epsilon": 1e-3}
_MOBILENETS_V3 = tuple(
    _of_stages(name, family, arguments | own, stages, **facts)
    for size, arguments, stages in (("small", mobilenet_v3.SMALL, (0, 1, 3)), ("large", mobilenet_v3.LARGE, (1, 2, 4)))
    for name, family, own, facts in (
        (f"mobilenet_v3_{size}", "mobilenet_v3", {"epsilon": 1e-3, "momentum": 0.99}, {}),
        (f"mobilenetv3_{size}_100", "timm_mobilenet_v3", {}, {"interpolation": "bicubic"}),
        (f"tf_mobilenetv3_{size}_100", "timm_mobilenet_v3", _TF, _HALF),
    )
)
_SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))  # width and depth of B0 to B4
_EFFICIENTNETS = (
    # torchvision's, with its sizes; timm's without tf_ are the same.
    *(
        _of_stages(
            f"efficientnet_b{number}",
            "efficientnet",
            efficientnet.scaled(*_SCALES[number]),
            (1, 2, 4),
            input_size=size,
            interpolation="bicubic",
        )
        for number, size in enumerate((224, 240, 288, 300, 380))
    ),
    *(
        _of_stages(
            f"tf_efficientnet_b{number}",
            "timm_efficientnet",
            efficientnet.scaled(*_SCALES[number]) | _TF,
            (1, 2, 4),
            input_size=size,
            interpolation="bicubic",
        )
        for number, size in enumerate((224, 240, 260, 300, 380))
    ),
    _of_stages(
        "efficientnet_v2_s",
        "torchvision_efficientnet",
        efficientnet.V2_S | {"epsilon": 1e-3},
        (1, 2, 4),
        input_size=384,
    ),
    _of_stages(
        "tf_efficientnetv2_s",
        "timm_efficientnet",
        efficientnet.V2_S | _TF,
        (1, 2, 4),
        input_size=300,
        interpolation="bicubic",
        **_HALF,
    ),
    _of_stages(
        "efficientnetv2_rw_s",
        "timm_efficientnet",
        efficientnet.V2_RW_S,
        (1, 2, 4),
        input_size=288,
        interpolation="bicubic",
    ),
)
# ConvNeXt: the last 1x1 convolution of each stage, in front of the factors per channel.
_CONVNEXTS = tuple(
    ModelSpec(
        f"convnext_{size}",
        "convnext",
        ConvNeXt,
        {"depths": depths, "widths": tuple(width * 2**stage for stage in range(4))},
        "fc",
        taps=tuple(f"stage{stage}_{depth - 1}/project" for stage, depth in enumerate(depths, 1)),
    )
    for size, depths, width in (
        ("tiny", (3, 3, 9, 3), 96),
        ("small", (3, 3, 27, 3), 96),
        ("base", (3, 3, 27, 3), 128),
    )
)
_RESNETS_V2 = tuple(
    ModelSpec(
        f"resnetv2_{number}x1_bit",
        "resnetv2",
        ResNetV2,
        {"depths": depths},
        "fc",
        taps=tuple(f"stage{stage}_{depth - 1}/conv3" for stage, depth in enumerate(depths, 1)),
        **_HALF,
    )
    for number, depths in ((50, (3, 4, 6, 3)), (101, (3, 4, 23, 3)))
)
_XCEPTION = ModelSpec(
    "xception",
    "xception",
    Xception,
    {},
    "fc",
    # The last convolutions in front of each halving of the map from a quarter of the input on, and the last one.
    taps=("block2/pointwise2", "block3/pointwise2", "block12/pointwise2", "pointwise4"),
    input_size=299,
    interpolation="bicubic",
    **_HALF,
)

BLOCK_NETWORKS = (*_MOBILENETS_V3, *_EFFICIENTNETS, *_CONVNEXTS, *_RESNETS_V2, _XCEPTION)
