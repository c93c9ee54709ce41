"""The training step as arithmetic: microbatches, recomputed blocks, frozen stages, precision of its layers."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import FrozenConfigDict

from delta_jax import features, methods, regularizers
from delta_jax.models.layers.normalization import BatchNorm
from delta_jax.processes import sharding
from delta_jax.training import checks, steps
from delta_jax.training import config as configs
from delta_jax.training.optim import make_optimizer
from delta_jax.training.state import init_state

RNG = np.random.default_rng(0)
BATCH = {
    "image": jnp.asarray(RNG.standard_normal((8, 8, 8, 3)), jnp.float32),
    "label": jnp.asarray(RNG.integers(0, 3, 8)),
    "index": jnp.arange(8)[::-1],
}


class Block(nn.Module):
    frozen: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x, train):
        y = nn.tanh(
            BatchNorm(frozen=self.frozen, name="bn")(nn.Conv(4, (3, 3), dtype=self.dtype, name="one")(x), train)
        )
        return nn.Conv(4, (3, 3), dtype=self.dtype, name="two")(y) + jnp.mean(x, -1, keepdims=True)


class Net(nn.Module):
    frozen: bool = False
    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x, train=False):
        x = BatchNorm(frozen=self.frozen, name="bn")(nn.Conv(4, (3, 3), dtype=self.dtype, name="stem")(x), train)
        for i in range(2):
            x = Block(self.frozen, self.dtype, name=f"block_{i}")(nn.relu(x), train)
        x = nn.Dropout(self.dropout, deterministic=not train)(jnp.mean(x, (1, 2)))
        return nn.Dense(3, dtype=self.dtype, name="head")(x)


TAPS = ("block_0", "block_1/two")  # a whole block, and a layer inside of one


@pytest.fixture(scope="module")
def start():
    """(variables at the start, those of the source)."""
    made = [jax.jit(Net().init)(jax.random.key(seed), BATCH["image"]) for seed in (0, 1)]
    return made[0], {**made[1], "batch_stats": jax.tree.map(lambda leaf: leaf + 0.3, made[1]["batch_stats"])}


def step_of(start, *, model=None, method="delta_without_attention", taps=TAPS, accumulate=1, loss_options=None, **tx):
    """(jitted step, optimizer)."""
    model = model or Net()
    optimizer = make_optimizer(start[0]["params"], optax.constant_schedule(0.1), head="head", **tx)
    chosen = methods.create(method)
    loss = steps.make_loss(model, model, chosen, taps=taps, head="head", alpha=0.3, beta=0.2, **(loss_options or {}))
    step = steps.make_train_step(loss, optimizer, lambda key, images: images, accumulate=accumulate)
    return jax.jit(step), optimizer


def run(start, *, attention=None, batch=BATCH, **options):
    step, optimizer = step_of(start, **options)
    return step(init_state(start[0], optimizer), start[1], batch, attention, jax.random.key(7))


def close(found, expected, rtol=1e-5, atol=1e-6):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=atol), found, expected)


# Microbatches.


# With the statistics of the source a batch is the sum of its parts; of the two taps one has a weight of its own for
# every example.
FROZEN = {"model": Net(frozen=True), "method": "delta"}
ATTENTION = {
    tap: jnp.asarray(RNG.uniform(0, 1, shape), jnp.float32) for tap, shape in zip(TAPS, [(4,), (8, 4)], strict=True)
}


@pytest.fixture(scope="module")
def whole(start):
    """(state, metrics) after a step on the batch as a whole."""
    return run(start, attention=ATTENTION, **FROZEN)


def test_microbatches_of_frozen_statistics_are_the_whole_batch(start, whole):
    state, metrics = run(start, attention=ATTENTION, accumulate=4, **FROZEN)
    close(state.variables, whole[0].variables)
    close(metrics, whole[1])


@pytest.fixture(scope="module")
def in_two_parts():
    """(state, metrics) after a step on two microbatches, of a loss whose key and running mean can be seen."""

    def loss(params, batch_stats, source, images, labels, attention, dropout_key, *_):
        drawn = jax.random.normal(dropout_key) * jnp.where(labels[0] == 0, 1.0, -1.0)  # of the second part with a minus
        running = 0.9 * batch_stats["mean"] + 0.1 * jnp.mean(images)
        return jnp.sum(params["w"]), ({"drawn": drawn}, {"mean": running})

    optimizer = optax.sgd(0.1)
    step = jax.jit(steps.make_train_step(loss, optimizer, lambda key, images: images, accumulate=2))
    state = init_state({"params": {"w": np.zeros(3, np.float32)}, "batch_stats": {"mean": np.float32(5)}}, optimizer)
    batch = {**BATCH, "label": np.arange(8) % 2}  # every second example: see make_train_step
    return step(state, {}, batch, None, jax.random.key(7))


def test_batch_statistics_are_those_of_each_microbatch_in_order(in_two_parts):
    running = 5.0
    for part in (BATCH["image"][0::2], BATCH["image"][1::2]):
        running = 0.9 * running + 0.1 * np.asarray(part).mean()
    np.testing.assert_allclose(in_two_parts[0].batch_stats["mean"], running, rtol=1e-6)


def test_microbatches_have_dropout_of_their_own(in_two_parts):
    assert in_two_parts[1]["drawn"] != 0  # the difference of two numbers, from the same key the same


def test_a_split_batch_gives_each_device_its_part_of_every_microbatch(start, whole):
    mesh = sharding.make_mesh()
    step, optimizer = step_of(start, accumulate=2, **FROZEN)
    state, source, weights = sharding.replicate((init_state(start[0], optimizer), start[1], ATTENTION), mesh)
    arguments = (state, source, sharding.split(BATCH, mesh), weights, jax.random.key(7))
    compiled = step.lower(*arguments).compile()
    assert "all-to-all" not in compiled.as_text()
    assert "collective-permute" not in compiled.as_text()
    close(compiled(*arguments)[0].params, whole[0].params)


@pytest.mark.parametrize(("batch_size", "accumulate", "hint"), [(24, 4, "batch_size=16"), (8, 3, "batch_size=12")])
def test_a_batch_that_does_not_divide_is_refused(batch_size, accumulate, hint):
    config: Any = FrozenConfigDict(
        {"batch_size": batch_size, "eval_batch_size": 8, "attention_batch": 8, "accumulate": accumulate}
    )
    with pytest.raises(configs.ConfigError, match=f"accumulate={accumulate}: .* 4 devices; try --config.{hint}"):
        checks.batches_divide(config, sharding.make_mesh())


# Blocks that are computed again.


def test_blocks_are_the_smallest_modules_of_two_layers(start):
    assert features.blocks(start[0]["params"]) == ("block_0", "block_1")
    assert features.blocks({"conv": {"kernel": 0}, "head": {"kernel": 0}}) == ()  # the model itself is none


def test_recomputed_blocks_give_the_same_numbers_and_maps(start):
    blocks = features.blocks(start[0]["params"])
    options = {"model": Net(dropout=0.5), "momentum": 0.0}
    plain, expected = run(start, **options)
    state, metrics = run(start, loss_options={"recompute": blocks}, **options)
    close(state.variables, plain.variables, rtol=1e-6)
    close(metrics, expected, rtol=1e-6)


def test_of_recomputed_blocks_little_is_kept_for_the_gradient(start):
    def kept(recompute):
        loss = steps.make_loss(
            Net(), Net(), methods.create("l2"), taps=(), head="head", alpha=0.0, beta=0.0, recompute=recompute
        )
        variables, source = start

        def backward(params):
            return jax.vjp(
                lambda p: loss(
                    p, variables["batch_stats"], source, BATCH["image"], BATCH["label"], None, jax.random.key(0)
                ),
                params,
                has_aux=True,
            )[1]

        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(backward, variables["params"])))

    # Of a block [8, 8, 8, 4]: its input, instead of that and what its layers and their activations return.
    one_map = BATCH["image"].size // 3 * 4
    assert kept(()) - kept(features.blocks(start[0]["params"])) > 2 * 2 * one_map


# Frozen stages.


def frozen_loss(params, start, source_stem):
    """The loss of delta_without_attention at block_1/two, with stem and block_0 those of the source."""
    variables, source = start
    x = source_stem

    class Rest(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = Block(name="block_1")(nn.relu(x), train)
            return nn.Dense(3, name="head")(jnp.mean(x, (1, 2)))

    def maps_of(variables, train):
        stats = {"block_1": variables["batch_stats"]["block_1"]}
        out, state = Rest().apply(
            {"params": {name: variables["params"][name] for name in ("block_1", "head")}, "batch_stats": stats},
            x,
            train=train,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=True,
        )
        return out, state["intermediates"]["block_1"]["two"]["__call__"][0]

    logits, maps = maps_of({**variables, "params": params}, True)
    _, theirs = maps_of(source, False)
    cross_entropy = jnp.mean(jax.nn.logsumexp(logits, 1) - logits[jnp.arange(8), BATCH["label"]])
    distance = jnp.mean(jnp.sum((jax.nn.relu(maps) - jax.nn.relu(theirs)) ** 2, (1, 2, 3)))
    return cross_entropy + 0.3 * distance + 0.1 * sum(jnp.sum(leaf**2) for leaf in params["head"].values())


def test_frozen_stages_are_the_sources_and_the_rest_is_trained(start):
    variables, source = start
    _, maps = jax.jit(lambda source: features.apply_with_taps(Net(), source, BATCH["image"], ("block_0",)))(source)
    value, gradient = jax.jit(jax.value_and_grad(frozen_loss))(variables["params"], start, maps["block_0"])
    frozen = ("bn", "block_0", "stem")
    state, metrics = run(
        start,
        taps=("block_1/two",),
        loss_options={"freeze_until": "block_0"},
        frozen=frozen,
        weight_decay=0.5,
        clip_norm=1e9,
    )
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    for name in ("block_1", "head"):
        expected = jax.tree.map(lambda p, g: p - 0.1 * (g + 0.5 * p), variables["params"][name], gradient[name])
        close(state.params[name], expected, rtol=1e-4)
    for name in frozen:
        jax.tree.map(np.testing.assert_array_equal, state.params[name], variables["params"][name])
    for name in ("bn", "block_0"):
        jax.tree.map(np.testing.assert_array_equal, state.batch_stats[name], variables["batch_stats"][name])
    assert np.any(state.batch_stats["block_1"]["bn"]["mean"] != variables["batch_stats"]["block_1"]["bn"]["mean"])
    momenta = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state))
    trained = sum(leaf.size for name in ("block_1", "head") for leaf in jax.tree.leaves(variables["params"][name]))
    assert momenta <= trained + 1  # and the count of steps


@pytest.mark.parametrize(("method", "share"), [("delta_without_attention", 0.6), ("l2", 0.62)])
def test_frozen_stages_are_computed_once_and_have_no_backward_pass(start, method, share):
    def flops(**options):
        step, optimizer = step_of(start, method=method, taps=("block_1/two",), **options)
        state = init_state(start[0], optimizer)
        compiled = step.lower(state, start[1], BATCH, None, jax.random.key(0)).compile()
        return compiled.cost_analysis()["flops"]

    assert flops(loss_options={"freeze_until": "block_0"}, frozen=("stem", "bn", "block_0")) < share * flops()


def test_what_is_frozen_with_a_module_is_all_that_runs_before_it(start):
    def frozen(until, model=None, variables=None):
        config: Any = FrozenConfigDict({"freeze_until": until, "data": {"crop": 8}})
        return checks.frozen_modules(config, model or Net(), variables or start[1], ("head",))

    assert frozen("") == ()
    assert frozen("stem") == ("stem",)
    assert frozen("block_1/bn") == ("block_0", "block_1/bn", "block_1/one", "bn", "stem")
    with pytest.raises(
        configs.ConfigError,
        match=r"freeze_until: expected the path .*no tap called 'block1'.* did you mean block_0, block_1",
    ):
        frozen("block1")
    with pytest.raises(configs.ConfigError, match="freeze_until=head: the head head would be frozen"):
        frozen("head")

    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            shared = nn.Conv(3, (1, 1), name="shared")
            x = nn.Conv(3, (3, 3), name="conv")(shared(shared(x)))
            return nn.Dense(3, name="head")(jnp.mean(x, (1, 2)))

    variables = jax.eval_shape(Twice().init, jax.random.key(0), BATCH["image"])
    with pytest.raises(configs.ConfigError, match="shared runs before conv and cannot be replayed"):
        frozen("conv", Twice(), variables)


def test_frozen_taps_are_left_out_and_some_have_to_stay():
    config: Any = FrozenConfigDict({"freeze_until": "stage_1", "taps": ("stage_1/conv", "stage_10/conv")})
    assert checks.taps_outside(config, ("stage_1",)) == ("stage_10/conv",)
    with pytest.raises(configs.ConfigError, match="all taps, stage_1/conv, stage_10/conv, are frozen"):
        checks.taps_outside(config, ("stage_1", "stage_10"))


# bfloat16.


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def test_only_the_layers_compute_in_bfloat16(start):
    step, optimizer = step_of(start, model=Net(dtype=jnp.bfloat16), taps=TAPS, weight_decay=0.1)
    state = init_state(start[0], optimizer)
    traced = jax.make_jaxpr(step)(state, start[1], BATCH, None, jax.random.key(0))
    convolutions = [e for e in equations(traced.jaxpr) if e.primitive.name == "conv_general_dilated"]
    assert len(convolutions) > 2 * 5  # of both networks, and the gradients
    assert {v.aval.dtype for e in convolutions for v in e.invars} == {jnp.dtype(jnp.bfloat16)}
    after, metrics = step(state, start[1], BATCH, None, jax.random.key(0))
    kept = [leaf for leaf in jax.tree.leaves((after, metrics)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert {leaf.dtype for leaf in kept} == {jnp.dtype(jnp.float32)}


def test_distances_of_bfloat16_maps_are_summed_in_float32():
    maps = {"tap": jnp.ones((2, 64, 64, 3), jnp.bfloat16)}
    zeros = jax.tree.map(jnp.zeros_like, maps)
    found = regularizers.feature_distance(maps, zeros, {"tap": jnp.ones(3, jnp.float32)})
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, [3 * 64 * 64] * 2)  # bfloat16 counts ones to 256


# The loop and the program of a run.
