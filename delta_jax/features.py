"""Taps: feature maps of any Flax Linen module, read and replaced by module path, without touching the model's code."""

import difflib
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict
from jax.ad_checkpoint import checkpoint_name

from delta_jax import precision

Variables = Mapping[str, Any]
Path = tuple[str, ...]

_serial = itertools.count()
_MARK = "tap: "  # a prefix: models name values for jax.checkpoint's policies, too


def tap(x: jax.Array, name: str) -> jax.Array:
    """The feature maps [B, ..., C] as they are, marked as a tap of that name for any model that jax can trace."""
    return checkpoint_name(x, _MARK + name)


def _name(path: Path) -> str:
    # Never taken apart again: a slash may stand in a module's own name, too.
    return "/".join(path)


def _new_collection() -> str:
    """Name of a variable collection that no other pass has.

    nn.jit caches its traces by the names of the mutable collections and knows nothing of interceptors: under a name
    used before, it would go on with a trace in which other taps were read or replaced.
    """
    return f"taps {next(_serial)}"


def _without_intermediates(variables: Variables) -> Variables:
    # flax appends to what an earlier pass left there.
    return {name: value for name, value in variables.items() if name != "intermediates"}


def _is_arrays(out: Any) -> bool:
    leaves = jax.tree.leaves(out)
    return bool(leaves) and all(isinstance(leaf, jax.Array) for leaf in leaves)


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


class _Pass:
    """One forward pass, with the outputs of its modules and the order of their calls.

    Attributes:
      output: of the model.
      updated: the collections in `mutable`, as flax returns them.
      outputs: {path: output} of the modules called once, outside nn.scan and nn.vmap, that return (pytrees of) arrays.
      ambiguous: names that two modules have, such as "a/b" of a module of that name beside a module b inside of a.
      started, finished: {path: time} of their calls.
    """

    def __init__(
        self,
        model: nn.Module,
        variables: Variables,
        x: Any,
        kwargs: Mapping[str, Any],
        *,
        only: Collection[str] | None = None,
        changes: Mapping[str, Callable[[Any], Any]] | None = None,
        replay: Mapping[str, Any] | None = None,
        recompute: Collection[str] = (),
        mutable: Sequence[str] = (),
    ):
        self.started: dict[Path, int] = {}
        self.finished: dict[Path, int] = {}
        shapes: dict[Path, Any] = {}
        repeated: set[Path] = set()
        inside: set[Path] = set()
        clock, collection = itertools.count(), _new_collection()

        def interceptor(call, args, keywords, context):
            path = context.module.path
            name = _name(path)
            if context.method_name != "__call__":
                return call(*args, **keywords)
            if replay and name in replay:
                return replay[name]
            if name in recompute and path not in inside:
                inside.add(path)  # the call below comes through here again
                try:
                    return _recomputed(context.module, args, keywords)
                finally:
                    inside.discard(path)
            if only is not None and name not in only:
                return call(*args, **keywords)
            if path in self.started:
                repeated.add(path)
            self.started[path] = next(clock)
            out = call(*args, **keywords)
            if changes and name in changes and isinstance(out, jax.Array):
                out = changes[name](out)
            self.finished[path] = next(clock)
            if _is_arrays(out):
                shapes[path] = jax.tree.map(lambda leaf: leaf.shape, out)
            return out

        # Outputs come back through flax, not through a dict of the interceptor: otherwise none gets out of nn.remat.
        def keep(module: nn.Module, method: str) -> bool:
            return method == "__call__" and (only is None or _name(module.path) in only)

        with nn.intercept_methods(interceptor):
            self.output, state = model.apply(
                _without_intermediates(variables),
                x,
                capture_intermediates=keep,
                mutable=["intermediates", collection, *mutable],
                **kwargs,
            )
        self.updated = {name: value for name, value in state.items() if name not in ("intermediates", collection)}
        captured = flatten_dict(dict(state.get("intermediates", {})))
        calls = {path[:-1]: outputs for path, outputs in captured.items() if path[-1] == "__call__"}
        if unseen := sorted(calls.keys() - self.started.keys()):
            raise ValueError(
                f"the modules {', '.join(map(_name, unseen[:3]))} run in a trace that nn.jit made for another, so "
                "their taps cannot be told apart; take nn.jit out of the model and put jax.jit around the whole step"
            )
        # nn.scan and nn.vmap drop what is sown inside them, or stack it along a new axis: then the shape has changed.
        self.outputs: dict[Path, Any] = {
            path: outputs[0]
            for path, outputs in calls.items()
            if path in shapes
            and path not in repeated
            and jax.tree.map(lambda leaf: leaf.shape, outputs[0]) == shapes[path]
        }

        counts = Counter(map(_name, self.started))
        self.ambiguous = {name for name, count in counts.items() if count > 1}

    def taps(self) -> dict[str, jax.Array]:
        """{module path: output} of the modules that return one array [B, ..., C]; the model itself is none."""
        arrays = {p: o for p, o in self.outputs.items() if p and isinstance(o, jax.Array) and o.ndim >= 2}
        return {_name(p): o for p, o in arrays.items() if _name(p) not in self.ambiguous}


def list_taps(model: nn.Module, variables: Variables, x: jax.Array, **kwargs: Any) -> dict[str, tuple[int, ...]]:
    """{module path: shape of its output} of every module that can be a tap, in alphabetical order.

    Nothing is computed. Models with different modules in the branches of nn.cond or nn.switch cannot be listed.

    Args:
      model: any Linen module.
      variables: its variables, or their shapes.
      x: images [B, H, W, 3] or their shape; whatever the model takes first.
      **kwargs: passed on to `model.apply`.
    """
    return _listed(model, variables, x, kwargs)[0]


def _listed(model: nn.Module, variables: Variables, x: Any, kwargs: Mapping[str, Any]):
    """What `list_taps` returns, and the names that are ambiguous."""
    # With train=True the pass updates its statistics, too.
    mutable = [name for name in variables if name != "params"]
    ambiguous: set[str] = set()

    def run(variables, x):
        done = _Pass(model, variables, x, kwargs, mutable=mutable)
        ambiguous.update(done.ambiguous)
        return done.taps()

    shapes = jax.eval_shape(run, variables, x)
    return {tap: tuple(shape.shape) for tap, shape in sorted(shapes.items())}, ambiguous


def _ambiguous(name: str) -> ValueError:
    return ValueError(
        f"two modules of the network are called {name!r}, with a slash in a name or between two names; rename one"
    )


def check_taps(model: nn.Module, variables: Variables, x: jax.Array, taps: Sequence[str], **kwargs: Any) -> None:
    """Raises ValueError, with the closest known names, unless every tap is one of `list_taps`."""
    known, ambiguous = _listed(model, variables, x, kwargs)
    wrong = [tap for tap in taps if tap not in known]
    if twice := [tap for tap in wrong if tap in ambiguous]:
        raise _ambiguous(twice[0])
    if not taps or wrong:
        close = sorted({name for tap in wrong for name in difflib.get_close_matches(tap, known, n=3, cutoff=0.3)})
        found = f"no tap called {', '.join(map(repr, wrong))}" if wrong else "no taps given"
        raise ValueError(
            f"{found} in the network; did you mean {', '.join(close or list(known)[:8])}? A tap is the path "
            "of a module that runs once per forward pass, outside nn.scan and nn.vmap, and returns an array [B, ..., C]"
        )


def apply_with_taps(
    model: nn.Module,
    variables: Variables,
    x: jax.Array,
    taps: Sequence[str],
    *,
    mutable: Sequence[str] = (),
    replay: Mapping[str, Any] | None = None,
    recompute: Sequence[str] = (),
    **kwargs: Any,
) -> Any:
    """One forward pass that also returns the feature maps at the taps.

    Args:
      model: any Linen module.
      variables: {"params": ..., "batch_stats": ...}.
      x: images [B, H, W, 3]; whatever the model takes first.
      taps: module paths such as "layer4_2/conv3"; the output of that module's `__call__`, before whatever follows it.
      mutable: collections that the pass may update, e.g. ("batch_stats",) in training.
      replay: {module path: output} of modules that are not run, see `Prefix.outputs_until`; no tap lies in them.
      recompute: paths of modules, none within another, whose insides the backward pass computes again instead of
        keeping them, such as `blocks`: less memory, more time, the same numbers.
      **kwargs: passed on to `model.apply`: train=True, rngs={"dropout": key}.

    Returns:
      (output, {tap: [B, H, W, C]}), and with `mutable` the updated collections as a third item.

    Raises:
      ValueError: a tap does not exist (the closest names are given), runs more than once, or returns no array.
    """
    done = _Pass(
        model,
        variables,
        x,
        kwargs,
        only=set(taps),
        replay=replay,
        recompute=set(recompute),
        mutable=mutable,
    )
    maps = _chosen(done, taps, model, variables, x, kwargs)
    return (done.output, maps, done.updated) if mutable else (done.output, maps)


def apply_with_changes(
    model: nn.Module,
    variables: Variables,
    x: jax.Array,
    changes: Mapping[str, Callable[[jax.Array], jax.Array]],
    **kwargs: Any,
) -> tuple[Any, dict[str, jax.Array]]:
    """One forward pass in which each tap returns `changes[tap]` of its output.

    Args:
      model: any Linen module.
      variables: its variables.
      x: images [B, H, W, 3].
      changes: {tap: function of the feature maps [B, H, W, C]}.
      **kwargs: passed on to `model.apply`.

    Returns:
      (output, {tap: changed maps}).

    Raises:
      ValueError: as `apply_with_taps`.
    """
    done = _Pass(model, variables, x, kwargs, only=set(changes), changes=changes)
    return done.output, _chosen(done, tuple(changes), model, variables, x, kwargs)


def _chosen(done: _Pass, taps: Sequence[str], model, variables, x, kwargs) -> dict[str, jax.Array]:
    found = done.taps()
    if any(tap not in found for tap in taps):
        check_taps(model, variables, x, taps, **kwargs)
    return {tap: found[tap] for tap in taps}


def head_inputs(model: nn.Module, variables: Variables, x: jax.Array, head: str, **kwargs: Any) -> jax.Array:
    """What the head gets to see: the features [B, D] on which a linear classifier is trained (L2-FE).

    Products are in full float32 on every chip, see `precision.full`.

    Args:
      model: any Linen module; its output should be what the Dense layer at `head` returns.
      variables: its variables.
      x: images [B, H, W, 3].
      head: module path of the classifier.
      **kwargs: passed on to `model.apply`.

    Raises:
      ValueError: there is no Dense layer at `head`, or it does not run once, on features [B, D].
    """
    leaves = flatten_dict(dict(variables["params"]))
    modules = {path[:end] for path in leaves for end in range(1, len(path))}
    paths = [path for path in modules if _name(path) == head]
    if len(paths) > 1:
        raise _ambiguous(head)
    if not paths:
        close = difflib.get_close_matches(head, map(_name, modules), n=3) or sorted({path[0] for path in modules})
        raise ValueError(f"no module {head!r} in the parameters; did you mean {' or '.join(map(repr, close))}?")
    path = paths[0]
    collection = _new_collection()

    def interceptor(call, args, keywords, context):
        if context.method_name == "__call__" and context.module.path == path:
            context.module.sow(collection, "inputs", [*args, *keywords.values()][0])
        return call(*args, **keywords)

    with precision.full(), nn.intercept_methods(interceptor):
        _, state = model.apply(variables, x, mutable=[collection], **kwargs)
    seen = flatten_dict(dict(state.get(collection, {}))).get((*path, "inputs"), ())
    kernel = leaves.get((*path, "kernel"))
    width = None if kernel is None else kernel.shape[0]
    if len(seen) != 1 or seen[0].ndim != 2 or seen[0].shape[-1] != width:
        shapes = ", ".join(str(tuple(features.shape)) for features in seen) or "nothing"
        raise ValueError(
            f"the head {head!r} has to be a Dense layer that runs once, on features [B, D]; it was given {shapes}"
        )
    return seen[0]


def blocks(params: Mapping[str, Any]) -> tuple[str, ...]:
    """Paths of the smallest modules with two or more layers in them: residual blocks, say; never the model itself.

    A layer is a module with a kernel. What to give to `recompute` of `apply_with_taps`.
    """
    found: list[str] = []

    def layers(node: Mapping[str, Any], path: Path) -> int:
        inside = [layers(child, (*path, name)) for name, child in node.items() if isinstance(child, Mapping)]
        if path and sum(inside) > 1 and max(inside) == 1:
            found.append(_name(path))
        return sum(inside) + ("kernel" in node)

    layers(params, ())
    return tuple(found)


class Prefix:
    """The part of a forward pass that ends at a tap, kept so that the rest can run again with other tap outputs.

    Every module that finished before the tap's module started returns its recorded output; what fed it becomes dead
    code and is never computed. The rest are the operations of the plain forward pass, on the same numbers. Use it
    inside one `jit`.
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
        self._recorded = _Pass(model, variables, x, kwargs)

    @property
    def output(self) -> Any:
        """The model's output when nothing is replaced."""
        return self._recorded.output

    def feature_maps(self, tap: str) -> jax.Array:
        """The recorded output [B, ..., C] of the tap; ValueError when there is no such tap."""
        return _chosen(self._recorded, (tap,), self._model, self._variables, self._x, self._kwargs)[tap]

    def outputs_until(self, module: str) -> dict[str, Any]:
        """{path: output} of all that has run when `module` returns, without what ran inside of another of them.

        To be given to `apply_with_taps` as `replay`.

        Raises:
          ValueError: there is no such module (the closest names are given), or before it another one runs that has
            parameters and is called several times, so that its outputs cannot be replayed.
        """
        self.feature_maps(module)  # complains of a wrong name
        recorded = self._recorded
        until = next(time for path, time in recorded.finished.items() if _name(path) == module)
        done = {p for p, time in recorded.finished.items() if time <= until}
        kept = {p for p in done if p in recorded.outputs and not any(p[:n] in done for n in range(1, len(p)))}
        params = {path[:-1] for path in flatten_dict(self._variables["params"])}
        for path in sorted(done & params):
            if not any(path[:n] in kept for n in range(1, len(path) + 1)):
                raise ValueError(
                    f"{_name(path)} runs before {module} and cannot be replayed: it is called several times, or "
                    "returns no arrays; choose a module in front of it, or one that contains all its calls"
                )
        outputs = {_name(p): recorded.outputs[p] for p in sorted(kept)}
        if twice := sorted(outputs.keys() & recorded.ambiguous):
            raise _ambiguous(twice[0])
        return outputs

    def continue_from(self, tap: str, maps: jax.Array) -> Any:
        """The model's output when the tap returns `maps` [B, ..., C] instead of what was recorded."""
        self.feature_maps(tap)  # complains of a wrong tap
        recorded = self._recorded
        start = next(time for path, time in recorded.started.items() if _name(path) == tap)
        before = {_name(p): out for p, out in recorded.outputs.items() if recorded.finished[p] < start}
        # One of two modules of a name would be given the other's output: these run again.
        replay = {name: out for name, out in before.items() if name not in recorded.ambiguous} | {tap: maps}
        return _Pass(self._model, self._variables, self._x, self._kwargs, only=set(), replay=replay).output
