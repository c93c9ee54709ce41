"""Arrays of keras.applications' networks as variables of the networks here: layouts, and what is folded in.

A bias in front of a BatchNorm is taken off its running mean, and the difference of the epsilons is added to its running
variance: both leave what comes out as it is. Where Keras' network sees images as Caffe did, the order of the colours
and their scale go into the first convolution, so that `mean` and `std` of the network here are all its preprocessing.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from delta_jax.models import ModelSpec
from delta_jax.weights.errors import WeightsError
from delta_jax.weights.keras_layers import TABLES
from delta_jax.weights.name_tables import Path

_LEAVES = {"kernel": "kernel", "scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
ARCHS = (
    "delta_jax.models.keras_networks:resnet50, resnet101, resnet152, mobilenet_v2, vgg16 and vgg19 (or vgg16_gap, "
    "vgg19_gap), efficientnet_b0 to b4, densenet121, 169, 201 and xception"
)


def are_keras(names: Iterable[str]) -> bool:
    """Whether arrays are called as `keras_file.read` calls them."""
    return any(
        name == "block1_conv1/kernel" or (name.count("/") == 1 and name.endswith(("/gamma", "/moving_variance")))
        for name in names
    )


def array_names(spec: ModelSpec, paths: Iterable[Path]) -> dict[Path, str]:
    """{path of a variable: "LAYER/VARIABLE"} in Keras' network of that spec."""
    paths, layer_of = list(paths), TABLES[spec.family].layer_of
    biased = {path[:-1] for path in paths if path[-1] == "kernel"}
    return {
        path: f"{layer_of('/'.join(path[1:-1]), spec)}/{path[-1] if path[:-1] in biased else _LEAVES[path[-1]]}"
        for path in paths
    }


def to_flax(
    tensors: Mapping[str, np.ndarray], spec: ModelSpec, shapes: Mapping[Path, tuple[int, ...]]
) -> tuple[dict[str, np.ndarray], str]:
    """Renames and converts.

    Args:
      tensors: {"LAYER/VARIABLE": array}.
      spec: of the network.
      shapes: {path: shape} of its variables.

    Returns:
      {"params/conv1/kernel": array}, without the head where that has another name or reads other features, and a line
      on what was left out.

    Raises:
      WeightsError: the network is not one of Keras, or layers of it are missing.
    """
    if spec.family not in TABLES:
        raise WeightsError(
            f"these are weights of Keras, which {spec.name} does not take: strides, padding or colours differ. "
            f"Those of Keras fit {ARCHS}, as arch; others are not supported here"
        )
    table, names = TABLES[spec.family], array_names(spec, shapes)
    tensors = table.named(tensors)
    head = {path for path in shapes if "/".join(path[1:-1]) == spec.head}
    missing = [name for path, name in names.items() if name not in tensors and path not in head]
    if missing:
        listed = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        raise WeightsError(
            f"these weights do not fit {spec.name}: they lack {len(missing)} arrays of Keras' network: {listed}; what "
            f"they have begins with {', '.join(sorted(tensors)[:4])}. Supported are {ARCHS}"
        )
    if any(path[-1] == "kernel" and len(tensors.get(names[path], ())) != shapes[path][0] for path in head):
        names = {path: name for path, name in names.items() if path not in head}
    names = {path: name for path, name in names.items() if name in tensors}
    factors, normalization, remark = _normalization(tensors, spec) if table.rescaled else (np.ones(3), set(), "")
    used = set(names.values()) | normalization
    found: dict[str, np.ndarray] = {}
    for path, name in names.items():
        module, array = "/".join(path[1:-1]), np.asarray(tensors[name])
        if path[-1] == "kernel" and array.ndim == 4 and array.shape[2:] == shapes[path][:1:-1] != shapes[path][2:]:
            array = array.transpose(0, 1, 3, 2)  # depthwise: [h, w, C, 1] there
        if path[-1] == "kernel" and module == table.flattened:
            array = _channels_first(array, spec, shapes[path])
        if path[-1] == "mean" and table.biased:
            convolution = re.sub(r"bn(?=[0-9]*$)", "conv", module)
            bias = f"{table.layer_of(convolution, spec)}/bias"
            array = array - tensors.get(bias, np.zeros((), array.dtype))
            used.add(bias)
        if path[-1] == "var":
            array = array + np.asarray(table.more_epsilon, array.dtype)
        if path[-1] == "kernel" and module == table.caffe:
            scale = 255 * np.asarray(spec.std, array.dtype)
            array = array[:, :, ::-1] * scale[:, None]  # blue first there, from 0 to 255
        if path[-1] == "kernel" and module == table.rescaled:
            array = array * factors[:, None].astype(array.dtype)
        found["/".join(path)] = array
    others = sorted({name.partition("/")[0] for name in tensors if name not in used})
    if more := [layer for layer in others if re.match(r"block_?\d|conv\d_block", layer)]:
        raise WeightsError(
            f"these weights do not fit {spec.name}: they are of a larger network, with {len(more)} layers more: "
            f"{', '.join(more[:4])}. Supported are {ARCHS}"
        )
    left_out = f"left out, no layers of the network: {', '.join(others[:8])}" if others else ""
    return found, "; ".join(filter(None, (remark, left_out)))


def _normalization(tensors: Mapping[str, np.ndarray], spec: ModelSpec) -> tuple[np.ndarray, set[str], str]:
    """Of the layer in front of an EfficientNet, Keras' factors by those of `spec.std`, its arrays, and a remark.

    The published files hold standard deviations where variances belong, so that Keras, which divides by their roots,
    has another layer behind it that does so once more. Arrays of networks that were made without these weights say
    nothing of such a layer, and have none.
    """
    found = sorted(name for name in tensors if re.fullmatch(r"normalization(_\d+)?/(mean|variance)", name))
    if len(found) != 2:
        raise WeightsError(
            f"these weights do not fit {spec.name}: expected mean and variance of one layer Normalization, as Keras' "
            f"EfficientNets have it, found {', '.join(found) or 'none'}"
        )
    mean, variance = (np.asarray(tensors[name], np.float64).reshape(-1) for name in found)
    if mean.shape != (3,) or not np.allclose(mean, spec.mean, atol=1e-4):
        raise WeightsError(
            f"these weights do not fit {spec.name}: their layer {found[0].partition('/')[0]} takes "
            f"{', '.join(f'{m:.4g}' for m in mean[:3])} off images from 0 to 1, the network here "
            f"{', '.join(map(str, spec.mean))}, as in networks that began with ImageNet's weights; for others give a "
            "ModelSpec of your own with that mean: dataclasses.replace(SPEC, mean=(...))"
        )
    std = np.asarray(spec.std)
    if np.allclose(variance, std, atol=1e-4):
        remark = "images are divided by ImageNet's deviations, as newer Keras does; older Keras took their roots"
        return np.ones(3), set(found), remark
    return std / np.sqrt(variance), set(found), ""


def _channels_first(kernel: np.ndarray, spec: ModelSpec, shape: tuple[int, ...]) -> np.ndarray:
    """Of a layer that reads a map [H, W, C], flattened, for one that reads [C, H, W]."""
    side = spec.arguments.get("map_size", 7)
    if kernel.shape != shape:
        raise WeightsError(
            f"these weights do not fit {spec.name}: their first dense layer is {kernel.shape}, here {shape}: Keras' "
            f"network was built for images of another size; its convolutions alone fit {spec.name}_gap"
        )
    return kernel.reshape(side, side, -1, shape[1]).transpose(2, 0, 1, 3).reshape(shape)
