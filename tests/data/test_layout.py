"""Which folders are splits and which are classes; what is left out of a folder, and said; names that look alike."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delta_jax.data import Catalogue, DataError, decode_image, find, find_other, look_through
from delta_jax.data.image_files import left_out
from delta_jax.data.names import alike, existing, shown
from tests.data.test_folder import fill

CAFE, CAFE_NFD = "caf\u00e9", "cafe\u0301"


def build(root: Path, *folders: str, count: int = 5) -> str:
    for folder in folders:
        fill(root / folder, count)
    return str(root)


def listed(root: str, name: str = "folder") -> Catalogue:
    return find(name, root=root, validation_fraction=0)


def both(*parts: str) -> list[str]:
    """Two classes in each part."""
    return [f"{part}/{name}" for part in parts for name in ("cat", "dog")]


@pytest.mark.parametrize(
    "parts",
    [
        ("Training", "Testing"),
        ("train_set", "test_set"),
        ("Train data", "Test data"),
        ("images_train", "images_test"),
        ("TRAIN", "Tst"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("flowers-train", "flowers-test"),
        ("train2017", "test2017"),
        ("train/train", "test"),
        ("train/images", "test/images"),
    ],
)
def test_usual_names_of_splits(tmp_path, parts):
    found = listed(build(tmp_path, *both(*parts)))
    assert found.class_names == ("cat", "dog")
    assert {split: sum(of.values()) for split, of in found.counts().items()} == {
        "train": 10,
        "validation": 0,
        "test": 10,
    }
    assert all(found.files[i].startswith(parts[0]) for i in found.rows("train"))


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (both("Treino", "Teste"), r"splits or classes\? Teste, Treino in .* \(cat, dog\); .*rename them to train, val"),
        (both("fold1", "fold2", "fold3"), r"splits or classes\? fold1, fold2, fold3"),
        (both("A", "B"), r"splits or classes\?"),
        (both("source", "target"), r"splits or classes\?"),
        (both("Treino", "val", "test"), r"splits or classes\? Treino, test, val"),
        ([*both("A"), "B/cat"], r"splits or classes\?"),
        ([*both("A"), "B/Cat", "B/Dog"], r"splits or classes\?"),
        ([*both("A", "B"), "rest"], r"splits or classes\? A, B"),
        (both("amazon/images", "dslr/images"), r"splits or classes\? amazon, dslr"),
        # Views of a class may look like this as well; a manifest says that they are.
        (["cat/left", "cat/right", "dog/left", "dog/right"], r"if they are classes, list the images in a manifest"),
        (["cat/train", "cat/test", "dog/train", "dog/test"], r"splits below a class; .* move cat/test to test/cat"),
        (both("data/train", "data/test"), r"a single folder with images, data, .* use .*/data$"),
        (both("a/b"), r"a single folder with images, a, .* use .*/a/b$"),
        ([*both("train"), "test"], r"test holds 5 images and no class folders"),
        ([*both("letters_train"), "letters_test/letters_test"], r"letters_test holds 5 images and no class folders"),
        (both("train", "eval"), r"beside train/ there is eval in .*; rename eval to val or to test"),
        (["train_cat", "train_dog", "test_cat", "test_dog"], r"test_cat, train_cat in .* a class in several splits"),
        (["trainA", "trainB", "testA", "testB"], r"testA, trainA in .* expected train/<class>/"),
        (["cat-Train", "cat-valid", "dog"], r"cat-Train, cat-valid in"),
        (["HAM_images_part_1", "HAM_images_part_2"], r"called like parts of a data set, not like classes"),
        (["Fold 1", "fold2"], r"Fold 1, fold2 in"),
        (both("train", "test", "extra"), r"beside train/ there is extra in .*; rename it"),
    ],
)
def test_what_could_be_splits_or_classes_is_asked(tmp_path, folders, message):
    with pytest.raises(DataError, match=message):
        listed(build(tmp_path, *folders))


@pytest.mark.parametrize(
    "folders",
    [
        ["cat", "cat/left", "cat/right", "dog", "dog/left", "dog/right"],  # images in the classes themselves
        ["cat/p1", "cat/p2", "dog/p3", "dog/p4"],  # patients
        ["cat/images", "dog/images"],
        ["test_tube", "train_station", "part 1", "set 2"],
        ["grade1", "grade2"],
        ["cat/left", "cat/right", "dog"],
        ["cat/left", "cat/right", "dog/left", "dog/right", "ape", "ape/old", "ox", "ox/old", "ox/new", "owl", "pig"],
    ],
)
def test_folders_that_are_classes_all_the_same(tmp_path, folders):
    found = listed(build(tmp_path, *folders))
    assert set(found.class_names) == {folder.split("/")[0] for folder in folders}
    assert len(found) == 5 * len(folders)


def test_folders_called_like_classes_that_are_known_are_classes(tmp_path):
    root = build(tmp_path, "cat/left", "cat/right", "dog/left", "dog/right")
    assert find_other(root, ("ape", "cat", "dog")).counts()["test"] == {"ape": 0, "cat": 10, "dog": 10}
    assert find_other(build(tmp_path / "cat"), ("left", "right")).counts()["test"] == {"left": 5, "right": 5}


def test_what_lies_beside_splits_is_left_out_and_said(tmp_path):
    root = build(tmp_path, *both("train", "test"), "unlabelled", "train")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "boxes.xml").write_text("<a/>")
    found = listed(root)
    assert len(found) == 20
    assert found.notes == (
        f"left out of {tmp_path.name}: 1 file that is no picture (1 .xml); "
        "5 images beside the class folders, such as 000.png; 5 images in unlabelled/ beside the splits",
    )


def test_what_is_left_out_is_said_by_suffix_and_count(tmp_path):
    root = build(tmp_path, "cat", "dog")
    png, cat = (tmp_path / "cat" / "000.png").read_bytes(), tmp_path / "cat"
    for name in ("a.HEIC", "b.heic", "c.CR2", "d.avif"):
        (cat / name).write_bytes(b"of no matter")
    for name in ("IMG_1", "e.png~", "f.png_original"):
        (cat / name).write_bytes(png)
    for name in ("notes.txt", "Thumbs.db", "README", "000.json", "movie.mp4"):
        (cat / name).write_text("no picture")
    (cat / "._000.png").write_bytes(b"AppleDouble")
    (cat / ".DS_Store").write_bytes(b"")
    fill(tmp_path, 1)
    found = listed(root)
    assert len(found) == 10
    assert found.notes == (
        f"left out of {tmp_path.name}: 2 .heic, 1 without a suffix, 1 .cr2, 1 .avif, 1 .png~, 1 .png_original, "
        "pictures that are not read: save them as .jpg or .png; 1 hidden image; 5 files that are no pictures "
        "(1 .json, 1 without a suffix, 1 .db, 1 .mp4, 1 .txt); 1 image beside the class folders, such as 000.png",
    )


def test_a_class_of_pictures_that_are_not_read(tmp_path):
    root = build(tmp_path, "cat")
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "a.heic").write_bytes(b"x")
    with pytest.raises(
        DataError, match=r"in the class folders dog of .*; found there: 1 \.heic, pictures that are not"
    ):
        listed(root)


@pytest.mark.parametrize(
    "suffix", [".jfif", ".JPE", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo", ".apng", ".dib", ".jpg.png"]
)
def test_other_suffixes_of_the_formats_that_are_read(tmp_path, suffix):
    kind = {".apng": "PNG", ".dib": "BMP", ".jpg.png": "PNG", ".mpo": "MPO"}.get(suffix, "JPEG")
    for name in ("cat", "dog"):
        fill(tmp_path / name, 3)
        (pixels,) = np.random.default_rng(0).integers(0, 255, (1, 8, 8, 3), np.uint8)
        several = {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]} if kind == "MPO" else {}
        Image.fromarray(pixels).save(tmp_path / name / f"x{suffix}", kind, **several)
    found = listed(str(tmp_path))
    assert len(found) == 8
    assert not found.notes
    # As Pillow decodes the same file; the first of the two pictures of an MPO.
    with Image.open(tmp_path / "cat" / f"x{suffix}") as opened:
        np.testing.assert_array_equal(
            decode_image(found.read(found.files.index(f"cat/x{suffix}")), 8), np.asarray(opened.convert("RGB"))
        )


@pytest.mark.parametrize(
    "name",
    [
        *("@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", ".Trash-1000", "RECYCLER", "System Volume Information"),
        *("lost+found", "#snapshot", ".snapshot", "@Recently-Snapshot", ".AppleDouble", "Network Trash Folder"),
        *("Temporary Items", "__MACOSX", ".ipynb_checkpoints", "~snapshot", "found.000", "__pycache__", "_vti_cnf"),
    ],
)
def test_folders_that_systems_make(tmp_path, name):
    root = build(tmp_path, "cat", "dog", f"{name}/cat", f"cat/{name}/000.png")
    found = listed(root)
    assert found.class_names == ("cat", "dog")
    assert len(found) == 10
    assert found.notes == (f"left out of {tmp_path.name}: folders of systems, not looked into: 2 {name}",)
    assert len(look_through(tmp_path).images) == 10


def test_one_unicode_form_for_classes(tmp_path):
    root = build(tmp_path, f"train/{CAFE}", "train/dog", f"test/{CAFE_NFD}", "test/dog")
    found = listed(root)
    assert found.class_names == (CAFE, "dog")
    assert found.counts()["test"] == {CAFE: 5, "dog": 5}
    assert found.read(len(found) - 1)
    # A run of before may know the class in the other form.
    assert find_other(root, (CAFE_NFD, "dog")).counts()["test"] == {CAFE_NFD: 5, "dog": 5}


def test_two_folders_of_one_class(tmp_path):
    found = listed(build(tmp_path, CAFE, CAFE_NFD, "dog"))
    assert found.class_names == (CAFE, "dog")
    assert len(found) == 15
    assert found.notes == (f"1 class folders are there in two Unicode forms, taken as one class each: {CAFE}",)


@pytest.mark.parametrize("other", ["Cat", "cat ", "c at", "cat\u200b", "\uff43at", "cat\u00ad"])
def test_names_that_look_alike_are_said(tmp_path, other):
    found = listed(build(tmp_path / "1", "cat", other, "dog"))
    pair = " and ".join(f"'{shown(name)}'" for name in sorted(("cat", other)))
    told = f"{pair} differ only by case, blanks, invisible characters or width"
    assert found.notes == (f"two classes, or one written in two ways? {told}",)
    with pytest.raises(DataError, match="classes of train and test differ") as caught:
        listed(build(tmp_path / "2", "train/cat", "train/dog", f"test/{other}", "test/dog"))
    assert told in str(caught.value)
    with pytest.raises(DataError, match="has images of the classes") as caught:
        find_other(build(tmp_path / "3", other, "dog"), ("cat", "dog"))
    assert told in str(caught.value)


def test_class_names_that_only_look_the_same_are_named():
    assert alike(["cat", "dog", "hot dog", "hotdog.", "Straße", "STRASSE"]) == (
        "'STRASSE' and 'Straße' differ only by case, blanks, invisible characters or width"
    )
    assert not alike(["cat", "cats", "", "猫", "犬", "café", "cafe"])


def test_class_names_that_are_no_text(tmp_path):
    fill(tmp_path / os.fsdecode(b"caf\xe9"), 5)
    with pytest.raises(DataError, match=r"class folder 'caf\\xe9' in .* is not UTF-8 \(convmv .* rename it"):
        listed(build(tmp_path, "dog"))
    with pytest.raises(DataError, match=r"class folder 'a\\x0ab' in .* is one with control characters"):
        listed(build(tmp_path / "2", "a\nb", "dog"))


def test_paths_of_a_manifest_in_the_other_form(tmp_path):
    fill(tmp_path / CAFE / CAFE_NFD, 6)
    fill(tmp_path / "dog", 6)
    rows = [f"{CAFE_NFD}/{CAFE}/{i:03}.png,{CAFE_NFD if i % 2 else CAFE}" for i in range(6)]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["path,label", *rows, *(f"dog/{i:03}.png,dog" for i in range(6))]), "utf-8")
    found = listed(str(table), "manifest")
    assert found.class_names == (CAFE, "dog")
    assert found.read(0) == (tmp_path / CAFE / CAFE_NFD / "000.png").read_bytes()
    renamed = table.rename(tmp_path / f"{CAFE}.csv")
    assert len(listed(str(tmp_path / f"{CAFE_NFD}.csv"), "manifest")) == 12
    renamed.rename(table)
    table.write_text("\n".join(["path,label", *rows, rows[0].replace(CAFE_NFD, CAFE)]), "utf-8")
    with pytest.raises(DataError, match="1 image is listed twice"):
        listed(str(table), "manifest")


def test_the_root_in_the_other_form(tmp_path):
    build(tmp_path / CAFE, "cat", "dog")
    assert len(listed(str(tmp_path / CAFE_NFD))) == 10
    assert existing(tmp_path / CAFE_NFD / "cat") == tmp_path / CAFE / "cat"
    assert existing(tmp_path / CAFE_NFD / "nothing") == tmp_path / CAFE_NFD / "nothing"
    assert unicodedata.normalize("NFC", CAFE_NFD) == CAFE


def test_links_are_followed_once(tmp_path):
    fill(tmp_path / "a" / "b", 2)
    for name in ("c", "d"):
        (tmp_path / "a" / name).symlink_to(tmp_path / "a" / "b", target_is_directory=True)
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path, target_is_directory=True)
    found = look_through(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found.images] == ["a/b/000.png", "a/b/001.png"]
    assert left_out(found.walk()) == []
