"""Marks: the names that values of a traced program carry, by hand or from the paths of Linen modules."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import JaxprEqn

Path = tuple[str, ...]

_PREFIX = "tap: "  # models name values for jax.checkpoint's policies, too


class Mark(NamedTuple):
    """What a value is called.

    Attributes:
      path: of the module that returns it; of what was named by hand, that name alone.
      leaf: which of the arrays of a module that returns a tree of them; None if it is all.
      shape: when it was marked, which nn.vmap does not show; None where any will do.
    """

    path: Path
    leaf: int | None = None
    shape: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """Never taken apart again: a slash may stand in a module's own name, too."""
        return "/".join(self.path)


def tap(x: jax.Array, name: str) -> jax.Array:
    """The feature maps [B, ..., C] as they are, marked as a tap of that name for any model that jax can trace.

    Within `jax.vmap` over images it is what one of them has, [..., C].
    """
    return _marked(x, Mark((name,)))


def _marked(x: jax.Array, mark: Mark) -> jax.Array:
    return checkpoint_name(x, _PREFIX + json.dumps(mark))


def mark_of(equation: JaxprEqn) -> Mark | None:
    """The mark that the equation puts on its operand; None for other equations."""
    if equation.primitive.name != "name" or not equation.params["name"].startswith(_PREFIX):
        return None
    path, leaf, shape = json.loads(equation.params["name"][len(_PREFIX) :])
    return Mark(tuple(path), leaf, None if shape is None else tuple(shape))


def of_modules(calls: Counter[Path], recompute: Collection[str] = ()) -> Callable[..., Any]:
    """Interceptor of Linen's methods that marks what modules return with their paths.

    Args:
      calls: {path: how often it was called} is counted here.
      recompute: names of modules, none within another, whose insides a backward pass computes again.
    """
    inside: set[Path] = set()

    def interceptor(call, args, keywords, context):
        path = context.module.path
        if context.method_name != "__call__" or not path or path in inside:
            return call(*args, **keywords)
        calls[path] += 1
        if "/".join(path) not in recompute:
            return _all_marked(call(*args, **keywords), path)
        inside.add(path)  # the call below comes through here again
        try:
            return _all_marked(_recomputed(context.module, args, keywords), path)
        finally:
            inside.discard(path)

    return interceptor


def _all_marked(out: Any, path: Path) -> Any:
    if isinstance(out, jax.Array):
        return _marked(out, Mark(path, None, out.shape))
    leaves, structure = jax.tree.flatten(out)
    if not all(isinstance(leaf, jax.Array) for leaf in leaves):
        return out
    marks = (Mark(path, number, leaf.shape) for number, leaf in enumerate(leaves))
    return jax.tree.unflatten(structure, map(_marked, leaves, marks))


def _recomputed(module: nn.Module, args: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """The module's call; its backward pass computes again what it needs, instead of keeping it."""
    given, structure = jax.tree.flatten((tuple(args), dict(keywords)))
    is_array = [isinstance(leaf, jax.Array) for leaf in given]

    def call(module: nn.Module, *arrays: jax.Array) -> Any:
        remaining = iter(arrays)
        leaves = [next(remaining) if array else leaf for leaf, array in zip(given, is_array, strict=True)]
        args, keywords = jax.tree.unflatten(structure, leaves)
        return type(module).__call__(module, *args, **keywords)

    return nn.remat(call)(module, *(leaf for leaf, array in zip(given, is_array, strict=True) if array))
