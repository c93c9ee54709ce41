"""What changes during fine-tuning, and the frozen source it is compared with."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from delta_jax.training.strength import Search

Variables = Mapping[str, Any]


@flax.struct.dataclass
class TrainState:
    """One pytree with all that a step reads and writes; it is donated to the step.

    Attributes:
      step: int32 scalar, optimizer steps done.
      params: of the network in training.
      batch_stats: its running statistics; {} for a network without BatchNorm.
      opt_state: of the optimizer.
      search: for the strength of the penalty; None where it is fixed.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    search: Search | None = None

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_state(variables: Variables, tx: optax.GradientTransformation, search: Search | None = None) -> TrainState:
    """The state before the first step, in buffers of its own.

    The source network is made of the same arrays: without the copy, donating the state would delete the source, too.
    """
    params, stats = jax.tree.map(jnp.copy, (variables["params"], variables.get("batch_stats", {})))
    return TrainState(jnp.zeros((), jnp.int32), params, stats, tx.init(params), search)
