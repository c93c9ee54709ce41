"""SGD and AdamW as torch has them, their schedules, and what is left out of training."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from delta_jax.training import layer_rates
from delta_jax.training.layer_rates import Layers

OPTIMIZERS = ("sgd", "nesterov", "adamw")
SCHEDULES = ("constant", "step", "exponential", "cosine")
STRETCHED = ("step", "cosine")  # which decay at a share of the steps, so that a longer run decays later
BATCH_NORM_POLICIES = ("train", "frozen_stats", "frozen", "stochastic")


def learning_rate_schedule(
    kind: str,
    peak: float,
    steps: int,
    *,
    warmup_steps: int = 0,
    decay_at: float = 2 / 3,
    decay_factor: float = 0.1,
    epoch_steps: float = 1.0,
    epoch_factor: float = 0.93,
) -> optax.Schedule:
    """Learning rate as a function of the step.

    Args:
      kind: "constant"; "step": times decay_factor after decay_at * steps (the paper: a tenth after 6,000 of 9,000);
        "exponential": times epoch_factor after every epoch (the paper, Fig. 2: 0.93); "cosine": to 0 at the end.
      peak: the rate after warm-up.
      steps: length of the training.
      warmup_steps: of linear growth from 0.
      decay_at: fraction of the steps, for "step".
      decay_factor: for "step".
      epoch_steps: steps of one epoch, for "exponential".
      epoch_factor: for "exponential".
    """
    if kind == "constant":
        after = optax.constant_schedule(peak)
    elif kind == "step":
        after = optax.piecewise_constant_schedule(peak, {round(decay_at * steps) - warmup_steps: decay_factor})
    elif kind == "exponential":
        after = optax.exponential_decay(peak, max(round(epoch_steps), 1), epoch_factor, staircase=True)
    elif kind == "cosine":
        after = optax.cosine_decay_schedule(peak, max(steps - warmup_steps, 1))
    else:
        raise ValueError(f"schedule {kind!r} is not one of {SCHEDULES}")
    if warmup_steps:
        after = optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), after], [warmup_steps])
    # optax counts in int32 and multiplies by floats, which strict dtype promotion refuses.
    return lambda count: after(jnp.asarray(count, jnp.float32))


def _labels(params: Any, head: str | Sequence[str], frozen: Sequence[str]) -> Any:
    """Of every parameter: "head", "frozen", "norm" (scale and bias of a normalisation layer) or "body"."""

    def inside(names: tuple[str, ...], modules: Sequence[str]) -> bool:
        return any("/".join(names[:end]) in modules for end in range(1, len(names)))

    def siblings(path) -> Any:
        node = params
        for key in path[:-1]:
            node = node[key.key]
        return node

    def label(path, _) -> str:
        names = tuple(str(key.key) for key in path)
        if inside(names, [head] if isinstance(head, str) else head):
            return "head"
        if inside(names, frozen):
            return "frozen"
        # A gain beside a kernel is a layer that mixes channels, not a normalisation.
        return "norm" if "scale" in siblings(path) and "kernel" not in siblings(path) else "body"

    labels = jax.tree_util.tree_map_with_path(label, params)
    if "head" not in jax.tree.leaves(labels):
        raise ValueError(f"no parameters under the head path {head!r}; the modules are {sorted(params)}")
    return labels


def scale_by_adam(first: float, second: float = 0.999) -> optax.GradientTransformation:
    """`optax.scale_by_adam` with these factors, also where dtypes are promoted strictly."""
    tx = optax.scale_by_adam(b1=first, b2=second)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        # It takes floats to the power of an int32, which strict dtype promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            return tx.update(updates, state, params)

    return optax.GradientTransformation(tx.init, update)


def make_optimizer(
    params: Any,
    schedule: optax.Schedule,
    *,
    head: str | Sequence[str],
    kind: str = "sgd",
    momentum: float = 0.9,
    weight_decay: float | jax.Array = 0.0,
    clip_norm: float = 0.0,
    head_learning_rate_factor: float = 1.0,
    freeze_body: bool = False,
    freeze_norm: bool = False,
    frozen: Sequence[str] = (),
    layers: Layers | None = None,
    layer_factors: jax.Array | np.ndarray | None = None,
    surgical: bool = False,
) -> optax.GradientTransformation:
    """The gradient is clipped, then comes what `kind` says, then the rate, in torch's order.

    - "sgd": decay is added, then momentum.
    - "nesterov": the same, and the step looks ahead: g + momentum * buffer (Sutskever et al., ICML 2013).
    - "adamw": Adam's quotient, to which the decay is added: it is decoupled from the gradient (Loshchilov and Hutter,
      ICLR 2019). Its second factor is 0.999, its epsilon 1e-8.

    Args:
      params: parameters, or their shapes; only the paths are read.
      schedule: learning rate per step.
      head: module path of the classifier, or several.
      kind: one of OPTIMIZERS.
      momentum: 0 for plain SGD; of adamw its first factor.
      weight_decay: times every parameter, added to its gradient, or after Adam's quotient; 0 for none; a scalar array,
        where the optimizer is made inside of a jitted function, may change from step to step.
      clip_norm: largest global norm of the gradient; 0 for no clipping.
      head_learning_rate_factor: the head's rate is this times the schedule.
      freeze_body: train the head alone.
      freeze_norm: leave scale and bias of the normalisation layers alone.
      frozen: module paths whose parameters are left alone. Frozen parameters have no momentum and no decay, and do not
        count in the gradient's norm.
      layers: of the network; for what follows.
      layer_factors: [T, L], of the rate of each layer at each step, see `layer_rates.factors`. While it is 0 a layer
        counts as frozen.
      surgical: rates by the relative norm of the gradient, too, see `layer_rates.by_relative_gradient`.

    Raises:
      ValueError: there is no parameter under the head path, or no optimizer of that kind.
    """
    if kind not in OPTIMIZERS:
        raise ValueError(f"optimizer {kind!r} is not one of {OPTIMIZERS}")
    labels = _labels(params, head, frozen)
    steps: list[optax.GradientTransformation] = []
    factors = None if layers is None or layer_factors is None else jnp.asarray(layer_factors)
    opened = [] if layers is None or factors is None else [layer_rates.opened(layers.numbers, factors)]
    steps += opened
    if clip_norm:
        steps.append(optax.clip_by_global_norm(clip_norm))
    if kind == "adamw":
        steps.append(scale_by_adam(momentum))
    if isinstance(weight_decay, jax.Array) or weight_decay:
        steps += [optax.add_decayed_weights(weight_decay), *opened]
    if momentum and kind != "adamw":
        steps.append(optax.trace(decay=momentum, nesterov=kind == "nesterov"))
    steps.append(optax.scale_by_learning_rate(schedule))
    if head_learning_rate_factor != 1.0:
        only_head = jax.tree.map(lambda label: label == "head", labels)
        steps.append(optax.masked(optax.scale(head_learning_rate_factor), only_head))
    if layers is not None and factors is not None:
        steps.append(layer_rates.scaled(layers.numbers, factors))
    whole = optax.chain(*steps)
    if layers is not None and surgical:
        whole = layer_rates.by_relative_gradient(whole, layers)
    still = {"frozen"} | ({"body", "norm"} if freeze_body else set()) | ({"norm"} if freeze_norm else set())
    trained = jax.tree.map(lambda label: label not in still, labels)
    if all(jax.tree.leaves(trained)):
        return whole
    left_alone = jax.tree.map(lambda label: label in still, labels)
    return optax.chain(optax.masked(whole, trained), optax.masked(optax.set_to_zero(), left_alone))
