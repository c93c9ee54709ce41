"""Folders of images: layouts, splits, and what people's folders look like."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from delta_jax.data import DataError, find, identified


def fill(folder: Path, count: int, suffix: str = ".png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(folder / f"{i:03d}{suffix}")


def test_classes_are_the_sorted_folders_and_labels_follow(tmp_path):
    for name, count in (("dog", 40), ("cat", 20), ("Ape", 12)):
        fill(tmp_path / name, count)
    found = find("folder", root=str(tmp_path))
    assert found.class_names == ("Ape", "cat", "dog")
    assert found.labels.dtype == np.int32
    assert len(found) == len(found.files) == len(found.labels) == len(found.split) == len(found.sizes) == 72
    for i, file in enumerate(found.files):
        assert found.class_names[found.labels[i]] == file.split("/")[0]
        assert found.read(i) == (tmp_path / file).read_bytes()
        assert found.sizes[i] == (tmp_path / file).stat().st_size
    # A quarter of each class for testing, then a fifth of the other 30, 15 and 9.
    assert found.counts()["test"] == {"Ape": 3, "cat": 5, "dog": 10}
    assert found.counts()["validation"] == {"Ape": 2, "cat": 3, "dog": 6}
    assert found.counts()["train"] == {"Ape": 7, "cat": 12, "dog": 24}
    assert sorted(np.concatenate([found.rows(s) for s in ("train", "validation", "test")])) == list(range(72))
    with pytest.raises(ValueError, match="no split is called 'val'"):
        found.rows("val")


def test_folds_cover_all_but_the_test_images_once(tmp_path):
    for name in ("a", "b"):
        fill(tmp_path / name, 20)
    options: dict[str, Any] = {"root": str(tmp_path), "seed": 5}
    folds = [find("folder", **options, fold=fold) for fold in range(5)]
    # Five disjoint folds that cover all but the test images, which stay.
    validation = np.concatenate([found.rows("validation") for found in folds])
    np.testing.assert_array_equal(np.sort(validation), np.flatnonzero(folds[0].split != "test"))
    for found in folds:
        np.testing.assert_array_equal(found.rows("test"), folds[0].rows("test"))
        assert found.counts()["validation"] == {"a": 3, "b": 3}
    np.testing.assert_array_equal(find("folder", **options).split, folds[0].split)
    assert (find("folder", root=str(tmp_path), seed=6).split != folds[0].split).any()
    assert not len(find("folder", **options, validation_fraction=0).rows("validation"))
    assert not len(find("folder", **options, test_fraction=0).rows("test"))


def test_photos_in_train_val_and_test_stay_there(tmp_path):
    for split, count in (("train", 10), ("val", 3), ("test", 4)):
        for name in ("a", "b"):
            fill(tmp_path / split / name, count)
    found = find("folder", root=str(tmp_path))
    assert {s: n["a"] for s, n in found.counts().items()} == {"train": 10, "validation": 3, "test": 4}
    for split, folder in (("train", "train/"), ("validation", "val/"), ("test", "test/")):
        assert all(found.files[i].startswith(folder) for i in found.rows(split))
    with pytest.raises(DataError, match="brings its own validation images"):
        find("folder", root=str(tmp_path), fold=1)


def test_missing_split_comes_from_train_only(tmp_path):
    for split, count in (("Train", 10), ("test", 4)):
        for name in ("a", "b"):
            fill(tmp_path / split / name, count)
    found = find("folder", root=str(tmp_path))
    assert {s: n["b"] for s, n in found.counts().items()} == {"train": 8, "validation": 2, "test": 4}
    assert all(found.files[i].startswith("Train/") for i in found.rows("validation"))


def test_nested_hidden_upper_case_unicode_blanks_and_links(tmp_path):
    root = tmp_path / "meine Bilder ü"
    fill(root / "größe 1" / "día uno", 4, ".JPG")
    fill(root / "größe 1", 2, ".Tiff")
    fill(root / "b", 6, ".webp")
    (root / "größe 1" / "notes.txt").write_text("no image")
    (root / "b" / ".hidden.png").write_bytes(b"x")
    fill(root / "__MACOSX", 3)
    fill(root / ".cache", 3)
    fill(root / "b" / "__MACOSX", 3)
    fill(tmp_path / "elsewhere", 2, ".gif")
    (root / "b" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "b" / "again").symlink_to(root / "b", target_is_directory=True)  # must not be walked for ever
    found = find("folder", root=str(root))
    assert found.class_names == ("b", "größe 1")
    assert Counter(found.labels.tolist()) == {0: 8, 1: 6}
    assert "größe 1/día uno/003.JPG" in found.files
    assert "b/linked/001.gif" in found.files
    assert found.read(found.files.index("größe 1/001.Tiff"))


def test_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    for name in ("a", "b"):
        fill(tmp_path / name, 9)
    found = find("folder", root=str(tmp_path))
    walk, iterdir = os.walk, Path.iterdir

    def backwards(*args, **kwargs):
        for place, folders, files in walk(*args, **kwargs):
            yield place, folders, files[::-1]

    monkeypatch.setattr(os, "walk", backwards)
    monkeypatch.setattr(Path, "iterdir", lambda self: reversed(list(iterdir(self))))
    again = find("folder", root=str(tmp_path))
    assert again.files == found.files
    np.testing.assert_array_equal(again.split, found.split)


def test_fingerprint_is_of_contents_and_labels_not_of_split_names_or_times(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "x" / name).mkdir(parents=True)
        for i in range(9):
            (tmp_path / "x" / name / f"{i:03}.png").write_bytes(f"{name} {i}".encode())
    root = tmp_path / "x"

    def fingerprint(**how):
        return identified(find("folder", root=str(root), **how), tmp_path / "cache").fingerprint()

    first = fingerprint()
    assert fingerprint(seed=3, fold=1) == first
    root = root.rename(tmp_path / "moved")
    os.utime(root / "a" / "003.png", (1, 1))
    (root / "a" / "000.png").rename(root / "a" / "zzz.png")
    assert fingerprint() == first
    (root / "a" / "zzz.png").rename(root / "b" / "zzz.png")
    moved = fingerprint()
    (root / "b" / "zzz.png").write_bytes(b"a 9")  # as many bytes
    assert len({first, moved, fingerprint()}) == 3
    with pytest.raises(ValueError, match=r"contents of folder/moved are not known yet: see data\.identified"):
        find("folder", root=str(root)).fingerprint()


def test_the_description_counts_classes_and_splits(tmp_path):
    for name in ("a", "b"):
        fill(tmp_path / "set" / name, 20)
    lines = find("folder", root=str(tmp_path / "set")).describe().splitlines()
    assert lines[0] == "folder/set: 40 images, 2 classes, licence: your own images"
    assert [line.split() for line in lines[1:]] == [
        ["class", "train", "validation", "test"],
        ["a", "12", "3", "5"],
        ["b", "12", "3", "5"],
        ["all", "24", "6", "10"],
    ]


def build(root: Path, *folders: str, count: int = 5) -> Path:
    for folder in folders:
        fill(root / folder, count)
    return root


def test_train_and_valid_may_be_classes(tmp_path):
    # Holding images themselves, they are classes.
    assert find("folder", root=str(build(tmp_path / "1", "train", "bus", count=8))).class_names == ("bus", "train")
    assert find("folder", root=str(build(tmp_path / "2", "valid", "invalid", count=8))).class_names == (
        "invalid",
        "valid",
    )


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ([], "no folders in"),
        (["only"], r"found 1 class folder in .*\(only\), need two"),
        (["val/a", "val/b"], "found val in .* but no train"),
        (["train/a", "train/b", "extra/a"], "beside train/ there is extra"),
        (["train/a", "train/b", "val/a", "val/b", "valid/a"], "val and valid in .* both mean validation"),
        (["train/a", "train/b", "test/a", "test/c"], "train and test differ; only in train: b; only in test: c"),
        (["train/a", "train/b", "val/a"], "train and validation differ; only in train: b; only in validation: none"),
    ],
)
def test_layouts_that_cannot_be_used(tmp_path, folders, message):
    with pytest.raises(DataError, match=message):
        find("folder", root=str(build(tmp_path, *folders)))


def test_folders_that_cannot_be_used_are_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="needs root"):
        find("folder")
    with pytest.raises(DataError, match="nowhere is not there"):
        find("folder", root=str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="file is a file"):
        find("folder", root=str(tmp_path / "file"))
    build(tmp_path, "a", "b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no images .* in the class folders empty of"):
        find("folder", root=str(tmp_path))
    fill(tmp_path / "empty", 2)
    with pytest.raises(DataError, match=r"fewer than 3 training images in: empty \(2\)"):
        find("folder", root=str(tmp_path))
    # Nothing to split off, nothing to complain about.
    assert find("folder", root=str(tmp_path), test_fraction=0, validation_fraction=0).counts()["train"]["empty"] == 2

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", denied)  # chmod does not stop root, who runs the tests in containers
    with pytest.raises(DataError, match=r"cannot read the folder .*Permission denied"):
        find("folder", root=str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_fraction": 0.3}, r"validation_fraction is 0.3, expected 0, 1/2, 1/3.*nearest: 0.3333"),
        ({"validation_fraction": 1.5}, "validation_fraction is 1.5, expected"),
        ({"validation_fraction": -0.1}, "validation_fraction is -0.1, expected"),
        ({"fold": 5}, "fold is 5, but validation_fraction 0.2 makes 5 folds: choose 0 to 4"),
        ({"fold": 1, "validation_fraction": 0}, "leaves no folds"),
        ({"test_fraction": 1.0}, "test_fraction is 1.0, expected"),
        ({"test_fraction": 0.05}, r"makes 1 of 18 images test images, but with 2 classes .* raise test_fraction"),
        ({"validation_fraction": 0.1}, r"makes 10 folds, but no class has more than 7 images .* at least 0.1429"),
    ],
)
def test_fractions_that_cannot_be(tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        find("folder", root=str(build(tmp_path, "a", "b", count=9)), **options)


def test_a_class_with_few_images_stays_in_training_in_every_fold(tmp_path):
    build(tmp_path, "a", "b", count=20)
    build(tmp_path, "rare", count=3)
    for fold in range(5):
        assert find("folder", root=str(tmp_path), fold=fold).counts()["train"]["rare"] >= 1


def test_an_unknown_data_set_is_refused_with_close_names():
    with pytest.raises(
        DataError, match=r"'elvp'; did you mean elpv\? Names: elpv, elpv_4class, folder, manifest, parquet, tfds/NAME"
    ):
        find("elvp")
    with pytest.raises(DataError, match="no data set is called ''"):
        find("")
