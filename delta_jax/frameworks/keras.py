"""Keras 3 models on the JAX backend: taps by layer name, such as "conv2_block1_out", without a change to the model."""

import contextlib
import dataclasses
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from delta_jax.features import tap

_BACKEND = "Keras has to run on JAX: set the environment variable KERAS_BACKEND=jax before anything imports keras"
try:
    import keras
except ModuleNotFoundError as error:
    if error.name == "keras":
        raise
    raise ImportError(f"{_BACKEND} ({error})") from error  # without the variable, Keras looks for tensorflow
if keras.backend.backend() != "jax":
    raise ImportError(f"{_BACKEND}; its backend is {keras.backend.backend()}")

_patching = threading.RLock()


def adapt(model: keras.Model) -> tuple["Network", dict[str, Any]]:
    """A Keras model as a model and variables, which `features` and `attention` take.

    A tap is the name of a layer that returns an array [B, ..., C], behind those of the models and layers it is part of:
    "encoder/conv_1". A layer that is part of two of them has two names.

    Variables are {"params": trainable ones, "batch_stats": moving means and variances, "frozen": other weights that are
    not trainable, "seeds": of random layers}, nested dicts by layer and Keras' own names, such as "kernel".

    Args:
      model: functional, Sequential or subclassed, and built, channels last. It is left as it is, and its own arrays are
        not used.

    Raises:
      ValueError: it is no Keras model or not built, has the channels first, or layers of one name beside each other.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"{type(model).__name__} is no Keras model; expected a keras.Model")
    if not model.built:
        raise ValueError(f"the Keras model {model.name!r} is not built; call it once, on images of zeros, say")
    names: dict[int, list[str]] = defaultdict(list)
    places: dict[int, tuple[str, ...]] = {}
    _look(model, (), names, places)
    leaves = tuple((_collection(variable), places[id(variable)]) for variable in _variables(model))
    if twice := {place for place in leaves if leaves.count(place) > 1}:
        layer = "/".join(twice.pop()[1][:-1])
        raise ValueError(f"two layers of the Keras model are called {layer!r}; give them different names")
    network = Network(model, leaves, names)
    return network, network.variables([variable.value for variable in _variables(model)])


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A Keras model called as Linen modules are, with its variables as an argument.

    Attributes:
      model: see `adapt`.
      leaves: (collection, path) of its trainable variables and then of the others, in Keras' order.
      names: {id of a layer: its names as a tap}.
    """

    model: keras.Model
    leaves: tuple[tuple[str, tuple[str, ...]], ...]
    names: Mapping[int, Sequence[str]]

    def init(self, key: jax.Array, images: Any = None) -> dict[str, Any]:
        """Not to be had: Keras draws a model's values when it builds it."""
        raise ValueError("the Keras model came with its values: take the variables that adapt returned beside it")

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
        """The model's output; with `mutable`, (output, the collections of these names after the call).

        Args:
          variables: {"params": ..., "batch_stats": ..., ...}.
          images: [B, H, W, 3]; whatever the model takes first.
          train: `training` of Keras.
          mutable: names of collections.
          rngs: {"dropout": key}, or one key of another name; without one, random layers draw from "seeds".
          **kwargs: passed on to the model.
        """
        values = self._values(variables)
        for key in list((rngs or {}).values())[:1]:
            for number, (collection, _) in enumerate(self.leaves):
                if collection == "seeds":
                    bits = jax.random.bits(jax.random.fold_in(key, number), values[number].shape, "uint32")
                    values[number] = bits.astype(values[number].dtype)
        # Not stateless_call, which runs `call`: layers in a model whose `call` has no `training` would not be told.
        own = _variables(self.model)
        with _marked(self.names), keras.StatelessScope(list(zip(own, values, strict=True))) as scope:
            output = self.model(images, training=train, **kwargs)
        if not mutable:
            return output
        news = [scope.get_current_value(variable) for variable in own]
        after = self.variables([old if new is None else new for old, new in zip(values, news, strict=True)])
        return output, {name: after[name] for name in mutable if name in after}

    def assign(self, variables: Mapping[str, Any]) -> keras.Model:
        """The Keras model, holding these variables from now on."""
        for variable, value in zip(_variables(self.model), self._values(variables), strict=True):
            variable.assign(value)
        return self.model

    def variables(self, values: Sequence[Any]) -> dict[str, Any]:
        """{collection: nested dict} of values in Keras' order."""
        flat: dict[str, dict[tuple[str, ...], Any]] = defaultdict(dict)
        for (collection, path), value in zip(self.leaves, values, strict=True):
            flat[collection][path] = value
        return {collection: unflatten_dict(leaves) for collection, leaves in flat.items()}

    def _values(self, variables: Mapping[str, Any]) -> list[Any]:
        flat = {name: flatten_dict(dict(collection)) for name, collection in variables.items()}
        return [flat[collection][path] for collection, path in self.leaves]


def _variables(model: keras.Model) -> list[Any]:
    return [*model.trainable_variables, *model.non_trainable_variables]


def _collection(variable: Any) -> str:
    if variable.name in ("moving_mean", "moving_variance"):
        return "batch_stats"
    if variable.name == "seed_generator_state":
        return "seeds"
    return "params" if variable.trainable else "frozen"


def _look(layer: Any, path: tuple[str, ...], names: dict[int, list[str]], places: dict[int, tuple[str, ...]]) -> None:
    """Finds the names of all layers in a layer, and the paths of its variables."""
    if path:
        names[id(layer)].append("/".join(path))
    if getattr(layer, "data_format", None) == "channels_first":
        raise ValueError(f"the layer {'/'.join(path)} has its channels first; expected channels last, [B, H, W, C]")
    for part in layer._flatten_layers(include_self=False, recursive=False):
        _look(part, (*path, part.name), names, places)
    for variable in layer.variables:  # those of its parts are found already
        places.setdefault(id(variable), (*path, variable.name))


@contextlib.contextmanager
def _marked(names: Mapping[int, Sequence[str]]) -> Iterator[None]:
    """While a model is traced, each of its layers returns its output marked as a tap."""
    with _patching:
        call = keras.layers.Layer.__call__

        def __call__(layer: Any, *args: Any, **kwargs: Any) -> Any:
            out = call(layer, *args, **kwargs)
            for name in names.get(id(layer), ()):
                out = tap(out, name) if isinstance(out, jax.Array) else out
            return out

        keras.layers.Layer.__call__ = __call__
        try:
            yield
        finally:
            keras.layers.Layer.__call__ = call
