"""Gaps from gradients: one backward pass, or one for each class that is told apart, yields those of all filters."""

from functools import partial

import jax
import jax.numpy as jnp

from delta_jax import features, repeats
from delta_jax.attention.exact import rolls
from delta_jax.attention.loss import cross_entropy, increase


def first_order(model, variables, x, y, taps, apply) -> dict[str, jax.Array]:
    """{tap: [B, C]}, the sum of -gradient * map; as `filter_gaps` says."""
    shifted, shifts = _of_shifts(model, variables, x, taps, apply)

    def loss(shifts):
        logits, maps = shifted(shifts)
        # Images do not see each other in evaluation mode: the gradient of the sum is every image's own.
        return jnp.sum(cross_entropy(logits, y)), maps

    gradients, maps = jax.grad(loss, has_aux=True)(shifts)
    return {tap: _faded(gradients[tap], maps[tap]) for tap in taps}


def linear_logits(model, variables, x, y, taps, classes, apply) -> dict[str, jax.Array]:
    """{tap: [B, C]}: logits change to first order, and the cross-entropy of these is exact; as `filter_gaps` says."""
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

    def of_filter(before, change):
        with_label = [jnp.concatenate([jnp.zeros(1, before.dtype), rivals]) for rivals in (before, before + change)]
        return increase(with_label[0], with_label[1], label)

    of_filters = jax.vmap(of_filter, (None, 1))  # [n - 1] and [n - 1, C]
    return {tap: jax.vmap(of_filters, (0, 1))(before, changes[tap]) for tap in taps}


def _of_shifts(model, variables, x, taps, apply):
    """(shifts {tap: added to its maps} -> (logits, maps), shifts of zero)."""
    _, shapes = jax.eval_shape(lambda v, x: features.apply_with_taps(model, v, x, taps, **apply), variables, x)

    def shifted(shifts):
        changes = {tap: partial(jnp.add, shift) for tap, shift in shifts.items()}
        run = lambda x: features.apply_with_changes(model, variables, x, changes, **apply)  # noqa: E731
        return (repeats.rolled(run) if rolls() else run)(x)

    return shifted, {tap: jnp.zeros(shape.shape, shape.dtype) for tap, shape in shapes.items()}


def _faded(gradient: jax.Array, maps: jax.Array) -> jax.Array:
    """What setting each filter to zero adds, to first order: of [B, ..., C] and [B, ..., C], [B, C]."""
    return -jnp.sum(gradient * maps, axis=tuple(range(1, maps.ndim - 1)))
