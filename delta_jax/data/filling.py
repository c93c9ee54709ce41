"""The splits that a data set does not bring along, taken from its training images; every class keeps one of those."""

from collections.abc import Sequence

import numpy as np

from delta_jax.data.catalogue import SPLITS
from delta_jax.data.errors import DataError
from delta_jax.data.grouping import Groups, crossing
from delta_jax.data.splits import Splitting, draw, fold_of, hold_out, listed, shuffled

# One image for each of train, validation and test.
MIN_PER_CLASS = 3
# What a split says of an image that `shots` or `train_fraction` leaves out.
UNUSED = "unused"


def fill(
    split: np.ndarray,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    how: Splitting,
    strata: np.ndarray | None = None,
    group: Groups | None = None,
    alike: Sequence[Groups] = (),
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Takes from "train" the splits that a data set does not bring along.

    In this order: the test images; then `shots` or `train_fraction` of what is left, the rest becoming "unused"; then
    the validation images, from what was chosen. So 5 shots are the 5 images per class that all folds together see, and
    neither the test images nor validation images that the data set brings along depend on `shots`.

    Every class keeps a training image: of one that would lose all, one image (or the smallest group) is given back.

    Args:
      split: str [N], what the data set itself says; not changed.
      labels: int [N].
      class_names: for messages.
      how: what to draw.
      strata: int [N], what test and validation images are spread over; the labels when not given,
        and for the validation images of `shots` or `train_fraction`.
      group: no image of a group is drawn without the others.
      alike: what looks as if it were such groups, and is not taken for it: said where they lie in several splits.

    Returns:
      str [N], and what is to be said of it, a line each.

    Raises:
      DataError: a class has no training images, or too few for what is to be drawn; or a field cannot be so.
    """
    split, strata = split.astype("<U10"), labels if strata is None else strata
    together = None if group is None else group.numbers
    seed, shots, validation_fraction = how.seed, how.shots, how.validation_fraction
    missing = {name for name in ("validation", "test") if name not in split}
    if "validation" not in missing and how.fold != 0:
        raise DataError(f"fold is {how.fold}, but this data set brings its own validation images; set fold=0")
    counts = np.bincount(labels[split == "train"], minlength=len(class_names))
    if (validation_fraction > 0 and "validation" in missing) or (how.test_fraction > 0 and "test" in missing):
        small = [f"{class_names[i]} ({counts[i]})" for i in np.flatnonzero(counts < MIN_PER_CLASS)]
        if small:
            raise DataError(
                f"fewer than {MIN_PER_CLASS} training images in: {listed(small)}; the "
                f"{' and '.join(sorted(missing))} images are taken from them, so add images or leave out the class"
            )
    if not counts.all():
        raise DataError(
            f"no training images of {_classes(class_names, np.flatnonzero(counts == 0))}, which the data set has in "
            "other splits or nowhere; add some, or leave out the class"
        )
    notes = []
    if "test" in missing:
        rows = np.flatnonzero(split == "train")
        split[rows[hold_out(strata[rows], how.test_fraction, seed, _of(together, rows))]] = "test"
        notes += _give_back(split, labels, class_names, "test", seed, together)
    if shots or how.train_fraction != 1:
        rows = np.flatnonzero(split == "train")
        chosen = draw(
            labels[rows], class_names, seed=seed, shots=shots, fraction=how.train_fraction, together=_of(together, rows)
        )
        split[rows[~chosen]] = UNUSED
        strata = labels  # of finer ones a few shots hold one image or none
        left = np.bincount(labels[rows[chosen]], minlength=len(class_names))
        if left.min() < 2 and validation_fraction > 0 and "validation" in missing:
            raise DataError(
                f"{f'shots {shots}' if shots else f'train_fraction {how.train_fraction}'} leaves {left.min()} image of "
                f"{class_names[left.argmin()]}, too few to train and to validate on; take more, or set "
                "validation_fraction=0"
            )
    if "validation" in missing:
        rows = np.flatnonzero(split == "train")
        chosen = fold_of(strata[rows], validation_fraction, how.fold, seed, _of(together, rows))
        split[rows[chosen]] = "validation"
        notes += _give_back(split, labels, class_names, "validation", seed, together)
    return split, (*notes, *absent(split, labels, class_names), *_group_notes(split, group, alike))


def _of(together: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if together is None else together[rows]


def _give_back(
    split: np.ndarray,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    drawn: str,
    seed: int,
    together: np.ndarray | None,
) -> list[str]:
    """Makes training images of one image, or of the smallest group, of every class that was drawn as a whole."""
    unit = np.arange(len(labels)) if together is None else together
    lost = np.setdiff1d(labels[split == drawn], labels[split == "train"])
    for label in lost:
        if label in labels[split == "train"]:
            continue  # it came back with the group of another class
        candidates = np.unique(unit[(split == drawn) & (labels == label)])
        sizes = np.bincount(unit[split == drawn])[candidates]
        one = shuffled(candidates[sizes == sizes.min()], seed, int(label))[0]
        split[(unit == one) & (split == drawn)] = "train"
    if not len(lost):
        return []
    what = "an image" if together is None else "a group"
    return [
        f"all training images of {_classes(class_names, lost)} were drawn for {drawn}, so {what} of each is trained on "
        "instead"
    ]


def absent(split: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]) -> tuple[str, ...]:
    """Which classes have no validation or test images where others have some, a line for each of the two.

    Args:
      split: str [N].
      labels: int [N].
      class_names: for the lines.
    """
    lines = []
    for name, so in (
        ("validation", "what is chosen by validation does not see them"),
        ("test", "how well they are recognised is not measured"),
    ):
        counts = np.bincount(labels[split == name], minlength=len(class_names))
        if counts.any() and not counts.all():
            lines.append(f"no {name} images of {_classes(class_names, np.flatnonzero(counts == 0))}: {so}")
    return tuple(lines)


def _classes(class_names: tuple[str, ...], labels: np.ndarray) -> str:
    return f"{len(labels)} of {len(class_names)} classes ({listed([class_names[i] for i in labels])})"


def _group_notes(split: np.ndarray, group: Groups | None, alike: Sequence[Groups]) -> list[str]:
    lines = []
    for one in (*([] if group is None else [group]), *alike):
        across = crossing(one.numbers, split, SPLITS)
        shown = [
            f"{one.names[i]} ({', '.join(s for s in SPLITS if s in split[one.numbers == i])})" for i in across[:10]
        ]
        if len(across):
            # With a comma in each entry, they are told apart by semicolons.
            places = "; ".join(shown) + (f"; and {len(across) - 10} more" if len(across) > 10 else "")
            way_out = (
                "the data set brings these splits along; leave one side of each out"
                if one is group
                else f"if {one.field} is what images share, such as a patient, --config.data.group={one.field} keeps "
                "these images together wherever a split is drawn"
            )
            lines.append(
                f"warning: {len(across)} of {len(one.names)} groups by {one.field} have images in more than one split, "
                f"so the accuracy there may be too high: {places}; {way_out}"
            )
        elif one is group:
            counts = [f"{len(np.unique(one.numbers[split == name]))} in {name}" for name in SPLITS]
            lines.append(f"{len(one.names)} groups by {one.field} are kept whole: {', '.join(counts)}")
        if one is group and (twins := one.alike()):
            lines.append(f"two groups by {one.field}, or one written in two ways? {listed(twins)}")
    return lines
