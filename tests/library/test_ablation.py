"""One filter silenced: against one plain forward pass per filter, for what may follow a tap."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from delta_jax import attention, features, winograd
from delta_jax.ablation import Ablation
from delta_jax.models.inverted_residual import InvertedResidualNet
from delta_jax.models.resnet import ResNet
from tests import reference

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 9, 7, 3))
C = 6


class Net(nn.Module):
    """A convolution called `tap`, whatever `behind` names, and a linear head."""

    behind: str
    pooled: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(C, (3, 3), name="tap")(x)
        x = BEHIND[self.behind](x)
        x = jnp.mean(x, (1, 2)) if self.pooled else x.reshape(len(x), -1)
        return nn.Dense(3, name="head")(x)


def standardized(x, axes):
    return jax.nn.standardize(x, axis=axes)


def squeeze_and_excite(x):
    return x * nn.sigmoid(nn.Dense(C)(jnp.mean(x, (1, 2), keepdims=True)))


def inception(x):
    """The tap's channels lie behind 4 others, and in front of more."""
    other = nn.Conv(4, (1, 1))(jnp.tanh(lax.stop_gradient(x[:, :, :, :1] * 0 + 1)))
    return nn.Conv(5, (3, 3))(jnp.concatenate([other, nn.relu(x), other], -1))


def two_branches(x):
    """A residual block: the tap on the way around and in the branch."""
    return nn.relu(x + nn.Conv(C, (3, 3))(nn.relu(nn.Conv(4, (1, 1))(x))))


class Cell(nn.Module):
    @nn.compact
    def __call__(self, carry, _):
        return jnp.tanh(nn.Dense(C)(carry)), None


def recurrent(x):
    return nn.scan(Cell, variable_broadcast="params", split_rngs={"params": False}, length=3)()(x, None)[0]


def attended(x):
    return nn.MultiHeadDotProductAttention(num_heads=2)(x.reshape(len(x), -1, C)).reshape(x.shape)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Conv(C, (3, 3))(nn.gelu(x))


def transposed(x):
    """Channels first in between, as in code that came from torch."""
    x = jnp.transpose(nn.relu(x), (0, 3, 1, 2))
    x = lax.reduce_window(x, 0.0, lax.add, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    kernel = jnp.asarray(np.random.default_rng(1).standard_normal((4, C, 3, 2)), x.dtype)
    x = lax.conv_general_dilated(x, kernel, (1, 1), ((1, 0), (0, 2)), rhs_dilation=(1, 2))
    return jnp.moveaxis(x, 1, -1)


def moved_about(x):
    """Operations that leave the channels alone: flips, padding, slices, a long image, a maximum, a minimum."""
    x = jnp.pad(x[:, ::-1, 1:], ((0, 0), (1, 2), (0, 0), (0, 0)), constant_values=0.5)
    x = jnp.clip(x.reshape(len(x), -1, 1, C), -0.7, 0.8).squeeze(2)
    x = jnp.concatenate([x, x[:, :3] ** 2], 1) - jnp.max(x, 1, keepdims=True)
    return nn.Conv(5, (3,))(x)[:, :, None]


BEHIND = {
    "nothing": lambda x: x,
    "pooling": lambda x: nn.max_pool(nn.relu(x), (3, 3), (2, 2), "SAME"),
    "convolution": lambda x: nn.Conv(5, (3, 3), (2, 2))(nn.relu(nn.BatchNorm(use_running_average=True)(x))),
    "wide convolution": lambda x: nn.Conv(5, (8, 8), padding="SAME")(x),  # more positions than are unrolled
    "1x1 convolution": lambda x: nn.Conv(5, (1, 1))(nn.relu(x)),
    "matrix product": lambda x: jnp.tanh(nn.Dense(5)(x)),
    "depthwise": lambda x: nn.Conv(4, (1, 1))(jnp.sin(nn.Conv(C, (3, 3), feature_group_count=C)(x))),
    "two for each": lambda x: jnp.sin(nn.Conv(2 * C, (3, 3), feature_group_count=C)(x)),
    "grouped": lambda x: jnp.sin(nn.Conv(4, (3, 3), feature_group_count=2)(x)),
    "dilated": lambda x: jnp.sin(nn.Conv(4, (2, 3), kernel_dilation=(1, 2), padding=((2, 1), (0, 3)))(x)),
    "upsampled": lambda x: jnp.sin(nn.ConvTranspose(4, (3, 3), (2, 2))(x)),
    "layer norm": lambda x: jnp.sin(standardized(x, (-1,))),  # flax's own mixes float64 with float32
    "group norm": lambda x: jnp.sin(standardized(x.reshape(*x.shape[:3], 2, -1), (1, 2, 4))).reshape(x.shape),
    "squeeze and excite": squeeze_and_excite,
    "inception": inception,
    "residual": two_branches,
    "rematerialized": lambda x: nn.remat(Block)()(x),
    "scan": recurrent,
    "attention": attended,
    "channels first": transposed,
    "moved about": moved_about,
    "channels mixed at last": lambda x: jnp.cumsum(jnp.sort(x, -1), -1),
}


def one_forward_per_filter(model, variables, x, y, filters, dtype):
    """Eq. 6 before the softmax, by flax alone: {tap: [B, n]} for n filters of each tap."""

    @jax.jit
    def losses(variables, x, keep):
        def interceptor(call, args, keywords, context):
            out, path = call(*args, **keywords), "/".join(context.module.path)
            return out * keep[path][None, None, None] if path in keep else out

        with nn.intercept_methods(interceptor):
            logits = jax.nn.log_softmax(model.apply(variables, x))
        return -jnp.take_along_axis(logits, y[:, None], 1)[:, 0]

    shapes = features.list_taps(model, variables, x)
    whole = {tap: np.ones(shapes[tap][-1], dtype) for tap in filters}
    base = losses(variables, x, whole)

    def gap(tap, j):
        others = (np.arange(len(whole[tap])) != j).astype(dtype)
        return losses(variables, x, whole | {tap: others}) - base

    return {tap: np.stack([gap(tap, j) for j in chosen], 1) for tap, chosen in filters.items()}


@pytest.mark.parametrize(
    ("behind", "pooled"), [*((name, True) for name in BEHIND), ("nothing", False), ("pooling", False)]
)
def test_gaps_are_those_of_one_forward_pass_per_filter(behind, pooled):
    with jax.enable_x64(True):
        model, x, y = Net(behind, pooled), jnp.asarray(X), jnp.array([0, 2])
        variables = reference.random_variables(model, jnp.asarray(X, jnp.float32))
        variables = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables)
        expected = one_forward_per_filter(model, variables, x, y, {"tap": range(C)}, np.float64)["tap"]
        found = attention.filter_gaps(model, variables, x, y, taps=("tap",), chunk=4)["tap"]
        assert np.abs(expected).max() > 1e-4
        np.testing.assert_allclose(found, expected, atol=1e-12)


# Short networks of the two families, and a tap that has a block behind it; gaps of whole ones are compared with
# PyTorch's in test_golden_method.py.
SHORT = {
    "resnet": (ResNet((1, 1, 1, 1), False, num_classes=7), (33, 31), "layer3_0/conv2"),
    "inverted residuals": (
        InvertedResidualNet(((1, 16, 1, 1, 3), (6, 24, 2, 2, 5)), 33, num_classes=7),
        (33, 61),
        "block_1/project_conv",
    ),
}


@pytest.mark.parametrize("family", SHORT)
def test_gaps_of_the_networks_here_at_odd_sizes_in_both_precisions(family):
    """In float64 to the last digits; in float32, where 3x3 convolutions are Winograd's, as near as plain passes."""
    model, size, tap = SHORT[family]
    x, y = np.random.default_rng(1).standard_normal((2, *size, 3)), jnp.array([3, 6])
    narrow_x, filters = jnp.asarray(x, jnp.float32), {tap: [0, 11, 15]}
    variables = reference.random_variables(model, narrow_x)
    narrow = attention.filter_gaps(model, variables, narrow_x, y, taps=(tap,), filters=filters)[tap]
    plain = one_forward_per_filter(model, variables, narrow_x, y, filters, np.float32)[tap]
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
        found = attention.filter_gaps(model, wide, jnp.asarray(x), y, taps=(tap,), filters=filters)[tap]
        expected = one_forward_per_filter(model, wide, jnp.asarray(x), y, filters, np.float64)[tap]
    assert np.abs(expected).max() > 1e-5
    np.testing.assert_allclose(found, expected, atol=1e-11)
    np.testing.assert_allclose(narrow, expected, atol=max(1e-6, 2 * np.abs(plain - expected).max()))


def primitives(jaxpr):
    found = set()
    for equation in jaxpr.eqns:
        found.add(equation.primitive.name)
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                found |= primitives(inner) if hasattr(inner, "eqns") else set()
    return found


def ablation_of(behind, maps, pooled=True):
    model = Net(behind, pooled)
    variables = reference.random_variables(model, jnp.asarray(X, jnp.float32))
    prefix = features.Prefix(model, variables, jnp.asarray(X[:1], jnp.float32))
    return Ablation(partial(prefix.continue_from, "tap"), maps)


MAPS = jnp.asarray(RNG.standard_normal((1, 9, 7, C)), jnp.float32)


@pytest.mark.parametrize(
    ("behind", "closed"), [("nothing", True), ("pooling", True), ("convolution", True), ("residual", False)]
)
def test_no_matrix_product_is_left_where_there_is_a_closed_form(behind, closed):
    """One convolution and a mean are linear, but the head is a second matrix product behind the convolution."""
    found = primitives(jax.make_jaxpr(ablation_of(behind, MAPS).without)(0).jaxpr)
    assert "conv_general_dilated" not in found or behind == "residual"
    if behind in ("nothing", "pooling"):
        assert "dot_general" not in found
    assert ablation_of(behind, MAPS).has_closed_form == (behind in ("nothing", "pooling"))
    assert closed or "conv_general_dilated" in found


def test_a_filter_is_dead_where_nothing_behind_the_tap_depends_on_it():
    # ReLU makes negative maps 0; filter 4 is 0 already. Only 1 and 5 are positive anywhere.
    maps = -jnp.abs(MAPS).at[0, 3, 2, 1].set(-2.0).at[..., 4].set(0.0).at[0, 0, 0, 5].set(-0.1)
    np.testing.assert_array_equal(ablation_of("pooling", maps).live, [False, True, False, False, False, True])
    np.testing.assert_array_equal(ablation_of("nothing", maps).live, [True, True, True, True, False, True])


class Counted(nn.Module):
    """ReLU'd maps of which some are 0 in each image; every pass behind the second convolution is counted."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(C, (1, 1), name="tap")(x))
        x = nn.Conv(4, (3, 3))(x)
        jax.debug.callback(lambda _: CALLS.append(1), x[0, 0, 0, 0])
        return nn.Dense(3)(jnp.mean(jnp.sin(x), (1, 2)))


CALLS: list[int] = []


def test_dead_filters_cost_no_forward_pass():
    """Two of six filters are live in one image, one in the other; each has a pass of its own with chunk 1."""
    x = np.ones((2, 4, 4, 3), np.float32)
    x[1] = 0.25
    variables = reference.random_variables(Counted(), jnp.asarray(x))
    variables["params"]["tap"]["kernel"] = np.full((1, 1, 3, C), 1 / 3, np.float32)
    bias = [-5, -0.5, -5, -5, 0.1, -1]  # 1 - 0.5, 1 + 0.1; 0.25 + 0.1
    variables["params"]["tap"]["bias"] = np.array(bias, np.float32)
    y = jnp.array([0, 1])

    CALLS.clear()
    found = np.asarray(attention.filter_gaps(Counted(), variables, jnp.asarray(x), y, taps=("tap",), chunk=1)["tap"])
    jax.effects_barrier()
    assert len(CALLS) == 2 * 2 + 3  # with all filters, in front of the tap and behind it; and the three live ones
    assert (found[0] != 0).tolist() == [False, True, False, False, True, False]
    assert (found[1] != 0).tolist() == [False, False, False, False, True, False]


def test_a_model_that_returns_more_than_logits_is_refused():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(C, (3, 3), name="tap")(x)
            return jnp.mean(x, (1, 2)), x

    x = jnp.asarray(X, jnp.float32)
    variables = reference.random_variables(Two(), x)
    with pytest.raises(ValueError, match="the model returns 2 arrays, expected one: logits"):
        attention.filter_gaps(Two(), variables, x, jnp.array([0, 1]), taps=("tap",))


def test_a_tap_that_the_logits_do_not_depend_on_has_gaps_of_zero():
    class Side(nn.Module):
        @nn.compact
        def __call__(self, x):
            nn.Conv(C, (3, 3), name="tap")(x)
            return nn.Dense(3)(jnp.mean(x, (1, 2)))

    x = jnp.asarray(X, jnp.float32)
    variables = reference.random_variables(Side(), x)
    found = attention.filter_gaps(Side(), variables, x, jnp.array([0, 1]), taps=("tap",))
    np.testing.assert_array_equal(found["tap"], np.zeros((2, C)))


@pytest.mark.parametrize("size", [(6, 8), (7, 5), (1, 2)])
@pytest.mark.parametrize("padding", [((1, 1), (1, 1)), ((0, 2), (3, 1))])
def test_winograd_is_the_convolution(size, padding):
    x = RNG.standard_normal((2, *size, 32))
    kernel = RNG.standard_normal((3, 3, 32, 40)) / 17
    with jax.enable_x64(True):
        expected = lax.conv_general_dilated(
            jnp.asarray(x), jnp.asarray(kernel), (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    ours = jax.jit(lambda x, kernel: winograd.convolve(x, winograd.transform_kernel(kernel), padding))
    found = ours(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5)
