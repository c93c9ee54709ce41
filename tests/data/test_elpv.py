"""The solar cells: a small copy of the package's layout, and the package itself where it is installed."""

import hashlib
import importlib.util
import sys

import numpy as np
import pytest

from delta_jax.data import DataError, decode_image, find

installed = pytest.mark.skipif(importlib.util.find_spec("elpv_dataset") is None, reason="elpv-dataset is not installed")


def write_table(folder, lines):
    (folder / "images").mkdir(exist_ok=True)
    for line in lines:
        (folder / line.split()[0]).write_bytes(b"x" * 10)
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def cells(count=8):
    kinds = [(p, kind) for p in ("0.0", "0.3333333333333333", "0.6666666666666666", "1.0") for kind in ("mono", "poly")]
    return [f"images/{k}_{i}.png  {p}   {kind}" for k, (p, kind) in enumerate(kinds) for i in range(count)]


def test_labels_follow_the_probability(tmp_path):
    write_table(tmp_path, cells())
    two, four = find("elpv", root=str(tmp_path)), find("elpv_4class", root=str(tmp_path))
    # File k_i has the k-th pair: probabilities 0 0 1/3 1/3 2/3 2/3 1 1; defective from 1/2.
    k = np.array([int(file.split("/")[1][0]) for file in two.files])
    np.testing.assert_array_equal(two.labels, (k >= 4).astype(int))
    np.testing.assert_array_equal(four.labels, k // 2)
    assert two.class_names == ("functional", "defective")
    assert len(four.class_names) == 4
    np.testing.assert_array_equal(two.split, four.split)
    # 8 cells of each probability and kind: a quarter of each for testing.
    assert np.bincount(k[two.rows("test")]).tolist() == [2] * 8


def test_test_cells_are_the_same_for_every_seed(tmp_path):
    write_table(tmp_path, cells())
    found = [find("elpv", root=str(tmp_path), seed=seed) for seed in (0, 1)]
    np.testing.assert_array_equal(found[0].rows("test"), found[1].rows("test"))
    assert (found[0].rows("validation") != found[1].rows("validation")).any()
    with pytest.raises(DataError, match=r"test_fraction is 0.3, but .* published quarter"):
        find("elpv", root=str(tmp_path), test_fraction=0.3)


def test_a_damaged_package_of_solar_cells_is_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"no table of labels .*pip install --force-reinstall elpv-dataset"):
        find("elpv", root=str(tmp_path))
    write_table(tmp_path, cells())
    (tmp_path / "images" / "3_1.png").unlink()
    with pytest.raises(DataError, match=r"names images/3_1.png, which cannot be read"):
        find("elpv", root=str(tmp_path))
    write_table(tmp_path, [*cells(), "images/x.png 1.0 octo"])
    with pytest.raises(DataError, match=r"labels.csv, line 65: found 'images/x.png 1.0 octo'"):
        find("elpv", root=str(tmp_path))
    write_table(tmp_path, [*cells(), "images/x.png 7.0 mono"])
    with pytest.raises(DataError, match="probabilities from 0 to 1"):
        find("elpv", root=str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install elpv-dataset"):
        find("elpv")


@installed
def test_the_solar_cells_of_the_package_are_all_there():
    found = find("elpv")
    assert "elpv_dataset" not in sys.modules  # found, not imported
    # 2,624 cells; per probability 0, 1/3, 2/3, 1: 1508, 295, 106, 715 (counted in labels.csv with awk).
    assert np.bincount(found.labels).tolist() == [1508 + 295, 106 + 715]
    assert np.bincount(find("elpv_4class").labels).tolist() == [1508, 295, 106, 715]
    assert len(found.rows("test")) == 656
    # 588 mono and 920 poly cells, 117 and 178, 56 and 50, 313 and 402 of the four probabilities: a quarter of each.
    assert found.counts()["test"] == {"functional": 147 + 230 + 29 + 45, "defective": 14 + 12 + 78 + 101}
    assert [len(found.rows("train")), len(found.rows("validation"))] == [1574, 394]
    assert found.licence == "CC BY-NC-SA 4.0"
    pixels = decode_image(found.read(0), 300)
    assert pixels.shape == (300, 300, 3)
    assert pixels.std() > 5


@installed
def test_the_test_cells_never_change():
    names = "\n".join(sorted(np.array(find("elpv").files)[find("elpv").rows("test")]))
    # Recorded once, with scikit-learn 1.9: results of different installations compare only on the same test cells.
    assert (
        hashlib.sha256(names.encode()).hexdigest() == "ca116aa567c9c8e990702804e89d79a37d0eb801235b34b364d4e0349e72b238"
    )
