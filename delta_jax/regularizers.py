"""Penalties of fine-tuning: on feature maps, one value per example [B]; on parameters, one scalar.

Everything here is a pure function of arrays. Nothing is averaged over the batch, so a weight in front of a penalty
means the same for every batch size and number of devices.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SCALES = ("paper", "reference")


def _wide(x: jax.Array) -> jax.Array:
    """At least float32: a sum of squares in bfloat16 loses most of its terms."""
    return x.astype(np.promote_types(x.dtype, np.float32))


def filter_distances(maps: jax.Array, source_maps: jax.Array) -> jax.Array:
    """Squared Euclidean distance of every filter's feature map to the source's: the norm of DELTA, Eq. 5.

    Args:
      maps: [B, ..., C], e.g. [B, H, W, C].
      source_maps: the same shape.

    Returns:
      [B, C], in float32 or wider.
    """
    if maps.shape != source_maps.shape:
        raise ValueError(
            f"feature maps of shape {maps.shape} cannot be compared with source maps of shape {source_maps.shape}"
        )
    # Squared, never a norm: at the first step both networks agree, and the gradient of a norm at 0 is NaN.
    squares = jnp.square(_wide(maps) - _wide(source_maps))
    return jnp.sum(squares, axis=tuple(range(1, maps.ndim - 1)))


def feature_distance(
    maps: Mapping[str, jax.Array],
    source_maps: Mapping[str, jax.Array],
    weights: Mapping[str, jax.Array] | None = None,
    *,
    scale: str = "paper",
) -> jax.Array:
    """Attention-weighted distance of feature maps to the source network: DELTA (Li et al., ICLR 2019), Eq. 5.

    For image i: sum over taps and filters j of s * W_ij * ||FM_ij - FM*_ij||^2, where s depends on `scale`:

    - "paper": s = 1, Eq. 5 as written;
    - "reference": as the published code has it, s = 1/2 * C / (H * W) with attention and s = 1/2 without.

    Args:
      maps: {tap: [B, H, W, C]} of the network in training.
      source_maps: {tap: [B, H, W, C]} of the source network, same taps.
      weights: {tap: [C] or [B, C]}, the attention; None for W = 1 everywhere.
      scale: "paper" or "reference".

    Returns:
      [B], one value per image.

    Raises:
      ValueError: taps or shapes differ, or the scale is unknown.
    """
    if scale not in SCALES:
        raise ValueError(f"scale {scale!r} is not one of {SCALES}")
    if not maps or maps.keys() != source_maps.keys() or (weights is not None and weights.keys() != maps.keys()):
        given = {"maps": maps, "source_maps": source_maps, "weights": maps if weights is None else weights}
        taps = {name: sorted(value) for name, value in given.items()}
        raise ValueError(f"maps, source maps and weights need the same taps, at least one; got {taps}")
    terms = []
    for tap, tap_maps in maps.items():
        distances = filter_distances(tap_maps, source_maps[tap])
        batch, channels = distances.shape
        factor = 1.0
        if weights is not None:
            tap_weights = weights[tap]
            if tap_weights.shape not in ((channels,), (batch, channels)):
                raise ValueError(
                    f"attention at {tap} has shape {tap_weights.shape}; expected ({channels},) or ({batch}, {channels})"
                )
            distances = distances * jnp.broadcast_to(tap_weights, distances.shape).astype(distances.dtype)
        if scale == "reference":
            positions = tap_maps.size // (batch * channels)
            factor = 0.5 if weights is None else 0.5 * channels / positions
        terms.append(factor * jnp.sum(distances, axis=-1))
    return sum(terms[1:], terms[0])


def _leaves(params: Mapping[str, Any], head: str | Sequence[str], *, inside: bool) -> dict[tuple[str, ...], jax.Array]:
    """The parameters below the module path `head`, or several, or all others, by path."""
    leaves = {tuple(str(key.key) for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    below: set[tuple[str, ...]] = set()
    for one in [head] if isinstance(head, str) else head:
        found = {path for path in leaves if any("/".join(path[:end]) == one for end in range(1, len(path)))}
        if inside and not found:
            tops = sorted({path[0] for path in leaves})
            raise ValueError(f"no parameters under the head path {one!r}; the modules are {tops}")
        below |= found
    return {path: leaf for path, leaf in leaves.items() if (path in below) == inside}


def _half_sum_of_squares(arrays: list[jax.Array]) -> jax.Array:
    squares = [0.5 * jnp.sum(jnp.square(array)) for array in arrays]
    return sum(squares[1:], squares[0])


def l2_sp(
    params: Mapping[str, Any],
    source_params: Mapping[str, Any],
    *,
    head: str | Sequence[str],
    kernels: bool = False,
    weights: Mapping[str, Any] | None = None,
) -> jax.Array:
    """1/2 * sum of F (w - w*)^2 over all parameters but the head: L2-SP (Li et al., ICML 2018).

    Args:
      params: nested dict of parameters in training.
      source_params: where they started; the head in it is not looked at.
      head: module path of the classifier, "fc" or "encoder/head"; or several, where a second one is trained along.
      kernels: whether parameters that are not called "kernel", biases and those of BatchNorm, are left out.
      weights: F, of the parameters that count: L2-SP-Fisher; None for 1. What is not in it is left out.

    Returns:
      A scalar.

    Raises:
      ValueError: the parameters are of different networks, or none counts.
    """
    source = _leaves(source_params, head, inside=False)
    ours = _leaves(params, head, inside=False)
    if ours.keys() != source.keys():
        raise ValueError(
            f"parameters differ between the network and its source: {sorted(ours.keys() ^ source.keys())[:5]}"
        )
    if kernels:
        ours = {path: leaf for path, leaf in ours.items() if path[-1] == "kernel"}
        if not ours:
            raise ValueError(f"no parameter outside of {head} is called kernel; they are {sorted(source)[:5]}")
    if weights is None:
        return _half_sum_of_squares([_wide(w) - _wide(source[path]) for path, w in ours.items()])
    factors = {path: factor for path, factor in _leaves(weights, head, inside=False).items() if path in ours}
    if not factors:
        raise ValueError(f"none of the weights is of a parameter that counts; they are of {sorted(ours)[:5]}")
    terms = [0.5 * jnp.sum(f * jnp.square(_wide(ours[path]) - _wide(source[path]))) for path, f in factors.items()]
    return sum(terms[1:], terms[0])


def head_l2(params: Mapping[str, Any], *, head: str | Sequence[str]) -> jax.Array:
    """1/2 * ||head||^2 over kernel and bias: DELTA, the second term of Eq. 4.

    Args:
      params: nested dict of parameters.
      head: module path of the classifier, or several.

    Returns:
      A scalar.
    """
    return _half_sum_of_squares([_wide(w) for w in _leaves(params, head, inside=True).values()])
