"""How far one table of gaps agrees with another, and how far the attention made of it is from uniform."""

import numpy as np
from scipy.stats import rankdata


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's, of [..., C] and [..., C] along the last axis: [...]; NaN where one of the two is constant."""
    centred = [ranks - ranks.mean(-1, keepdims=True) for ranks in (rankdata(a, axis=-1), rankdata(b, axis=-1))]
    norms = np.prod([np.linalg.norm(ranks, axis=-1) for ranks in centred], axis=0)
    return np.divide((centred[0] * centred[1]).sum(-1), norms, out=np.full(norms.shape, np.nan), where=norms > 0)


def relative_error(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """RMS of found - truth [..., C] over the standard deviation of the truth, along the last axis: [...]."""
    difference = np.subtract(found, truth, dtype=np.float64)
    rms, spread = np.sqrt(np.mean(difference**2, -1)), np.std(truth, -1, dtype=np.float64)
    return np.divide(rms, spread, out=np.full(rms.shape, np.nan), where=spread > 0)


def sign_changes(found: np.ndarray, truth: np.ndarray) -> float:
    """Share of the gaps that are positive, zero or negative where the truth is another of the three."""
    return float(np.mean(np.sign(found) != np.sign(truth)))


def split_half_reliability(gaps: np.ndarray, size: int, splits: int, seed: int) -> np.ndarray:
    """Rank correlation of the mean gaps of two disjoint sets of `size` images, for random ones: [N, C] -> [splits]."""
    rows = _shuffled(len(gaps), splits, seed)
    means = (gaps[rows[:, a : a + size]].mean(1, dtype=np.float64) for a in (0, size))
    return rank_correlation(*means)


def agreement_with_all(gaps: np.ndarray, size: int, splits: int, seed: int) -> np.ndarray:
    """Rank correlation of the mean gaps of `size` images with those of all N, which they are among: [splits].

    The attention of a data set orders its filters as their mean gaps are ordered, whatever the normalisation.
    """
    some = gaps[_shuffled(len(gaps), splits, seed)[:, :size]].mean(1, dtype=np.float64)
    return rank_correlation(some, np.broadcast_to(gaps.mean(0, dtype=np.float64), some.shape))


def _shuffled(n: int, splits: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permuted(np.tile(np.arange(n), (splits, 1)), axis=1)


def attention_spread(weights: np.ndarray) -> dict[str, np.ndarray]:
    """How far attention weights [..., C] are from uniform: [...] each.

    Returns:
      lowest, highest: of C * W, which is 1 for uniform weights.
      effective_filters: exp of the entropy; C for uniform weights, 1 for a single filter.
    """
    relative = weights.shape[-1] * weights.astype(np.float64)
    surprise = -np.log(weights, out=np.zeros(weights.shape), where=weights > 0)
    return {
        "lowest": relative.min(-1),
        "highest": relative.max(-1),
        "effective_filters": np.exp((weights * surprise).sum(-1)),
    }


def compare(found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Gaps [N, C] against others: of each image (the median over the images) and of their mean over the images."""
    mean, true_mean = found.mean(0, dtype=np.float64), truth.mean(0, dtype=np.float64)
    return {
        "spearman_per_image": median(rank_correlation(found, truth)),
        "spearman_of_mean": float(rank_correlation(mean, true_mean)),
        "error_per_image": median(relative_error(found, truth)),
        "error_of_mean": float(relative_error(mean, true_mean)),
        "sign_changes": sign_changes(found, truth),
    }


def median(values: np.ndarray) -> float:
    """Of those that are not NaN, NaN if there are none."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else float("nan")
