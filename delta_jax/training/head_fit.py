"""The optimum of a head on fixed features, in float64 on the host, and a proof of how near it is.

Multinomial logistic regression with a penalty l2 is strongly convex, so that the gradient g bounds what is missing:
f - f* <= ||g||^2 / (2 l2). In float32 the gradient of a weak penalty is noise before that says anything.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

TOLERANCE = 1e-10  # of the loss: the fit ends when no more than this can be missing
AT_OPTIMUM = 1e-4  # of the loss: farther from it than this is no optimum
MOST_EVALUATIONS = 3000  # of the loss and its gradient
_ITERATIONS = 60  # with one preconditioner; a later one knows better which examples are still in doubt
_CORRECTIONS = 20  # that L-BFGS keeps
_ROWS = 4096  # of the features that are float64 at once, where all of them would take more than
_KEPT_BYTES = 2**30
_FOR_ONE_THREAD = 2e8  # multiplications an evaluation; with fewer, threads wait for longer than they work
_LARGEST_FACTOR = 8192  # features; of more the preconditioner is diagonal, its factor would not fit into memory


class Fit(NamedTuple):
    """A head and how good it is.

    Attributes:
      head: {"kernel": float32 [D, K], "bias": [K]}, "bias" where the start has one.
      loss: mean cross-entropy + l2 * 1/2 ||head||^2, in float64.
      gradient_norm: of the loss, in float64, before the head was rounded to float32.
      suboptimality: at most this share of the loss lies above the least possible one, rounding included.
    """

    head: dict[str, np.ndarray]
    loss: float
    gradient_norm: float
    suboptimality: float

    @property
    def is_optimal(self) -> bool:
        """Whether the loss is the least possible one but for a ten-thousandth."""
        return self.suboptimality <= AT_OPTIMUM


def fit(
    features: Any,
    labels: Any,
    start: Mapping[str, Any],
    l2: float,
    label_weights: Any = None,
    *,
    tell: Callable[[str], None] | None = None,
    most_evaluations: int = MOST_EVALUATIONS,
) -> Fit:
    """Minimises mean cross-entropy + l2 * 1/2 ||head||^2; arguments as `head.fit_head`.

    L-BFGS in coordinates in which the Hessian at the last restart is nearly the identity, until the bound on what is
    missing is below `TOLERANCE` of the loss.

    Args:
      features, labels, start, l2, label_weights: as `head.fit_head`.
      tell: called with a few words at every restart.
      most_evaluations: of the loss after which it ends in any case.
    """
    problem = _Problem(np.asarray(features), np.asarray(labels), "bias" in start, float(l2), label_weights)
    weights = np.asarray(start["kernel"], np.float64)
    if "bias" in start:
        weights = np.concatenate([weights, np.asarray(start["bias"], np.float64)[None]])
    work = weights.size * max(len(problem), len(weights))
    with threadpool_limits(1 if work < _FOR_ONE_THREAD else None, user_api="blas"):
        return _rounded(problem, _minimum(problem, weights, tell, most_evaluations), start)


def _minimum(
    problem: "_Problem", weights: np.ndarray, tell: Callable[[str], None] | None, most_evaluations: int
) -> "_Evaluation":
    # From a start that is sure of what is wrong the way is long: nothing is to be learned from the curvature there.
    best = min(map(problem.evaluate, (weights, np.zeros_like(weights))), key=lambda one: one.loss)
    done = 0
    while best.missing > TOLERANCE and done < most_evaluations:
        found, evaluations, stuck = _descend(problem, best, most_evaluations - done)
        done += evaluations
        # Where losses are equal in float64 the line search ends: then the gradient says which point is better.
        ended = stuck and found.loss >= best.loss * (1 - 1e-14)
        best = min(found, best, key=lambda one: one.missing) if ended else found
        if ended:
            break
        if tell:
            tell(f"{done} evaluations, at most {best.missing:.1g} of the loss from the optimum")
    return best


def _descend(problem: "_Problem", start: "_Evaluation", most: int) -> tuple["_Evaluation", int, bool]:
    """Some iterations of L-BFGS: where it came, evaluations, and whether it ended because it found nothing better."""
    from scipy import optimize  # a third of a second to import

    change = _Coordinates(problem, start.weights)
    best = last = start
    evaluations = 0

    def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal last, evaluations
        evaluations += 1
        last = problem.evaluate(change.to_weights(flat.reshape(start.weights.shape)))
        return last.loss, change.of_gradient(last.gradient).ravel()

    def watch(intermediate_result) -> None:
        nonlocal best
        best = last  # the accepted point is the last that was looked at
        if best.missing <= TOLERANCE or evaluations >= most:
            raise StopIteration

    found = optimize.minimize(
        value_and_gradient,
        change.from_weights(start.weights).ravel(),
        jac=True,
        method="L-BFGS-B",
        callback=watch,
        options={"maxiter": _ITERATIONS, "maxcor": _CORRECTIONS, "maxfun": 2**31 - 1, "ftol": 0.0, "gtol": 0.0},
    )
    return best, evaluations, found.nit < _ITERATIONS


class _Evaluation(NamedTuple):
    weights: np.ndarray
    loss: float
    gradient: np.ndarray
    missing: float  # at most, as a share of the loss


class _Problem:
    """The loss as a function of weights [D, K], or [D + 1, K] with the bias as the weights of a feature that is 1."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, bias: bool, l2: float, label_weights: Any):
        self._features, self._labels, self._bias, self.l2 = features, labels, bias, l2
        self._weights = np.ones(len(labels)) if label_weights is None else np.asarray(label_weights, float)[labels]
        self._kept = list(self._converted()) if features.size * 8 <= _KEPT_BYTES else None

    def __len__(self) -> int:
        return len(self._labels)

    def _blocks(self) -> Iterable[tuple[np.ndarray, slice]]:
        return self._converted() if self._kept is None else self._kept

    def _converted(self) -> Iterator[tuple[np.ndarray, slice]]:
        for start in range(0, len(self._labels), _ROWS):
            rows = slice(start, start + _ROWS)
            block = self._features[rows].astype(np.float64)
            yield (np.concatenate([block, np.ones((len(block), 1))], 1) if self._bias else block), rows

    def evaluate(self, weights: np.ndarray) -> _Evaluation:
        total, gradient, n = 0.0, self.l2 * weights, len(self._labels)
        for block, rows in self._blocks():
            labels, each = self._labels[rows], self._weights[rows]
            own = np.arange(len(labels)), labels
            logits = block @ weights
            logits -= logits.max(1, keepdims=True)
            exp = np.exp(logits)
            sums = exp.sum(1)
            total += float(each @ (np.log(sums) - logits[own]))
            residual = exp / sums[:, None]
            residual[own] -= 1
            gradient = gradient + block.T @ (residual * (each / n)[:, None])
        loss = total / n + self.l2 / 2 * float(np.vdot(weights, weights))
        return _Evaluation(weights, loss, gradient, float(np.vdot(gradient, gradient)) / (2 * self.l2) / loss)

    def curvature(self, weights: np.ndarray, *, diagonal: bool) -> np.ndarray:
        """l2 + the features' second moments, each example by how much it is in doubt: near the Hessian of a class."""
        size, n, classes = len(weights), len(self._labels), weights.shape[1]
        found = np.full(size, self.l2) if diagonal else self.l2 * np.eye(size)
        for block, rows in self._blocks():
            logits = block @ weights
            exp = np.exp(logits - logits.max(1, keepdims=True))
            squares = np.square(exp / exp.sum(1, keepdims=True)).sum(1)
            # For two classes this is the second derivative itself.
            doubt = self._weights[rows] * np.maximum(1 - squares, 0) / (n * max(classes - 1, 1))
            scaled = block * np.sqrt(doubt)[:, None]
            found += np.square(scaled).sum(0) if diagonal else scaled.T @ scaled
        return found


class _Coordinates:
    """Weights as L^-T times coordinates, where L L^T is the curvature at some weights."""

    def __init__(self, problem: _Problem, weights: np.ndarray):
        from scipy import linalg

        self._diagonal = len(weights) > _LARGEST_FACTOR
        curvature = problem.curvature(weights, diagonal=self._diagonal)
        self._factor = np.sqrt(curvature)[:, None] if self._diagonal else linalg.cholesky(curvature, lower=True)

    def from_weights(self, weights: np.ndarray) -> np.ndarray:
        return self._factor * weights if self._diagonal else self._factor.T @ weights

    def to_weights(self, coordinates: np.ndarray) -> np.ndarray:
        return coordinates / self._factor if self._diagonal else self._solved(coordinates, transposed=True)

    def of_gradient(self, gradient: np.ndarray) -> np.ndarray:
        return gradient / self._factor if self._diagonal else self._solved(gradient, transposed=False)

    def _solved(self, right: np.ndarray, *, transposed: bool) -> np.ndarray:
        from scipy import linalg

        return linalg.solve_triangular(self._factor, right, lower=True, trans=int(transposed), check_finite=False)


def _rounded(problem: _Problem, found: _Evaluation, start: Mapping[str, Any]) -> Fit:
    weights = found.weights.astype(np.float32)
    head = {"kernel": weights[:-1], "bias": weights[-1]} if "bias" in start else {"kernel": weights}
    # Not by the gradient: in stiff directions rounding gives one that says nothing.
    loss = problem.evaluate(weights.astype(np.float64)).loss
    missing = found.missing * found.loss + max(loss - found.loss, 0.0)
    norm = float(np.linalg.norm(found.gradient))
    return Fit(head, loss, norm, missing / loss)
