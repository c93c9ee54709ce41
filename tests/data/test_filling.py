"""Every class keeps a training image, whatever is drawn; and where it always did, the splits are those of before."""

import numpy as np
import pytest

from delta_jax.data import DataError
from delta_jax.data.filling import absent, fill
from delta_jax.data.splits import Splitting

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [7, 12, 31]))
NAMES = ("a", "b", "c")
GIVEN = np.where(np.arange(50) % 5 == 4, "test", "train")
STRATA = LABELS * 2 + np.arange(50) % 2
SIGNS = {"train": ".", "validation": "v", "test": "T", "unused": "u"}


@pytest.mark.parametrize(
    ("options", "split", "strata", "expected"),
    [
        # Written down from the version before classes were looked after, with scikit-learn 1.9.1.
        ({}, None, None, "...v...v.T...TTTvvT..TTv..TTT..T....TT...v..v.v..."),
        ({"seed": 5, "fold": 3}, None, None, "T.Tv...vv.T.....TT.T....T..TvT..T.Tv..T...v.T.v..."),
        (
            {"seed": 1, "validation_fraction": 1 / 3, "test_fraction": 0.5},
            None,
            None,
            "TTv.v...TTTTvTv.TTTTvTT.TvTTTT.TTvTv.T.....vT..TT.",
        ),
        ({"seed": 2, "shots": 5}, None, None, "u.uT..uTTTvvTTTu.T.Tuuu.u.uT.uTuuuuuuuTTu.u..uvu.u"),
        (
            {"seed": 3, "train_fraction": 0.5, "fold": 1},
            None,
            None,
            "TuvT.TTvuu...uu.u.u.u.TT.vT.vuuT..T.uT.uuuTu.uTTu.",
        ),
        ({"seed": 4}, GIVEN, None, "....T..v.T....Tv...T....T....Tv.v.Tv..vT..vvT....T"),
        ({"seed": 6}, None, STRATA, "..v..vT..T......TTTv...v....T....vvTTTv....TTTTv.."),
    ],
)
def test_splits_by_seed_are_those_of_before(options, split, strata, expected):
    own = np.full(50, "train") if split is None else split
    found, _ = fill(own, LABELS, NAMES, Splitting(**options), strata=strata)
    assert "".join(SIGNS[one] for one in found) == expected


# Classes of 52 down to 3 images; stratified alone, the folds lost up to four of them from a test_fraction of 0.5 on,
# and the test images of 0.8 two by themselves.
SIZES = (52, 21, 20, 18, 10, 10, 8, 5, 3, 3, 3, 3, 3, 3, 3)
FEW, CLASSES = np.repeat(np.arange(15), SIZES), tuple(f"c{i:02}" for i in range(15))


@pytest.mark.parametrize("test_fraction", [0.25, 0.5, 0.6, 0.7, 0.8])
@pytest.mark.parametrize("validation_fraction", [0, 0.2, 0.5])
def test_every_class_keeps_a_training_image(test_fraction, validation_fraction):
    how = {"test_fraction": test_fraction, "validation_fraction": validation_fraction}
    for seed in range(3):
        folds = round(1 / validation_fraction) if validation_fraction else 1
        for fold in range(folds):
            split, notes = fill(np.full(len(FEW), "train"), FEW, CLASSES, Splitting(seed=seed, fold=fold, **how))
            trained = np.bincount(FEW[split == "train"], minlength=15)
            assert trained.all()
            back = [note for note in notes if note.startswith("all training images of") and "for test" in note]
            count = int(back[0].split()[4]) if back else 0  # one image of each of so many classes, and no more
            assert (split == "test").sum() == np.ceil(test_fraction * len(FEW)) - count
            assert bool(back) == (test_fraction == 0.8)


def test_classes_without_images_are_said_but_only_of_splits_that_there_are():
    labels = np.array([0, 0, 1, 1, 2, 2])
    assert absent(np.array(["train"] * 6), labels, NAMES) == ()
    (line,) = absent(np.array(["train", "test"] + ["train"] * 3 + ["test"]), labels, NAMES)
    assert line.startswith("no test images of 1 of 3 classes (b): ")


def test_a_class_without_training_images_is_an_error_with_ten_names():
    labels = np.arange(26) % 13
    split = np.where(labels < 12, "test", "train")
    names = tuple(f"k{i:02}" for i in range(13))
    with pytest.raises(DataError, match=r"no training images of 12 of 13 classes \(k00, .*, k09 and 2 more\)"):
        fill(split, labels, names, Splitting(validation_fraction=0))
