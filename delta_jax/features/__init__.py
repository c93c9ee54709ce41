"""Taps: feature maps of any model that JAX traces, read and replaced by name, without touching a Linen model's code.

A model is a Linen module; or an object with `apply(variables, images, **kwargs)`; or a function of (variables, images),
which marks its taps by `tap`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from delta_jax.features import rerun
from delta_jax.features.forward import Pass, caller
from delta_jax.features.heads import head_inputs, with_head_inputs
from delta_jax.features.linen import blocks
from delta_jax.features.marks import tap
from delta_jax.features.prefix import Prefix

__all__ = [
    "Prefix",
    "apply_with_changes",
    "apply_with_taps",
    "blocks",
    "caller",
    "check_taps",
    "head_inputs",
    "list_taps",
    "order",
    "tap",
    "with_head_inputs",
]


def list_taps(model: Any, variables: Any, x: Any, **kwargs: Any) -> dict[str, tuple[int, ...]]:
    """{tap: shape of its maps} of everything that can be one, in alphabetical order.

    Nothing is computed.

    Args:
      model: a Linen module, an object with `apply`, or a function of (variables, images) that marks its taps.
      variables: its variables, or their shapes.
      x: images [B, H, W, 3] or their shape; whatever the model takes first.
      **kwargs: passed on to the model.
    """
    taps = _traced(model, variables, x, kwargs).taps
    return {tap: tuple(taps[tap].shape) for tap in sorted(taps)}


def order(model: Any, variables: Any, x: Any, **kwargs: Any) -> tuple[str, ...]:
    """The taps of `list_taps`, in the order in which they are reached."""
    return tuple(_traced(model, variables, x, kwargs).taps)


def check_taps(model: Any, variables: Any, x: Any, taps: Sequence[str], **kwargs: Any) -> None:
    """Raises ValueError, with the closest known names, unless every tap is one of `list_taps`."""
    _traced(model, variables, x, kwargs).check(taps)


def _traced(model: Any, variables: Any, x: Any, kwargs: Mapping[str, Any]) -> Pass:
    # With train=True the pass updates its statistics, too.
    others = [name for name in variables if name != "params"] if hasattr(model, "apply") else []
    return Pass(model, variables, x, kwargs, mutable=others)


def apply_with_taps(
    model: Any,
    variables: Any,
    x: Any,
    taps: Sequence[str],
    *,
    mutable: Sequence[str] = (),
    replay: Mapping[str, Any] | None = None,
    recompute: Sequence[str] = (),
    **kwargs: Any,
) -> Any:
    """One forward pass that also returns the feature maps at the taps.

    Args:
      model: a Linen module, an object with `apply`, or a function of (variables, images) that marks its taps by `tap`.
      variables: {"params": ..., "batch_stats": ...}; what a function takes first.
      x: images [B, H, W, 3]; whatever the model takes first.
      taps: names; of Linen, module paths such as "layer4_2/conv3", for the output of that module's `__call__`, before
        whatever follows it.
      mutable: collections that the pass may update, e.g. ("batch_stats",) in training. What is no Linen module has to
        take this argument, and return (output, {collection: updated}) then.
      replay: {tap: output} of what is not run, see `Prefix.outputs_until`; no tap lies in front of it. Collections in
        front of it are not updated.
      recompute: paths of Linen modules, none within another, whose insides the backward pass computes again instead of
        keeping them, such as `blocks`: less memory, more time, the same numbers.
      **kwargs: passed on to the model: train=True, rngs={"dropout": key}.

    Returns:
      (output, {tap: [B, H, W, C]}), and with `mutable` the updated collections as a third item.

    Raises:
      ValueError: a tap does not exist (the closest names are given), is reached more than once or within a loop, or is
        no array [B, ..., C].
    """
    forward = Pass(model, variables, x, kwargs, mutable=mutable, recompute=set(recompute))
    output, updated, maps = rerun.run(forward, dict.fromkeys(taps), replay)
    return (output, maps, updated) if mutable else (output, maps)


def apply_with_changes(
    model: Any,
    variables: Any,
    x: Any,
    changes: Mapping[str, Callable[[jax.Array], jax.Array]],
    **kwargs: Any,
) -> tuple[Any, dict[str, jax.Array]]:
    """One forward pass in which each tap returns `changes[tap]` of its output.

    Args:
      model: as of `apply_with_taps`.
      variables: its variables.
      x: images [B, H, W, 3].
      changes: {tap: function of the feature maps [B, H, W, C] that returns such maps}.
      **kwargs: passed on to the model.

    Returns:
      (output, {tap: changed maps}).

    Raises:
      ValueError: as `apply_with_taps`.
    """
    output, _, maps = rerun.run(Pass(model, variables, x, kwargs), changes)
    return output, maps
