"""Annotated parts: lists as published, points by hand and by a mark in a photo, Table 3 of runs on small photos."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from delta_jax import data
from delta_jax.analysis import parts
from delta_jax.data import part_locations
from delta_jax.training import trainer
from delta_jax.training.config import ConfigError
from tests import published_sets
from tests.small_run import CLASSES, TAPS, make_photos, small_config


def write_lists(folder, files, points, names=("beak", "left eye")):
    """As in CUB_200_2011: images and parts are numbered from 1; `points` are (image, part, x, y, visible)."""
    (folder / "parts").mkdir(parents=True)
    (folder / "images.txt").write_text("".join(f"{i} {file}\n" for i, file in enumerate(files, 1)))
    (folder / "parts" / "parts.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    (folder / "parts" / "part_locs.txt").write_text("".join(f"{' '.join(map(str, one))}\n" for one in points))
    return folder


def test_the_published_lists_are_read(tmp_path):
    files = ["001.Auk/Auk_1.jpg", "002.Owl/Owl_2.jpg"]
    points = [(1, 1, 312.0, 182.5, 1), (1, 2, 0.0, 0.0, 0), (2, 2, 30.0, 40.0, 1)]
    found = part_locations("folder", folder=str(write_lists(tmp_path / "cub", files, points)))
    assert found.names == ("beak", "left eye")
    np.testing.assert_array_equal(found.of("images/001.Auk/Auk_1.jpg"), [[312, 182.5, 1], [0, 0, 0]])
    np.testing.assert_array_equal(found.of("002.Owl/Owl_2.jpg"), [[0, 0, 0], [30, 40, 1]])
    with pytest.raises(data.DataError, match=r"annotated of images/003.Emu/Emu_1.jpg; those of 2 images"):
        found.of("images/003.Emu/Emu_1.jpg")


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ([(1, 3, 1.0, 1.0, 1)], "part 3, and there are 2 parts"),
        ([(9, 1, 1.0, 1.0, 1)], "KeyError"),
        ([(1, 1, 1.0, 1.0)], "not enough values"),
        ([(1, 1, "x", 1.0, 1)], "could not convert"),
    ],
)
def test_lists_that_do_not_fit_each_other(tmp_path, points, says):
    write_lists(tmp_path / "cub", ["001.Auk/Auk_1.jpg"], points)
    with pytest.raises(data.DataError, match=says):
        part_locations("folder", folder=str(tmp_path / "cub"))


def test_without_annotations(tmp_path):
    with pytest.raises(data.DataError, match=r"no annotated parts.*expected images.txt, parts/parts.txt"):
        part_locations("folder", folder=str(tmp_path))
    with pytest.raises(data.DataError, match="elpv brings no annotated parts along"):
        part_locations("elpv")
    with pytest.raises(data.DataError, match=r"not prepared in .*delta_jax.prepare --data=tfds/cub200_2011"):
        part_locations("tfds/cub200_2011", str(tmp_path))


def test_the_prepared_data_set_brings_its_parts_along(tmp_path, monkeypatch):
    files = published_sets.publish("cub200_2011", lambda file: f"http://none.invalid/{file}", monkeypatch.setattr)
    (tmp_path / "manual").mkdir()
    for file, written in files.items():
        (tmp_path / "manual" / file).write_bytes(written)
    data.prepare("cub200_2011", data_dir=str(tmp_path / "tfds"), manual_dir=str(tmp_path / "manual"))
    found = part_locations("tfds/cub200_2011", str(tmp_path / "tfds"))
    assert len(found.names) == 15
    assert len(found.points) == 4
    # Of image i, part p lies at (10 i + p, p), and the left eye, the seventh, is not visible.
    expected = [(0, 0, 0) if p == 7 else (40 + p, p, 1) for p in range(1, 16)]
    np.testing.assert_array_equal(found.of("CUB_200_2011/images/002.Laysan_Albatross/Laysan_0003_1033.jpg"), expected)


def test_points_in_the_crop_by_hand():
    # 200 x 100 squashed to 64 x 64, of which 48 are left: x * 64 / 200 - 8, y * 64 / 100 - 8.
    points = np.array([[100, 50], [0, 0], [199, 99]])
    found = data.points_in_crop(points, (200, 100), 64, 48)
    np.testing.assert_allclose(found, [[24, 24], [-8, -8], [55.68, 55.36]])
    # 300 x 200 with its aspect kept: 96 x 64, margins of 24 and 8.
    found = data.points_in_crop(np.array([[150, 100], [300, 200]]), (300, 200), 64, 48, aspect="keep")
    np.testing.assert_allclose(found, [[24, 24], [72, 56]])
    # Of 1000 x 100 the middle 200 x 100 is kept, 128 x 64.
    found = data.points_in_crop(np.array([[500, 50], [400, 0]]), (1000, 100), 64, 48, aspect="keep")
    np.testing.assert_allclose(found, [[24, 24], [-40, -8]])


@pytest.mark.parametrize("aspect", ["squash", "keep"])
@pytest.mark.parametrize(("width", "height", "turned"), [(200, 120, False), (90, 240, False), (120, 200, True)])
def test_a_point_lies_where_the_photo_has_a_mark(aspect, width, height, turned):
    x, y = 0.55 * width, 0.45 * height
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[int(y) - 4 : int(y) + 4, int(x) - 4 : int(x) + 4] = 255
    photo, exif, content = Image.fromarray(pixels), Image.Exif(), io.BytesIO()
    if turned:  # stored lying on its side
        photo, exif[0x0112] = photo.transpose(Image.Transpose.ROTATE_90), 6
    photo.save(content, "PNG", exif=exif)
    decoded = data.decode_image(content.getvalue(), 64, aspect=aspect)
    pixels = decoded[None] if aspect == "squash" else data.to_canvas([decoded])
    crop = np.asarray(data.center_crop(pixels, 48))[0, ..., 0].astype(float)
    size = data.photo_size(content.getvalue())
    assert size == (width, height)
    # The marked pixels have their middle at whole numbers: pixel i is from i to i + 1.
    ((found_x, found_y),) = data.points_in_crop(np.array([[int(x), int(y)]]), size, 64, 48, aspect=aspect)
    rows, columns = np.mgrid[:48, :48] + 0.5
    assert (crop * columns).sum() / crop.sum() == pytest.approx(found_x, abs=0.25)
    assert (crop * rows).sum() / crop.sum() == pytest.approx(found_y, abs=0.25)


def test_no_photo_has_no_size():
    with pytest.raises(data.BrokenImageError, match="not one of JPEG"):
        data.photo_size(b"no photo")


def test_a_part_has_the_value_of_its_cell():
    maps = np.arange(12, dtype=np.float32).reshape(1, 3, 4)  # cells 8 wide and 10.67 high on 32 pixels
    points = np.array([[[0, 0], [31.9, 31.9], [8, 10.6], [7.9, 10.7], [-0.1, 5], [5, 32], [np.nan, np.nan]]])
    np.testing.assert_array_equal(parts.at_points(maps, points, 32), [[0, 11, 1, 4, np.nan, np.nan, np.nan]])


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    """A run whose network is the source, one whose last filters are turned round, and annotations of the photos."""
    root = tmp_path_factory.mktemp("parts") / "photos"
    make_photos(root, per_class=12)
    workdir = root.parent / "run"
    trainer.fit(small_config(root, method="l2_fe", head_l2=(0.01,)), workdir)
    shutil.copytree(workdir, root.parent / "turned")
    model = load_file(workdir / "model.safetensors")
    model[f"params/{TAPS[-1]}/kernel"] *= -1
    save_file(model, root.parent / "turned" / "model.safetensors")
    files = [f"{name}/{i:02}.png" for name in CLASSES for i in range(12)]
    rng = np.random.default_rng(0)
    # Photos of 48 pixels, in 3 parts: anywhere, at the edge that is cropped away, invisible.
    points = [(i, 1, *rng.uniform(8, 40, 2).tolist(), 1) for i in range(1, len(files) + 1)]
    points += [(i, 2, 1.0, 24.0, 1) for i in range(1, len(files) + 1)]
    write_lists(root.parent / "cub", files, points, ("beak", "tail", "throat"))
    return root.parent


def test_the_table_of_two_runs(birds, capsys):
    source, same, turned = parts.part_activations([birds / "run", birds / "turned"], str(birds / "cub"))
    assert [one.network for one in (source, same, turned)] == ["source", "l2_fe", "l2_fe"]
    assert source.images == source.parts == 9  # of 36 photos a quarter; one part of each is seen
    assert 0 < source.sum < 1
    assert source.sum == source.per_part == same.sum
    # A map times -1 has 1 - a where it had a; no filter of the random source is constant.
    assert turned.sum == pytest.approx(1 - source.sum, abs=1e-5)
    parts.main([f"--annotations={birds / 'cub'}", str(birds / "run"), str(birds / "turned")])
    told = capsys.readouterr().out
    assert "9 visible parts of 9 test images" in told
    assert "0.500 ± " in told  # the mean of a and 1 - a


def test_runs_that_are_not_of_one_source(birds, tmp_path):
    shutil.copytree(birds / "run", tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"weights": "elsewhere"}))
    with pytest.raises(ConfigError, match=r"weights of .*other is elsewhere"):
        parts.part_activations([birds / "run", tmp_path / "other"], str(birds / "cub"))
    with pytest.raises(SystemExit, match="folder brings no annotated parts along"):
        parts.main([str(birds / "run")])
    with pytest.raises(SystemExit, match="no tap called 'nowhere'"):
        parts.main(["--tap=nowhere", f"--annotations={birds / 'cub'}", str(birds / "run")])
