"""The pass over the training images: its statistics, its files, and going on in the middle."""

import errno
import json

import numpy as np
import pytest

from delta_jax.training import attention_pass

CHANNELS = {"a/conv": 3, "b": 5}
IMAGES = np.array([7, 2, 9, 4, 0, 5, 1])
TABLE = np.random.default_rng(0).normal(size=(10, 8)).astype(np.float32)  # gaps of ten training images


class Gaps:
    """Looks the gaps up in TABLE, and remembers what it was asked for; stops before call number `until`."""

    def __init__(self, until=99):
        self.calls, self.until = [], until

    def __call__(self, picked):
        if len(self.calls) == self.until:
            raise KeyboardInterrupt
        self.calls.append(picked.tolist())
        return {"a/conv": TABLE[picked, :3], "b": TABLE[picked, 3:]}


def measure(folder, gaps_of, images=IMAGES):
    advanced: list[int] = []
    found = attention_pass.measure(folder, CHANNELS, images, 3, gaps_of, advanced.append)
    return found, advanced


def test_every_image_is_measured_once_and_padding_is_dropped(tmp_path):
    gaps_of = Gaps()
    found, advanced = measure(tmp_path / "attention", gaps_of)
    assert gaps_of.calls == [[7, 2, 9], [4, 0, 5], [1, 1, 1]]
    assert advanced == [3, 3, 1]
    np.testing.assert_array_equal(found.gaps["a/conv"], TABLE[IMAGES, :3])
    np.testing.assert_array_equal(found.gaps["b"], TABLE[IMAGES, 3:])


def test_statistics_are_those_of_numpy(tmp_path):
    found, _ = measure(tmp_path, Gaps())
    gaps = TABLE[IMAGES].astype(np.float64)
    np.testing.assert_allclose(found.mean()["b"], gaps[:, 3:].sum(0) / 7, rtol=1e-5)
    deviation = np.sqrt(np.square(gaps - gaps.mean(0)).sum(0) / 6)  # one degree of freedom is the mean's
    np.testing.assert_allclose(found.standard_error()["a/conv"], deviation[:3] / np.sqrt(7), rtol=1e-5)


def test_one_image_has_a_standard_error_of_zero(tmp_path):
    found, _ = measure(tmp_path, Gaps(), IMAGES[:1])
    np.testing.assert_array_equal(found.standard_error()["b"], np.zeros(5, np.float32))


def test_weights_are_per_data_set_or_per_image(tmp_path):
    found, _ = measure(tmp_path, Gaps())
    gaps = TABLE[IMAGES, 3:].astype(np.float64)
    powers = np.exp(gaps.mean(0))
    whole = found.weights("softmax", 1.0, per_image=False)["b"]
    np.testing.assert_allclose(whole, powers / powers.sum(), rtol=1e-5)
    each = found.weights("softmax", 2.0, per_image=True)["b"]
    np.testing.assert_allclose(each, np.exp(gaps / 2) / np.exp(gaps / 2).sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("damage", ["none", "unfinished marks", "no marks"])
def test_an_interrupted_pass_goes_on_with_the_next_batch(tmp_path, damage):
    expected, _ = measure(tmp_path / "undisturbed", Gaps())
    folder = tmp_path / "attention"
    with pytest.raises(KeyboardInterrupt):
        measure(folder, Gaps(until=2))
    assert json.loads((folder / "done.json").read_text()) == {"images": 6}
    if damage == "unfinished marks":  # killed while the next ones were written
        (folder / "done.tmp").write_text("{")
    if damage == "no marks":  # killed before the first ones were
        (folder / "done.json").unlink()
    gaps_of = Gaps()
    found, advanced = measure(folder, gaps_of)
    assert len(gaps_of.calls) == (3 if damage == "no marks" else 1)
    assert sum(advanced) == 7
    for tap in CHANNELS:
        np.testing.assert_array_equal(found.gaps[tap], expected.gaps[tap])


def test_a_finished_pass_is_only_read(tmp_path):
    measure(tmp_path, Gaps())
    found, advanced = measure(tmp_path, Gaps(until=0))
    assert advanced == [7]
    np.testing.assert_array_equal(found.gaps["b"], TABLE[IMAGES, 3:])


def test_a_gap_that_is_not_finite_stops_the_pass_and_names_the_images(tmp_path):
    def gaps_of(picked):
        found = Gaps()(picked)
        return found | {"b": np.where(picked[:, None] == 5, np.nan, found["b"])}

    with pytest.raises(FloatingPointError, match=r"training images \[4, 0, 5\] are not finite"):
        measure(tmp_path, gaps_of)
    assert json.loads((tmp_path / "done.json").read_text()) == {"images": 3}


def test_a_full_disk_raises_before_the_first_gap(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(attention_pass.np, "save", full)
    gaps_of = Gaps()
    with pytest.raises(OSError, match="No space left"):
        measure(tmp_path, gaps_of)
    assert gaps_of.calls == []


def test_the_file_holds_gaps_errors_weights_and_images(tmp_path):
    found, _ = measure(tmp_path / "attention", Gaps())
    weights = found.weights("standardized_softmax", 5.0, per_image=False)
    path = tmp_path / "attention.npz"
    attention_pass.save(path, found, weights, tuple(CHANNELS))
    with np.load(path) as file:
        assert set(file) == {
            "images",
            *(f"{what}/{tap}" for what in ("gap", "standard_error", "weight") for tap in CHANNELS),
        }
        np.testing.assert_array_equal(file["images"], IMAGES)
        np.testing.assert_allclose(file["gap/b"], TABLE[IMAGES, 3:].mean(0), rtol=1e-5)
    loaded = attention_pass.load_weights(path, ("b", "a/conv"))
    assert list(loaded) == ["b", "a/conv"]
    np.testing.assert_array_equal(loaded["b"], weights["b"])
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["attention.npz"]
