"""The training step: cross-entropy, the method's penalties, L2 of the head; one pure function of arrays."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from delta_jax import features, regularizers
from delta_jax.methods import Method
from delta_jax.methods.method import Seen
from delta_jax.training.state import TrainState, Variables, averaged

# image (uint8 [B, H, W, 3], a data.Canvas, or normalised), label [B], index [B]: row in the data set.
Batch = Mapping[str, Any]
Metrics = dict[str, jax.Array]
METRICS = ("loss", "cross_entropy", "penalty", "head_penalty", "top1")
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
    model: Any,
    source_model: Any,
    method: Method,
    *,
    taps: tuple[str, ...],
    head: str | Sequence[str],
    alpha: float | jax.Array,
    beta: float | jax.Array,
    auxiliary: str = "",
    auxiliary_weight: float = 0.0,
    label_weights: np.ndarray | jax.Array | None = None,
    label_smoothing: float = 0.0,
    freeze_until: str = "",
    recompute: Sequence[str] = (),
    within: Callable[[], AbstractContextManager[Any]] = nullcontext,
    keep: Callable[..., bool] | None = None,
) -> Callable[..., tuple[jax.Array, tuple[Metrics, Any]]]:
    """The loss of a batch: mean CE + alpha * penalty + beta * 1/2 ||head||^2 (DELTA, Eq. 3 and 4).

    Args:
      model: the network in training: a Linen module, or an object with `apply` as `features.apply_with_taps` takes it.
      source_model: the network of the source, run in evaluation mode.
      method: which penalties.
      taps: whose feature maps are compared.
      head: module path of the classifier, or several.
      alpha: weight of the penalty, per example; a scalar array, where the loss is made inside of a jitted function, is
        an argument of the program instead of a constant in it.
      beta: weight of the head's penalty; as alpha.
      auxiliary: module path whose output in training are the logits [B, K] of a second classifier; "" for none.
      auxiliary_weight: of its cross-entropy, which is added to the first one's.
      label_weights: [K], weights of the cross-entropies by true class, such as `class_weights`; not of the penalties.
        Their sum is divided by the batch size, not by the weights of the batch: those would depend on who is in it.
      label_smoothing: of the cross-entropies, share of the label that all K classes have in equal parts (Szegedy et
        al., CVPR 2016).
      freeze_until: module path; what has run when this module returns is frozen, "" for nothing. It is computed once,
        by the source network in evaluation mode, and `model` goes on from its outputs. No tap lies in it.
      recompute: module paths of `model`, see `features.apply_with_taps`.
      within: context in which `model` is run, such as `models.stochastic_norm`; the source network is not.
      keep: policy of `jax.checkpoint` such as `models.keep_products_and_sums`: what of `model` is kept for its backward
        pass, which computes the rest again; None for all that it needs.

    Returns:
      loss(params, batch_stats, source, images, labels, attention, dropout_key, own, index, keys) -> (total, (metrics,
      new batch_stats)); images are normalised [B, H, W, 3], labels int [B] or, of mixed images, the share of each class
      [B, K]; the scalars of metrics are float32 or wider.
      `source["measured"]` has what the method measured on it, if anything; `own` its own parameters and `index` [B] the
      rows of the examples, which most methods do not look at. Of one that carries something from step to step, `keys`
      are {"images", "buffers"}, and the new buffers come third.
    """
    classifier = head if isinstance(head, str) else head[0]
    taps = taps if method.uses_source_maps else ()
    watched = (*taps, auxiliary) if auxiliary else taps

    def mean_cross_entropy(logits, labels):
        if labels.ndim == 1 and not label_smoothing:
            each = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.mean(each if label_weights is None else each * jnp.asarray(label_weights, each.dtype)[labels])
        shares = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype) if labels.ndim == 1 else labels
        if label_weights is not None:
            shares = shares * jnp.asarray(label_weights, shares.dtype)[None]
        uniform = jnp.mean(shares, axis=-1, keepdims=True)
        shares = (1 - label_smoothing) * shares + label_smoothing * uniform
        return jnp.mean(optax.losses.softmax_cross_entropy(logits, shares.astype(logits.dtype)))

    def right(logits, labels):
        found = jnp.argmax(logits, -1)
        if labels.ndim == 1:
            return found == labels
        return jnp.take_along_axis(labels, found[:, None], axis=-1)[:, 0]

    def forward(variables, images, frozen, dropout_key):
        with within():
            return features.apply_with_taps(
                model,
                variables,
                images,
                watched,
                mutable=("batch_stats",),
                replay=frozen,
                recompute=recompute,
                train=True,
                rngs={"dropout": dropout_key},
            )

    def with_features(variables, *others):
        return features.with_head_inputs(forward, variables, others, classifier)

    def beside_keys(known: Seen, params, batch_stats, source: Variables, keys, dropout_key) -> Seen:
        """With the features of the second view, by the network of keys."""
        made = jax.lax.stop_gradient(method.key_parameters(params, known.own, keys["buffers"]))
        frozen: Mapping[str, Any] = {}
        if freeze_until:
            frozen = features.Prefix(source_model, source, keys["images"]).outputs_until(freeze_until)
        followers = {"params": made["network"], "batch_stats": batch_stats}
        _, theirs = with_features(followers, keys["images"], frozen, jax.random.fold_in(dropout_key, 1))
        return dataclasses.replace(
            known, keys=theirs.astype(known.features.dtype), key_parameters=made, buffers=keys["buffers"]
        )

    def loss(
        params, batch_stats, source: Variables, images, labels, attention, dropout_key, own=None, index=None, keys=None
    ):
        measured = source.get("measured", {})
        source = {name: collection for name, collection in source.items() if name != "measured"}
        variables = {"params": params, "batch_stats": batch_stats}
        source_maps: Mapping[str, jax.Array] = {}
        frozen: Mapping[str, Any] = {}
        if freeze_until:
            # What is not used of the pass is not computed: XLA drops it.
            prefix = features.Prefix(source_model, source, images)
            source_maps = {tap: prefix.feature_maps(tap) for tap in taps}
            frozen = jax.lax.stop_gradient(prefix.outputs_until(freeze_until))
        elif method.uses_source_maps:
            _, source_maps = features.apply_with_taps(source_model, source, images, taps)
        source_maps = jax.lax.stop_gradient(source_maps)

        run = with_features if method.uses_features else forward
        if keep is not None:
            run = jax.checkpoint(run, policy=keep)
        found = run(variables, images, frozen, dropout_key)
        (logits, maps, updated), seen = found if method.uses_features else (found, None)
        logits = logits.astype(np.promote_types(logits.dtype, np.float32))
        cross_entropy = mean_cross_entropy(logits, labels)
        extra = jnp.zeros((), logits.dtype)
        if auxiliary:
            maps = dict(maps)
            extra = auxiliary_weight * mean_cross_entropy(maps.pop(auxiliary).astype(logits.dtype), labels)

        carried: tuple[Any, ...] = ()
        penalty = method.parameter_penalty(params, source["params"], head, measured)
        given = attention if method.uses_attention else None
        example_penalty = method.example_penalty(maps, source_maps, given, own)
        if example_penalty is not None:
            penalty = penalty.astype(example_penalty.dtype) + jnp.mean(example_penalty)
        if seen is not None:
            wide = seen.astype(np.promote_types(seen.dtype, np.float32))
            known = Seen(wide, labels, index, own, measured, _below(params, classifier))
            if keys is not None:
                known = beside_keys(known, params, batch_stats, source, keys, dropout_key)
                carried = (jax.lax.stop_gradient(method.carried(known)),)
            batch_penalty = method.batch_penalty(known)
            penalty = penalty.astype(batch_penalty.dtype) + batch_penalty
        head_penalty = regularizers.head_l2(params, head=head) if method.penalizes_head else jnp.zeros((), jnp.float32)

        total = cross_entropy + extra + alpha * penalty.astype(logits.dtype) + beta * head_penalty.astype(logits.dtype)
        metrics = {
            "loss": total,
            "cross_entropy": cross_entropy,
            "penalty": penalty,
            "head_penalty": head_penalty,
            "top1": jnp.mean(right(logits, labels).astype(logits.dtype)),
        }
        return total, (metrics, updated.get("batch_stats", batch_stats), *carried)

    return loss


def _below(params: Mapping[str, Any], module: str) -> dict[str, jax.Array]:
    """{name: parameter} of a module."""
    leaves = {tuple(str(key.key) for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    return {path[-1]: leaf for path, leaf in leaves.items() if "/".join(path[:-1]) == module}


def make_train_step(
    loss: Callable,
    tx: optax.GradientTransformation,
    prepare: Callable[[jax.Array, Any], jax.Array],
    *,
    mix: Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]] | None = None,
    average: float = 0.0,
    accumulate: int = 1,
    own_tx: optax.GradientTransformation | None = None,
    project: Callable[[Variables, Variables], Any] | None = None,
) -> Callable[[TrainState, Variables, Batch, Attention | None, jax.Array], tuple[TrainState, Metrics]]:
    """One optimizer step, to be jitted with its first argument donated.

    Args:
      loss: from `make_loss`.
      tx: the optimizer.
      prepare: (key, images of the batch) -> normalised images; augmentation lives here, inside the step.
      mix: (key, normalised images, labels) -> mixed images, and the shares of the classes [B, K]; None for no mixing.
        Both networks see the mixed images, so that the distance of their maps is that of one image.
      average: decay of the average that the state keeps, see `state.averaged`; 0 where it keeps none.
      accumulate: microbatches that the batch is cut into, one after the other through the network; B is a multiple of
        it. The gradient is their mean, which is that of the whole batch, unless BatchNorm normalises with the
        statistics of the batch: then those are of a microbatch, and each moves the running ones.
      own_tx: the optimizer of the method's own parameters, where the state has any.
      project: (variables after the step, source) -> parameters; None leaves them where the optimizer put them.

    Returns:
      step(state, source, batch, attention, key) -> (state, metrics). What is random in step n depends on (key, n), and
      what is random in the network on the microbatch, too.
    """

    def of_trained(trained, batch_stats, source, *, images, labels, attention, index, dropout_key, keys=None):
        params, own = trained
        return loss(params, batch_stats, source, images, labels, attention, dropout_key, own, index, keys)

    gradient = jax.value_and_grad(of_trained, has_aux=True)

    def train_step(state, source, batch, attention, key):
        crop_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        # Views are drawn for the batch as a whole: they do not depend on `accumulate`.
        examples = {
            "images": prepare(crop_key, batch["image"]),
            "labels": batch["label"],
            "attention": attention_of(attention, batch["index"]),
            "index": batch["index"],
        }
        if mix is not None:
            mix_key = jax.random.fold_in(crop_key, 3)  # the views have 1 and 2, erasing 4
            examples["images"], examples["labels"] = mix(mix_key, examples["images"], examples["labels"])
        trained = state.params, state.own and state.own["params"]
        buffers: list[Any] = []
        if accumulate == 1:
            keys = None
            if state.own and "buffers" in state.own:
                second = prepare(jax.random.fold_in(crop_key, 5), batch["image"])
                keys = {"images": second, "buffers": state.own["buffers"]}
            (_, (metrics, batch_stats, *buffers)), gradients = gradient(
                trained, state.batch_stats, source, **examples, dropout_key=dropout_key, keys=keys
            )
        else:
            gradients, metrics, batch_stats = accumulated(trained, state.batch_stats, source, examples, dropout_key)
        updates, opt_state = tx.update(gradients[0], state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        if project is not None:
            params = project({"params": params, "batch_stats": batch_stats}, source)
        mean = state.average
        if average:
            new = {"params": params, "batch_stats": batch_stats}
            mean = averaged(mean, new, state.step + 1, average)
        after = dataclasses.replace(
            state, step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state, average=mean
        )
        if own_tx is not None:
            updates, own_opt_state = own_tx.update(gradients[1], state.own["opt_state"], state.own["params"])
            own = {"params": optax.apply_updates(state.own["params"], updates), "opt_state": own_opt_state}
            after = dataclasses.replace(after, own=own | ({"buffers": buffers[0]} if buffers else {}))
        return after, metrics

    def accumulated(trained, batch_stats, source, examples, dropout_key):
        # Attention that is one for all, [C], is no example's own.
        shared = {tap: w for tap, w in (examples["attention"] or {}).items() if w.ndim == 1}
        own = {tap: w for tap, w in (examples["attention"] or {}).items() if w.ndim > 1}
        cut = jax.tree.map(microbatches, {**examples, "attention": own})

        def one(batch_stats, numbered):
            number, part = numbered
            weights = {**shared, **part["attention"]} if examples["attention"] is not None else None
            key = jax.random.fold_in(dropout_key, number)
            (_, (metrics, batch_stats)), gradients = gradient(
                trained, batch_stats, source, **{**part, "attention": weights}, dropout_key=key
            )
            return batch_stats, (gradients, metrics)

        def add(carry, numbered):
            batch_stats, sums = carry
            batch_stats, found = one(batch_stats, numbered)
            return (batch_stats, jax.tree.map(jnp.add, sums, found)), None

        numbered = (jnp.arange(accumulate), cut)
        _, shapes = jax.eval_shape(one, batch_stats, jax.tree.map(lambda leaf: leaf[0], numbered))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (batch_stats, sums), _ = jax.lax.scan(add, (batch_stats, zeros), numbered)
        gradients, metrics = jax.tree.map(lambda total: total / accumulate, sums)
        return gradients, metrics, batch_stats

    def microbatches(leaf):
        # Every accumulate-th example: of a batch that is split over devices, each then has its part of each microbatch.
        return jnp.moveaxis(leaf.reshape(-1, accumulate, *leaf.shape[1:]), 1, 0)

    return train_step
