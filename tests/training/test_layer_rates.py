"""Rates of layers: by depth, by time, by the relative gradient; against numpy and numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from delta_jax import features, models
from delta_jax.models.checks import init_shapes
from delta_jax.training import layer_rates, optim

PARAMS = {
    "stem": {"kernel": jnp.array([1.0, -2.0])},
    "bn": {"scale": jnp.array([1.5]), "bias": jnp.array([0.5])},
    "block": {"one": {"kernel": jnp.array([0.3, 0.4])}, "two": {"kernel": jnp.array([2.0])}},
    "head": {"kernel": jnp.array([3.0]), "bias": jnp.array([-1.0])},
}
ORDER = ("stem", "bn", "block/one", "block/two", "block", "head")
LAYERS = layer_rates.of_network(PARAMS, ORDER, ("head",))


def test_layers_are_found_in_the_order_in_which_they_run():
    assert layer_rates.modules(PARAMS, ORDER, ("head",)) == (("stem", "bn"), ("block",), ("head",))
    assert LAYERS.count == 3
    assert LAYERS.numbers["bn"] == {"scale": 0, "bias": 0}
    assert LAYERS.numbers["block"] == {"one": {"kernel": 1}, "two": {"kernel": 1}}
    in_a_list = {"blocks": {"0": {"conv": {"kernel": 0}}, "1": {"conv": {"kernel": 0}}}, "head": {"kernel": 0}}
    order = ("blocks/0/conv", "blocks/0", "blocks/1/conv", "blocks/1", "head")
    found = layer_rates.modules(in_a_list, order, ("head",))
    assert found == (("blocks/0/conv",), ("blocks/1/conv",), ("head",))
    with pytest.raises(ValueError, match="when the layer block/one runs is not known"):
        layer_rates.modules(PARAMS, ("stem", "bn", "head"), ("head",))


@pytest.mark.parametrize(
    ("arch", "count", "first", "last_but_one"),
    [
        # Their papers: a stem, 16 blocks, a last convolution, the classifier; a stem, 3 + 4 + 6 + 3 blocks, and fc.
        ("efficientnet_lite0", 19, ("stem_conv", "stem_bn"), ("head_conv", "head_bn")),
        ("resnet50", 18, ("conv1", "bn1"), ("layer4_2",)),
    ],
)
def test_layers_of_networks(arch, count, first, last_but_one):
    spec, model = models.spec(arch), models.create(arch, num_classes=3)
    shapes = init_shapes(model, 64)
    order = features.order(model, shapes, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    found = layer_rates.modules(shapes["params"], order, (spec.head,))
    assert (len(found), found[0], found[-2], found[-1]) == (count, first, last_but_one, (spec.head,))
    numbers = layer_rates.of_network(shapes["params"], order, (spec.head,)).numbers
    assert set(jax.tree.leaves(numbers)) == set(range(count))


def test_factors_by_depth_and_time():
    rates = np.full(12, 0.1, np.float32)
    np.testing.assert_allclose(layer_rates.factors(rates, 12, 3, decay=0.5), [[0.25, 0.5, 1.0]] * 12)
    # Half of 8 steps over three layers: the head from step 0, the block from 2, the stem from 4; then a table's rest.
    found = layer_rates.factors(rates, 8, 3, unfreeze=0.5)
    np.testing.assert_array_equal(found.argmax(axis=0), [4, 2, 0])
    np.testing.assert_array_equal(np.unique(found), [0, 1])
    np.testing.assert_array_equal(found[4:], 1)


def test_the_heads_rate_falls_from_the_highest_to_nothing_after_every_restart():
    rates = np.array([0.0, 0.2, 0.2, 0.1, 0.1, 0.05], np.float32)
    found = layer_rates.factors(rates, 6, 2, restarts=1)
    np.testing.assert_array_equal(found[:, 0], 1)
    # Two periods of three steps: 1, 3/4 and 1/4 of 0.2; at a rate of 0 there is no factor.
    np.testing.assert_allclose(found[:, 1] * rates, [0, 0.15, 0.05, 0.2, 0.15, 0.05], rtol=1e-6)
    assert layer_rates.restart_steps(6, 1).tolist() == [3]
    for steps in (20, 100, 400, 403):  # that five heads do not divide evenly, too
        found = layer_rates.factors(np.full(1024, 0.1, np.float32), steps, 5, restarts=5)[:, -1]
        np.testing.assert_array_equal(found[[0, *layer_rates.restart_steps(steps, 5)]], 1)
        assert found[:steps].min() > 0
    assert layer_rates.restart_steps(10, 2).tolist() == [4, 7]


def run(steps=4, **options):
    tx = optim.make_optimizer(PARAMS, lambda _: 0.1, head="head", layers=LAYERS, **options)
    params, opt_state = PARAMS, tx.init(PARAMS)
    for step in range(steps):
        gradients = jax.tree.map(lambda leaf, step=step: jnp.sin(leaf + step), PARAMS)
        updates, opt_state = tx.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
    return params


def by_hand(path, factor, opens=0, steps=4, decay=0.3):
    """SGD with momentum 0.9 of one array, in numpy; its momentum begins where it opens."""
    leaf = PARAMS
    for name in path.split("/"):
        leaf = leaf[name]
    start = value = np.asarray(leaf, np.float64)
    momentum = np.zeros_like(start)
    for step in range(opens, steps):
        momentum = 0.9 * momentum + np.sin(start + step) + decay * value
        value = value - 0.1 * factor * momentum
    return value


PLACES = {"stem/kernel": 0, "bn/scale": 0, "block/two/kernel": 1, "head/bias": 2}


def leaf_of(params, path):
    for name in path.split("/"):
        params = params[name]
    return params


@pytest.mark.parametrize("frozen", [(), ("stem",)])
def test_layers_have_their_rates_and_frozen_ones_gather_no_momentum(frozen):
    rates = np.full(4, 0.1, np.float32)
    table = layer_rates.factors(rates, 4, 3, decay=0.5, unfreeze=1.0)  # open at steps 4, 2 and 0
    params = run(weight_decay=0.3, layer_factors=table, frozen=frozen)
    for path, layer in PLACES.items():
        expected = by_hand(path, 0.5 ** (2 - layer), opens=(4, 2, 0)[layer])
        np.testing.assert_allclose(leaf_of(params, path), expected, rtol=1e-5, err_msg=path)


def test_what_is_not_open_does_not_count_in_the_norm_of_the_gradient():
    table = np.array([[0, 0, 1]], np.float32)
    params = run(1, clip_norm=0.01, layer_factors=table)
    moved = np.concatenate([leaf_of(params, f"head/{n}") - leaf_of(PARAMS, f"head/{n}") for n in ("kernel", "bias")])
    np.testing.assert_allclose(np.linalg.norm(moved), 0.1 * 0.01, rtol=1e-4)


@pytest.mark.parametrize("frozen", [(), ("stem",)])
def test_surgical_rates_follow_the_relative_norms_of_the_gradients(frozen):
    params = run(2, surgical=True, momentum=0.0, frozen=frozen)
    values = {path: np.asarray(leaf_of(PARAMS, path), np.float64) for path in PLACES}
    arrays = {0: ("stem/kernel", "bn/scale", "bn/bias"), 1: ("block/one/kernel", "block/two/kernel")}
    now = {path: np.asarray(leaf_of(PARAMS, path), np.float64) for paths in arrays.values() for path in paths}
    start = dict(now)
    norms = None
    for step in range(2):
        relative = []
        for paths in arrays.values():
            used = [path for path in paths if path.split("/")[0] not in frozen]
            g, w = (
                np.sqrt(sum((a[path] ** 2).sum() for path in used))
                for a in ({path: np.sin(start[path] + step) for path in paths}, now)
            )
            relative.append(g / w)
        norms = np.array(relative) if norms is None else 0.9 * norms + 0.1 * np.array(relative)
        for layer, paths in arrays.items():
            for path in paths:
                if path.split("/")[0] not in frozen:
                    now[path] = now[path] - 0.1 * norms[layer] / norms.max() * np.sin(start[path] + step)
    for path, expected in now.items():
        np.testing.assert_allclose(leaf_of(params, path), expected, rtol=1e-5, err_msg=path)
    bias = values["head/bias"]  # the head has its whole rate
    np.testing.assert_allclose(leaf_of(params, "head/bias"), bias - 0.1 * (np.sin(bias) + np.sin(bias + 1)), rtol=1e-5)
