"""Arrays of keras.applications' networks as variables of the networks here: names, layouts, and what is folded in.

A bias in front of a BatchNorm is taken off its running mean, and the difference of the epsilons is added to its running
variance: both leave what comes out as it is. Where Keras' network sees images as Caffe did, the order of the colours
and their scale go into the first convolution, so that `mean` and `std` of the network here are all its preprocessing.
"""

import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from delta_jax.models import ModelSpec
from delta_jax.weights.errors import WeightsError
from delta_jax.weights.name_tables import Path

_LEAVES = {"kernel": "kernel", "scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}


def _resnet(module: str) -> str:
    outer = {"conv1": "conv1_conv", "bn1": "conv1_bn", "fc": "predictions"}
    if match := re.fullmatch(r"layer(\d)_(\d+)/(?:(conv|bn)(\d)|downsample_(conv|bn))", module):
        stage, block, kind, number, beside = match.groups()
        return f"conv{int(stage) + 1}_block{int(block) + 1}_{number or 0}_{kind or beside}"
    return outer[module]


def _mobilenet_v2(module: str) -> str:
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


# By family: the layer of a module; the epsilon of its BatchNorms less that of those here; whether it sees as Caffe.
_TABLES: dict[str, tuple[Callable[[str], str], float, bool]] = {
    "keras_resnet": (_resnet, 1.001e-5 - 1e-5, True),
    "keras_mobilenet_v2": (_mobilenet_v2, 0.0, False),
}
ARCHS = "delta_jax.models.keras_networks:resnet50, resnet101, resnet152 and mobilenet_v2"


def are_keras(names: Iterable[str]) -> bool:
    """Whether arrays are called as `keras_file.read` calls them."""
    return any(name.count("/") == 1 and name.endswith(("/gamma", "/moving_variance")) for name in names)


def to_flax(
    tensors: Mapping[str, np.ndarray], spec: ModelSpec, shapes: Mapping[Path, tuple[int, ...]]
) -> tuple[dict[str, np.ndarray], str]:
    """Renames and converts.

    Args:
      tensors: {"LAYER/VARIABLE": array}.
      spec: of the network.
      shapes: {path: shape} of its variables.

    Returns:
      {"params/conv1/kernel": array}, without the head where that has another name, and a line on what was left out.

    Raises:
      WeightsError: the network is not one of Keras, or layers of it are missing.
    """
    if spec.family not in _TABLES:
        raise WeightsError(
            f"these are weights of Keras, which {spec.name} does not take: strides, padding or colours differ. "
            f"Those of ResNet50, 101, 152 and MobileNetV2 fit {ARCHS}, as arch; others are not supported here"
        )
    layer_of, more_epsilon, as_caffe = _TABLES[spec.family]
    found: dict[str, np.ndarray] = {}
    used, missing = set(), []
    for path in shapes:
        module = "/".join(path[1:-1])
        is_head = module == spec.head
        layer = layer_of(module)
        name = f"{layer}/{'bias' if is_head and path[-1] == 'bias' else _LEAVES[path[-1]]}"
        if name not in tensors:
            missing += [] if is_head else [name]
            continue
        used.add(name)
        array = np.asarray(tensors[name])
        if path[-1] == "kernel" and array.ndim == 4 and array.shape[2:] == shapes[path][:1:-1] != shapes[path][2:]:
            array = array.transpose(0, 1, 3, 2)  # depthwise: [h, w, C, 1] there
        if path[-1] == "mean":
            bias = f"{layer_of(re.sub(r'bn(?=[0-9]*$)', 'conv', module))}/bias"
            array = array - tensors.get(bias, np.zeros((), array.dtype))
            used.add(bias)
        if path[-1] == "var":
            array = array + np.asarray(more_epsilon, array.dtype)
        if as_caffe and module == "conv1":
            scale = 255 * np.asarray(spec.std, array.dtype)
            array = array[:, :, ::-1] * scale[:, None]  # blue first there, from 0 to 255
        found["/".join(path)] = array
    if missing:
        listed = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        raise WeightsError(
            f"these weights do not fit {spec.name}: they lack {len(missing)} arrays of Keras' network: {listed}; what "
            f"they have begins with {', '.join(sorted(tensors)[:4])}. Supported are {ARCHS}"
        )
    others = sorted({name.partition("/")[0] for name in tensors if name not in used})
    return found, f"left out, no layers of the network: {', '.join(others[:8])}" if others else ""
