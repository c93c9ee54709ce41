"""Derivatives without autodiff."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def along(function: Callable[[Any], Any], x: Any, rng: np.random.Generator, step: float = 1e-6) -> tuple[Any, Any]:
    """(derivative along a random direction by central differences, the same by jax); in float64."""
    direction = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), x)
    there, back = (
        function(jax.tree.map(lambda leaf, d, sign=sign: leaf + sign * step * d, x, direction)) for sign in (1, -1)
    )
    gradient = jax.grad(function)(x)
    products = jax.tree.map(lambda g, d: np.sum(np.asarray(g) * d), gradient, direction)
    return (there - back) / (2 * step), sum(jax.tree.leaves(products))
