"""Taps of Linen models that the library does not know: read, changed and continued from, against plain flax."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delta_jax import features
from delta_jax.models.inverted_residual import InvertedResidualNet
from delta_jax.models.resnet import ResNet

X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 7, 6, 3)), jnp.float32)
conv = partial(nn.Conv, 4, (3, 3))


class Block(nn.Module):
    """Residual block with the GroupNorm and LayerNorm that batch-free networks have."""

    @nn.compact
    def __call__(self, x):
        y = jnp.tanh(nn.GroupNorm(2, name="group_norm")(conv(name="conv1")(x)))
        return x + nn.LayerNorm(name="layer_norm")(conv(name="conv2")(y))


class Net(nn.Module):
    """stem, any middle, last convolution, head: `middle` is called within the compact method."""

    middle: Any

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, name="norm")(conv(name="stem")(x))
        x = self.middle(x)
        x = jnp.tanh(conv(name="last")(jnp.tanh(x)))  # smooth, so that every filter shows in the output
        return nn.Dense(5, name="head")(jnp.mean(x, (1, 2)))


class Twice(nn.Module):
    """One module for two steps."""

    @nn.compact
    def __call__(self, x):
        shared = Block(name="shared")
        return conv(name="after")(shared(jnp.sin(shared(x))))


class OtherMethods(nn.Module):
    """Children called from methods other than __call__, some of them after this module's own __call__ has finished."""

    def setup(self):
        self.down, self.up, self.mix = conv(), conv(), conv()

    def encode(self, x):
        return nn.relu(self.down(x))

    def decode(self, x):
        return self.up(x)

    def __call__(self, x):
        return self.mix(x)


class Outside(nn.Module):
    @nn.compact
    def __call__(self, x):
        coder = OtherMethods(name="coder")
        return coder.decode(coder(coder.encode(x)))


class Wrap(nn.Module):
    inner: nn.Module

    @nn.compact
    def __call__(self, x):
        return self.inner(conv(name="own")(x))


class Given(nn.Module):
    """A module that runs inside another one than the one that owns it."""

    @nn.compact
    def __call__(self, x):
        return Wrap(Block(name="given"), name="wrap")(x) + x


class Several(nn.Module):
    """Outputs that are no single array: replayed where they hold arrays only, computed anew otherwise."""

    @nn.compact
    def __call__(self, x):
        a = conv(name="conv")(x)
        return {"maps": a, "more": (jnp.tanh(a), None)}


class Labelled(nn.Module):
    @nn.compact
    def __call__(self, x):
        return conv(name="conv")(x), "a text", 2


class Tuples(nn.Module):
    @nn.compact
    def __call__(self, x):
        maps, tanh = (several := Several(name="several")(x))["maps"], several["more"][0]
        again, _, times = Labelled(name="labelled")(maps)
        return conv(name="end")(sum([again] * times) * tanh)


class Base(nn.Module):
    @nn.compact
    def __call__(self, x):
        return conv(name="conv")(x)


class Derived(Base):
    """Its __call__ runs the one it overrides: two calls at one path."""

    @nn.compact
    def __call__(self, x):
        return 2 * super().__call__(x)


class Step(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.relu(conv(name="conv")(x)), None


class Scan(nn.Module):
    lifted: tuple[str, ...] = ("params",)

    @nn.compact
    def __call__(self, x):
        axes: Any = dict.fromkeys(self.lifted, 0) if self.lifted else {True: 0}
        scan = nn.scan(Step, variable_axes=axes, split_rngs={"params": True}, length=3)
        return scan(name="scan")(conv(name="first")(x), None)[0]


class VMap(nn.Module):
    lifted: tuple[str, ...] = ("params",)

    @nn.compact
    def __call__(self, x):
        axes: Any = dict.fromkeys(self.lifted, 0) if self.lifted else {True: 0}
        branches = nn.vmap(Block, variable_axes=axes, split_rngs={"params": True}, in_axes=None, axis_size=2)
        return jnp.sum(branches(name="branches")(conv(name="first")(x)), 0)


JitBlock = nn.jit(Block)  # one class for all, as a model's author would have it

MIDDLES = {
    "residual": lambda x: Block(name="block")(x),
    "nested": lambda x: nn.Sequential([Block(), nn.relu, Block()], name="blocks")(x),
    "shared": lambda x: Twice(name="twice")(x),
    "remat": lambda x: nn.remat(Block)(name="block")(nn.remat(Block)(name="block0")(x)),
    "other methods": lambda x: Outside(name="outside")(x),
    "given": lambda x: Given(name="middle")(x),
    "tuples": lambda x: Tuples(name="tuples")(x),
    "derived": lambda x: Derived(name="derived")(x),
    "scan": lambda x: Scan(name="loop")(x),
    "stacked scan": lambda x: Scan((), name="loop")(x),
    "vmap": lambda x: VMap(name="loop")(x),
    "stacked vmap": lambda x: VMap((), name="loop")(x),
    "jit": lambda x: JitBlock(name="block")(x),
}
# What can be a tap beside stem, norm, last and head; written down by hand from the classes above.
BLOCK = ("", "/conv1", "/conv2", "/group_norm", "/layer_norm")
TAPS = {
    "residual": [f"block{end}" for end in BLOCK],
    "nested": ["blocks", *(f"Block_{i}{end}" for i in (0, 1) for end in BLOCK)],
    "shared": ["twice", "twice/after"],
    "remat": [f"{block}{end}" for block in ("block", "block0") for end in BLOCK],
    "other methods": ["outside", "outside/coder", *(f"outside/coder/{name}" for name in ("down", "up", "mix"))],
    "given": ["middle", "middle/wrap", "middle/wrap/own", *(f"middle/given{end}" for end in BLOCK)],
    "tuples": ["tuples", "tuples/several/conv", "tuples/labelled/conv", "tuples/end"],
    "derived": ["derived/conv"],
    "scan": ["loop", "loop/first"],
    "stacked scan": ["loop", "loop/first"],
    "vmap": ["loop", "loop/first"],
    "stacked vmap": ["loop", "loop/first"],
    "jit": [f"block{end}" for end in BLOCK],
}


def _made(name: str) -> tuple[nn.Module, dict[str, Any]]:
    model = Net(MIDDLES[name])
    return model, _variables(model, X)


def _variables(model: nn.Module, x: jax.Array) -> dict[str, Any]:
    """Random numbers in the shapes of the model's variables: compiling `init` would take longer than the rest."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    values = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(-0.5, 0.5, leaf.shape), leaf.dtype), dict(shapes))
    positive = jax.tree.map(jnp.abs, values.get("batch_stats", {}))
    return {"params": values["params"], "batch_stats": positive}


def _plain(model, variables, tap, change, x=X):
    """One forward pass of flax with the tap's output changed; nothing of it is kept or replayed."""

    def interceptor(call, args, kwargs, context):
        out = call(*args, **kwargs)
        hit = context.method_name == "__call__" and context.module.path == tuple(tap.split("/"))
        return change(out) if hit else out

    with nn.intercept_methods(interceptor):
        return model.apply(variables, x)


@pytest.mark.parametrize("name", MIDDLES)
def test_list_taps_finds_what_runs_once_and_returns_one_array(name):
    found = features.list_taps(*_made(name), X)
    maps = (2, 7, 6, 4)
    assert found == dict.fromkeys(sorted(["stem", "norm", "last", *TAPS[name]]), maps) | {"head": (2, 5)}


def test_list_taps_computes_nothing():
    model, variables = _made("residual")
    shapes = jax.eval_shape(lambda: (variables, jnp.zeros((2, 9999, 9999, 3))))  # 1.2 GB a layer, were it computed
    assert features.list_taps(model, *shapes)["block/conv1"] == (2, 9999, 9999, 4)


@pytest.mark.parametrize("name", MIDDLES)
def test_prefix_continues_like_a_plain_forward_pass(name):
    """For every tap, one filter silenced in the replay and in flax's own pass. Same operations, so same bits."""
    model, variables = _made(name)
    prefix = features.Prefix(model, variables, X)
    # Without nn.jit bit for bit; with it, flax's own pass compiles the block as a whole, so fused in another way.
    same = np.testing.assert_array_equal
    if name == "jit":
        same = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    same(prefix.output, model.apply(variables, X))
    # Under nn.jit a plain pass would run the trace of the one before: there, the same module without it.
    plain = model if name != "jit" else _made("residual")[0]
    for number, tap in enumerate(["stem", *TAPS[name]]):
        silence = lambda maps, j=number % 4: maps.at[..., j].set(0.0)  # noqa: E731
        found = prefix.continue_from(tap, silence(prefix.feature_maps(tap)))
        expected = _plain(plain, variables, tap, silence)
        same(found, expected)
        assert np.abs(found - prefix.output).max() > 1e-4


# Short networks of the two families, and one tap in the middle.
SMALL = {
    "resnet": (ResNet((1, 1, 1, 1), True, num_classes=3), "layer2_0/conv3"),
    "inverted residuals": (
        InvertedResidualNet(((1, 16, 1, 1, 3), (6, 24, 2, 2, 5)), 33, num_classes=3),
        "block_1/project_conv",
    ),
}


@pytest.mark.parametrize("family", SMALL)
def test_prefix_of_a_network_at_odd_sizes(family):
    model, tap = SMALL[family]
    x = jax.random.normal(jax.random.key(0), (1, 35, 41, 3))
    variables = _variables(model, x)

    @jax.jit
    def both(variables, x):
        prefix = features.Prefix(model, variables, x)
        silence = lambda maps: maps.at[..., 1].set(0.0)  # noqa: E731
        replayed = prefix.continue_from(tap, silence(prefix.feature_maps(tap)))
        return prefix.output, replayed, _plain(model, variables, tap, silence, x)

    output, replayed, plain = both(variables, x)
    np.testing.assert_allclose(replayed, plain, rtol=1e-5)
    assert np.abs(plain / output - 1).max() > 1e-3


def test_prefix_does_not_compute_what_lies_before_the_tap():
    model, variables = _made("residual")
    prefix = features.Prefix(model, variables, X)
    count = lambda f, *args: str(jax.make_jaxpr(f)(*args)).count("conv_general_dilated")  # noqa: E731
    # Convolutions: stem, conv1, conv2, last. Behind conv1 come conv2 and last.
    assert count(lambda x: model.apply(variables, x), X) == 4
    assert count(lambda maps: prefix.continue_from("block/conv1", maps), prefix.feature_maps("block/conv1")) == 2


def test_a_module_under_nn_jit_is_not_run_from_an_old_trace():
    # nn.jit keeps its traces: the second tap must not be answered with the trace made for the first.
    model, variables = _made("jit")
    _, first = features.apply_with_taps(model, variables, X, ("block/conv1",))
    _, second = features.apply_with_taps(model, variables, X, ("block/conv2",))
    assert (first.keys(), second.keys()) == ({"block/conv1"}, {"block/conv2"})
    changed, _ = features.apply_with_changes(model, variables, X, {"block/conv1": jnp.zeros_like})
    np.testing.assert_allclose(
        changed, _plain(_made("residual")[0], variables, "block/conv1", jnp.zeros_like), rtol=1e-5, atol=1e-6
    )


def test_modules_that_share_a_trace_under_nn_jit_are_refused():
    model = Net(lambda x: JitBlock(name="block2")(JitBlock(name="block1")(x)))
    variables = _variables(model, X)
    assert set(features.list_taps(model, variables, X)) == {"stem", "norm", "last", "head"}
    prefix = features.Prefix(model, variables, X)
    np.testing.assert_allclose(prefix.output, model.apply(variables, X), rtol=1e-5, atol=1e-6)
    for tap in ("block1/conv1", "block2/conv1", "block2"):
        with pytest.raises(ValueError, match=rf"{tap}.* trace that nn.jit made for another.* take nn.jit out"):
            prefix.feature_maps(tap)


@pytest.mark.parametrize("mode", ["eager", "jit"])
def test_apply_with_taps_returns_what_flax_captures(mode):
    model, variables = _made("residual")
    taps = ("block/conv2", "stem")
    run = lambda v, x: features.apply_with_taps(model, v, x, taps)  # noqa: E731
    logits, maps = (jax.jit(run) if mode == "jit" else run)(variables, X)
    expected, state = model.apply(variables, X, capture_intermediates=True)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    assert tuple(maps) == taps
    found = state["intermediates"]
    np.testing.assert_allclose(maps["stem"], found["stem"]["__call__"][0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(maps["block/conv2"], found["block"]["conv2"]["__call__"][0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["residual", "remat"])
def test_gradients_flow_through_the_maps(name):
    model, variables = _made(name)

    def loss(variables):
        return jnp.sum(jnp.square(features.apply_with_taps(model, variables, X, ("block/conv1",))[1]["block/conv1"]))

    value, gradient = jax.jit(jax.value_and_grad(loss))(variables)
    gradient = gradient["params"]
    # The sum of squares is quadratic in the kernel and bias of conv1 together: <p, d loss/dp> = 2 * loss (Euler).
    conv1 = variables["params"]["block"]["conv1"]
    inner = sum(jnp.sum(conv1[leaf] * gradient["block"]["conv1"][leaf]) for leaf in ("kernel", "bias"))
    np.testing.assert_allclose(inner, 2 * value, rtol=1e-4)
    assert np.abs(gradient["stem"]["kernel"]).max() > 0
    np.testing.assert_array_equal(gradient["last"]["kernel"], np.zeros((3, 3, 4, 4)))


def test_training_updates_only_what_is_mutable():
    model, variables = _made("residual")
    run = partial(features.apply_with_taps, model, variables, X, ("stem",), train=True)
    _, maps, updated = run(mutable=("batch_stats",))
    # flax's BatchNorm with momentum 0.99.
    expected = 0.99 * variables["batch_stats"]["norm"]["mean"] + 0.01 * np.asarray(maps["stem"]).mean((0, 1, 2))
    np.testing.assert_allclose(updated["batch_stats"]["norm"]["mean"], expected, rtol=1e-4)
    assert set(updated) == {"batch_stats"}


def test_intermediates_left_in_the_variables_do_no_harm():
    model, variables = _made("residual")
    _, state = model.apply(variables, X, capture_intermediates=True)
    maps = features.apply_with_taps(model, {**variables, **state}, X, ("stem",))[1]
    np.testing.assert_array_equal(maps["stem"], state["intermediates"]["stem"]["__call__"][0])


WRONG = [
    ("residual", "block/conv3", "block/conv1, block/conv2"),
    ("residual", "blok/conv1", "block/conv1"),
    ("residual", "", "did you mean"),
    ("shared", "twice/shared", "twice"),
    ("shared", "twice/shared/conv1", "runs once"),
    ("tuples", "tuples/several", "returns an array"),
    ("tuples", "tuples/labelled", "returns an array"),
    ("derived", "derived", "runs once"),
    ("scan", "loop/scan/conv", "outside nn.scan"),
    ("stacked scan", "loop/scan/conv", "outside nn.scan"),
    ("vmap", "loop/branches/conv1", "nn.vmap"),
    ("stacked vmap", "loop/branches", "nn.vmap"),
]


@pytest.mark.parametrize(("name", "tap", "hint"), WRONG)
def test_what_cannot_be_a_tap_is_refused_everywhere(name, tap, hint):
    model, variables = _made(name)
    prefix = features.Prefix(model, variables, X)
    for attempt in (
        lambda: features.apply_with_taps(model, variables, X, ("stem", tap)),
        lambda: features.apply_with_changes(model, variables, X, {tap: jnp.zeros_like}),
        lambda: features.check_taps(model, variables, X, (tap,)),
        lambda: prefix.feature_maps(tap),
        lambda: prefix.continue_from(tap, X),
    ):
        with pytest.raises(ValueError, match=rf"no tap called '{tap}' in the network.*{hint}"):
            attempt()


def test_no_taps_at_all():
    model, variables = _made("residual")
    with pytest.raises(ValueError, match="no taps given in the network; did you mean block"):
        features.check_taps(model, variables, X, ())


class Slashes(nn.Module):
    """Modules whose own names hold a slash or a dot; `twice` gives two of them one path."""

    twice: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.relu(conv(name="stem/first")(x))
        x = nn.relu(conv(name="b.c")(x))
        if self.twice:
            x = SlashInside(name="stem")(x)
        return nn.Dense(3, name="head/last")(jnp.mean(x, (1, 2)))


class SlashInside(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(conv(name="first")(x))


def test_a_slash_in_a_name_is_no_step_of_a_path():
    model = Slashes()
    variables = _variables(model, X)
    assert list(features.list_taps(model, variables, X)) == ["b.c", "head/last", "stem/first"]
    captured = model.apply(variables, X, capture_intermediates=True)[1]["intermediates"]
    logits, maps = features.apply_with_taps(model, variables, X, ("stem/first", "b.c"))
    for tap in maps:
        np.testing.assert_array_equal(maps[tap], captured[tap]["__call__"][0])
    changed, _ = features.apply_with_changes(model, variables, X, {"stem/first": jnp.zeros_like})
    assert not np.allclose(changed, logits)
    prefix = features.Prefix(model, variables, X)
    np.testing.assert_array_equal(prefix.continue_from("stem/first", maps["stem/first"]), logits)
    np.testing.assert_array_equal(prefix.continue_from("stem/first", jnp.zeros_like(maps["stem/first"])), changed)
    frozen = prefix.outputs_until("b.c")
    assert list(frozen) == ["b.c", "stem/first"]
    np.testing.assert_array_equal(features.apply_with_taps(model, variables, X, (), replay=frozen)[0], logits)
    inputs = features.head_inputs(model, variables, X, "head/last")
    np.testing.assert_array_equal(inputs, jnp.mean(nn.relu(captured["b.c"]["__call__"][0]), (1, 2)))


def test_two_modules_of_one_path_are_told_apart_by_none():
    model = Slashes(twice=True)
    variables = _variables(model, X)
    assert list(features.list_taps(model, variables, X)) == ["b.c", "head/last", "stem"]
    prefix = features.Prefix(model, variables, X)
    for attempt in (
        lambda: features.apply_with_taps(model, variables, X, ("stem/first",)),
        lambda: features.apply_with_changes(model, variables, X, {"stem/first": jnp.zeros_like}),
        lambda: features.check_taps(model, variables, X, ("stem/first",)),
        lambda: prefix.continue_from("stem/first", X),
        lambda: prefix.outputs_until("b.c"),
    ):
        with pytest.raises(ValueError, match=r"two modules of the network are called 'stem/first'.* rename one"):
            attempt()
    # What lies before a tap is run again where its name does not tell which module's output it was.
    maps = prefix.feature_maps("b.c")
    np.testing.assert_array_equal(prefix.continue_from("b.c", maps), prefix.output)


class KeywordHead(nn.Module):
    """A head below another module, called with a keyword, and something behind it."""

    @nn.compact
    def __call__(self, x):
        x = jnp.mean(conv(name="body")(x), (1, 2))
        return nn.log_softmax(Inner(name="encoder")(x))


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(5, name="head")(inputs=nn.relu(x))


def test_head_inputs_are_what_the_head_multiplies():
    model, variables = _made("residual")
    found = jax.jit(lambda v, x: features.head_inputs(model, v, x, "head"))(variables, X)
    head = variables["params"]["head"]
    assert found.shape == (2, 4)
    logits: Any = model.apply(variables, X)
    np.testing.assert_allclose(found @ head["kernel"] + head["bias"][None], logits, atol=1e-5)

    model = KeywordHead()
    variables = _variables(model, X)
    found = features.head_inputs(model, variables, X, "encoder/head")
    body = variables["params"]["body"]
    maps: Any = nn.Conv(4, (3, 3)).apply({"params": body}, X)
    np.testing.assert_array_equal(found, nn.relu(jnp.mean(maps, (1, 2))))


def test_a_head_that_is_none_is_refused():
    model, variables = _made("residual")
    with pytest.raises(ValueError, match=r"no module 'fc' in the parameters; .*'head'"):
        features.head_inputs(model, variables, X, "fc")
    with pytest.raises(ValueError, match=r"'last' has to be a Dense layer .* given \(2, 7, 6, 4\)"):
        features.head_inputs(model, variables, X, "last")
    with pytest.raises(ValueError, match="'block' has to be a Dense layer"):
        features.head_inputs(model, variables, X, "block")
