"""Tables of images, as people write them and as they get them wrong."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from delta_jax.data import DataError, find, find_other


def images(root, *names):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(root / name)


def csv(root, *lines, name="labels.csv", encoding="utf-8"):
    (root / name).write_bytes("".join(line + "\n" for line in lines).encode(encoding))
    return str(root / name)


def many(root, count=10, labels=("cat", "dog")):
    """Lines "path,label" of images that are there."""
    names = [f"{label}{i}.png" for label in labels for i in range(count)]
    images(root, *names)
    return [f"{name},{label}" for name, label in zip(names, np.repeat(labels, count), strict=True)]


def test_labels_files_and_drawn_splits(tmp_path):
    root = csv(tmp_path, "path,label", *many(tmp_path, 20, ("dog", "cat")))
    found = find("manifest", root=root)
    assert found.name == "manifest/labels"
    assert found.class_names == ("cat", "dog")
    assert found.files[0] == "dog0.png"
    assert found.labels[0] == 1
    # A quarter for testing, a fifth of the other 15 to validate on, as of a folder.
    assert found.counts() == {
        "train": {"cat": 12, "dog": 12},
        "validation": {"cat": 3, "dog": 3},
        "test": {"cat": 5, "dog": 5},
    }
    for i in (0, 39):
        assert found.read(i) == (tmp_path / found.files[i]).read_bytes()
        assert found.sizes[i] == (tmp_path / found.files[i]).stat().st_size
    assert find("manifest", root=root, shots=5).counts()["train"] == {"cat": 4, "dog": 4}


def test_own_splits_of_every_name(tmp_path):
    rows = many(tmp_path, 12)
    splits = ["train"] * 5 + ["val", "Valid", " validation "] + ["TEST"] * 4
    found = find("manifest", root=csv(tmp_path, "path,label,split", *map(",".join, zip(rows, splits * 2, strict=True))))
    assert [found.counts()[split]["cat"] for split in ("train", "validation", "test")] == [5, 3, 4]
    splits = ["train"] * 8 + ["test"] * 4
    found = find("manifest", root=csv(tmp_path, "path,label,split", *map(",".join, zip(rows, splits * 2, strict=True))))
    assert [found.counts()[split]["cat"] for split in ("train", "validation", "test")] == [6, 2, 4]
    assert {found.files[i] for i in found.rows("test")} == {f"{n}{i}.png" for n in ("cat", "dog") for i in range(8, 12)}


OPTIONS = {"validation_fraction": 0, "test_fraction": 0}
NAMES = ("größe 1/día, uno.png", '日本/a "b".png', "c.png")


@pytest.mark.parametrize(
    ("lines", "name", "encoding"),
    [
        (("path,label", '"größe 1/día, uno.png",ü', '"日本/a ""b"".png",雪 2', "c.png,ü"), "a.csv", "utf-8"),
        (
            ("PATH ; Label;note", "größe 1/día, uno.png;ü;x", '"日本/a ""b"".png";雪 2;', "", "c.png;ü;"),
            "a.csv",
            "utf-8-sig",
        ),
        (
            ("id\tlabel\tpath\r", "1\tü\tgröße 1/día, uno.png\r", '2\t 雪 2\t"日本/a ""b"".png"\r', "3\tü\tc.png\r"),
            "a.TSV",
            "utf-8",
        ),
        (
            tuple(json.dumps({"path": p, "label": c, "x": 1}) for p, c in zip(NAMES, ("ü", "雪 2", "ü"), strict=True)),
            "a.jsonl",
            "utf-8",
        ),
        (
            tuple(
                json.dumps({"label": c, "path": p, "split": None}, ensure_ascii=False)
                for p, c in zip(NAMES, ("ü", "雪 2", "ü"), strict=True)
            ),
            "a b.ndjson",
            "utf-8-sig",
        ),
    ],
    ids=["quotes", "semicolons, BOM, other columns", "tabs, CRLF", "JSON", "JSON, BOM"],
)
def test_the_same_table_in_every_form(tmp_path, lines, name, encoding):
    root = tmp_path / "meine Bilder ü"
    images(root, *NAMES)
    found = find("manifest", root=csv(root, *lines, name=name, encoding=encoding), **OPTIONS)
    assert found.files == NAMES
    assert found.class_names == ("ü", "雪 2")
    assert found.labels.tolist() == [0, 1, 0]
    assert [found.read(i) for i in range(3)] == [(root / file).read_bytes() for file in NAMES]


def test_whole_numbers_are_names_in_their_order(tmp_path):
    images(tmp_path, "a.png", "b.png", "c.png")
    lines = [json.dumps({"path": f"{n}.png", "label": label}) for n, label in (("a", 10), ("b", "9"), ("c", -1))]
    found = find("manifest", root=csv(tmp_path, *lines, name="a.jsonl"), **OPTIONS)
    assert found.class_names == ("-1", "9", "10")
    found = find("manifest", root=csv(tmp_path, "path,label", "a.png,10", "b.png,9", "c.png,x"), **OPTIONS)
    assert found.class_names == ("10", "9", "x")


def test_paths_may_lead_anywhere(tmp_path):
    images(tmp_path, "a.png", "tables/b.png", "far/c.png")
    lines = ("path,label", "../a.png,1", "./b.png,2", f"{tmp_path}/far/c.png,2")
    found = find("manifest", root=csv(tmp_path / "tables", *lines), **OPTIONS)
    assert [found.read(i) for i in range(3)] == [
        (tmp_path / name).read_bytes() for name in ("a.png", "tables/b.png", "far/c.png")
    ]


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        (["file,class", "a.png,x"], ("first line is 'file,class'", "path,label[,split]")),
        (["a.png,x", "b.png,y"], ("first line is 'a.png,x'",)),
        (["path label", "a.png x"], ("first line is 'path label'",)),
        (["path,label,path", "a.png,x,b.png"], ("two columns path",)),
        ([], ("first line is ''",)),
        (["path,label"], ("lists no images",)),
        (["path,label", "a.png,x", "b.png,y,z"], ("line 3: 3 cells, expected 2: path, label", "quotes")),
        (["path,label", "a.png"], ("line 2: 1 cells, expected 2",)),
        (["path,label", '"a.png,x', "b.png,y"], ("line 3: unexpected end of data", "quotes")),
        (["path,label", "a.png, ", "b.png,y"], ("no label in 1 of 2 lines", "line 2")),
        (["path,label", ",x", "b.png,y"], ("no path in 1 of 2 lines", "line 2")),
        (
            ["path,label,split", "a.png,x,train", "b.png,y,"],
            ("no split in 1 of 2 lines", "or no column split", "line 3"),
        ),
        (
            ["path,label,split", "a.png,x,train", "b.png,y,later"],
            ("an unknown split in 1 of 2", "train, val", "line 3: later"),
        ),
        (["path,label,split", "a.png,x,test", "b.png,y,test"], ("no image is of the split train",)),
        (
            ["path,label,split", "a.png,x,train", "b.png,y,train", "c.png,z,test"],
            ("no training images of the classes z",),
        ),
        (["path,label", "a.png,x", "b.png,x"], ("all images have the label 'x'",)),
        (["path,label", "a.png,x", "b.png,y", "./a.png,x"], ("1 image is listed twice", "lines 2 and 4: ./a.png")),
        (["path,label", "a.png,x", "b.png,y", "a.png,y"], ("lines 2 and 4: a.png, as 'x' and as 'y'",)),
        (["path,label", "a.png,x", "sub,y"], ("not there in 1 of 2 lines", "line 3: sub", "relative to")),
        (["path,label", f"{'a' * 300}.png,x", "b.png,y"], ("not there in 1 of 2 lines", "line 2: aaa")),
    ],
    ids=lambda value: "|".join(value)[:40],
)
def test_tables_that_cannot_be_used(tmp_path, lines, parts):
    images(tmp_path, "a.png", "b.png", "c.png", "sub/d.png")
    with pytest.raises(DataError) as caught:
        find("manifest", root=csv(tmp_path, *lines), **OPTIONS)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"path": "a.png"'], "line 1 is not JSON"),
        (["", '["a.png", "x"]'], 'line 2: found \'["a.png", "x"]\''),
        (['{"path": "a.png", "label": 1.5}'], "line 1: label is 1.5, expected a text or a whole number"),
        (['{"path": "a.png", "label": true}'], "line 1: label is true, expected"),
        (['{"path": 3, "label": "x"}'], "line 1: path is 3, expected a text"),
        (['{"path": "a.png", "label": null}'], "no label in 1 of 1 lines"),
        (['{"file": "a.png", "label": "x"}'], "no path in 1 of 1 lines"),
    ],
)
def test_json_lines_that_cannot_be_used(tmp_path, lines, message):
    images(tmp_path, "a.png")
    with pytest.raises(DataError, match=re.escape(message)):
        find("manifest", root=csv(tmp_path, *lines, name="a.jsonl"))


def test_ten_of_many_missing_images_are_named(tmp_path):
    lines = many(tmp_path, 10)
    for i in range(10):
        (tmp_path / f"cat{i}.png").unlink()
    (tmp_path / "dog3.png").unlink()
    with pytest.raises(
        DataError, match=r"(?s)not there in 11 of 20 .*line 2: cat0.png.*line 11: cat9.png\n  and 1 more$"
    ):
        find("manifest", root=csv(tmp_path, "path,label", *lines))


def test_manifests_that_cannot_be_used_are_refused(tmp_path):
    for root, message in (
        ("", "needs root"),
        (tmp_path / "labels.txt", "does not end in .csv, .tsv, .jsonl"),
        (tmp_path, "does not end in"),
        (tmp_path / "labels.csv", r"labels.csv cannot be read \(No such file"),
        (csv(tmp_path, "path,label", "é.png,x", name="latin.csv", encoding="latin-1"), "not text in UTF-8"),
        (csv(tmp_path, "path,label", "a.png,x", name="excel.csv", encoding="utf-16"), "not text in UTF-8"),
    ):
        with pytest.raises(DataError, match=message):
            find("manifest", root=str(root))


def test_other_images_to_measure_a_network_on_are_all_for_testing(tmp_path):
    known = ("cat", "cow", "dog")
    images(tmp_path, "plain/dog/1.png", "plain/cat/2.png", "parts/test/dog/3.png", "parts/train/cow/4.png")
    plain = find_other(str(tmp_path / "plain"), known)
    assert plain.class_names == known
    assert plain.counts()["test"] == {"cat": 1, "cow": 0, "dog": 1}
    assert len(plain.rows("test")) == len(plain)
    parts = find_other(str(tmp_path / "parts"), known)
    assert [parts.files[i] for i in parts.rows("test")] == ["test/dog/3.png"]
    (tmp_path / "parts" / "train").rename(tmp_path / "elsewhere")
    assert find_other(str(tmp_path / "parts"), known).files == ("test/dog/3.png",)
    table = csv(tmp_path, "path,label", "plain/dog/1.png,dog", "plain/cat/2.png,cow")
    assert find_other(table, known).counts()["test"] == {"cat": 0, "cow": 1, "dog": 1}
    table = csv(tmp_path, "path,label,split", "plain/dog/1.png,dog,train", "plain/cat/2.png,cow,test")
    assert find_other(table, known).counts()["test"] == {"cat": 0, "cow": 1, "dog": 0}


def test_other_images_that_a_network_cannot_be_measured_on(tmp_path):
    images(tmp_path, "plain/dog/1.png", "plain/pig/2.png", "parts/test/dog/3.png")
    with pytest.raises(DataError, match=r"folder/plain has images of the classes pig; expected only cat, dog"):
        find_other(str(tmp_path / "plain"), ("cat", "dog"))
    with pytest.raises(DataError, match=r"found test in .*, but no validation"):
        find_other(str(tmp_path / "parts"), ("cat", "dog"), "validation")
    (tmp_path / "parts" / "test" / "dog").rename(tmp_path / "dog")
    with pytest.raises(DataError, match=r"no images .* which has no class folders"):
        find_other(str(tmp_path / "parts"), ("cat", "dog"))
    with pytest.raises(DataError, match="nowhere is not there"):
        find_other(str(tmp_path / "nowhere"), ("cat", "dog"))
