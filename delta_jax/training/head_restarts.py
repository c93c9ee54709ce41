"""The head made anew in the middle of training: RIFLE (Li et al., ICML 2020)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from delta_jax.training.head import Head, get_head, new_head, put_head
from delta_jax.training.state import TrainState


def restarted(state: TrainState, steps: jax.Array, key: jax.Array, *, heads: Sequence[str], kind: str) -> TrainState:
    """The state, or with heads as at the beginning and without their momentum if its step is one of `steps`.

    Args:
      state: before the step.
      steps: int32 [R].
      key: of all that is random in the run; the new head depends on it and on the step.
      heads: module paths.
      kind: see `new_head`.
    """
    now = jnp.any(steps == state.step)
    params, average = state.params, state.average
    for number, path in enumerate(heads):
        old = get_head(params, path)
        # The step itself takes fold_in(key, step) apart, into two keys.
        head_key = jax.random.fold_in(jax.random.fold_in(key, state.step), 2 + number)

        def anew(old: Head, head_key: jax.Array = head_key) -> Head:
            return new_head(kind, old, head_key)

        head = jax.lax.cond(now, anew, lambda old: old, old)
        params = put_head(params, path, head)
        if average is not None:
            # A mean of heads that have nothing to do with one another is none.
            mean = get_head(average["params"], path)
            mean = jax.tree.map(lambda new, old: jnp.where(now, new, old), head, mean)
            average = {**average, "params": put_head(average["params"], path, mean)}

    def forgotten(path: Any, leaf: jax.Array) -> jax.Array:
        names = "/".join(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))
        within = any(f"{names}/".startswith(f"{head}/") for head in heads)
        return jnp.where(now, jnp.zeros_like(leaf), leaf) if within else leaf

    opt_state = jax.tree_util.tree_map_with_path(forgotten, state.opt_state)
    return dataclasses.replace(state, params=params, average=average, opt_state=opt_state)
