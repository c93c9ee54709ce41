"""Networks whose call has an argument of its own for training, as ones that are called like all networks here."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax

INVERTED = ("deterministic", "use_running_average")


@dataclass(frozen=True)
class _Held:
    # A module that is a field of another one would get a name there, and all its parameters longer paths.
    network: nn.Module


class Adapter(nn.Module):
    """Calls a network with its own argument for training; has the paths of its parameters and modules.

    Attributes:
      held: the network.
      argument: keyword of its call, "" for none; one of INVERTED is given the opposite of `train`.
    """

    held: _Held
    argument: str

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """What the network returns."""
        # Not nn.share_scope: modules that are fields of the network would keep the paths they had before.
        network = self.held.network.clone(parent=self.scope)
        if not self.argument:
            return network(x)
        return network(x, **{self.argument: train != (self.argument in INVERTED)})


def adapt(network: Any, argument: str) -> Any:
    """The network as one that is called `network(images, train=False)`; parameters and taps keep their paths.

    Args:
      network: any Linen module; what `delta_jax.frameworks` makes of others is that already.
      argument: keyword of its `__call__` that says whether it is being trained, see `ModelSpec.train_argument`.

    Raises:
      ValueError: its `__call__` has no such keyword, or it is no network.
    """
    if not isinstance(network, nn.Module):
        if isinstance(network, type) or not (hasattr(network, "init") and hasattr(network, "apply")):
            raise ValueError(
                f"ModelSpec.module returns {type(network).__name__}; expected a Linen module, or an NNX module made "
                "with the `rngs` that the class or function takes, or a model of delta_jax.frameworks"
            )
        return network
    taken = inspect.signature(type(network).__call__).parameters
    if argument == "train" and "train" in taken and taken["train"].default is False:
        return network
    if argument and argument not in taken and not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        own = ", ".join(list(taken)[1:])
        raise ValueError(
            f"{name_of(network)} is called with ({own}) and has no argument {argument!r} for training; set "
            "train_argument in its ModelSpec to the right one, or to '' if it is the same in training"
        )
    return Adapter(_Held(network), argument)


def from_rngs(build: Callable[..., Any], argument: str, *, frozen_norm: bool) -> Any:
    """The NNX module that `build(rngs=...)` returns, as `adapt` does; see `delta_jax.frameworks.nnx`."""
    from delta_jax.frameworks import nnx  # only where there is one

    return nnx.from_function(build, argument=argument, frozen_norm=frozen_norm)


def name_of(network: Any) -> str:
    """The name of its class, adapted or not."""
    if not isinstance(network, nn.Module):
        return str(getattr(network, "name", type(network).__name__))
    return type(network.held.network if isinstance(network, Adapter) else network).__name__
