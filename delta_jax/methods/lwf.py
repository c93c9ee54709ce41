"""Learning without forgetting: the source's classifier is to go on saying what it said (Li, Hoiem, ECCV 2016)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from delta_jax.methods.method import Seen
from delta_jax.methods.source_head import SourceHeadMethod


def distillation(logits: jax.Array, recorded: jax.Array, temperature: float) -> jax.Array:
    """KL(softmax(recorded / T) || softmax(logits / T)) in nats, [B] of [B, K] each.

    The paper's cross-entropy less the entropy of what was recorded: 0 where both agree, and the same gradient.
    """
    ours, theirs = (jax.nn.log_softmax(x / temperature) for x in (logits, recorded))
    return optax.losses.kl_divergence_with_log_targets(ours, theirs)


@dataclass(frozen=True)
class LwF(SourceHeadMethod):
    """Fine-tuning with the source's classifier beside the target's, on the same features; it is trained along."""

    measures = ("source_logits",)
    default_alpha = 1.0
    temperature = 2.0  # as published

    def batch_penalty(self, seen: Seen) -> jax.Array:
        """The mean of `distillation` from what the source said of the images before training."""
        logits = self.source_logits(seen)
        recorded = seen.measured["source_logits"][seen.index].astype(logits.dtype)
        return jnp.mean(distillation(logits, recorded, self.temperature))
