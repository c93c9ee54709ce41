"""Bi-Tuning: queues of keys that classifier and projector are to tell apart by class (Zhong et al., 2020).

Two contrasts, each with many positives: between features and the classifier's vectors, and between projections.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from delta_jax.methods.method import Method, Params, Seen, Shapes, each_unit, logits_of


def contrast(current: jax.Array, queued: jax.Array, labels: jax.Array, temperature: float) -> jax.Array:
    """KL to the softmax over one current key and all queued ones, from 1 / (1 + L) on those of the class, [B].

    Args:
      current: [B], similarity to the example's own key.
      queued: [B, K, L], to the L keys in the queue of each of K classes.
      labels: int [B].
      temperature: divides the similarities.
    """
    batch, classes, length = queued.shape
    every = jnp.concatenate([current[:, None], queued.reshape(batch, -1)], 1) / temperature
    log_p = jax.nn.log_softmax(every)
    of_class = (jnp.arange(classes)[None] == labels[:, None])[..., None]
    positive = log_p[:, 0] + jnp.sum(log_p[:, 1:].reshape(queued.shape), axis=(1, 2), where=of_class)
    return -positive / (1 + length) - jnp.log(1.0 + length)


def enqueued(queue: jax.Array, pointer: jax.Array, keys: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(queues, pointers) when every key has taken the oldest place of its class, one after the other.

    Args:
      queue: [K, L, D].
      pointer: int [K], the oldest place of each class.
      keys: [B, D].
      labels: int [B].
    """
    classes, length, _ = queue.shape
    same = labels[:, None] == labels[None]
    before = jnp.sum(jnp.tril(same, -1), axis=1, dtype=pointer.dtype)
    after = jnp.sum(jnp.triu(same, 1), axis=1)
    place = (pointer[labels] + before) % length
    # Of more keys of a class than it has places, the last ones stay: two writes to one place have no order.
    place = jnp.where(after < length, place, length)
    counts = jnp.zeros(classes, pointer.dtype).at[labels].add(1)
    return queue.at[labels, place].set(keys.astype(queue.dtype), mode="drop"), (pointer + counts) % length


@dataclass(frozen=True)
class BiTuning(Method):
    """Fine-tuning with weight decay and two contrasts to keys of a second view, from a slowly following network."""

    decays_weights = True
    penalizes_head = False
    uses_features = True
    has_own_parameters = True
    own_rate_is_the_heads = False
    knows_examples = True
    carries = True
    default_alpha = 1.0
    length = 40  # of a queue, as published; the others, too
    momentum = 0.999
    temperature = 0.07
    projected = 128

    def own_parameters(self, key: jax.Array, shapes: Shapes):
        """The projector, uniform within 1 / sqrt(D) as torch draws it."""
        bound = shapes.features**-0.5
        kernel, bias = jax.random.split(key)
        shape = (shapes.features, self.projected)
        return {
            "projector": {
                "kernel": jax.random.uniform(kernel, shape, jnp.float32, -bound, bound),
                "bias": jax.random.uniform(bias, shape[1:], jnp.float32, -bound, bound),
            }
        }

    def first_buffers(
        self, key: jax.Array, shapes: Shapes, params: Params, own: Any, num_classes: int
    ) -> dict[str, Any]:
        """Queues of random directions, and a network and a projector of keys that are those in training."""
        of_features, of_projections = jax.random.split(key)
        queues = {
            "features": jax.random.normal(of_features, (num_classes, self.length, shapes.features + 1), jnp.float32),
            "projections": jax.random.normal(of_projections, (num_classes, self.length, self.projected), jnp.float32),
        }
        queues = {name: each_unit(queue, (2,)) for name, queue in queues.items()}
        pointer = jnp.zeros(num_classes, jnp.int32)
        keys = jax.tree.map(jnp.copy, {"network": params, "own": own})
        return {"keys": keys, "queues": queues, "pointer": pointer}

    def key_parameters(self, params: Params, own: Any, buffers: Mapping[str, Any]) -> dict[str, Any]:
        """Of the network and the projector of keys, which follow those in training: m k + (1 - m) q."""
        return optax.incremental_update({"network": params, "own": own}, buffers["keys"], 1 - self.momentum)

    def carried(self, seen: Seen) -> dict[str, Any]:
        """The buffers behind the step."""
        old, queues = seen.buffers, {}
        keys = self._keys(seen)
        for name, queue in old["queues"].items():
            queues[name], pointer = enqueued(queue, old["pointer"], keys[name], seen.labels)
        return {"keys": seen.key_parameters, "queues": queues, "pointer": pointer}

    def _keys(self, seen: Seen) -> dict[str, jax.Array]:
        projected = logits_of(seen.key_parameters["own"]["projector"], seen.keys)
        return {"features": _with_one(seen.keys), "projections": each_unit(projected, (1,))}

    def batch_penalty(self, seen: Seen) -> jax.Array:
        """The mean of both contrasts, as the public code has them.

        Classifier vectors are held fixed, and compared with queues that this batch's keys are in already; projections
        with the queues before.
        """
        queues, keys = seen.buffers["queues"], self._keys(seen)
        projections = each_unit(logits_of(seen.own["projector"], seen.features), (1,))
        similar = jnp.einsum("bd,kld->bkl", projections, queues["projections"])
        own_key = jnp.sum(projections * keys["projections"], axis=-1)
        of_projections = contrast(own_key, similar, seen.labels, self.temperature)

        head = jax.lax.stop_gradient(seen.head)
        bias = head["bias"] if "bias" in head else jnp.zeros_like(head["kernel"][0])
        vectors = each_unit(jnp.concatenate([head["kernel"], bias[None]]).T, (1,))[seen.labels]  # [B, D + 1]
        newest, _ = enqueued(queues["features"], seen.buffers["pointer"], keys["features"], seen.labels)
        current = jnp.sum(_with_one(seen.features) * vectors, axis=-1)
        of_classes = contrast(current, jnp.einsum("bd,kld->bkl", vectors, newest), seen.labels, self.temperature)
        return jnp.mean(of_projections) + jnp.mean(of_classes)


def _with_one(features: jax.Array) -> jax.Array:
    """[B, D + 1] of length 1: with a 1 for the bias."""
    ones = jnp.ones((features.shape[0], 1), features.dtype)
    return each_unit(jnp.concatenate([features, ones], 1), (1,))
