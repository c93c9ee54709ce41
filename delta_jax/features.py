"""Taps: feature maps of any Flax Linen module, read and silenced by module path, without touching the model's code."""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

Variables = Mapping[str, Any]
Path = tuple[str, ...]


def _path(tap: str) -> Path:
    return tuple(tap.split("/")) if tap else ()


def _captured(intermediates: Mapping[str, Any]) -> dict[str, tuple]:
    """{module path: one output per call} from flax's `intermediates` collection."""
    flat = flatten_dict(dict(intermediates))
    return {"/".join(path[:-1]): calls for path, calls in flat.items() if path[-1] == "__call__"}


def list_taps(model: nn.Module, variables: Variables, x: jax.Array, **kwargs: Any) -> dict[str, tuple[int, ...]]:
    """{module path: shape of its output} of every module that could be a tap, in alphabetical order; nothing is computed.

    Args:
      model: any Linen module.
      variables: its variables, or their shapes.
      x: images [B, H, W, 3] or their shape; whatever the model takes first.
      **kwargs: passed on to `model.apply`.
    """

    def run(variables, x):
        # Everything mutable: with train=True the pass updates its statistics, too.
        return model.apply(variables, x, capture_intermediates=True, mutable=True, **kwargs)[1]

    calls = _captured(jax.eval_shape(run, variables, x).get("intermediates", {}))
    return {
        path: tuple(outputs[0].shape)
        for path, outputs in sorted(calls.items())
        if path and len(outputs) == 1 and hasattr(outputs[0], "shape") and outputs[0].ndim >= 2
    }


def check_taps(model: nn.Module, variables: Variables, x: jax.Array, taps: Sequence[str], **kwargs: Any) -> None:
    """Raises ValueError, with the closest known names, unless every tap is a module that runs once and returns one array."""
    known = list_taps(model, variables, x, **kwargs)
    wrong = [tap for tap in taps if tap not in known]
    if not taps or wrong:
        close = sorted({name for tap in wrong for name in difflib.get_close_matches(tap, known, n=3, cutoff=0.3)})
        found = f"no tap called {', '.join(map(repr, wrong))}" if wrong else "no taps given"
        raise ValueError(
            f"{found} in {type(model).__name__}; did you mean {', '.join(close or list(known)[:8])}? A tap is the path of a "
            f"module that runs once per forward pass, outside nn.scan and nn.vmap, and returns one array [B, ..., C]"
        )


def apply_with_taps(
    model: nn.Module, variables: Variables, x: jax.Array, taps: Sequence[str], *, mutable: Sequence[str] = (), **kwargs: Any
) -> Any:
    """One forward pass that also returns the feature maps at the taps.

    Args:
      model: any Linen module.
      variables: {"params": ..., "batch_stats": ...}.
      x: images [B, H, W, 3]; whatever the model takes first.
      taps: module paths such as "layer4_2/conv3"; the output of that module's `__call__`, before whatever follows it.
      mutable: collections that the pass may update, e.g. ("batch_stats",) in training.
      **kwargs: passed on to `model.apply`: train=True, rngs={"dropout": key}.

    Returns:
      (output, {tap: [B, H, W, C]}), and with `mutable` the updated collections as a third item.

    Raises:
      ValueError: a tap does not exist (the closest names are given), runs more than once, or returns no array.
    """
    wanted = {_path(tap) for tap in taps}

    def keep(module: nn.Module, method: str) -> bool:
        return method == "__call__" and module.path in wanted

    output, state = model.apply(variables, x, capture_intermediates=keep, mutable=["intermediates", *mutable], **kwargs)
    updated = dict(state)
    calls = _captured(updated.pop("intermediates", {}))
    if any(tap not in calls or len(calls[tap]) != 1 or not hasattr(calls[tap][0], "shape") for tap in taps):
        check_taps(model, variables, x, taps, **kwargs)
    maps = {tap: calls[tap][0] for tap in taps}
    return (output, maps, updated) if mutable else (output, maps)


@contextmanager
def intercept_outputs(change: Callable[[Path, Callable[[], Any]], Any]) -> Iterator[None]:
    """Within this context the output of every module's `__call__` is change(path, compute).

    Enter it inside the function that `jit` traces: around an already compiled one it does nothing.
    """

    def interceptor(call, args, kwargs, context):
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        return change(context.module.path, lambda: call(*args, **kwargs))

    with nn.intercept_methods(interceptor):
        yield


def head_inputs(model: nn.Module, variables: Variables, x: jax.Array, head: str, **kwargs: Any) -> jax.Array:
    """What the head gets to see: the features [B, D] on which a linear classifier is trained (L2-FE).

    Args:
      model: any Linen module whose last operation is the Dense layer at `head`.
      variables: its variables.
      x: images [B, H, W, 3].
      head: module path of the classifier.
      **kwargs: passed on to `model.apply`.
    """

    def interceptor(call, args, kwargs, context):
        if context.method_name == "__call__" and context.module.path == _path(head):
            return args[0]
        return call(*args, **kwargs)

    with nn.intercept_methods(interceptor):
        features = model.apply(variables, x, **kwargs)
    width = _at(variables["params"], head)["kernel"].shape[0]
    if features.ndim != 2 or features.shape[-1] != width:
        raise ValueError(
            f"{head!r} takes {width} features per image, but with it taken out the model returns shape {features.shape}; "
            "it has to be the last operation of the model"
        )
    return features


def _at(params: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    node = params
    for name in _path(path):
        if name not in node:
            raise ValueError(f"no module {path!r} in the parameters; at this level there are {sorted(node)}")
        node = node[name]
    return node


class Prefix:
    """The part of a forward pass that ends at a tap, kept so that the rest can be run again and again with another tap output.

    Every module that finished before the tap's module started, and is not around it, returns its recorded output; what fed
    it becomes dead code and is never computed. Bit-identical to the plain forward pass. Use it inside one `jit`.
    """

    def __init__(self, model: nn.Module, variables: Variables, x: jax.Array, **kwargs: Any):
        """Runs the model once, keeping the output of every module.

        Args:
          model: any Linen module.
          variables: its variables.
          x: images [B, H, W, 3].
          **kwargs: passed on to `model.apply`.
        """
        self._model, self._variables, self._x, self._kwargs = model, variables, x, kwargs
        self._started: dict[Path, int] = {}
        self._finished: dict[Path, int] = {}
        self._shapes: dict[Path, Any] = {}
        self._repeated: set[Path] = set()
        clock = iter(range(10**9))

        def note(path: Path, compute: Callable[[], Any]) -> Any:
            if path in self._started:
                self._repeated.add(path)
            self._started[path] = next(clock)
            out = compute()
            self._finished[path] = next(clock)
            self._shapes[path] = jax.tree.map(jnp.shape, out)
            return out

        with intercept_outputs(note):
            self.output, state = model.apply(
                variables, x, capture_intermediates=True, mutable=["intermediates"], **kwargs
            )
        calls = _captured(state.get("intermediates", {}))
        # Lifted transforms (nn.scan, nn.vmap) drop the outputs inside them, or stack them: those are computed anew.
        self._outputs = {
            _path(path): outputs[0]
            for path, outputs in calls.items()
            if len(outputs) == 1
            and _path(path) not in self._repeated
            and self._shapes.get(_path(path)) == jax.tree.map(jnp.shape, outputs[0])
        }

    def feature_maps(self, tap: str) -> jax.Array:
        """The recorded output [B, ..., C] of the tap."""
        path = _path(tap)
        if path not in self._outputs or not hasattr(self._outputs[path], "shape"):
            check_taps(self._model, self._variables, self._x, (tap,), **self._kwargs)
        return self._outputs[path]

    def continue_from(self, tap: str, maps: jax.Array) -> Any:
        """The model's output when the tap returns `maps` [B, ..., C] instead of what was recorded."""
        path = _path(tap)
        before = {
            other: out
            for other, out in self._outputs.items()
            if self._finished[other] < self._started[path] and path[: len(other)] != other
        }

        def replay(other: Path, compute: Callable[[], Any]) -> Any:
            if other == path:
                return maps
            return before[other] if other in before else compute()

        with intercept_outputs(replay):
            return self._model.apply(self._variables, self._x, **self._kwargs)
