"""Taps of models that are no Linen modules, marked by hand: against the same network as a loop of numpy in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from delta_jax import attention, features, regularizers
from tests.linear_logits import gaps_by_linear_logits

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 6, 5, 3))
Y = np.array([1, 0, 3])
C, K = 4, 5
PARAMS = {
    "stem": {"kernel": RNG.standard_normal((3, 3, 3, C)) / 3},
    "block": {"kernel": RNG.standard_normal((3, 3, C, C)) / 3},
    "fc": {"kernel": RNG.standard_normal((C, K)), "bias": RNG.standard_normal(K)},
}
STATS = {"norm": {"mean": RNG.standard_normal(C) / 3, "var": RNG.uniform(0.5, 2, C)}}
VARIABLES = {"params": PARAMS, "batch_stats": STATS}
TAPS = ("stem", "block/conv", "block")  # the second within jax.checkpoint within jax.jit


def plain(scales=None, x=X, until=None):
    """Logits [B, K] in numpy, the maps of each tap times scales[tap]; with `until` that tap's maps instead."""
    maps = {}

    def conv(x, kernel):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        rows, columns = x.shape[1:3]
        return sum(padded[:, i : i + rows, j : j + columns] @ kernel[i, j] for i in range(3) for j in range(3))

    def at(tap, y):
        maps[tap] = y * (scales or {}).get(tap, np.ones(C))
        return maps[tap]

    y = at("stem", conv(x, PARAMS["stem"]["kernel"]))
    y = np.maximum((y - STATS["norm"]["mean"]) / np.sqrt(STATS["norm"]["var"] + 1e-5), 0)
    y = at("block", y + np.tanh(at("block/conv", conv(y, PARAMS["block"]["kernel"]))))
    y = np.maximum(y, 0).mean((1, 2))
    return maps[until] if until else y @ PARAMS["fc"]["kernel"] + PARAMS["fc"]["bias"]


def plain_losses(scales=None):
    logits = plain(scales)
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(Y)), Y]


def without(j, size=1.0):
    scale = np.ones(C)
    scale[j] -= size
    return scale


def conv(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@jax.jit
@jax.checkpoint
def residual(x, kernel):
    return x + jnp.tanh(features.tap(conv(x, kernel), "block/conv"))


def function(variables, x, train=False):
    params, stats = variables["params"], variables["batch_stats"]["norm"]
    y = features.tap(conv(x, params["stem"]["kernel"]), "stem")
    mean, var = (jnp.mean(y, (0, 1, 2)), jnp.var(y, (0, 1, 2))) if train else (stats["mean"], stats["var"])
    y = jax.nn.relu((y - mean[None, None, None]) / jnp.sqrt(var + 1e-5)[None, None, None])
    y = features.tap(residual(y, params["block"]["kernel"]), "block")
    y = jnp.mean(jax.nn.relu(y), (1, 2))
    return y @ params["fc"]["kernel"] + params["fc"]["bias"][None]


class Model:
    """An object with `init` and `apply`, as adapters of other frameworks are; the mean moves by a tenth in training."""

    def init(self, key, images):
        return VARIABLES

    def apply(self, variables, images, *, train=False, mutable=(), rngs=None):
        logits = function(variables, images, train)
        if not mutable:
            return logits
        norm = variables["batch_stats"]["norm"]
        y = features.tap(conv(images, variables["params"]["stem"]["kernel"]), "statistics") if train else None
        mean = norm["mean"] if y is None else 0.9 * norm["mean"] + 0.1 * jnp.mean(y, (0, 1, 2))
        return logits, {"batch_stats": {"norm": {**norm, "mean": mean}}}


def one_image(variables, image):
    """Channels first and without a batch, as Equinox has it; the head's kernel is [K, D]."""

    def conv_first(x, kernel):
        kernel = jnp.transpose(kernel, (3, 2, 0, 1))
        return lax.conv_general_dilated(x[None], kernel, (1, 1), "SAME")[0]

    def tap(x, name):
        return jnp.moveaxis(features.tap(jnp.moveaxis(x, 0, -1), name), -1, 0)

    params, stats = variables["params"], variables["batch_stats"]["norm"]
    y = tap(conv_first(jnp.moveaxis(image, -1, 0), params["stem"]["kernel"]), "stem")
    y = jax.nn.relu((y - stats["mean"][:, None, None]) / jnp.sqrt(stats["var"] + 1e-5)[:, None, None])
    block = lambda y: y + jnp.tanh(tap(conv_first(y, params["block"]["kernel"]), "block/conv"))  # noqa: E731
    y = jnp.mean(jax.nn.relu(tap(block(y), "block")), (1, 2))
    return features.tap(params["fc"]["kernel"].T @ y, "fc") + params["fc"]["bias"]


def vmapped(variables, images):
    return jax.vmap(one_image, (None, 0))(variables, images)


MODELS = {"function": function, "object": Model(), "vmapped": vmapped}


@pytest.fixture(params=MODELS)
def model(request):
    with jax.enable_x64(True):
        yield MODELS[request.param]


def test_taps_are_listed_and_read(model):
    found = features.list_taps(model, VARIABLES, X)
    assert {tap: found[tap] for tap in TAPS} == dict.fromkeys(TAPS, (3, 6, 5, C))
    assert set(found) - set(TAPS) == ({"fc"} if model is vmapped else set())
    logits, maps = jax.jit(lambda v, x: features.apply_with_taps(model, v, x, TAPS))(VARIABLES, X)
    np.testing.assert_allclose(logits, plain(), atol=1e-12)
    for tap in TAPS:
        np.testing.assert_allclose(maps[tap], plain(until=tap), atol=1e-12)


def test_maps_are_changed_and_continued_from(model):
    prefix = features.Prefix(model, VARIABLES, X)
    for tap in TAPS:
        expected = plain({tap: without(2)})
        silence = lambda maps: maps * without(2)[None, None, None]  # noqa: E731
        logits, maps = features.apply_with_changes(model, VARIABLES, X, {tap: silence})
        np.testing.assert_allclose(logits, expected, atol=1e-12)
        np.testing.assert_allclose(maps[tap], plain({tap: without(2)}, until=tap), atol=1e-12)
        np.testing.assert_allclose(prefix.continue_from(tap, maps[tap]), expected, atol=1e-12)
    np.testing.assert_allclose(prefix.output, plain(), atol=1e-12)


def test_gaps_of_every_estimator(model):
    exact = {tap: np.stack([plain_losses({tap: without(j)}) - plain_losses() for j in range(C)], 1) for tap in TAPS}
    # The map times 1 - h and 1 + h: the derivative in the direction of its removal.
    slope = lambda tap, j, h=1e-5: plain_losses({tap: without(j, h)}) - plain_losses({tap: without(j, -h)})  # noqa: E731
    first = {tap: np.stack([slope(tap, j) / 2e-5 for j in range(C)], 1) for tap in TAPS}
    moved = lambda tap, j, h=1e-5: plain({tap: without(j, h)}) - plain({tap: without(j, -h)})  # noqa: E731
    changes = {tap: np.stack([moved(tap, j) / 2e-5 for j in range(C)], -1) for tap in TAPS}
    linear, rough = (
        {
            tap: np.stack([gaps_by_linear_logits(*one, classes) for one in zip(plain(), changes[tap], Y, strict=True)])
            for tap in TAPS
        }
        for classes in (10, 2)
    )
    # Of each image the filter with the largest estimate is exact; where no convolution follows, all are.
    largest = np.arange(C) == np.abs(rough["stem"]).argmax(1)[:, None]
    mixed = exact | {"stem": np.where(largest, exact["stem"], rough["stem"])}
    expected = {"exact": (exact, 1e-12), "first_order": (first, 1e-9)}
    expected |= {"linear_logits": (linear, 1e-9), "mixed": (mixed, 1e-9)}
    assert set(expected) == set(attention.ESTIMATORS)
    for estimator, (gaps, tolerance) in expected.items():
        found = attention.filter_gaps(
            model, VARIABLES, X, jnp.asarray(Y), taps=TAPS, estimator=estimator, exact_filters=1
        )
        for tap in TAPS:
            assert np.abs(gaps[tap]).max() > 1e-3
            np.testing.assert_allclose(found[tap], gaps[tap], atol=tolerance, err_msg=f"{estimator} {tap}")


def test_head_inputs_and_distances(model):
    pooled = np.maximum(plain(until="block"), 0).mean((1, 2))
    np.testing.assert_allclose(features.head_inputs(model, VARIABLES, X, "fc"), pooled, atol=1e-12)
    np.testing.assert_allclose(features.head_inputs(model, VARIABLES, X, "fc/kernel"), pooled, atol=1e-12)
    weights = {"stem": RNG.uniform(size=C)}
    _, maps = features.apply_with_taps(model, VARIABLES, X, ("stem",))
    _, others = features.apply_with_taps(model, VARIABLES, X + 0.1, ("stem",))
    expected = (weights["stem"] * (plain(until="stem") - plain(until="stem", x=X + 0.1)) ** 2).sum((1, 2, 3))
    found = regularizers.feature_distance(maps, others, jax.tree.map(jnp.asarray, weights))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_what_is_frozen_is_replayed_without_a_gradient(model):
    frozen = features.Prefix(model, VARIABLES, X).outputs_until("stem")
    assert list(frozen) == ["stem"]

    def loss(variables):
        return jnp.sum(features.apply_with_taps(model, variables, X, ("block",), replay=frozen)[0])

    gradient = jax.grad(loss)(VARIABLES)["params"]
    whole = jax.grad(lambda variables: jnp.sum(features.caller(model)(variables, X)))(VARIABLES)["params"]
    assert not np.any(gradient["stem"]["kernel"])
    for name in ("block", "fc"):
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-12), gradient[name], whole[name])


def test_the_batch_axis_of_a_tap_is_the_first():
    """jax.vmap puts it last for a matrix times each image's vector; here both axes are as long."""
    w, x = RNG.standard_normal((3, 7)), RNG.standard_normal((3, 7))
    model = lambda w, x: jax.vmap(lambda x: jnp.tanh(features.tap(w @ x, "fc")))(x)  # noqa: E731
    np.testing.assert_allclose(features.apply_with_taps(model, w, x, ("fc",))[1]["fc"], x @ w.T, rtol=1e-5)
    np.testing.assert_allclose(model(w, x), np.tanh(x @ w.T), rtol=1e-5)


def test_statistics_in_front_of_what_is_replayed_stay():
    class Norms:
        def apply(self, variables, x, *, mutable=()):
            updated = {}
            for name in ("one", "two", "three"):
                x = jnp.sin(x * variables["params"][name]["scale"])
                updated[name] = {"mean": 0.9 * variables["batch_stats"][name]["mean"] + 0.1 * jnp.mean(x)}
                x = features.tap(x, name)
            return (x, {"batch_stats": updated}) if mutable else x

    names = ("one", "two", "three")
    variables = {
        "params": {name: {"scale": jnp.float32(n + 1)} for n, name in enumerate(names)},
        "batch_stats": {name: {"mean": jnp.float32(n)} for n, name in enumerate(names)},
    }
    frozen = features.Prefix(Norms(), variables, X).outputs_until("two")
    assert list(frozen) == ["one", "two"]
    _, plainly = Norms().apply(variables, jnp.asarray(X, jnp.float32), mutable=("batch_stats",))
    run = partial(features.apply_with_taps, Norms(), variables, jnp.asarray(X, jnp.float32), ("three",))
    _, _, updated = run(mutable=("batch_stats",), replay=frozen)
    assert [float(updated["batch_stats"][name]["mean"]) for name in names[:2]] == [0.0, 1.0]
    np.testing.assert_allclose(updated["batch_stats"]["three"]["mean"], plainly["batch_stats"]["three"]["mean"])


def chain(x, name):
    return features.tap(jnp.sin(x), name)


ONCE = lambda w, x: chain(x, "layer/one") * w  # noqa: E731
UNREACHABLE = {
    "twice": (lambda w, x: chain(chain(x, "one"), "one"), "'one' is reached 2 times"),
    "twice by jit": (lambda w, x: (f := jax.jit(lambda x: chain(x, "one")))(f(x)), "'one' is reached 2 times"),
    "scan": (
        lambda w, x: lax.scan(lambda x, _: (chain(x, "one"), None), x, None, 2)[0],
        "'one' is reached within scan",
    ),
    "while": (
        lambda w, x: lax.fori_loop(0, w.astype(int), lambda _, x: chain(x, "one"), x),
        "'one' is reached within while",
    ),
    "cond": (lambda w, x: lax.cond(w > 0, lambda x: chain(x, "one"), jnp.cos, x), "'one' is reached within cond"),
    "once and in a loop": (
        lambda w, x: lax.scan(lambda x, _: (chain(x, "one"), None), chain(x, "one"), None, 2)[0],
        "'one' is reached within scan",
    ),
    "no maps": (lambda w, x: features.tap(jnp.sum(x, (1, 2, 3)), "one") * w, r"'one' has the shape \(3,\)"),
    "no taps": (lambda w, x: x * w, "; it has none. A tap is"),
    "another name": (ONCE, r"did you mean layer/one\? A tap is an array \[B, ..., C\] that the model marks by"),
}


@pytest.mark.parametrize("case", UNREACHABLE)
def test_what_is_no_tap_says_why(case):
    model, hint = UNREACHABLE[case]
    w, x = jnp.float32(2), jnp.asarray(X, jnp.float32)
    prefix = features.Prefix(model, w, x)
    np.testing.assert_allclose(prefix.output, model(w, x), rtol=1e-6)
    for attempt in (
        lambda: features.apply_with_taps(model, w, x, ("one",)),
        lambda: features.apply_with_changes(model, w, x, {"one": jnp.zeros_like}),
        lambda: features.check_taps(model, w, x, ("one",)),
        lambda: prefix.continue_from("one", x),
    ):
        with pytest.raises(ValueError, match=f"no tap called 'one' in the network.*{hint}"):
            attempt()


def test_maps_of_another_shape_or_type_are_refused():
    x = jnp.asarray(X, jnp.bfloat16)
    half = lambda maps: maps[..., :1]  # noqa: E731
    with pytest.raises(ValueError, match=r"layer/one is to be bfloat16\[3, 6, 5, 1\], expected bfloat16\[3, 6, 5, 3\]"):
        features.apply_with_changes(ONCE, jnp.bfloat16(2), x, {"layer/one": half})
    with pytest.raises(ValueError, match="layer/one is to be float32"):
        features.Prefix(ONCE, jnp.bfloat16(2), x).continue_from("layer/one", jnp.zeros(x.shape, jnp.float32))


@jax.custom_vjp
def with_rule(x):
    return chain(x, "inside") * 2


with_rule.defvjp(lambda x: (with_rule(x), None), lambda _, g: (7 * g,))


def test_a_gradient_rule_is_kept_or_missed():
    """Its gradient is 7, whatever the function."""
    model = lambda w, x: with_rule(features.tap(x * w, "before"))  # noqa: E731
    w, x = jnp.float32(2), jnp.asarray(X, jnp.float32)
    gradient = jax.grad(lambda x: jnp.sum(features.apply_with_taps(model, w, x, ("before", "inside"))[0]))(x)
    np.testing.assert_array_equal(gradient, jnp.full(x.shape, 14.0))
    # The maps inside have the gradient of what made them.
    gradient = jax.grad(lambda x: jnp.sum(features.apply_with_taps(model, w, x, ("inside",))[1]["inside"]))(x)
    np.testing.assert_allclose(gradient, 2 * jnp.cos(2 * x), atol=1e-6)

    def change(x, tap, maps):
        return jnp.sum(features.apply_with_changes(model, w, x, {tap: lambda _: maps})[0])

    np.testing.assert_allclose(change(x, "inside", jnp.ones_like(x)), 2 * x.size)
    np.testing.assert_array_equal(jax.grad(change, 2)(x, "before", x), jnp.full(x.shape, 7.0))
    prefix = features.Prefix(model, w, x)
    np.testing.assert_allclose(prefix.continue_from("inside", x), 2 * x)
    for lost in (
        lambda maps: change(x, "inside", maps),
        lambda maps: jnp.sum(prefix.continue_from("inside", maps)),
    ):
        with pytest.raises(ValueError, match="inside lies within a function that has a gradient rule of its own"):
            jax.grad(lost)(x)


def test_a_checkpoint_with_a_tap_in_it_stays_one():
    run = lambda v, x: features.apply_with_taps(function, v, x, ("block/conv",))  # noqa: E731
    variables, x = jax.tree.map(partial(jnp.asarray, dtype=jnp.float32), (VARIABLES, X))
    inner = [e for e in jax.make_jaxpr(run)(variables, x).eqns if e.primitive.name in ("checkpoint", "remat2")]
    assert len(inner) == 1
    assert len(inner[0].outvars) == 2  # what the block returns, and the tap


@pytest.mark.parametrize(
    ("head", "hint"),
    [
        ("fcs", r"no module 'fcs' in the parameters; did you mean 'fc'\?"),
        ("stem", r"'stem' has to be a Dense layer that runs once, on features \[B, D\]; it was given \(3, 6, 5, 3\)"),
        ("fc/bias", "'fc/bias' has to be a Dense layer .* given nothing"),
    ],
)
def test_a_head_that_is_none_is_refused(head, hint):
    with pytest.raises(ValueError, match=hint):
        features.head_inputs(function, VARIABLES, X, head)


def test_the_inputs_of_a_head_in_bfloat16_are_those_before_it_rounds():
    def model(params, x):
        x = jnp.mean(features.tap(x, "x"), (1, 2))
        return x.astype(jnp.bfloat16) @ params["fc"].astype(jnp.bfloat16)

    x = jnp.asarray(X, jnp.float32)
    found = features.head_inputs(model, {"fc": jnp.ones((3, 2))}, x, "fc")
    np.testing.assert_array_equal(found, jnp.mean(x, (1, 2)))


def test_a_kernel_that_is_used_in_front_and_behind_cannot_be_frozen():
    def model(params, x):
        return features.tap(features.tap(x @ params["w"], "one") @ params["w"], "two") @ params["v"]

    params = {"w": jnp.eye(3), "v": jnp.eye(3)}
    prefix = features.Prefix(model, params, jnp.asarray(X, jnp.float32))
    with pytest.raises(ValueError, match="w runs before one and cannot be replayed"):
        prefix.outputs_until("one")
    assert list(prefix.outputs_until("two")) == ["one", "two"]
