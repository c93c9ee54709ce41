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
import numpy as np
import optax

from delta_jax.training import optim

EVERY = 12  # training steps from one look at the validation loss to the next
RANGE = 2.0  # decades, to either side of where it begins
LARGEST_MOVE = 0.6  # in natural logarithms, of one look at the largest learning rate

# Of the cosines: their mean looks back 10 looks, their usual size 30 or so.
_moments = optim.scale_by_adam(0.9, 0.97)


def looks(steps: int) -> int:
    """Of a run of so many steps: one before every EVERY-th step but the first."""
    return max(steps - 1, 0) // EVERY


@flax.struct.dataclass
class Search:
    """What a search knows; part of the training state.

    Attributes:
      shift: float32 scalar, natural logarithm of the strength over the one it began with.
      moments: of the cosines so far, `optax.ScaleByAdamState`.
    """

    shift: jax.Array
    moments: Any

    @property
    def looks(self) -> jax.Array:
        """How many there were, int32 scalar."""
        return self.moments.count

    @property
    def factor(self) -> jax.Array:
        """Of the strength, over the one the search began with."""
        return jnp.exp(self.shift)


def begin() -> Search:
    """A search before its first look."""
    shift = jnp.zeros((), jnp.float32)
    return Search(shift, _moments.init(shift))


def move(search: Search, cosine: jax.Array, pace: float | jax.Array) -> Search:
    """The search after one more look: a step of Adam (Kingma and Ba, ICLR 2015) on the logarithm of the strength.

    Args:
      search: before it.
      cosine: of the angle between the gradient of the validation loss and what the penalty adds to a step, scalar: the
        strength grows where it is negative.
      pace: share of the largest move, in [0, 1]: as the learning rate decays, so does what a strength can do.
    """
    step, moments = _moments.update(cosine.astype(jnp.float32), search.moments)
    # A mean may be above the usual size where that was smaller for long.
    step = jnp.clip(step, -1, 1)
    furthest = RANGE * float(np.log(10))
    return Search(jnp.clip(search.shift - LARGEST_MOVE * pace * step, -furthest, furthest), moments)


def make_slope(
    loss: Callable[..., jax.Array], step: optax.GradientTransformation
) -> Callable[[Any, Any], tuple[jax.Array, jax.Array]]:
    """How the gap between validation loss and training objective changes with the strength, in one step.

    Args:
      loss: (params, arguments) -> scalar.
      step: the optimizer without momentum and at rate 1: what it leaves alone is not moved by a penalty, either.

    Returns:
      slope(params, three) -> (slope, cosine), scalars. `three` is a pytree like `arguments`, with a first axis of 3:
      those with which the loss is the objective of training, with the penalty in it; the penalty; the validation loss.
      The derivative of validation loss - objective after a step of a small rate r with respect to the logarithm of the
      strength that the step is made with is r * strength * slope. The cosine is that of the angle between the gradient
      of the same and the movement; 0 where one of them is 0, or not finite.
    """

    def slope(params: Any, three: Any):
        # One after the other: a program as large as a training step, and as much memory for activations.
        gradients = jax.lax.map(lambda arguments: jax.grad(loss)(params, arguments), three)
        own, pull, other = (jax.tree.map(lambda leaf, i=i: leaf[i], gradients) for i in range(3))
        movement, _ = step.update(pull, step.init(params), params)
        gradient = optax.tree.sub(other, own)
        found = optax.tree.vdot(gradient, movement)
        lengths = optax.tree.norm(gradient) * optax.tree.norm(movement)
        return found, jnp.where(lengths > 0, found / jnp.where(lengths > 0, lengths, 1), 0)

    return slope
