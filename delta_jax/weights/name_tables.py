"""Module paths here and parameter names in PyTorch's networks: one table per family, read in both directions."""

import re
from collections.abc import Callable, Iterable

import numpy as np

Path = tuple[str, ...]  # ("params", "layer1_0", "conv1", "kernel")

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def _resnet(module: str) -> str:
    module = re.sub(r"^layer(\d)_(\d+)/", r"layer\1.\2.", module)
    return module.replace("downsample_conv", "downsample.0").replace("downsample_bn", "downsample.1")


def _mobilenet_v2(module: str) -> str:
    outer = {
        "stem_conv": "features.0.0",
        "stem_bn": "features.0.1",
        "head_conv": "features.18.0",
        "head_bn": "features.18.1",
        "classifier": "classifier.1",
    }
    if module in outer:
        return outer[module]
    block, child = module.removeprefix("block_").split("/")
    order = ("expand_conv", "expand_bn", "depthwise_conv", "depthwise_bn", "project_conv", "project_bn")
    position = order.index(child)
    if block == "0":  # does not expand: its children are numbered from the depthwise convolution
        position -= 2
    pairs = 1 if block == "0" else 2  # (conv, bn) pairs that torchvision wraps, in front of the bare projection
    inner = f"{position // 2}.{position % 2}" if position < 2 * pairs else f"{position - pairs}"
    return f"features.{int(block) + 1}.conv.{inner}"


def _efficientnet_lite(module: str) -> str:
    outer = {
        "stem_conv": "_conv_stem",
        "stem_bn": "_bn0",
        "head_conv": "_conv_head",
        "head_bn": "_bn1",
        "classifier": "_fc",
    }
    if module in outer:
        return outer[module]
    block, child = module.removeprefix("block_").split("/")
    norms = {"expand_bn": "_bn0", "depthwise_bn": "_bn1", "project_bn": "_bn2"}
    return f"_blocks.{block}.{norms.get(child, '_' + child)}"


def _inception(module: str) -> str:
    return module.replace("/", ".")


_FAMILIES: dict[str, Callable[[str], str]] = {
    "resnet": _resnet,
    "mobilenet_v2": _mobilenet_v2,
    "efficientnet_lite": _efficientnet_lite,
    "inception": _inception,
}


def torch_names(family: str, paths: Iterable[Path]) -> dict[str, Path]:
    """{PyTorch's parameter name: path} for the variables of a network.

    Args:
      family: `ModelSpec.family`.
      paths: of every leaf, the collection first: ("params", "layer1_0", "conv1", "kernel").
    """
    module_name = _FAMILIES[family]
    return {f"{module_name('/'.join(path[1:-1]))}.{_LEAVES[path[-1]]}": path for path in paths}


def to_flax_layout(tensor: np.ndarray, leaf: str) -> np.ndarray:
    """OIHW -> HWIO and [out, in] -> [in, out] for a `kernel`; everything else as it is."""
    if leaf == "kernel" and tensor.ndim == 4:
        return tensor.transpose(2, 3, 1, 0)
    if leaf == "kernel" and tensor.ndim == 2:
        return tensor.T
    return tensor


def to_torch_layout(array: np.ndarray, leaf: str) -> np.ndarray:
    """The inverse of `to_flax_layout`."""
    if leaf == "kernel" and array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    return to_flax_layout(array, leaf)
