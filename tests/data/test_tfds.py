"""Prepared TensorFlow Datasets, without tensorflow: a toy set is written and read."""

import hashlib
import io
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from delta_jax.data import DataError, decode, find


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((6, 8, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


class Toy(tfds.core.GeneratorBasedBuilder):
    """Image k of a split is of colour k and labelled k % 2."""

    # For a builder inside a package, tfds looks for the package's files with importlib_resources, an extra install.
    __module__ = "toy"
    VERSION = tfds.core.Version("1.2.0")
    SPLITS: tuple[str, ...] = ("train", "test")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": self.label(),
            "note": tfds.features.Text(),
            "patient": tfds.features.Scalar(np.int64),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def label(self):
        return tfds.features.ClassLabel(names=["even", "odd"])

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(20 if split == "train" else 6) for split in self.SPLITS}

    def _generate_examples(self, count):
        for k in range(count):
            yield k, {"image": png(k), "label": k % 2, "note": "x", "patient": 100 * count + k // 4}


class ToyThreeParts(Toy):
    __module__ = "toy"
    SPLITS = ("train", "validation", "test")


class ToyTwoParts(Toy):
    __module__ = "toy"
    SPLITS = ("train", "validation")


class ToyWithoutTrain(Toy):
    __module__ = "toy"
    SPLITS = ("everything",)


class ToyWithoutClasses(Toy):
    __module__ = "toy"

    def label(self):
        return tfds.features.Scalar(np.int64)


class ToyNotPrepared(Toy):
    __module__ = "toy"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for builder in (Toy, ToyThreeParts, ToyTwoParts, ToyWithoutTrain, ToyWithoutClasses):
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return str(folder)


def test_labels_images_and_splits(root, tmp_path):
    found = find("tfds/toy", root=root)
    assert found.name == "tfds/toy/1.2.0"
    assert found.class_names == ("even", "odd")
    assert found.counts() == {
        "train": {"even": 8, "odd": 8},
        "validation": {"even": 2, "odd": 2},
        "test": {"even": 3, "odd": 3},
    }
    assert all(file.startswith("test[") for file in np.array(found.files)[found.rows("test")])
    images = decode(found, 4, cache_dir=tmp_path)
    colours = images.array[:, 0, 0, 0]
    np.testing.assert_array_equal(colours % 2, found.labels)
    np.testing.assert_array_equal(images.array, np.broadcast_to(colours[:, None, None, None], (26, 4, 4, 3)))
    np.testing.assert_array_equal(np.sort(colours), sorted([*range(20), *range(6)]))
    np.testing.assert_array_equal(found.sizes, [len(found.read(i)) for i in range(26)])
    assert list(found.contents) == [hashlib.sha256(found.read(i)).hexdigest() for i in range(26)]


def test_groups_are_a_feature(root):
    torn = find("tfds/toy", root=root)
    assert [note for note in torn.notes if "groups by patient have images in more than one split" in note]
    found = find("tfds/toy", root=root, group="patient")
    colour = [Image.open(io.BytesIO(found.read(i))).getpixel((0, 0))[0] for i in range(len(found))]
    who = {split: {colour[i] // 4 for i in found.rows(split)} for split in ("train", "validation")}
    assert (len(who["train"]), len(who["validation"])) == (4, 1)  # 20 images, 4 of each of 5 patients
    assert who["train"].isdisjoint(who["validation"])
    assert "7 groups by patient are kept whole: 4 in train, 1 in validation, 2 in test" in found.notes
    with pytest.raises(DataError, match=r"group is 'doctor'; expected a text or a number .*: note, patient"):
        find("tfds/toy", root=root, group="doctor")


def test_which_split_serves_as_which(root):
    three = find("tfds/toy_three_parts", root=root)
    assert [len(three.rows(s)) for s in ("train", "validation", "test")] == [20, 6, 6]
    assert {three.files[i].split("[")[0] for i in three.rows("validation")} == {"validation"}
    two = find("tfds/toy_two_parts", root=root)
    assert [len(two.rows(s)) for s in ("train", "validation", "test")] == [16, 4, 6]
    assert {two.files[i].split("[")[0] for i in two.rows("test")} == {"validation"}
    with pytest.raises(DataError, match="has the splits everything; expected at least train"):
        find("tfds/toy_without_train", root=root)


def test_a_tfds_name_that_is_none_or_not_prepared_or_no_classification_is_refused(root):
    with pytest.raises(DataError, match=r"'caltech_bird' .*close: caltech_birds2011") as raised:
        find("tfds/caltech_bird", root=root)
    assert len(str(raised.value)) < 400  # tfds itself lists all of its data sets
    with pytest.raises(DataError, match=r"not prepared in .*file_format='array_record'.*download_and_prepare"):
        find("tfds/toy_not_prepared", root=root)
    with pytest.raises(
        DataError, match=r"features image, label, note, patient; expected 'image' \(Image\) and 'label'"
    ):
        find("tfds/toy_without_classes", root=root)
    with pytest.raises(DataError, match="BuilderConfig none_such not found"):
        find("tfds/toy/none_such", root=root)


def test_importing_the_package_needs_no_loader_and_no_tensorflow_and_is_enough_for_its_builders():
    code = (
        "import sys, delta_jax.data; print({'tensorflow', 'grain', 'sklearn'} & set(sys.modules)); "
        "import tensorflow_datasets as tfds; print(tfds.builder('caltech256/l2sp-30').info.full_name)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\ncaltech256/l2sp-30/1.0.0\n"
