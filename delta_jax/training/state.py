"""What changes during fine-tuning, and the frozen source it is compared with."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

Variables = Mapping[str, Any]


@flax.struct.dataclass
class TrainState:
    """One pytree with all that a step reads and writes; it is donated to the step.

    Attributes:
      step: int32 scalar, optimizer steps done.
      params: of the network in training.
      batch_stats: its running statistics; {} for a network without BatchNorm.
      opt_state: of the optimizer.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    own = None  # no field, which would be one more in the checkpoints of all methods: see `StateWithOwn`

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


@flax.struct.dataclass
class StateWithOwn(TrainState):
    """Of a method that trains something beside the network.

    Attributes:
      own: {"params", "opt_state"} of that, and "buffers" where it carries something from step to step.
    """

    own: Any


def init_state(
    variables: Variables,
    tx: optax.GradientTransformation,
    own: Any = None,
    own_tx: optax.GradientTransformation | None = None,
    carried: Any = None,
) -> TrainState:
    """The state before the first step, in buffers of its own.

    `own` are the method's parameters, `own_tx` their optimizer, `carried` what it carries from step to step.

    The source network is made of the same arrays: without the copy, donating the state would delete the source, too.
    """
    params, stats = jax.tree.map(jnp.copy, (variables["params"], variables.get("batch_stats", {})))
    begun = (jnp.zeros((), jnp.int32), params, stats, tx.init(params))
    if own is None or own_tx is None:
        return TrainState(*begun)
    copied = jax.tree.map(jnp.copy, own)
    beside = {"params": copied, "opt_state": own_tx.init(copied)}
    if carried is not None:
        beside["buffers"] = jax.tree.map(jnp.copy, carried)
    return StateWithOwn(*begun, beside)
