"""The library's layers against lax's convolution, lax's padding and flax's BatchNorm."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from delta_jax.models.layers.convolution import Conv
from delta_jax.models.layers.functional_convolution import depthwise_conv
from delta_jax.models.layers.normalization import BatchNorm
from delta_jax.models.layers.windows import same_padding

RNG = np.random.default_rng(0)


def _lax_conv(x, kernel, stride, padding, groups):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def _padding(kind, size, k, stride):
    edge = (k - 1) // 2
    return ((edge, edge), (edge, edge)) if kind == "torch" else same_padding(size, k, stride)


@partial(jax.jit, static_argnums=0)
def _value_and_gradients(f, x, kernel, cotangent):
    out, back = jax.vjp(f, x, kernel)
    return out, *back(cotangent.astype(out.dtype))


CASES = [  # stride, kernel, padding, size
    (1, 3, "torch", (7, 6)),
    (1, 5, "same", (5, 9)),
    (2, 3, "torch", (5, 9)),
    (2, 3, "torch", (8, 8)),
    (2, 3, "same", (7, 6)),
    (2, 5, "torch", (7, 6)),
    (2, 5, "same", (5, 8)),
]
EVERY_TYPE = ((1, 3), (2, 5))  # of stride and kernel; the others in float64


@pytest.mark.parametrize(("stride", "k", "kind", "size"), CASES)
def test_depthwise_conv_and_its_gradients(stride, k, kind, size):
    padding = _padding(kind, size, k, stride)
    x, kernel = RNG.standard_normal((2, *size, 4)), RNG.standard_normal((k, k, 1, 4))
    reference = lambda x, w: _lax_conv(x, w, stride, padding, 4)  # noqa: E731
    ours = lambda x, w: depthwise_conv(x, w, stride, padding)  # noqa: E731
    with jax.enable_x64(True):  # lax in float64 is the measure for every type
        wide = jnp.asarray(x), jnp.asarray(kernel)
        cotangent = jnp.asarray(RNG.standard_normal(reference(*wide).shape))
        # bfloat16: rounded inputs differ by 2^-9 each, sums have up to 25 (d kernel: 90) terms.
        types = ((jnp.float64, 1e-12), (jnp.float32, 1e-5), (jnp.bfloat16, 0.015))
        for dtype, tolerance in types if (stride, k) in EVERY_TYPE else types[:1]:
            low = [a.astype(dtype) for a in (*wide, cotangent)]
            expected = _value_and_gradients(reference, *(a.astype(jnp.float64) for a in low))
            found = _value_and_gradients(ours, *low)
            for one, other in zip(found, expected, strict=True):
                assert (one.dtype, one.shape) == (dtype, other.shape)
                np.testing.assert_allclose(one.astype(jnp.float64), other, atol=tolerance * np.abs(other).max(), rtol=0)


def test_depthwise_conv_under_jit_and_vmap():
    padding = ((1, 1), (1, 1))
    x = jnp.asarray(RNG.standard_normal((3, 2, 7, 6, 4)), jnp.float32)
    kernel = jnp.asarray(RNG.standard_normal((3, 3, 1, 4)), jnp.float32)
    kernels = jnp.asarray(RNG.standard_normal((3, 3, 3, 1, 4)), jnp.float32)
    loss = lambda f: lambda x, w: jnp.sum(jnp.sin(f(x, w)))  # noqa: E731
    ours, theirs = (
        loss(lambda x, w: depthwise_conv(x, w, 2, padding)),
        loss(lambda x, w: _lax_conv(x, w, 2, padding, 4)),
    )
    for axes, weights in (((0, None), kernel), ((0, 0), kernels)):
        found = jax.jit(jax.vmap(jax.value_and_grad(ours, (0, 1)), axes))(x, weights)
        pick = (lambda i, w=weights: w) if axes[1] is None else (lambda i, w=weights: w[i])
        plain = jax.jit(jax.value_and_grad(theirs, (0, 1)))
        expected = [plain(x[i], pick(i)) for i in range(3)]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *expected)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, stacked)


def test_depthwise_conv_with_its_batch_on_four_devices():
    mesh = Mesh(np.array(jax.devices()[:4]), ("batch",))
    x = jnp.asarray(RNG.standard_normal((8, 7, 6, 4)), jnp.float32)
    kernel = jnp.asarray(RNG.standard_normal((3, 3, 1, 4)), jnp.float32)
    padding = ((1, 1), (1, 1))
    gradients = jax.value_and_grad(lambda x, w: jnp.sum(jnp.sin(depthwise_conv(x, w, 2, padding))), (0, 1))
    plain = jax.value_and_grad(lambda x, w: jnp.sum(jnp.sin(_lax_conv(x, w, 2, padding, 4))), (0, 1))
    expected = jax.jit(plain)(x, kernel)
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("batch")))
    everywhere = jax.device_put(kernel, NamedSharding(mesh, PartitionSpec()))
    found = jax.jit(gradients)(sharded, everywhere)
    assert len(found[1][0].sharding.device_set) == 4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)


@pytest.mark.parametrize("n", range(1, 12))
def test_same_padding_is_laxs(n):
    for k in (1, 3, 5, 7):
        for stride in (1, 2, 3):
            expected = lax.padtype_to_pads((n, n + 1), (k, k), (stride, stride), "SAME")
            assert list(same_padding((n, n + 1), k, stride)) == [tuple(pair) for pair in expected]


@pytest.mark.parametrize(
    ("k", "stride", "padding"), [(1, 1, "torch"), (1, 2, "torch"), (1, 2, "same"), (3, 2, "same"), (7, 2, "torch")]
)
@pytest.mark.parametrize("size", [(7, 6), (5, 8)])
def test_a_convolution_is_laxs_at_every_kernel_stride_and_padding(k, stride, padding, size):
    x = jnp.asarray(RNG.standard_normal((2, *size, 3)), jnp.float32)
    kernel = jnp.asarray(RNG.standard_normal((k, k, 3, 5)), jnp.float32)
    pads = same_padding(size, k, stride) if padding == "same" else None
    layer = Conv(5, k, stride, pads)
    found: Any = layer.apply({"params": {"kernel": kernel}}, x)
    expected = _lax_conv(x, kernel, stride, "SAME" if padding == "same" else ((k // 2, k // 2),) * 2, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("k", "padding"), [((1, 7), ((0, 0), (3, 3))), ((7, 1), ((3, 3), (0, 0))), ((1, 1), ((0, 0),) * 2)]
)
def test_conv_with_an_oblong_kernel(k, padding):
    x = jnp.asarray(RNG.standard_normal((2, 7, 8, 3)), jnp.float32)
    kernel = jnp.asarray(RNG.standard_normal((*k, 3, 5)), jnp.float32)
    found: Any = Conv(5, k).apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(found, _lax_conv(x, kernel, 1, padding, 1), rtol=1e-4, atol=1e-5)


def test_conv_computes_in_its_dtype_and_keeps_float32_parameters():
    x = jnp.asarray(RNG.standard_normal((1, 4, 4, 3)), jnp.float32)
    layer = Conv(3, 3, depthwise=True, dtype=jnp.bfloat16)
    out, variables = layer.init_with_output(jax.random.key(0), x)
    assert (out.dtype, variables["params"]["kernel"].dtype) == (jnp.bfloat16, jnp.float32)


def test_a_depthwise_conv_has_as_many_filters_as_channels():
    with pytest.raises(ValueError, match="of 3 channels has 3 filters, not 6"):
        Conv(6, depthwise=True).init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))


def _batch_norm_variables():
    return {
        "params": {name: jnp.asarray(RNG.uniform(0.5, 2, 3), jnp.float32) for name in ("scale", "bias")},
        "batch_stats": {name: jnp.asarray(RNG.uniform(0.5, 2, 3), jnp.float32) for name in ("mean", "var")},
    }


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_and_its_gradients_are_flaxs(train):
    variables, x = _batch_norm_variables(), jnp.asarray(1 + 2 * RNG.standard_normal((4, 3, 2, 3)), jnp.float32)
    flax_layer = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-3)

    def ours(params, x):
        return BatchNorm(0.9, 1e-3).apply({**variables, "params": params}, x, train, mutable=["batch_stats"])

    def theirs(params, x):
        return flax_layer.apply({**variables, "params": params}, x, mutable=["batch_stats"])

    cotangent = jnp.asarray(RNG.standard_normal(x.shape), jnp.float32)

    def run(f):
        out, back, updated = jax.vjp(f, variables["params"], x, has_aux=True)
        return out, back(cotangent), updated

    found, expected = (jax.jit(run, static_argnums=0)(f) for f in (ours, theirs))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found[1], expected[1])
    stats = found[2]["batch_stats"]
    np.testing.assert_allclose(stats["mean"], expected[2]["batch_stats"]["mean"], rtol=1e-5)
    if train:
        # torch's rule by hand: the variance with n - 1 = 23 in the denominator. flax takes n.
        values = np.asarray(x, np.float64).reshape(-1, 3)
        by_hand = 0.9 * np.asarray(variables["batch_stats"]["var"]) + 0.1 * values.var(0, ddof=1)
        np.testing.assert_allclose(stats["var"], by_hand, rtol=1e-5)
        assert np.abs(stats["var"] / expected[2]["batch_stats"]["var"] - 1).min() > 1e-3
    else:
        np.testing.assert_array_equal(stats["var"], variables["batch_stats"]["var"])


def test_frozen_batch_norm_trains_as_it_predicts():
    variables, x = _batch_norm_variables(), jnp.asarray(RNG.standard_normal((4, 3)), jnp.float32)
    out, updated = BatchNorm(frozen=True).apply(variables, x, True, mutable=["batch_stats"])
    stats, params = ({n: np.asarray(v) for n, v in variables[c].items()} for c in ("batch_stats", "params"))
    expected = (np.asarray(x) - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])


def test_batch_norm_in_bfloat16_keeps_float32_statistics():
    variables, x = _batch_norm_variables(), jnp.asarray(100 + RNG.standard_normal((64, 3)), jnp.bfloat16)
    out, updated = BatchNorm(dtype=jnp.bfloat16).apply(variables, x, True, mutable=["batch_stats"])
    stats = updated["batch_stats"]
    assert (out.dtype, stats["mean"].dtype, stats["var"].dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    # The mean of the rounded inputs in float64; a mean in bfloat16 would be off by up to 0.25.
    exact = np.asarray(x, np.float64).mean(0)
    found = (stats["mean"] - 0.9 * variables["batch_stats"]["mean"]) / 0.1
    np.testing.assert_allclose(found, exact, atol=1e-3)


def test_a_batch_of_one_value_has_a_variance_of_zero():
    variables = _batch_norm_variables()
    _, updated = BatchNorm().apply(variables, jnp.ones((1, 3)), True, mutable=["batch_stats"])
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 * variables["batch_stats"]["var"], rtol=1e-6)
