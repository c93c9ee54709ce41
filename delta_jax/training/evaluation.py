"""Probabilities of a whole split, and what they are worth."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from delta_jax import data, precision

TOP = 5


def make_views(
    crop: int, mean: Sequence[float], std: Sequence[float], *, crops: int = 1
) -> Callable[[data.Pixels], jax.Array]:
    """Decoded images -> normalised [crops, B, crop, crop, 3]: the centre, or the ten crops of the paper."""

    def views(images: data.Pixels) -> jax.Array:
        cut = data.ten_crop(images, crop) if crops == 10 else data.center_crop(images, crop)[None]
        return data.normalize(cut, mean, std)

    return views


def make_predict(model: Any, views: Callable[[data.Pixels], jax.Array]) -> Callable[[Any, data.Pixels], jax.Array]:
    """(variables, decoded images) -> probabilities [B, K], float32, averaged over the views.

    The images are uint8 [B, S, S, 3], or a Canvas. A float32 network is run in full float32 on every chip: what a run
    is worth, and what `predict` says elsewhere, does not depend on the chip.
    """

    def predict(variables: Any, images: data.Pixels) -> jax.Array:
        def one(view: jax.Array) -> jax.Array:
            with precision.full():
                logits: Any = model.apply(variables, view)
            return jax.nn.softmax(logits.astype(jnp.float32))

        return jnp.mean(jax.lax.map(one, views(images)), axis=0)

    return predict


def confusion_matrix(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many images of each class (rows) were taken for each class (columns), int64 [K, K].

    Args:
      probabilities: [M, K].
      labels: [M].
    """
    from sklearn import metrics  # 0.3 s to import, wanted after minutes of training

    return metrics.confusion_matrix(labels, probabilities.argmax(-1), labels=np.arange(probabilities.shape[-1]))


def recalls(confusion: np.ndarray) -> list[float | None]:
    """The fraction of each class's images that were recognised; None for a class without an image."""
    totals = confusion.sum(axis=1)
    return [float(right / n) if n else None for right, n in zip(np.diag(confusion), totals, strict=True)]


def f1_scores(confusion: np.ndarray) -> list[float | None]:
    """The harmonic mean of precision and recall of each class, int [K, K]; None for a class without an image."""
    both = confusion.sum(axis=0) + confusion.sum(axis=1)
    each = zip(np.diag(confusion), both, confusion.sum(axis=1), strict=True)
    return [float(2 * right / total) if n else None for right, total, n in each]


class Look(NamedTuple):
    """Measures of a split, and what they are means of: losses [M], nats, and right [M], whether top-1 is."""

    measures: Mapping[str, float]
    losses: np.ndarray
    right: np.ndarray


def look(probabilities: np.ndarray, labels: np.ndarray) -> Look:
    """`score` of probabilities [M, K] and labels [M], and the same image by image."""
    right = probabilities.argmax(-1) == labels
    return Look(score(probabilities, labels), cross_entropies(probabilities, labels), right)


def cross_entropies(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of each image in nats, float64 [M], from probabilities [M, K] and labels [M]."""
    return -np.log(np.maximum(probabilities[np.arange(len(labels)), labels].astype(np.float64), 1e-12))


def score(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Measures of a split.

    Args:
      probabilities: [M, K].
      labels: [M].

    Returns:
      top1, top5 (of more than five classes; of equal probabilities those of the first classes count as larger),
      balanced_accuracy and macro_f1 (mean recall and F1 of the classes present) as fractions, cross_entropy in nats, n.
    """
    from sklearn import metrics

    predicted = probabilities.argmax(-1)
    with warnings.catch_warnings():
        # A class may be predicted that this split has no example of; recall is a mean over the classes it has.
        warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
        balanced = metrics.balanced_accuracy_score(labels, predicted)
    f1 = metrics.f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)
    most = np.argsort(-probabilities, axis=-1, kind="stable")[:, :TOP]
    top5 = {"top5": float(np.mean(np.any(most == labels[:, None], axis=-1)))} if probabilities.shape[-1] > TOP else {}
    return {
        "top1": float(np.mean(predicted == labels)),
        **top5,
        "balanced_accuracy": float(balanced),
        "macro_f1": float(f1),
        "cross_entropy": float(np.mean(cross_entropies(probabilities, labels))),
        "n": len(labels),
    }
