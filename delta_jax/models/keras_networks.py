"""Networks of keras.applications, which differ from those of the same names here.

As `--config.arch=delta_jax.models.keras_networks:resnet50`.

Facts: Keras 3.15.1, keras/src/applications. Their ResNets have the stride in the first convolution of a block, as
published. ResNets and VGGs see images as Caffe did: blue first, means subtracted, not scaled. MobileNetV2,
EfficientNets and Xception are padded as TensorFlow pads.
"""

import dataclasses
from typing import Any

from delta_jax.models.inverted_residual import MOBILENET_V2_STAGES, InvertedResidualNet
from delta_jax.models.model_spec import ModelSpec
from delta_jax.models.registry import spec
from delta_jax.models.resnet import ResNet

# keras.applications.imagenet_utils, mode "caffe": of images from 0 to 255; here red first.
CAFFE_MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)


def resnet50() -> ModelSpec:
    """ResNet-50 of keras.applications, not its V2."""
    return _resnet(50, (3, 4, 6, 3))


def resnet101() -> ModelSpec:
    """ResNet-101 of keras.applications, not its V2."""
    return _resnet(101, (3, 4, 23, 3))


def resnet152() -> ModelSpec:
    """ResNet-152 of keras.applications, not its V2."""
    return _resnet(152, (3, 8, 36, 3))


def mobilenet_v2() -> ModelSpec:
    """MobileNetV2 of keras.applications, of width 1. Padded as Keras pads images of 224 pixels, whatever their size."""
    return ModelSpec(
        f"{__name__}:mobilenet_v2",
        "keras_mobilenet_v2",
        InvertedResidualNet,
        {"stages": MOBILENET_V2_STAGES, "same_at": 224, "epsilon": 1e-3},
        "classifier",
        taps=("block_2/project_conv", "block_5/project_conv", "block_12/project_conv", "head_conv"),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        on_tpu={"columns": 4},
    )


def vgg16() -> ModelSpec:
    """VGG-16 of keras.applications with its dense layers, which read maps of 7x7: others are pooled to that."""
    return _of(spec("vgg16"), "keras_vgg", mean=CAFFE_MEAN)


def vgg16_gap() -> ModelSpec:
    """VGG-16 of keras.applications without its dense layers: include_top=False, pooling="avg", and a new head."""
    return _of(spec("vgg16_gap"), "keras_vgg", mean=CAFFE_MEAN)


def vgg19() -> ModelSpec:
    """VGG-19 of keras.applications, as `vgg16`."""
    return _of(spec("vgg19"), "keras_vgg", mean=CAFFE_MEAN)


def vgg19_gap() -> ModelSpec:
    """VGG-19 of keras.applications, as `vgg16_gap`."""
    return _of(spec("vgg19_gap"), "keras_vgg", mean=CAFFE_MEAN)


def efficientnet_b0() -> ModelSpec:
    """EfficientNet-B0 of keras.applications; its own Rescaling and Normalization are `mean` and `std` here."""
    return _efficientnet(0)


def efficientnet_b1() -> ModelSpec:
    """EfficientNet-B1 of keras.applications, as `efficientnet_b0`."""
    return _efficientnet(1)


def efficientnet_b2() -> ModelSpec:
    """EfficientNet-B2 of keras.applications, as `efficientnet_b0`."""
    return _efficientnet(2)


def efficientnet_b3() -> ModelSpec:
    """EfficientNet-B3 of keras.applications, as `efficientnet_b0`."""
    return _efficientnet(3)


def efficientnet_b4() -> ModelSpec:
    """EfficientNet-B4 of keras.applications, as `efficientnet_b0`."""
    return _efficientnet(4)


def densenet121() -> ModelSpec:
    """DenseNet-121 of keras.applications."""
    return _of(spec("densenet121"), "keras_densenet")


def densenet169() -> ModelSpec:
    """DenseNet-169 of keras.applications."""
    return _of(spec("densenet169"), "keras_densenet")


def densenet201() -> ModelSpec:
    """DenseNet-201 of keras.applications."""
    return _of(spec("densenet201"), "keras_densenet")


def xception() -> ModelSpec:
    """Xception of keras.applications."""
    return _of(spec("xception"), "keras_xception", arguments={"same": True, "epsilon": 1e-3})


def _efficientnet(number: int) -> ModelSpec:
    known = spec(f"tf_efficientnet_b{number}")
    return _of(known, "keras_efficientnet", name=f"efficientnet_b{number}")


def _of(known: ModelSpec, family: str, **facts: Any) -> ModelSpec:
    name = f"{__name__}:{facts.pop('name', known.name)}"
    return dataclasses.replace(known, name=name, family=family, torch_taps={}, taps=known.taps, **facts)


def _resnet(number: int, depths: tuple[int, int, int, int]) -> ModelSpec:
    return ModelSpec(
        f"{__name__}:resnet{number}",
        "keras_resnet",
        ResNet,
        {"depths": depths, "bottleneck": True, "stride_first": True},
        "fc",
        taps=tuple(f"layer{stage}_{depth - 1}/conv3" for stage, depth in enumerate(depths, 1)),
        # Their deviation is folded into the first convolution: weights/keras_names.py.
        mean=CAFFE_MEAN,
    )
