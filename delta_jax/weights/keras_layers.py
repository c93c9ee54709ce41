"""What the layers of keras.applications' networks are called, by the modules of the networks here.

Facts: Keras 3.15.1, keras/src/applications.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from delta_jax.models import ModelSpec


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


class Table(NamedTuple):
    """A family of Keras' networks.

    Attributes:
      layer_of: the layer of a module.
      more_epsilon: the epsilon of its BatchNorms less that of those here.
      caffe: the first convolution of a network that sees images as Caffe did, "" for others.
      biased: there are biases in front of its BatchNorms, which those here have not.
      flattened: the module that reads a whole map, row by row in Keras, channel by channel here; "" for none.
    """

    layer_of: Callable[[str, ModelSpec], str]
    more_epsilon: float = 0.0
    caffe: str = ""
    biased: bool = False
    flattened: str = ""


TABLES = {
    "keras_resnet": Table(_resnet, 1.001e-5 - 1e-5, caffe="conv1", biased=True),
    "keras_mobilenet_v2": Table(_mobilenet_v2),
    "keras_vgg": Table(_vgg, caffe="conv1_1", flattened="fc1"),
}
