"""Batches by number."""

import numpy as np
import pytest

from delta_jax.data import balanced_table, batch_rows, batch_table, padded_batches


@pytest.mark.parametrize(("n", "batch_size"), [(10, 4), (12, 4), (7, 7), (5, 1), (100, 64)])
def test_every_epoch_holds_every_example_once(n, batch_size):
    table = batch_table(3, 3 * n, n, batch_size)  # 3 * n batches are 3 * batch_size epochs
    assert table.shape == (3 * n, batch_size)
    assert table.dtype == np.int32
    epochs = table.reshape(-1, n)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(n), (3 * batch_size, 1)))
    if n > 5:
        assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1


def test_a_batch_depends_on_seed_and_number_only():
    table = batch_table(1, 40, 10, 4)
    np.testing.assert_array_equal(batch_table(1, 15, 10, 4, start=25), table[25:])
    for step in (0, 1, 2, 3, 39):
        np.testing.assert_array_equal(batch_rows(1, step, 10, 4), table[step])
    assert (batch_table(2, 40, 10, 4) != table).any()


def test_a_seed_gives_the_batches_that_it_always_gave():
    # Recorded once: a run resumed with another numpy must see the same batches.
    np.testing.assert_array_equal(batch_table(0, 2, 5, 3), [[3, 0, 2], [1, 4, 1]])


def test_no_steps_have_no_batches():
    assert batch_table(0, 0, 10, 4).shape == (0, 4)
    assert batch_table(0, 0, 10, 4, start=7).shape == (0, 4)


def test_batch_sizes_that_cannot_be_are_refused():
    for batch_size in (0, 11):
        with pytest.raises(ValueError, match=rf"batch_size is {batch_size}, expected 1 to 10"):
            batch_rows(0, 0, 10, batch_size)
    with pytest.raises(ValueError, match="start is -1"):
        batch_rows(0, -1, 10, 4)
    with pytest.raises(ValueError, match="batch_size is 0"):
        next(padded_batches(10, 0))


LABELS = np.array([4] * 3 + [0] * 17 + [2] * 50)[np.random.default_rng(0).permutation(70)]  # no 1 and no 3


def test_balanced_batches_hold_every_class_equally_often_and_every_example_in_turn():
    drawn = balanced_table(3, 60, LABELS, 5).reshape(-1)  # 300 images: 100 rounds of three classes
    np.testing.assert_array_equal(np.bincount(LABELS[drawn]), [100, 0, 100, 0, 100])
    np.testing.assert_array_equal(np.sort(LABELS[drawn].reshape(-1, 3)), np.tile([0, 2, 4], (100, 1)))
    assert len({tuple(one) for one in LABELS[drawn].reshape(-1, 3)}) == 6  # in every order
    for label, n in ((4, 3), (0, 17), (2, 50)):
        turns = drawn[LABELS[drawn] == label]
        epochs = turns[: 100 // n * n].reshape(-1, n)
        expected = np.flatnonzero(label == LABELS)
        np.testing.assert_array_equal(np.sort(epochs), np.tile(expected, (len(epochs), 1)))
    assert (drawn[LABELS[drawn] == 4].reshape(-1)[:99].reshape(-1, 3)[1:] != drawn[LABELS[drawn] == 4][:3]).any()


def test_a_balanced_batch_depends_on_seed_and_number_only():
    table = balanced_table(1, 2000, LABELS, 4)  # more than is drawn at once
    assert table.shape == (2000, 4)
    assert table.dtype == np.int32
    for start in (0, 1, 700, 1999):
        np.testing.assert_array_equal(balanced_table(1, 2000 - start, LABELS, 4, start=start), table[start:])
    assert (balanced_table(2, 2000, LABELS, 4) != table).any()
    assert balanced_table(1, 0, LABELS, 4, start=7).shape == (0, 4)
    # Recorded once: a run resumed with another numpy must see the same batches.
    np.testing.assert_array_equal(balanced_table(0, 2, np.array([0, 0, 0, 1]), 3), [[3, 2, 1], [3, 0, 3]])
    with pytest.raises(ValueError, match="batch_size is 0"):
        balanced_table(0, 1, LABELS, 0)
    with pytest.raises(ValueError, match="start is -1"):
        balanced_table(0, 1, LABELS, 4, start=-1)


@pytest.mark.parametrize(("n", "batch_size", "count"), [(10, 4, 3), (8, 4, 2), (3, 8, 1), (0, 4, 0)])
def test_padded_batches_cover_everything_once(n, batch_size, count):
    batches = list(padded_batches(n, batch_size))
    assert len(batches) == count
    seen = []
    for rows, mask in batches:
        assert rows.shape == mask.shape == (batch_size,)
        assert rows.dtype == np.int32
        assert mask.dtype == np.float32
        assert rows.min() >= 0
        assert rows.max() < n
        seen += rows[mask == 1].tolist()
        assert set(mask.tolist()) <= {0.0, 1.0}
    assert seen == list(range(n))
