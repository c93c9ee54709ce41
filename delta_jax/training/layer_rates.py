"""Learning rates that differ from layer to layer: by depth, by time, and by the relative norm of the gradient."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from delta_jax import features

_SMOOTHED = 0.9  # of the relative norms, what is kept from the steps before


@dataclass(frozen=True)
class Layers:
    """The layers of a network.

    Attributes:
      numbers: a tree like the parameters, with the number of its layer in place of each array.
      count: how many there are; the last one is the head.
    """

    numbers: Any
    count: int


def of_network(params: Mapping[str, Any], order: Sequence[str], heads: Collection[str]) -> Layers:
    """The layers of a network, see `modules`."""
    found = modules(params, order, heads)
    return Layers(_numbers(params, found), len(found))


def modules(params: Mapping[str, Any], order: Sequence[str], heads: Collection[str]) -> tuple[tuple[str, ...], ...]:
    """The modules of each layer, from the image to the head, which is the last one.

    A layer is a block, see `features.blocks`, or a module with a kernel outside of blocks. What else has parameters
    belongs to the layer before it.

    Args:
      params: of the network, or their shapes.
      order: paths of its modules as they run.
      heads: paths of the classifier, or of several.

    Raises:
      ValueError: a layer is not among the modules that run.
    """
    # A list of modules is none that runs.
    blocks = (*heads, *(block for block in features.blocks(params) if block in order))
    there: dict[str, bool] = {}  # path: has a kernel
    for path, _ in jax.tree_util.tree_leaves_with_path(params):
        names = tuple(str(key.key) for key in path)
        prefixes = ["/".join(names[:end]) for end in range(1, len(names))]
        module = next((prefix for prefix in prefixes if prefix in blocks), "/".join(names[:-1]))
        there[module] = there.get(module, False) or module in blocks or names[-1] == "kernel"

    def place(module: str) -> int:
        found = (i for i, name in enumerate(order) if f"{name}/".startswith(f"{module}/"))
        return next(found, -1)  # in front of all, as are parameters of the network itself

    known = [module for module in there if module not in heads]
    if lost := [module for module in known if there[module] and place(module) < 0]:
        raise ValueError(f"when the layer {lost[0]} runs is not known: no module of this path tells")
    found: list[list[str]] = []
    for module in sorted(known, key=place):
        if there[module] or not found:
            found.append([])
        found[-1].append(module)
    return (*map(tuple, found), tuple(heads))


def _numbers(params: Mapping[str, Any], found: Sequence[Sequence[str]]) -> Any:
    of_module = {module: number for number, modules in enumerate(found) for module in modules}

    def number(path: Any, _: Any) -> int:
        names = tuple(str(key.key) for key in path)
        prefixes = ("/".join(names[:end]) for end in range(len(names) - 1, 0, -1))
        return next((of_module[prefix] for prefix in prefixes if prefix in of_module), of_module.get("", 0))

    return jax.tree_util.tree_map_with_path(number, params)


def factors(
    rates: np.ndarray, steps: int, count: int, *, decay: float = 1.0, unfreeze: float = 0.0, restarts: int = 0
) -> np.ndarray:
    """What the learning rate of each layer is multiplied by, float32 [T, L]; 0 for a layer that is frozen.

    Args:
      rates: learning rates [T] of the schedule.
      steps: of the run, T or fewer.
      count: L, the number of layers.
      decay: of the rate from a layer to the one in front of it; the head has the whole rate.
      unfreeze: share of the steps after which all layers train; one after the other begins, the head at once (Howard
        and Ruder, ACL 2018).
      restarts: of the head; its rate then falls from the highest to 0 as a cosine after each of them, whatever the
        schedule says to the others (RIFLE; Li et al., ICML 2020).
    """
    depth = np.arange(count)[::-1]
    step = np.arange(len(rates))[:, None]
    opens = np.floor(depth * unfreeze * steps / max(count - 1, 1)).astype(int)
    found = np.where(step >= opens, float(decay) ** depth, 0.0)
    if restarts:
        begins = np.array([0, *restart_steps(steps, restarts), steps])
        period = np.clip(np.searchsorted(begins, np.arange(len(rates)), "right") - 1, 0, restarts)
        share = np.minimum((np.arange(len(rates)) - begins[period]) / np.diff(begins)[period], 1)
        wanted = rates.max() * (1 + np.cos(np.pi * share)) / 2
        found[:, -1] = np.where(rates > 0, wanted / np.where(rates > 0, rates, 1), 1)
    return found.astype(np.float32)


def restart_steps(steps: int, restarts: int) -> np.ndarray:
    """The steps, counted from 0, before which the head is made anew: int32 [restarts], evenly apart."""
    return np.ceil(np.arange(1, restarts + 1) * steps / (restarts + 1)).astype(np.int32)


class _Counted(NamedTuple):
    step: jax.Array


def scaled(numbers: Any, table: jax.Array) -> optax.GradientTransformation:
    """Updates times the factor of their layer at this step; `numbers` as of `Layers`, `table` [T, L]."""

    def update(updates: Any, state: _Counted, params: Any = None) -> tuple[Any, _Counted]:
        now = table[state.step]
        return _by_layer(lambda update, n: update * now[n].astype(update.dtype), updates, numbers), _next(state)

    return optax.GradientTransformation(_counted, update)


def opened(numbers: Any, table: jax.Array) -> optax.GradientTransformation:
    """0 in place of the gradients of layers whose factor at this step is 0: they gather no momentum."""

    def update(updates: Any, state: _Counted, params: Any = None) -> tuple[Any, _Counted]:
        now = table[state.step]
        return _by_layer(lambda g, n: jnp.where(now[n] > 0, g, jnp.zeros_like(g)), updates, numbers), _next(state)

    return optax.GradientTransformation(_counted, update)


class _Relative(NamedTuple):
    norms: jax.Array
    inner: Any


def by_relative_gradient(inner: optax.GradientTransformation, layers: Layers) -> optax.GradientTransformation:
    """Updates of `inner` times the relative norm of their layer's gradient over the largest of all layers.

    Auto-RGN of surgical fine-tuning (Lee et al., ICLR 2023): ||g|| / ||w||, here of a layer and smoothed over the
    steps, there of a tensor and anew every epoch. The head, the last layer, is new and keeps its whole rate.

    Args:
      inner: sees the gradients as they are.
      layers: of the network.
    """
    numbers, count = layers.numbers, layers.count

    def init(params: Any) -> _Relative:
        return _Relative(jnp.zeros((count,), jnp.float32), inner.init(params))

    def update(updates: Any, state: _Relative, params: Any = None) -> tuple[Any, _Relative]:
        squares = [jnp.zeros((count,), jnp.float32) for _ in range(2)]
        leaves, places = jax.tree.leaves(numbers), zip(*map(_leaves, (updates, params)), strict=True)
        for n, (g, w) in zip(leaves, places, strict=True):
            if not isinstance(g, optax.MaskedNode):
                for i, array in enumerate((g, w)):
                    squares[i] = squares[i].at[n].add(jnp.sum(jnp.square(array.astype(jnp.float32))))
        relative = jnp.sqrt(squares[0] / jnp.maximum(squares[1], 1e-12))
        first = jnp.all(state.norms == 0)
        norms = jnp.where(first, relative, _SMOOTHED * state.norms + (1 - _SMOOTHED) * relative)
        largest = jnp.max(norms[:-1])
        factor = jnp.where(largest > 0, norms / jnp.where(largest > 0, largest, 1), 1).at[-1].set(1)
        found, changed = inner.update(updates, state.inner, params)
        return _by_layer(lambda u, n: u * factor[n].astype(u.dtype), found, numbers), _Relative(norms, changed)

    return optax.GradientTransformation(init, update)


def _counted(params: Any) -> _Counted:
    return _Counted(jnp.zeros((), jnp.int32))


def _next(state: _Counted) -> _Counted:
    return _Counted(state.step + 1)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _leaves(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=_is_masked)


def _by_layer(change: Any, updates: Any, numbers: Any) -> Any:
    """change(update, number of its layer) of all that is not masked."""
    return jax.tree.map(lambda u, n: u if _is_masked(u) else change(u, n), updates, numbers, is_leaf=_is_masked)
