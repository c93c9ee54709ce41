"""Penalties and projections of the methods that DELTA is compared with, and their gradients, in float64.

Expected numbers are those of the methods' public code (tests/golden/public_methods.py), of loops in numpy, and of
finite differences.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delta_jax import methods
from delta_jax.methods import (
    Seen,
    Shapes,
    afd,
    attention_transfer,
    bi_tuning,
    bss,
    co_tuning,
    delta_cosine,
    lwf,
    mars_sp,
)
from tests.golden import public_methods as public

RNG = np.random.default_rng(0)
SHAPES = Shapes({"tap": (4, 5, 6)}, features=10)


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def expected():
    with np.load(public.FILE) as file:
        return dict(file)


def along(function, x, step=1e-6):
    """(derivative along a random direction by central differences, the same by jax)."""
    direction = jax.tree.map(lambda leaf: RNG.standard_normal(leaf.shape), x)
    there, back = (
        function(jax.tree.map(lambda leaf, d, sign=sign: leaf + sign * step * d, x, direction)) for sign in (1, -1)
    )
    gradient = jax.grad(function)(x)
    products = jax.tree.map(lambda g, d: np.sum(np.asarray(g) * d), gradient, direction)
    return (there - back) / (2 * step), sum(jax.tree.leaves(products))


# Batch spectral shrinkage.


@pytest.mark.parametrize("name", public.FEATURES)
@pytest.mark.parametrize("k", [1, 3])
def test_spectral_shrinkage_is_tllibs(expected, name, k):
    value, gradient = jax.value_and_grad(bss.spectral_shrinkage)(jnp.asarray(public.FEATURES[name]), k)
    np.testing.assert_allclose(value, expected[f"bss/{name}/{k}"], rtol=1e-12)
    np.testing.assert_allclose(gradient, expected[f"bss/{name}/{k}/gradient"], rtol=1e-9, atol=1e-11)


def with_singular_values(values, dtype=np.float64):
    left, right = (np.linalg.qr(RNG.standard_normal((n, len(values))))[0] for n in (len(values), 9))
    return jnp.asarray(left * np.array(values) @ right.T, dtype)


@pytest.mark.parametrize("gap", [0.0, 1e-12, 1e-7, 1e-3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_gradient_of_close_singular_values_is_as_good_as_of_others(gap, dtype):
    # Of the two smallest together, 1 and 1 + gap: the derivative of their squares is known, 2 U U^T F, and the sum is
    # smooth even where they meet. What jax makes of the singular vectors themselves is not.
    features = with_singular_values([5.0, 3.0, 1.0 + gap, 1.0], dtype)
    gradient = jax.grad(bss.spectral_shrinkage)(features, 2)
    u, _, _ = np.linalg.svd(np.asarray(features, np.float64))
    projected = 2 * u[:, 2:] @ u[:, 2:].T @ np.asarray(features, np.float64)
    np.testing.assert_allclose(gradient, projected, atol=2e-5 if dtype == np.float32 else 1e-10)
    # Of one of the two: some direction between them, whatever it is no longer than 2 s.
    alone = np.asarray(jax.grad(bss.spectral_shrinkage)(features, 1))
    np.testing.assert_allclose(np.linalg.norm(alone), 2, rtol=max(2 * gap, 1e-5))

    if gap == 0 and dtype == np.float64:

        def decomposed(x):
            return jnp.sum(jnp.linalg.svd(x, full_matrices=False)[0][:, 2:] ** 3)

        assert not np.linalg.norm(jax.grad(decomposed)(features)) < 1e6


def test_the_gradient_of_shrinkage_is_that_of_finite_differences():
    close = with_singular_values([5.0, 3.0, 1.0 + 1e-9, 1.0])
    difference, gradient = along(lambda x: bss.spectral_shrinkage(x, 2), close)
    np.testing.assert_allclose(gradient, difference, rtol=1e-7)


def test_features_of_zeros_and_of_all_singular_values():
    zeros = jnp.zeros((4, 6))
    assert bss.spectral_shrinkage(zeros, 2) == 0
    assert not jax.grad(bss.spectral_shrinkage)(zeros, 2).any()
    features = jnp.asarray(public.FEATURES["wide"])
    np.testing.assert_allclose(bss.spectral_shrinkage(features, 6), np.sum(public.FEATURES["wide"] ** 2))


def test_bss_pays_for_the_features_and_decays_the_weights():
    method = methods.create("bss", singular_values=3)
    seen = Seen(jnp.asarray(public.FEATURES["wide"]), jnp.zeros(6, int), jnp.arange(6), None, {})
    assert method.batch_penalty(seen) == bss.spectral_shrinkage(seen.features, 3)
    assert method.decays_weights
    assert method.problem(SHAPES, 3) == ""
    assert "singular_values=3: features [2, 10]" in method.problem(SHAPES, 2)
    assert "take at most 1" in methods.create("bss", singular_values=2).problem(Shapes({}, 1), 8)


# Attention transfer.

MAPS, SOURCE = ({"tap": one} for one in (public.MAPS, public.SOURCE_MAPS))  # of numpy: made outside of float64 mode


def test_attention_transfer_is_that_of_its_authors(expected):
    def mean(maps):
        return jnp.mean(attention_transfer.attention_distance({"tap": maps}, SOURCE))

    value, gradient = jax.value_and_grad(mean)(MAPS["tap"])
    np.testing.assert_allclose(value, expected["at"], rtol=1e-12)
    np.testing.assert_allclose(gradient, expected["at/gradient"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("maps", [SOURCE["tap"], np.zeros_like(SOURCE["tap"])], ids=["alike", "silent"])
@pytest.mark.parametrize("name", ["attention_transfer", "delta_cosine"])
def test_where_both_networks_agree_and_where_maps_are_silent_gradients_are_zero(name, maps):
    weights = {"tap": jnp.ones(6)}

    def mean(tap_maps):
        return jnp.mean(methods.create(name).example_penalty({"tap": tap_maps}, SOURCE, weights))

    value, gradient = jax.value_and_grad(mean)(maps)
    assert np.isfinite(value)
    np.testing.assert_allclose(gradient, 0, atol=1e-16)


# DELTA with cosine distance.


@pytest.mark.parametrize("rectify", [True, False])
@pytest.mark.parametrize("each", [True, False])
def test_cosine_distance_is_one_minus_the_cosine_of_every_filter(rectify, each):
    weights = RNG.uniform(0, 1, (3, 6) if each else 6)
    maps, source = public.MAPS.copy(), public.SOURCE_MAPS.copy()
    if rectify:
        maps, source = np.maximum(maps, 0), np.maximum(source, 0)
    by_hand = np.zeros(3)
    for image in range(3):
        for filter_ in range(6):
            one, other = maps[image, :, :, filter_].ravel(), source[image, :, :, filter_].ravel()
            cosine = one @ other / np.sqrt((one @ one) * (other @ other))
            by_hand[image] += np.broadcast_to(weights, (3, 6))[image, filter_] * (1 - cosine)
    method = methods.create("delta_cosine", rectify=rectify)
    attention = {"tap": jnp.asarray(weights)}
    np.testing.assert_allclose(method.example_penalty(MAPS, SOURCE, attention), by_hand, rtol=1e-12)
    difference, gradient = along(lambda x: jnp.mean(method.example_penalty({"tap": x}, SOURCE, attention)), MAPS["tap"])
    np.testing.assert_allclose(gradient, difference, rtol=1e-6)


def test_a_silent_map_has_no_direction():
    silent = {"tap": np.zeros_like(SOURCE["tap"])}
    weights = {"tap": jnp.full(6, 1 / 6)}
    np.testing.assert_allclose(delta_cosine.cosine_distance(silent, SOURCE, weights), 0.5)
    np.testing.assert_allclose(delta_cosine.cosine_distance(silent, silent, weights), 0)


@pytest.mark.parametrize("name", ["attention_transfer", "delta_cosine"])
def test_maps_of_one_pixel_cannot_be_compared_by_position(name):
    method = methods.create(name)
    assert method.problem(SHAPES, 8) == ""
    assert method.problem(Shapes({"a": (1, 1, 5), "b": (2, 1, 5)}, 5), 8) == ""
    assert "the maps at a, b are of one pixel" in method.problem(Shapes({"a": (1, 1, 5), "b": (1, 1, 6)}, 5), 8)


# Attentive feature distillation.


def predictors(height=4):
    return {
        "tap": {"hidden": jnp.asarray(RNG.standard_normal((20, height))), "out": jnp.asarray(RNG.standard_normal(4))}
    }


def test_the_learned_attention_and_its_distance_by_hand():
    made = predictors()
    hidden, out = (np.asarray(made["tap"][name]) for name in ("hidden", "out"))
    weights = np.zeros((3, 6))
    for image in range(3):
        scores = [
            np.maximum(public.SOURCE_MAPS[image, :, :, filter_].ravel() @ hidden, 0) @ out for filter_ in range(6)
        ]
        weights[image] = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(afd.learned_attention(SOURCE, made)["tap"], weights, rtol=1e-12)
    distances = ((public.MAPS - public.SOURCE_MAPS) ** 2).sum((1, 2))
    method = methods.create("afd", rectify=False)
    found = method.example_penalty(MAPS, SOURCE, None, {"attention": made})
    np.testing.assert_allclose(found, (weights * distances).sum(1), rtol=1e-12)

    def penalty(trained):
        return jnp.mean(method.example_penalty(trained["maps"], SOURCE, None, {"attention": trained["own"]}))

    difference, gradient = along(penalty, {"maps": MAPS, "own": made})
    np.testing.assert_allclose(gradient, difference, rtol=1e-6)


def test_at_first_all_filters_weigh_the_same_and_weights_can_be_learned():
    method = methods.create("afd")
    own = method.own_parameters(jax.random.key(0), SHAPES)
    maps, source = ({"tap": one["tap"].astype(np.float32)} for one in (MAPS, SOURCE))
    found = afd.learned_attention(source, own["attention"])["tap"]
    np.testing.assert_allclose(found, 1 / 6, rtol=1e-6)
    gradient = jax.grad(lambda own: jnp.mean(method.example_penalty(maps, source, None, own)))(own)
    assert np.abs(gradient["attention"]["tap"]["out"]).max() > 0


# MARS-SP.


@pytest.mark.parametrize("name", public.KERNELS)
def test_projections_of_kernels_are_those_of_the_authors_code(expected, name):
    kernel, centre, radius = public.KERNELS[name], public.CENTRES[name], public.RADIUS[name]
    found = np.asarray(mars_sp.project_rows(kernel, centre, radius))
    np.testing.assert_allclose(found, expected[f"mars/{name}"], rtol=1e-12)
    rows = np.abs(found - centre).sum(tuple(range(found.ndim - 1)))
    before = np.abs(kernel - centre).sum(tuple(range(found.ndim - 1)))
    assert 0 < (before > radius).sum() < len(before)
    np.testing.assert_allclose(rows, np.minimum(before, radius), rtol=1e-12)


def test_projections_of_gains_are_those_of_the_authors_code(expected):
    found = mars_sp.project_gains(
        public.GAIN, public.VARIANCE, public.CENTRE_GAIN, public.CENTRE_VARIANCE, public.GAIN_RADIUS
    )
    np.testing.assert_allclose(found, expected["mars/gain"], rtol=1e-12)
    assert 0 < np.sum(np.abs(np.asarray(found) - public.GAIN) < 1e-12) < 7


def test_a_step_of_mars_sp_moves_kernels_and_gains_and_leaves_biases():
    def variables(scale):
        kernel = {"kernel": scale * jnp.ones((3, 2)), "bias": scale * jnp.ones(2)}
        norm = {"scale": scale * jnp.ones(2), "bias": scale * jnp.ones(2)}
        params = {"body": {"dense": kernel, "norm": norm, "layer": {"scale": scale * jnp.ones(2)}}, "head": kernel}
        stats = {"body": {"norm": {"mean": jnp.zeros(2), "var": jnp.ones(2)}}}
        return {"params": params, "batch_stats": stats}

    method = methods.create("mars_sp", radius=1.5, head_radius=0.9)
    found = method.project(variables(5.0), variables(1.0), ("head",))
    np.testing.assert_allclose(found["body"]["dense"]["kernel"], 1.5)  # 1 + 4 each, 12 a row, so an eighth of the way
    np.testing.assert_allclose(found["body"]["norm"]["scale"], 2.5, rtol=1e-6)
    np.testing.assert_allclose(found["head"]["kernel"], 0.3)
    for free in (found["body"]["dense"]["bias"], found["head"]["bias"], found["body"]["norm"]["bias"]):
        np.testing.assert_array_equal(free, 5)
    np.testing.assert_array_equal(found["body"]["layer"]["scale"], 5)  # a LayerNorm divides by no variance of its own
    near = method.project(variables(1.01), variables(1.0), "head")
    np.testing.assert_array_equal(near["body"]["dense"]["kernel"], 1.01)


# L2-SP on kernels.


def test_l2_sp_on_kernels_leaves_norms_biases_and_the_head_out():
    params = {"body": {"kernel": jnp.array([1.0, 3.0]), "bias": jnp.array([9.0])}, "norm": {"scale": jnp.array([4.0])}}
    params |= {"head": {"kernel": jnp.array([7.0])}}
    source = jax.tree.map(jnp.zeros_like, params)
    method = methods.create("l2_sp_kernels")
    assert method.parameter_penalty(params, source, "head") == 5  # 1/2 (1 + 9)
    assert methods.create("l2_sp").parameter_penalty(params, source, "head") == 0.5 * (1 + 9 + 81 + 16)
    gradient = jax.grad(method.parameter_penalty)(params, source, "head")
    np.testing.assert_array_equal(gradient["body"]["kernel"], [1, 3])
    assert gradient["body"]["bias"] == gradient["norm"]["scale"] == gradient["head"]["kernel"] == 0
    bare = {"body": {"weight": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}}
    with pytest.raises(ValueError, match="no parameter outside of head is called kernel"):
        method.parameter_penalty(bare, bare, "head")


def test_fisher_weighs_each_kernel_and_nothing_else():
    params = {"body": {"kernel": jnp.array([1.0, 3.0]), "bias": jnp.array([9.0])}, "head": {"kernel": jnp.array([7.0])}}
    source = jax.tree.map(jnp.zeros_like, params)
    fisher = {"fisher": {"body": {"kernel": jnp.array([0.5, 4.0])}}}
    method = methods.create("l2_sp_fisher")
    value, gradient = jax.value_and_grad(method.parameter_penalty)(params, source, "head", fisher)
    assert value == 0.5 * (0.5 * 1 + 4 * 9)
    np.testing.assert_array_equal(gradient["body"]["kernel"], [0.5, 12])
    assert gradient["body"]["bias"] == gradient["head"]["kernel"] == 0
    with pytest.raises(ValueError, match="none of the weights is of a parameter that counts"):
        method.parameter_penalty(params, source, "head", {"fisher": {"other": {"kernel": jnp.ones(2)}}})


# With the source's classifier.

HEAD = {"kernel": RNG.standard_normal((10, 8)), "bias": RNG.standard_normal(8)}


def test_learning_without_forgetting_is_tllibs_distillation(expected):
    def mean(logits):
        return jnp.mean(lwf.distillation(logits, jnp.asarray(public.SOURCE_LOGITS), 2.0))

    value, gradient = jax.value_and_grad(mean)(jnp.asarray(public.LOGITS))
    np.testing.assert_allclose(value, expected["kd"], rtol=1e-12)
    np.testing.assert_allclose(gradient, expected["kd/gradient"], rtol=1e-10, atol=1e-14)
    same = lwf.distillation(jnp.asarray(public.LOGITS), jnp.asarray(public.LOGITS), 2.0)
    np.testing.assert_allclose(same, 0, atol=1e-14)


def test_co_tuning_is_tllibs(expected):
    relationship = jnp.asarray(expected["co_tuning/relationship"])

    def mean(logits):
        return jnp.mean(co_tuning.relationship_loss(logits, relationship, jnp.asarray(public.LABELS)))

    value, gradient = jax.value_and_grad(mean)(jnp.asarray(public.LOGITS))
    np.testing.assert_allclose(value, expected["co_tuning"], rtol=1e-12)
    np.testing.assert_allclose(gradient, expected["co_tuning/gradient"], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["lwf", "co_tuning"])
def test_the_sources_classifier_sees_the_features_and_the_rows_of_its_examples(name):
    method = methods.create(name)
    shapes = Shapes({}, 10, HEAD)
    own = method.own_parameters(jax.random.key(0), shapes)
    features, index, labels = public.FEATURES["wide"], np.array([4, 0, 3, 3, 1, 2]), np.array([1, 0, 2, 2, 1, 0])
    recorded, relationship = RNG.standard_normal((5, 8)), np.exp(RNG.standard_normal((3, 8)))
    relationship /= relationship.sum(1, keepdims=True)
    measured = {"source_logits": jnp.asarray(recorded), "relationship": jnp.asarray(relationship)}
    by_hand = 0.0
    for row in range(6):
        logits = features[row] @ HEAD["kernel"] + HEAD["bias"]
        if name == "lwf":
            p, q = (np.exp(x / 2) / np.exp(x / 2).sum() for x in (recorded[index[row]], logits))
            by_hand += (p * np.log(p / q)).sum() / 6
        else:
            by_hand -= (relationship[labels[row]] * (logits - np.log(np.exp(logits).sum()))).sum() / 6

    def penalty(trained):
        return method.batch_penalty(Seen(trained["seen"], labels, index, trained["own"], measured))

    trained = {"seen": features, "own": own}
    np.testing.assert_allclose(penalty(trained), by_hand, rtol=1e-12)
    difference, gradient = along(penalty, trained)
    np.testing.assert_allclose(gradient, difference, rtol=1e-6)


# Bi-Tuning.


class SmallBiTuning(bi_tuning.BiTuning):
    length, momentum, temperature = public.QUEUE, public.MOMENTUM, public.TEMPERATURE


def test_two_steps_of_bi_tuning_are_tllibs(expected):
    method = SmallBiTuning()
    projector = {"kernel": jnp.asarray(public.PROJECTOR), "bias": jnp.asarray(public.PROJECTOR_BIAS)}
    params, own = {"backbone": jnp.asarray(public.BACKBONE)}, {"projector": projector}
    head = {"kernel": jnp.asarray(public.BI_HEAD), "bias": jnp.asarray(public.BI_BIAS)}
    # There [D, classes, places], here [classes, places, D].
    queues = {name: expected[f"bi_tuning/{there}"] for name, there in QUEUES.items()}
    queues = {name: jnp.asarray(np.moveaxis(queue, 0, -1)) for name, queue in queues.items()}
    keys = jax.tree.map(lambda leaf: public.KEY_FACTOR * leaf, {"network": params, "own": own})
    buffers = {"keys": keys, "queues": queues, "pointer": jnp.zeros(3, jnp.int32)}

    def seen(trained, step, buffers):
        (query, key), labels = public.VIEWS[step], public.VIEW_LABELS[step]
        followers = jax.lax.stop_gradient(method.key_parameters(params, own, buffers))
        return Seen(
            query @ trained["backbone"],
            jnp.asarray(labels),
            jnp.arange(6),
            {"projector": {"kernel": trained["projector"], "bias": projector["bias"]}},
            {},
            head,
            key @ followers["network"]["backbone"],
            followers,
            buffers,
        )

    trained = {"backbone": params["backbone"], "projector": projector["kernel"]}
    for step in (0, 1):

        def penalty(trained, step=step, buffers=buffers):
            return method.batch_penalty(seen(trained, step, buffers))

        value, gradient = jax.value_and_grad(penalty)(trained)
        np.testing.assert_allclose(value, expected[f"bi_tuning/{step}/loss"], rtol=1e-10)
        for name, found in gradient.items():
            np.testing.assert_allclose(found, expected[f"bi_tuning/{step}/{name}"], rtol=1e-8, atol=1e-10)
        buffers = method.carried(seen(trained, step, buffers))
    for name, there in QUEUES.items():
        after = np.moveaxis(expected[f"bi_tuning/after/{there}"], 0, -1)
        np.testing.assert_allclose(buffers["queues"][name], after, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(buffers["pointer"], expected["bi_tuning/after/pointer"])
    np.testing.assert_allclose(buffers["keys"]["network"]["backbone"], expected["bi_tuning/after/keys"], rtol=1e-12)


QUEUES = {"features": "queue_h", "projections": "queue_z"}


def test_keys_take_the_oldest_places_one_after_the_other():
    # A loop that writes one key at a time; of class 1 come more keys than there are places.
    labels, length = np.array([1, 0, 1, 1, 2, 1, 1, 1, 0]), 4
    queue, pointer, keys = RNG.standard_normal((3, length, 2)), np.array([3, 1, 0]), RNG.standard_normal((9, 2))
    found, after = bi_tuning.enqueued(jnp.asarray(queue), jnp.asarray(pointer), keys, jnp.asarray(labels))
    for label, key in zip(labels, keys, strict=True):
        queue[label, pointer[label]] = key
        pointer[label] = (pointer[label] + 1) % length
    np.testing.assert_array_equal(found, queue)
    np.testing.assert_array_equal(after, pointer)
