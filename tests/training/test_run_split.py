"""The split of a run, looked up by content: what became of its images, and on which ones it may be measured."""

import csv
import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from delta_jax import data
from delta_jax.training import claims, measured_images, run_split
from delta_jax.training import config as configs
from delta_jax.training.setup import found, identified
from tests.small_run import small_config

CLASSES = ("cat", "dog")


@pytest.fixture
def root(tmp_path) -> Path:
    """Twelve images of each class; nothing here decodes them, so they hold their names."""
    for name in CLASSES:
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(12):
            (tmp_path / "photos" / name / f"{i:02}.png").write_text(f"{name} {i}")
    return tmp_path / "photos"


def config_of(root, **changed):
    return configs.resolve(small_config(root, **changed))


@pytest.fixture
def workdir(root, tmp_path) -> Path:
    """Of a run that has begun on `root`: 13 training, 5 validation and 6 test images."""
    catalogue = identified(found(config_of(root)), config_of(root))
    assert [len(catalogue.rows(split)) for split in data.SPLITS] == [13, 5, 6]
    (tmp_path / "run").mkdir()
    run_split.write(tmp_path / "run", run_split.of(catalogue), catalogue.fingerprint())
    (tmp_path / "run" / claims.CONFIG).write_text("{}")
    (tmp_path / "run" / "head.safetensors").touch()
    return tmp_path / "run"


def rows_of(workdir) -> list[dict[str, str]]:
    with (workdir / "split.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def texts(workdir, split) -> set[str]:
    """What the images of a split of the run hold: their names, before anybody renames them."""
    return {f"{row['class']} {int(row['file'][4:6])}" for row in rows_of(workdir) if row["split"] == split}


def held(catalogue, split="test") -> set[str]:
    return {catalogue.read(row).decode() for row in catalogue.rows(split)}


def test_the_file_names_every_image_with_its_split_and_hash(workdir, root):
    rows = rows_of(workdir)
    assert list(rows[0]) == ["file", "class", "split", "sha256"]
    drawn = found(config_of(root))
    assert [(row["file"], row["split"]) for row in rows] == list(zip(drawn.files, drawn.split, strict=True))
    again = run_split.read(workdir)
    assert again.class_names == CLASSES
    assert again.contents == tuple(row["sha256"] for row in rows)
    np.testing.assert_array_equal(again.labels, drawn.labels)


def test_names_that_are_no_text_come_back(tmp_path):
    odd = ("a,b.png", 'say "cheese".png', "line\nend\r.png", os.fsdecode(b"caf\xe9.png"), "猫.png")
    labels, split = np.arange(5, dtype=np.int32), np.array(["train"] * 5)
    run_split.write(tmp_path, run_split.RunSplit(odd, odd, labels, split, tuple("abcde")), "f")
    again = run_split.read(tmp_path)
    assert again.files == again.class_names == odd
    np.testing.assert_array_equal(again.labels, labels)


def test_a_file_that_is_missing_or_changed_stops(workdir):
    text = (workdir / "split.csv").read_text()
    (workdir / "split.csv").write_text(text.replace("train", "test", 1))
    with pytest.raises(configs.ConfigError, match=r"split.csv is not what the run wrote"):
        run_split.read(workdir)
    (workdir / "split.csv").unlink()
    with pytest.raises(configs.ConfigError, match=r"split.csv cannot be read .*bring the file back"):
        run_split.read(workdir)


def test_moved_renamed_and_touched_images_go_on_in_the_same_order(workdir, root, tmp_path):
    before = [(root / row["file"]).read_text() for row in rows_of(workdir)]
    root = root.rename(tmp_path / "moved")
    (root / "cat" / "00.png").rename(root / "cat" / "zz.png")
    (root / "dog" / "sub").mkdir()
    (root / "dog" / "05.png").rename(root / "dog" / "sub" / "a.png")
    (root / "dog" / "07.png").touch()
    images = claims.images(workdir, config_of(root))
    assert [images.read(i).decode() for i in range(24)] == before
    assert list(images.split) == [row["split"] for row in rows_of(workdir)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "cat" / "03.png").unlink(), "1 gone: cat/03.png; choose"),
        (lambda root: (root / "cat" / "03.png").write_text("cat x"), "1 changed: cat/03.png; choose"),
        (lambda root: (root / "cat" / "99.png").write_text("cat 99"), "1 new: cat/99.png; choose"),
        (lambda root: shutil.copy(root / "cat" / "03.png", root / "cat" / "99.png"), "1 new: cat/99.png; choose"),
        (
            lambda root: (root / "cat" / "03.png").rename(root / "dog" / "3.png"),
            "1 of another class: dog/3.png (cat then, dog now)",
        ),
        (lambda root: (root / "cat").rename(root / "cow"), "classes"),
    ],
)
def test_other_images_are_not_gone_on_with(workdir, root, change, message):
    change(root)
    with pytest.raises((configs.ConfigError, data.DataError)) as caught:
        claims.images(workdir, config_of(root))
    assert message in str(caught.value)


def test_what_could_not_be_decoded_may_be_removed_later(workdir, root):
    split = run_split.read(workdir)
    split.split[3] = "unused"
    run_split.write(workdir, split, "f")
    (root / split.files[3]).unlink()
    assert len(claims.images(workdir, config_of(root))) == 23


def test_after_deletions_only_what_is_left_of_the_own_test_images_is_measured(workdir, root):
    tests = texts(workdir, "test")
    for file in ("cat/03.png", "cat/07.png", "dog/03.png", "dog/07.png"):
        (root / file).unlink()
    for i in range(20, 23):
        (root / "cat" / f"{i}.png").write_text(f"cat {i}")
    images = measured_images.own(workdir, config_of(root), "test")
    assert held(images) == tests - {"cat 3", "cat 7", "dog 3", "dog 7"}
    assert len(images) == len(images.rows("test"))  # nothing else is decoded
    gone, new = images.notes
    assert gone.startswith(f"4 images of the run are gone, {len(tests & {'cat 3', 'cat 7', 'dog 3', 'dog 7'})} of them")
    assert (
        "3 images are new since the run began and left out, without a split: cat/20.png, cat/21.png, cat/22.png" in new
    )


def test_a_class_that_came_later_is_left_out(workdir, root):
    (root / "ape").mkdir()
    (root / "ape" / "0.png").write_text("ape 0")
    images = measured_images.own(workdir, config_of(root), "test")
    assert images.notes == ("1 image is new since the run began and left out, without a split: ape/0.png",)
    assert (images.class_names, held(images)) == (CLASSES, texts(workdir, "test"))
    again = measured_images.others(workdir, config_of(root), str(root), CLASSES, "test")
    assert (again.class_names, held(again)) == (CLASSES, texts(workdir, "test"))
    assert "1 image is left out, without a split in the run: ape/0.png" in again.notes[1]
    row = next(row for row in rows_of(workdir) if row["split"] == "test" and row["class"] == "cat")
    (root / row["file"]).rename(root / "ape" / "1.png")
    with pytest.raises(
        data.DataError, match=r"network does not know: ape/1.png \(cat then, ape now\); name the classes"
    ):
        measured_images.own(workdir, config_of(root), "test")


def test_images_that_have_moved_are_asked_for(workdir, root, tmp_path):
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(data.DataError, match="photos any more; say where they are by --root"):
        measured_images.own(workdir, config_of(root), "test")


def test_a_column_added_later_does_not_stop(workdir, root):
    lines = [f"{row['file']},{row['class']},{i % 5}" for i, row in enumerate(rows_of(workdir))]
    (root / "list.csv").write_text("\n".join(["path,label,fold", *lines]))
    config = config_of(root / "list.csv", **{"data.name": "manifest"})
    assert held(measured_images.own(workdir, config, "test")) == texts(workdir, "test")
    assert len(claims.images(workdir, config)) == 24


def test_of_an_older_version_such_a_column_is_asked_for_by_the_flag_of_evaluate(workdir, root):
    lines = [f"{row['file']},{row['class']},{i % 5}" for i, row in enumerate(rows_of(workdir))]
    (root / "list.csv").write_text("\n".join(["path,label,fold", *lines]))
    (workdir / "data.json").unlink()
    with pytest.raises(data.DataError, match=r"say so by --split_column=fold, or --split_column=none"):
        measured_images.own(workdir, config_of(root / "list.csv", **{"data.name": "manifest"}), "test")


def test_of_unchanged_data_all_is_as_it_was_decoded(workdir, root):
    images = measured_images.own(workdir, config_of(root), "test")
    assert images.notes == ()
    assert images.files == tuple(row["file"] for row in rows_of(workdir))
    assert held(images) == texts(workdir, "test")


def test_even_a_class_too_small_to_draw_from_is_measured(workdir, root):
    for path in sorted((root / "cat").iterdir()):
        if path.read_text() not in texts(workdir, "test"):
            path.unlink()
    assert held(measured_images.own(workdir, config_of(root), "test")) == texts(workdir, "test")


def test_without_any_of_the_test_images_there_is_an_error(workdir, root):
    for row in rows_of(workdir):
        if row["split"] == "test":
            (root / row["file"]).unlink()
    with pytest.raises(data.DataError, match=r"none of the 6 test images of the run is in .*cat/.*--root"):
        measured_images.own(workdir, config_of(root), "test")


def test_a_class_that_was_corrected_counts_as_it_is_now(workdir, root):
    row = next(row for row in rows_of(workdir) if row["split"] == "test" and row["class"] == "cat")
    (root / row["file"]).rename(root / "dog" / "was_cat.png")
    images = measured_images.own(workdir, config_of(root), "test")
    assert images.notes == ("1 image is of another class than in the run: dog/was_cat.png (cat then, dog now)",)
    assert images.labels[images.files.index("dog/was_cat.png")] == 1


def test_its_own_data_elsewhere_are_measured_in_its_own_split(workdir, root, tmp_path):
    moved = Path(shutil.copytree(root, tmp_path / "moved"))
    (moved / "cat" / "99.png").write_text("cat 99")
    images = measured_images.others(workdir, config_of(root), str(moved), CLASSES, "test")
    assert held(images) == texts(workdir, "test")
    assert "moved holds images of the run (13 train, 5 validation, 6 test)" in images.notes[0]
    assert "1 image is left out, without a split in the run: cat/99.png" in images.notes[1]
    assert held(measured_images.others(workdir, config_of(root), str(moved), CLASSES, "validation"), "validation") == (
        texts(workdir, "validation")
    )


def test_unknown_images_in_a_test_folder_beside_its_own_data_are_measured_too(workdir, root, tmp_path):
    shutil.copytree(root, tmp_path / "moved" / "train")
    (tmp_path / "moved" / "test" / "cat").mkdir(parents=True)
    (tmp_path / "moved" / "test" / "cat" / "99.png").write_text("cat 99")
    images = measured_images.others(workdir, config_of(root), str(tmp_path / "moved"), CLASSES, "test")
    assert held(images) == texts(workdir, "test") | {"cat 99"}
    assert any(note.startswith("1 image unknown to the run") for note in images.notes)


@pytest.mark.parametrize("place", ["other", "other/test"])
def test_of_other_images_those_it_was_trained_on_are_left_out(workdir, root, tmp_path, place):
    other = tmp_path / place / "dog"
    other.mkdir(parents=True)
    for i in range(5):
        (other / f"new{i}.png").write_text(f"other {i}")
    for split in data.SPLITS:
        row = next(row for row in rows_of(workdir) if row["split"] == split and row["class"] == "dog")
        shutil.copy(root / row["file"], other / f"{split}.png")
    config, top = config_of(root), str(tmp_path / "other")
    images = measured_images.others(workdir, config, top, CLASSES, "test")
    assert [Path(file).name for file in images.files] == [*(f"new{i}.png" for i in range(5)), "test.png"]
    (note,) = images.notes
    assert note.startswith("2 images are left out, seen by the run in training: ")
    for i in range(5):
        (other / f"new{i}.png").unlink()
    (other / "test.png").unlink()
    with pytest.raises(data.DataError, match="none of the 6 test images"):  # all are its own, none a test image
        measured_images.others(workdir, config, top, CLASSES, "test")


def test_nothing_left_of_other_images(workdir, root, tmp_path):
    for kind in ("test", "train"):
        (tmp_path / "other" / kind / "cat").mkdir(parents=True)
    row = next(row for row in rows_of(workdir) if row["split"] == "train" and row["class"] == "cat")
    shutil.copy(root / row["file"], tmp_path / "other" / "test" / "cat")
    for i in range(3):
        (tmp_path / "other" / "train" / "cat" / f"{i}.png").write_text(f"other {i}")
    with pytest.raises(data.DataError, match=r"nothing is left of .*1 image is left out.* give a --root"):
        measured_images.others(workdir, config_of(root), str(tmp_path / "other"), CLASSES, "test")


def test_the_same_picture_twice_goes_by_its_name_then_to_training():
    labels = np.zeros(3, np.int32)
    run = run_split.RunSplit(("c",), ("a", "b", "x"), labels, np.array(["test", "train", "test"]), ("1", "1", "2"))

    def rows(files, contents):
        same = {"name": "", "class_names": ("c",), "licence": "", "read": None, "sizes": labels, "split": labels}
        return run.rows_in(data.Catalogue(files=files, contents=contents, labels=labels, **same)).tolist()

    assert rows(("b", "a", "x"), ("1", "1", "2")) == [1, 0, 2]
    assert rows(("x", "a"), ("2", "1")) == [1, -1, 0]
    assert rows(("renamed", "y"), ("1", "2")) == [-1, 0, 1]  # which one it was is not known: it is not tested on
    assert rows(("y", "z", "x"), ("1", "1", "3")) == [1, 0, -1]


def test_doubles_in_two_splits_are_said(workdir, root):
    split = run_split.read(workdir)
    test, train = (int(np.flatnonzero(split.split == name)[0]) for name in ("test", "train"))
    shutil.copy(root / split.files[train], root / split.files[test])
    contents = tuple(split.contents[train] if i == test else content for i, content in enumerate(split.contents))
    run_split.write(workdir, dataclasses.replace(split, contents=contents), "f")
    (note,) = measured_images.own(workdir, config_of(root), "test").notes
    assert note.startswith("warning: 1 test image has the same bytes as an image that the run has seen")
    assert split.files[test] in note


def older(workdir) -> None:
    """The workdir as versions without split.csv left it, with the hash that they made of names, labels and sizes."""
    (workdir / "split.csv").unlink()
    # Printed by that version, 1337afe, for the folder above.
    digest = "47c555ea3c3d162d9ca003bb6b8d72c6d9fe677246fd8e24d7763cf39cee468c"
    (workdir / "data.json").write_text(json.dumps({"fingerprint": digest}))


def test_a_run_of_an_older_version_has_its_split_drawn_anew(workdir, root, tmp_path):
    tests = texts(workdir, "test")
    older(workdir)
    images = measured_images.own(workdir, config_of(root), "test")
    assert held(images) == tests
    assert "has no split.csv, as older versions wrote none: the split was drawn anew" in images.notes[0]
    moved = str(shutil.copytree(root, tmp_path / "moved"))
    assert held(measured_images.others(workdir, config_of(root), moved, CLASSES, "test")) == tests
    (root / "cat" / "03.png").unlink()
    with pytest.raises(configs.ConfigError, match=r"not known which ones .* bring the images back, or give"):
        measured_images.own(workdir, config_of(root), "test")
    (tmp_path / "other" / "cat").mkdir(parents=True)
    (tmp_path / "other" / "cat" / "1.png").write_text("other")
    images = measured_images.others(workdir, config_of(root), str(tmp_path / "other"), CLASSES, "test")
    assert held(images) == {"other"}
    assert "whether it was trained on some of these images is not known" in images.notes[0]


def test_rows_of_a_table_are_the_same_images_in_other_files(root, tmp_path):
    pa = pytest.importorskip("pyarrow", reason="reads Parquet files: pip install 'delta_jax[parquet]'")
    import pyarrow.parquet as pq

    files = sorted(root.rglob("*.png"))
    rows = {
        "image": pa.array([file.read_bytes() for file in files]),
        "species": pa.array([f.parent.name for f in files]),
    }
    table = pa.table(rows)
    (tmp_path / "rows").mkdir()
    pq.write_table(table, tmp_path / "rows" / "pets.parquet")
    config = config_of(tmp_path / "rows" / "pets.parquet", data__name="parquet")
    begun = identified(found(config), config)
    assert begun.fingerprint() == identified(found(config_of(root)), config_of(root)).fingerprint()
    (tmp_path / "run").mkdir()
    run_split.write(tmp_path / "run", run_split.of(begun), begun.fingerprint())
    turned = table.take(pa.array(range(len(table)))[::-1])
    (tmp_path / "moved").mkdir()
    for part in range(2):
        pq.write_table(turned.slice(12 * part, 12), tmp_path / "moved" / f"rows-{part}.parquet")
    moved = config_of(tmp_path / "moved", data__name="parquet")
    measured = measured_images.own(tmp_path / "run", moved, "test")
    assert measured.split.tolist() == begun.split.tolist()
    assert measured.contents == begun.contents
    for images in (tmp_path / "moved", root):  # rows or files: the content counts
        others = measured_images.others(tmp_path / "run", config, str(images), CLASSES, "test")
        assert sorted(others.contents) == sorted(begun.contents)
        assert any("images of the run (13 train, 5 validation, 6 test)" in note for note in others.notes)
