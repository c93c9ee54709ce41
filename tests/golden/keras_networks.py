"""Random weights of keras.applications by name, and, as a program, what Keras makes of them.

    KERAS_BACKEND=jax python -m tests.golden.keras_networks      # Keras 3.15.1, jax 0.10.2: keras_networks.npz
    KERAS_BACKEND=jax python -m tests.golden.keras_networks /tmp/more.npz VGG19-48 VGG16-224    # others, or other sizes

It holds the logits of two images at each size; the images are those of `images`, from 0 to 255. KIND_gap is the network
without its top, with a mean over the map and a Dense layer `predictions`; an EfficientNet of these has the layers in
front that it has with the published weights.
"""

import re
import sys
import zlib
from pathlib import Path

import numpy as np

CLASSES = 5
CASES = (
    "ResNet50-64",
    "ResNet50-75",
    "MobileNetV2-224",
    "VGG16_gap-45",
    "EfficientNetB0_gap-75",
    "DenseNet121-75",
    "Xception-75",
)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VARIANCE = (0.05, 0.06, 0.07)  # of an EfficientNet that was made without ImageNet's weights
FILE = Path(__file__).with_suffix(".npz")


def as_caffe(kind: str) -> bool:
    """Whether the network sees images as Caffe did."""
    return kind.startswith(("ResNet", "VGG"))


def array_of(name: str, shape: tuple[int, ...], kind: str = "") -> np.ndarray:
    """Of "LAYER/VARIABLE", float32; sums of residual blocks do not grow, and statistics are of their order."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    layer, _, variable = name.rpartition("/")
    if variable.endswith("kernel"):
        fan_in = int(np.prod(shape[:2] if shape[3:] == (1,) else shape[:-1]))
        scale = 1 / 64 if layer in ("conv1_conv", "block1_conv1") and as_caffe(kind) else 1  # images are of that order
        return (scale * rng.normal(0, (2 / fan_in) ** 0.5, shape)).astype(np.float32)
    if variable in ("gamma", "moving_variance"):
        # Without it a millionth of the image more moves the logits of EfficientNetB4 by a third; in a block without a
        # shortcut, the first of its stage, it would take the image away.
        shortcut = kind[:14] > "EfficientNetB1" and re.fullmatch(r"block\d[b-z]_project_bn/gamma", name)
        ends_block = shortcut or "_3_bn/gamma" in name
        return (rng.uniform(0.6, 1.4, shape) * (0.3 if ends_block else 1)).astype(np.float32)
    return rng.normal(0, 0.3, shape).astype(np.float32)


def images(size: int) -> np.ndarray:
    """[2, size, size, 3], from 0 to 255."""
    return np.random.default_rng(size).uniform(0, 255, (2, size, size, 3)).astype(np.float32)


def seed(layer: str, variable: str, shape: tuple[int, ...]) -> str:
    """The name for `array_of`: layers to which Keras gives a number alone, Xception's shortcuts, by their width."""
    kind = "conv" if layer.startswith("conv2d") else "bn" if layer.startswith("batch_normalization") else ""
    layer = f"skip_{kind}_{shape[-1]}" if kind else layer
    return f"{layer}/{'kernel' if variable == 'depthwise_kernel' else variable}"


def _logits(case: str) -> np.ndarray:
    from unittest import mock

    import keras
    from keras.src.applications import efficientnet

    kind, size = case.split("-")
    name, _, gap = kind.partition("_")
    shape = (int(size), int(size), 3)
    top = {"include_top": False, "pooling": "avg"} if gap else {"classes": CLASSES, "classifier_activation": None}
    with (
        mock.patch.object(efficientnet.file_utils, "get_file"),
        mock.patch.object(efficientnet.Functional, "load_weights"),
    ):
        # With ImageNet's weights an EfficientNet has a layer more.
        published = "imagenet" if name.startswith("EfficientNet") and gap else None
        network = getattr(keras.applications, name)(weights=published, input_shape=shape, **top)
    for layer in network.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.adapt_mean.assign(IMAGENET_MEAN)
            layer.adapt_variance.assign(IMAGENET_STD if gap else VARIANCE)
            layer.finalize_state()
            continue
        for variable in layer.weights:
            shape = tuple(variable.shape)
            variable.assign(array_of(seed(layer.name, variable.name, shape), shape, kind))
    modules = {"ResNet": "resnet", "Mobile": "mobilenet_v2", "Dense": "densenet", "Xception": "xception"}
    modules |= {"VGG16": "vgg16", "VGG19": "vgg19", "Efficient": "efficientnet"}
    module = next(module for beginning, module in modules.items() if name.startswith(beginning))
    found = np.asarray(network(getattr(keras.applications, module).preprocess_input(images(int(size)))))
    if not gap:
        return found
    return found @ array_of("predictions/kernel", (found.shape[1], CLASSES)) + array_of("predictions/bias", (CLASSES,))


if __name__ == "__main__":
    file, *cases = sys.argv[1:] or (FILE, *CASES)
    np.savez(file, **{case: _logits(case) for case in cases})
