"""Stochastic normalisation: in training each channel takes the statistics of the batch or the running ones."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from delta_jax.models.layers.normalization import BatchNorm

SHARE = 0.5  # of the channels, that of the published experiments


def stochastic_norm(found: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
    """Within it every `BatchNorm` in training is the StochNorm of Kou et al. (NeurIPS 2020).

    For each channel a coin s says which statistics it is normalised with:

        y = scale ((1 - s) (x - mean) / std + s (x - mean') / std') + bias

    with those of the batch and the running ones, mean' and std', as they were before this batch. These are updated as
    ever, and evaluation does not differ. The coins are from the random numbers of "dropout".

    Args:
      found: called for every layer that it changes.
    """

    def of_layer(call: Any, args: Any, keywords: Any, context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__" or not isinstance(module, BatchNorm):
            return call(*args, **keywords)
        given = dict(zip(("x", "train"), args, strict=False)) | keywords
        if not given["train"] or module.frozen or module.is_initializing():
            return call(*args, **keywords)
        found()
        before: Any = {name: module.get_variable("batch_stats", name) for name in ("mean", "var")}
        return _mixed(module, given["x"], call(*args, **keywords), before)

    def of_network(call: Any, args: Any, keywords: Any, context: Any) -> Any:
        if context.module.path or context.method_name != "__call__":
            return call(*args, **keywords)
        # Within the interceptors of whoever reads the layers' outputs, which came after this one.
        with nn.intercept_methods(of_layer):
            return call(*args, **keywords)

    return nn.intercept_methods(of_network)


def _mixed(module: BatchNorm, x: jax.Array, y: jax.Array, before: Any) -> jax.Array:
    """y, and for half of the channels x with the running statistics from before; all [..., C]."""
    scale: Any = module.get_variable("params", "scale")
    bias: Any = module.get_variable("params", "bias")
    factor = scale * lax.rsqrt(before["var"] + module.epsilon).astype(scale.dtype)
    offset = bias - before["mean"].astype(scale.dtype) * factor
    coin = jax.random.bernoulli(module.make_rng("dropout"), SHARE, (y.shape[-1],))
    factor, offset, coin = (jnp.expand_dims(array, tuple(range(y.ndim - 1))) for array in (factor, offset, coin))
    wide = np.promote_types(x.dtype, np.float32)
    running = x.astype(wide) * factor.astype(wide) + offset.astype(wide)
    return jnp.where(coin, running.astype(y.dtype), y)
