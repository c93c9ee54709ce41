"""Co-Tuning: the source's classifier learns how its classes relate to the target's (You et al., NeurIPS 2020)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from delta_jax.methods.method import Method, Seen, Shapes, logits_of


def relationship_loss(logits: jax.Array, relationship: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of the source's classes from p(y_s | y_t), [B].

    Args:
      logits: [B, K_s], of the source's classifier.
      relationship: [K_t, K_s], p(y_s | y_t).
      labels: int [B], y_t.
    """
    return -jnp.sum(relationship[labels].astype(logits.dtype) * jax.nn.log_softmax(logits), axis=-1)


@dataclass(frozen=True)
class CoTuning(Method):
    """Fine-tuning with both classifiers: the source's learns the classes that the target's look like to it."""

    decays_weights = True
    penalizes_head = False
    uses_features = True
    has_own_parameters = True
    uses_source_head = True
    own_rate_is_the_heads = False
    knows_examples = True
    measures = ("relationship",)
    default_alpha = 2.3

    def own_parameters(self, key: jax.Array, shapes: Shapes):
        """The source's classifier."""
        return {"source_head": dict(shapes.source_head or {})}

    def batch_penalty(self, seen: Seen) -> jax.Array:
        """The mean of `relationship_loss`."""
        logits = logits_of(seen.own["source_head"], seen.features)
        return jnp.mean(relationship_loss(logits, seen.measured["relationship"], seen.labels))
