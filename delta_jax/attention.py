"""Which filters of the source network serve the target already: DELTA's supervised attention (ICLR 2019), Eq. 6."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from delta_jax import features
from delta_jax.ablation import Ablation

ESTIMATORS = ("exact", "first_order")
NORMALIZATIONS = ("softmax", "standardized_softmax", "uniform")

_CHUNK_BYTES = 8 * 2**20

_cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels


def filter_gaps(
    model: nn.Module,
    variables: Mapping[str, Any],
    x: jax.Array,
    y: jax.Array,
    *,
    taps: Sequence[str],
    estimator: str = "exact",
    filters: Mapping[str, Sequence[int]] | None = None,
    chunk: int | None = None,
    apply_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, jax.Array]:
    """Increase of each image's loss when one filter is set to zero: Eq. 6 before the softmax.

    gap_ij = CE(z(x_i, w* without filter j), y_i) - CE(z(x_i, w*), y_i)

    Compute it in float32: gaps are differences of about 1e-4 between losses, and bfloat16 swallows them.

    Args:
      model: any Linen module that returns logits [B, K]; it is run as for prediction, not in training.
      variables: of the source network with a head trained on the target ("L2-FE").
      x: images [B, H, W, 3], normalised.
      y: labels [B], integers.
      taps: module paths; filter j of a tap is channel j of that module's output.
      estimator: "exact", one forward pass per filter of what comes after the tap; or "first_order", the sum of
        -gradient * map, one forward and one backward pass for everything: good at late taps, poor at early ones.
      filters: {tap: filter numbers} to restrict the exact gaps to.
      chunk: filters that run together, at least 1; more need more memory.
      apply_kwargs: passed on to `model.apply`, e.g. {"train": False}; hashable values.

    Returns:
      {tap: [B, C]}, or [B, len(filters[tap])].

    Raises:
      ValueError: unknown tap or estimator, a filter that a tap does not have, or a chunk below 1.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator {estimator!r} is not one of {ESTIMATORS}")
    if filters is not None and estimator != "exact":
        raise ValueError("filters can be chosen for the exact estimator only: first_order yields all at once")
    if filters is not None and not all(filters.get(tap) is not None and len(filters[tap]) for tap in taps):
        raise ValueError(f"filters need at least one number for each of the taps {list(taps)}; got {dict(filters)}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk {chunk} is not a number of filters; take 1 or more")
    chosen = None if filters is None else tuple((tap, tuple(int(j) for j in filters[tap])) for tap in taps)
    kwargs = tuple(sorted((apply_kwargs or {}).items()))
    gaps = _gaps(model, variables, x, y, tuple(taps), estimator, chosen, chunk, kwargs)
    return {tap: gaps[tap] for tap in taps}  # jit sorts the keys of its results


@partial(jax.jit, static_argnums=(0, 4, 5, 6, 7, 8))
def _gaps(model, variables, x, y, taps, estimator, filters, chunk, kwargs):
    if estimator == "first_order":
        return _first_order(model, variables, x, y, taps, dict(kwargs))
    chosen = None if filters is None else dict(filters)

    def one_image(image_and_label):
        image, label = image_and_label
        prefix = features.Prefix(model, variables, image[None], **dict(kwargs))
        gaps = {}
        for tap in taps:
            maps = prefix.feature_maps(tap)
            numbers = range(maps.shape[-1]) if chosen is None else chosen[tap]
            if wrong := [j for j in numbers if not 0 <= j < maps.shape[-1]]:
                raise ValueError(f"{tap} has filters 0 to {maps.shape[-1] - 1}, not {wrong[:8]}")
            ablation = Ablation(partial(prefix.continue_from, tap), maps)
            gaps[tap] = _increase(ablation, label[None], jnp.asarray(numbers, jnp.int32), chunk)
        return gaps

    # One image at a time: an image's filters fill a chunk, and each image may skip its own.
    return jax.lax.map(one_image, (x, y))


def _increase(ablation: Ablation, label: jax.Array, numbers: jax.Array, chunk: int | None) -> jax.Array:
    """The loss of one image without each of the filters `numbers` [n], less the loss with all: [n]."""
    base = _cross_entropy(ablation.output, label)[0]
    increase = jax.vmap(lambda j: _cross_entropy(ablation.without(j), label)[0] - base)
    n = len(numbers)
    k = min(n, chunk or _chunk(ablation.bytes_per_filter))
    live = ablation.live[numbers]
    if k == n:
        return jnp.where(live, increase(numbers), 0)
    # The live ones come first, and the loop ends with them. Others change nothing: 0, without a forward pass.
    order = jnp.argsort(~live, stable=True)

    def run(i, found):
        rows = jax.lax.dynamic_slice(order, (jnp.minimum(i * k, n - k),), (k,))
        return found.at[rows].set(jnp.where(live[rows], increase(numbers[rows]), 0))

    chunks = (jnp.sum(live) + k - 1) // k
    return jax.lax.fori_loop(0, chunks, run, jnp.zeros((n,), base.dtype))


def _chunk(bytes_per_filter: int) -> int:
    return max(1, _CHUNK_BYTES // max(1, bytes_per_filter))


def _first_order(model, variables, x, y, taps, kwargs):
    _, shapes = jax.eval_shape(lambda v, x: features.apply_with_taps(model, v, x, taps, **kwargs), variables, x)
    shifts = {tap: jnp.zeros(shape.shape, shape.dtype) for tap, shape in shapes.items()}

    def loss(shifts):
        changes = {tap: partial(jnp.add, shift) for tap, shift in shifts.items()}
        logits, maps = features.apply_with_changes(model, variables, x, changes, **kwargs)
        # Images do not see each other in evaluation mode: the gradient of the sum is every image's own.
        return jnp.sum(_cross_entropy(logits, y)), maps

    gradients, maps = jax.grad(loss, has_aux=True)(shifts)
    return {tap: -jnp.sum(gradients[tap] * maps[tap], axis=tuple(range(1, maps[tap].ndim - 1))) for tap in taps}


def normalize(gaps: Mapping[str, jax.Array], how: str = "softmax", *, temperature: float = 1.0) -> dict[str, jax.Array]:
    """Attention from gaps: weights over the filters of each tap that sum to 1.

    - "softmax": softmax of gap / temperature; Eq. 6 at temperature 1. Small gaps make it close to uniform.
    - "standardized_softmax": z-scores over the filters before it; at temperature 5, what the published code does.
    - "uniform": 1 / C, whatever the gaps.

    Args:
      gaps: {tap: [..., C]}: per image, or averaged over a data set.
      how: one of the three.
      temperature: divides what goes into the softmax; > 0.

    Returns:
      {tap: [..., C]} of the same shapes.

    Raises:
      ValueError: unknown normalisation or a temperature that is not positive.
    """
    if how not in NORMALIZATIONS:
        raise ValueError(f"normalisation {how!r} is not one of {NORMALIZATIONS}")
    if temperature <= 0:
        raise ValueError(f"temperature {temperature} is not positive")

    def one(gap: jax.Array) -> jax.Array:
        if how == "uniform":
            return jnp.full_like(gap, 1.0 / gap.shape[-1])
        if how == "standardized_softmax":
            spread = jnp.std(gap, axis=-1, keepdims=True)
            # A tap whose gaps are all equal says nothing: uniform, not NaN.
            gap = (gap - jnp.mean(gap, axis=-1, keepdims=True)) / jnp.where(spread > 0, spread, jnp.ones_like(spread))
        return jax.nn.softmax(gap / temperature, axis=-1)

    return {tap: one(jnp.asarray(gap)) for tap, gap in gaps.items()}
