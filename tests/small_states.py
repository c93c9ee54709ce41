"""States as a run stores them, and checkpoints of them."""

from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from delta_jax.workdir.checkpoints import Checkpoints


class State(flax.struct.PyTreeNode):
    step: jax.Array
    params: dict
    opt_state: optax.OptState
    tx: optax.GradientTransformation = flax.struct.field(pytree_node=False)


MESH = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
REPLICATED = jax.sharding.NamedSharding(MESH, jax.sharding.PartitionSpec())
SPLIT = jax.sharding.NamedSharding(MESH, jax.sharding.PartitionSpec("data"))
TX = optax.chain(optax.clip(1.0), optax.sgd(optax.linear_schedule(0.1, 0.0, 100), momentum=0.9))


def make_state(seed: int, classes: int = 3) -> State:
    """A state after one update, so that momentum and the schedule's counter are not zero."""
    rng = np.random.default_rng(seed)
    params = {
        "conv": {"kernel": jnp.array(rng.standard_normal((3, 3, 2, 8)), jnp.float32)},
        "head": {"kernel": jnp.array(rng.standard_normal((8, classes)), jnp.bfloat16)},
    }
    grads = jax.tree.map(jnp.ones_like, params)
    updates, opt_state = TX.update(grads, TX.init(params), params)
    state = State(step=jnp.int32(seed), params=optax.apply_updates(params, updates), opt_state=opt_state, tx=TX)
    return jax.device_put(state, REPLICATED)


def bits(tree) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def write(directory: Path, *steps: int, **metrics: float) -> None:
    """Checkpoints of `make_state(step)`; metrics as s2=0.5."""
    with Checkpoints(directory) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), {"step": step}, metric=metrics.get(f"s{step}"))
