"""Attention transfer: where a network looks, compared with where the source does (Zagoruyko, Komodakis, ICLR 2017)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from delta_jax.methods.method import Maps, Method, Shapes, each_unit, of_one_pixel, wide


def attention_distance(maps: Maps, source_maps: Maps) -> jax.Array:
    """Sum over taps of the mean over positions of (Q / ||Q|| - Q* / ||Q*||)^2, [B]; Q sums the squares of the channels.

    The paper has the norm of the difference in place of its mean square; its code has this, and at the first step,
    where both networks agree, the norm has no gradient.

    Args:
      maps, source_maps: {tap: [B, H, W, C]}.
    """

    def attention(tap_maps):
        return each_unit(jnp.sum(jnp.square(wide(tap_maps)), axis=-1), (1, 2))

    terms = [jnp.mean(jnp.square(attention(m) - attention(source_maps[tap])), axis=(1, 2)) for tap, m in maps.items()]
    return sum(terms[1:], terms[0])


@dataclass(frozen=True)
class AttentionTransfer(Method):
    """Fine-tuning with weight decay that looks where the source does: AT with squares, as its code has it."""

    decays_weights = True
    penalizes_head = False
    uses_source_maps = True
    default_alpha = 1000.0

    def example_penalty(self, maps, source_maps, attention, own=None):
        """`attention_distance`, [B]."""
        return attention_distance(self.rectified(maps), self.rectified(source_maps))

    def problem(self, shapes: Shapes, batch: int) -> str:
        """On one pixel there is one place to look at."""
        return of_one_pixel(shapes, "where there is one place to look at")
