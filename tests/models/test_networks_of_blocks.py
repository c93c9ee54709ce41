"""MobileNetV3, EfficientNet, ConvNeXt, ResNetV2 of BiT and Xception: torchvision's and timm's numbers, steps, gaps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from delta_jax import attention, features, methods, models
from delta_jax.models.convnext import ConvNeXt
from delta_jax.models.efficientnet import FUSED, PLAIN, EfficientNet, Row
from delta_jax.models.mobilenet_v3 import SMALL
from delta_jax.models.resnetv2 import ResNetV2
from delta_jax.models.xception import Xception
from delta_jax.training import steps
from delta_jax.training.optim import make_optimizer
from delta_jax.training.state import init_state
from tests.golden import recipe
from tests.reference import cross_entropy, in_float64, random_variables, relative, variables

# torchvision 0.29.1 and timm 1.0.31 / torch 2.14.1 on a CPU, float64, with the recipe's weights in float32: two images
# of 97x66 pixels, whose maps are odd and even; the first 50 logits and channels. Another padding moves the first tap of
# `tf_mobilenetv3_small_100` by 6e-2, another epsilon its logits by 5e-4.
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


# One of each family with every kind of block, but few and narrow ones: (network, taps).
_V3_BLOCKS = ((Row(8, 8, 3, 2, 8, rectified=True), Row(16, 8, 5, 1, 8)),)
_BLOCKS = ((Row(0, 8, 3, 1, 0, PLAIN),), (Row(16, 12, 3, 2, 0, FUSED),), (Row(24, 12, 5, 1, 3), Row(24, 16, 3, 2, 3)))
TINY: dict[str, tuple[Any, tuple[str, ...]]] = {
    "mobilenet_v3": (
        EfficientNet(**SMALL | {"stages": _V3_BLOCKS, "stem": 8, "head": 12, "hidden": 8}, num_classes=3),
        ("block_0/project_conv", "head_conv"),
    ),
    "efficientnet": (
        EfficientNet(_BLOCKS, 8, 12, same=True, num_classes=3),
        ("block_0/conv", "block_1/project_conv", "block_3/depthwise_conv"),
    ),
    "convnext": (ConvNeXt((1, 1, 1, 1), (4, 6, 8, 8), num_classes=3), ("stage1_0/project", "stage4_0/project")),
    "resnetv2": (ResNetV2((1, 1, 1, 1), num_classes=3), ("stage1_0/conv1", "stage3_0/conv2")),
    "xception": (
        Xception((((8, 8), True), ((8, 8, 8), False)), num_classes=3),
        ("block1/pointwise2", "block2/depthwise3"),
    ),
}
IMAGES = jnp.asarray(np.random.default_rng(0).standard_normal((4, 35, 32, 3)), jnp.float32)
LABELS = jnp.array([0, 2, 1, 2])


@pytest.mark.parametrize("family", TINY)
def test_gaps_are_those_of_plain_passes(family):
    """To ten digits: in float64 nothing is lost where the gap is the difference of two losses."""
    model, taps = TINY[family]
    given, labels = random_variables(model, IMAGES[:2]), LABELS[:2]
    widths = {tap: shape[-1] for tap, shape in features.list_taps(model, given, IMAGES[:2]).items() if tap in taps}
    chosen = {tap: [0, min(5, width - 1)] for tap, width in widths.items()}

    def logits_of(given, images, tap_number, j):
        def without(maps, here):
            return maps * jnp.where(here & (jnp.arange(maps.shape[-1]) == j), 0.0, 1.0)[None, None, None]

        changes = {tap: lambda maps, i=i: without(maps, tap_number == i) for i, tap in enumerate(taps)}
        return features.apply_with_changes(model, given, images, changes)[0]

    with jax.enable_x64(True):
        given, images = in_float64(given), in_float64(IMAGES[:2])
        gaps = attention.filter_gaps(model, given, images, labels, taps=taps, filters=chosen)
        run = jax.jit(logits_of)
        whole = cross_entropy(run(given, images, -1, 0), labels)
        for i, tap in enumerate(taps):
            expected = [cross_entropy(run(given, images, i, j), labels) - whole for j in chosen[tap]]
            assert gaps[tap].dtype == np.float64
            assert np.abs(expected).max() > 1e-4
            np.testing.assert_allclose(gaps[tap], np.stack(expected, axis=-1), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("family", TINY)
def test_a_step_of_delta_with_dropout_and_recomputation_moves_every_parameter(family):
    """With attention: what it weighs adds up, filter by filter and image by image."""
    network, taps = TINY[family]
    model = network.clone(dropout=0.3)
    given = {"batch_stats": {}, **random_variables(model, IMAGES)}
    source = given | {"params": jax.tree.map(lambda leaf: 1.1 * leaf, given["params"])}
    head = "classifier" if "classifier" in given["params"] else "fc"
    tx = make_optimizer(given["params"], optax.constant_schedule(0.01), head=head, momentum=0.9)
    settings: dict[str, Any] = {"taps": taps, "head": head, "alpha": 0.1, "beta": 0.1}
    loss = steps.make_loss(model, network, methods.create("delta"), **settings, keep=models.keep_products_and_sums)
    batch = {"image": IMAGES, "label": LABELS, "index": jnp.arange(4)}
    before = jax.tree.map(np.asarray, given["params"])
    step = jax.jit(steps.make_train_step(loss, tx, lambda key, images: images))
    shapes = {tap: shape for tap, shape in features.list_taps(network, given, IMAGES).items() if tap in taps}
    rng = np.random.default_rng(2)
    weights = {tap: rng.uniform(0.5, 1.5, (len(IMAGES), shape[-1])).astype(np.float32) for tap, shape in shapes.items()}

    def stepped(attention):
        return step(init_state(given, tx), source, batch, attention, jax.random.key(0))

    after, metrics = stepped(weights)
    assert all(np.isfinite(value).all() for value in metrics.values())
    marked = {tap: np.zeros_like(w) for tap, w in weights.items()}
    for w in marked.values():
        w[1, ::2] = w[3, 1] = 1  # some filters of two images
    parts = [
        stepped({tap: w * part[tap] for tap, w in weights.items()})[1]["penalty"]
        for part in (marked, jax.tree.map(lambda m: 1 - m, marked))
    ]
    assert min(parts) > 0
    np.testing.assert_allclose(sum(parts), metrics["penalty"], rtol=1e-5)
    still = [
        jax.tree_util.keystr(path)
        for (path, old), new in zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after.params), strict=True)
        if np.array_equal(old, new)
    ]
    # What a last projection adds to a channel, the BatchNorm behind the next convolution takes off again.
    assert set(still) <= {"['block_3']['project_bn']['bias']"}


@pytest.mark.parametrize("family", TINY)
def test_it_computes_in_bfloat16_with_float32_parameters(family):
    model = TINY[family][0].clone(dtype=jnp.bfloat16)
    out, made = jax.eval_shape(model.init_with_output, jax.random.key(0), IMAGES)
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype("float32")}
