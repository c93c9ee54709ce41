"""From gaps to weights over the filters of a tap, and how much of the gaps' spread is no noise."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

NORMALIZATIONS = ("softmax", "standardized_softmax", "uniform")
SCOPES = ("tap", "all_taps")


def normalize(
    gaps: Mapping[str, Any],
    how: str = "softmax",
    *,
    temperature: float = 1.0,
    over: str = "tap",
    signal: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Attention from gaps: weights over the filters of each tap that sum to 1.

    - "softmax": softmax of gap / temperature; Eq. 6 at temperature 1. Small gaps make it close to uniform.
    - "standardized_softmax": z-scores over the filters before it; at temperature 5, what the published code does.
    - "uniform": 1 / C, whatever the gaps.

    Arrays of numpy are normalised on the host in float64, as the published code does with the gaps in its files; the
    weights are then right to the last bit of float32.

    Over "all_taps" the filters of all taps compete: z-scores and softmax are taken over them together, and times the
    number of taps, so that the weights still sum to 1 for the average tap.

    With `signal`, what goes into the softmax is shrunk first: value of filter j of a tap -> mean of the tap + signal *
    (value - mean). Gaps that are noise then give uniform weights, which standardised ones never do.

    Args:
      gaps: {tap: [..., C]}: per image, or averaged over a data set.
      how: one of the three.
      temperature: divides what goes into the softmax; > 0.
      over: "tap" or "all_taps".
      signal: {tap: share of its gaps' spread that is no noise, in [0, 1]}, see `signal_of`; not given: 1.

    Returns:
      {tap: [..., C]} of the same shapes and types.

    Raises:
      ValueError: unknown normalisation or scope, a temperature that is not positive, or a share outside of [0, 1].
    """
    if how not in NORMALIZATIONS:
        raise ValueError(f"normalisation {how!r} is not one of {NORMALIZATIONS}")
    if over not in SCOPES:
        raise ValueError(f"normalisation over {over!r}, expected one of {SCOPES}")
    if temperature <= 0:
        raise ValueError(f"temperature {temperature} is not positive")
    for tap, share in (signal or {}).items():
        if not 0 <= share <= 1:
            raise ValueError(f"{tap}: a signal of {share}, expected a share in [0, 1]")

    on_device = any(isinstance(gap, jax.Array) for gap in gaps.values())
    xp: Any = jnp if on_device else np

    def scores(gap: Any) -> Any:
        if how == "uniform":
            return xp.zeros_like(gap)
        if how == "standardized_softmax":
            spread = xp.std(gap, axis=-1, keepdims=True)
            # A tap whose gaps are all equal says nothing: uniform, not NaN.
            gap = (gap - xp.mean(gap, axis=-1, keepdims=True)) / xp.where(spread > 0, spread, xp.ones_like(spread))
        return gap / temperature

    def shrunk(tap: str, scores: Any) -> Any:
        if signal is None:
            return scores
        mean = xp.mean(scores, axis=-1, keepdims=True)
        return mean + signal[tap] * (scores - mean)

    softmax = jax.nn.softmax if on_device else _softmax
    given = {tap: xp.asarray(gap) for tap, gap in gaps.items()}
    arrays = given if on_device else {tap: gap.astype(np.float64) for tap, gap in given.items()}
    if over == "tap" or not arrays:
        found = {tap: softmax(shrunk(tap, scores(gap)), axis=-1) for tap, gap in arrays.items()}
    else:
        ends = np.cumsum([gap.shape[-1] for gap in arrays.values()])[:-1]
        parts = xp.split(scores(xp.concatenate(list(arrays.values()), axis=-1)), ends, axis=-1)
        each = [shrunk(tap, part) for tap, part in zip(arrays, parts, strict=True)]
        together = len(arrays) * softmax(xp.concatenate(each, axis=-1), axis=-1)
        found = dict(zip(arrays, xp.split(together, ends, axis=-1), strict=True))
    return (
        found
        if on_device
        else {tap: w.astype(np.promote_types(given[tap].dtype, np.float32)) for tap, w in found.items()}
    )


def signal_of(gaps: Any) -> float:
    """Share of the spread of a tap's mean gaps that is no noise of the images, in [0, 1].

    How far the images agree which filters matter, as tests are judged by how far their questions agree: 1 - (residual
    variance) / (variance between filters), of the two-way table of images and filters (Hoyt, Psychometrika 6, 1941).
    It is what two halves of the images have in common, 4 cov(a, b) / var(a + b) of their mean gaps, averaged over all
    ways to halve them (Cronbach, Psychometrika 16, 1951). Of noise alone it is 0 on average; below, it is given as 0.

    Args:
      gaps: [M, C] of M images and the C filters of a tap.

    Returns:
      0 for one image, which cannot tell, one filter, or equal gaps.
    """
    table = np.asarray(gaps, np.float64)
    images, filters = table.shape
    if images < 2 or filters < 2:
        return 0.0
    of_filters = table.mean(0, keepdims=True)
    rest = table - of_filters - table.mean(1, keepdims=True) + table.mean()
    between = images * float(of_filters.var(ddof=1))
    residual = float(np.square(rest).sum()) / ((images - 1) * (filters - 1))
    return min(1.0, max(0.0, 1 - residual / between)) if between > 0 else 0.0


def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
    exp = np.exp(x - x.max(axis, keepdims=True))
    return exp / exp.sum(axis, keepdims=True)
