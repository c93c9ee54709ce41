"""The networks that come with the library, as data."""

from delta_jax.models.inverted_residual import EFFICIENTNET_LITE0_STAGES, MOBILENET_V2_STAGES, InvertedResidualNet
from delta_jax.models.model_spec import ModelSpec
from delta_jax.models.resnet import ResNet


def _resnet(name: str, depths: tuple[int, int, int, int], bottleneck: bool) -> ModelSpec:
    # The last convolution of each stage, as in the published code (layer2 of the deep ones: block 3, its last).
    conv = "conv3" if bottleneck else "conv2"
    last = [(f"layer{stage}", depth - 1) for stage, depth in enumerate(depths, 1)]
    torch_taps = {f"{layer}.{i}.{conv}": f"{layer}_{i}/{conv}" for layer, i in last}
    return ModelSpec(name, "resnet", ResNet, {"depths": depths, "bottleneck": bottleneck}, "fc", torch_taps)


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
