"""Parquet and Arrow files, laid out as the package `datasets` 5.2.0 does it, which writes by pyarrow as well."""

import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from delta_jax.data import DataError, find, find_other, identified

pa = pytest.importorskip("pyarrow", reason="reads Parquet and Arrow files: pip install 'delta_jax[parquet]'")
import pyarrow.feather as feather  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

NAMES = ("cat", "dog")
IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
NONE_DRAWN = {"validation_fraction": 0, "test_fraction": 0}


def png(value):
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def images(count=12, first=0):
    return [{"bytes": png(first + i), "path": f"{i}.png"} for i in range(count)]


def features(**more):
    """What datasets writes into the schema of each file."""
    known = {"image": {"_type": "Image"}, "label": {"names": list(NAMES), "_type": "ClassLabel"}} | more
    return {b"huggingface": json.dumps({"info": {"features": known}}).encode()}


def table(count=12, first=0, image=None, label=None, metadata=True, **more):
    cells = {
        "image": pa.array(images(count, first), IMAGE) if image is None else image,
        "label": pa.array([i % 2 for i in range(count)]) if label is None else label,
    }
    made = pa.table({name: column for name, column in (cells | more).items() if column is not False})
    return made.replace_schema_metadata(features()) if metadata else made


def parquet(path, made, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(made, path, **options)
    return str(path)


def stream(path, made):
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, made.schema) as writer:
        writer.write_table(made, max_chunksize=5)


def saved(folder, made, files=1):
    """As Dataset.save_to_disk."""
    names = [f"data-{i:05}-of-{files:05}.arrow" for i in range(files)]
    step = -(-made.num_rows // files)
    for i, name in enumerate(names):
        stream(folder / name, made.slice(i * step, step))
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "1", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}, "license": "cc0"}))


def saved_dict(folder, **parts):
    for name, made in parts.items():
        saved(folder / name, made, files=2)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(parts)}))
    return str(folder)


def counts(found):
    return [sum(found.counts()[split].values()) for split in ("train", "validation", "test")]


def refusal(*args, **fields):
    with pytest.raises(DataError) as caught:
        find(*args, **fields)
    return str(caught.value)


def is_read_as_written(found, cells):
    """Whatever the order of asking: a reader goes on from where it was."""
    for i in (0, len(found) - 1, 3, 1, 2):
        assert found.read(i) == cells[i]["bytes"]
    assert found.sizes.tolist() == [len(cell["bytes"]) for cell in cells]
    assert found.contents == tuple(hashlib.sha256(cell["bytes"]).hexdigest() for cell in cells)


@pytest.mark.parametrize("groups", [3, 1000])
def test_a_parquet_file_with_its_class_names_and_drawn_splits(tmp_path, groups, monkeypatch):
    monkeypatch.setattr("delta_jax.data.arrow_tables.TOGETHER", 2)
    monkeypatch.setattr("delta_jax.data.arrow_tables.KEPT", 1)
    found = find("parquet", root=parquet(tmp_path / "pets.parquet", table(20), row_group_size=groups))
    assert (found.name, found.class_names, found.licence) == ("parquet/pets", NAMES, "your own images")
    assert found.files[:2] == ("0.png", "1.png")
    assert found.labels.tolist() == [0, 1] * 10
    assert counts(found) == [12, 3, 5]
    is_read_as_written(found, images(20))


def test_images_of_the_hub_that_say_no_licence_are_not_ones_own(tmp_path):
    parquet(tmp_path / "pets.parquet", table(20))
    assert find("hf/org/pets", root=str(tmp_path)).licence == "not known"


@pytest.mark.parametrize("name", ["parquet", "hf/org/pets"])
def test_the_splits_of_save_to_disk(tmp_path, name):
    made = {"train": table(10), "validation": table(4, 20), "test": table(6, 40)}
    found = find(name, root=saved_dict(tmp_path / "pets", **made))
    assert counts(found) == [10, 4, 6]
    assert (found.licence, found.class_names) == ("cc0", NAMES)
    assert found.files[0] == "train/0.png"  # 0.png is there in each part
    is_read_as_written(found, [*images(10), *images(4, 20), *images(6, 40)])


def test_the_splits_are_only_those_of_the_files_if_nothing_else_is_wanted(tmp_path):
    root = saved_dict(tmp_path / "pets", train=table(10), test=table(6, 40))
    assert counts(find("parquet", root=root, split_column="none", **NONE_DRAWN)) == [16, 0, 0]
    as_validation = find("parquet", root=root, split_column="split:test=validation", test_fraction=0)
    assert counts(as_validation) == [10, 6, 0]
    left = find("parquet", root=root, split_column="split:test=unused", **NONE_DRAWN)
    assert (counts(left), left.split.tolist().count("unused")) == ([10, 0, 0], 6)


@pytest.mark.parametrize(
    "files",
    [
        ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"),
        ("train/0000.parquet", "train/0001.parquet", "test/0000.parquet"),
        ("default/partial-train/0.parquet", "default/partial-train/1.parquet", "default/test/0.parquet"),
        ("train_test_split-train-0.parquet", "train_test_split-train-1.parquet", "train_test_split-test.parquet"),
        ("Training_1.pq", "Training_2.pq", "Testing_1.pq"),
    ],
)
def test_the_parts_are_those_of_the_names(tmp_path, files):
    for number, file in enumerate(files):
        parquet(tmp_path / file, table(6, 20 * number))
    (tmp_path / "cache-0123.arrow").write_bytes(b"what datasets keeps of map")
    assert counts(find("parquet", root=str(tmp_path))) == [9, 3, 6]  # a fifth of 12 to validate on


def test_a_cache_of_datasets_or_of_the_hub_is_found_by_name(tmp_path, monkeypatch):
    built = tmp_path / "home" / "datasets" / "org___pets" / "default" / "0.0.0" / "1f"
    stream(built / "pets-train.arrow", table(10))
    stream(built / "pets-test.arrow", table(6, 40))
    (built / "dataset_info.json").write_text("{}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for variable in ("HF_DATASETS_CACHE", "HF_HUB_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    assert counts(find("hf/org/pets")) == [8, 2, 6]
    assert counts(find("hf/org/pets", root=str(tmp_path / "home" / "datasets"))) == [8, 2, 6]
    hub = tmp_path / "home" / "hub" / "datasets--org--birds"
    for commit in ("aa", "bb"):
        parquet(
            hub / "snapshots" / commit / "data" / "train-00000-of-00001.parquet", table(10 if commit == "aa" else 20)
        )
    assert "2 versions of org/birds: snapshots/aa, snapshots/bb" in refusal("hf/org/birds")
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("bb")
    assert len(find("hf/org/birds")) == 20
    assert "hf download --repo-type=dataset org/fish --local-dir=FOLDER" in refusal("hf/org/fish")
    assert "is not in" in refusal("hf/org/fish", root=str(tmp_path / "home" / "datasets"))
    assert "hf/ORGANISATION/NAME" in refusal("hf/../pets")


CARD = """---
license: cc-by-4.0
configs:
- config_name: big
  data_files:
  - split: train
    path: big/train-*
  - split: test
    path: big/test-*
- config_name: small
  data_files: small/*
dataset_info:
- config_name: big
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': kitten
          '1': puppy
---
# Pets
"""


def test_class_names_and_files_of_a_card(tmp_path):
    for part in ("big/train", "big/test", "small/train"):
        parquet(tmp_path / f"{part}-00000-of-00001.parquet", table(8, metadata=False))
    assert "holds several data sets, it seems: big, small" in refusal("parquet", root=str(tmp_path))
    (tmp_path / "README.md").write_text(CARD)
    assert "say which as --config.data.name=hf/NAME:big" in refusal("hf/pets", root=str(tmp_path))
    found = find("hf/pets:big", root=str(tmp_path), validation_fraction=0)
    assert (found.class_names, found.licence, counts(found)) == (("kitten", "puppy"), "cc-by-4.0", [8, 0, 8])
    assert find("hf/pets:small", root=str(tmp_path), **NONE_DRAWN).class_names == ("0", "1")
    assert "lists big, small" in refusal("hf/pets:tiny", root=str(tmp_path))


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (pa.array(["dog", "cat"] * 6), ("cat", "dog")),
        (pa.array(["dog", "cat"] * 6, pa.large_string()), ("cat", "dog")),
        (pa.array(["dog", "cat"] * 6).dictionary_encode(), ("cat", "dog")),
        (pa.array([10, 9] * 6, pa.int8()), ("9", "10")),
        (pa.array([True, False] * 6), ("False", "True")),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "stream", "feather"])
def test_labels_of_every_type(tmp_path, label, expected, kind):
    made = table(12, label=label, metadata=False)
    path = tmp_path / f"pets.{'parquet' if kind == 'parquet' else 'arrow'}"
    {"parquet": parquet, "stream": stream, "feather": lambda p, t: feather.write_feather(t, str(p))}[kind](path, made)
    found = find("parquet", root=str(path))
    assert found.class_names == expected
    assert [found.class_names[k] for k in found.labels[:2]] == [str(cell) for cell in label.to_pylist()[:2]]
    is_read_as_written(found, images(12))


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_images_as_bytes_alone(tmp_path, kind):
    image = pa.array([cell["bytes"] for cell in images()], kind)
    found = find("parquet", root=parquet(tmp_path / "a.parquet", table(image=image, metadata=False)))
    assert found.files[1] == "a.parquet[1]"
    is_read_as_written(found, images())


def test_images_as_paths_are_files_like_others(tmp_path):
    (tmp_path / "png").mkdir()
    for cell in images():
        (tmp_path / "png" / cell["path"]).write_bytes(cell["bytes"])
    paths = [f"png/{cell['path']}" for cell in images()]
    for image in (pa.array([{"bytes": None, "path": path} for path in paths], IMAGE), pa.array(paths)):
        parquet(tmp_path / "data" / "train.parquet", table(image=image))
        found = find("parquet", root=str(tmp_path))
        assert (found.files, found.contents) == (tuple(paths), ())  # an index says later what did not change
        assert found.paths[3] == tmp_path / "png" / "3.png"
        assert identified(found, tmp_path / "cache").contents[3] == hashlib.sha256(images()[3]["bytes"]).hexdigest()
    mixed = pa.array([cell if i % 2 else {"bytes": None, "path": paths[i]} for i, cell in enumerate(images())], IMAGE)
    parquet(tmp_path / "data" / "train.parquet", table(image=mixed))
    is_read_as_written(find("parquet", root=str(tmp_path)), images())
    (tmp_path / "png" / "4.png").unlink()
    assert "images that are not there in 1 of 12 rows" in refusal("parquet", root=str(tmp_path))


def test_columns_of_a_table_are_those_of_a_manifest(tmp_path):
    more = {"Patient_ID": pa.array([f"p{i // 4}" for i in range(24)]), "fold": pa.array([i // 8 for i in range(24)])}
    meta = pa.array([{"site": "a", "kind": {"dx": "x" if i % 2 else "y"}} for i in range(24)])
    root = parquet(tmp_path / "a.parquet", table(24, meta=meta, **more))
    assert "may stand in fold (0, 1, 2); say so by --config.data.split_column=fold" in refusal("parquet", root=root)
    nested = features(meta={"kind": {"dx": {"names": list(NAMES), "_type": "ClassLabel"}}})
    of_objects = pa.array([{"kind": {"dx": i % 2}} for i in range(12)])
    made = table(12, label=False, meta=of_objects, mask=pa.array([b"m"] * 12)).replace_schema_metadata(nested)
    found = find("parquet", root=parquet(tmp_path / "b.parquet", made), label_column="meta.kind.dx")
    assert found.class_names == NAMES
    assert "columns of b.parquet that are no texts or numbers, not read: mask" in found.notes
    by_fold = {"root": root, "split_column": "fold:2=test,*=train", "validation_fraction": 0}
    assert counts(find("parquet", **by_fold)) == [16, 0, 8]
    found = find("parquet", root=root, split_column="none", group="patient_id")
    assert any("6 groups by patient_id are kept whole" in note for note in found.notes)
    assert any("columns of a.parquet that are not read: meta.site, meta.kind.dx, fold" in note for note in found.notes)
    assert find("parquet", **by_fold, label_column="meta.kind.dx").class_names == ("x", "y")


def test_parts_without_labels_and_classes_without_images_are_left_out_in_a_line(tmp_path):
    metadata = features(label={"names": ["ant", *NAMES], "_type": "ClassLabel"})
    made = table(12, label=pa.array([1 + i % 2 for i in range(12)])).replace_schema_metadata(metadata)
    hidden = table(4, 40, label=pa.array([-1] * 4)).replace_schema_metadata(metadata)
    found = find("parquet", root=saved_dict(tmp_path / "pets", train=made, test=hidden))
    assert found.class_names == NAMES
    assert found.notes[:2] == ("left out: test, 4 rows without labels", "1 class of label without images left out: ant")
    made = table(12, label=pa.array([-1] * 2 + [1, 2] * 5)).replace_schema_metadata(metadata)
    assert "no label in 2 of 12 rows; expected one in every row of label\n  a.parquet[0]" in refusal(
        "parquet", root=parquet(tmp_path / "a.parquet", made)
    )


LISTS = pa.array([[i % 2, 1] for i in range(12)])


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"label": LISTS}, "label holds lists of whole numbers, taken for several labels per image (multi-label"),
        (
            {"label": pa.array(np.arange(12) / 7)},
            "numbers with a fraction, taken for values to be predicted (regression)",
        ),
        ({"label": pa.array([{"box": [1.0]}] * 12)}, "no column of labels: beside image there is label.box (lists of"),
        ({"label": False, "age": pa.array(range(12))}, "beside image there is age (whole numbers); call one label"),
        (
            {"label": False, "cat": pa.array([0, 1] * 6), "dog": pa.array([True, False] * 6)},
            "taken for a table of several labels per image, as cat, dog hold 0 and 1 alone",
        ),
        ({"label": False, "class": LISTS.cast(pa.list_(pa.float32()))}, "class holds lists of numbers with a fraction"),
        (
            {"label": False, "species": pa.array(["a"] * 12), "breed": pa.array(["b"] * 12)},
            "several columns: species, breed",
        ),
        (
            {"image": pa.array([[[1, 2]]] * 12)},
            "no column of images: image (lists of whole numbers), label (whole numbers)",
        ),
        ({"image": pa.array(["https://here/1.png"] * 12)}, "addresses in place of images in 12 of 12 rows"),
        (
            {"image": False, "a": pa.array([b"x"] * 12), "b": pa.array([b"x"] * 12)},
            "images in several columns: a, b; say",
        ),
        ({"image": pa.array([None, *images(11)], IMAGE)}, "no image in 1 of 12 rows"),
        ({"label": pa.array([None] + [1, 0] * 5 + [1])}, "no label in 1 of 12 rows"),
        ({"label": pa.array([0, 1, 2] * 4)}, "the label 2 stands for no class: there are 2, cat, dog"),
        ({"Label": pa.array([0, 1] * 6)}, "there are two columns 'label'; rename one of them"),
    ],
)
def test_a_table_of_another_kind_is_refused_with_what_it_was_taken_for(tmp_path, columns, expected):
    assert expected in refusal("parquet", root=parquet(tmp_path / "a.parquet", table(**columns)))


def test_columns_that_cannot_be_told_are_named(tmp_path):
    classes = {name: {"names": list(NAMES), "_type": "ClassLabel"} for name in ("fine", "coarse")}
    made = table(label=False, fine=pa.array([0, 1] * 6), coarse=pa.array([1, 0] * 6), mask=pa.array([b"m"] * 12))
    root = parquet(tmp_path / "a.parquet", made.replace_schema_metadata(features(**classes)))
    assert "classes in several columns: fine, coarse; say which by --config.data.label_column=fine" in refusal(
        "parquet", root=root
    )
    assert find("parquet", root=root, label_column="coarse").labels[:2].tolist() == [1, 0]
    assert "has no column size; it has image" in refusal("parquet", root=root, label_column="size")
    assert "mask" in refusal("parquet", root=root, label_column="coarse", image_column="coarse.x")
    assert "only parquet and hf/NAME have such columns" in refusal("folder", root=str(tmp_path), label_column="x")
    with pytest.raises(DataError, match="say which by --label_column=fine"):
        find_other(root, NAMES)


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_files_that_are_not_what_they_say_are_refused(tmp_path, suffix):
    write = parquet if suffix == "parquet" else stream
    write(tmp_path / f"a.{suffix}", table(40))
    whole = (tmp_path / f"a.{suffix}").read_bytes()
    for content in (b"", b"PAR1", b"ARROW1\0\0", whole[: len(whole) // 2], b"\xff" * 100, b'{"a": 1}\n'):
        (tmp_path / f"a.{suffix}").write_bytes(content)
        assert "was cut short or changed" in refusal("parquet", root=str(tmp_path / f"a.{suffix}"))


def test_an_arrow_file_is_checked_before_its_cells_are_read(tmp_path):
    # A text that is none, which pyarrow says only when it is asked to look at every cell.
    made = table(8)
    labels = pa.array([b"\xff" if n == 3 else b"cat" for n in range(8)], pa.binary()).view(pa.string())
    stream(tmp_path / "a.arrow", made.set_column(made.column_names.index("label"), "label", labels))
    assert "cannot be read" in refusal("parquet", root=str(tmp_path / "a.arrow"))


@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
def test_cells_of_images_are_checked_before_they_are_read(tmp_path, suffix):
    # Labels are read as whole columns, images cell by cell: here the path of one is no text.
    paths = pa.array([b"\xff" if n == 3 else b"%d.png" % n for n in range(8)], pa.binary()).view(pa.string())
    content = pa.array([cell["bytes"] for cell in images(8)], pa.binary())
    made = table(8, image=pa.StructArray.from_arrays([content, paths], ["bytes", "path"]))
    (stream if suffix == "arrow" else parquet)(tmp_path / f"a.{suffix}", made)
    assert "cannot be read" in refusal("parquet", root=str(tmp_path / f"a.{suffix}"))


def test_a_list_of_files_that_leads_elsewhere_is_refused(tmp_path):
    saved(tmp_path / "pets", table(8))
    (tmp_path / "pets" / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../secret.arrow"}]}))
    assert "expected names in that folder" in refusal("parquet", root=str(tmp_path / "pets"))
    parquet(tmp_path / "hub" / "train.parquet", table(8))
    (tmp_path / "hub" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: ../*.parquet\n---\n"
    )
    assert "expected names below that folder" in refusal("parquet", root=str(tmp_path / "hub"))


def test_files_of_different_tables_are_no_data_set(tmp_path):
    parquet(tmp_path / "train-0.parquet", table(8))
    parquet(tmp_path / "train-1.parquet", table(8, label=pa.array(["cat", "dog"] * 4)))
    assert "has a column label of string, and train-0.parquet one of int64" in refusal("parquet", root=str(tmp_path))
    swapped = features(label={"names": ["dog", "cat"], "_type": "ClassLabel"})
    parquet(tmp_path / "train-1.parquet", table(8).replace_schema_metadata(swapped))
    assert "know other classes of label" in refusal("parquet", root=str(tmp_path))
    assert "is not there" in refusal("parquet", root=str(tmp_path / "train-2.parquet"))
    assert "needs root" in refusal("parquet")
    (tmp_path / "empty").mkdir()
    assert "no Parquet or Arrow files" in refusal("parquet", root=str(tmp_path / "empty"))


def test_other_images_for_a_trained_network(tmp_path):
    root = parquet(tmp_path / "others" / "a.parquet", table(6))
    for place in (root, str(tmp_path / "others")):
        found = find_other(place, ("dog", "cat", "bird"))
        assert [found.class_names[k] for k in found.labels[:2]] == ["cat", "dog"]
        assert set(found.split) == {"test"}
    with pytest.raises(DataError, match="has images of the classes cat"):
        find_other(root, ("dog", "bird"))
