"""Columns of other people's tables that say a split, or what images share."""

import json

import pytest

from delta_jax.data import DataError, find, find_other
from delta_jax.data.columns import says_group, says_split
from tests.data.test_manifest import csv, many

OPTIONS = {"validation_fraction": 0, "test_fraction": 0}
WORDS = ["train"] * 8 + ["test"] * 4
FLAGS = ["0"] * 8 + ["1"] * 4
TURNED = ["1"] * 8 + ["0"] * 4
FOLDS = [str(i % 5) for i in range(12)]


def table(root, name, values):
    """Twelve cats and twelve dogs with a column of these values for either."""
    lines = [f"{line},{value}" for line, value in zip(many(root, 12), list(values) * 2, strict=True)]
    return csv(root, f"path,label,{name}", *lines)


# Names of public data sets (CUB-200, FER2013, CelebA, ISIC, Kaggle's own tables), and others like them.
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("subset", WORDS),
        ("is_test", FLAGS),
        ("Is Test", ["True" if flag == "1" else "" for flag in FLAGS]),
        ("fold", FOLDS),
        ("kfold", FOLDS),
        ("set", FLAGS),
        ("partition", ["0"] * 6 + ["1"] * 2 + ["2"] * 4),
        ("phase", WORDS),
        ("dataset_split", WORDS),
        ("Usage", ["Training"] * 8 + ["PublicTest"] * 2 + ["PrivateTest"] * 2),
        ("is_train", TURNED),
        ("is_training_image", TURNED),
        ("train_test", FLAGS),
        ("split_", WORDS),
        ("splits", WORDS),
        ("isValidation", FLAGS),
        ("holdout", FLAGS),
        ("official_split", FOLDS),
        ("strat_fold", FOLDS),
        ("split_by_patient", FLAGS),
        ("held_out", FLAGS),
        ("zweck", WORDS),  # by what stands there
        ("part", ["dev" if word == "test" else "" for word in WORDS]),
        ("role", [f"fold {fold}" for fold in FOLDS]),
    ],
)
def test_a_column_that_may_say_the_split_is_asked_about(tmp_path, name, values):
    root, column = table(tmp_path, name, values), name.lower()
    with pytest.raises(
        DataError, match=rf"no column is called split, .*{column} .*--config.data.split_column={column}, "
    ):
        find("manifest", root=root)
    with pytest.raises(DataError, match=rf"by --split_column={column}, or --split_column=none"):
        find_other(root, ("cat", "dog"))
    ignored = find("manifest", root=root, split_column="none")
    assert ignored.counts()["test"] == {"cat": 3, "dog": 3}
    assert f"columns of labels.csv that are not read: {column}" in ignored.notes


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("age", FOLDS),
        ("blood_test", FLAGS),
        ("fold_change", FOLDS),
        ("dataset", ["vidir"] * 6 + ["rosendahl"] * 6),
        ("test", ["1"] * 12),
        ("usage", ["train"] * 12),
        ("phase", [str(i / 7) for i in range(12)]),  # with the second class's 12 values, but each is there twice
    ],
)
def test_a_column_that_says_no_split_is_only_named(tmp_path, name, values):
    if name == "phase":
        assert not says_split(name, [str(i / 7) for i in range(24)])
        return
    found = find("manifest", root=table(tmp_path, name, values))
    assert [note for note in found.notes if note == f"columns of labels.csv that are not read: {name}"]


@pytest.mark.parametrize(
    ("name", "values", "given"),
    [
        ("subset", WORDS, "subset"),
        ("Subset ", ["Training"] * 8 + [" TESTING "] * 4, "SUBSET"),
        ("is_test", FLAGS, "is_test"),
        ("is_test", [str(flag == "1") for flag in FLAGS], "is_test"),
        ("is_train", TURNED, "is_train"),
        ("is_training_image", TURNED, "is_training_image"),
        ("train", ["yes" if flag == "1" else "no" for flag in TURNED], "train"),
        ("subset", FLAGS, "subset:0=train,1=test"),
        ("is_test", ["1" if flag == "1" else "" for flag in FLAGS], "is_test:1=test,*=train"),
        ("Usage", ["Training"] * 8 + ["PrivateTest"] * 4, "usage:PrivateTest=test,Training=train"),
        # What says a split itself is not among the rest: nothing called test is trained on.
        ("is_test", ["true" if flag == "1" else "" for flag in FLAGS], "is_test:*=train"),
        ("subset", ["" if word == "train" else "Test" for word in WORDS], "subset:*=train"),
        ("a:b", WORDS, "a:b"),
    ],
)
def test_a_column_that_is_told(tmp_path, name, values, given):
    found = find("manifest", root=table(tmp_path, name, values), validation_fraction=0, split_column=given)
    assert {found.files[i] for i in found.rows("test")} == {f"{c}{i}.png" for c in ("cat", "dog") for i in range(8, 12)}
    assert len(found.rows("train")) == 16
    assert found.notes[0].startswith(f"the splits are those of the column {name.strip().lower()}: ")
    assert not any("not read" in note for note in found.notes)


def test_a_column_of_folds_becomes_the_splits_that_are_asked_for(tmp_path):
    root = table(tmp_path, "fold", FOLDS)
    found = find("manifest", root=root, split_column="fold:1=test,2=val,*=train")
    assert [found.counts()[split]["cat"] for split in ("train", "validation", "test")] == [7, 2, 3]
    assert {found.files[i] for i in found.rows("test")} == {f"{c}{i}.png" for c in ("cat", "dog") for i in (1, 6, 11)}


def test_the_column_split_goes_before_others_which_are_named(tmp_path):
    lines = [f"{line},{i % 3},{word}" for i, (line, word) in enumerate(zip(many(tmp_path, 12), WORDS * 2, strict=True))]
    found = find("manifest", root=csv(tmp_path, "path,label,fold,Split ", *lines))
    assert found.counts()["test"] == {"cat": 4, "dog": 4}
    assert found.notes == (
        "columns of labels.csv that are not read: fold; fold may say a split, too, which is not followed",
    )


def test_split_and_group_columns_of_json_lines_are_found(tmp_path):
    rows = [line.split(",") for line in many(tmp_path, 12)]
    texts = [
        json.dumps({"path": p, "Label ": c, "is_test": i % 12 > 7, "meta": {"patient": i % 6}})
        for i, (p, c) in enumerate(rows)
    ]
    root = csv(tmp_path, *texts, name="a.jsonl")
    with pytest.raises(DataError, match=r"is_test \(false, true\)"):
        find("manifest", root=root)
    found = find("manifest", root=root, split_column="is_test", validation_fraction=0)
    assert found.counts()["test"] == {"cat": 4, "dog": 4}
    assert "columns of a.jsonl that are not read: meta.patient" in found.notes
    assert [note for note in found.notes if "of 6 groups by meta.patient have images in more than one split" in note]
    whole = find("manifest", root=root, split_column="none", group="meta.patient", validation_fraction=0)
    assert [note for note in whole.notes if note.startswith("6 groups by meta.patient are kept whole: ")]
    twice = csv(tmp_path, '{"path": "cat0.png", "label": "x", "Label": "y"}', name="b.jsonl")
    with pytest.raises(DataError, match="line 1: there are two values of label"):
        find("manifest", root=twice)


def test_folders_in_the_paths_that_look_like_splits_are_not_overlooked(tmp_path):
    for name, split in (("x", "train"), ("y", "Testing")):
        many(tmp_path / split, 6, (name, "z"))
    lines = [f"{s}/{c}{i}.png,z" for s, c in (("train", "x"), ("train", "z"), ("Testing", "y")) for i in range(6)]
    lines += [f"Testing/z{i}.png,w" for i in range(6)]
    root = csv(tmp_path, "path,label", *lines)
    with pytest.raises(DataError, match=r"may stand in path \(Testing, train\); .* --config.data.split_column=path"):
        find("manifest", root=root)
    assert len(find("manifest", root=root, split_column="none")) == 24
    other = find_other(root, ("w", "z"), split_column="path")
    assert len(other.rows("test")) == 12


@pytest.mark.parametrize(
    ("name", "values", "given", "message"),
    [
        ("subset", FLAGS, "subset", r'unknown subset in 24 of 24 lines; .*split_column="subset:0=train,1=test"'),
        ("fold", FOLDS, "fold", 'split_column="fold:0=test,\\*=train"'),
        ("train_test", FLAGS, "train_test", "an unknown train_test"),
        ("split", [*WORDS[:-1], "eval"], "", r"an unknown split in 2 of 24 lines.*\n  line 13: eval"),
        ("split", FLAGS, "", 'split_column="split:0=train,1=test"'),
        (
            "is_test",
            ["1" if flag == "1" else "" for flag in FLAGS],
            "is_test",
            r'no is_test in 16 of 24 .*="is_test:\*=train"',
        ),
        ("Split", ["train" if word == "train" else "" for word in WORDS], "", 'split_column="split:\\*=test"'),
        (
            "usage",
            ["Training"] * 8 + ["PublicTest", "PrivateTest"] * 2,
            "usage",
            'split_column="usage:PrivateTest=test,PublicTest=test"',
        ),
        ("subset", WORDS, "subsets", "no column subsets; there are path, label, subset"),
        ("subset", WORDS, "subset:0", "found '0' behind the column, expected VALUE=SPLIT"),
        ("subset", WORDS, "subset:0=later", "found '0=later' behind the column"),
    ],
)
def test_columns_that_do_not_say_what_is_meant(tmp_path, name, values, given, message):
    with pytest.raises(DataError, match=message):
        find("manifest", root=table(tmp_path, name, values), split_column=given)


def test_groups_by_name_and_by_shared_values():
    labels = ["cat", "dog"] * 6
    shared = [f"p{i // 3}" for i in range(12)]
    for name in ("patient_id", "Patient ID", "patientid", "lesion_id", "case", "StudyInstanceUID", "site", "source_id"):
        assert says_group(name, shared, labels), name
        assert not says_group(name, [f"p{i}" for i in range(12)], labels)  # of every image its own
        assert not says_group(name, labels, labels)  # another name of the label
    assert not any(says_group(name, shared, labels) for name in ("age", "sex", "width", "valid", "hybrid"))


def test_a_header_that_is_nearly_one(tmp_path):
    with pytest.raises(DataError, match=r"rename image_path to path and rename dx to label; expected"):
        find("manifest", root=csv(tmp_path, "image_path,dx,age", "a.png,x,3"))
    with pytest.raises(DataError, match=r"no path in 1 of 1 lines; .* rename file to path; expected"):
        find("manifest", root=csv(tmp_path, '{"file": "a.png", "label": "x"}', name="a.jsonl"))


def test_columns_are_for_manifests_only(tmp_path):
    many(tmp_path / "x", 3)
    with pytest.raises(DataError, match="only a manifest, parquet or hf/NAME has columns; the data set is 'folder'"):
        find("folder", root=str(tmp_path), split_column="subset")
    with pytest.raises(DataError, match=r"only a manifest, parquet or hf/NAME has columns, and .* is none"):
        find_other(str(tmp_path), ("x",), split_column="subset")
