"""What sort of network, if none that is here, tensors belong to: for an error that says so."""

import re
from collections.abc import Mapping

import numpy as np

# By names of tensors in timm, torchvision and transformers; of several that fit the first counts.
_HALLMARKS = (
    (r"(^|\.)(cls_token|class_token|pos_embed|patch_embed\.|embeddings\.patch)", "a transformer, such as ViT or Swin"),
    (r"\.attn\.(qkv|proj)\.|relative_position_bias_table|\.self_attention\.", "a transformer, such as ViT or Swin"),
    (r"stages?\.\d+\.blocks\.\d+\.(conv_dw|gamma|dwconv)|\.layer_scale$|downsample_layers\.", "another ConvNeXt"),
    (r"\.denseblock\d|\.denselayer\d", "a DenseNet of another size"),
    (r"(^|\.)layer\d\.\d+\.(convs|bns)\.\d", "a Res2Net"),
    (r"(^|\.)layer\d\.\d+\.conv2\.(fc|bn|conv|paths|attn|radix)", "a ResNeSt or SKNet"),
    (r"(^|\.)layer\d\.\d+\.(se|se_module)\.", "a ResNet with squeeze-and-excitation, such as timm's seresnet18"),
    (r"(^|\.)conv1\.\d+\.(weight|bias)$", "a ResNet with several convolutions in its stem, such as timm's resnet50t"),
    (r"(^|\.)blocks\.\d+\.\d+\.(se\.|conv_exp|aa\.)", "another EfficientNet or MobileNetV3"),
    (r"\._se_(reduce|expand)\.", "an EfficientNet"),
    (
        r"^features\.\d+\.\d+\.block\.\d+\.fc1\.|^features\.\d+\.block\.\d+\.fc1\.",
        "another EfficientNet or MobileNetV3",
    ),
    (r"(^|\.)(embedder\.embedder|resnet\.encoder\.stages|encoder\.stages)\.", "a network of transformers"),
    (r"(^|\.)(bottom_up|res[2345]\.\d+)\.", "a network of detectron2"),
    (r"^(s[1234]\.b\d+|trunk_output)\.", "a RegNet of another size"),
    (r"(^|\.)stages\.\d+\.(blocks|layers)\.\d+\.", "a network in stages, such as ResNetV2 or RegNet"),
    (r"(^|\.)(stage\d\.\d+\.branches|transition\d)\.", "an HRNet"),
    (r"^features\.\d+\.(weight|conv\.weight)$", "a network such as VGG or AlexNet, of another size"),
    (r"(^|\.)attnpool\.", "a ResNet of CLIP"),
)


def foreign(tensors: Mapping[str, np.ndarray]) -> str:
    """A few words for a network that is not here, "" where it is not recognised."""
    for pattern, what in _HALLMARKS:
        if any(re.search(pattern, name) for name in tensors):
            return what
    for name, tensor in tensors.items():
        if re.search(r"(^|\.)layer1\.0\.conv2\.weight$", name) and np.ndim(tensor) == 4:
            filters, channels = np.shape(tensor)[:2]
            if channels < filters:
                return "a ResNeXt of another size"
            if filters not in (64, 0):
                return "a wide ResNet of another size"
    return ""
