"""The head of a network: fitted to fixed features (L2-FE), made anew, and put at its path among the parameters.

A head is {"kernel": [D, K], "bias": [K]}, or without "bias" where the network's Dense layer has none.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from delta_jax.models import check_head, module_path

Head = dict[str, jax.Array]
KINDS = ("zeros", "normal")


def logits(head: Mapping[str, Any], features: Any) -> Any:
    """features [N, D] -> [N, K]; of numpy or jax arrays, as they come in."""
    found = features @ head["kernel"]
    return found + head["bias"][None] if "bias" in head else found


@jax.jit
def fit_head(
    features: jax.Array, labels: jax.Array, start: Head, l2: jax.Array, label_weights: jax.Array | None = None
) -> Head:
    """The head that minimises mean cross-entropy + l2 * 1/2 ||head||^2 on fixed features: DELTA's L2-FE, section 3.4.

    The problem is convex and has one optimum, so there is no learning rate to choose: L-BFGS goes there from any start.

    Args:
      features: [N, D], what the head gets to see.
      labels: int32 [N].
      start: a head; the result has its shapes.
      l2: weight of the penalty, > 0.
      label_weights: [K], weights of the cross-entropies by true class; all 1 where not given.
    """

    def loss(head):
        cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels(logits(head, features), labels)
        if label_weights is not None:
            cross_entropy = cross_entropy * label_weights[labels]
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


def new_head(kind: str, like: Mapping[str, jax.Array], key: jax.Array, num_classes: int | None = None) -> Head:
    """A head for the same features as another one.

    Args:
      kind: "zeros", or "normal": kernel with a standard deviation of 0.01, bias of zeros.
      like: the other head; gives shapes and types.
      key: of the random numbers.
      num_classes: outputs; as many as `like` has when not given.

    Raises:
      ValueError: unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"head {kind!r} is not one of {KINDS}")
    width, outputs = like["kernel"].shape
    shapes = {"kernel": (width, num_classes or outputs), "bias": (num_classes or outputs,)}
    head = {name: jnp.zeros(shapes[name], leaf.dtype) for name, leaf in like.items()}
    if kind == "normal":
        head["kernel"] = 0.01 * jax.random.normal(key, head["kernel"].shape, head["kernel"].dtype)
    return head


def put_head(params: Mapping[str, Any], path: str, head: Mapping[str, jax.Array]) -> dict[str, Any]:
    """The parameters with the head at module path `path` replaced; `params` itself is left alone.

    The number of classes may change; a new head of other features than the old one may not.

    Raises:
      ValueError: there is no Dense layer at `path` (the closest paths are given), or the heads do not fit.
    """
    old = get_head(params, path)
    ours, theirs = ({name: leaf.shape[:-1] for name, leaf in h.items()} for h in (old, head))
    if ours != theirs:
        shapes = [{name: tuple(leaf.shape) for name, leaf in h.items()} for h in (old, head)]
        raise ValueError(f"the head {path!r} is {shapes[0]}, and {shapes[1]} does not fit in; only K may differ")
    return _put(params, module_path(params, path), head)


def _put(params: Mapping[str, Any], path: Sequence[str], head: Mapping[str, jax.Array]) -> dict[str, Any]:
    first, *rest = path
    return {**params, first: _put(params[first], rest, head) if rest else dict(head)}


def get_head(params: Mapping[str, Any], path: str) -> Head:
    """The head at module path `path`; ValueError, with the closest paths, when there is no Dense layer."""
    return dict(check_head(params, path))
