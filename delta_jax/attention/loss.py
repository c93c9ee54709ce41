"""How much the loss grows between two vectors of logits, without cancellation where both losses are near 0."""

import jax
import jax.numpy as jnp
import optax

_LARGEST_EXPONENT = 80.0  # exp of more than 88 is infinite in float32

cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels


def increase(before: jax.Array, after: jax.Array, label: jax.Array) -> jax.Array:
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
    plain = cross_entropy(after[None], label[None])[0] - cross_entropy(before[None], label[None])[0]
    # Where the label was hopeless and is not any more, the sum cancels instead, and the losses are large.
    return jnp.where((jnp.max(changed) < _LARGEST_EXPONENT) & (grown > -0.5), jnp.log1p(grown), plain)
