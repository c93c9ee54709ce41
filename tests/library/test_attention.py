"""Gaps against one plain forward pass per filter."""

import functools
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from delta_jax import attention
from delta_jax.chips import target
from delta_jax.chips.target import Target
from tests.linear_logits import gaps_by_linear_logits
from tests.reference import random_variables

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((4, 5, 6, 3)), jnp.float32)
Y = jnp.array([0, 2, 1, 2])
TAPS = ("first", "block/second")


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + jnp.sin(nn.Conv(6, (3, 3), name="second")(x))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, scale=1.0):
        x = jnp.tanh(nn.Conv(6, (3, 3), name="first")(x))
        x = jnp.tanh(Inner(name="block")(x))
        return scale * nn.Dense(3, name="head")(jnp.mean(x, (1, 2)))


@pytest.fixture
def variables():
    return VARIABLES


def _cross_entropy(logits, labels):
    """-log softmax at the label, by scipy."""
    logits = np.asarray(logits, np.float64)
    return scipy.special.logsumexp(logits, axis=-1) - logits[np.arange(len(labels)), labels]


VARIABLES = random_variables(Net(), X)


@partial(jax.jit, static_argnames="tap")
def _forward(variables, x, keep, tap, scale):
    """Flax alone, with the tap's filters multiplied by `keep` [1, 1, 1, 6]."""

    def interceptor(call, args, keywords, context):
        out = call(*args, **keywords)
        return out * keep if "/".join(context.module.path) == tap else out

    with nn.intercept_methods(interceptor):
        return Net().apply(variables, x, scale)


@functools.cache
def _loop(tap, scale=1.0):
    """Eq. 6 before the softmax: one forward pass of flax per filter."""
    forward = lambda keep: _forward(VARIABLES, X, keep, tap, np.float32(scale))  # noqa: E731
    base = _cross_entropy(forward(np.ones((1, 1, 1, 6), np.float32)), Y)
    without = [forward((np.arange(6) != j).astype(np.float32)[None, None, None]) for j in range(6)]
    return np.stack([_cross_entropy(logits, Y) - base for logits in without], axis=1)


@pytest.mark.parametrize("chunk", [1, 4, 6, 100])
def test_exact_gaps_are_one_forward_pass_per_filter(variables, chunk):
    found = attention.filter_gaps(Net(), variables, X, Y, taps=TAPS, chunk=chunk)
    assert tuple(found) == TAPS
    for tap in TAPS:
        assert found[tap].shape == (4, 6)
        np.testing.assert_allclose(found[tap], _loop(tap), atol=1e-6)  # gaps up to 0.1, losses about 1


def test_gaps_of_chosen_filters(variables):
    chosen = {"first": (5, 0), "block/second": [3]}
    found = attention.filter_gaps(Net(), variables, X, Y, taps=TAPS, filters=chosen)
    np.testing.assert_allclose(found["first"], _loop("first")[:, [5, 0]], atol=1e-6)
    np.testing.assert_allclose(found["block/second"], _loop("block/second")[:, [3]], atol=1e-6)


def test_gaps_of_chosen_filters_for_each_image_its_own(variables):
    chosen = {"first": np.array([[0, 1], [5, 2], [3, 3], [4, 0]])}
    found = attention.filter_gaps(Net(), variables, X, Y, taps=("first",), filters=chosen)["first"]
    np.testing.assert_allclose(found, np.take_along_axis(_loop("first"), chosen["first"], 1), atol=1e-6)


def test_gaps_of_images_that_the_network_is_sure_of_are_more_than_rounding(variables):
    """Losses of 1e-9 and gaps below: in float32 the difference of two losses is 0 or 1e-7. Against float64."""
    jax.config.update("jax_disable_most_optimizations", False)  # without them the label's logit is not exactly itself
    kwargs = {"scale": 100.0}
    y = jnp.argmax(Net().apply(variables, X), -1)
    found = attention.filter_gaps(Net(), variables, X, y, taps=("first",), apply_kwargs=kwargs)["first"]
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), variables)
        x = jnp.asarray(np.asarray(X, np.float64))
        run = partial(attention.filter_gaps, Net(), wide, x, y, taps=("first",), apply_kwargs=kwargs)
        expected = np.asarray(run()["first"])
        # The plain difference of losses, in float64: right to 1e-13, which is all there is to compare with.
        masks = [_forward(wide, x, (np.arange(6) != j)[None, None, None] + 0.0, "first", 100.0) for j in range(6)]
        base = _forward(wide, x, np.ones((1, 1, 1, 6)), "first", 100.0)
        plain = np.stack([_cross_entropy(logits, y) - _cross_entropy(base, y) for logits in masks], 1)
    np.testing.assert_allclose(expected, plain, atol=1e-13)
    small = (np.abs(expected) > 1e-11) & (np.abs(expected) < 1e-7)
    assert small.any()
    np.testing.assert_allclose(found[small], expected[small], rtol=1e-2)


def test_chosen_filters_may_be_traced(variables):
    def run(numbers):
        return attention.filter_gaps(Net(), variables, X, Y, taps=("first",), filters={"first": numbers})["first"]

    np.testing.assert_allclose(jax.jit(run)(jnp.array([4, 1])), _loop("first")[:, [4, 1]], atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 64])
def test_mixed_is_exact_for_the_filters_with_the_largest_estimates(variables, count):
    """The taps have 6 filters; behind the second one comes a nonlinearity and a head that is linear: a closed form."""
    run = partial(attention.filter_gaps, Net(), variables, X, Y, taps=TAPS)
    exact, estimated = run(), run(estimator="linear_logits", classes=2)
    found = run(estimator="mixed", exact_filters=count)
    expected = np.array(estimated["first"])
    for image, estimates in enumerate(estimated["first"]):
        largest = np.argsort(-np.abs(np.asarray(estimates)))[:count]
        expected[image, largest] = exact["first"][image, largest]
    np.testing.assert_allclose(found["first"], expected, atol=1e-6)
    np.testing.assert_allclose(found["block/second"], exact["block/second"], atol=1e-6)
    assert np.abs(exact["first"] - estimated["first"]).max() > 1e-3


def test_arguments_reach_the_model(variables):
    found = attention.filter_gaps(Net(), variables, X, Y, taps=("first",), apply_kwargs={"scale": 3.0})
    np.testing.assert_allclose(found["first"], _loop("first", scale=3.0), atol=2e-6)


def test_first_order_is_minus_gradient_times_map(variables):
    """The derivative of each image's loss along the direction in which one filter fades, by central differences."""
    found = attention.filter_gaps(Net(), variables, X, Y, taps=TAPS, estimator="first_order")
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), variables)
        x = jnp.asarray(np.asarray(X, np.float64))

        def loss(tap, keep):
            return _cross_entropy(_forward(wide, x, keep, tap, np.float64(1)), Y)

        for tap in TAPS:
            for j in (0, 4):
                fade = 1e-4 * np.eye(6)[j][None, None, None]
                slope = (loss(tap, 1 - fade) - loss(tap, 1 + fade)) / 2e-4
                np.testing.assert_allclose(found[tap][:, j], slope, atol=1e-6)


class ManyClasses(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = jnp.tanh(nn.Conv(6, (3, 3), name="first")(x))
        x = jnp.tanh(nn.Conv(5, (3, 3), strides=2)(x))
        return 9 * nn.Dense(7, name="head")(jnp.mean(x, (1, 2)))


@pytest.mark.parametrize("classes", [2, 3, 5, 7, 10])
def test_linear_logits_are_those_of_a_jacobian(classes):
    """In float64: logits change by minus their derivative to a factor on each filter, taken by jax.jacrev of flax."""
    variables = random_variables(ManyClasses(), X)
    with jax.enable_x64(True):
        x = jnp.asarray(np.asarray(X, np.float64))
        variables = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), variables)

        def logits(keep):
            def interceptor(call, args, keywords, context):
                out = call(*args, **keywords)
                return out * keep[None, None, None] if context.module.name == "first" else out

            with nn.intercept_methods(interceptor):
                return ManyClasses().apply(variables, x)

        keep = jnp.ones(6, jnp.float64)
        z, slopes = np.asarray(logits(keep)), np.asarray(jax.jacrev(logits)(keep))  # [4, 7], [4, 7, 6]
        expected = [gaps_by_linear_logits(*one, classes) for one in zip(z, -slopes, np.asarray(Y), strict=True)]
        run = partial(attention.filter_gaps, ManyClasses(), variables, x, Y, taps=("first",))
        found = run(estimator="linear_logits", classes=classes)["first"]
        np.testing.assert_allclose(found, np.stack(expected), rtol=1e-9, atol=1e-12)
        first_order = run(estimator="first_order")["first"]
    assert np.abs(found - first_order).max() > 1e-2


class Linear(nn.Module):
    """Logits that are linear in the maps of both taps; with one huge logit that is never the label, so is the loss.

    log-sum-exp is then that logit itself, which does not depend on the maps: CE = huge - logit of the label.
    """

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), name="first")(x)
        x = nn.Conv(5, (1, 1), name="second")(x)
        logits = nn.Dense(3, name="head")(jnp.mean(x, (1, 2)))
        return jnp.concatenate([logits, jnp.full((len(x), 1), 100.0)], axis=1)


@pytest.mark.parametrize("tap", ["first", "second"])
def test_exact_and_first_order_agree_where_the_loss_is_linear(tap):
    variables = random_variables(Linear(), X)
    run = partial(attention.filter_gaps, Linear(), variables, X, Y, taps=(tap,))
    # The loss is about 100, and one last bit of it 8e-6.
    np.testing.assert_allclose(run()[tap], run(estimator="first_order")[tap], atol=2e-5)
    assert np.abs(run()[tap]).max() > 1e-2


@pytest.mark.parametrize("tap", ["first", "second"])
def test_linear_logits_are_exact_where_the_logits_are_linear(tap):
    variables = random_variables(Linear(), X)
    variables["params"]["head"]["kernel"] *= 30.0  # so that the loss is far from linear
    run = partial(attention.filter_gaps, Linear(), variables, X, Y, taps=(tap,))
    exact = run()[tap]
    np.testing.assert_allclose(run(estimator="linear_logits")[tap], exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimator": "second_order"}, "estimator 'second_order' is not one of"),
        ({"estimator": "first_order", "filters": {"first": [0]}}, "filters can be chosen for the exact estimator only"),
        ({"filters": {"first": [0, 6]}}, r"first has filters 0 to 5, not \[6\]"),
        ({"filters": {"first": [-1]}}, r"first has filters 0 to 5, not \[-1\]"),
        ({"filters": {"first": []}}, "at least one number for each of the taps"),
        ({"filters": {"last": [0]}}, "at least one number for each of the taps"),
        ({"filters": {"first": [0]}, "estimator": "mixed"}, "filters can be chosen for the exact estimator only"),
        ({"chunk": 0}, "chunk 0 is not a number of filters"),
        ({"exact_filters": -1, "estimator": "mixed"}, "exact_filters -1 is not a number of filters"),
        ({"classes": 1, "estimator": "linear_logits"}, "classes 1 is not a number of classes; take 2 or more"),
        ({"taps": ("frist",)}, "no tap called 'frist' in the network; did you mean .*first"),
        (
            {"taps": ("frist",), "estimator": "first_order"},
            "no tap called 'frist' in the network; did you mean .*first",
        ),
    ],
)
def test_what_cannot_be_asked_for(variables, arguments, message):
    with pytest.raises(ValueError, match=message):
        attention.filter_gaps(Net(), variables, X, Y, **({"taps": ("first",)} | arguments))


def test_a_whole_batch_is_its_images_one_by_one(variables):
    # Gaps are per image: cut into batches of 1 they are the same.
    together = attention.filter_gaps(Net(), variables, X, Y, taps=("first",))["first"]
    alone = [
        attention.filter_gaps(Net(), variables, X[i : i + 1], Y[i : i + 1], taps=("first",))["first"] for i in (0, 3)
    ]
    np.testing.assert_allclose(together[jnp.array([0, 3])], jnp.concatenate(alone), atol=1e-6)


class Deep(nn.Module):
    """Four blocks that are alike, but for their weights."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 3), name="first")(x)
        for n in range(4):
            x = x + jnp.tanh(nn.Conv(6, (3, 3), name=f"block_{n}")(x))
        return nn.Dense(3, name="head")(jnp.mean(x, (1, 2)))


@pytest.mark.parametrize("estimator", attention.ESTIMATORS)
def test_what_is_traced_for_a_tpu_has_the_same_gaps(estimator):
    """There the blocks that a network repeats are a loop, so the program has fewer convolutions."""
    variables = random_variables(Deep(), X)

    def gaps(x):
        taps = ("first", "block_3")
        return attention.filter_gaps(Deep(), variables, x, Y, taps=taps, estimator=estimator, exact_filters=2)

    here, convolutions = jax.jit(gaps)(X), str(jax.make_jaxpr(gaps)(X)).count("conv_general_dilated[")
    with target.compiling_for(Target("tpu", 16_000_000_000)):
        there, fewer = jax.jit(gaps)(X), str(jax.make_jaxpr(gaps)(X)).count("conv_general_dilated[")
    assert fewer < convolutions
    for tap, found in here.items():
        np.testing.assert_allclose(there[tap], found, atol=1e-6)  # gaps up to 0.1, losses about 1
