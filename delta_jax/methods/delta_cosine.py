"""DELTA with the angle in place of the distance: sum_j W_j (1 - cos(FM_j, FM*_j))."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from delta_jax.methods.method import Maps, Method, Shapes, each_unit, of_one_pixel


def cosine_distance(maps: Maps, source_maps: Maps, weights: Maps) -> jax.Array:
    """Sum over taps and filters j of W_j (1 - cos(FM_j, FM*_j)), [B].

    A map that is zero has no direction: it pays 0 beside another zero map and 1/2 beside one that is not.

    Args:
      maps, source_maps: {tap: [B, H, W, C]}.
      weights: {tap: [C] or [B, C]}.
    """
    terms = []
    for tap, tap_maps in maps.items():
        # Half the squared distance of the two unit vectors: 1 - cos itself loses its digits where both agree.
        apart = each_unit(tap_maps, (1, 2)) - each_unit(source_maps[tap], (1, 2))
        each = 0.5 * jnp.sum(jnp.square(apart), axis=(1, 2))
        terms.append(jnp.sum(each * jnp.broadcast_to(weights[tap], each.shape).astype(each.dtype), axis=-1))
    return sum(terms[1:], terms[0])


@dataclass(frozen=True)
class DeltaCosine(Method):
    """Angle between the feature maps and the source's: what a filter looks for may not turn, how loudly it may."""

    uses_source_maps = True
    uses_attention = True

    def example_penalty(self, maps, source_maps, attention, own=None):
        """`cosine_distance` with the attention of DELTA, [B]."""
        return cosine_distance(self.rectified(maps), self.rectified(source_maps), attention)

    def problem(self, shapes: Shapes, batch: int) -> str:
        """A map of one pixel has no direction but its sign."""
        return of_one_pixel(shapes, "whose angle to the source's is always 0 or 180 degrees")
