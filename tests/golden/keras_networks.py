"""Random weights of keras.applications by name, and, as a program, what Keras makes of them.

    KERAS_BACKEND=jax python -m tests.golden.keras_networks      # Keras 3.15.1, jax 0.10.2: keras_networks.npz

It holds the logits of two images at each size; the images are those of `images`, from 0 to 255.
"""

import zlib
from pathlib import Path

import numpy as np

CLASSES = 5
SIZES = {"ResNet50": (64, 75), "MobileNetV2": (224,)}
FILE = Path(__file__).with_suffix(".npz")


def array_of(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Of "LAYER/VARIABLE", float32; sums of residual blocks do not grow, and statistics are of their order."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    variable = name.rpartition("/")[2]
    if variable == "kernel":
        fan_in = 9 if "depthwise" in name else int(np.prod(shape[:-1]))
        scale = 1 / 64 if name == "conv1_conv/kernel" else 1  # images of Caffe are of that order
        return (scale * rng.normal(0, (2 / fan_in) ** 0.5, shape)).astype(np.float32)
    if variable in ("gamma", "moving_variance"):
        return (rng.uniform(0.6, 1.4, shape) * (0.3 if "_3_bn/gamma" in name else 1)).astype(np.float32)
    return rng.normal(0, 0.3, shape).astype(np.float32)


def images(size: int) -> np.ndarray:
    """[2, size, size, 3], from 0 to 255."""
    return np.random.default_rng(size).uniform(0, 255, (2, size, size, 3)).astype(np.float32)


def _logits(kind: str, size: int) -> np.ndarray:
    import keras

    given = {"weights": None, "classes": CLASSES, "classifier_activation": None, "input_shape": (size, size, 3)}
    network = getattr(keras.applications, kind)(**given)
    for layer in network.layers:
        for variable in layer.weights:
            variable.assign(array_of(f"{layer.name}/{variable.name}", tuple(variable.shape)))
    module = keras.applications.resnet if kind == "ResNet50" else keras.applications.mobilenet_v2
    return np.asarray(network(module.preprocess_input(images(size))))


if __name__ == "__main__":
    np.savez(FILE, **{f"{kind}-{size}": _logits(kind, size) for kind, sizes in SIZES.items() for size in sizes})
