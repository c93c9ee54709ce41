"""Mean gaps from exact ones of a few images and estimates of many: two-phase sampling with a regression estimator."""

import numpy as np


def combined(exact: np.ndarray, estimates: np.ndarray) -> np.ndarray:
    """Rows in place of gaps: their mean is the best mean that both tables give, their spread its uncertainty.

        mean gap = mean over n of exact - slope * (mean over n of estimates - mean over m of estimates)

    What the estimates get wrong is corrected by the n images of which both are known; what depends on which n images
    these are is corrected by the others, as far as estimates and exact gaps go together (Neyman 1938; Cochran, Sampling
    Techniques, 1977, section 12.6). The slope, one per tap, is that of least squares, kept in [0, 1]: a few images with
    large gaps would make it anything.

    The mean of the rows is that number, and the variance of the rows over m is slope^2 var(estimates) / m +
    var(exact - slope * estimates) / n and the covariance of both. Single rows mean nothing.

    Args:
      exact: [n, C] gaps of the first n images.
      estimates: [m, C], m >= n.

    Returns:
      float32 [m, C]; the exact gaps themselves where n = m, the estimates where n = 0.
    """
    n, m = len(exact), len(estimates)
    if n in (0, m):
        return exact if n else estimates
    wide, guesses = exact.astype(np.float64), estimates.astype(np.float64)
    slope = _slope(wide, guesses[:n])
    rest = wide - slope * guesses[:n]
    rows = slope * guesses + rest.mean(0)
    rows[:n] += m / n * (rest - rest.mean(0))
    return rows.astype(np.float32)


def _slope(exact: np.ndarray, estimates: np.ndarray) -> float:
    """Of exact gaps on estimates over the images, one for all filters."""
    deviations = [table - table.mean(0) for table in (exact, estimates)]
    spread = float(np.square(deviations[1]).sum())
    return min(1.0, max(0.0, float((deviations[0] * deviations[1]).sum()) / spread)) if spread > 0 else 0.0
