"""Penalties of other methods on what the head sees of a batch, and their gradients, in float64.

Expected numbers are those of the methods' public code (tests/golden/public_methods.py), of loops in numpy, and of
finite differences.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delta_jax import methods
from delta_jax.methods import Seen, Shapes, bi_tuning, bss, co_tuning, lwf
from tests.finite_differences import along
from tests.golden import public_methods as public

pytestmark = pytest.mark.usefixtures("wide")
RNG = np.random.default_rng(0)
SHAPES = Shapes({"tap": (4, 5, 6)}, features=10)

# Batch spectral shrinkage.


@pytest.mark.parametrize("name", public.FEATURES)
@pytest.mark.parametrize("k", [1, 3])
def test_spectral_shrinkage_is_tllibs(published, name, k):
    value, gradient = jax.value_and_grad(bss.spectral_shrinkage)(jnp.asarray(public.FEATURES[name]), k)
    np.testing.assert_allclose(value, published[f"bss/{name}/{k}"], rtol=1e-12)
    np.testing.assert_allclose(gradient, published[f"bss/{name}/{k}/gradient"], rtol=1e-9, atol=1e-11)


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
    difference, gradient = along(lambda x: bss.spectral_shrinkage(x, 2), close, RNG)
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


# With the source's classifier.

HEAD = {"kernel": RNG.standard_normal((10, 8)), "bias": RNG.standard_normal(8)}


def test_learning_without_forgetting_is_tllibs_distillation(published):
    def mean(logits):
        return jnp.mean(lwf.distillation(logits, jnp.asarray(public.SOURCE_LOGITS), 2.0))

    value, gradient = jax.value_and_grad(mean)(jnp.asarray(public.LOGITS))
    np.testing.assert_allclose(value, published["kd"], rtol=1e-12)
    np.testing.assert_allclose(gradient, published["kd/gradient"], rtol=1e-10, atol=1e-14)
    same = lwf.distillation(jnp.asarray(public.LOGITS), jnp.asarray(public.LOGITS), 2.0)
    np.testing.assert_allclose(same, 0, atol=1e-14)


def test_co_tuning_is_tllibs(published):
    relationship = jnp.asarray(published["co_tuning/relationship"])

    def mean(logits):
        return jnp.mean(co_tuning.relationship_loss(logits, relationship, jnp.asarray(public.LABELS)))

    value, gradient = jax.value_and_grad(mean)(jnp.asarray(public.LOGITS))
    np.testing.assert_allclose(value, published["co_tuning"], rtol=1e-12)
    np.testing.assert_allclose(gradient, published["co_tuning/gradient"], rtol=1e-10, atol=1e-14)


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
    difference, gradient = along(penalty, trained, RNG)
    np.testing.assert_allclose(gradient, difference, rtol=1e-6)


# Bi-Tuning.


class SmallBiTuning(bi_tuning.BiTuning):
    length, momentum, temperature = public.QUEUE, public.MOMENTUM, public.TEMPERATURE


def test_two_steps_of_bi_tuning_are_tllibs(published):
    method = SmallBiTuning()
    projector = {"kernel": jnp.asarray(public.PROJECTOR), "bias": jnp.asarray(public.PROJECTOR_BIAS)}
    params, own = {"backbone": jnp.asarray(public.BACKBONE)}, {"projector": projector}
    head = {"kernel": jnp.asarray(public.BI_HEAD), "bias": jnp.asarray(public.BI_BIAS)}
    # There [D, classes, places], here [classes, places, D].
    queues = {name: published[f"bi_tuning/{there}"] for name, there in QUEUES.items()}
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
        np.testing.assert_allclose(value, published[f"bi_tuning/{step}/loss"], rtol=1e-10)
        for name, found in gradient.items():
            np.testing.assert_allclose(found, published[f"bi_tuning/{step}/{name}"], rtol=1e-8, atol=1e-10)
        buffers = method.carried(seen(trained, step, buffers))
    for name, there in QUEUES.items():
        after = np.moveaxis(published[f"bi_tuning/after/{there}"], 0, -1)
        np.testing.assert_allclose(buffers["queues"][name], after, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(buffers["pointer"], published["bi_tuning/after/pointer"])
    np.testing.assert_allclose(buffers["keys"]["network"]["backbone"], published["bi_tuning/after/keys"], rtol=1e-12)


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
