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
      average: of params and batch_stats over the steps, as `variables`; None where none is kept.
      own: {"params", "opt_state"} of what the method trains beside the network, and "buffers" where it carries
        something from step to step; None for most.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    search: Search | None = None
    average: Any = None
    own: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def found(self) -> dict[str, Any]:
        """The network to evaluate and to keep: the average where there is one."""
        return self.variables if self.average is None else self.average


def averaged(average: Any, variables: Variables, step: jax.Array, decay: float) -> Any:
    """d average + (1 - d) variables, after `step` steps; d = min(decay, (1 + step) / (10 + step)).

    A short run is then not mostly its beginning; the ramp is that of TensorFlow's ExponentialMovingAverage.
    """
    done = step.astype(jnp.float32)
    d = jnp.minimum(decay, (1 + done) / (10 + done))
    return jax.tree.map(
        lambda new, old: optax.incremental_update(new, old, (1 - d).astype(old.dtype)), dict(variables), average
    )


def init_state(
    variables: Variables,
    tx: optax.GradientTransformation,
    search: Search | None = None,
    *,
    average: bool = False,
    own: Any = None,
    own_tx: optax.GradientTransformation | None = None,
    carried: Any = None,
) -> TrainState:
    """The state before the first step, in buffers of its own; with `average`, one that is kept of the variables.

    `own` are the method's parameters, `own_tx` their optimizer, `carried` what it carries from step to step.

    The source network is made of the same arrays: without the copy, donating the state would delete the source, too.
    """
    params, stats = jax.tree.map(jnp.copy, (variables["params"], variables.get("batch_stats", {})))
    mean = jax.tree.map(jnp.copy, {"params": params, "batch_stats": stats}) if average else None
    beside = None
    if own is not None and own_tx is not None:
        copied = jax.tree.map(jnp.copy, own)
        beside = {"params": copied, "opt_state": own_tx.init(copied)}
        if carried is not None:
            beside["buffers"] = jax.tree.map(jnp.copy, carried)
    return TrainState(jnp.zeros((), jnp.int32), params, stats, tx.init(params), search, mean, beside)
