"""The images of a split on the device and streamed: the same batches."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image

from delta_jax import data
from delta_jax.processes import sharding
from delta_jax.training import image_sets
from delta_jax.training.image_sets import ImageSet
from tests.small_run import make_photos


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    base = tmp_path_factory.mktemp("images")
    root = make_photos(base / "photos", per_class=8)
    catalogue = data.find("folder", root=str(root), validation_fraction=0.25, test_fraction=0.25)
    return data.decode(catalogue, 8, cache_dir=base / "decoded")


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh()


@pytest.mark.parametrize("on_device", ["yes", "no"])
def test_a_batch_is_the_rows_asked_for_split_over_the_devices(images, mesh, on_device):
    train = ImageSet(images, "train", mesh, on_device=on_device)
    assert train.resident == (on_device == "yes")
    picked = np.array([5, 0, 3, 3, 1, 8, 2, 10], np.int32)
    batch = train.batch(picked)
    rows = np.flatnonzero(images.catalogue.split == "train")[picked]
    np.testing.assert_array_equal(batch["image"], images.array[rows])
    np.testing.assert_array_equal(batch["label"], images.catalogue.labels[rows])
    np.testing.assert_array_equal(batch["index"], picked)
    assert batch["image"].dtype == np.uint8
    for array in batch.values():
        split = NamedSharding(mesh, PartitionSpec("data"))
        assert array.sharding.is_equivalent_to(split, array.ndim)


@pytest.mark.parametrize("on_device", ["yes", "no"])
def test_batches_cover_a_split_once_in_order(images, mesh, on_device):
    train = ImageSet(images, "train", mesh, on_device=on_device)
    parts, labels = [], []
    for _, mask, batch in train.batches(4):
        kept = int(mask.sum())
        assert batch["image"].shape == (4, 8, 8, 3)
        parts.append(np.asarray(batch["image"])[:kept])
        labels.append(np.asarray(batch["label"])[:kept])
    np.testing.assert_array_equal(np.concatenate(parts), images.array[images.catalogue.rows("train")])
    np.testing.assert_array_equal(np.concatenate(labels), train.labels)
    assert len(train.files) == len(train) == len(train.labels)


@pytest.fixture(scope="module")
def whole_images(tmp_path_factory):
    """Photos of other shapes, which keep them: wide, high, square."""
    base = tmp_path_factory.mktemp("whole_images")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (base / "photos" / name).mkdir(parents=True)
        for i in range(9):
            pixels = rng.integers(0, 256, [(20, 27, 3), (31, 20, 3), (20, 20, 3)][i % 3], np.uint8)
            Image.fromarray(pixels).save(base / "photos" / name / f"{i}.png")
    catalogue = data.find("folder", root=str(base / "photos"), validation_fraction=0.25, test_fraction=0.25)
    return data.decode(catalogue, 10, aspect="keep", cache_dir=base / "decoded")


def test_whole_images_are_the_same_on_the_device_and_streamed(whole_images, mesh):
    held, streamed = (ImageSet(whole_images, "train", mesh, on_device=answer) for answer in ("yes", "no"))
    picked = np.array([5, 0, 3, 3, 1, 8, 2, len(held) - 1], np.int32)
    batch = held.batch(picked)
    # The longest is 31 : 20, so 15 pixels long.
    assert batch["image"].pixels.shape == (8, 15, 10, 3)
    for one, other, axis in zip(batch["image"], streamed.batch(picked)["image"], (4, 1, 1), strict=True):
        np.testing.assert_array_equal(one, other)
        split = NamedSharding(mesh, PartitionSpec("data"))
        assert one.sharding.is_equivalent_to(split, axis)
        assert other.sharding.is_equivalent_to(split, axis)
    rows = np.flatnonzero(whole_images.catalogue.split == "train")[picked]
    for pixels, length, turned, row in zip(*map(np.asarray, batch["image"]), rows, strict=True):
        content = whole_images.catalogue.read(row)
        image = pixels[:length].swapaxes(0, 1) if turned else pixels[:length]
        np.testing.assert_array_equal(image, data.decode_image(content, 10, aspect="keep"))


def test_auto_streams_what_does_not_fit(images, mesh, monkeypatch):
    assert ImageSet(images, "train", mesh, on_device="auto").resident
    size = len(images.catalogue) * 8 * 8 * 3
    monkeypatch.setattr(image_sets, "_memory", lambda: int(size / image_sets.SHARE_OF_MEMORY) - 1)
    assert not ImageSet(images, "train", mesh, on_device="auto").resident
    assert ImageSet(images, "train", mesh, on_device="yes").resident
    monkeypatch.setattr(image_sets, "_memory", lambda: size - 1)
    with pytest.raises(data.DataError, match=r"on_device=yes: the decoded images take 4,608 bytes, and a device has"):
        ImageSet(images, "train", mesh, on_device="yes")


def test_a_stream_is_the_batches_of_its_table_in_order(images, whole_images, mesh):
    for source in (images, whole_images):
        held, streamed = (ImageSet(source, "train", mesh, on_device=answer) for answer in ("yes", "no"))
        table = data.batch_table(3, 20, len(held), 4)
        found = list(zip(held.stream(table), streamed.stream(table), table, strict=True))
        assert len(found) == 20
        for one, other, rows in found:
            np.testing.assert_array_equal(one["index"], rows)
            for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
                np.testing.assert_array_equal(a, b)
                assert a.sharding.is_equivalent_to(b.sharding, a.ndim)


def test_an_empty_split_has_no_batches(images, mesh):
    catalogue = images.catalogue
    only_train = data.Images(images.array, catalogue.take(catalogue.rows("train")), ())
    assert list(ImageSet(only_train, "validation", mesh, on_device="yes").batches(4)) == []


def test_a_batch_that_does_not_divide_is_refused_with_one_that_does(mesh):
    assert mesh.size == 4
    sharding.check_divides(8, mesh, "batch_size")
    with pytest.raises(ValueError, match=r"--config.batch_size=10 is not a multiple of the 4 devices; try 8"):
        sharding.check_divides(10, mesh, "batch_size")
    with pytest.raises(ValueError, match="try 4"):
        sharding.check_divides(3, mesh, "batch_size")
