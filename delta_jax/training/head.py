"""The head of a network: fitted to fixed features (L2-FE), made anew, and put at its path among the parameters.

A head is {"kernel": [D, K], "bias": [K]}, or without "bias" where the network's Dense layer has none.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from delta_jax.models import check_head, module_path
from delta_jax.training import head_fit

Head = dict[str, jax.Array]
KINDS = ("zeros", "normal")


def logits(head: Mapping[str, Any], features: Any) -> Any:
    """features [N, D] -> [N, K]; of numpy or jax arrays, as they come in."""
    found = features @ head["kernel"]
    return found + head["bias"][None] if "bias" in head else found


def fit_head(features: Any, labels: Any, start: Mapping[str, Any], l2: Any, label_weights: Any | None = None) -> Head:
    """The head that minimises mean cross-entropy + l2 * 1/2 ||head||^2 on fixed features: DELTA's L2-FE, section 3.4.

    The problem is convex and has one optimum, so there is no learning rate to choose. It is solved on the host, in
    float64, see `head_fit.fit`, which also says how near to the optimum it came; not to be called inside of jit.

    Args:
      features: [N, D], what the head gets to see.
      labels: int [N].
      start: a head; the result has its shapes and types, and does not depend on its values.
      l2: weight of the penalty, > 0.
      label_weights: [K], weights of the cross-entropies by true class; all 1 where not given.
    """
    found = head_fit.fit(features, labels, start, float(l2), label_weights).head
    return {name: jnp.asarray(leaf, start[name].dtype) for name, leaf in found.items()}


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
