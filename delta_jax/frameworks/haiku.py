"""Haiku transforms: taps by module name, such as "res_net50/~/initial_conv", without a change to the module's code."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import haiku as hk
import jax

from delta_jax.features import tap


def _plain(run: Callable[..., Any], images: jax.Array, *, train: bool, **kwargs: Any) -> Any:
    return run(images, is_training=train, **kwargs)


def adapt(transformed: hk.Transformed | hk.TransformedWithState, *, call: Callable[..., Any] = _plain) -> "Network":
    """A Haiku transform as a model, which `features` and `attention` take.

    A tap is the name of a module, as in Haiku's parameters, that returns an array [B, ..., C]:
    "res_net50/~/initial_conv". Its variables are {"params": Haiku's params} and, of a transform with state,
    "state": Haiku's state.

    Args:
      transformed: what `hk.transform` or `hk.transform_with_state` returns.
      call: how the transformed function is called, where that is not `function(images, is_training=train)`: a function
        of (function, images, train), the last by keyword, such as `lambda run, x, train: run(x)`.

    Raises:
      ValueError: it is no transform of Haiku.
    """
    if not isinstance(transformed, hk.Transformed | hk.TransformedWithState):
        raise ValueError(
            f"{type(transformed).__name__} is no Haiku transform; expected what hk.transform or "
            "hk.transform_with_state returns"
        )
    return Network(transformed, call)


@dataclasses.dataclass(frozen=True)
class Network:
    """A Haiku transform, called as Linen modules are.

    Attributes:
      transformed, call: see `adapt`.
    """

    transformed: hk.Transformed | hk.TransformedWithState
    call: Callable[..., Any] = _plain

    def init(self, key: jax.Array, images: jax.Array) -> dict[str, Any]:
        """New variables for images [B, H, W, 3]: what the transform's `init` returns."""

        def run(images: jax.Array, **kwargs: Any) -> Any:
            return self.transformed.init(key, images, **kwargs)

        found = self.call(run, images, train=True)
        params, state = found if self._has_state else (found, None)
        return {"params": params} | ({"state": state} if self._has_state else {})

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
        """The transform's output; with `mutable`, (output, the collections of these names after the call).

        Args:
          variables: {"params": ..., "state": ...}.
          images: [B, H, W, 3]; whatever the function takes first.
          train: given to the call.
          mutable: ("state",) in training.
          rngs: {"dropout": key}, or one key of another name: Haiku has a single stream.
          **kwargs: passed on to the call.
        """
        key = next(iter((rngs or {}).values()), None)
        after: dict[str, Any] = {}

        def run(*args: Any, **keywords: Any) -> Any:
            if not self._has_state:
                return self.transformed.apply(variables["params"], key, *args, **keywords)
            output, after["state"] = self.transformed.apply(
                variables["params"], variables["state"], key, *args, **keywords
            )
            return output

        with hk.intercept_methods(_Marker()):
            output = self.call(run, images, train=train, **kwargs)
        return (output, {name: after[name] for name in mutable if name in after}) if mutable else output

    @property
    def _has_state(self) -> bool:
        return isinstance(self.transformed, hk.TransformedWithState)


class _Marker:
    """Marks what a module's `__call__` returns, once where that calls the `__call__` of its base class."""

    def __init__(self) -> None:
        self._running: list[hk.Module] = []

    def __call__(self, method: Callable[..., Any], args: Any, kwargs: Any, context: hk.MethodContext) -> Any:
        if context.method_name != "__call__" or any(context.module is module for module in self._running):
            return method(*args, **kwargs)
        self._running.append(context.module)
        try:
            out = method(*args, **kwargs)
        finally:
            self._running.pop()
        return tap(out, context.module.module_name) if isinstance(out, jax.Array) else out
