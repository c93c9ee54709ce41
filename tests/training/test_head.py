"""The convex head against scipy's optimiser on the same objective, and the paths that heads lie at."""

import re
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from sklearn.linear_model import LogisticRegression

from delta_jax import models
from delta_jax.models.checks import init_shapes
from delta_jax.training import head_fit, head_phase, optim
from delta_jax.training.head import fit_head, get_head, logits, new_head, put_head
from delta_jax.workdir import json_files, logs
from delta_jax.workdir.variable_files import save_variables

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
    assert _objective(flat, l2) - expected.fun < 1e-9
    np.testing.assert_allclose(flat, expected.x, atol=2e-3 if l2 < 0.01 else 2e-4)


def test_fit_head_is_logistic_regression_with_a_penalty_on_the_bias():
    # sklearn leaves the bias free; as the weight of a feature that is 1 everywhere, it is penalised there, too.
    # C = 1 / (N * l2): sklearn sums its losses.
    found = fit_head(FEATURES, LABELS, ZEROS, jnp.float32(0.01))
    model = LogisticRegression(C=1 / (N * 0.01), fit_intercept=False, tol=1e-8, max_iter=10_000)
    model.fit(np.concatenate([FEATURES, np.ones((N, 1))], axis=1).astype(np.float64), LABELS)
    expected = model.coef_.T
    np.testing.assert_allclose(np.concatenate([found["kernel"], found["bias"][None]]), expected, atol=2e-5)


def test_fit_head_forgets_where_it_started():
    start = {"kernel": 3.0 + jax.random.normal(jax.random.key(0), (D, K)), "bias": jnp.arange(4.0)}
    from_there = fit_head(FEATURES, LABELS, start, jnp.float32(0.01))
    from_zeros = fit_head(FEATURES, LABELS, ZEROS, jnp.float32(0.01))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), from_there, from_zeros)


# Means of rectified maps: all positive, of many sizes, so that a weak penalty leaves a problem of condition 1e8.
HARD = (np.abs(RNG.standard_normal((300, 40))) * np.geomspace(0.01, 3, 40)).astype(np.float32)
HARD_LABELS = RNG.integers(0, 3, 300).astype(np.int32)
HARD_ZEROS = {"kernel": np.zeros((40, 3), np.float32), "bias": np.zeros(3, np.float32)}


def _newton(l2, weights):
    """The optimum [41, 3] by Newton's method with the whole Hessian, in float64; its gradient is below 1e-12."""
    x = np.concatenate([HARD, np.ones((300, 1))], axis=1).astype(np.float64)
    each = (np.ones(3) if weights is None else weights.astype(np.float64))[HARD_LABELS] / 300
    w = np.zeros((41, 3))
    for _ in range(12):
        p = scipy.special.softmax(x @ w, axis=1)
        gradient = x.T @ ((p - np.eye(3)[HARD_LABELS]) * each[:, None]) + l2 * w
        between = each[:, None, None] * (p[:, :, None] * np.eye(3) - p[:, :, None] * p[:, None, :])
        hessian = np.einsum("ni,nkl,nj->ikjl", x, between, x, optimize=True).reshape(123, 123) + l2 * np.eye(123)
        w = w - np.linalg.solve(hessian, gradient.ravel()).reshape(w.shape)
    assert np.linalg.norm(gradient) < 1e-12
    return w


@pytest.mark.parametrize(("l2", "weights"), [(1e-5, None), (1e-7, None), (1e-7, np.array([0.2, 1.0, 3.0], np.float32))])
def test_weak_penalties_end_at_the_optimum(l2, weights):
    expected = _newton(l2, weights)
    for start in (HARD_ZEROS, {"kernel": 3 + RNG.standard_normal((40, 3)), "bias": np.arange(3.0)}):
        found = head_fit.fit(HARD, HARD_LABELS, start, l2, weights)
        assert found.suboptimality < 1e-8
        kernel = np.concatenate([found.head["kernel"], found.head["bias"][None]])
        np.testing.assert_allclose(kernel, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def _loss_and_gradient(head, l2):
    logits = HARD.astype(np.float64) @ head["kernel"].astype(np.float64) + head["bias"].astype(np.float64)
    p = scipy.special.softmax(logits, axis=1)
    loss = -np.log(p[np.arange(300), HARD_LABELS]).mean()
    p[np.arange(300), HARD_LABELS] -= 1
    flat = np.concatenate([HARD, np.ones((300, 1))], axis=1).T @ p / 300
    weights = np.concatenate([head["kernel"], head["bias"][None]]).astype(np.float64)
    return loss + l2 / 2 * (weights**2).sum(), flat + l2 * weights


def test_a_fit_knows_how_far_from_the_optimum_it_ended():
    optimum = head_fit.fit(HARD, HARD_LABELS, HARD_ZEROS, 1e-6)
    for iterations in (1, 2, 3):
        found = head_fit.fit(HARD, HARD_LABELS, HARD_ZEROS, 1e-6, most_iterations=iterations)
        loss, gradient = _loss_and_gradient(found.head, 1e-6)
        assert found.loss == pytest.approx(loss, rel=1e-12)
        assert found.gradient_norm == pytest.approx(np.linalg.norm(gradient), rel=1e-2)  # that of the rounded head
        # f - f* <= ||g||^2 / (2 l2), and never less than what is missing in truth.
        assert found.suboptimality == pytest.approx(found.gradient_norm**2 / 2e-6 / loss, rel=1e-2)
        assert 1 - optimum.loss / loss <= found.suboptimality
        assert not found.is_optimal


def test_a_head_is_the_same_from_features_in_blocks_and_without_a_factor(monkeypatch):
    whole = head_fit.fit(HARD, HARD_LABELS, HARD_ZEROS, 1e-3)
    monkeypatch.setattr(head_fit, "_ROWS", 7)
    blocks = head_fit.fit(HARD, HARD_LABELS, HARD_ZEROS, 1e-3)
    monkeypatch.setattr(head_fit, "_LARGEST_FACTOR", 10)
    diagonal = head_fit.fit(HARD, HARD_LABELS, HARD_ZEROS, 1e-3)
    for other in (blocks, diagonal):
        assert other.is_optimal
        np.testing.assert_allclose(other.head["kernel"], whole.head["kernel"], atol=1e-4)


def test_the_choice_tells_what_it_knows_of_every_strength(monkeypatch):
    said = []
    monkeypatch.setattr(logs, "say", said.append)
    held_out = HARD[:50], HARD_LABELS[:50]
    head, facts = head_phase.choose(HARD, HARD_LABELS, held_out, (1e-3, 1e-1, 1e-2), HARD_ZEROS)
    assert [one["l2"] for one in facts["tried"]] == [1e-1, 1e-2, 1e-3]
    best = min(facts["tried"], key=lambda one: one["validation_loss"])
    loss, _ = _loss_and_gradient(head, facts["l2"])
    for name in ("l2", "loss", "gradient_norm", "suboptimality"):
        assert facts[name] == best[name]
    assert facts["loss"] == pytest.approx(loss, rel=1e-12)
    log_p = scipy.special.log_softmax(HARD[:50].astype(np.float64) @ head["kernel"] + head["bias"], axis=1)
    assert facts["validation"]["cross_entropy"] == pytest.approx(-log_p[np.arange(50), HARD_LABELS[:50]].mean())
    head_phase._say_what_is_missing(facts)
    assert not said
    monkeypatch.setattr(head_fit, "fit", partial(head_fit.fit, most_iterations=1))
    head_phase._say_what_is_missing(head_phase.choose(HARD, HARD_LABELS, held_out, (1e-1, 1e-4), HARD_ZEROS)[1])
    assert re.fullmatch(
        r"head \(L2-FE\): not at the optimum, the loss is too large with penalty .*0\.0001 \(by up to .* of it\)"
        r".*leave penalties that weak out of --config\.head_l2",
        *said,
    )


@pytest.mark.parametrize("strengths", [(1e-1, 1e-2, 1e-3, 1e-4, 1e-5), (0.0101, 0.01, 0.0099)])
def test_the_choice_is_that_of_heads_that_are_all_at_their_optimum(strengths):
    held_out = RNG.permutation(HARD)[:60], HARD_LABELS[:60]
    head, facts = head_phase.choose(HARD, HARD_LABELS, held_out, strengths, HARD_ZEROS)
    losses = {}
    for l2 in strengths:
        exact = head_fit.fit(HARD, HARD_LABELS, HARD_ZEROS, l2).head
        log_p = scipy.special.log_softmax(held_out[0].astype(np.float64) @ exact["kernel"] + exact["bias"], axis=1)
        losses[l2] = -log_p[np.arange(60), held_out[1]].mean()
        if l2 == facts["l2"]:
            np.testing.assert_allclose(head["kernel"], exact["kernel"], atol=1e-4 * np.abs(exact["kernel"]).max())
    assert facts["l2"] == min(losses, key=losses.__getitem__)
    exact_enough = [one["l2"] for one in facts["tried"] if one["suboptimality"] <= 1e-9]
    # Penalties that differ by a hundredth choose nothing before each of them is at its optimum.
    assert facts["l2"] in exact_enough
    assert len(strengths) == 5 or len(exact_enough) == 3
    assert all(one["suboptimality"] <= head_fit.AT_OPTIMUM for one in facts["tried"])


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_features_of_any_scale_that_repeat_each_other_or_say_nothing(scale):
    features = np.concatenate([HARD, HARD, np.zeros((300, 2)), np.ones((300, 1))], axis=1).astype(np.float32) * scale
    start = {"kernel": np.zeros((83, 3), np.float32), "bias": np.zeros(3, np.float32)}
    found = head_fit.fit(features.astype(np.float32), HARD_LABELS, start, 1e-5)
    assert found.suboptimality < 1e-8
    np.testing.assert_allclose(found.head["kernel"][:40], found.head["kernel"][40:80], atol=1e-3 / scale)
    np.testing.assert_array_equal(found.head["kernel"][80:82], 0)


def test_a_new_head_is_zero_or_normal_with_a_bias_of_zero():
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
    np.testing.assert_allclose(found["kernel"], model.coef_.T, atol=2e-5)
    np.testing.assert_allclose(logits(found, FEATURES), FEATURES @ np.asarray(found["kernel"]), rtol=1e-5, atol=1e-6)


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
def test_the_head_is_found_replaced_and_learns_at_its_own_rate(arch):
    """Replaced by one of every kind and another width."""
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
def test_a_path_without_a_head_is_refused_with_those_that_have_one(path, complaint):
    head = {"kernel": jnp.ones((8, 2)), "bias": jnp.ones(2)}
    for action in (lambda: get_head(PARAMS, path), lambda: put_head(PARAMS, path, head)):
        with pytest.raises(ValueError, match=complaint):
            action()


def test_a_head_that_does_not_fit_is_refused():
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
        np.testing.assert_allclose(found[name], leaf, atol=2e-5)


def test_a_head_that_nobody_checked_is_told(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(logs, "say", said.append)
    source = {"params": {"fc": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}}}
    setup: Any = SimpleNamespace(source=source, spec=SimpleNamespace(head="fc"))
    save_variables(
        tmp_path / "head.safetensors", {"kernel": np.ones((2, 3), np.float32), "bias": np.ones(3, np.float32)}
    )
    for facts, lines in ({"l2": 0.1, "suboptimality": 1e-11}, 0), ({"l2": 0.1}, 1):
        json_files.write(tmp_path / "head.json", facts)
        found = head_phase.l2_fe(setup, tmp_path)
        np.testing.assert_array_equal(found["params"]["fc"]["kernel"], np.ones((2, 3)))
        assert len(said) == lines
    assert "head.safetensors is of an earlier version, which did not check that it is at its optimum" in said[0]
