"""Networks whose call has an argument of its own for training, as ones that are called like all networks here."""

import inspect
from dataclasses import dataclass

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


def adapt(network: nn.Module, argument: str) -> nn.Module:
    """The network as one that is called `network(images, train=False)`; parameters and taps keep their paths.

    Args:
      network: any Linen module.
      argument: keyword of its `__call__` that says whether it is being trained, see `ModelSpec.train_argument`.

    Raises:
      ValueError: its `__call__` has no such keyword.
    """
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


def name_of(network: nn.Module) -> str:
    """The name of its class, adapted or not."""
    return type(network.held.network if isinstance(network, Adapter) else network).__name__
