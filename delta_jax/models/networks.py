"""The networks that come with the library, as data."""

import itertools

from delta_jax.models.block_networks import BLOCK_NETWORKS
from delta_jax.models.inception import InceptionV3
from delta_jax.models.inverted_residual import MOBILENET_V2_STAGES, InvertedResidualNet, efficientnet_lite_stages
from delta_jax.models.model_spec import ModelSpec
from delta_jax.models.resnet import ResNet


def _resnet(name: str, depths: tuple[int, int, int, int], bottleneck: bool) -> ModelSpec:
    # The last convolution of each stage, as in the published code (layer2 of the deep ones: block 3, its last).
    conv = "conv3" if bottleneck else "conv2"
    last = [(f"layer{stage}", depth - 1) for stage, depth in enumerate(depths, 1)]
    torch_taps = {f"{layer}.{i}.{conv}": f"{layer}_{i}/{conv}" for layer, i in last}
    arguments = {"depths": depths, "bottleneck": bottleneck}
    return ModelSpec(name, "resnet", ResNet, arguments, "fc", torch_taps, on_tpu={"columns": 2})


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
    *BLOCK_NETWORKS,
)
