"""The training step: cross-entropy, the method's penalties, L2 of the head; one pure function of arrays."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from delta_jax import features, regularizers
from delta_jax.methods import Method
from delta_jax.training.state import TrainState, Variables

# image (uint8 [B, H, W, 3], a data.Canvas, or normalised), label [B], index [B]: row in the data set.
Batch = Mapping[str, Any]
Metrics = dict[str, jax.Array]
Attention = Mapping[str, jax.Array]


def attention_of(attention: Attention | None, index: jax.Array) -> Attention | None:
    """The batch's attention {tap: [C] or [B, C]} from {tap: [C]}, one for all, or {tap: [N, C]}, one per example."""
    if attention is None:
        return None
    return {tap: weights if weights.ndim == 1 else weights[index] for tap, weights in attention.items()}


def class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Weights of the cross-entropy, float32 [K]: N / (K n_k) for a class of n_k examples of N, K classes present.

    Every class then has the same part in the loss, and the mean weight of the examples is 1: the learning rate and
    alpha keep their meaning. Classes without an example, which no example will ask for, get 0.

    Args:
      labels: int [N], of the training images.
      num_classes: of the network.
    """
    counts = np.bincount(labels, minlength=num_classes)
    present = counts > 0
    return np.where(present, len(labels) / (present.sum() * np.maximum(counts, 1)), 0).astype(np.float32)


def make_loss(
    model: nn.Module,
    source_model: nn.Module,
    method: Method,
    *,
    taps: tuple[str, ...],
    head: str | Sequence[str],
    alpha: float,
    beta: float,
    auxiliary: str = "",
    auxiliary_weight: float = 0.0,
    label_weights: np.ndarray | None = None,
) -> Callable[..., tuple[jax.Array, tuple[Metrics, Any]]]:
    """The loss of a batch: mean CE + alpha * penalty + beta * 1/2 ||head||^2 (DELTA, Eq. 3 and 4).

    Args:
      model: the network in training.
      source_model: the network of the source, run in evaluation mode.
      method: which penalties.
      taps: whose feature maps are compared.
      head: module path of the classifier, or several.
      alpha: weight of the penalty, per example.
      beta: weight of the head's penalty.
      auxiliary: module path whose output in training are the logits [B, K] of a second classifier; "" for none.
      auxiliary_weight: of its cross-entropy, which is added to the first one's.
      label_weights: [K], weights of the cross-entropies by true class, such as `class_weights`; not of the penalties.
        Their sum is divided by the batch size, not by the weights of the batch: those would depend on who is in it.

    Returns:
      loss(params, batch_stats, source, images, labels, attention, dropout_key) -> (total, (metrics, new batch_stats));
      images are normalised [B, H, W, 3], the scalars of metrics float32 or wider.
    """
    taps = taps if method.uses_source_maps else ()
    watched = (*taps, auxiliary) if auxiliary else taps

    def mean_cross_entropy(logits, labels):
        each = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(each if label_weights is None else each * jnp.asarray(label_weights, each.dtype)[labels])

    def loss(params, batch_stats, source: Variables, images, labels, attention, dropout_key):
        variables = {"params": params, "batch_stats": batch_stats}
        rngs = {"dropout": dropout_key}
        logits, maps, updated = features.apply_with_taps(
            model, variables, images, watched, mutable=("batch_stats",), train=True, rngs=rngs
        )
        logits = logits.astype(np.promote_types(logits.dtype, np.float32))
        cross_entropy = mean_cross_entropy(logits, labels)
        extra = jnp.zeros((), logits.dtype)
        if auxiliary:
            maps = dict(maps)
            extra = auxiliary_weight * mean_cross_entropy(maps.pop(auxiliary).astype(logits.dtype), labels)

        source_maps: Mapping[str, jax.Array] = {}
        if method.uses_source_maps:
            _, source_maps = features.apply_with_taps(source_model, source, images, taps)
            source_maps = jax.lax.stop_gradient(source_maps)
        penalty = method.parameter_penalty(params, source["params"], head)
        example_penalty = method.example_penalty(maps, source_maps, attention if method.uses_attention else None)
        if example_penalty is not None:
            penalty = penalty.astype(example_penalty.dtype) + jnp.mean(example_penalty)
        head_penalty = regularizers.head_l2(params, head=head) if method.penalizes_head else jnp.zeros((), jnp.float32)

        total = cross_entropy + extra + alpha * penalty.astype(logits.dtype) + beta * head_penalty.astype(logits.dtype)
        metrics = {
            "loss": total,
            "cross_entropy": cross_entropy,
            "penalty": penalty,
            "head_penalty": head_penalty,
            "top1": jnp.mean((jnp.argmax(logits, -1) == labels).astype(logits.dtype)),
        }
        return total, (metrics, updated.get("batch_stats", batch_stats))

    return loss


def make_train_step(
    loss: Callable, tx: optax.GradientTransformation, prepare: Callable[[jax.Array, Any], jax.Array]
) -> Callable[[TrainState, Variables, Batch, Attention | None, jax.Array], tuple[TrainState, Metrics]]:
    """One optimizer step, to be jitted with its first argument donated.

    Args:
      loss: from `make_loss`.
      tx: the optimizer.
      prepare: (key, images of the batch) -> normalised images; augmentation lives here, inside the step.

    Returns:
      step(state, source, batch, attention, key) -> (state, metrics). What is random in step n depends on (key, n).
    """

    def train_step(state, source, batch, attention, key):
        crop_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        images = prepare(crop_key, batch["image"])
        gradient = jax.value_and_grad(loss, has_aux=True)
        (_, (metrics, batch_stats)), gradients = gradient(
            state.params,
            state.batch_stats,
            source,
            images,
            batch["label"],
            attention_of(attention, batch["index"]),
            dropout_key,
        )
        updates, opt_state = tx.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, batch_stats, opt_state), metrics

    return train_step
