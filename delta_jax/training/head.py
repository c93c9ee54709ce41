"""L2-FE: a linear classifier on the frozen source network's features."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


@jax.jit
def fit_head(
    features: jax.Array, labels: jax.Array, start: dict[str, jax.Array], l2: jax.Array
) -> dict[str, jax.Array]:
    """The head that minimises mean cross-entropy + l2 * 1/2 ||head||^2 on fixed features: DELTA's L2-FE, section 3.4.

    The problem is convex and has one optimum, so there is no learning rate to choose: L-BFGS goes there from any start.

    Args:
      features: [N, D], what the head gets to see.
      labels: int32 [N].
      start: {"kernel": [D, K], "bias": [K]}.
      l2: weight of the penalty, > 0.

    Returns:
      {"kernel": [D, K], "bias": [K]}.
    """

    def loss(head):
        logits = features @ head["kernel"] + head["bias"][None]
        cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(cross_entropy) + l2 * 0.5 * sum(jnp.sum(jnp.square(p)) for p in jax.tree.leaves(head))

    tx = optax.lbfgs(memory_size=20)
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry):
        head, state, _ = carry
        value, gradient = value_and_grad(head, state=state)
        updates, state = tx.update(gradient, state, head, value=value, grad=gradient, value_fn=loss)
        return optax.apply_updates(head, updates), state, optax.tree.norm(gradient)

    # The distance to the optimum is at most the gradient over l2; below 1e-7 lies the rounding of float32.
    tolerance = jnp.clip(1e-3 * l2, 1e-7, 1e-5)

    def unfinished(carry):
        _, state, gradient_norm = carry
        return (optax.tree.get(state, "count") < 500) & (gradient_norm > tolerance)

    head, _, _ = jax.lax.while_loop(
        unfinished, step, (start, tx.init(start), jnp.array(jnp.inf, start["kernel"].dtype))
    )
    return head


def new_head(kind: str, like: dict[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
    """A head of the shapes of `like`: "zeros", or "normal" with a standard deviation of 0.01 and zero bias."""
    zeros = jax.tree.map(jnp.zeros_like, like)
    if kind == "zeros":
        return zeros
    return zeros | {"kernel": 0.01 * jax.random.normal(key, like["kernel"].shape, like["kernel"].dtype)}


def put_head(params: Any, path: str, head: dict[str, jax.Array]) -> dict[str, Any]:
    """The parameters with the head at module path `path` replaced; `params` itself is left alone."""
    first, _, rest = path.partition("/")
    return {**params, first: put_head(params[first], rest, head) if rest else dict(head)}


def get_head(params: Any, path: str) -> dict[str, jax.Array]:
    """The head {"kernel": [D, K], "bias": [K]} at module path `path`."""
    for name in path.split("/"):
        params = params[name]
    return dict(params)
