"""The pass over the training images: its statistics, its table, its end, and going on in the middle."""

import numpy as np
import pytest

from delta_jax.training import attention_pass
from delta_jax.training.attention_pass import Normalization, WeightError
from delta_jax.workdir import gap_table
from delta_jax.workdir.gap_table import GapTable

CHANNELS = {"a/conv": 3, "b": 5}
IMAGES = np.array([7, 2, 9, 4, 0, 5, 1])
TABLE = np.random.default_rng(0).normal(size=(10, 8)).astype(np.float32)  # gaps of ten training images
LABELS = np.array([0, 1, 0, 1, 1, 0, 2, 1, 0, 3])
SOFTMAX = Normalization("softmax", 1.0)


class Gaps:
    """Looks the gaps up in a table, and remembers what it was asked for; stops before call number `until`."""

    def __init__(self, until=999, table=TABLE):
        self.calls, self.until, self.table = [], until, table

    def __call__(self, picked):
        if len(self.calls) == self.until:
            raise KeyboardInterrupt
        self.calls.append(picked.tolist())
        return {"a/conv": self.table[picked, :3], "b": self.table[picked, 3:]}


def measure(folder, gaps_of, images=IMAGES, **kwargs):
    advanced: list[int] = []
    table = GapTable(folder, 8)
    found = attention_pass.measure(table, CHANNELS, images, 3, gaps_of, advanced.append, **kwargs)
    return found, advanced


def test_every_image_is_measured_once_and_padding_is_dropped(tmp_path):
    gaps_of = Gaps()
    found, advanced = measure(tmp_path / "attention", gaps_of)
    assert gaps_of.calls == [[7, 2, 9], [4, 0, 5], [1, 1, 1]]
    assert advanced == [3, 3, 1]
    np.testing.assert_array_equal(found.gaps["a/conv"], TABLE[IMAGES, :3])
    np.testing.assert_array_equal(found.gaps["b"], TABLE[IMAGES, 3:])
    np.testing.assert_array_equal(GapTable(tmp_path / "attention", 8).read(7), TABLE[IMAGES])


def test_statistics_are_those_of_numpy(tmp_path):
    found, _ = measure(tmp_path, Gaps())
    gaps = TABLE[IMAGES].astype(np.float64)
    np.testing.assert_allclose(found.mean()["b"], gaps[:, 3:].sum(0) / 7, rtol=1e-5)
    deviation = np.sqrt(np.square(gaps - gaps.mean(0)).sum(0) / 6)  # one degree of freedom is the mean's
    np.testing.assert_allclose(found.standard_error()["a/conv"], deviation[:3] / np.sqrt(7), rtol=1e-5)


def test_one_image_has_a_standard_error_of_zero(tmp_path):
    found, _ = measure(tmp_path, Gaps(), IMAGES[:1])
    np.testing.assert_array_equal(found.standard_error()["b"], np.zeros(5, np.float32))


def softmax(gaps):
    powers = np.exp(np.asarray(gaps, np.float64))
    return powers / powers.sum(-1, keepdims=True)


def test_weights_per_data_set_are_those_of_the_mean_gap(tmp_path):
    found, _ = measure(tmp_path, Gaps())
    weights = found.weights(SOFTMAX, "data_set", LABELS, 4)
    np.testing.assert_allclose(weights["b"], softmax(TABLE[IMAGES, 3:].mean(0)), rtol=1e-5)


def test_weights_per_class_are_looked_up_by_the_label_of_every_training_image(tmp_path):
    found, _ = measure(tmp_path, Gaps())
    weights = found.weights(SOFTMAX, "class", LABELS, 4)["b"]
    assert weights.shape == (10, 5)
    # Images 2, 0, 5 of those measured are of class 0; 7, 4 and 1 of class 1; none of class 2: the mean of all.
    expected = {0: [2, 0, 5], 1: [7, 4, 1], 2: IMAGES, 3: [9]}
    for image, label in enumerate(LABELS):
        np.testing.assert_allclose(weights[image], softmax(TABLE[expected[label], 3:].mean(0)), rtol=1e-5)


def test_weights_per_image_lie_in_the_order_of_the_training_images(tmp_path):
    order = np.array([3, 0, 9, 1, 2, 8, 4, 7, 5, 6])
    found, _ = measure(tmp_path, Gaps(), order)
    weights = found.weights(Normalization("softmax", 2.0), "image", LABELS, 4)["a/conv"]
    np.testing.assert_allclose(weights, softmax(TABLE[:, :3] / 2), rtol=1e-5)


def test_weights_per_image_need_every_image(tmp_path):
    found, _ = measure(tmp_path, Gaps())
    with pytest.raises(ValueError, match="all 10 images, not of 7"):
        found.weights(SOFTMAX, "image", LABELS, 4)


def test_an_interrupted_pass_goes_on_with_the_next_batch(tmp_path):
    expected, _ = measure(tmp_path / "undisturbed", Gaps())
    folder = tmp_path / "attention"
    with pytest.raises(KeyboardInterrupt):
        measure(folder, Gaps(until=2))
    assert len(GapTable(folder, 8)) == 6
    gaps_of = Gaps()
    found, advanced = measure(folder, gaps_of)
    assert gaps_of.calls == [[1, 1, 1]]
    assert sum(advanced) == 7
    for tap in CHANNELS:
        np.testing.assert_array_equal(found.gaps[tap], expected.gaps[tap])


def test_a_row_that_was_cut_off_is_measured_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path, Gaps(until=2))
    path = tmp_path / gap_table.TABLE
    path.write_bytes(path.read_bytes()[:-4])  # the disk was full, or the process was killed, in the middle of a row
    gaps_of = Gaps()
    found, _ = measure(tmp_path, gaps_of)
    assert gaps_of.calls == [[4, 0, 5], [1, 1, 1]]
    np.testing.assert_array_equal(found.gaps["b"], TABLE[IMAGES, 3:])
    np.testing.assert_array_equal(GapTable(tmp_path, 8).read(7), TABLE[IMAGES])


def test_more_images_go_on_from_fewer_and_fewer_take_the_beginning(tmp_path):
    measure(tmp_path, Gaps(), IMAGES[:4])
    gaps_of = Gaps()
    found, _ = measure(tmp_path, gaps_of)
    assert gaps_of.calls == [[4, 0, 5], [1, 1, 1]]  # the fourth image once more: batches begin at the same images
    np.testing.assert_array_equal(found.gaps["b"], TABLE[IMAGES, 3:])
    found, advanced = measure(tmp_path, Gaps(until=0), IMAGES[:5])
    assert sum(advanced) == 5
    np.testing.assert_array_equal(found.gaps["a/conv"], TABLE[IMAGES[:5], :3])


def test_a_gap_that_is_not_finite_stops_the_pass_and_names_the_images(tmp_path):
    def gaps_of(picked):
        found = Gaps()(picked)
        return found | {"b": np.where(picked[:, None] == 5, np.nan, found["b"])}

    with pytest.raises(FloatingPointError, match=r"training images \[4, 0, 5\] are not finite"):
        measure(tmp_path, gaps_of)
    assert len(GapTable(tmp_path, 8)) == 3


def test_a_full_disk_raises_before_the_first_gap(tmp_path, monkeypatch):
    usage = gap_table.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(gap_table.shutil, "disk_usage", lambda _: usage._replace(free=7 * 8 * 4 - 1))
    gaps_of = Gaps()
    with pytest.raises(OSError, match="no space left for the table of gaps"):
        measure(tmp_path, gaps_of)
    assert gaps_of.calls == []


MANY = np.random.default_rng(1).normal(scale=0.5, size=(600, 8)).astype(np.float32)


def test_the_standard_error_of_weights_is_the_spread_over_samples():
    """Against 400 fresh samples of as many images: their weights scatter by what the jackknife says."""
    rng = np.random.default_rng(2)
    spread = np.array([softmax(rng.normal(scale=0.5, size=(100, 8)).mean(0))[:8] for _ in range(400)])
    expected = np.sqrt(np.mean(np.var(8 * spread, axis=0)))
    found = []
    for start in range(0, 600, 100):
        error = WeightError({"tap": 8}, SOFTMAX)
        error.add(MANY[start : start + 60])
        error.add(MANY[start + 60 : start + 100])
        found.append(error.relative())
    assert np.mean(found) == pytest.approx(expected, rel=0.15)


def test_two_images_in_every_group_are_needed_for_a_standard_error():
    error = WeightError({"tap": 8}, SOFTMAX)
    error.add(MANY[:39])
    assert error.relative() == np.inf
    error.add(MANY[39:40])
    assert error.relative() < 1


def test_the_pass_ends_when_the_weights_are_known_well_enough(tmp_path):
    images = np.random.default_rng(3).permutation(600)
    gaps_of = Gaps(table=MANY)
    found, _ = measure(tmp_path, gaps_of, images, tolerance=0.04, normalization=SOFTMAX)
    n = len(found.images)
    # One gap scatters by 0.5, the mean of n by 0.5 / sqrt(n), and C * W, near 1, by about as much: n is about 156.
    assert 80 < n < 320
    np.testing.assert_array_equal(found.images, images[:n])
    # The same again, and from a table that another pass made longer: the same end.
    measure(tmp_path, gaps_of, images)
    again, _ = measure(tmp_path, Gaps(until=0), images, tolerance=0.04, normalization=SOFTMAX)
    assert len(again.images) == n


def test_the_file_holds_gaps_errors_weights_and_images(tmp_path):
    found, _ = measure(tmp_path / "attention", Gaps())
    weights = found.weights(Normalization("standardized_softmax", 5.0), "data_set", LABELS, 4)
    path = tmp_path / "attention.npz"
    attention_pass.save(path, weights, found.mean(), found.standard_error(), found.images)
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
