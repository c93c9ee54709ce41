"""Names in PyTorch of networks that are built of stages of blocks: as in `name_tables`, tables of one family each."""

import re
from collections.abc import Callable
from typing import Any

from delta_jax.models import ModelSpec

Table = Callable[[ModelSpec, str], str]


def _places(spec: ModelSpec) -> list[tuple[int, int, Any]]:
    """(stage, number in it, row of the table) of each block."""
    return [(stage, i, row) for stage, rows in enumerate(spec.arguments["stages"]) for i, row in enumerate(rows)]


def _parts(spec: ModelSpec, block: int) -> tuple[str, ...]:
    places = _places(spec)
    return places[block][2].parts(places[block - 1][2].features if block else spec.arguments["stem"])


def _timm_block(spec: ModelSpec, module: str) -> str:
    number, _, child = module.removeprefix("block_").partition("/")
    stage, i, _ = _places(spec)[int(number)]
    place = f"blocks.{stage}.{i}"
    if child in ("conv", "bn"):
        return f"{place}.conv" if child == "conv" else f"{place}.bn1"
    if child.startswith("squeeze"):
        return f"{place}.se.conv_{child.removeprefix('squeeze/')}"
    parts = [part for part in _parts(spec, int(number)) if part != "squeeze"]
    part, kind = child.split("_")
    if kind == "bn":
        return f"{place}.bn{parts.index(part) + 1}"
    # Without an expansion timm's block is another class, whose projection is called as elsewhere the expansion.
    convs = {
        "expand": "conv_pw" if "depthwise" in parts else "conv_exp",
        "depthwise": "conv_dw",
        "project": "conv_pwl" if "expand" in parts else "conv_pw",
    }
    return f"{place}.{convs[part]}"


def _timm_efficientnet(spec: ModelSpec, module: str) -> str:
    outer = {"stem_conv": "conv_stem", "stem_bn": "bn1", "head_conv": "conv_head", "head_bn": "bn2"}
    return _timm_block(spec, module) if module.startswith("block_") else outer.get(module, module)


def _timm_mobilenet_v3(spec: ModelSpec, module: str) -> str:
    last = f"blocks.{len(spec.arguments['stages'])}.0"
    outer = {"head_conv": f"{last}.conv", "head_bn": f"{last}.bn1", "hidden": "conv_head"}
    return outer[module] if module in outer else _timm_efficientnet(spec, module)


def _torchvision_block(spec: ModelSpec, module: str) -> str:
    """Behind the place of the block."""
    number, _, child = module.removeprefix("block_").partition("/")
    if child in ("conv", "bn"):
        return f"block.0.{('conv', 'bn').index(child)}"
    part, _, kind = child.replace("/", "_").partition("_")
    position = _parts(spec, int(number)).index(part)
    inner = {"conv": "0", "bn": "1", "reduce": "fc1", "expand": "fc2"}[kind]
    return f"block.{position}.{inner}"


def _torchvision(spec: ModelSpec, module: str, place: Callable[[int], str], behind: int, heads: dict[str, str]) -> str:
    outer = {
        "stem_conv": "features.0.0",
        "stem_bn": "features.0.1",
        "head_conv": f"features.{behind}.0",
        "head_bn": f"features.{behind}.1",
        **heads,
    }
    if module in outer:
        return outer[module]
    number = int(module.removeprefix("block_").partition("/")[0])
    return f"features.{place(number)}.{_torchvision_block(spec, module)}"


def _torchvision_efficientnet(spec: ModelSpec, module: str) -> str:
    places = _places(spec)
    heads = {"classifier": "classifier.1"}
    behind = len(spec.arguments["stages"]) + 1
    return _torchvision(spec, module, lambda n: f"{places[n][0] + 1}.{places[n][1]}", behind, heads)


def _torchvision_mobilenet_v3(spec: ModelSpec, module: str) -> str:
    heads = {"hidden": "classifier.0", "classifier": "classifier.3"}
    return _torchvision(spec, module, lambda n: f"{n + 1}", len(_places(spec)) + 1, heads)


def _timm_convnext(_: ModelSpec, module: str) -> str:
    outer = {"stem_conv": "stem.0", "stem_norm": "stem.1", "norm": "head.norm", "fc": "head.fc"}
    if module in outer:
        return outer[module]
    stage, rest = _stage(module)
    if rest.startswith("downsample"):
        return f"stages.{stage}.downsample.{('downsample_norm', 'downsample_conv').index(rest)}"
    block, __, child = rest.partition("/")
    inner = {"depthwise_conv": ".conv_dw", "norm": ".norm", "expand": ".mlp.fc1", "project": ".mlp.fc2", "": ""}
    return f"stages.{stage}.blocks.{block}{inner[child]}"


def _torchvision_convnext(_: ModelSpec, module: str) -> str:
    outer = {"stem_conv": "features.0.0", "stem_norm": "features.0.1", "norm": "classifier.0", "fc": "classifier.2"}
    if module in outer:
        return outer[module]
    stage, rest = _stage(module)
    if rest.startswith("downsample"):
        return f"features.{2 * stage}.{('downsample_norm', 'downsample_conv').index(rest)}"
    block, __, child = rest.partition("/")
    inner = {"depthwise_conv": ".block.0", "norm": ".block.2", "expand": ".block.3", "project": ".block.5", "": ""}
    return f"features.{2 * stage + 1}.{block}{inner[child]}"


def _stage(module: str) -> tuple[int, str]:
    """ "stage2_0/conv1" -> (1, "0/conv1"): stages count from 1 here and from 0 in PyTorch."""
    number, _, rest = module.removeprefix("stage").partition("_")
    return int(number) - 1, rest


def _timm_resnetv2(_: ModelSpec, module: str) -> str:
    outer = {"stem_conv": "stem.conv", "norm": "norm", "fc": "head.fc"}
    if module in outer:
        return outer[module]
    stage, rest = _stage(module)
    return f"stages.{stage}.blocks.{rest}".replace("downsample_", "downsample.").replace("/", ".")


def _timm_xception(_: ModelSpec, module: str) -> str:
    block, __, child = module.rpartition("/")
    kind, number = re.fullmatch(r"([a-z_]+?)(\d*)", child).groups()  # type: ignore[union-attr]
    separable = {"depthwise": "conv1", "pointwise": "pointwise"}
    if not block:
        return f"conv{number}.{separable[kind]}" if kind in separable else child
    if kind.startswith("skip"):
        return f"{block}.{kind.replace('_conv', '').replace('_', '')}"
    place = 3 * int(number) - (3 if block == "block1" else 2)  # the first block begins without an activation
    return f"{block}.rep.{place}.{separable[kind]}" if kind in separable else f"{block}.rep.{place + 1}"


TABLES: dict[str, dict[str, Table]] = {
    "mobilenet_v3": {"torchvision": _torchvision_mobilenet_v3},
    "timm_mobilenet_v3": {"timm": _timm_mobilenet_v3},
    "efficientnet": {"torchvision": _torchvision_efficientnet, "timm": _timm_efficientnet},
    "torchvision_efficientnet": {"torchvision": _torchvision_efficientnet},
    "timm_efficientnet": {"timm": _timm_efficientnet},
    "convnext": {"torchvision": _torchvision_convnext, "timm": _timm_convnext},
    "resnetv2": {"timm": _timm_resnetv2},
    "xception": {"timm": _timm_xception},
}
# Parameters that have another name than by `name_tables`, and ones with axes of length one behind those here: where
# PyTorch has a 1x1 convolution of a vector, or a factor per channel in the shape of a map.
LEAVES = {"timm": {"layer_scale": "gamma"}}
TRAILING = {
    ("timm_mobilenet_v3", "timm"): (r"hidden/kernel", (1, 1)),
    ("convnext", "torchvision"): (r".*/layer_scale", (1, 1)),
    ("resnetv2", "timm"): (r"fc/kernel", (1, 1)),
}
