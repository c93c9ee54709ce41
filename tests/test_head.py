"""The convex head against scipy's optimiser on the same objective, and the paths that heads lie at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from sklearn.linear_model import LogisticRegression

from delta_jax.training.head import fit_head, get_head, new_head, put_head

N, D, K = 60, 8, 4
RNG = np.random.default_rng(0)
FEATURES = np.abs(RNG.standard_normal((N, D))).astype(np.float32)  # as behind a ReLU and a mean
LABELS = np.argmax(FEATURES[:, :K] + 0.5 * RNG.standard_normal((N, K)), axis=1).astype(np.int32)
ZEROS = {"kernel": jnp.zeros((D, K)), "bias": jnp.zeros(K)}


def _objective(flat, l2):
    kernel, bias = flat[: D * K].reshape(D, K), flat[D * K :]
    logits = FEATURES.astype(np.float64) @ kernel + bias
    cross_entropy = scipy.special.logsumexp(logits, axis=1) - logits[np.arange(N), LABELS]
    return cross_entropy.mean() + l2 / 2 * (flat**2).sum()


@pytest.mark.parametrize("l2", [1e-3, 0.01, 1.0])
def test_fit_head_finds_the_optimum(l2):
    expected = scipy.optimize.minimize(
        _objective, np.zeros(D * K + K), args=(l2,), method="BFGS", options={"gtol": 1e-6}
    )
    found = fit_head(FEATURES, LABELS, ZEROS, jnp.float32(l2))
    flat = np.concatenate([np.ravel(found["kernel"]), found["bias"]]).astype(np.float64)
    assert _objective(flat, l2) - expected.fun < 1e-6
    np.testing.assert_allclose(flat, expected.x, atol=2e-2 if l2 < 0.01 else 2e-3)


def test_fit_head_is_logistic_regression_with_a_penalty_on_the_bias():
    # sklearn leaves the bias free; as the weight of a feature that is 1 everywhere, it is penalised there, too.
    # C = 1 / (N * l2): sklearn sums its losses.
    found = fit_head(FEATURES, LABELS, ZEROS, jnp.float32(0.01))
    model = LogisticRegression(C=1 / (N * 0.01), fit_intercept=False, tol=1e-8, max_iter=10_000)
    model.fit(np.concatenate([FEATURES, np.ones((N, 1))], axis=1).astype(np.float64), LABELS)
    expected = model.coef_.T
    np.testing.assert_allclose(np.concatenate([found["kernel"], found["bias"][None]]), expected, atol=2e-3)


def test_fit_head_forgets_where_it_started():
    start = {"kernel": 3.0 + jax.random.normal(jax.random.key(0), (D, K)), "bias": jnp.arange(4.0)}
    from_there = fit_head(FEATURES, LABELS, start, jnp.float32(0.01))
    from_zeros = fit_head(FEATURES, LABELS, ZEROS, jnp.float32(0.01))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), from_there, from_zeros)


def test_new_heads():
    like = {"kernel": jnp.ones((400, 50)), "bias": jnp.ones(50)}
    zeros, normal = (new_head(kind, like, jax.random.key(0)) for kind in ("zeros", "normal"))
    assert not any(leaf.any() for leaf in jax.tree.leaves(zeros))
    np.testing.assert_allclose(normal["kernel"].std(), 0.01, rtol=0.02)  # of 20,000 draws
    np.testing.assert_allclose(normal["kernel"].mean(), 0.0, atol=3e-4)
    assert not normal["bias"].any()


def test_heads_at_the_top_and_nested():
    head = {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}
    for path, params in (
        ("fc", {"conv": 1, "fc": {"kernel": 2}}),
        ("a/b/fc", {"c": 1, "a": {"d": 2, "b": {"fc": {}}}}),
    ):
        before = jax.tree.map(lambda leaf: leaf, params)
        after = put_head(params, path, head)
        assert params == before
        assert get_head(after, path).keys() == head.keys()
        assert all(get_head(after, path)[leaf] is head[leaf] for leaf in head)
        assert get_head(after, path) is not head
        back = put_head(after, path, get_head(params, path))
        assert back == before
