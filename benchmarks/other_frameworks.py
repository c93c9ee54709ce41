"""Published networks of other frameworks: their taps, gaps beside a plain loop over filters, ten steps of DELTA.

    python -m benchmarks.other_frameworks keras/MobileNetV2 keras/ResNet50 haiku/ResNet50 equinox/ResNet
    PYTHONPATH=.:path/to/bonsai python -m benchmarks.other_frameworks bonsai/ResNet bonsai/ConvNeXt

Weights are random, and statistics those that noise leaves; everything is in float64.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

os.environ.setdefault("KERAS_BACKEND", "jax")
import jax
import jax.numpy as jnp
import numpy as np
import optax

import delta_jax as dj

CLASSES, IMAGES, FILTERS = 10, 2, (0, 1, 5)


class Case(NamedTuple):
    """A network that is to be tried.

    Attributes:
      model, variables: as an adapter makes them.
      taps: of which one is a convolution.
      size: of the images, pixels.
      silenced: (variables, filter) -> variables in which the convolution at the first tap makes zeros of that filter.
      native: (variables, images) -> logits, in the framework's own way.
    """

    model: Any
    variables: Any
    taps: Sequence[str]
    size: int
    silenced: Callable[[Any, int], Any]
    native: Callable[[Any, Any], Any]


def without(variables: Any, path: str, leaves: Sequence[str], filter: int, axis: int = -1) -> Any:
    """The variables with the filter of the module at `path` set to zero in each of its leaves."""
    *parents, last = ["params", *path.split("|")]

    def changed(node: Any, keys: Sequence[str]) -> Any:
        if keys:
            return {**node, keys[0]: changed(node[keys[0]], keys[1:])}
        module = dict(node[last])
        for leaf in leaves:
            where = [slice(None)] * module[leaf].ndim
            where[axis] = filter
            module[leaf] = module[leaf].at[tuple(where)].set(0)
        return {**node, last: module}

    return changed(variables, parents)
