"""Schedules against numbers worked out by hand, and the optimizer against torch's SGD written as a loop in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from delta_jax.training import optim

schedule = optim.learning_rate_schedule


def _rates(found, steps):
    return [float(found(step)) for step in steps]


def test_the_papers_schedule():
    # Section 4.2: 0.01, divided by 10 after 6,000 of 9,000 iterations.
    found = _rates(schedule("step", 0.01, 9000), (0, 5999, 6000, 8999))
    np.testing.assert_allclose(found, [0.01, 0.01, 0.001, 0.001], rtol=1e-6)


def test_step_schedule_counts_its_drop_from_the_start_of_training():
    # Warm-up 0, 0.25, 0.5, 0.75, then 1; the drop to a half at step 0.6 * 20 = 12, with the warm-up counted.
    found = _rates(schedule("step", 1.0, 20, warmup_steps=4, decay_at=0.6, decay_factor=0.5), (0, 1, 3, 4, 11, 12, 19))
    np.testing.assert_allclose(found, [0.0, 0.25, 0.75, 1.0, 1.0, 0.5, 0.5], rtol=1e-6)


def test_exponential_schedule_falls_after_every_epoch():
    # Fig. 2: times 0.93 every epoch; 187.5 steps of 64 images are one of Stanford Dogs.
    found = _rates(schedule("exponential", 0.01, 9000, epoch_steps=187.5), (0, 187, 188, 375, 376))
    np.testing.assert_allclose(found, [0.01, 0.01, 0.0093, 0.0093, 0.01 * 0.93**2], rtol=1e-5)


def test_cosine_and_constant_schedules():
    found = _rates(schedule("cosine", 2.0, 110, warmup_steps=10), (5, 10, 35, 60, 110))
    expected = [1.0, 2.0, 1 + np.cos(np.pi / 4), 1.0, 0.0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert _rates(schedule("constant", 0.5, 10), (0, 9)) == [0.5, 0.5]


def test_a_schedule_that_does_not_exist():
    with pytest.raises(ValueError, match="schedule 'linear' is not one of"):
        schedule("linear", 0.1, 10)


PARAMS = {
    "body": {"conv": {"kernel": [1.0, -2.0]}, "bn": {"scale": [1.5], "bias": [0.5]}},
    "encoder": {"head": {"kernel": [3.0], "bias": [-1.0]}},
}
BODY, NORM, HEAD = ("body", "conv"), ("body", "bn"), ("encoder", "head")


def _tree(value):
    return jax.tree.map(jnp.asarray, value, is_leaf=lambda node: isinstance(node, list))


def _gradients(step):
    """Different for every parameter and step: a fixed function of its value's place."""
    leaves, structure = jax.tree.flatten(_tree(PARAMS))
    return jax.tree.unflatten(
        structure,
        [jnp.sin(jnp.arange(leaf.size, dtype=jnp.float32) + 10.0 * i + step) for i, leaf in enumerate(leaves)],
    )


def _run(rate=0.1, steps=4, **options):
    params = _tree(PARAMS)
    tx = optim.make_optimizer(
        params, lambda step: rate / (1.0 + step.astype(jnp.float32)), head="encoder/head", **options
    )
    opt_state = tx.init(params)
    for step in range(steps):
        updates, opt_state = tx.update(_gradients(step), opt_state, params)
        params = optax.apply_updates(params, updates)
    return params, opt_state


def _torch_sgd(rate=0.1, steps=4, momentum=0.9, weight_decay=0.0, factor=lambda path: 1.0, clip=None, counted=None):
    """torch.optim.SGD's documented update: g += wd * p; buf = momentum * buf + g; p -= lr * buf."""
    flat = {
        tuple(k.key for k in p): np.asarray(v, np.float64)
        for p, v in jax.tree_util.tree_leaves_with_path(_tree(PARAMS))
    }
    buffers = {path: np.zeros_like(p) for path, p in flat.items()}
    for step in range(steps):
        grads = {
            tuple(k.key for k in p): np.asarray(v, np.float64)
            for p, v in jax.tree_util.tree_leaves_with_path(_gradients(step))
        }
        norm = np.sqrt(sum((g**2).sum() for path, g in grads.items() if counted is None or path[:2] in counted))
        for path, g in grads.items():
            g = g if clip is None else g * min(1.0, clip / norm)
            buffers[path] = momentum * buffers[path] + g + weight_decay * flat[path]
            flat[path] = flat[path] - factor(path[:2]) * rate / (1 + step) * buffers[path]
    return flat


def _compare(found, expected):
    for path, value in jax.tree_util.tree_leaves_with_path(found):
        np.testing.assert_allclose(value, expected[tuple(k.key for k in path)], rtol=1e-5, atol=1e-6)


def test_decay_and_momentum_come_in_pytorchs_order():
    _compare(_run(weight_decay=0.3)[0], _torch_sgd(weight_decay=0.3))
    _compare(_run(momentum=0.0)[0], _torch_sgd(momentum=0.0))


# What torch 2.14.1 leaves of [1, -2, 1.5, 0.5, 3, -1] after four steps with the gradients sin(0..5 + step), rates
# 0.1 / (1 + step), weight_decay=0.3: SGD(momentum=0.9, nesterov=True), and AdamW(betas=(0.8, 0.999)).
TORCH = {
    ("nesterov", 0.9): [0.647444084, -2.001072513, 1.123680951, 0.58166177, 2.846368318, -0.663498461],
    ("adamw", 0.8): [0.851109923, -2.054479667, 1.28736512, 0.452626382, 2.998106467, -0.807247224],
}


@pytest.mark.parametrize(("kind", "momentum"), TORCH)
def test_nesterov_and_adamw_are_torchs(kind, momentum):
    params = {"head": {"kernel": jnp.array([1.0, -2.0, 1.5, 0.5, 3.0, -1.0])}}
    tx = optim.make_optimizer(
        params,
        lambda step: 0.1 / (1.0 + step.astype(jnp.float32)),
        head="head",
        kind=kind,
        momentum=momentum,
        weight_decay=0.3,
    )
    opt_state = tx.init(params)
    for step in range(4):
        gradients = {"head": {"kernel": jnp.sin(jnp.arange(6, dtype=jnp.float32) + step)}}
        updates, opt_state = tx.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["head"]["kernel"], TORCH[kind, momentum], rtol=2e-6)


def test_adamw_leaves_what_is_frozen_alone_and_gives_the_head_its_rate():
    params = _tree(PARAMS)
    gradients = jax.tree.map(jnp.ones_like, params)
    tx = optim.make_optimizer(
        params, lambda _: 0.1, head="encoder/head", kind="adamw", freeze_norm=True, head_learning_rate_factor=3.0
    )
    updates, _ = tx.update(gradients, tx.init(params), params)
    # The first step of Adam is the sign of the gradient times the rate.
    np.testing.assert_allclose(updates["body"]["conv"]["kernel"], -0.1, rtol=1e-5)
    np.testing.assert_allclose(updates["encoder"]["head"]["kernel"], -0.3, rtol=1e-5)
    np.testing.assert_array_equal(updates["body"]["bn"]["scale"], 0)


def test_an_optimizer_that_does_not_exist():
    with pytest.raises(ValueError, match="optimizer 'adam' is not one of"):
        optim.make_optimizer(_tree(PARAMS), lambda _: 0.1, head="encoder/head", kind="adam")


def test_the_heads_own_learning_rate():
    found, _ = _run(head_learning_rate_factor=10.0, weight_decay=0.1)
    _compare(found, _torch_sgd(weight_decay=0.1, factor=lambda module: 10.0 if module == HEAD else 1.0))


def test_gradients_are_clipped_before_decay_and_momentum():
    found, _ = _run(clip_norm=0.5, weight_decay=0.1)
    _compare(found, _torch_sgd(clip=0.5, weight_decay=0.1))


@pytest.mark.parametrize(
    ("options", "trained"),
    [
        ({"freeze_body": True}, {HEAD}),
        ({"freeze_norm": True}, {BODY, HEAD}),
        ({"freeze_body": True, "freeze_norm": True}, {HEAD}),
    ],
)
def test_frozen_parameters_stay_and_the_others_do_not_notice(options, trained):
    found, opt_state = _run(**options, weight_decay=0.1, clip_norm=0.5, head_learning_rate_factor=2.0)
    expected = _torch_sgd(
        weight_decay=0.1,
        clip=0.5,
        counted=trained,  # as torch.nn.utils.clip_grad_norm_ over the trained parameters
        factor=lambda module: (2.0 if module == HEAD else 1.0) if module in trained else 0.0,
    )
    _compare(found, expected)
    for top, name in {BODY, NORM, HEAD} - trained:
        for leaf, value in found[top][name].items():
            np.testing.assert_array_equal(value, _tree(PARAMS)[top][name][leaf])
    # Momentum is kept for trained parameters alone.
    momenta = [leaf for leaf in jax.tree.leaves(opt_state) if leaf.dtype == jnp.float32]
    assert len(momenta) == sum(len(PARAMS[top][name]) for top, name in trained)


def test_a_head_that_is_not_there_is_refused():
    # Silence would freeze the whole network.
    with pytest.raises(
        ValueError, match=r"no parameters under the head path 'fc'; the modules are \['body', 'encoder'\]"
    ):
        optim.make_optimizer(_tree(PARAMS), optax.constant_schedule(0.1), head="fc", freeze_body=True)
