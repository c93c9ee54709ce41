"""Equinox modules: taps by path, such as "layers/0/conv", without a change to the module's code."""

import dataclasses
import functools
import inspect
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from delta_jax.features import tap

Path = tuple[str, ...]
_NAME = "name_of_tap"


def _plain(model: Any, image: jax.Array, state: Any, *, key: Any, train: bool, **kwargs: Any) -> Any:
    if "key" in inspect.signature(type(model).__call__).parameters:
        kwargs["key"] = key
    return model(image, **kwargs) if state is None else model(image, state, **kwargs)


def adapt(
    model: Any,
    state: eqx.nn.State | None = None,
    *,
    call: Callable[..., Any] = _plain,
    channels_first: bool = True,
    axis_name: str = "batch",
) -> tuple["Network", dict[str, Any]]:
    """An Equinox module as a model and variables, which `features` and `attention` take.

    The module is one for a single image; it is mapped over images [B, H, W, 3] here. A tap is the path of a submodule
    that returns an array, joined by slashes: "layers/0/conv"; its feature maps are [B, H, W, C] here, whatever the
    module has. Dropout, BatchNorm and whatever else has `inference` follow `train`, as in `eqx.nn.inference_mode`.

    Args:
      model: any callable `eqx.Module`; it is left as it is.
      state: beside it from `eqx.nn.make_with_state`, for BatchNorm and its like.
      call: how the model is called, where that is not `model(image)`, or `model(image, state)` where it has one, with a
        `key` if it takes one: a function of (model, image, state, key, train), the last two by keyword, which returns
        what the model returns.
      channels_first: whether images and maps are [C, H, W] in the module, as Equinox' layers have them, not [H, W, C].
      axis_name: of the batch, which eqx.nn.BatchNorm was told.

    Returns:
      (model, {"params": ..., "batch_stats": state of BatchNorm, "state": other state}): nested dicts in the module's
      own names. `model.module(variables)` is an Equinox module again, and its state.

    Raises:
      ValueError: it is no Equinox module that can be called.
    """
    if not (isinstance(model, eqx.Module) and callable(model)):
        raise ValueError(f"{type(model).__name__} is no Equinox module; expected a callable equinox.Module")
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    leaves = {_words(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(arrays)[0]}
    _warn_of_shared(leaves)
    network = Network(
        rest, jax.tree.structure(arrays), tuple(leaves), *_state_leaves(model, state), call, channels_first, axis_name
    )
    return network, network.variables(list(leaves.values()), jax.tree.leaves(state))


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """An Equinox module without its arrays, called as Linen modules are.

    Attributes:
      rest: the module with None in place of its arrays of floating point numbers, its parameters.
      structure: of the parameters, as a pytree.
      leaves: their paths.
      state_structure, state_leaves: of the state, with the name of the collection in front of each path.
      call, channels_first, axis_name: see `adapt`.
    """

    rest: Any
    structure: Any
    leaves: tuple[Path, ...]
    state_structure: Any
    state_leaves: tuple[Path, ...]
    call: Callable[..., Any]
    channels_first: bool
    axis_name: str

    def init(self, key: jax.Array, images: Any = None) -> dict[str, Any]:
        """Not to be had: an Equinox module comes with its values."""
        raise ValueError("the Equinox module came with its values: take the variables that adapt returned beside it")

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
        """The module's output for each image; with `mutable`, (output, the collections of these names after the call).

        Args:
          variables: {"params": ..., "batch_stats": ...}.
          images: [B, H, W, 3].
          train: whether the module is in training or in inference mode.
          mutable: names of collections.
          rngs: {"dropout": key}, or one key of another name; each image gets a key made of it.
          **kwargs: passed on to the call.
        """
        model, state = self.module(variables)
        model = _marking(eqx.nn.inference_mode(model, value=not train), (), self.channels_first)
        key = next(iter((rngs or {}).values()), None)
        keys = None if key is None else jax.random.split(key, len(images))

        def one_image(image: jax.Array, key: Any) -> Any:
            return self.call(model, image, state, key=key, train=train, **kwargs)

        axes = (0, None if key is None else 0), 0 if state is None else (0, None)
        run = jax.vmap(one_image, *axes, axis_name=self.axis_name)
        output = run(jnp.moveaxis(images, -1, 1) if self.channels_first else images, keys)
        if state is not None:
            output, state = output
        if not mutable:
            return output
        after = {**variables, **self.variables([], jax.tree.leaves(state))}
        return output, {name: after[name] for name in mutable if name in after}

    def module(self, variables: Mapping[str, Any]) -> tuple[Any, eqx.nn.State | None]:
        """(an Equinox module with these variables, its state or None)."""
        flat = {(name, *path): leaf for name in variables for path, leaf in flatten_dict(dict(variables[name])).items()}
        arrays = jax.tree.unflatten(self.structure, [flat["params", *path] for path in self.leaves])
        state = jax.tree.unflatten(self.state_structure, [flat[path] for path in self.state_leaves])
        return eqx.combine(arrays, self.rest), state

    def variables(self, params: Sequence[Any], state: Sequence[Any]) -> dict[str, Any]:
        """The collections, of leaves of the parameters and the state in their order."""
        flat = {("params", *path): leaf for path, leaf in zip(self.leaves, params, strict=False)}
        return unflatten_dict(flat | dict(zip(self.state_leaves, state, strict=True)))


def _words(path: Any) -> Path:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _warn_of_shared(leaves: Mapping[Path, Any]) -> None:
    seen: dict[int, Path] = {}
    for path, leaf in leaves.items():
        if (first := seen.setdefault(id(leaf), path)) != path:
            warnings.warn(
                f"{'/'.join(first)} and {'/'.join(path)} of the Equinox module are one array, and will be two that are "
                "trained apart, as in every transform of jax; equinox.nn.Shared keeps them one",
                stacklevel=3,
            )
            return


def _children(node: Any) -> dict[str, Any]:
    if isinstance(node, eqx.Module):
        fields = [field for field in dataclasses.fields(node) if not field.metadata.get("static")]
        return {field.name: getattr(node, field.name) for field in fields if field.name in vars(node)}
    if isinstance(node, list | tuple):
        return {str(number): child for number, child in enumerate(node)}
    return {str(key): child for key, child in node.items()} if isinstance(node, dict) else {}


def _state_leaves(model: Any, state: eqx.nn.State | None) -> tuple[Any, tuple[Path, ...]]:
    """The structure of the state, and (collection, path) of its leaves: those of the indices in the model."""
    leaves, structure = jax.tree.flatten(state)
    if state is None:
        return structure, ()
    numbered = jax.tree.unflatten(structure, range(len(leaves)))
    places: dict[int, Path] = {}

    def look(node: Any, path: Path, owner: Any) -> None:
        if isinstance(node, eqx.nn.StateIndex):
            collection = "batch_stats" if isinstance(owner, eqx.nn.BatchNorm) else "state"
            for inside, number in jax.tree_util.tree_flatten_with_path(numbered.get(node))[0]:
                places.setdefault(number, (collection, *path, *_words(inside)))
            return
        for name, child in _children(node).items():
            look(child, (*path, name), node)

    look(model, (), None)
    if len(places) != len(leaves):
        raise ValueError(f"the state has {len(leaves)} arrays, and the Equinox module uses {len(places)} of them")
    return structure, tuple(places[number] for number in range(len(leaves)))


def _marking(node: Any, path: Path, channels_first: bool) -> Any:
    """The module, with submodules that mark what they return."""
    children = {name: _marking(child, (*path, name), channels_first) for name, child in _children(node).items()}
    if isinstance(node, eqx.Module):
        marked = bool(path) and callable(node)
        kind: Any = type(node)
        new = object.__new__(_marking_class(kind, channels_first) if marked else kind)
        # A field, which outlasts what takes modules apart, such as eqx.filter_checkpoint.
        name = {_NAME: "/".join(path)} if marked else {}
        for field, value in (vars(node) | children | name).items():
            object.__setattr__(new, field, value)
        return new
    if isinstance(node, dict):
        return type(node)(zip(node, children.values(), strict=True))
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return type(node)(*children.values())
    return type(node)(children.values()) if isinstance(node, list | tuple) else node


@functools.cache
def _marking_class(kind: Any, channels_first: bool) -> Any:
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = kind.__call__(self, *args, **kwargs)
        name = getattr(self, _NAME)
        if isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], eqx.nn.State):
            return _marked(out[0], name, channels_first), out[1]
        return _marked(out, name, channels_first)

    added = {
        "__annotations__": {_NAME: str},
        _NAME: eqx.field(static=True, default=""),
        "__call__": __call__,
        "__module__": kind.__module__,
    }
    return types.new_class(kind.__name__, (kind,), {}, lambda names: names.update(added))


def _marked(out: Any, name: str, channels_first: bool) -> Any:
    if not isinstance(out, jax.Array) or out.ndim == 0:
        return out
    if channels_first and out.ndim == 3:
        return jnp.moveaxis(tap(jnp.moveaxis(out, 0, -1), name), -1, 0)
    return tap(out, name)  # of one image, or of one position where the module maps over them; jax puts those in front
