"""Batch spectral shrinkage: the smallest singular values of a batch's features (Chen et al., NeurIPS 2019)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from delta_jax.methods.method import Method, Seen, Shapes


def spectral_shrinkage(features: jax.Array, k: int) -> jax.Array:
    """Sum of the squares of the k smallest of the min(B, D) singular values of `features`, a scalar.

    With U the k left singular vectors (or right ones, where B > D) it is ||U^T F||^2. The gradient 2 U U^T F holds U
    fixed: exact wherever there is one, and without the 1 / (s_i - s_j) of a decomposition's gradient, which explodes
    where two singular values are close. U comes from the smaller Gram matrix, at most B x B.

    Args:
      features: [B, D].
      k: 1 to min(B, D).
    """
    wide = features.T if features.shape[0] > features.shape[1] else features
    fixed = jax.lax.stop_gradient(wide)
    gram = jnp.matmul(fixed, fixed.T, precision="highest")
    smallest = jnp.linalg.eigh(gram)[1][:, :k]  # in ascending order
    return jnp.sum(jnp.square(jnp.matmul(smallest.T, wide, precision="highest")))


@dataclass(frozen=True)
class BatchSpectralShrinkage(Method):
    """Fine-tuning with weight decay that shrinks what transfers least: the weakest directions of the features.

    Attributes:
      singular_values: k, how many of the smallest are pushed down.
    """

    singular_values: int = 1

    decays_weights = True
    penalizes_head = False
    uses_features = True
    default_alpha = 0.001

    def batch_penalty(self, seen: Seen) -> jax.Array:
        """`spectral_shrinkage` of the features."""
        return spectral_shrinkage(seen.features, self.singular_values)

    def problem(self, shapes: Shapes, batch: int) -> str:
        """There are no more singular values than images, or features."""
        most = min(batch, shapes.features)
        if self.singular_values <= most:
            return ""
        return (
            f"--config.singular_values={self.singular_values}: features [{batch}, {shapes.features}] of a batch, or of "
            f"each part of an accumulated one, have {most} singular values; take at most {most}, or a larger batch"
        )
