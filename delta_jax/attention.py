"""Which filters of the source network serve the target already: DELTA's supervised attention (ICLR 2019), Eq. 6."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from delta_jax import chunks, features, precision, repeats
from delta_jax.ablation import Ablation
from delta_jax.chips import target

ESTIMATORS = ("exact", "first_order", "linear_logits", "mixed")
NORMALIZATIONS = ("softmax", "standardized_softmax", "uniform")
SCOPES = ("tap", "all_taps")
CLASSES = 10  # of "linear_logits", where no number is given

_LARGEST_EXPONENT = 80.0  # exp of more than 88 is infinite in float32

_cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels


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
            return _exact(model, variables, x, y, taps, chosen, chunk, apply)
        if estimator == "first_order":
            return _first_order(model, variables, x, y, taps, apply)
        gaps = _linear_logits(model, variables, x, y, taps, 2 if estimator == "mixed" else classes, apply)
        if estimator == "mixed":
            return _mixed(model, variables, x, y, gaps, exact_filters, chunk, apply)
        return gaps


def _warn_of_narrow_products(model, variables, x, apply) -> None:
    if narrow := precision.narrow_products(partial(features.caller(model), **apply), variables, x):
        warnings.warn(
            f"gaps of filters are to be in float32, and {len(narrow)} of the model's convolutions and matrix products "
            f"are in {', '.join(sorted(set(narrow)))} because its layers ask for it; many gaps will have the wrong "
            "sign: give the model dtype=float32 and precision=None or HIGHEST for its attention",
            stacklevel=2,
        )


def _exact(model, variables, x, y, taps, chosen, chunk, apply) -> dict[str, jax.Array]:
    """The exact gaps, {tap: [B, C]} or those of the filters `chosen` {tap: [B, n]}."""
    if chosen is None:
        maps = jax.eval_shape(lambda x: features.apply_with_taps(model, variables, x, taps, **apply)[1], x)
        chosen = {tap: _all_filters(len(x), maps[tap].shape[-1]) for tap in taps}

    def one_image(one):
        image, label, numbers = one
        ablations = _ablations(model, variables, image[None], tuple(numbers), apply)
        return {tap: _increase(ablations[tap], label[None], numbers[tap], chunk) for tap in numbers}

    # One image at a time: its filters fill a chunk, and it skips its own dead ones. Where a tap has so few filters that
    # they do not, several images. Taps that run alike share the passes with all filters.
    groups: dict[int, list[str]] = {}
    filters = _filters_together(model, variables, x, taps, apply) if chunk is None else dict.fromkeys(taps, chunk)
    for tap in taps:
        together = max(1, filters[tap] // chosen[tap].shape[-1])
        together = max(n for n in range(1, together + 1) if len(x) % n == 0)  # a rest would be compiled on its own
        groups.setdefault(together, []).append(tap)
    gaps: dict[str, jax.Array] = {}
    for together, group in groups.items():
        per_image = (x, y, {tap: chosen[tap] for tap in group})
        gaps |= jax.lax.map(one_image, per_image, batch_size=together if together > 1 else None)
    return gaps


def _all_filters(images: int, filters: int) -> jax.Array:
    return jnp.broadcast_to(jnp.arange(filters, dtype=jnp.int32), (images, filters))


def _mixed(model, variables, x, y, estimates, exact_filters, chunk, apply) -> dict[str, jax.Array]:
    def one_image(one):
        image, label, estimates = one
        ablations = _ablations(model, variables, image[None], tuple(estimates), apply)
        gaps = {}
        for tap, estimate in estimates.items():
            ablation = ablations[tap]
            n = len(estimate) if ablation.has_closed_form else min(exact_filters, len(estimate))
            if not n:
                gaps[tap] = estimate
                continue
            largest = jax.lax.top_k(jnp.abs(estimate), n)[1].astype(jnp.int32)
            gaps[tap] = estimate.at[largest].set(_increase(ablation, label[None], largest, chunk))
        return gaps

    return jax.lax.map(one_image, (x, y, estimates))


def _ablations(model, variables, x, taps, apply) -> dict[str, Ablation]:
    """What follows each tap, for images [B, H, W, 3]."""
    if not _rolls():
        prefix = features.Prefix(model, variables, x, **apply)
        return {tap: Ablation(partial(prefix.continue_from, tap), prefix.feature_maps(tap)) for tap in taps}
    behind: dict[str, Callable[..., Any]] = {}

    def until(x: jax.Array) -> dict[str, tuple[jax.Array, list[Any]]]:
        """{tap: (its maps, what else is known when the rest begins)}."""
        prefix, found = features.Prefix(model, variables, x, **apply), {}
        for tap in taps:
            maps = prefix.feature_maps(tap)
            behind[tap], known = repeats.separated(partial(prefix.continue_from, tap), maps)
            found[tap] = maps, known
        return found

    found = repeats.rolled(until)(x)
    return {tap: Ablation(partial(behind[tap], known), maps, rolled=True) for tap, (maps, known) in found.items()}


def _filters_together(model, variables, x, taps, apply) -> dict[str, int]:
    """{tap: how many filters should run together}, be they of one image or of several."""
    if target.current().platform == "cpu":
        return dict.fromkeys(taps, chunks.FEWEST)
    found: dict[str, int] = {}

    def look(x: jax.Array) -> None:
        ablations = _ablations(model, variables, x, taps, apply)
        found.update({tap: _of_one_image(ablation) for tap, ablation in ablations.items()})

    jax.eval_shape(look, jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype))
    return found


def _of_one_image(ablation: Ablation) -> int:
    if ablation.has_closed_form:
        return len(ablation.live)
    return chunks.filters_together(ablation.bytes_per_filter, ablation.rows_per_filter, target.current())


def _rolls() -> bool:
    """Whether the target's compiler is so slow that what repeats is to be compiled once; see `repeats`."""
    return target.current().platform == "tpu"


def _increase(ablation: Ablation, label: jax.Array, numbers: jax.Array, chunk: int | None) -> jax.Array:
    """The loss of one image without each of the filters `numbers` [n], less the loss with all: [n]."""
    increase = jax.vmap(lambda j: _loss_increase(ablation.output[0], ablation.without(j)[0], label[0]))
    n = len(numbers)
    k = min(n, chunk or chunks.equal_parts(n, _of_one_image(ablation), target.current()))
    live = ablation.live[numbers]
    if k == n:
        return jnp.where(live, increase(numbers), 0)
    # The live ones come first, and the loop ends with them. Others change nothing: 0, without a forward pass.
    order = jnp.argsort(~live, stable=True).astype(jnp.int32)

    def run(i, found):
        rows = jax.lax.dynamic_slice(order, (jnp.minimum(i * k, n - k),), (k,))
        return found.at[rows].set(jnp.where(live[rows], increase(numbers[rows]), 0))

    needed = (jnp.sum(live, dtype=jnp.int32) + k - 1) // k
    # The minimum is a bound in the program's text, for `chips.programs`.
    return jax.lax.fori_loop(0, jnp.minimum(needed, -(-n // k)), run, jnp.zeros((n,), ablation.output.dtype))


def _loss_increase(before: jax.Array, after: jax.Array, label: jax.Array) -> jax.Array:
    """CE(after) - CE(before) of logits [K].

    Where the network is sure of the label both are near 0 and their difference is rounding. Without that cancellation
    it is log(1 + sum_k p_k (exp(d_k - d_label) - 1)), p the probabilities before, d the change of the logits.
    """
    change = after - before
    change = change - change[label]
    log_p = jax.nn.log_softmax(before)
    p, changed = jnp.exp(log_p), log_p + change
    small = p * jnp.expm1(jnp.minimum(change, 1))
    grown = jnp.sum(jnp.where(change < 1, small, jnp.exp(jnp.minimum(changed, _LARGEST_EXPONENT)) - p))
    plain = _cross_entropy(after[None], label[None])[0] - _cross_entropy(before[None], label[None])[0]
    # Where the label was hopeless and is not any more, the sum cancels instead, and the losses are large.
    return jnp.where((jnp.max(changed) < _LARGEST_EXPONENT) & (grown > -0.5), jnp.log1p(grown), plain)


def _first_order(model, variables, x, y, taps, apply) -> dict[str, jax.Array]:
    shifted, shifts = _of_shifts(model, variables, x, taps, apply)

    def loss(shifts):
        logits, maps = shifted(shifts)
        # Images do not see each other in evaluation mode: the gradient of the sum is every image's own.
        return jnp.sum(_cross_entropy(logits, y)), maps

    gradients, maps = jax.grad(loss, has_aux=True)(shifts)
    return {tap: _faded(gradients[tap], maps[tap]) for tap in taps}


def _of_shifts(model, variables, x, taps, apply):
    """(shifts {tap: added to its maps} -> (logits, maps), shifts of zero)."""
    _, shapes = jax.eval_shape(lambda v, x: features.apply_with_taps(model, v, x, taps, **apply), variables, x)

    def shifted(shifts):
        changes = {tap: partial(jnp.add, shift) for tap, shift in shifts.items()}
        run = lambda x: features.apply_with_changes(model, variables, x, changes, **apply)  # noqa: E731
        return (repeats.rolled(run) if _rolls() else run)(x)

    return shifted, {tap: jnp.zeros(shape.shape, shape.dtype) for tap, shape in shapes.items()}


def _faded(gradient: jax.Array, maps: jax.Array) -> jax.Array:
    """What setting each filter to zero adds, to first order: of [B, ..., C] and [B, ..., C], [B, C]."""
    return -jnp.sum(gradient * maps, axis=tuple(range(1, maps.ndim - 1)))


def _linear_logits(model, variables, x, y, taps, classes, apply) -> dict[str, jax.Array]:
    shifted, shifts = _of_shifts(model, variables, x, taps, apply)

    def rivals(shifts):
        """Logits [B, n - 1] of the n classes that are told apart, less the label's."""
        logits, maps = shifted(shifts)
        known = jax.lax.stop_gradient(logits).at[jnp.arange(len(y)), y].set(-jnp.inf)
        others = jnp.argsort(-known, axis=-1)[:, : logits.shape[-1] - 1]  # the likely ones first, without the label
        found = jnp.take_along_axis(logits, others, 1)
        if found.shape[-1] > classes - 1:
            rest = jax.nn.logsumexp(found[:, classes - 2 :], axis=-1, keepdims=True)
            found = jnp.concatenate([found[:, : classes - 2], rest], axis=1)
        return found - jnp.take_along_axis(logits, y[:, None], 1), maps

    before, backwards, maps = jax.vjp(rivals, shifts, has_aux=True)

    def of_rival(k):
        (gradients,) = backwards(jax.nn.one_hot(jnp.full(len(y), k), before.shape[-1], dtype=before.dtype))
        return {tap: _faded(gradients[tap], maps[tap]) for tap in taps}

    changes = jax.lax.map(of_rival, jnp.arange(before.shape[-1]))  # {tap: [n - 1, B, C]}
    label = jnp.zeros((), jnp.int32)

    def increase(before, change):
        with_label = [jnp.concatenate([jnp.zeros(1, before.dtype), rivals]) for rivals in (before, before + change)]
        return _loss_increase(with_label[0], with_label[1], label)

    of_filters = jax.vmap(increase, (None, 1))  # [n - 1] and [n - 1, C]
    return {tap: jax.vmap(of_filters, (0, 1))(before, changes[tap]) for tap in taps}


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
