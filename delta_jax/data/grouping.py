"""Images that belong together (of one patient, one plant, one video) drawn whole into one part of a data set."""

import dataclasses
import re
import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from delta_jax.data.errors import DataError

# Groups differ in size and in their classes: of so many draws, of each of these multiples of the expected number of
# groups, the best one is taken.
DRAWS = 32
MULTIPLES = (0.5, 0.75, 1.0, 1.5, 2.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
    """Which of N images belong together.

    Attributes:
      field: what they share: the name of a column or feature, or a pattern of paths.
      names: G of them, sorted.
      numbers: int [N], an index into `names` for each image.
    """

    field: str
    names: tuple[str, ...]
    numbers: np.ndarray

    @classmethod
    def of(cls, field: str, values: Sequence[str]) -> "Groups":
        """Of the name of each image's group."""
        names = sorted(set(values))
        number = {name: i for i, name in enumerate(names)}
        return cls(field, tuple(names), np.array([number[value] for value in values], np.int64))

    def alike(self) -> list[str]:
        """Pairs of names that differ by case, blanks or leading zeros only, such as "P07 and p7"."""
        first: dict[str, str] = {}
        plain = [re.sub(r"(?<![0-9])0+(?=[0-9])|\s+", "", name.casefold()) for name in self.names]
        pairs = [(first.setdefault(key, name), name) for key, name in zip(plain, self.names, strict=True)]
        return [f"{known} and {name}" for known, name in pairs if known != name]


def is_sole(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Marks the examples of groups that hold all images of a class, which are to be trained on; bool [N].

    Args:
      labels: int [N].
      groups: int [N].
    """
    pairs = np.unique(np.stack([labels, groups]), axis=1)  # [2, P]
    alone = np.bincount(pairs[0])[pairs[0]] == 1
    return np.isin(groups, pairs[1, alone])


def hold_out(labels: np.ndarray, groups: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Marks whole groups with about a fraction of the images of every class; bool [N].

    Of 160 draws by scikit-learn's GroupShuffleSplit it is the one that takes all images of the fewest classes, and of
    these the one that comes nearest to the fraction of every class. Groups that hold all images of a class are never
    marked.

    Args:
      labels: int [N].
      groups: int [N], of whatever numbers.
      fraction: above 0 and below 1.
      seed: of the draws.
    """
    pool = np.flatnonzero(~is_sole(labels, groups))
    total, free = len(np.unique(groups)), len(np.unique(groups[pool]))
    if not free:
        raise DataError(
            f"test_fraction is {fraction}, but every group ({total} in all) holds all images of a class, so none can "
            "be held out of training; set test_fraction=0, or choose smaller groups"
        )
    most = min(total - 1, free)
    counts = np.bincount(labels)
    best, chosen = (len(counts) + 1, 0.0), pool
    for held in sorted({min(max(1, round(fraction * total * part)), most) for part in MULTIPLES}):
        for drawn in _draws(groups[pool], held, seed) if held < free else [np.arange(len(pool))]:
            taken = np.bincount(labels[pool[drawn]], minlength=len(counts))
            score = (int((taken == counts)[counts > 0].sum()), float(abs(taken - fraction * counts).sum()))
            if score < best:
                best, chosen = score, pool[drawn]
    return np.isin(np.arange(len(labels)), chosen)


def _draws(groups: np.ndarray, held: int, seed: int) -> Iterator[np.ndarray]:
    from sklearn.model_selection import GroupShuffleSplit  # 0.5 s to import, wanted only where a split is drawn

    splitter = GroupShuffleSplit(DRAWS, test_size=held, random_state=seed)
    return (drawn for _, drawn in splitter.split(groups, groups=groups))


def fold_of(labels: np.ndarray, groups: np.ndarray, k: int, fold: int, seed: int) -> np.ndarray:
    """Marks one of k disjoint folds of whole groups (scikit-learn's StratifiedGroupKFold); bool [N].

    Groups that hold all images of a class are in no fold.

    Args:
      labels: int [N].
      groups: int [N], of whatever numbers.
      k: how many folds.
      fold: which of them.
      seed: of the shuffle.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    pool = np.flatnonzero(~is_sole(labels, groups))
    free = len(np.unique(groups[pool]))
    largest = int(np.bincount(labels[pool], minlength=1).max())
    if min(free, largest) < k:
        few = f"{free} groups" if free < k else f"{largest} images of a class"
        raise DataError(
            f"the validation images are one of {k} folds of whole groups, but there are only {few} that training can "
            f"do without; {f'choose validation_fraction={1 / free:.4g}, or ' if 2 <= free < k else ''}"
            "set validation_fraction=0"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # it is absent from some folds
        folds = list(StratifiedGroupKFold(k, shuffle=True, random_state=seed).split(pool, labels[pool], groups[pool]))
    return np.isin(np.arange(len(labels)), pool[folds[fold][1]])


def draw(labels: np.ndarray, groups: np.ndarray, wanted: np.ndarray, seed: int) -> np.ndarray:
    """Marks whole groups until there are `wanted` images of every class; bool [N].

    The groups are put into an order by seed, and each is taken that has a class of which the groups before it hold
    fewer than wanted. So there are never fewer, the last group of a class may bring more, and what is marked for less
    is part of what is marked for more.

    Args:
      labels: int [N].
      groups: int [N], of whatever numbers.
      wanted: int [K], at most the images of each class.
      seed: of the order.
    """
    names, group = np.unique(groups, return_inverse=True)
    # As `splits.shuffled`.
    shuffle = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, len(wanted)])))
    place = shuffle.permutation(len(names))[group]  # of each example's group in the order
    taken = np.zeros(len(names), bool)  # by place
    for label, least in enumerate(wanted):
        per_place = np.bincount(place[labels == label], minlength=len(names))
        taken |= (per_place > 0) & (np.cumsum(per_place) - per_place < least)
    return taken[place]


def crossing(groups: np.ndarray, split: np.ndarray, splits: tuple[str, ...]) -> np.ndarray:
    """The groups that have images in more than one of `splits`, ascending.

    Args:
      groups: int [N].
      split: str [N].
      splits: names; images of others do not count.
    """
    inside = np.isin(split, splits)
    pairs = np.unique(np.stack([groups[inside], np.unique(split[inside], return_inverse=True)[1]]), axis=1)
    found, counts = np.unique(pairs[0], return_counts=True)
    return found[counts > 1]
