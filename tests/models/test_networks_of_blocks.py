"""MobileNetV3, EfficientNet, ConvNeXt, ResNetV2 of BiT and Xception: torchvision's and timm's numbers, steps, gaps."""

import jax
import pytest

from delta_jax import features, models
from tests.golden import recipe
from tests.reference import relative, variables

# torchvision 0.29.1 and timm 1.0.31 / torch 2.14.1 on a CPU, float64, with the recipe's weights in float32: two images
# of 97x66 pixels, whose maps are odd and even; the first 50 logits and channels. With the same weights the networks
# that pad as TensorFlow does are more than 1e-2 away from those that do not.
GOLDEN = {
    "mobilenet_v3_small": "mobilenet_v3",
    "tf_mobilenetv3_small_100": "mobilenet_v3",
    "efficientnet_b0": "efficientnet",
    "tf_efficientnet_b0": "efficientnet",
    "efficientnet_v2_s": "efficientnet",
    "convnext_tiny": "convnext",
    "resnetv2_50x1_bit": "resnetv2",
    "xception": "xception",
}


@pytest.mark.parametrize("arch", GOLDEN)
def test_logits_and_taps_are_those_of_torchvision_or_timm(arch, golden):
    expected, spec, model = golden(GOLDEN[arch]), models.spec(arch), models.create(arch)
    images = recipe.images("delta", arch, "odd", 2, 97, 66)
    logits, maps = jax.jit(lambda v, x: features.apply_with_taps(model, v, x, spec.taps))(variables(arch), images)
    assert relative(logits[:, :50], expected[f"{arch}/logits"]) < 3e-5
    for i, tap in enumerate(spec.taps):
        found = maps[tap]
        assert found.shape == tuple(expected[f"{arch}/tap{i}/shape"])
        assert relative(found.mean((1, 2))[:, :50], expected[f"{arch}/tap{i}/mean_hw"]) < 3e-5
        assert relative(found.std((1, 2))[:, :50], expected[f"{arch}/tap{i}/std_hw"]) < 3e-5
