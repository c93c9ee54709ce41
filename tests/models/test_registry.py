"""The registry of networks: complete specs, modules that jit can compare, a hint for a wrong name."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import unflatten_dict

from delta_jax import features, models
from delta_jax.weights.merging import variable_shapes
from tests.reference import NETWORKS


@pytest.mark.parametrize("name", NETWORKS)
def test_the_spec_fits_its_network(name):
    spec, model = models.spec(name), models.create(name, num_classes=1000)
    assert spec.name == name
    size = spec.input_size
    images: Any = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    leaves = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in variable_shapes(name, 1000).items()}
    variables = unflatten_dict(leaves)
    shapes = features.list_taps(model, variables, images)
    assert set(spec.taps) <= set(shapes)
    # From the input to the output: maps get smaller, and end at a 32nd of the input (Inception: at Mixed_6e, 17x17; VGG
    # and AlexNet: in front of their last pooling).
    sides = [shapes[tap][1] for tap in spec.taps]
    assert sides == sorted(sides, reverse=True)
    last = {"inception_v3": 17, "alexnet": 13, "vgg11": 14, "vgg11_bn": 14, "vgg11_gap": 14}
    assert sides[-1] == last.get(name, math.ceil(size / 32))
    assert shapes[spec.head] == (2, 1000)
    assert set(variables["params"][spec.head]) == {"kernel", "bias"}
    assert len(spec.mean) == len(spec.std) == 3
    assert all(0 < value < 1 for value in (*spec.mean, *spec.std))
    assert spec.interpolation in ("bilinear", "bicubic")


# Parameters with 1,000 classes: torchvision's documentation, and the README of efficientnet_lite_pytorch.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "mobilenet_v2": 3_504_872,
    "resnext50_32x4d": 25_028_904,
    "wide_resnet50_2": 68_883_240,
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "alexnet": 61_100_840,
    "densenet121": 7_978_856,
    "regnety_004": 4_344_144,
    "efficientnet_lite0": 4_652_008,
    "efficientnet_lite1": 5_416_680,
    "efficientnet_lite2": 6_092_072,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks_have_as_many_parameters_as_published(name):
    shapes = variable_shapes(name, 1000)
    assert sum(math.prod(shape) for path, shape in shapes.items() if path[0] == "params") == PARAMETERS[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_network_twice_is_compiled_once(name):
    # filter_gaps and the trainer's functions are compiled once per module: it must be hashable and equal to its twin.
    options = {"num_classes": 7, "dropout": 0.2, "frozen_norm": True, "dtype": jnp.bfloat16}
    assert models.create(name, **options) == models.create(name, **options)
    assert hash(models.create(name, **options)) == hash(models.create(name, **options))
    assert models.create(name, **options) != models.create(name, **(options | {"num_classes": 8}))


def test_a_network_that_does_not_exist_is_refused_with_a_hint():
    with pytest.raises(
        ValueError,
        match=r"no network called 'resnet5'; did you mean resnet50 or .*\d+ are known, see python -m",
    ):
        models.create("resnet5")
    with pytest.raises(ValueError, match=r"no network called 'zzz'\. \d+ are known"):
        models.spec("zzz")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("resnext50", "resnext50_32x4d"),
        ("vgg16bn", "vgg16_bn"),
        ("EfficientNet-B0", "efficientnet_b0"),
        ("EfficientNetB0", "efficientnet_b0"),
        ("densenet_121", "densenet121"),
        ("se_resnet50", "seresnet50"),
        ("wide-resnet-50-2", "wide_resnet50_2"),
        ("mobilenetv3_large", "mobilenet_v3_large"),
        ("convnext", "convnext_tiny or convnext_small or convnext_base"),
        ("densenet", "densenet121 or densenet161 or densenet169 or densenet201"),
        ("mobilenetv3", "mobilenet_v3_small or .* or mobilenetv3_large_100"),
        ("regnetx", "regnetx_002 or regnetx_004 or regnetx_004_tv or regnetx_006 or 9 more"),
        ("regnet", "regnetx_002 or .* or 23 more"),
        ("mobilenet", "mobilenet_v2 or .* or mobilenetv3_large_100"),
        ("ConvNeXt-T", "convnext_tiny"),
        ("convnext_b", "convnext_base"),
        ("facebook/convnext-small-224", "convnext_small"),
        ("ResNet-50", "resnet50"),
        ("keras.applications.ResNet101", "resnet101"),
        ("RN50", "resnet50"),
        ("ResNet-D-50", "resnet50d"),
        ("VGG-16-BN", "vgg16_bn"),
        ("DenseNet-BC-121", "densenet121"),
        ("regnetY_400mf", "regnety_004"),
        ("RegNetY-800MF", "regnety_008 or regnety_008_tv"),
        ("RegNetX-1.6GF", "regnetx_016"),
        ("RegNetY-16GF", "regnety_160"),
        ("WRN-50-2", "wide_resnet50_2"),
        ("BiT-M-R50x1", "resnetv2_50x1_bit"),
        ("mobilenet_v2_1.0_224", "mobilenet_v2"),
    ],
)
def test_a_name_written_otherwise_or_without_its_end_is_recognised(typed, meant):
    with pytest.raises(ValueError, match=rf"no network called '{typed}'; (here it is called|did you mean) {meant}[.?]"):
        models.spec(typed)


@pytest.mark.parametrize("name", ["ConvNeXt-L", "RegNetY-128GF", "BiT-M-R152x2", "resnet_v2_50", "xception41"])
def test_the_spelling_of_a_network_that_is_not_here_leads_to_no_other(name):
    with pytest.raises(ValueError, match=rf"no network called '{name}'\.|^{name} is not supported here\.") as caught:
        models.spec(name)
    assert "did you mean" not in str(caught.value)


def test_a_network_that_only_looks_like_one_here_says_in_what_it_differs():
    with pytest.raises(ValueError, match=r"supported here; resnet50 is like it, but resnetblur50 blurs the maps"):
        models.spec("resnetblur50")
