"""Attentive feature distillation: DELTA's distance with weights that are learned along (Wang et al., ICLR 2020).

It is the regulariser of AFDS; the other half, attentive feature *selection*, leaves channels out of the network to make
it faster, and is not here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from delta_jax import regularizers
from delta_jax.methods.method import Maps, Method, Shapes, wide


def learned_attention(source_maps: Maps, predictors: Mapping[str, Any]) -> dict[str, jax.Array]:
    """{tap: [B, C]} of weights that sum to 1: softmax over the filters c of relu(FM*_c phi) phi'.

    Args:
      source_maps: {tap: [B, H, W, C]}.
      predictors: {tap: {"hidden": phi [H W, h], "out": phi' [h]}}.
    """
    found = {}
    for tap, maps in source_maps.items():
        flat = wide(maps).reshape(maps.shape[0], -1, maps.shape[-1])
        hidden = jax.nn.relu(jnp.einsum("bpc,ph->bch", flat, predictors[tap]["hidden"]))
        found[tap] = jax.nn.softmax(hidden @ predictors[tap]["out"], axis=-1)
    return found


@dataclass(frozen=True)
class AttentiveFeatureDistillation(Method):
    """Distance of the feature maps to the source's; a small network per tap weighs the filters of every image."""

    uses_source_maps = True
    has_own_parameters = True

    def own_parameters(self, key: jax.Array, shapes: Shapes) -> dict[str, Any]:
        """Of as many hidden units as the map is high. The last layer is zero: at first all filters weigh the same."""
        predictors = {}
        for number, (tap, (height, width, _)) in enumerate(sorted(shapes.maps.items())):
            draw = jax.random.normal(jax.random.fold_in(key, number), (height * width, height), jnp.float32)
            predictors[tap] = {"hidden": draw * (2 / (height * width)) ** 0.5, "out": jnp.zeros(height, jnp.float32)}
        return {"attention": predictors}

    def example_penalty(self, maps, source_maps, attention, own=None):
        """`regularizers.feature_distance` with `learned_attention`, [B]."""
        weights = learned_attention(source_maps, own["attention"])
        return regularizers.feature_distance(
            self.rectified(maps), self.rectified(source_maps), weights, scale=self.scale
        )
