"""One training step of a tiny model against the loss written out and jax.grad."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.utils.class_weight import compute_class_weight

from delta_jax import methods
from delta_jax.models.layers.normalization import BatchNorm
from delta_jax.training import steps
from delta_jax.training.optim import make_optimizer
from delta_jax.training.state import init_state

RNG = np.random.default_rng(0)
TAPS = ("conv",)
BATCH = {
    "image": jnp.asarray(RNG.standard_normal((4, 5, 6, 3)), jnp.float32),
    "label": jnp.array([0, 2, 1, 2]),
    "index": jnp.array([3, 0, 4, 1]),
}
ATTENTION = {
    "one for all": {"conv": jnp.asarray(RNG.uniform(0, 1, 4), jnp.float32)},
    "per example": {"conv": jnp.asarray(RNG.uniform(0, 1, (5, 4)), jnp.float32)},
}


class Net(nn.Module):
    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3), dtype=self.dtype, name="conv")(x)
        x = BatchNorm(dtype=self.dtype, name="bn")(x, train)
        x = jnp.mean(nn.tanh(x), (1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(3, dtype=self.dtype, name="head")(x)


@pytest.fixture(scope="module")
def start():
    """(variables at the start, variables of the source): apart, so that every penalty is there."""
    made = [jax.jit(Net().init)(jax.random.key(seed), BATCH["image"]) for seed in (0, 1)]
    return made[0], {**made[1], "batch_stats": jax.tree.map(lambda leaf: leaf + 0.3, made[1]["batch_stats"])}


def _made_step(start, method, *, model=None, prepare=None):
    """step(attention, key, at) -> (state, metrics), from `start`; compiled once."""
    variables, source = start
    model = model or Net()
    tx = make_optimizer(variables["params"], optax.constant_schedule(0.1), head="head", momentum=0.9)
    loss = steps.make_loss(model, model, method, taps=TAPS, head="head", alpha=0.3, beta=0.2)
    compiled = jax.jit(steps.make_train_step(loss, tx, prepare or (lambda key, images: images)))

    def step(attention=None, key=7, at=0):
        state = dataclasses.replace(init_state(variables, tx), step=np.int32(at))
        return compiled(state, source, BATCH, attention, jax.random.key(key))

    return step


def _step(start, method, *, model=None, attention=None):
    return _made_step(start, method, model=model)(attention)


def _written_out(params, start, name, weights, alpha, beta):
    """Eq. 3 and 4 for the tiny model, with the maps from flax's Conv."""
    variables, source = start
    x, y = BATCH["image"], BATCH["label"]
    logits, _ = Net().apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
    cross_entropy = jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[jnp.arange(4), y])
    head = 0.5 * (jnp.sum(params["head"]["kernel"] ** 2) + jnp.sum(params["head"]["bias"] ** 2))
    penalty: Any = 0.0
    if name == "l2_sp":
        pairs = [(params[m][leaf], source["params"][m][leaf]) for m in ("conv", "bn") for leaf in params[m]]
        penalty = 0.5 * sum(jnp.sum((one - other) ** 2) for one, other in pairs)
    if name.startswith("delta"):
        both: list[Any] = [nn.Conv(4, (3, 3)).apply({"params": p["conv"]}, x) for p in (params, source["params"])]
        ours, theirs = both
        distances = jnp.sum((jax.nn.relu(ours) - jax.nn.relu(theirs)) ** 2, (1, 2))
        penalty = jnp.mean(jnp.sum(distances * weights, axis=1))
    return cross_entropy + alpha * penalty + (0.0 if name == "l2" else beta * head)


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        ("l2", None),
        ("l2_sp", None),
        ("delta_without_attention", None),
        ("delta", "one for all"),
        ("delta", "per example"),
    ],
)
def test_one_step_is_the_gradient_of_the_loss_written_out(start, name, attention):
    variables = start[0]
    state, metrics = _step(start, methods.create(name), attention=ATTENTION.get(attention))
    weights = jnp.ones((4, 4))
    if attention == "one for all":
        weights = jnp.broadcast_to(ATTENTION[attention]["conv"], (4, 4))
    if attention == "per example":  # rows 3, 0, 4, 1 of the data set's
        weights = jnp.stack([ATTENTION[attention]["conv"][i] for i in (3, 0, 4, 1)])
    written_out = jax.jit(jax.value_and_grad(_written_out), static_argnums=2)
    value, gradient = written_out(variables["params"], start, name, weights, 0.3, 0.2)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], gradient)  # the first step has no momentum
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state.params, expected)
    assert state.step == 1


def test_the_metrics_add_up_to_the_loss(start):
    _, metrics = _step(start, methods.create("delta_without_attention"))
    parts = metrics["cross_entropy"] + 0.3 * metrics["penalty"] + 0.2 * metrics["head_penalty"]
    np.testing.assert_allclose(metrics["loss"], parts, rtol=1e-6)
    logits, _ = Net().apply(start[0], BATCH["image"], train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(metrics["top1"], np.mean(np.argmax(logits, 1) == np.asarray(BATCH["label"])))


def test_only_the_network_in_training_updates_its_statistics(start):
    variables, source = start
    before = jax.tree.map(np.array, source)
    state, _ = _step(start, methods.create("delta_without_attention"))
    maps = nn.Conv(4, (3, 3)).apply({"params": variables["params"]["conv"]}, BATCH["image"])
    expected = 0.1 * np.asarray(maps).mean((0, 1, 2))  # BatchNorm, from a running mean of 0
    np.testing.assert_allclose(state.batch_stats["bn"]["mean"], expected, rtol=1e-4, atol=1e-7)
    jax.tree.map(np.testing.assert_array_equal, before, source)


def test_what_is_random_depends_on_key_and_step_alone(start):
    def prepare(key, images):
        return images + jax.random.normal(key, images.shape)

    for model, augment in ((Net(dropout=0.5), None), (Net(), prepare)):
        step = _made_step(start, methods.create("l2"), model=model, prepare=augment)

        def loss_at(at, key=7, step=step):
            return float(step(key=key, at=at)[1]["loss"])

        assert loss_at(3) == loss_at(3)
        assert loss_at(3) != loss_at(4)
        assert loss_at(3) != loss_at(3, key=8)


def test_crops_and_dropout_have_keys_of_their_own(start):
    crop_keys, dropout_keys = [], []

    def prepare(key, images):
        jax.debug.callback(crop_keys.append, jax.random.key_data(key))
        return images + jax.random.normal(key, images.shape)

    class Spy(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            if train:
                jax.debug.callback(dropout_keys.append, jax.random.key_data(self.make_rng("dropout")))
            return Net(name="net")(x, train)

    variables = {c: {"net": leaves} for c, leaves in start[0].items()}
    tx = optax.sgd(0.1)
    loss = steps.make_loss(Spy(), Spy(), methods.create("l2"), taps=(), head="net/head", alpha=0.0, beta=0.0)
    step = steps.make_train_step(loss, tx, prepare)
    step(init_state(variables, tx), variables, BATCH, None, jax.random.key(7))
    jax.effects_barrier()
    assert len(crop_keys) == 1
    assert dropout_keys
    assert all((key != crop_keys[0]).any() for key in dropout_keys)


def test_losses_are_float32_in_a_bfloat16_network(start):
    _, metrics = _step(start, methods.create("delta_without_attention"), model=Net(dtype=jnp.bfloat16))
    _, expected = _step(start, methods.create("delta_without_attention"))
    for name, value in metrics.items():
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, expected[name], rtol=0.05)


def test_attention_of_gathers_the_rows_of_the_batch():
    index = jnp.array([4, 0, 4])
    assert steps.attention_of(None, index) is None
    mixed = {"a": ATTENTION["one for all"]["conv"], "b": ATTENTION["per example"]["conv"]}
    found: Any = steps.attention_of(mixed, index)
    np.testing.assert_array_equal(found["a"], mixed["a"])
    np.testing.assert_array_equal(found["b"], np.asarray(mixed["b"])[[4, 0, 4]])


def test_the_state_has_buffers_of_its_own(start):
    # The trainer donates the state: shared buffers would delete the source with it.
    state = init_state(start[0], optax.sgd(0.1))
    pairs = zip(jax.tree.leaves(state.variables), jax.tree.leaves(start[0]), strict=True)
    addresses = [(one.unsafe_buffer_pointer(), other.unsafe_buffer_pointer()) for one, other in pairs]
    assert all(one != other for one, other in addresses)
    assert init_state({"params": start[0]["params"]}, optax.sgd(0.1)).batch_stats == {}


class TwoHeads(nn.Module):
    """With a second classifier that is there in training only."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3), name="conv")(x)
        if train or self.is_initializing():
            Side(name="side")(x)
        return nn.Dense(3, name="head")(jnp.mean(nn.tanh(x), (1, 2)))


class Side(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="out")(jnp.max(x, (1, 2)))


def test_an_auxiliary_classifier_adds_its_cross_entropy_and_counts_as_head():
    made = [jax.jit(TwoHeads().init)(jax.random.key(seed), BATCH["image"])["params"] for seed in (0, 1)]
    params, source = made
    found = steps.make_loss(
        TwoHeads(),
        TwoHeads(),
        methods.create("l2_sp"),
        taps=TAPS,
        head=("head", "side/out"),
        alpha=0.3,
        beta=0.2,
        auxiliary="side",
        auxiliary_weight=0.4,
    )(params, {}, {"params": source}, BATCH["image"], BATCH["label"], None, jax.random.key(0))

    # Written out in numpy: two linear layers on tanh-then-mean and on the maximum of the convolution's maps.
    maps = np.asarray(nn.Conv(4, (3, 3)).apply({"params": params["conv"]}, BATCH["image"]), np.float64)
    seen = {"head": np.tanh(maps).mean((1, 2)), "side": maps.max((1, 2))}
    dense = {"head": params["head"], "side": params["side"]["out"]}
    losses = {}
    for name, x in seen.items():
        logits = x @ np.asarray(dense[name]["kernel"], np.float64) + np.asarray(dense[name]["bias"], np.float64)
        losses[name] = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(4), BATCH["label"]])
    distance = sum(np.sum((np.asarray(params["conv"][k]) - np.asarray(source["conv"][k])) ** 2) for k in params["conv"])
    heads = sum(np.sum(np.asarray(w) ** 2) for layer in dense.values() for w in layer.values())
    total, (metrics, _) = found
    np.testing.assert_allclose(total, losses["head"] + 0.4 * losses["side"] + 0.15 * distance + 0.1 * heads, rtol=1e-5)
    np.testing.assert_allclose(metrics["cross_entropy"], losses["head"], rtol=1e-5)


@pytest.mark.parametrize("labels", [[0] * 6 + [1] * 3 + [2], [2, 0, 0, 2, 2, 2, 2]])
def test_class_weights_are_those_of_scikit_learn_and_weigh_one_on_average(labels):
    found = steps.class_weights(np.array(labels), 3)
    present = np.unique(labels)
    expected = compute_class_weight("balanced", classes=present, y=labels)
    np.testing.assert_allclose(found[present], expected, rtol=1e-6)
    np.testing.assert_allclose(found[labels].mean(), 1, rtol=1e-6)
    assert found[np.setdiff1d(range(3), present)].sum() == 0


def test_a_weighted_loss_weighs_the_cross_entropy_and_nothing_else(start):
    variables, source = start
    weights = np.array([0.5, 2.0, 3.0], np.float32)

    def loss_of(label_weights):
        method = methods.create("delta_without_attention")
        loss = steps.make_loss(
            Net(), Net(), method, taps=TAPS, head="head", alpha=0.3, beta=0.2, label_weights=label_weights
        )
        key = jax.random.key(0)
        return loss(variables["params"], variables["batch_stats"], source, BATCH["image"], BATCH["label"], None, key)

    plain, (before, _) = loss_of(None)
    total, (metrics, _) = loss_of(weights)
    # By hand: -log softmax of each of the four images, of the classes 0, 2, 1, 2.
    logits, _ = Net().apply(variables, BATCH["image"], train=True, mutable=["batch_stats"])
    logits = np.asarray(logits, np.float64)
    each = np.log(np.exp(logits).sum(1)) - logits[range(4), [0, 2, 1, 2]]
    np.testing.assert_allclose(metrics["cross_entropy"], np.dot(each, [0.5, 3, 2, 3]) / 4, rtol=1e-5)
    np.testing.assert_allclose(before["cross_entropy"], each.mean(), rtol=1e-5)
    np.testing.assert_allclose(total - metrics["cross_entropy"], plain - before["cross_entropy"], rtol=1e-5)


class Through(nn.Module):
    """Images [B, 1, 1, 4] are its logits where the head's kernel is the identity."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(4, use_bias=False, name="head")(x[:, 0, 0])


LOGITS = np.array([[1.0, -0.5, 0.25, 2.0], [0.0, 3.0, -1.0, 0.5], [-2.0, 0.75, 0.5, 1.5]], np.float32)
SHARES = np.array([[0.0, 0.3, 0.0, 0.7], [0.6, 0.0, 0.4, 0.0], [0.0, 0.0, 1.0, 0.0]], np.float32)


def metrics_of(labels, **options):
    loss = steps.make_loss(
        Through(), Through(), methods.create("l2"), taps=(), head="head", alpha=0.0, beta=0.0, **options
    )
    params, images = {"head": {"kernel": jnp.eye(4)}}, jnp.asarray(LOGITS)[:, None, None]
    return loss(params, {}, {"params": params}, images, jnp.asarray(labels), None, jax.random.key(0))[1][0]


# torch 2.14.1: torch.nn.CrossEntropyLoss(label_smoothing=...)(LOGITS, labels or SHARES), in float64.
@pytest.mark.parametrize(
    ("labels", "smoothing", "expected"),
    [
        ([3, 0, 2], 0.1, 1.783610596401426),
        (SHARES, 0.1, 2.1286105964014257),
        (SHARES, 0.0, 2.1336105964014256),
    ],
    ids=["smoothed", "mixed and smoothed", "mixed"],
)
def test_smoothed_labels_and_shares_of_classes_are_torchs(labels, smoothing, expected):
    found = metrics_of(labels, label_smoothing=smoothing)
    np.testing.assert_allclose(found["cross_entropy"], expected, rtol=1e-6)


def test_shares_of_a_weighted_loss_count_as_the_images_that_they_are_of():
    # A mixture costs what its images would, each with the weight of its class and by its share; loop in numpy.
    weights, smoothing = np.array([0.5, 2.0, 3.0, 1.0]), 0.2
    expected = 0.0
    for logits, shares in zip(LOGITS.astype(np.float64), SHARES, strict=True):
        nll = np.log(np.exp(logits).sum()) - logits
        for k, share in enumerate(shares):
            expected += share * weights[k] * ((1 - smoothing) * nll[k] + smoothing * nll.mean()) / len(LOGITS)
    found = metrics_of(SHARES, label_weights=weights.astype(np.float32), label_smoothing=smoothing)
    np.testing.assert_allclose(found["cross_entropy"], expected, rtol=1e-6)
    # The largest logits are those of the classes 3, 1 and 3: shares 0.7, 0 and 0.
    np.testing.assert_allclose(found["top1"], 0.7 / 3, rtol=1e-6)


def test_both_networks_see_the_mixed_images(start):
    variables, source = start
    tx, seen = optax.sgd(0.1), []

    def mix(key, images, labels):
        return 0.75 * images + 0.25 * jnp.roll(images, 1, axis=0), jax.nn.one_hot(labels, 3)

    loss = steps.make_loss(
        Net(), Net(), methods.create("delta_without_attention"), taps=TAPS, head="head", alpha=0.3, beta=0.2
    )

    def watched(params, stats, source, images, labels, attention, dropout_key, *_):
        seen.append(labels.shape)
        return loss(params, stats, source, images, labels, attention, dropout_key)

    step = jax.jit(steps.make_train_step(watched, tx, lambda key, images: images, mix=mix, accumulate=2))
    _, metrics = step(init_state(variables, tx), source, BATCH, None, jax.random.key(7))
    assert set(seen) == {(2, 3)}  # shares, of each of the two parts
    images = 0.75 * BATCH["image"] + 0.25 * jnp.roll(BATCH["image"], 1, axis=0)
    both: list[Any] = [nn.Conv(4, (3, 3)).apply({"params": v["params"]["conv"]}, images) for v in (variables, source)]
    ours, theirs = (jax.nn.relu(maps) for maps in both)
    np.testing.assert_allclose(metrics["penalty"], jnp.sum((ours - theirs) ** 2) / 4, rtol=1e-5)
