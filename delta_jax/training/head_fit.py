"""The optimum of a head on fixed features, in float64 on the host, and a proof of how near it is.

Multinomial logistic regression with a penalty l2 is strongly convex, so that the gradient g bounds what is missing:
f - f* <= ||g||^2 / (2 l2). In float32 the gradient of a weak penalty is noise before that says anything.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

TOLERANCE = 1e-10  # of the loss: the fit ends when no more than this can be missing
AT_OPTIMUM = 1e-4  # of the loss: farther from it than this is no optimum
MOST_ITERATIONS = 6000  # each is two products with the features
_ITERATIONS = 60  # with one preconditioner; a later one knows better which examples are still in doubt
_REDUCTION = 1e-5  # of what is missing, after which float64 says again where the fit is
_FLAT = 0.2  # of the slope at the start of a line: where the search along it ends
_EVEN = 1000  # times the penalty: where no eigenvalue is larger, a preconditioner does not pay
_CORRECTIONS = 20  # that L-BFGS keeps
_ROWS = 4096  # of the features that are float64 at once
_ROWS_IN_CACHE = 512  # of the logits
_FOR_ONE_THREAD = 2e8  # multiplications an iteration; with fewer, threads wait for longer than they work
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
    also: Sequence[Mapping[str, Any]] = (),
    tolerance: float = TOLERANCE,
    tell: Callable[[str], None] | None = None,
    most_iterations: int = MOST_ITERATIONS,
) -> Fit:
    """Minimises mean cross-entropy + l2 * 1/2 ||head||^2; arguments as `head.fit_head`.

    L-BFGS until the bound on what is missing is below `tolerance` of the loss.

    Args:
      features, labels, start, l2, label_weights: as `head.fit_head`.
      also: other heads to start from; the one with the least loss is taken, or zeros.
      tolerance: of the loss.
      tell: called with a few words now and then.
      most_iterations: after which it ends in any case.
    """
    problem = _Problem(np.asarray(features), np.asarray(labels), "bias" in start, float(l2), label_weights)
    starts = [_as_weights(head) for head in (start, *also)]
    work = starts[0].size * max(len(problem), len(starts[0]))
    with threadpool_limits(1 if work < _FOR_ONE_THREAD else None, user_api="blas"):
        return _rounded(problem, _minimum(problem, starts, tolerance, tell, most_iterations), start)


def _as_weights(head: Mapping[str, Any]) -> np.ndarray:
    kernel = np.asarray(head["kernel"], np.float64)
    return np.concatenate([kernel, np.asarray(head["bias"], np.float64)[None]]) if "bias" in head else kernel


def _minimum(
    problem: "_Problem",
    starts: Sequence[np.ndarray],
    tolerance: float,
    tell: Callable[[str], None] | None,
    most_iterations: int,
) -> "_Evaluation":
    # From a start that is sure of what is wrong the way is long: nothing is to be learned from the curvature there.
    best = problem.evaluate(min((np.zeros_like(starts[0]), *starts), key=problem.rough_loss))
    done, pairs = 0, deque[_Pair](maxlen=_CORRECTIONS)
    while best.missing > tolerance and done < most_iterations:
        most = min(_ITERATIONS, most_iterations - done)
        moved, iterations = _descend(problem, best, pairs, max(0.9 * tolerance, _REDUCTION * best.missing), most)
        found = problem.evaluate(moved)
        done += iterations
        # Where losses are equal in float64 the gradient says which point is better.
        if not (found.missing < best.missing or found.loss < best.loss * (1 - 1e-14)):
            break
        best = found
        if tell:
            tell(f"{done} iterations, at most {best.missing:.1g} of the loss from the optimum")
    return best


class _Pair(NamedTuple):
    step: np.ndarray
    change: np.ndarray  # of the gradient
    inverse: float  # of their inner product


def _descend(
    problem: "_Problem", start: "_Evaluation", pairs: "deque[_Pair]", until: float, most: int
) -> tuple[np.ndarray, int]:
    """Some iterations of L-BFGS: weights and how many.

    What changes from `start` on is computed with float32 products: their error is relative to the change, so that the
    gradient can fall a long way before it is lost in rounding.
    """
    weights, gradient, line = start.weights, start.gradient, _Line(problem, start.weights)
    precondition = _preconditioner(problem, weights) if line.spread() > _EVEN * problem.l2 else None
    scale = 2 * problem.l2 * start.loss
    for done in range(most):
        if float(np.vdot(gradient, gradient)) <= until * scale:
            return weights, done
        direction = -_times_inverse(gradient, pairs, precondition)
        wide = direction.astype(np.float64)
        slope, squares = float(np.vdot(gradient, wide)), problem.l2 * float(np.vdot(wide, wide))
        moved = line.search(direction, slope, squares) if slope < 0 else None
        if moved is None:
            if not pairs:
                return weights, done
            pairs.clear()  # they are of elsewhere
            continue
        length, change = moved
        change += problem.l2 * length * wide
        weights, gradient, step = weights + length * wide, gradient + change, length * direction
        inner = length * float(np.vdot(change, wide))
        if inner > 0:
            pairs.append(_Pair(step, change.astype(np.float32), 1 / inner))
    return weights, most


def _times_inverse(
    gradient: np.ndarray, pairs: "deque[_Pair]", precondition: Callable[[np.ndarray], np.ndarray] | None
) -> np.ndarray:
    """The gradient times the inverse Hessian as the pairs know it (Nocedal & Wright, algorithm 7.4), float32."""
    from scipy.linalg.blas import saxpy  # a third of a second to import

    norm = float(np.linalg.norm(gradient))
    found, shares = (gradient / norm).astype(np.float32), []
    flat = found.ravel()
    for pair in reversed(pairs):
        shares.append(float(np.vdot(pair.step, flat)) * pair.inverse)
        saxpy(pair.change.ravel(), flat, a=-shares[-1])  # in place
    if precondition:
        flat = precondition(found).ravel()
    elif pairs:
        flat /= np.float32(pairs[-1].inverse * float(np.vdot(pairs[-1].change, pairs[-1].change)))
    for pair, share in zip(pairs, reversed(shares), strict=True):
        saxpy(pair.step.ravel(), flat, a=share - float(np.vdot(pair.change, flat)) * pair.inverse)
    return flat.reshape(gradient.shape) * np.float32(norm)


class _Line:
    """Logits and probabilities where the fit is, in float64, and the way along a line from there."""

    def __init__(self, problem: "_Problem", weights: np.ndarray):
        self._problem = problem
        self._logits = np.concatenate([problem.times(block, weights) for block, _ in problem.blocks()])
        self.probabilities = np.concatenate([_softmax(self._logits[rows]) for rows in self._rows()])

    def spread(self) -> float:
        """At least the largest eigenvalue of the curvature that the classes share, see `_Problem.curvature`."""
        doubt = np.concatenate([1 - np.square(self.probabilities[rows]).sum(1) for rows in self._rows()])
        return float(self._problem.rates * self._problem.squares @ doubt) / max(self.probabilities.shape[1] - 1, 1)

    def _rows(self) -> Iterator[slice]:
        return (slice(i, i + _ROWS_IN_CACHE) for i in range(0, len(self._problem), _ROWS_IN_CACHE))

    def search(self, direction: np.ndarray, slope: float, squares: float) -> tuple[float, np.ndarray] | None:
        """The step to where the slope is nearly 0, and the change of the gradient of the cross-entropy.

        The products with the features are the same for all lengths, so that looking at one more is cheap.

        Args:
          direction: float32, as the weights.
          slope: of the loss at 0, < 0.
          squares: l2 * ||direction||^2.
        """
        problem, rate = self._problem, self._problem.rates
        along = problem.times(problem.narrow, direction)
        old = self.probabilities
        bends = [self._bend(along[rows], old[rows], rows) for rows in self._rows()]
        start, bend = sum(first for first, _ in bends), sum(second for _, second in bends) + squares
        if not np.isfinite(bend) or bend <= 0:
            return None
        low, high, length = 0.0, np.inf, -slope / bend
        new = np.empty_like(old)
        for _ in range(30):
            here, bend = slope - start + length * squares, squares
            for rows in self._rows():
                new[rows] = _softmax(self._logits[rows] + length * along[rows])
                first, second = self._bend(along[rows], new[rows], rows)
                here, bend = here + first, bend + second
            if abs(here) <= _FLAT * -slope:
                break
            low, high = (length, high) if here < 0 else (low, length)
            length -= here / bend
            if not low < length < high:
                length = (low + high) / 2 if high < np.inf else 2 * low
        change = np.empty(old.shape, np.float32)
        for rows in self._rows():
            change[rows] = (new[rows] - old[rows]) * rate[rows, None]
            self._logits[rows] += length * along[rows]
        self.probabilities = new
        return length, problem.transposed_times(problem.narrow, change).astype(np.float64)

    def _bend(self, along: np.ndarray, probabilities: np.ndarray, rows: slice) -> tuple[float, float]:
        """First derivative but for the labels' part, and second, of the cross-entropy along a line."""
        weighted = probabilities * along
        mean, rate = weighted.sum(1), self._problem.rates[rows]
        square = np.einsum("nk,nk->n", weighted, along)
        return float(rate @ mean), float(rate @ (square - np.square(mean)))


def _softmax(logits: np.ndarray) -> np.ndarray:
    exp = np.exp(logits - logits.max(1, keepdims=True))
    exp /= exp.sum(1, keepdims=True)
    return exp


class _Evaluation(NamedTuple):
    weights: np.ndarray
    loss: float
    gradient: np.ndarray
    missing: float  # at most, as a share of the loss


class _Problem:
    """The loss as a function of weights [D, K], or [D + 1, K] with the bias as the weights of a feature that is 1."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, bias: bool, l2: float, label_weights: Any):
        self._features, self._labels, self._bias, self.l2 = features, labels, bias, l2
        each = np.ones(len(labels)) if label_weights is None else np.asarray(label_weights, float)[labels]
        self.rates = each / len(labels)
        self.narrow = features.astype(np.float32, copy=False)
        self.squares = np.einsum("nd,nd->n", self.narrow, self.narrow, dtype=np.float64) + bias

    def __len__(self) -> int:
        return len(self._labels)

    def blocks(self) -> Iterator[tuple[np.ndarray, slice]]:
        """Some of the features in float64, and which."""
        for start in range(0, len(self._labels), _ROWS):
            rows = slice(start, start + _ROWS)
            yield self._features[rows].astype(np.float64), rows

    def times(self, block: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """[N, D] by weights: [N, K]."""
        if not self._bias:
            return block @ weights
        found = block @ weights[:-1]
        found += weights[-1]
        return found

    def transposed_times(self, block: np.ndarray, right: np.ndarray) -> np.ndarray:
        """[N, D] transposed by [N, K]: as the weights."""
        found = block.T @ right
        return np.concatenate([found, right.sum(0, keepdims=True)]) if self._bias else found

    def rough_loss(self, weights: np.ndarray) -> float:
        """The loss, from float32 products."""
        logits = self.times(self.narrow, weights.astype(np.float32)).astype(np.float64)
        logits -= logits.max(1, keepdims=True)
        each = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(self)), self._labels]
        return float(self.rates @ each) + self.l2 / 2 * float(np.vdot(weights, weights))

    def evaluate(self, weights: np.ndarray) -> _Evaluation:
        total, gradient = 0.0, self.l2 * weights
        for block, rows in self.blocks():
            labels, rates = self._labels[rows], self.rates[rows]
            own = np.arange(len(labels)), labels
            logits = self.times(block, weights)
            logits -= logits.max(1, keepdims=True)
            residual = np.exp(logits)
            sums = residual.sum(1)
            total += float(rates @ (np.log(sums) - logits[own]))
            residual /= sums[:, None]
            residual[own] -= 1
            residual *= rates[:, None]
            gradient = gradient + self.transposed_times(block, residual)
        loss = total + self.l2 / 2 * float(np.vdot(weights, weights))
        return _Evaluation(weights, loss, gradient, float(np.vdot(gradient, gradient)) / (2 * self.l2) / loss)

    def curvature(self, weights: np.ndarray, *, diagonal: bool) -> np.ndarray:
        """l2 + the features' second moments, each example by how much it is in doubt: near the Hessian of a class."""
        size, classes = len(weights), weights.shape[1]
        found = np.full(size, self.l2) if diagonal else self.l2 * np.eye(size)
        for block, rows in self.blocks():
            squares = np.square(_softmax(self.times(block, weights))).sum(1)
            # For two classes this is the second derivative itself.
            doubt = self.rates[rows] * np.maximum(1 - squares, 0) / max(classes - 1, 1)
            scaled = np.concatenate([block, np.ones((len(block), 1))], 1) if self._bias else block
            scaled *= np.sqrt(doubt)[:, None]
            found += np.square(scaled).sum(0) if diagonal else scaled.T @ scaled
        return found


def _preconditioner(problem: _Problem, weights: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Times the inverse of the curvature at some weights, in float32."""
    from scipy import linalg  # a third of a second to import

    diagonal = len(weights) > _LARGEST_FACTOR
    curvature = problem.curvature(weights, diagonal=diagonal)
    if diagonal:
        inverse = (1 / curvature)[:, None].astype(np.float32)
        return lambda right: inverse * right
    # Of a factor, not of the whole: rounded to float32, this is still positive definite.
    factor = linalg.lapack.dtrtri(linalg.cholesky(curvature, lower=True), lower=1)[0].astype(np.float32)
    return lambda right: factor.T @ (factor @ right)


def _rounded(problem: _Problem, found: _Evaluation, start: Mapping[str, Any]) -> Fit:
    weights = found.weights.astype(np.float32)
    head = {"kernel": weights[:-1], "bias": weights[-1]} if "bias" in start else {"kernel": weights}
    # Not by the gradient: in stiff directions rounding gives one that says nothing.
    loss = problem.evaluate(weights.astype(np.float64)).loss
    missing = found.missing * found.loss + max(loss - found.loss, 0.0)
    norm = float(np.linalg.norm(found.gradient))
    return Fit(head, loss, norm, missing / loss)
