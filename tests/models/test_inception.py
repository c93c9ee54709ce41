"""Inception-V3 beyond its golden files: the smallest images, the auxiliary classifier."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import unflatten_dict

from delta_jax import features, models
from delta_jax.weights.merging import variable_shapes


def shapes(size, *, auxiliary=False, **kwargs):
    """{module path: shape of its output} for two images of the given size."""
    model = models.create("inception_v3", num_classes=7, auxiliary=auxiliary)
    leaves = variable_shapes("inception_v3", 7, auxiliary)
    variables = unflatten_dict({path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in leaves.items()})
    images: Any = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    return features.list_taps(model, variables, images, **kwargs)


def test_maps_have_torchvisions_sizes_down_to_the_smallest_images():
    # By hand: 75 -> 37 -> 35 -> 17 -> 15 -> 7 -> 3 -> 1 through the unpadded layers, as torchvision's min_size says.
    found = shapes((75, 91))
    assert found["Mixed_5d"] == (2, 7, 9, 288)
    assert found["Mixed_6e"] == (2, 3, 4, 768)
    assert found["Mixed_7c"] == (2, 1, 1, 2048)
    with pytest.raises(ValueError, match="images of 91x74 are too small for Inception-V3, which needs 75 pixels"):
        shapes((91, 74))


def test_the_auxiliary_classifier_runs_in_training_only():
    # 299 is the smallest size whose Mixed_6e, 17x17, leaves the 5x5 that the head's second convolution covers.
    assert "AuxLogits" not in shapes((299, 299), auxiliary=True)
    found = shapes((299, 299), auxiliary=True, train=True)
    assert found["AuxLogits"] == found["fc"] == (2, 7)
    assert found["Mixed_6e"] == (2, 17, 17, 768)
    assert found["AuxLogits/conv0"] == (2, 5, 5, 128)
    assert found["AuxLogits/conv1"] == (2, 1, 1, 768)
    assert "AuxLogits" not in shapes((139, 139), train=True)
    with pytest.raises(ValueError, match=r"299x298 are too small .* auxiliary classifier, .* 299 .*auxiliary=False"):
        shapes((299, 298), auxiliary=True, train=True)


def test_only_inception_has_an_auxiliary_classifier():
    with pytest.raises(ValueError, match=r"resnet50 has no second classifier .*or take inception_v3"):
        models.create("resnet50", auxiliary=True)


def test_it_computes_in_bfloat16_with_float32_parameters():
    model = models.create("inception_v3", num_classes=7, auxiliary=True, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32)
    out, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
