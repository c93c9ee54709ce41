"""Batches by number."""

import numpy as np
import pytest

from delta_jax.data import batch_rows, batch_table, padded_batches


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


def test_known_order():
    # Recorded once: a run resumed with another numpy must see the same batches.
    np.testing.assert_array_equal(batch_table(0, 2, 5, 3), [[3, 0, 2], [1, 4, 1]])


def test_no_steps():
    assert batch_table(0, 0, 10, 4).shape == (0, 4)
    assert batch_table(0, 0, 10, 4, start=7).shape == (0, 4)


def test_batch_sizes_that_cannot_be():
    for batch_size in (0, 11):
        with pytest.raises(ValueError, match=rf"batch_size is {batch_size}, expected 1 to 10"):
            batch_rows(0, 0, 10, batch_size)
    with pytest.raises(ValueError, match="start is -1"):
        batch_rows(0, -1, 10, 4)
    with pytest.raises(ValueError, match="batch_size is 0"):
        next(padded_batches(10, 0))


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
