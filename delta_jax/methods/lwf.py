"""Learning without forgetting: the source's classifier is to go on saying what it said (Li, Hoiem, ECCV 2016)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from delta_jax.methods.method import Method, Seen, Shapes, logits_of


def distillation(logits: jax.Array, recorded: jax.Array, temperature: float) -> jax.Array:
    """KL(softmax(recorded / T) || softmax(logits / T)) in nats, [B] of [B, K] each.

    The paper's cross-entropy less the entropy of what was recorded: 0 where both agree, and the same gradient.
    """
    ours, theirs = (jax.nn.log_softmax(x / temperature) for x in (logits, recorded))
    return jnp.sum(jnp.exp(theirs) * (theirs - ours), axis=-1)


@dataclass(frozen=True)
class LwF(Method):
    """Fine-tuning with the source's classifier beside the target's, on the same features; it is trained along."""

    decays_weights = True
    penalizes_head = False
    uses_features = True
    has_own_parameters = True
    uses_source_head = True
    own_rate_is_the_heads = False
    knows_examples = True
    measures = ("source_logits",)
    default_alpha = 1.0
    temperature = 2.0  # as published

    def own_parameters(self, key: jax.Array, shapes: Shapes):
        """The source's classifier."""
        return {"source_head": dict(shapes.source_head or {})}

    def batch_penalty(self, seen: Seen) -> jax.Array:
        """The mean of `distillation` from what the source said of the images before training."""
        logits = logits_of(seen.own["source_head"], seen.features)
        recorded = seen.measured["source_logits"][seen.index].astype(logits.dtype)
        return jnp.mean(distillation(logits, recorded, self.temperature))
