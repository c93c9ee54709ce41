"""What the speed benchmarks run: a network with random weights, and random images."""

from typing import Any

import jax
import jax.numpy as jnp

from delta_jax import models


def create(arch: str, *, dtype: str, classes: int, batch: int, size: int) -> tuple[Any, Any, jax.Array, jax.Array]:
    """(module, variables, images [B, H, W, 3], labels [B]); the module computes in `dtype`."""
    model = models.create(
        arch,
        num_classes=classes,
        dtype=None if dtype == "float32" else jnp.dtype(dtype),
        platform=jax.default_backend(),
    )
    image_key, label_key = jax.random.split(jax.random.key(1))
    images = jax.random.normal(image_key, (batch, size, size, 3))
    labels = jax.random.randint(label_key, (batch,), 0, classes)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    # Running statistics of these images: with the initial ones activations fade to denormal numbers, slow on a CPU.
    updated = jax.jit(lambda v, x: model.apply(v, x, True, mutable=["batch_stats"])[1])(variables, images)
    return model, {**variables, **updated}, images, labels
