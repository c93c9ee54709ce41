"""Inception-V3 beyond its golden file: the smallest images, the auxiliary classifier, gaps at every default tap."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delta_jax import attention, features, models
from tests import reference

SPEC = models.spec("inception_v3")
RNG = np.random.default_rng(0)


def shapes(size, *, auxiliary=False, **kwargs):
    """{module path: shape of its output} for two images of the given size."""
    model = models.create("inception_v3", num_classes=7, auxiliary=auxiliary)
    variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32))
    images: Any = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    return features.list_taps(model, variables, images, **kwargs)


def test_smallest_images():
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


def test_gaps_at_every_default_tap_are_those_of_plain_forward_passes():
    """The first, a middle and the last filter of each tap, at an odd size, in float64."""
    model = models.create("inception_v3", num_classes=7)
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), reference.variables("inception_v3", 7))
        x, y = jnp.asarray(RNG.standard_normal((2, 75, 91, 3))), jnp.array([3, 6])
        channels = {tap: shape[-1] for tap, shape in features.list_taps(model, variables, x).items()}
        filters = {tap: [0, channels[tap] // 2 + 1, channels[tap] - 1] for tap in SPEC.taps}

        @jax.jit
        def losses(variables, x, keep):
            def interceptor(call, args, keywords, context):
                out = call(*args, **keywords)
                path = "/".join(context.module.path)
                return out * keep[path][None, None, None] if path in keep else out

            with nn.intercept_methods(interceptor):
                log_p = jax.nn.log_softmax(model.apply(variables, x))
            return -jnp.take_along_axis(log_p, y[:, None], 1)[:, 0]

        whole = {tap: np.ones(channels[tap]) for tap in SPEC.taps}
        base = losses(variables, x, whole)
        found = attention.filter_gaps(model, variables, x, y, taps=SPEC.taps, filters=filters)
        for tap in SPEC.taps:
            passes = [
                losses(variables, x, {**whole, tap: (np.arange(channels[tap]) != j).astype(float)})
                for j in filters[tap]
            ]
            expected = np.stack([one - base for one in passes], 1)
            np.testing.assert_allclose(found[tap], expected, rtol=0, atol=1e-7 * np.abs(expected).max(), err_msg=tap)
