"""Co-Tuning: the source's classifier learns how its classes relate to the target's (You et al., NeurIPS 2020)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from delta_jax.methods.method import Seen
from delta_jax.methods.source_head import SourceHeadMethod


def relationship_loss(logits: jax.Array, relationship: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of the source's classes from p(y_s | y_t), [B].

    Args:
      logits: [B, K_s], of the source's classifier.
      relationship: [K_t, K_s], p(y_s | y_t).
      labels: int [B], y_t.
    """
    return optax.losses.softmax_cross_entropy(logits, relationship[labels].astype(logits.dtype))


@dataclass(frozen=True)
class CoTuning(SourceHeadMethod):
    """Fine-tuning with both classifiers: the source's learns the classes that the target's look like to it."""

    measures = ("relationship",)
    default_alpha = 2.3

    def batch_penalty(self, seen: Seen) -> jax.Array:
        """The mean of `relationship_loss`."""
        logits = self.source_logits(seen)
        return jnp.mean(relationship_loss(logits, seen.measured["relationship"], seen.labels))
