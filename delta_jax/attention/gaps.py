"""Increase of the loss when a filter is set to zero: what is asked for, and by which estimator."""

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from delta_jax import features, precision
from delta_jax.attention import estimates, exact

ESTIMATORS = ("exact", "first_order", "linear_logits", "mixed")
CLASSES = 10  # of "linear_logits", where no number is given


def filter_gaps(
    model: Any,
    variables: Any,
    x: jax.Array,
    y: jax.Array,
    *,
    taps: Sequence[str],
    estimator: str = "exact",
    filters: Mapping[str, Any] | None = None,
    exact_filters: int = 64,
    classes: int = CLASSES,
    chunk: int | None = None,
    apply_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, jax.Array]:
    """Increase of each image's loss when one filter is set to zero: Eq. 6 before the softmax.

        gap_ij = CE(z(x_i, w* without filter j), y_i) - CE(z(x_i, w*), y_i)

    - "exact": what the equation says. Only what depends on the filter is computed for it, see `ablation`; a filter
      whose removal changes nothing behind the tap costs nothing and has a gap of exactly 0.
    - "first_order": the sum of -gradient * map, one forward and one backward pass for all filters of all taps: good at
      late taps, poor at early ones, where a filter's removal is far from a small change.
    - "linear_logits": every logit changes by the sum of -gradient * map, and the cross-entropy of the changed logits is
      exact: one backward pass less than there are `classes`. Right where logits are linear in the maps, however large
      the change. Of more classes the label and the most likely ones change each on their own, the others all together:
      as one class with the log of the sum of their exponentials for a logit.
    - "mixed": of each image and tap the `exact_filters` filters with the largest values of "linear_logits" are exact
      (early taps have few filters: often all), and all filters of a tap whose exact gaps have a closed form; the others
      keep these values. They are of two classes, the label and all others, and cost what first-order ones do.

    Gaps are differences of about 1e-4 between losses, and bfloat16 swallows them. So products are in full float32 on
    every chip, whatever the caller's `jax.default_matmul_precision`; for layers that compute in bfloat16 or ask for a
    precision themselves there is a warning. What float32 would lose where an image's loss is nearly 0 is kept: losses
    are never subtracted there.

    Args:
      model: as of `features.apply_with_taps`, hashable; it returns logits [B, K] and is run as for prediction, not in
        training.
      variables: of the source network with a head trained on the target ("L2-FE").
      x: images [B, H, W, 3], normalised.
      y: labels [B], integers.
      taps: names, of Linen modules their paths; filter j of a tap is channel j of its maps.
      estimator: one of the four.
      filters: {tap: integers [n], or [B, n] for each image its own} to restrict the exact gaps to.
      exact_filters: of "mixed", per image and tap; 0 for those with a closed form alone.
      classes: of "linear_logits", that change on their own or together with others; at least 2.
      chunk: filters that run together, at least 1; more need more memory. Not given: what fills the device, and fits.
      apply_kwargs: passed on to the model, e.g. {"train": False}; hashable values.

    Returns:
      {tap: [B, C]}, or [B, n] for chosen filters.

    Raises:
      ValueError: unknown tap or estimator, a filter that a tap does not have, or a count below 1.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator {estimator!r} is not one of {ESTIMATORS}")
    if filters is not None and estimator != "exact":
        raise ValueError(f"filters can be chosen for the exact estimator only; {estimator} yields all at once")
    for name, count, least in (("chunk", chunk, 1), ("exact_filters", exact_filters, 0), ("classes", classes, 2)):
        if count is not None and count < least:
            what = "classes" if name == "classes" else "filters"
            raise ValueError(f"{name} {count} is not a number of {what}; take {least} or more")
    chosen = None if filters is None else _chosen(model, variables, x, taps, filters, apply_kwargs or {})
    kwargs = tuple(sorted((apply_kwargs or {}).items()))
    gaps = _gaps(model, variables, x, y, chosen, tuple(taps), estimator, exact_filters, classes, chunk, kwargs)
    return {tap: gaps[tap] for tap in taps}  # jit sorts the keys of its results


def _chosen(model, variables, x, taps, filters, kwargs) -> dict[str, jax.Array]:
    """The filters as int32 [B, n], checked where they are known already."""
    channels = features.list_taps(model, variables, x, **kwargs)
    found = {}
    for tap in taps:
        numbers = filters.get(tap)
        if numbers is None or not np.size(numbers) or np.ndim(numbers) > 2:
            raise ValueError(
                f"filters need at least one number for each of the taps {list(taps)}, [n] or [B, n]; got "
                f"{dict(filters)}"
            )
        if not isinstance(numbers, jax.core.Tracer):
            numbers = np.asarray(numbers)
            if wrong := sorted({int(j) for j in numbers.flat if not 0 <= j < channels[tap][-1]}):
                raise ValueError(f"{tap} has filters 0 to {channels[tap][-1] - 1}, not {wrong[:8]}")
        found[tap] = jnp.broadcast_to(jnp.asarray(numbers, jnp.int32), (len(x), np.shape(numbers)[-1]))
    return found


@partial(jax.jit, static_argnums=(0, 5, 6, 7, 8, 9, 10))
def _gaps(model, variables, x, y, chosen, taps, estimator, exact_filters, classes, chunk, kwargs):
    apply = dict(kwargs)
    _warn_of_narrow_products(model, variables, x, apply)
    with precision.full():
        if estimator == "exact":
            return exact.gaps_of(model, variables, x, y, taps, chosen, chunk, apply)
        if estimator == "first_order":
            return estimates.first_order(model, variables, x, y, taps, apply)
        gaps = estimates.linear_logits(model, variables, x, y, taps, 2 if estimator == "mixed" else classes, apply)
        if estimator == "mixed":
            return exact.mixed(model, variables, x, y, gaps, exact_filters, chunk, apply)
        return gaps


def _warn_of_narrow_products(model, variables, x, apply) -> None:
    if narrow := precision.narrow_products(partial(features.caller(model), **apply), variables, x):
        warnings.warn(
            f"gaps of filters are to be in float32, and {len(narrow)} of the model's convolutions and matrix products "
            f"are in {', '.join(sorted(set(narrow)))} because its layers ask for it; many gaps will have the wrong "
            "sign: give the model dtype=float32 and precision=None or HIGHEST for its attention",
            stacklevel=2,
        )
