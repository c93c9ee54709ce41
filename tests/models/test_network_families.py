"""Variants of ResNet, VGGs, AlexNet, DenseNets and RegNets: torch's numbers, and tiny ones of each kind at work."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from delta_jax import attention, features, models, regularizers
from delta_jax.models.densenet import DenseNet
from delta_jax.models.layers.functional_convolution import grouped_conv
from delta_jax.models.layers.pooling import adaptive_average_pool, average_pool_to_edge
from delta_jax.models.regnet import RegNet
from delta_jax.models.resnet import ResNet
from delta_jax.models.vgg import ALEXNET, VGG
from delta_jax.weights.name_tables import torch_names
from tests.golden import recipe
from tests.reference import cross_entropy, in_float64, random_variables, relative, variables

# tests/golden/FILE.npz: `timm.create_model(NAME)` (timm 1.0.31) or, of VGG, AlexNet and DenseNet,
# `torchvision.models.get_model(NAME)` (0.29.1), torch 2.14.1 on a CPU, float32, with the recipe's weights; the first 50
# logits and channels.
# vgg11_bn_gap: torchvision's vgg11_bn with avgpool = AdaptiveAvgPool2d(1), classifier = Linear(512, 1000).
GOLDEN = [
    ("resnet_variants", "seresnext26d_32x4d", "odd"),  # groups, squeeze and excitation, three convolutions in the stem
    ("resnet_variants", "resnet18d", "odd"),
    ("resnet_variants", "resnet18d", "even"),
    ("vgg", "alexnet", "odd"),
    ("vgg", "alexnet", "even"),
    ("vgg", "vgg11_bn_gap", "odd"),
    ("densenet", "densenet121", "odd"),
    ("regnet", "regnetx_002", "even"),
    ("regnet", "regnety_002", "odd"),
]
SIZES = {"odd": (97, 65), "even": (96, 96)}


@pytest.mark.parametrize(("file", "arch", "size"), GOLDEN)
def test_logits_and_taps_are_those_of_torch(file, arch, size, golden):
    expected, spec, model = golden(file), models.spec(arch), models.create(arch)
    images = recipe.images("delta", arch, size, 1, *SIZES[size])
    logits, maps = jax.jit(lambda v, x: features.apply_with_taps(model, v, x, spec.taps))(variables(arch), images)
    assert relative(logits[:, :50], expected[f"{arch}/{size}/logits"]) < 1e-5
    for tap in spec.taps:
        leaf = "scale" if tap == "norm5" else "kernel"
        (name,) = torch_names(spec, [("params", *tap.split("/"), leaf)])
        name = name.removesuffix(".weight")
        assert maps[tap].transpose(0, 3, 1, 2).shape == tuple(expected[f"{arch}/{size}/{name}/shape"])
        assert relative(maps[tap].mean((1, 2))[:, :50], expected[f"{arch}/{size}/{name}/mean_hw"]) < 1e-5


_STAGES = (((8, 3, 1, 1),), ((12, 3, 1, 1), (12, 3, 1, 1)))
_TINY_VGG = {"stages": _STAGES, "pooled": (True, True), "hidden": 16, "map_size": 3, "num_classes": 3}
TINY = {
    "resnext": (
        ResNet(*((1, 1, 0, 0), True, 3), groups=4, group_width=8, squeeze=True, stem=(4, 4, 8), average_shortcut=True),
        ("layer1_0/conv2", "layer2_0/conv3"),
    ),
    "wide": (ResNet((1, 0, 0, 0), True, 3, group_width=128), ("layer1_0/conv3",)),
    "vgg": (VGG(**_TINY_VGG, norm=True), ("conv1_1", "conv2_2")),
    "plain vgg": (VGG(**_TINY_VGG), ("conv1_1", "conv2_2")),
    "vgg without dense layers": (VGG(**{**_TINY_VGG, "hidden": 0}), ("conv2_2",)),
    "alexnet": (VGG(**{**ALEXNET, "stages": _STAGES, "pooled": (True, True), "hidden": 16}), ("conv2_2",)),
    "densenet": (DenseNet((1, 2, 1, 1), 8, 12, num_classes=3), ("transition2_conv", "norm5")),
    "regnetx": (RegNet((1, 1, 1, 1), (8, 12, 20, 24), 4, False, num_classes=3), ("s2_1/conv3", "s4_1/conv3")),
    "regnety": (RegNet((1, 1, 1, 1), (8, 12, 20, 24), 12, True, num_classes=3), ("s2_1/conv3", "s4_1/conv3")),
}
X = jnp.asarray(np.random.default_rng(0).standard_normal((4, 40, 36, 3)), jnp.float32)
Y = jnp.array([0, 2, 1, 2])


def _tiny(kind, **changed):
    model, taps = TINY[kind]
    model = model.clone(num_classes=3, **changed)
    return model, taps, random_variables(model, X)


@pytest.mark.parametrize("kind", TINY)
def test_gaps_are_those_of_a_loop(kind):
    """To ten digits: in float64 nothing is lost where the gap is the difference of two losses."""
    model, taps, v = _tiny(kind)
    chosen = {tap: [1, 3] for tap in taps}

    def logits_of(v, x, tap_keeps):
        def interceptor(call, args, keywords, context):
            out = call(*args, **keywords)
            path = "/".join(context.module.path)
            return out * tap_keeps[path] if path in tap_keeps and context.method_name == "__call__" else out

        with nn.intercept_methods(interceptor):
            return model.apply(v, x)

    widths = {tap: shape[-1] for tap, shape in features.list_taps(model, v, X).items() if tap in taps}
    whole = {tap: np.ones((1, 1, 1, width)) for tap, width in widths.items()}
    with jax.enable_x64(True):
        v, x = in_float64(v), in_float64(X)
        gaps = attention.filter_gaps(model, v, x, Y, taps=taps, filters=chosen)
        run = jax.jit(logits_of)
        before = cross_entropy(run(v, x, whole), Y)
        for tap in taps:
            without = [np.where(np.arange(widths[tap]) == number, 0.0, whole[tap]) for number in chosen[tap]]
            expected = [cross_entropy(run(v, x, {**whole, tap: keep}), Y) - before for keep in without]
            assert gaps[tap].dtype == np.float64
            assert np.abs(expected).max() > 1e-6
            np.testing.assert_allclose(gaps[tap], np.stack(expected, axis=-1), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["resnext", "plain vgg", "densenet", "regnety"])
def test_a_step_of_delta_with_dropout_and_activations_computed_again(kind):
    model, taps, v = _tiny(kind, dropout=0.5)
    source = {tap: 0.9 * maps for tap, maps in features.apply_with_taps(model, v, X, taps)[1].items()}

    def loss(params, key):
        logits, maps, updated = features.apply_with_taps(
            model, {**v, "params": params}, X, taps, mutable=("batch_stats",), train=True, rngs={"dropout": key}
        )
        weights = {tap: jnp.ones(maps[tap].shape[-1]) / maps[tap].shape[-1] for tap in taps}
        distance = regularizers.feature_distance(maps, source, weights)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, Y) + distance), updated

    again = jax.checkpoint(loss, policy=models.keep_products_and_sums)
    both = jax.jit(lambda params, key: [jax.value_and_grad(f, has_aux=True)(params, key) for f in (loss, again)])
    ((value, updated), gradients), ((_, _), recomputed) = both(v["params"], jax.random.key(1))
    other = both(v["params"], jax.random.key(2))[0][0][0]
    assert np.isfinite(value)
    assert value != other  # dropout draws anew
    assert jax.tree.structure(updated.get("batch_stats", {})) == jax.tree.structure(v.get("batch_stats", {}))
    for a, b in zip(jax.tree.leaves(recomputed), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("kind", TINY)
def test_bfloat16_and_frozen_statistics(kind):
    model, _, v = _tiny(kind, frozen_norm=True)
    narrow = model.clone(dtype=jnp.bfloat16)

    @jax.jit
    def run(v):
        return model.apply(v, X), *model.apply(v, X, train=True, mutable=["batch_stats"]), narrow.apply(v, X)

    evaluated, trained, updated, rounded = run(v)
    np.testing.assert_array_equal(trained, evaluated)
    jax.tree.map(np.testing.assert_array_equal, updated.get("batch_stats", {}), v.get("batch_stats", {}))
    assert rounded.dtype == jnp.bfloat16
    assert relative(rounded.astype(jnp.float32), evaluated) < 0.1


@pytest.mark.parametrize(("groups", "channels", "features", "stride"), [(3, 4, 2, 1), (17, 3, 3, 2), (2, 40, 8, 1)])
def test_convolutions_in_groups_and_their_gradients(groups, channels, features, stride):
    """Against numpy: one convolution of each group, position by position."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 6, 5, groups * channels))
    kernel = rng.standard_normal((3, 3, channels, groups * features))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = (6 - 1) // stride + 1, (5 - 1) // stride + 1
    expected = np.zeros((2, height, width, groups * features))
    cotangent = rng.standard_normal(expected.shape)
    d_padded, d_kernel = np.zeros_like(padded), np.zeros_like(kernel)
    for group in range(groups):
        read, made = slice(group * channels, (group + 1) * channels), slice(group * features, (group + 1) * features)
        for i in range(height):
            for j in range(width):
                place = slice(None), slice(i * stride, i * stride + 3), slice(j * stride, j * stride + 3), read
                expected[:, i, j, made] = np.einsum("bhwc,hwcf->bf", padded[place], kernel[..., made])
                d_padded[place] += np.einsum("bf,hwcf->bhwc", cotangent[:, i, j, made], kernel[..., made])
                d_kernel[..., made] += np.einsum("bhwc,bf->hwcf", padded[place], cotangent[:, i, j, made])

    @jax.jit
    def run(x, kernel, cotangent):
        found, backward = jax.vjp(lambda x, kernel: grouped_conv(x, kernel, stride, ((1, 1), (1, 1))), x, kernel)
        return found, *backward(cotangent)

    found = run(*(a.astype(np.float32) for a in (x, kernel, cotangent)))
    for ours, theirs in zip(found, (expected, d_padded[:, 1:-1, 1:-1], d_kernel), strict=True):
        assert relative(ours, theirs) < 1e-5


def test_poolings_at_odd_sizes():
    x = np.random.default_rng(0).standard_normal((2, 7, 4, 3)).astype(np.float32)
    expected = [[x[:, i : i + 2, j : j + 2].mean((1, 2)) for j in (0, 2)] for i in (0, 2, 4, 6)]
    np.testing.assert_allclose(average_pool_to_edge(x, 2, 2), np.array(expected).transpose(2, 0, 1, 3), rtol=1e-5)
    # torch's AdaptiveAvgPool2d: from floor(i n / size) to ceil((i + 1) n / size); 7 in 3 parts, and 4.
    ends = [(0, 3), (2, 5), (4, 7)], [(0, 2), (1, 3), (2, 4)]
    expected = [[x[:, a:b, c:d].mean((1, 2)) for c, d in ends[1]] for a, b in ends[0]]
    np.testing.assert_allclose(
        adaptive_average_pool(jnp.asarray(x), 3), np.array(expected).transpose(2, 0, 1, 3), rtol=1e-5
    )
    enlarged = adaptive_average_pool(jnp.asarray(x[:, :1, :1]), 2)
    np.testing.assert_array_equal(enlarged, np.broadcast_to(x[:, :1, :1], (2, 2, 2, 3)))


@pytest.mark.parametrize(("arch", "size"), [("densenet121", 28), ("vgg11_gap", 31), ("alexnet", 62)])
def test_images_of_which_no_map_is_left_are_refused(arch, size):
    model = models.create(arch)

    def init(size):
        return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))

    init(size + 1)
    with pytest.raises(ValueError, match=f"images of {size}x{size} are too small"):
        init(size)
