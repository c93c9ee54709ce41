"""The strength of the penalty, found while the network trains, by the validation loss (docs/strength.md).

A step of SGD at rate r moves the parameters by r * strength * u, where u is minus the gradient of the penalty. So the
derivative of the validation loss after the step with respect to the logarithm of the strength is
r * strength * <gradient of the validation loss, u> (Luketina et al., ICML 2016). That is greedy: it takes what training
is about to do anyway for what the penalty should have done. So the gradient of the objective of training is taken off
that of the validation loss. The size of what is left means little from one step to the next: what counts is the cosine
of its angle with u, over its usual size.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

EVERY = 10  # training steps from one look at the validation loss to the next
RANGE = 2.0  # decades, to either side of where it begins
OWN = 0.8  # of the gradient of the training objective is taken off that of the validation loss
LARGEST_MOVE = 0.6  # in natural logarithms, of one look at the largest learning rate

# Of the cosines: their mean looks back 10 looks, their usual size 30.
_moments = optax.scale_by_adam(b1=0.9, b2=0.97)


@flax.struct.dataclass
class Search:
    """What a search knows; part of the training state.

    Attributes:
      shift: float32 scalar, natural logarithm of the strength over the one it began with.
      moments: of the cosines so far, see `optax.scale_by_adam`.
    """

    shift: jax.Array
    moments: Any

    @property
    def factor(self) -> jax.Array:
        """Of the strength, over the one the search began with."""
        return jnp.exp(self.shift)


def begin() -> Search:
    """A search before its first look."""
    shift = jnp.zeros((), jnp.float32)
    return Search(shift, _moments.init(shift))


def move(search: Search, cosine: jax.Array, pace: float | jax.Array) -> Search:
    """The search after one more look.

    Args:
      search: before it.
      cosine: of the angle between the gradient of the validation loss and what the penalty adds to a step, scalar: the
        strength grows where it is negative.
      pace: share of the largest move, in [0, 1]: as the learning rate decays, so does what a strength can do.
    """
    step, moments = _moments.update(cosine.astype(jnp.float32), search.moments)
    # Of the first looks, moments are of one or two numbers: a mean over its own size is 1 then.
    step = jnp.clip(step, -1, 1)
    furthest = RANGE * jnp.log(jnp.float32(10))
    return Search(jnp.clip(search.shift - LARGEST_MOVE * pace * step, -furthest, furthest), moments)


def make_slope(
    training: Callable[..., tuple[jax.Array, jax.Array]],
    validation: Callable[..., jax.Array],
    step: optax.GradientTransformation,
) -> Callable[[Any, tuple[Any, ...], tuple[Any, ...]], tuple[jax.Array, jax.Array]]:
    """How the gap between validation loss and training objective changes with the strength, in one step.

    Args:
      training: (params, *arguments) -> (objective, penalty), scalars; in the first is strength * penalty.
      validation: (params, *arguments) -> loss, a scalar.
      step: the optimizer without momentum and at rate 1: what it leaves alone is not moved by a penalty, either.

    Returns:
      slope(params, of_training, of_validation) -> (slope, cosine), scalars: the derivative of
      validation - OWN * objective after a step of a small rate r with respect to the logarithm of the strength that the
      step is made with is r * strength * slope. The cosine is that of the angle between the gradient of the same and
      the movement; 0 where one of them is 0.
    """

    def slope(params: Any, of_training: tuple[Any, ...], of_validation: tuple[Any, ...]):
        (objective, penalty), gradients = jax.vjp(lambda params: training(params, *of_training), params)
        (own,) = gradients((jnp.ones_like(objective), jnp.zeros_like(penalty)))
        (pull,) = gradients((jnp.zeros_like(objective), jnp.ones_like(penalty)))
        movement, _ = step.update(pull, step.init(params), params)
        gradient = optax.tree.add_scale(jax.grad(validation)(params, *of_validation), -OWN, own)
        found = optax.tree.vdot(gradient, movement)
        lengths = optax.tree.norm(gradient) * optax.tree.norm(movement)
        return found, jnp.where(lengths > 0, found / jnp.where(lengths > 0, lengths, 1), 0)

    return slope
