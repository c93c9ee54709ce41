"""Stratified splits: the same strata, fractions and seed always give the same one, and every class is trained on."""

import dataclasses
import math
import warnings
from collections.abc import Sequence

import numpy as np

from delta_jax.data import grouping
from delta_jax.data.errors import DataError


def hold_out(strata: np.ndarray, fraction: float, seed: int, together: np.ndarray | None = None) -> np.ndarray:
    """Marks ceil(fraction * N) examples, spread over the strata in proportion; bool [N].

    Args:
      strata: int [N]; each value needs at least two examples.
      fraction: part to mark, 0 (nothing) to below 1.
      seed: of the shuffle within the strata.
      together: int [N], groups that are marked as a whole, then about as many; see `grouping.hold_out`.
    """
    from sklearn.model_selection import train_test_split  # 0.5 s to import, wanted only where a split is drawn

    if not 0 <= fraction < 1:
        raise DataError(f"test_fraction is {fraction}, expected 0 (no test images) to below 1, such as 0.25")
    chosen = np.zeros(len(strata), bool)
    if fraction == 0:
        return chosen
    if together is not None:
        return grouping.hold_out(strata, together, fraction, seed)
    held, groups = math.ceil(fraction * len(strata)), len(np.unique(strata))
    if not groups <= held <= len(strata) - groups:
        raise DataError(
            f"test_fraction {fraction} makes {held} of {len(strata)} images test images, but with {groups} classes "
            f"both parts need at least {groups}; {'raise' if held < groups else 'lower'} test_fraction"
        )
    _, rows = train_test_split(np.arange(len(strata)), test_size=held, stratify=strata, random_state=seed)
    chosen[rows] = True
    return chosen


def fold_of(
    strata: np.ndarray, fraction: float, fold: int, seed: int, together: np.ndarray | None = None
) -> np.ndarray:
    """Marks one of k = 1/fraction disjoint, stratified folds; bool [N].

    Args:
      strata: int [N].
      fraction: 0 (nothing is marked) or close to 1/k for a whole k of 2 or more.
      fold: which of the folds, 0 to k - 1; together they cover every example once.
      seed: of the shuffle within the strata.
      together: int [N], groups that are marked as a whole; see `grouping.fold_of`.
    """
    from sklearn.model_selection import StratifiedKFold

    chosen = np.zeros(len(strata), bool)
    if fraction == 0:
        if fold != 0:
            raise DataError(f"fold is {fold}, but validation_fraction 0 leaves no folds to choose from; set fold=0")
        return chosen
    k = round(1 / fraction) if 0 < fraction <= 0.5 else 0
    if k < 2 or abs(1 / fraction - k) > 0.05:
        near = f"nearest: {1 / max(k, 2):.4g}" if 0 < fraction < 1 else "such as 0.2"
        raise DataError(f"validation_fraction is {fraction}, expected 0, 1/2, 1/3, 1/4, 1/5, ...; {near}")
    if not 0 <= fold < k:
        raise DataError(f"fold is {fold}, but validation_fraction {fraction} makes {k} folds: choose 0 to {k - 1}")
    if together is not None:
        return grouping.fold_of(strata, together, k, fold, seed)
    largest = np.bincount(strata).max()
    if largest < k:
        raise DataError(
            f"validation_fraction {fraction} makes {k} folds, but no class has more than {largest} images left for "
            f"training and validation; choose at least {1 / largest:.4g} or add images"
        )
    with warnings.catch_warnings():
        # A class with fewer than k images is absent from some folds; see `filling.fill` for one with a single image.
        warnings.filterwarnings("ignore", message="The least populated class")
        folds = list(StratifiedKFold(k, shuffle=True, random_state=seed).split(strata, strata))
    chosen[folds[fold][1]] = True
    return chosen


def draw(
    labels: np.ndarray,
    class_names: tuple[str, ...],
    *,
    seed: int,
    shots: int = 0,
    fraction: float = 1.0,
    together: np.ndarray | None = None,
) -> np.ndarray:
    """Marks `shots` examples of every class, or a fraction of every class; bool [N].

    The examples of a class are shuffled once per seed and the first ones taken: 5 shots are 5 of the 10 shots.

    Args:
      labels: int [N].
      class_names: for messages, and how many classes there are.
      seed: of the shuffle within the classes.
      shots: examples per class; 0 for all.
      fraction: above 0, to 1 for all; rounded per class, and at least one example of each.
      together: int [N], groups that are marked as a whole, until there are as many or more; see `grouping.draw`.
    """
    if shots < 0:
        raise DataError(f"shots is {shots}, expected 0 (all training images) or the images per class, such as 5")
    if not 0 < fraction <= 1:
        raise DataError(f"train_fraction is {fraction}, expected above 0, such as 0.1, to 1 (all training images)")
    if shots and fraction < 1:
        raise DataError(f"shots is {shots} and train_fraction is {fraction}; set one of them: shots=0 or fraction=1")
    counts = np.bincount(labels, minlength=len(class_names))
    if (counts < shots).any():
        small = [f"{class_names[i]} ({counts[i]})" for i in np.flatnonzero(counts < shots)]
        raise DataError(
            f"shots is {shots}, but there are fewer images to train and validate on in: {listed(small)}; "
            f"choose at most {counts.min()}, add images or leave out the class"
        )
    wanted = np.full(len(counts), shots) if shots else np.maximum(1, np.floor(fraction * counts + 0.5).astype(int))
    if together is not None:
        return grouping.draw(labels, together, wanted, seed)
    chosen = np.zeros(len(labels), bool)
    for label, count in enumerate(wanted):
        chosen[shuffled(np.flatnonzero(labels == label), seed, label)[:count]] = True
    return chosen


def shuffled(rows: np.ndarray, seed: int, label: int) -> np.ndarray:
    """The rows in an order that depends on these two numbers only, whatever the version of NumPy."""
    # RandomState's stream is promised for all versions, and Generator's for none: see NEP 19.
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, label]))).permutation(rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Splitting:
    """How the splits are drawn that a data set does not bring along.

    Attributes:
      seed: of all shuffles.
      validation_fraction: of what is in train after the test images and the unused ones left it; 0 for none.
      test_fraction: of all the images in train; 0 for none.
      fold: which of the validation folds, see `fold_of`.
      shots: images per class to train and validate on; 0 for all.
      train_fraction: of the images to train and validate on; 1 for all.
    """

    seed: int = 0
    validation_fraction: float = 0.2
    test_fraction: float = 0.25
    fold: int = 0
    shots: int = 0
    train_fraction: float = 1.0


def counted(count: int, one: str, more: str) -> str:
    """ "1 image is" or "2 images are"."""
    return f"{count:,} {one if count == 1 else more}"


def listed(names: Sequence[str]) -> str:
    """The first ten names, and how many more there are."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
