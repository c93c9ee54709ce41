"""A step of the methods that DELTA is compared with: of a tiny model, on four devices, and by shapes alone."""

import functools
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from delta_jax import methods, models
from delta_jax.methods import Shapes
from delta_jax.models.layers.normalization import BatchNorm
from delta_jax.processes import sharding
from delta_jax.training import config as configs
from delta_jax.training import step_program, steps
from delta_jax.training.optim import make_optimizer
from delta_jax.training.programs import Programs
from delta_jax.training.state import init_state
from tests.small_network import NormedNet
from tests.small_rivals import RIVALS, rival_config

RNG = np.random.default_rng(0)
TAPS = ("conv",)
BATCH = {
    "image": jnp.asarray(RNG.standard_normal((8, 5, 6, 3)), jnp.float32),
    "label": jnp.asarray(RNG.integers(0, 3, 8)),
    "index": jnp.arange(8)[::-1],
}
ATTENTION = {"conv": jnp.asarray(RNG.uniform(0, 1, 4), jnp.float32)}
ALPHA, RATE = 0.3, 0.1


NET = NormedNet(4)


@pytest.fixture(scope="module")
def start():
    """(variables at the start, those of the source)."""
    init = jax.jit(NET.init)
    made = [init(jax.random.key(seed), BATCH["image"]) for seed in (0, 1)]
    return made[0], {**made[1], "batch_stats": jax.tree.map(lambda leaf: leaf + 0.3, made[1]["batch_stats"])}


HEAD = {"kernel": RNG.standard_normal((4, 6)).astype(np.float32), "bias": np.ones(6, np.float32)}
MEASURED = {
    "source_logits": RNG.standard_normal((8, 6)).astype(np.float32),
    "relationship": np.full((3, 6), 1 / 6, np.float32),
    "fisher": {"conv": {"kernel": RNG.uniform(0, 2, (3, 3, 3, 4)).astype(np.float32)}},
}


def made(start, method, **options):
    """(step, state, source)."""
    variables, source = start
    source = {**source, "measured": {name: MEASURED[name] for name in method.measures}}
    tx = make_optimizer(variables["params"], optax.constant_schedule(RATE), head="head")
    shapes = Shapes({"conv": (5, 6, 4)}, features=4, source_head=HEAD)
    own = method.own_parameters(jax.random.key(3), shapes)
    own_tx = own and make_optimizer(own, optax.constant_schedule(RATE), head=tuple(own))
    carried = None
    if method.carries:
        carried = method.first_buffers(jax.random.key(4), shapes, variables["params"], own, num_classes=3)
    loss = steps.make_loss(NET, NET, method, taps=TAPS, head="head", alpha=ALPHA, beta=0.0, **options)
    project = partial(method.project, head="head") if method.projects else None
    step = steps.make_train_step(loss, tx, lambda key, images: images, own_tx=own_tx, project=project)
    return jax.jit(step), init_state(variables, tx, own=own, own_tx=own_tx, carried=carried), source


def stepped(start, method, **options):
    """(state, metrics) after a step on one device."""
    step, state, source = made(start, method, **options)
    return step(state, source, BATCH, ATTENTION if method.uses_attention else None, jax.random.key(7))


@pytest.fixture(scope="module")
def once(start):
    """`stepped` of a method, which several tests look at."""
    return functools.cache(partial(stepped, start))


def close(found, expected, rtol=1e-4, atol=1e-6):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=atol), found, expected)


@jax.jit
def parts(params, stats):
    """(cross-entropy, maps, features) of the tiny model, its layers called one by one."""
    images: Any = BATCH["image"]
    maps: Any = nn.Conv(4, (3, 3)).apply({"params": params["conv"]}, images)
    normed: Any = BatchNorm().apply(
        {"params": params["bn"], "batch_stats": stats["bn"]}, maps, True, mutable=["batch_stats"]
    )[0]
    seen = jnp.mean(jnp.tanh(normed), (1, 2))
    logits = seen @ params["head"]["kernel"] + params["head"]["bias"][None]
    return jnp.mean(jax.nn.logsumexp(logits, 1) - logits[jnp.arange(8), BATCH["label"]]), maps, seen


def test_bss_shrinks_what_the_head_sees(start):
    # With jax's singular values, which are far apart here.
    def written_out(params):
        cross_entropy, _, seen = parts(params, start[0]["batch_stats"])
        return cross_entropy + ALPHA * jnp.sum(jnp.linalg.svd(seen, compute_uv=False)[-2:] ** 2)

    state, metrics = stepped(start, methods.create("bss", singular_values=2))
    value, gradient = jax.jit(jax.value_and_grad(written_out))(start[0]["params"])
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    close(state.params, jax.tree.map(lambda p, g: p - RATE * g, start[0]["params"], gradient))
    assert state.own is None


@pytest.mark.parametrize(
    "options", [{"keep": models.keep_products_and_sums}, {"freeze_until": "conv"}], ids=["recomputed", "frozen"]
)
def test_features_can_be_seen_of_a_pass_that_is_partly_recomputed_or_frozen(start, options):
    # The source's convolution is the one in training: what is frozen is then the same.
    variables, source = start
    alike = variables, {**source, "params": {**source["params"], "conv": variables["params"]["conv"]}}
    method = methods.create("bss", singular_values=2)
    close(stepped(alike, method, **options)[1], stepped(alike, method)[1])


def test_a_learned_attention_is_trained_along(start):
    method = methods.create("afd", rectify=False)
    own = method.own_parameters(jax.random.key(3), Shapes({"conv": (5, 6, 4)}, 4))["attention"]["conv"]
    _, source_maps, _ = parts(start[1]["params"], start[0]["batch_stats"])

    def written_out(params, own):
        cross_entropy, maps, _ = parts(params, start[0]["batch_stats"])
        flat = jnp.swapaxes(source_maps.reshape(8, 30, 4), 1, 2)
        weights = jax.nn.softmax(jnp.maximum(flat @ own["hidden"], 0) @ own["out"])
        distances = jnp.sum((maps - source_maps) ** 2, (1, 2))
        return cross_entropy + ALPHA * jnp.mean(jnp.sum(weights * distances, 1))

    state, metrics = stepped(start, method)
    value, (gradient, own_gradient) = jax.jit(jax.value_and_grad(written_out, (0, 1)))(start[0]["params"], own)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    close(state.params, jax.tree.map(lambda p, g: p - RATE * g, start[0]["params"], gradient))
    moved = jax.tree.map(lambda p, g: p - RATE * g, own, own_gradient)
    close(state.own["params"]["attention"]["conv"], moved)
    assert np.abs(own_gradient["out"]).max() > 1e-3


def test_the_sources_classifier_is_trained_along(start, once):
    # KL from what was recorded, at temperature 2; rows of the batch's index.
    def written_out(params, head):
        cross_entropy, _, seen = parts(params, start[0]["batch_stats"])
        ours = jax.nn.log_softmax((seen @ head["kernel"] + head["bias"][None]) / 2)
        theirs = jax.nn.softmax(jnp.asarray(MEASURED["source_logits"])[::-1] / 2)
        return cross_entropy + ALPHA * jnp.mean(jnp.sum(theirs * (jnp.log(theirs) - ours), 1))

    state, metrics = once(methods.create("lwf"))
    value, (gradient, own) = jax.jit(jax.value_and_grad(written_out, (0, 1)))(
        start[0]["params"], jax.tree.map(jnp.asarray, HEAD)
    )
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    close(state.params, jax.tree.map(lambda p, g: p - RATE * g, start[0]["params"], gradient))
    close(state.own["params"]["source_head"], jax.tree.map(lambda p, g: p - RATE * g, HEAD, own))


def test_bi_tuning_carries_queues_and_a_network_that_follows(start, once):
    state, metrics = once(methods.create("bi_tuning"))
    buffers = state.own["buffers"]
    # At first the network of keys is the one in training, and the view here is the same: a key is its own feature.
    _, _, seen = parts(start[0]["params"], start[0]["batch_stats"])
    with_one = np.concatenate([seen, np.ones((8, 1))], 1)
    with_one /= np.linalg.norm(with_one, axis=1, keepdims=True)
    counts = np.bincount(BATCH["label"], minlength=3)
    for label in range(3):
        own = with_one[np.asarray(BATCH["label"]) == label]
        np.testing.assert_allclose(buffers["queues"]["features"][label, : counts[label]], own, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(buffers["pointer"], counts)
    close(buffers["keys"]["network"], start[0]["params"])
    # The next step's keys follow: 0.999 of those before, 0.001 of those in training.
    method = methods.create("bi_tuning")
    after = method.key_parameters(state.params, state.own["params"], buffers)["network"]["conv"]["kernel"]
    expected = 0.999 * start[0]["params"]["conv"]["kernel"] + 0.001 * state.params["conv"]["kernel"]
    np.testing.assert_allclose(after, expected, rtol=1e-6)
    assert metrics["penalty"] > 0


def test_mars_sp_ends_every_step_within_its_radius(start):
    state, _ = stepped(start, methods.create("mars_sp", radius=0.05, head_radius=0.2))
    kernel, head = np.asarray(state.params["conv"]["kernel"]), np.asarray(state.params["head"]["kernel"])
    rows = np.abs(kernel - start[1]["params"]["conv"]["kernel"]).sum((0, 1, 2))
    np.testing.assert_allclose(rows, 0.05, rtol=1e-4)
    np.testing.assert_allclose(np.abs(head).sum(0), 0.2, rtol=1e-4)


@pytest.mark.parametrize("name", RIVALS)
def test_a_batch_on_four_devices_is_the_batch_on_one(start, once, name):
    method = methods.create(name, **({"radius": 0.05} if name == "mars_sp" else {}))
    alone = once(method)
    mesh = sharding.make_mesh()
    assert mesh.size == 4
    step, state, source = made(start, method)
    attention = ATTENTION if method.uses_attention else None
    state, source, attention = sharding.replicate((state, source, attention), mesh)
    together = step(state, source, sharding.split(BATCH, mesh), attention, jax.random.key(7))
    close(together[1], alone[1])
    close((together[0].params, together[0].own), (alone[0].params, alone[0].own))


@pytest.mark.parametrize("name", RIVALS)
def test_a_step_can_be_planned_by_shapes_alone(tmp_path, name):
    # Without weights: of the source's classifier the classes of ImageNet are expected.
    programs = Programs(configs.resolve(rival_config(tmp_path, name)), sharding.make_mesh(), num_classes=3)
    arguments = step_program.arguments(programs, programs.pixels(8), rows=20)
    state, metrics = jax.eval_shape(step_program.function(programs), *arguments)
    assert jax.tree.map(lambda leaf: leaf.shape, state) == jax.tree.map(lambda leaf: leaf.shape, arguments[0])
    assert metrics.shape == (len(steps.METRICS),)
    if name == "lwf":
        assert arguments[1]["measured"]["source_logits"].shape == (20, 1000)
