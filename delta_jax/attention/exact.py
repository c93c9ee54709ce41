"""Gaps by running the rest of the network without each filter: of all filters, or of those that matter most."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from delta_jax import chunks, features, repeats
from delta_jax.ablation import Ablation
from delta_jax.attention.loss import increase as loss_increase
from delta_jax.chips import target


def gaps_of(model, variables, x, y, taps, chosen, chunk, apply) -> dict[str, jax.Array]:
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


def mixed(model, variables, x, y, estimates, exact_filters, chunk, apply) -> dict[str, jax.Array]:
    """`estimates` {tap: [B, C]} with exact gaps in place of the `exact_filters` largest ones of each image."""

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


def rolls() -> bool:
    """Whether the target's compiler is so slow that what repeats is to be compiled once; see `repeats`."""
    return target.current().platform == "tpu"


def _all_filters(images: int, filters: int) -> jax.Array:
    return jnp.broadcast_to(jnp.arange(filters, dtype=jnp.int32), (images, filters))


def _ablations(model, variables, x, taps, apply) -> dict[str, Ablation]:
    """What follows each tap, for images [B, H, W, 3]."""
    if not rolls():
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


def _increase(ablation: Ablation, label: jax.Array, numbers: jax.Array, chunk: int | None) -> jax.Array:
    """The loss of one image without each of the filters `numbers` [n], less the loss with all: [n]."""
    increase = jax.vmap(lambda j: loss_increase(ablation.output[0], ablation.without(j)[0], label[0]))
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
