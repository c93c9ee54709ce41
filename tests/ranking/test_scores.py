"""LogME and H-scores against published implementations, and against what they are by definition."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.covariance import LedoitWolf

from delta_jax.ranking import scores

# What the public code of LogME and of the Transfer Learning Library gave, with commits and versions in "origin".
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ranking_scores.json").read_text())["cases"]


def arrays(case):
    return np.array(case["features"]), np.array(case["labels"])


@pytest.mark.parametrize("name", GOLDEN)
def test_logme_is_what_published_code_gives_or_what_it_would_have_come_to(name):
    case = GOLDEN[name]
    found = scores.logme(*arrays(case))
    # They stop when a / b has changed by less than a hundredth, or after 11 iterations: never above the maximum.
    for published in (case["logme_icml"], case["tllib_logme"]):
        assert found == pytest.approx(published, abs=1e-3)
        assert found >= published
    if name not in ("few_images", "duplicates"):
        assert found == pytest.approx(case["logme_fixed_point"], abs=1e-5)


@pytest.mark.parametrize("name", ["few_images", "duplicates"])
def test_the_later_published_logme_counts_directions_without_features(name):
    # It has D/2 log a, and takes log a away again for Q directions only: by (D - Q)/2 log a it is no evidence.
    case = GOLDEN[name]
    assert case["logme_fixed_point"] - scores.logme(*arrays(case)) > 0.04


@pytest.mark.parametrize("name", GOLDEN)
def test_h_scores_are_those_of_published_code(name):
    case = GOLDEN[name]
    features, labels = arrays(case)
    found, n = scores.h_scores(features, labels), len(labels)
    assert found.plain == pytest.approx(case["h_score"], rel=1e-9)
    # There the classes' covariance is over n - 1 and that of the features over n; here both are over n.
    assert found.shrunk == pytest.approx(case["regularized_h_score"] * (n - 1) / n, rel=1e-9, abs=1e-12)
    assert found.shrinkage == pytest.approx(LedoitWolf().fit(features).shrinkage_, rel=1e-9)


def log_evidence(features, y, a, b):
    """log N(y; 0, 1/b + F F' / a) per image, from the N x N covariance."""
    n = len(y)
    covariance = np.eye(n) / b + features @ features.T / a
    _, log_det = np.linalg.slogdet(covariance)
    return -0.5 * (n * np.log(2 * np.pi) + log_det + y @ np.linalg.solve(covariance, y)) / n


@pytest.mark.parametrize(("n", "d"), [(30, 4), (12, 20), (20, 20)])
def test_logme_is_the_largest_evidence_there_is(n, d):
    rng = np.random.default_rng(n)
    labels = np.arange(n) % 3
    features = rng.normal(size=(3, d))[labels] + rng.normal(size=(n, d))
    largest = []
    for k in range(3):
        y = (labels == k).astype(float)
        start = max(np.ndindex(12, 12), key=lambda at, y=y: log_evidence(features, y, *np.exp(np.array(at) - 4.0)))
        end = minimize(
            lambda at, y=y: -log_evidence(features, y, *np.exp(at)),
            np.array(start) - 4.0,
            method="Nelder-Mead",
            options={"xatol": 1e-6, "fatol": 1e-12},
        )
        largest.append(-end.fun)
    assert scores.logme(features, labels) == pytest.approx(np.mean(largest), abs=1e-7)


def test_of_two_maxima_of_the_evidence_the_larger_one_counts():
    # A strong direction gives half of the class, twenty weak ones, of which one gives the rest, are drowned by a ridge
    # that is right for the first: a fixed point that begins at a = b = 1 ends at one maximum, and never sees the other.
    n, rng = 60, np.random.default_rng(0)
    y = np.arange(n) % 2.0
    noise = rng.normal(size=(n, 20))
    basis = np.linalg.qr(np.c_[y / np.linalg.norm(y) + noise[:, 0] / np.linalg.norm(noise[:, 0]), y, noise])[0]
    basis = np.linalg.qr(np.c_[basis[:, 0], basis[:, 1] + 1e-4 * rng.normal(size=n), basis[:, 2:]])[0]
    singular = np.r_[1e2, np.full(basis.shape[1] - 1, 1e-3)]
    largest, maxima = [], []
    for target in (y, 1 - y):
        seen = np.square(basis.T @ target)
        t = np.exp(np.linspace(-40, 25, 4000))[:, None]
        left = target @ target - seen.sum() + (seen * t / (t + singular**2)).sum(1)
        log_det = np.log(t / (t + singular**2)).sum(1)
        evidence = 0.5 * (np.log(n / left) - 1 - np.log(2 * np.pi) + log_det / n)
        largest.append(evidence.max())
        maxima.append(((evidence[1:-1] > evidence[:-2]) & (evidence[1:-1] > evidence[2:])).sum())
    assert max(maxima) == 2
    assert scores.logme(basis * singular, y.astype(int)) == pytest.approx(np.mean(largest), abs=1e-4)


def test_h_score_is_the_trace_it_is_defined_by():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [5, 11, 20])
    features = rng.normal(size=(3, 6))[labels] + rng.normal(size=(36, 6))
    centred = features - features.mean(0)
    means = np.array([centred[labels == k].mean(0) for k in labels])
    trace = np.trace(np.linalg.inv(centred.T @ centred) @ (means.T @ means))
    assert scores.h_scores(features, labels).plain == pytest.approx(trace, rel=1e-12)


@pytest.mark.parametrize("name", GOLDEN)
def test_what_says_nothing_of_the_classes_changes_no_score(name):
    features, labels = arrays(GOLDEN[name])
    rng = np.random.default_rng(0)
    turned = features @ np.linalg.qr(rng.normal(size=(features.shape[1],) * 2))[0]
    order = rng.permutation(len(labels))
    logme, plain = scores.logme(features, labels), scores.h_scores(features, labels).plain
    for other, others_labels in (
        (turned, labels),
        (features[order], labels[order]),
        (1e3 * features, labels),
        (np.c_[features, features], labels),  # twice each
        (np.c_[features, np.zeros((len(labels), 7))], labels),
        (features, 5 * labels - 3),  # classes without images, in between
    ):
        assert scores.logme(other, others_labels) == pytest.approx(logme, abs=1e-7)
        assert scores.h_scores(other, others_labels).plain == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize("constant", [0.0, 1.0, 0.1, 1e6])
def test_features_that_are_all_the_same_explain_nothing(constant):
    labels = np.arange(30) % 3
    features = np.full((30, 4), constant)
    assert scores.h_scores(features, labels) == (0, 0, 0)
    # One weight, that of a bias: by hand, without the prior's part, the log of a normal with mean 1/3 is -0.66.
    assert -0.90 < scores.logme(features, labels) < -0.66


def test_no_more_images_than_features_fill_the_plain_h_score():
    features = np.random.default_rng(0).normal(size=(12, 40))
    found = scores.h_scores(features, np.arange(12) % 4)
    assert found.plain == pytest.approx(3)
    assert found.shrunk < 1.5


def test_a_class_that_features_give_exactly_has_no_bound():
    labels = np.arange(30) % 3
    features = np.c_[np.random.default_rng(0).normal(size=(30, 4)), labels == 0]
    assert scores.logme(features, labels) == np.inf
    assert np.isfinite(scores.logme(features[:4], labels[:4]))  # no fewer features than images: a limit


@pytest.mark.parametrize("score", [scores.logme, scores.h_scores])
@pytest.mark.parametrize(
    ("features", "labels", "error"),
    [
        (np.ones((4, 3)), np.zeros(4, int), r"the labels are of 1 class\(es\); expected two or more"),
        (np.ones((4, 3)), np.arange(3), r"expected features \[N, D\] and labels \[N\], got \[4, 3\] and \[3\]"),
        (np.ones(4), np.arange(4), r"got \[4\] and \[4\]"),
        (np.full((4, 3), np.nan), np.arange(4), "not finite"),
        (np.ones((4, 0)), np.arange(4), "no features"),
    ],
)
def test_what_cannot_be_scored_is_one_line(score, features, labels, error):
    with pytest.raises(ValueError, match=error):
        score(features, labels)
