"""The convex head against scipy's optimiser on the same objective, and the paths that heads lie at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from sklearn.linear_model import LogisticRegression

from delta_jax import models
from delta_jax.models.checks import init_shapes
from delta_jax.training import optim
from delta_jax.training.head import fit_head, get_head, logits, new_head, put_head

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


def test_fit_head_without_bias():
    # sklearn without the column of ones that stands for the bias, see above.
    found = fit_head(FEATURES, LABELS, {"kernel": jnp.zeros((D, K))}, jnp.float32(0.01))
    model = LogisticRegression(C=1 / (N * 0.01), fit_intercept=False, tol=1e-8, max_iter=10_000)
    model.fit(FEATURES.astype(np.float64), LABELS)
    assert found.keys() == {"kernel"}
    np.testing.assert_allclose(found["kernel"], model.coef_.T, atol=2e-3)
    np.testing.assert_allclose(logits(found, FEATURES), FEATURES @ np.asarray(found["kernel"]), rtol=1e-5)


def test_a_new_head_for_other_classes():
    like = {"kernel": jnp.ones((6, 50)), "bias": jnp.ones(50)}
    assert _shapes(new_head("normal", like, jax.random.key(0), 7)) == {"kernel": (6, 7), "bias": (7,)}
    assert _shapes(new_head("zeros", {"kernel": like["kernel"]}, jax.random.key(0), 7)) == {"kernel": (6, 7)}
    with pytest.raises(ValueError, match=r"head 'xavier' is not one of \('zeros', 'normal'\)"):
        new_head("xavier", like, jax.random.key(0))


def _shapes(head):
    return {name: leaf.shape for name, leaf in head.items()}


# One network of each family, and one of somebody else with its head inside another module.
NETWORKS = {models.spec(name).family: name for name in reversed(models.names())} | {"own": "examples.own_model:spec"}


@pytest.mark.parametrize("arch", NETWORKS.values(), ids=NETWORKS)
def test_head_surgery(arch):
    """The head is found by path, replaced by one of every kind and another width, and learns at its own rate."""
    spec = models.spec(arch)
    params = init_shapes(models.create(arch), spec.input_size)["params"]
    before = jax.tree.map(lambda leaf: leaf, params)
    old = get_head(params, spec.head)
    width = old["kernel"].shape[0]
    assert _shapes(old) == {"kernel": (width, 1000), "bias": (1000,)}
    trained = {"kernel": jnp.full((width, 3), 2.0), "bias": jnp.full(3, 2.0)}  # as L2-FE gives it: LP-FT
    for head in (*(new_head(kind, old, jax.random.key(0), 3) for kind in ("zeros", "normal")), trained):
        after = put_head(params, spec.head, head)
        assert all(get_head(after, spec.head)[leaf] is head[leaf] for leaf in head)
        assert jax.tree.structure(after) == jax.tree.structure(params)
        changed = jax.tree.map(lambda a, b: a is not b, before, after)
        assert sum(jax.tree.leaves(changed)) == 2  # kernel and bias
        assert before == params

    small = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[-1:]), params)  # paths are what counts
    tx = optim.make_optimizer(small, lambda _: 0.1, head=spec.head, head_learning_rate_factor=10.0, momentum=0.0)
    ones = jax.tree.map(jnp.ones_like, small)
    updates, _ = jax.jit(tx.update)(ones, tx.init(small), small)
    rates = {jax.tree_util.keystr(path): float(-u[0]) for path, u in jax.tree.leaves_with_path(updates)}
    fast = {path for path, rate in rates.items() if np.isclose(rate, 1.0)}
    place = "".join(f"['{name}']" for name in spec.head.split("/"))
    assert fast == {f"{place}['kernel']", f"{place}['bias']"}
    np.testing.assert_allclose([rate for path, rate in rates.items() if path not in fast], 0.1, rtol=1e-6)


PARAMS = {
    "stem": {"kernel": jnp.ones((3, 3, 3, 8)), "bias": jnp.ones(8)},
    "classifier": {"norm": {"scale": jnp.ones(8)}, "logits": {"kernel": jnp.ones((8, 5)), "bias": jnp.ones(5)}},
}


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("classifier/logit", r"no module 'classifier/logit' .*did you mean classifier/logits"),
        ("fc", r"no module 'fc' .*did you mean classifier/logits"),
        ("stem", r"the head 'stem' is no Dense layer .*\(3, 3, 3, 8\).*Dense layers are classifier/logits"),
        ("classifier", r"the head 'classifier' is no Dense layer .*a module"),
        ("classifier/norm", r"the head 'classifier/norm' is no Dense layer .*\(8,\)"),
        ("classifier/logits/kernel", r"no module 'classifier/logits/kernel'"),
    ],
)
def test_paths_without_a_head(path, complaint):
    head = {"kernel": jnp.ones((8, 2)), "bias": jnp.ones(2)}
    for action in (lambda: get_head(PARAMS, path), lambda: put_head(PARAMS, path, head)):
        with pytest.raises(ValueError, match=complaint):
            action()


def test_heads_that_do_not_fit():
    head = {"kernel": jnp.ones((8, 2)), "bias": jnp.ones(2)}
    for wrong in (head | {"kernel": jnp.ones((7, 2))}, {"kernel": head["kernel"]}):
        with pytest.raises(ValueError, match=r"the head 'classifier/logits' is .*\(8, 5\).* does not fit in"):
            put_head(PARAMS, "classifier/logits", wrong)


def test_a_weight_of_a_class_is_that_many_of_its_examples():
    # Written down m_k times, the examples of class k have m_k / (sum of all m) of the mean: weight m_k * N / sum m.
    times = np.array([1, 3, 2, 1])[LABELS]
    rows = np.repeat(np.arange(len(LABELS)), times)
    weights = jnp.asarray(np.array([1, 3, 2, 1]) * len(LABELS) / times.sum(), jnp.float32)
    expected = fit_head(FEATURES[rows], LABELS[rows], ZEROS, jnp.float32(0.01))
    found = fit_head(FEATURES, LABELS, ZEROS, jnp.float32(0.01), weights)
    for name, leaf in expected.items():
        np.testing.assert_allclose(found[name], leaf, atol=2e-4)
