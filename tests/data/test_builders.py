"""What the paper's data sets turn into, from small archives laid out like the real ones."""

import importlib.util
import io
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from delta_jax.data import DataError, builders, elpv, find, originals, prepare
from delta_jax.data.builders.encoded import storable
from delta_jax.data.images import BrokenImageError
from tests import published_sets
from tests.published_sets import archive, picture


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Prepares a data set from files in a folder, some of them replaced; gives its records by name of the file."""

    def make(name, **replaced):
        base, _, config = name.partition("/")
        files = published_sets.publish(base, lambda file: f"http://none.invalid/{file}", monkeypatch.setattr)
        manual = tmp_path / "manual"
        manual.mkdir(exist_ok=True)
        for file, content in (files | replaced).items():
            (manual / file).write_bytes(content)
        prepare(name, data_dir=str(tmp_path / "tfds"), manual_dir=str(manual))
        builder = builders.BUILDERS[base](config=config or None, data_dir=tmp_path / "tfds")
        return builder, {
            split: {example["file"].decode(): example for example in source}
            for split in builder.info.splits
            for source in [builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})]
        }

    return make


def numbers(examples):
    return sorted((file.split("/")[1][:3], int(file[-8:-4])) for file in examples)


def test_caltech256_as_l2sp_splits_it(made):
    builder, splits = made("caltech256/l2sp-30")
    assert builder.info.features["label"].names == ["001.ak47", "002.american-flag", "257.clutter"]
    assert numbers(splits["train"]) == [(c, k) for c in ("001", "002", "257") for k in range(1, 31)]
    assert numbers(splits["test"]) == [("001", 61), ("002", 61), ("002", 62), ("002", 63), ("257", 61), ("257", 62)]
    example = splits["test"]["256_ObjectCategories/257.clutter/257_0062.jpg"]
    assert (example["label"], example["image"]) == (2, picture(62))
    assert numbers(made("caltech256/l2sp-60")[1]["train"])[:61] == [*(("001", k) for k in range(1, 61)), ("002", 1)]


def test_caltech256_at_random(made):
    (builder, thirty), (_, sixty), (_, other) = (
        made(f"caltech256/random-{config}") for config in ("30-seed0", "60-seed0", "30-seed1")
    )
    assert builder.info.features["label"].names == ["001.ak47", "002.american-flag"]
    for label in (0, 1):
        assert [e["label"] for e in thirty["train"].values()].count(label) == 30
    assert thirty["train"].keys() < sixty["train"].keys()
    assert thirty["test"].keys() == sixty["test"].keys()
    assert not sixty["train"].keys() & sixty["test"].keys()
    assert thirty["train"].keys() != other["train"].keys()
    assert numbers(thirty["train"]) != [(c, k) for c in ("001", "002") for k in range(1, 31)]
    # The last of 61 names by coreutils' sha256sum of "seed0/256_ObjectCategories/001.ak47/001_0001.jpg", ...
    assert numbers(thirty["test"])[0] == ("001", 25)


def test_mit_indoor67(made, caplog):
    caplog.set_level("INFO", "delta_jax")
    builder, splits = made("mit_indoor67")
    assert builder.info.features["label"].names == ["airport_inside", "kitchen"]
    assert {file: example["label"] for file, example in splits["train"].items()} == {
        "Images/airport_inside/airport_inside_0001.jpg": 0,
        "Images/airport_inside/airport_inside_0002.jpg": 0,
        "Images/kitchen/Int474.jpg": 1,
    }
    # Of two names that differ by case the one in the list is meant.
    assert splits["test"].keys() == {f"Images/kitchen/{name}.jpg" for name in ("twin", "last", "caf\\xe9")}
    assert splits["test"]["Images/kitchen/twin.jpg"]["image"] == picture(5)
    gif = Image.open(io.BytesIO(splits["train"]["Images/airport_inside/airport_inside_0002.jpg"]["image"]))
    assert (gif.format, gif.mode) == ("PNG", "RGB")
    np.testing.assert_array_equal(np.asarray(gif), 2)
    assert splits["test"]["Images/kitchen/last.jpg"]["image"] == picture(7, "PNG")
    assert sorted(message for message in caplog.messages if "stored" in message) == [
        "Images/airport_inside/airport_inside_0002.jpg: a GIF; stored as PNG",
        "Images/kitchen/last.jpg: a PNG; stored as it is",
    ]


def test_cub200_2011(made):
    builder, splits = made("cub200_2011")
    assert builder.info.features["label"].names == ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    test = splits["test"]
    assert list(test) == ["CUB_200_2011/images/001.Black_footed_Albatross/Black_footed_Albatross_0009_34.jpg"]
    (image3,) = test.values()
    assert (image3["label"], image3["image"]) == (0, picture(3))
    np.testing.assert_array_equal(image3["bbox"], np.array([3, 27, 325.5, 304], np.float32))
    expected = np.array([[30 + p, p, 1] if p != 7 else [0, 0, 0] for p in range(1, 16)], np.float32)
    np.testing.assert_array_equal(image3["parts"], expected)
    assert image3["parts"].dtype == np.float32
    assert [e["label"] for _, e in sorted(splits["train"].items())] == [0, 1, 1]


def test_stanford_dogs(made):
    builder, splits = made("stanford_dogs")
    assert builder.info.features["label"].names == ["n02085620-Chihuahua", "n02085782-Japanese_spaniel"]
    assert {file: (e["label"], e["image"]) for file, e in splits["test"].items()} == {
        "Images/n02085620-Chihuahua/n02085620_12.jpg": (0, picture(12)),
        "Images/n02085782-Japanese_spaniel/n02085782_21.jpg": (1, picture(21)),
    }
    assert len(splits["train"]) == 3


def test_food101(made):
    builder, splits = made("food101")
    assert builder.info.features["label"].names == ["apple_pie", "waffles"]
    assert {file: e["label"] for file, e in splits["train"].items()} == {
        "food-101/images/apple_pie/1005649.jpg": 0,
        "food-101/images/apple_pie/1014775.jpg": 0,
        "food-101/images/waffles/971843.jpg": 1,
    }
    assert list(splits["test"]) == ["food-101/images/waffles/1011328.jpg"]


def test_elpv(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    lines = [f"images/{p:.0f}_{i}.png {p / 3} mono" for p in (0.0, 1.0, 2.0, 3.0) for i in range(4)]
    for line in lines:
        (tmp_path / line.split()[0]).write_bytes(picture(1, "PNG", "L"))
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    monkeypatch.setattr(elpv, "_package_folder", lambda: tmp_path)
    monkeypatch.setattr(builders.Elpv, "COUNTS", {"": {"train": 12, "test": 4}})
    prepare("elpv", data_dir=str(tmp_path))
    builder = builders.Elpv(data_dir=tmp_path)
    examples = [example for split in ("train", "test") for example in builder.as_data_source(split)]
    for example in examples:
        thirds = int(example["file"].decode().split("/")[1][0])
        assert (example["label"], example["defect_probability"]) == (int(thirds >= 2), np.float32(thirds / 3))
        assert example["image"].shape == (6, 9, 1)
    # The same test cells as without tfds.
    test = {example["file"].decode() for example in builder.as_data_source("test")}
    own = find("elpv", root=str(tmp_path), validation_fraction=0.0)
    assert test == {own.files[i] for i in own.rows("test")}


def test_runs_find_them_by_name(made, tmp_path):
    made("caltech256/l2sp-30")
    found = find("tfds/caltech256/l2sp-30", root=str(tmp_path / "tfds"), validation_fraction=0.2)
    assert [len(found.rows(split)) for split in ("train", "validation", "test")] == [72, 18, 6]
    assert {found.files[i] for i in found.rows("test")} >= {"256_ObjectCategories/001.ak47/001_0061.jpg"}
    assert found.class_names[2] == "257.clutter"
    assert "data.caltech.edu" in found.licence
    made("stanford_dogs")  # a name that tfds has too
    assert find("tfds/stanford_dogs", root=str(tmp_path / "tfds"), validation_fraction=0.0).name == (
        "tfds/stanford_dogs/120.0.0"
    )
    with pytest.raises(
        DataError, match=r"not prepared in .*/food101/101.0.0; run: python -m delta_jax.prepare --data=food101"
    ):
        find("tfds/food101", root=str(tmp_path / "tfds"))


def test_tfds_finds_our_builders_and_keeps_its_own(tmp_path):
    assert isinstance(tfds.builder("caltech256/l2sp-30", data_dir=tmp_path), builders.Caltech256)
    for name in ("mit_indoor67", "cub200_2011", "elpv"):
        assert isinstance(tfds.builder(name, data_dir=tmp_path), builders.BUILDERS[name])
    for name in ("stanford_dogs", "food101"):  # its own, which stay
        assert not isinstance(tfds.builder(name, data_dir=tmp_path), builders.ImageSet)


@pytest.mark.skipif(importlib.util.find_spec("elpv_dataset") is None, reason="elpv-dataset is not installed")
def test_the_solar_cells_of_the_package(tmp_path):
    builder = builders.Elpv(data_dir=tmp_path)
    plan = builder._plan({})
    assert {split: len(rows) for split, rows in plan.splits.items()} == builders.Elpv.COUNTS[""]
    name = next(iter(plan.splits["test"]))
    ((found, data),) = plan.read([name])
    assert (found, storable(data, name)) == (name, (data, ""))


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        # Of 30,607 images in 257 folders: 257 x 30, 257 x 60 and what is left of 257 x 60; without the 827 of clutter
        # 29,780 - 256 x 60.
        ("caltech256/l2sp-30", {"train": 7_710, "test": 30_607 - 257 * 60}),
        ("caltech256/l2sp-60", {"train": 15_420, "test": 15_187}),
        ("caltech256/random-30-seed4", {"train": 7_680, "test": 30_607 - 827 - 256 * 60}),
        ("caltech256/random-60-seed4", {"train": 15_360, "test": 14_420}),
        ("stanford_dogs", {"train": 12_000, "test": 8_580}),
        ("mit_indoor67", {"train": 5_360, "test": 1_340}),
        ("cub200_2011", {"train": 5_994, "test": 5_794}),
        ("food101", {"train": 75_750, "test": 25_250}),
        ("elpv", {"train": 1_968, "test": 656}),
    ],
)
def test_the_published_counts(name, counts):
    base, _, config = name.partition("/")
    assert builders.BUILDERS[base].COUNTS[config] == counts


def test_other_counts_end_it_before_any_image_is_read(made):
    lists = {"TestImages.txt": b"kitchen/last.jpg\n"}
    with pytest.raises(
        DataError, match=r"found classes 2, train 3, test 1; expected, as published: classes 2, train 3, test 3"
    ):
        made("mit_indoor67", **lists)


@pytest.mark.parametrize(
    ("name", "replaced", "says"),
    [
        (
            "mit_indoor67",
            {"TestImages.txt": b"kitchen/twin.jpg\nkitchen/x.jpg"},
            "lacks 1 of the images in .*kitchen/x.jpg",
        ),
        ("mit_indoor67", {"TestImages.txt": b"<html>404</html>"}, r"lacks 1 of the images in .*such as <html>404"),
        (
            "mit_indoor67",
            {"indoorCVPR_09.tar": b"x"},
            "has sha1 .*, expected .*; it was cut short or changed: get indoor",
        ),
        ("cub200_2011", {"CUB_200_2011.tgz": b"x"}, "has 1 bytes, expected"),
    ],
)
def test_files_that_are_not_the_published_ones(made, name, replaced, says):
    with pytest.raises(DataError, match=says):
        made(name, **replaced)


@pytest.mark.parametrize(
    ("table", "content"),
    [("parts/parts.txt", b"1 back\n"), ("train_test_split.txt", b"1 1\n"), ("bounding_boxes.txt", b"1 a b c d\n")],
)
def test_tables_that_do_not_fit(monkeypatch, made, table, content):
    with_other = {f"CUB_200_2011/{t}": b"1 1\n" for t in builders.cub200_2011._TABLES} | {
        f"CUB_200_2011/{table}": content
    }
    packed = archive(with_other, "gz")
    monkeypatch.setitem(published_sets.MAKERS, "cub200_2011", lambda: {"CUB_200_2011.tgz": packed})
    with pytest.raises(DataError, match="its tables do not fit each other"):
        made("cub200_2011")


def test_images_that_cannot_be_decoded_are_listed(monkeypatch, made, tmp_path):
    files = published_sets.food101()["food-101.tar.gz"]
    with tarfile.open(fileobj=io.BytesIO(files)) as tar:
        contents = {m.name: tar.extractfile(m).read() for m in tar if m.isreg()}
    for name in ("food-101/images/apple_pie/1005649.jpg", "food-101/images/waffles/971843.jpg"):
        contents[name] = b"\xff\xd8nothing"
    packed = archive(contents, "gz")
    monkeypatch.setitem(published_sets.MAKERS, "food101", lambda: {"food-101.tar.gz": packed})
    with pytest.raises(DataError) as raised:
        made("food101")
    for part in ("2 images of food101/101.0.0 cannot be decoded", "1005649.jpg (", "971843.jpg ("):
        assert part in str(raised.value)
    assert not list((tmp_path / "tfds" / "food101").iterdir())


def test_whole_photos_are_stored_as_they_are_and_others_with_a_remark():
    jpeg = picture(5)
    assert storable(jpeg, "a/b.JPG") == (jpeg, "")
    assert storable(picture(5, "PNG"), "b.png") == (picture(5, "PNG"), "")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", quality=95)
    cut, remark = storable(file.getvalue()[:-2000], "cut.jpg")
    assert remark.startswith("a damaged JPEG (")
    whole, kept = Image.open(file), Image.open(io.BytesIO(cut))
    assert kept.format == "PNG"
    np.testing.assert_array_equal(np.asarray(kept)[:16], np.asarray(whole)[:16])
    for kind, mode in (("GIF", "P"), ("BMP", "RGB"), ("TIFF", "RGB"), ("WEBP", "RGB")):
        stored, remark = storable(picture(8, kind, mode), "x.jpg")
        assert remark == f"a {kind}; stored as PNG"
        assert Image.open(io.BytesIO(stored)).format == "PNG"
    for nothing in (b"", b"GIF89a", b"%!PS-Adobe"):
        with pytest.raises(BrokenImageError):
            storable(nothing, "x.jpg")


def test_a_file_that_is_missing_by_hand_is_named_with_its_address(tmp_path):
    with pytest.raises(DataError) as raised:
        prepare("stanford_dogs", data_dir=str(tmp_path), manual_dir=str(tmp_path))
    for part in (
        f"{tmp_path} lacks 2 of the files",
        "images.tar (793,579,520 bytes, sha256 a443fc2f",
        "from http://vision.stanford.edu/aditya86/ImageNetDogs/images.tar",
        "lists.tar (about 0.5 MB, sha256 34b47cac",
    ):
        assert part in str(raised.value)


def test_every_pinned_digest_has_the_length_of_its_kind():
    lengths = {"sha256": 64, "sha1": 40, "md5": 32}
    files = [file for builder in builders.BUILDERS.values() for file in builder.ORIGINALS]
    assert len(files) == 8
    for file in files:
        assert isinstance(file, originals.Original)
        assert not file.digits or len(file.digits) == lengths[file.algorithm]
    assert [file.name for file in files if not file.digits] == ["TrainImages.txt", "TestImages.txt"]
