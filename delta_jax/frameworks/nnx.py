"""Flax NNX modules: taps by path, such as "layers/0/conv", without a change to the module's code."""

import dataclasses
import functools
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from delta_jax.features import tap

Path = tuple[str, ...]
_STREAMS = ("rng_key", "rng_count")


def _plain(module: nnx.Module, images: jax.Array, *, train: bool, rngs: Mapping[str, jax.Array], **kwargs: Any) -> Any:
    return module(images, **kwargs)


def adapt(module: nnx.Module, *, call: Callable[..., Any] = _plain) -> tuple["Network", dict[str, Any]]:
    """An NNX module as a model and variables, which `features` and `attention` take.

    A tap is the path of a submodule that returns an array [B, ..., C], joined by slashes: "layers/0/conv". A module
    that is at two paths has two names. BatchNorm, Dropout and whatever else has `deterministic` or
    `use_running_average` follow `train`, as in `nnx.Module.train` and `eval`.

    Args:
      module: any NNX module; it is left as it is.
      call: how it is called, where that is not `module(images)`: a function of (module, images, train, rngs), the last
        two by keyword, such as `lambda net, x, train, rngs: net(x, train=train)`.

    Returns:
      (model, {"params": ..., "batch_stats": ..., ...}): nested dicts in the module's own names.
      `model.module(variables)` is an NNX module again.

    Raises:
      ValueError: it is no NNX module.
    """
    if not isinstance(module, nnx.Module):
        raise ValueError(f"{type(module).__name__} is no NNX module; expected one (Linen modules need no adapter)")
    structure, leaves, variables = _split(module)
    return Network(structure, leaves, call), variables


def from_function(
    build: Callable[..., nnx.Module],
    *,
    call: Callable[..., Any] | None = None,
    argument: str = "train",
    frozen_norm: bool = False,
) -> "Network":
    """The network that `build(rngs=nnx.Rngs(key))` returns; no array is made before `init(key, images)`.

    Args:
      build: a class of NNX modules or a function that returns one, called with `rngs` alone.
      call: as of `adapt`.
      argument: without a `call`, the keyword of the module's call that says whether it is being trained, as
        `ModelSpec.train_argument`; modules need none to follow `train`.
      frozen_norm: normalisation keeps to its running statistics in training.

    Raises:
      ValueError: it returns no NNX module, or one whose call has no such argument.
    """
    module = nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0)))
    if not isinstance(module, nnx.Module):
        raise ValueError(f"a function of rngs is to return an NNX module, and this one returns {type(module).__name__}")
    structure, leaves, _ = _split(module)
    return Network(structure, leaves, call or _told(type(module), argument), build, frozen_norm)


def _told(kind: type[nnx.Module], argument: str) -> Callable[..., Any]:
    taken = inspect.signature(kind.__call__).parameters
    if argument in taken:
        return _by_keyword(argument)
    if argument not in ("", "train"):
        own = ", ".join(list(taken)[1:])
        raise ValueError(f"{kind.__name__} is called with ({own}) and has no argument {argument!r} for training")
    return _plain


@functools.cache  # equal networks have the same call
def _by_keyword(argument: str) -> Callable[..., Any]:
    inverted = argument in ("deterministic", "use_running_average")

    def call(module: Any, images: jax.Array, *, train: bool, rngs: Mapping[str, jax.Array], **kwargs: Any) -> Any:
        return module(images, **{argument: train != inverted}, **kwargs)

    return call


class _Leaf(NamedTuple):
    """One array of a module: its collection, its path, of a random stream its name, its shape."""

    collection: str
    path: tuple[Any, ...]
    stream: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """An NNX module without its arrays, called as Linen modules are. Networks of the same structure are equal.

    Attributes:
      structure: the module's graph.
      leaves: its arrays, in the order of the graph.
      call: see `adapt`.
      build: see `from_function`; None for a module that came with its values.
      frozen_norm: see `from_function`.
    """

    structure: nnx.GraphDef
    leaves: tuple[_Leaf, ...]
    call: Callable[..., Any] = _plain
    build: Callable[..., nnx.Module] | None = None
    frozen_norm: bool = False

    @property
    def name(self) -> str:
        """The name of the module's class."""
        root: Any = self.structure.nodes[0]
        return root.type.__name__

    @functools.cached_property
    def _key(self) -> Any:
        key = (self.structure, self.leaves, self.call, self.frozen_norm)
        try:
            hash(key)
        except TypeError:  # a module with an attribute such as a dataclass that is not frozen
            return id(self)
        return key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Network) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def init(self, key: jax.Array, images: Any = None) -> dict[str, Any]:
        """New variables; unlike Linen, NNX needs no images for them.

        Raises:
          ValueError: the network was made of a module that came with its values.
        """
        if self.build is None:
            raise ValueError("the NNX module came with its values: take the variables that adapt returned beside it")
        return _split(self.build(rngs=nnx.Rngs(key)))[2]

    def module(self, variables: Mapping[str, Any]) -> nnx.Module:
        """An NNX module with these variables; its random streams begin at a key of zeros."""
        return self._merged(variables, {})

    def apply(
        self,
        variables: Mapping[str, Any],
        images: jax.Array,
        *,
        train: bool = False,
        mutable: Sequence[str] = (),
        rngs: Mapping[str, jax.Array] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The module's output; with `mutable`, (output, the collections of these names after the call).

        Args:
          variables: {"params": ..., "batch_stats": ...}.
          images: [B, H, W, 3]; whatever the module takes first.
          train: whether it is in training or in evaluation mode.
          mutable: names of collections.
          rngs: {stream: key}; a stream that is not named takes the key of "default", or of "dropout". In evaluation
            mode none is needed: what draws nevertheless draws the same each time.
          **kwargs: passed on to the call.

        Raises:
          ValueError: in training the module draws from a random stream, and there is no key for it.
        """
        rngs = dict(rngs or {})
        module = self._merged(variables, rngs)
        module.train() if train else module.eval()
        if train and self.frozen_norm:
            module.set_attributes(use_running_average=True, raise_if_not_found=False)
        self._mark(module)
        for _, node in nnx.iter_graph(module) if train else ():
            if isinstance(node, nnx.RngStream) and not {node.tag, "default", "dropout"} & rngs.keys():
                object.__setattr__(node, "__class__", _Lacking)
        output = self.call(module, images, train=train, rngs=rngs, **kwargs)
        if not mutable:
            return output
        after = _split(module)[2]
        return output, {name: after[name] for name in mutable if name in after}

    def _mark(self, module: nnx.Module) -> None:
        parts, names = {}, defaultdict(list)
        for name, part in _parts(module):
            parts[id(part)] = part
            names[id(part)].append(name)
        for number, part in parts.items():
            frozen = self.frozen_norm and isinstance(part, nnx.BatchNorm)
            # A class outlasts nnx.remat and nnx.scan, which take modules apart.
            object.__setattr__(part, "__class__", _marking(type(part), tuple(names[number]), frozen))

    def _merged(self, variables: Mapping[str, Any], rngs: Mapping[str, jax.Array]) -> nnx.Module:
        flat = {name: flatten_dict(dict(collection)) for name, collection in variables.items()}
        values = {}
        for number, leaf in enumerate(self.leaves):
            if leaf.collection == "rng_key":
                key = rngs.get(leaf.stream, rngs.get("default", rngs.get("dropout", jax.random.key(0))))
                key = jax.random.fold_in(key, number)
                values[leaf.path] = jax.random.split(key, leaf.shape) if leaf.shape else key
            elif leaf.collection == "rng_count":
                values[leaf.path] = jnp.zeros(leaf.shape, jnp.uint32)
            else:
                values[leaf.path] = flat[leaf.collection][_words(leaf.path)]
        return nnx.merge(self.structure, nnx.from_flat_state(values.items()))


def _split(module: nnx.Module) -> tuple[nnx.GraphDef, tuple[_Leaf, ...], dict[str, Any]]:
    """The module's graph, its leaves, and their values as nested dicts, without random streams."""
    structure, state = nnx.split(module)
    leaves = []
    collections: dict[str, dict[Path, Any]] = defaultdict(dict)
    for path, variable in nnx.to_flat_state(state):
        value = variable.get_value() if isinstance(variable, nnx.Variable) else variable
        leaf = _Leaf(_collection(variable), path, getattr(variable, "tag", ""), getattr(value, "shape", ()))
        leaves.append(leaf)
        if leaf.collection not in _STREAMS:
            collections[leaf.collection][_words(path)] = value
    return structure, tuple(leaves), {name: unflatten_dict(flat) for name, flat in collections.items()}


def _collection(variable: Any) -> str:
    """The name that Linen has for it; "arrays" of one that the module holds as it is."""
    if not isinstance(variable, nnx.Variable):
        return "arrays"
    kinds = {nnx.Param: "params", nnx.BatchStat: "batch_stats", nnx.RngKey: "rng_key", nnx.RngCount: "rng_count"}
    return next((name for kind, name in kinds.items() if isinstance(variable, kind)), type(variable).__name__)


def _words(path: tuple[Any, ...]) -> Path:
    return tuple(map(str, path))


def _parts(node: Any, path: Path = (), above: tuple[int, ...] = ()) -> Iterator[tuple[str, nnx.Module]]:
    """(name, submodule) of all that can be called, at each of their paths; the module itself is none."""
    if id(node) in above:  # a reference to what it is part of
        return
    if path and isinstance(node, nnx.Module) and callable(node):
        yield "/".join(path), node
    if isinstance(node, nnx.Pytree):
        children = {name: child for name, child in vars(node).items() if not name.startswith("_pytree__")}
    elif isinstance(node, Mapping):
        children = {str(key): child for key, child in node.items()}
    elif isinstance(node, Sequence) and not isinstance(node, str):
        children = {str(number): child for number, child in enumerate(node)}
    else:
        return
    for name, child in children.items():
        yield from _parts(child, (*path, name), (*above, id(node)))


@functools.cache
def _marking(kind: Any, taps: tuple[str, ...], frozen: bool) -> Any:
    """The class, with outputs marked as these taps; BatchNorm that is frozen, whatever its caller asks for."""

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if frozen:
            args, kwargs = args[:1], kwargs | {"use_running_average": True}
        out = kind.__call__(self, *args, **kwargs)
        for name in taps:
            out = tap(out, name) if isinstance(out, jax.Array) else out
        return out

    return type(kind.__name__, (kind,), {"__call__": __call__, "__module__": kind.__module__})


class _Lacking(nnx.RngStream):
    """A random stream without a key."""

    def __call__(self) -> jax.Array:
        raise ValueError(
            f"the NNX module draws from its random stream {self.tag!r}; give a key for it, rngs={{{self.tag!r}: key}}"
        )
