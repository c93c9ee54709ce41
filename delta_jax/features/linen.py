"""Linen modules: their outputs are marked with their paths while the model is traced, without touching its code."""

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from delta_jax.features.marks import Mark, Path, put

_serial = itertools.count()


def forward(
    model: nn.Module,
    kwargs: Mapping[str, Any],
    mutable: Sequence[str],
    recompute: Collection[str],
    calls: Counter[Path],
) -> Callable[[Any, Any], tuple[Any, Mapping[str, Any]]]:
    """(variables, x) -> (output, updated collections), to be traced.

    Args:
      model: whose modules are marked.
      kwargs: of its `apply`.
      mutable: collections that the pass may update.
      recompute: names of modules, none within another, whose insides a backward pass computes again.
      calls: {path: how often the module was called} is counted here.
    """

    def run(variables, x):
        # nn.jit keeps its traces by the names of the mutable collections and knows nothing of interceptors. Under a
        # name used before, it would go on with a trace that has no marks, or those of another model.
        own = f"taps {next(_serial)}"
        with nn.intercept_methods(_marking(recompute, calls)):
            output, updated = model.apply(variables, x, mutable=[*mutable, own], **kwargs)
        return output, {name: value for name, value in updated.items() if name != own}

    return run


def _marking(recompute: Collection[str], calls: Counter[Path]) -> Callable[..., Any]:
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
        return put(out, Mark(path, None, out.shape))
    leaves, structure = jax.tree.flatten(out)
    if not all(isinstance(leaf, jax.Array) for leaf in leaves):
        return out
    marks = (Mark(path, number, leaf.shape) for number, leaf in enumerate(leaves))
    return jax.tree.unflatten(structure, map(put, leaves, marks))


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


def blocks(params: Mapping[str, Any]) -> tuple[str, ...]:
    """Paths of the smallest modules with two or more layers in them: residual blocks, say; never the model itself.

    A layer is a module with a kernel. What to give to `recompute` of `apply_with_taps`.
    """
    found: list[str] = []

    def layers(node: Mapping[str, Any], path: Path) -> int:
        inside = [layers(child, (*path, name)) for name, child in node.items() if isinstance(child, Mapping)]
        if path and sum(inside) > 1 and max(inside) == 1:
            found.append("/".join(path))
        return sum(inside) + ("kernel" in node)

    layers(params, ())
    return tuple(found)
