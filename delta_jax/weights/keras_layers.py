"""What the layers of keras.applications' networks are called, by the modules of the networks here.

Facts: Keras 3.15.1, keras/src/applications. Layers that it leaves without a name, Xception's shortcuts, are found by
their shapes.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from delta_jax.models import ModelSpec

Tensors = Mapping[str, np.ndarray]


def _resnet(module: str, _spec: ModelSpec) -> str:
    outer = {"conv1": "conv1_conv", "bn1": "conv1_bn", "fc": "predictions"}
    if match := re.fullmatch(r"layer(\d)_(\d+)/(?:(conv|bn)(\d)|downsample_(conv|bn))", module):
        stage, block, kind, number, beside = match.groups()
        return f"conv{int(stage) + 1}_block{int(block) + 1}_{number or 0}_{kind or beside}"
    return outer[module]


def _mobilenet_v2(module: str, _spec: ModelSpec) -> str:
    outer = {
        "stem_conv": "Conv1",
        "stem_bn": "bn_Conv1",
        "head_conv": "Conv_1",
        "head_bn": "Conv_1_bn",
        "classifier": "predictions",
    }
    if module in outer:
        return outer[module]
    block, child = module.split("/")
    part, kind = child.split("_")
    return f"{'expanded_conv' if block == 'block_0' else block}_{part}{'_BN' if kind == 'bn' else ''}"


def _vgg(module: str, _spec: ModelSpec) -> str:
    if match := re.fullmatch(r"conv(\d)_(\d)", module):
        return f"block{match[1]}_conv{match[2]}"
    return "predictions" if module == "fc" else module


_PARTS = {
    "expand_conv": "expand_conv",
    "expand_bn": "expand_bn",
    "depthwise_conv": "dwconv",
    "depthwise_bn": "bn",
    "squeeze/reduce": "se_reduce",
    "squeeze/expand": "se_expand",
    "project_conv": "project_conv",
    "project_bn": "project_bn",
}


def _efficientnet(module: str, spec: ModelSpec) -> str:
    outer = {"head_conv": "top_conv", "head_bn": "top_bn", "classifier": "predictions"}
    if match := re.fullmatch(r"block_(\d+)/(.*)", module):
        stages = [
            f"{stage}{chr(97 + i)}" for stage, rows in enumerate(spec.arguments["stages"], 1) for i in range(len(rows))
        ]
        return f"block{stages[int(match[1])]}_{_PARTS[match[2]]}"
    return outer.get(module, module)


def _densenet(module: str, _spec: ModelSpec) -> str:
    outer = {"conv0": "conv1_conv", "norm0": "conv1_bn", "norm5": "bn", "classifier": "predictions"}
    if match := re.fullmatch(r"block(\d)_(\d+)/(norm|conv)(\d)", module):
        block, layer, kind, number = match.groups()
        place = f"{int(number) - 1}_bn" if kind == "norm" else f"{number}_conv"
        return f"conv{int(block) + 1}_block{layer}_{place}"
    if match := re.fullmatch(r"transition(\d)_(norm|conv)", module):
        return f"pool{int(match[1]) + 1}_{'bn' if match[2] == 'norm' else 'conv'}"
    return outer[module]


_SEPARABLE = {"depthwise": "", "pointwise": "_pointwise", "bn": "_bn"}


def _xception(module: str, _spec: ModelSpec) -> str:
    outer = {"conv1": "block1_conv1", "bn1": "block1_conv1_bn", "conv2": "block1_conv2", "bn2": "block1_conv2_bn"}
    if match := re.fullmatch(r"(?:block(\d+)/)?(depthwise|pointwise|bn)(\d)", module):
        block, kind, number = match.groups()
        if block or int(number) > 2:
            block, number = (int(block) + 1, int(number)) if block else (14, int(number) - 2)
            return f"block{block}_sepconv{number}{_SEPARABLE[kind]}"
    if match := re.fullmatch(r"block(\d+)/skip_(conv|bn)", module):
        return f"block{int(match[1]) + 1}_skip_{match[2]}"
    return "predictions" if module == "fc" else outer[module]


def _xception_named(tensors: Tensors) -> Tensors:
    """With a layer of its own for each half of a separable convolution, and names for those that have none."""
    found = {name.replace("/pointwise_kernel", "_pointwise/kernel"): array for name, array in tensors.items()}
    for block, width in ((2, 128), (3, 256), (4, 728), (13, 1024)):
        for pattern, known, kind in (
            (r"conv(?:olution)?2d(?:_(\d+))?/kernel", (1, 1, width), "conv"),
            (r"batch_?normalization(?:_(\d+))?/gamma", (width,), "bn"),
        ):
            # The first one: what is built on top of the network has later numbers.
            fitting = [
                (int(match[1] or 0), name.partition("/")[0])
                for name, array in found.items()
                if (match := re.fullmatch(pattern, name))
                and (*array.shape[:2], *array.shape[-1:])[-len(known) :] == known
            ]
            if fitting:
                layer = min(fitting)[1]
                found = {
                    name.replace(f"{layer}/", f"block{block}_skip_{kind}/")
                    if name.startswith(f"{layer}/")
                    else name: array
                    for name, array in found.items()
                }
    return found


class Table(NamedTuple):
    """A family of Keras' networks.

    Attributes:
      layer_of: the layer of a module.
      more_epsilon: the epsilon of its BatchNorms less that of those here.
      caffe: the first convolution of a network that sees images as Caffe did, "" for others.
      biased: there are biases in front of its BatchNorms, which those here have not.
      named: renames arrays first.
      flattened: the module that reads a whole map, row by row in Keras, channel by channel here; "" for none.
      rescaled: the first convolution of a network that has a layer Normalization in front, "" for others.
    """

    layer_of: Callable[[str, ModelSpec], str]
    more_epsilon: float = 0.0
    caffe: str = ""
    biased: bool = False
    named: Callable[[Tensors], Tensors] = dict
    flattened: str = ""
    rescaled: str = ""


TABLES = {
    "keras_resnet": Table(_resnet, 1.001e-5 - 1e-5, caffe="conv1", biased=True),
    "keras_mobilenet_v2": Table(_mobilenet_v2),
    "keras_vgg": Table(_vgg, caffe="conv1_1", flattened="fc1"),
    "keras_efficientnet": Table(_efficientnet, rescaled="stem_conv"),
    "keras_densenet": Table(_densenet, 1.001e-5 - 1e-5),
    "keras_xception": Table(_xception, named=_xception_named),
}
