"""Images that belong together: drawn whole, named where a data set itself tears them apart."""

import numpy as np
import pytest

from delta_jax.data import DataError, find
from delta_jax.data.filling import fill
from delta_jax.data.grouping import Groups, crossing, draw, is_sole
from delta_jax.data.splits import Splitting
from tests.data.test_manifest import csv, images

SPLITS = ("train", "validation", "test")


def patients(seed, count=30, classes=3):
    """Labels and patients of 3 to 8 images, of one class or of several."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(3, 9, count)
    who = np.repeat(np.arange(count), sizes)
    labels = np.where(who % 3 == 0, rng.integers(0, classes, len(who)), who % classes)
    return labels, Groups.of("patient", [f"p{i:02}" for i in who])


def filled(labels, group, split=None, **how):
    own = np.full(len(labels), "train") if split is None else split
    return fill(own, labels, ("a", "b", "c", "d")[: labels.max() + 1], Splitting(**how), group=group)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"fold": 4},
        {"test_fraction": 0.5, "validation_fraction": 0.5},
        {"test_fraction": 0.1, "shots": 8},
        {"train_fraction": 0.5},
    ],
)
def test_no_patient_is_in_two_splits_and_no_class_is_lost(how):
    for seed in range(5):
        labels, group = patients(seed)
        split, notes = filled(labels, group, seed=seed, **how)
        where = [set(split[group.numbers == i]) for i in range(len(group.names))]
        assert all(len(one) == 1 for one in where)  # "unused" included
        counts = np.array([[((split == name) & (labels == k)).sum() for name in SPLITS] for k in range(3)])
        assert counts[:, 0].all()
        assert any("30 groups by patient are kept whole" in note for note in notes)
        again, _ = filled(labels, group, seed=seed, **how)
        np.testing.assert_array_equal(split, again)
        fraction = how.get("test_fraction", 0.25)
        # A patient has at most 8 images of about 165, and 160 draws were tried: within two patients of every class.
        assert abs(counts[:, 2] - fraction * np.bincount(labels)).max() <= 16


def test_folds_are_disjoint_and_cover_what_training_can_do_without():
    labels, group = patients(0)
    folds = np.array([filled(labels, group, fold=fold)[0] == "validation" for fold in range(5)])
    test = filled(labels, group)[0] == "test"
    np.testing.assert_array_equal(folds.sum(0), ~test)
    for fold in range(5):
        np.testing.assert_array_equal(filled(labels, group, fold=fold)[0] == "test", test)


def test_shots_take_whole_groups_until_there_are_enough():
    # By hand, in whatever order: groups of 2 of the class 0, and of 3 of the class 1, until there are 3 or more.
    labels, groups = np.repeat([0, 1], [20, 30]), np.concatenate([np.arange(20) // 2, 100 + np.arange(30) // 3])
    for seed in range(20):
        chosen = draw(labels, groups, np.array([3, 3]), seed)
        assert np.bincount(labels[chosen]).tolist() == [4, 3]
        more = draw(labels, groups, np.array([7, 7]), seed)
        assert np.bincount(labels[more]).tolist() == [8, 9]
        assert not (chosen & ~more).any()
    # A group of both classes counts for both.
    assert draw(np.array([0, 1, 0, 1]), np.array([5, 5, 9, 9]), np.array([1, 1]), 0).sum() == 2


def test_the_only_group_of_a_class_is_trained_on():
    labels, group = patients(1)
    lone = np.concatenate([labels, np.full(9, 3)])
    together = Groups.of("patient", [group.names[i] for i in group.numbers] + ["zz"] * 9)
    np.testing.assert_array_equal(is_sole(lone, together.numbers), lone == 3)
    for fold in range(5):
        split, notes = filled(lone, together, fold=fold, test_fraction=0.5)
        assert set(split[lone == 3]) == {"train"}
        assert [note for note in notes if note.startswith("no test images of 1 of 4 classes (d): ")]
        assert [note for note in notes if note.startswith("no validation images of") and "d): " in note]


def test_groups_in_two_splits_of_the_data_set_are_named():
    labels, group = np.array([0, 1] * 4), Groups.of("patient", list("aabbccdd"))
    split = np.array(["train"] * 5 + ["test"] * 3)
    assert crossing(group.numbers, split, SPLITS).tolist() == [2]
    _, notes = filled(labels, group, split, validation_fraction=0)
    assert [note for note in notes if "c (train, test)" in note and "1 of 4 groups by patient" in note]
    # Not asked for, but it looks like it: the same, with the field that keeps them together.
    _, notes = fill(split, labels, ("a", "b"), Splitting(validation_fraction=0), alike=[group])
    assert [note for note in notes if "c (train, test)" in note and "--config.data.group=patient" in note]


def test_groups_that_are_nearly_the_same_are_said():
    assert Groups.of("g", ["P07", "p7", "10", "1", "010", "p 7", "q70"]).alike() == [
        "010 and 10",
        "P07 and p 7",
        "P07 and p7",
    ]
    _, notes = filled(np.array([0, 1] * 6), Groups.of("g", list("aAbbccddeeff")), validation_fraction=0)
    assert "two groups by g, or one written in two ways? A and a" in notes


@pytest.mark.parametrize(
    ("values", "how", "message"),
    [
        ("aaaabbbb", {}, r"every group \(2 in all\) holds all images of a class"),
        ("abababab", {"test_fraction": 0}, r"5 folds of whole groups, .* only 2 groups .* validation_fraction=0.5, or"),
        ("aaaabbbb", {"test_fraction": 0}, r"only 0 groups that training can do without; set validation_fraction=0"),
    ],
)
def test_too_few_groups(values, how, message):
    with pytest.raises(DataError, match=message):
        filled(np.repeat([0, 1], 4), Groups.of("g", list(values)), **how)


def test_groups_by_a_column_and_by_a_pattern_of_paths_are_the_same(tmp_path):
    names = [f"{label}/{patient}_{i}.png" for label in "xy" for patient in "abcdefgh" for i in range(3)]
    images(tmp_path / "photos", *names)
    lines = [f"photos/{name},{name[0]},{name[2]}" for name in names]
    table = find("manifest", root=csv(tmp_path, "path,label,Patient ", *lines), group="patient")
    folder = find("folder", root=str(tmp_path / "photos"), group=r"/([a-z])_")
    whole = find("folder", root=str(tmp_path / "photos"), group=r"[a-z](?=_)")
    np.testing.assert_array_equal(table.split, folder.split)
    np.testing.assert_array_equal(table.split, whole.split)
    # Of 8 patients a quarter; 6 in 5 folds, so one fold has two of them and comes first.
    assert "8 groups by patient are kept whole: 4 in train, 2 in validation, 2 in test" in table.notes


def test_groups_that_cannot_be_read(tmp_path):
    images(tmp_path, "x/a1.png", "x/b.png", "y/c2.png")
    root = csv(tmp_path, "path,label,patient", "x/a1.png,x,p", "x/b.png,x,", "y/c2.png,y,q")
    for name, given, message in (
        ("manifest", "patient", r"no patient in 1 of 3 lines; expected one in every line.*\n  line 3"),
        ("manifest", "doctor", r"--config.data.group=doctor: .* no column doctor; it has path, label, patient"),
        ("folder", "[0-9]", r"finds nothing in 1 of the 3 paths of .*: x/b.png"),
        ("folder", "(", "no regular expression"),
        ("elpv", "x", "nothing is known of which cells"),
    ):
        place = {"manifest": root, "folder": str(tmp_path), "elpv": ""}[name]
        with pytest.raises(DataError, match=message):
            find(name, root=place, group=given)
