"""What methods have in common that keep the classifier which the source's weights bring along, and train it, too."""

from dataclasses import dataclass
from typing import Any

import jax

from delta_jax.methods.method import Method, Seen, Shapes, logits_of


@dataclass(frozen=True)
class SourceHeadMethod(Method):
    """Fine-tuning with weight decay and two classifiers on the same features, the source's and the target's."""

    decays_weights = True
    penalizes_head = False
    uses_features = True
    has_own_parameters = True
    uses_source_head = True
    own_rate_is_the_heads = False
    knows_examples = True

    def own_parameters(self, key: jax.Array, shapes: Shapes) -> dict[str, Any]:
        """The source's classifier."""
        return {"source_head": dict(shapes.source_head or {})}

    def source_logits(self, seen: Seen) -> jax.Array:
        """What it says of the images of a batch, [B, K_s]."""
        return logits_of(seen.own["source_head"], seen.features)
