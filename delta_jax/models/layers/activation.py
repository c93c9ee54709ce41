"""Activations whose gradient needs their output alone, which the next layer keeps anyway; 0 at corners, as in torch."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0)."""
    return jnp.maximum(x, 0)


@jax.custom_vjp
def relu6(x: jax.Array) -> jax.Array:
    """min(max(x, 0), 6)."""
    return jnp.clip(x, 0, 6)


def _where(passes: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    return (jnp.where(passes, cotangent, jnp.zeros((), cotangent.dtype)),)


relu.defvjp(lambda x: (relu(x),) * 2, lambda y, cotangent: _where(y > 0, cotangent))
relu6.defvjp(lambda x: (relu6(x),) * 2, lambda y, cotangent: _where((y > 0) & (y < 6), cotangent))
