"""How well a linear head could tell the classes apart, by features alone: LogME and H-scores, in float64 on the host.

Nothing is trained and no image is held out. Larger is better, for features of the same images; the values of two data
sets cannot be compared. docs/ranking.md has what they are good for.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import qr, svd
from scipy.optimize import minimize_scalar

_BEYOND = 1e-12  # of the squared singular values: where the evidence no longer changes
_PER_DECADE = 8  # values of the prior's strength that are looked at before the best is refined


class HScores(NamedTuple):
    """The H-score of features and its regularised form.

    Attributes:
      plain: tr(cov(f)^-1 cov(E[f | y])), from 0 to the number of classes - 1, which it reaches by itself where there
        are no more images than features (Bao et al., 2019).
      shrunk: the same with Ledoit's and Wolf's estimate of cov(f) (Ibrahim et al., 2022).
      shrinkage: how much of that estimate is a multiple of the identity, from 0 to 1.
    """

    plain: float
    shrunk: float
    shrinkage: float


def logme(features: Any, labels: Any) -> float:
    """The log of the maximum evidence per image, mean over the classes (LogME: You et al., ICML 2021).

    For each class, y in {0, 1}^N is taken for f w + noise with w ~ N(0, 1/a) and noise ~ N(0, 1/b); the evidence is
    p(y | f, a, b) with the a and b that make it largest. For a given t = a / b the best b is
    N / (||y - f m||^2 + t ||m||^2), m the ridge solution, so that one number is searched, on a grid of all scales
    first: the largest value is found where there are several maxima, too.

    Args:
      features: [N, D], as they are; features of all ones serve as a bias.
      labels: int [N]; classes without an image have no evidence and do not count.

    Returns:
      The score; infinite where some class is a linear function of fewer features than images, without any error.

    Raises:
      ValueError: shapes that do not fit, values that are not finite, fewer than two classes.
    """
    found = _reduced(features, labels, centred=False)
    return float(_largest_evidences(found).mean())


def h_scores(features: Any, labels: Any) -> HScores:
    """The share of the features' variance that the classes explain, summed over uncorrelated directions.

    With the centred features U S V' it is sum over classes k of ||sum of the rows of U in k||^2 / N_k: no covariance is
    inverted, and directions in which features differ by rounding alone are left out.

    Args:
      features: [N, D].
      labels: int [N]; classes without an image do not count.

    Raises:
      ValueError: shapes that do not fit, values that are not finite, fewer than two classes.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage  # half a second to import

    found = _reduced(features, labels, centred=True)
    explained = (np.square(found.seen) / found.counts).sum(1) * (found.squares > 0)
    variances = found.squares / found.images
    shrinkage = float(ledoit_wolf_shrinkage(np.asarray(features, np.float64)))
    towards = variances.sum() / found.width
    regular = (1 - shrinkage) * variances
    spread = regular + shrinkage * towards
    shrunk = np.divide(regular * explained, spread, out=np.zeros_like(spread), where=spread > 0)
    return HScores(float(explained.sum()), float(shrunk.sum()), shrinkage)


class _Reduced(NamedTuple):
    """Features and the classes' indicators in the features' principal directions, of which there are Q = min(N, D).

    Attributes:
      squares: [Q] squared singular values, 0 for those that are rounding.
      seen: [Q, K] products of the left singular vectors with the K indicators.
      unseen: [K] squared distance of the indicators from all these vectors.
      counts: [K] images.
      images: N.
      width: D.
    """

    squares: np.ndarray
    seen: np.ndarray
    unseen: np.ndarray
    counts: np.ndarray
    images: int
    width: int

    def only(self, k: int) -> "_Reduced":
        """The same of one class."""
        column = slice(k, k + 1)
        return self._replace(seen=self.seen[:, column], unseen=self.unseen[column], counts=self.counts[column])


def _reduced(features: Any, labels: Any, *, centred: bool) -> _Reduced:
    x, y = np.array(features, np.float64), np.asarray(labels)
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(f"expected features [N, D] and labels [N], got {list(x.shape)} and {list(y.shape)}")
    if not x.shape[1]:
        raise ValueError("there are no features; expected one or more")
    if not np.isfinite(x).all():
        raise ValueError("the features hold values that are not finite; look at weights and images")
    classes, of = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"the labels are of {len(classes)} class(es); expected two or more to tell apart")
    scale = np.linalg.norm(x)  # of features that are all the same, centring leaves the rounding of this
    if centred:
        x -= x.mean(0)
    images, width = x.shape
    indicators = (of[:, None] == np.arange(len(classes))).astype(np.float64)
    # The triangle of both at once has the indicators in terms of the features, and below that what is left of them.
    (triangle,) = qr(np.concatenate([x, indicators], 1), overwrite_a=True, mode="r")
    least = min(images, width)
    left, singular, _ = svd(triangle[:least, :width], full_matrices=False)
    rounding = max(images, width) * np.finfo(np.float64).eps * scale
    return _Reduced(
        squares=np.square(np.where(singular > rounding, singular, 0.0)),
        seen=left.T @ triangle[:least, width:],
        unseen=np.square(triangle[least:, width:]).sum(0),
        counts=indicators.sum(0),
        images=images,
        width=width,
    )


def _largest_evidences(found: _Reduced) -> np.ndarray:
    """[K], per image."""
    squares = found.squares[found.squares > 0]
    if not len(squares):  # no features, in effect: the evidence is that of the noise for every t
        return _evidences(found, np.zeros(1))[:, 0]
    low, high = np.log(squares.min() * _BEYOND), np.log(squares.max() / _BEYOND)
    logs = np.linspace(low, high, int((high - low) / np.log(10) * _PER_DECADE))
    values = _evidences(found, logs)
    return np.array([_refined(found.only(k), logs, row) for k, row in enumerate(values)])


def _refined(found: _Reduced, logs: np.ndarray, values: np.ndarray) -> float:
    """The largest evidence of one class near the largest of its values [T] on a grid [T]."""
    missed = found.unseen[0] + np.square(found.seen[found.squares == 0]).sum()
    rounding = (max(found.images, found.width) * np.finfo(np.float64).eps) ** 2
    if missed <= rounding * found.counts[0] and np.count_nonzero(found.squares) < found.images:
        return np.inf
    best = int(values.argmax())
    if best in (0, len(logs) - 1):  # a limit, reached but for the last digits
        return float(values[best])
    refined = minimize_scalar(
        lambda log: -_evidences(found, np.array([log]))[0, 0],
        bounds=(logs[best - 1], logs[best + 1]),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return max(float(-refined.fun), float(values[best]))


def _evidences(found: _Reduced, logs: np.ndarray) -> np.ndarray:
    """[T] logs of t -> [K, T] logs of the evidence per image, with the best b for each t."""
    # Directions without features would add log 1, so it is no matter how many features there are beside Q.
    kept = 1 / (1 + found.squares[:, None] * np.exp(-logs))
    left = found.unseen[:, None] + np.square(found.seen).T @ kept
    with np.errstate(divide="ignore"):  # where nothing is left, for `_refined` to see
        return 0.5 * (np.log(found.images / left) - 1 - np.log(2 * np.pi) + np.log(kept).sum(0) / found.images)
