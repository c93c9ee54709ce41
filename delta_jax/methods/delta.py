"""DELTA: sum_j W_j ||FM_j - FM*_j||^2, the feature maps' distance to the source's (Li et al., ICLR 2019, Eq. 5)."""

from dataclasses import dataclass

from delta_jax import regularizers
from delta_jax.methods.method import Method


@dataclass(frozen=True)
class DeltaWithoutAttention(Method):
    """Distance of the feature maps to the source's, all filters alike."""

    uses_source_maps = True

    def example_penalty(self, maps, source_maps, attention, own=None):
        """Eq. 5 with W = 1, [B]."""
        return regularizers.feature_distance(
            self.rectified(maps), self.rectified(source_maps), attention, scale=self.scale
        )


@dataclass(frozen=True)
class Delta(DeltaWithoutAttention):
    """Distance of the feature maps to the source's, weighted by the target's need of each filter (Li et al., 2019)."""

    uses_attention = True
