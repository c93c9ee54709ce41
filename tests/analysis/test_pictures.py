import math
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from delta_jax.analysis.pictures import confusion, curves, filters


def records():
    generator = np.random.default_rng(0)
    for step in range(0, 9000, 50):
        cross_entropy = 3 * math.exp(-step / 1500) + 0.05 + 0.05 * generator.random()
        penalty = 0.4 * (1 - math.exp(-step / 800))
        values = {"cross_entropy": cross_entropy, "penalty": penalty, "head_penalty": 0.01 + step * 1e-6}
        rate = 0.01 if step < 6000 else 0.001
        yield {"phase": "fine_tune", "step": step, "time": 0.0, "loss": sum(values.values()), **values} | {
            "learning_rate": rate
        }
        if step % 1000 == 0:
            yield {"phase": "validation", "step": step, "time": 0.0, "top1": 0.86 - 0.3 * math.exp(-step / 1000)}


def test_curves_are_the_same_picture_each_time(tmp_path):
    curves(list(records()), tmp_path / "a.png")
    curves(list(records()), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (1210, 440)


@pytest.mark.parametrize(
    "few",
    [
        [{"phase": "fine_tune", "step": 1, "loss": 0.5}],
        [{"phase": "fine_tune", "step": step, "loss": math.nan, "penalty": 0.0} for step in range(3)],
        [{"phase": "fine_tune", "step": step, "loss": 1.0, "penalty": step} for step in range(3)],
        [{"phase": "validation", "step": 1, "top1": 0.5}],
    ],
)
def test_curves_of_little(tmp_path, few):
    curves(few, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert np.asarray(image.convert("L")).std() > 5  # not empty


def test_curves_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="found: attention"):
        curves([{"phase": "attention", "step": 1}], tmp_path / "a.png")


def blobs(count, size, channels, *, seed):
    """Maps with one bump each, [count, size, size, channels]."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    centres = generator.uniform(1, size - 1, (2, count, 1, 1, channels))
    grid = np.stack([y, x])[:, None, :, :, None]
    return np.exp(-((grid - centres) ** 2).sum(axis=0) / size)


def grid_of_filters(path, **changes):
    arguments: dict[str, Any] = {
        "photos": np.random.default_rng(0).integers(0, 255, (3, 6, 8, 3), dtype=np.uint8).repeat(16, 1).repeat(16, 2),
        "before": {"layer3_5/conv3": blobs(3, 14, 2, seed=1), "layer4_2/conv3": blobs(3, 7, 1, seed=2)},
        "after": {"layer3_5/conv3": blobs(3, 14, 2, seed=3), "layer4_2/conv3": np.zeros((3, 7, 7, 1), np.float16)},
        "filter_ids": {"layer3_5/conv3": [17, 903], "layer4_2/conv3": np.array([2011])},
        "titles": ["Chihuahua", "a $ or _ is no formula", "名前"],
    }
    filters(path=path, **(arguments | changes))


def test_filters_are_the_same_picture_each_time(tmp_path):
    grid_of_filters(tmp_path / "a.png")
    grid_of_filters(tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        # 7 columns of 1.5 inches + 0.5 by 3 rows of 1.5 * 96 / 128 + 0.8, at 110 dots per inch
        assert image.size == (1210, 459)


def test_a_map_is_scaled_by_itself_and_lies_on_its_photo(tmp_path):
    # One filter that sees the upper left quarter, which is white in a black photo.
    maps = np.zeros((1, 2, 2, 1))
    maps[0, 0, 0, 0] = 1
    photo = np.zeros((1, 64, 64, 3), np.uint8)
    photo[:, :32, :32] = 255
    for name, scale, offset in [("a", 1.0, 0.0), ("b", 1000.0, -3.0)]:
        filters(photo, {"tap": maps * 0}, {"tap": maps * scale + offset}, {"tap": [0]}, tmp_path / f"{name}.png", ["x"])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)

    def places(*colour):
        return np.argwhere(np.abs(pixels - colour).max(axis=-1) <= 4)

    # Half the photo, half the colour map, which ends in (253, 231, 37) and begins in (68, 1, 84):
    peak, empty = places(254, 243, 146), places(34, 0, 42)
    in_last = empty[empty[:, 1] > 2 / 3 * pixels.shape[1]]
    assert len(peak) > 50
    assert len(in_last) > 50
    assert peak[:, 1].min() > 2 / 3 * pixels.shape[1]  # the last of three columns
    assert (peak.max(axis=0) < in_last.max(axis=0) - 40).all()  # up and to the left of what the filter does not see
    assert len(places(127, 116, 18)) == 0  # the peak over black


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"after": {"layer3_5/conv3": blobs(3, 14, 3, seed=1)}}, r"\(3, 14, 14, 3\), expected \(3, h, w, 2\)"),
        ({"before": {"layer3_5/conv3": blobs(2, 14, 2, seed=1)}}, r"\(2, 14, 14, 2\), expected \(3, h, w, 2\)"),
        ({"titles": ["one"]}, "1 titles for 3 photos"),
    ],
)
def test_shapes_that_do_not_go_together(tmp_path, changes, says):
    with pytest.raises(ValueError, match=says):
        grid_of_filters(tmp_path / "a.png", **changes)


@pytest.mark.parametrize("classes", [2, 40, 61])
def test_a_confusion_matrix_of_any_size_is_drawn(tmp_path, classes):
    matrix = np.diag(np.arange(classes))  # an empty row, too
    matrix[1, 0] = 3
    for file in ("a.png", "b.png") if classes == 2 else ("a.png",):
        confusion(matrix, [f"größe $1^ {i} " + "long " * (i % 9) for i in range(classes)], tmp_path / file)
        assert (tmp_path / file).read_bytes() == (tmp_path / "a.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert max(image.size) < 1500
        assert np.asarray(image.convert("L")).std() > 5


def test_a_confusion_matrix_is_coloured_by_the_part_of_its_row(tmp_path):
    confusion(np.array([[1, 0], [500, 500]]), ["rare", "common"], tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    colours, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    areas = {tuple(colour): n for colour, n in zip(colours.tolist(), counts.tolist(), strict=True)}
    # 1 of 1 has the last colour of Blues, twice 500 of 1000 the middle one.
    whole, half = (colormaps["Blues"](share, bytes=True)[:3] for share in (1.0, 0.5))
    assert areas[tuple(map(int, whole))] > 1000
    assert areas[tuple(map(int, half))] == pytest.approx(2 * areas[tuple(map(int, whole))], rel=0.1)


def test_a_confusion_matrix_of_other_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"shape \(2, 2\) for 3 classes"):
        confusion(np.eye(2, dtype=int), "abc", tmp_path / "a.png")
