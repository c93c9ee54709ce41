"""Random weights of keras.applications by name, and, as a program, what Keras makes of them.

    KERAS_BACKEND=jax python -m tests.golden.keras_networks      # Keras 3.15.1, jax 0.10.2: keras_networks.npz
    KERAS_BACKEND=jax python -m tests.golden.keras_networks /tmp/more.npz VGG19-48 VGG16-224    # others, or other sizes

It holds the logits of two images at each size; the images are those of `images`, from 0 to 255. KIND_gap is the network
without its top, with a mean over the map and a Dense layer `predictions`.
"""

import sys
import zlib
from pathlib import Path

import numpy as np

CLASSES = 5
CASES = ("ResNet50-64", "ResNet50-75", "MobileNetV2-224", "VGG16_gap-45")
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
        return (rng.uniform(0.6, 1.4, shape) * (0.3 if "_3_bn/gamma" in name else 1)).astype(np.float32)
    return rng.normal(0, 0.3, shape).astype(np.float32)


def images(size: int) -> np.ndarray:
    """[2, size, size, 3], from 0 to 255."""
    return np.random.default_rng(size).uniform(0, 255, (2, size, size, 3)).astype(np.float32)


def _logits(case: str) -> np.ndarray:
    import keras

    kind, size = case.split("-")
    name, _, gap = kind.partition("_")
    shape = (int(size), int(size), 3)
    top = {"include_top": False, "pooling": "avg"} if gap else {"classes": CLASSES, "classifier_activation": None}
    network = getattr(keras.applications, name)(weights=None, input_shape=shape, **top)
    for layer in network.layers:
        for variable in layer.weights:
            variable.assign(array_of(f"{layer.name}/{variable.name}", tuple(variable.shape), kind))
    modules = {"ResNet": "resnet", "Mobile": "mobilenet_v2", "VGG16": "vgg16", "VGG19": "vgg19"}
    module = next(module for beginning, module in modules.items() if name.startswith(beginning))
    found = np.asarray(network(getattr(keras.applications, module).preprocess_input(images(int(size)))))
    if not gap:
        return found
    return found @ array_of("predictions/kernel", (found.shape[1], CLASSES)) + array_of("predictions/bias", (CLASSES,))


if __name__ == "__main__":
    file, *cases = sys.argv[1:] or (FILE, *CASES)
    np.savez(file, **{case: _logits(case) for case in cases})
