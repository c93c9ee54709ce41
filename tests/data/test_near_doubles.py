"""Images that look alike: thumbnails and copies that were saved again."""

import io
import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image

from delta_jax.data import decode, find, near_doubles
from delta_jax.data.near_doubles import describe_near_doubles, find_near_doubles
from delta_jax.training import config as configs
from delta_jax.training import stored_config
from delta_jax.training.setup import Setup
from tests import small_run


def photo(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """Smooth blobs of colour, as photos are smooth; no two seeds are alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def decoded(tmp_path):
    def of(pictures: dict[str, Image.Image], **options: Any):
        for name, picture in pictures.items():
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
        catalogue = find("folder", root=str(tmp_path / "set"), validation_fraction=0)
        return decode(catalogue, 40, cache_dir=tmp_path / "cache", **options)

    return of


def pictures(**changed: Image.Image) -> dict[str, Image.Image]:
    own = {
        f"{split}/{name}/{i}.png": photo(100 * k + 10 * j + i)
        for k, split in enumerate(("train", "test"))
        for j, name in enumerate(("cat", "dog"))
        for i in range(4)
    }
    return own | {name.replace("__", "/") + ".png": picture for name, picture in changed.items()}


def thumbnail(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    picture.resize((picture.width // 2, picture.height // 2)).save(file, "JPEG", quality=60)
    return Image.open(file)


@pytest.mark.parametrize("aspect", ["squash", "keep"])
def test_thumbnails_and_copies_are_found(decoded, aspect):
    images = decoded(
        pictures(
            test__cat__0=thumbnail(photo(2)),  # of train/cat/2
            test__dog__1=photo(11).convert("L"),  # train/dog/1 in grey
            train__dog__3=thumbnail(photo(1)),  # train/cat/1 under another label
            test__dog__2=photo(12),  # the same bytes, which the comparison of bytes finds
            train__cat__3=thumbnail(photo(0)),  # the same split and label
        ),
        aspect=aspect,
    )
    found = find_near_doubles(images)
    files = images.catalogue.files
    assert [(files[known], files[row]) for known, row, _ in found] == [
        ("train/cat/1.png", "train/dog/3.png"),
        ("train/cat/2.png", "test/cat/0.png"),
        ("train/dog/1.png", "test/dog/1.png"),
    ]
    assert all(alike > near_doubles.ALIKE for *_, alike in found)
    text = describe_near_doubles(images.catalogue, found, at_most=2)
    assert text.startswith("warning: 3 images look like one of another split or class")
    assert "test test/dog/1.png (dog) looks like train train/dog/1.png (dog): " in text
    assert text.endswith("and 1 more")
    assert describe_near_doubles(images.catalogue, []) == ""


def test_correlations_are_those_of_a_loop(decoded, monkeypatch):
    images = decoded(pictures())
    monkeypatch.setattr(near_doubles, "ALIKE", -0.5)
    monkeypatch.setattr(near_doubles, "_BLOCK", 40)  # blocks of two or three images
    monkeypatch.setattr(near_doubles, "_CHUNK", 3)
    seen: list[int] = []
    found = {row: (known, alike) for known, row, alike in find_near_doubles(images, progress=seen.append)}
    assert sum(seen) == 16
    # Fields of 40 / 16 pixels: their edges lie at 0, 2, 5, 7, 10 and so on.
    edges = [5 * i // 2 for i in range(17)]
    grey = np.asarray(images.array, float) @ [0.299, 0.587, 0.114]
    small = [[one[a:b, c:d].mean() for a, b in pairwise(edges) for c, d in pairwise(edges)] for one in grey]
    split, labels = images.catalogue.split, images.catalogue.labels
    for row in range(16):
        others = [
            other
            for other in range(16)
            if (other < row and split[other] == split[row] and labels[other] != labels[row])
            or (split[other], split[row]) == ("train", "test")
        ]
        if not others:
            assert row not in found
            continue
        alike = {other: np.corrcoef(small[other], small[row])[0, 1] for other in others}
        best = max(alike, key=alike.__getitem__)
        assert found[row] == (best, pytest.approx(alike[best], abs=1e-5))


def test_flat_pictures_are_not_compared(decoded):
    grey = [Image.new("RGB", (50, 50), (200, 200, 200 + i)) for i in range(2)]
    assert find_near_doubles(decoded(pictures(train__cat__0=grey[0], test__cat__0=grey[1]))) == []


def test_pictures_smaller_than_the_grid():
    small = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), np.uint8)
    means = near_doubles.grey_fields(small)
    assert means.shape == (2, 256)
    # The field of row 5 and column 2 begins at 9 * 5 // 16 = 2 and 9 * 2 // 16 = 1, and holds no more than that pixel.
    np.testing.assert_allclose(means[1, 5 * 16 + 2], small[1, 2, 1] @ [0.299, 0.587, 0.114], rtol=1e-5)


def test_the_field_asks_for_it(tmp_path, capsys):
    root = small_run.make_photos(tmp_path / "photos", per_class=12)
    Image.open(root / "blue" / "00.png").save(root / "red" / "copy.bmp")
    for asked in (False, True):
        _ = Setup(configs.resolve(small_run.small_config(root, data__near_doubles=asked, batch_size=4))).images
        assert ("looks like" in capsys.readouterr().out) == asked
    before = json.loads(json.dumps(configs.resolve(small_run.small_config(root)).to_dict()))
    assert not stored_config.differences(before | {"data": before["data"] | {"near_doubles": True}}, before)
