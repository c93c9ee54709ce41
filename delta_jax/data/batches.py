"""Which examples form batch n: a pure function of the seed and n, so a run resumed anywhere sees the same batches."""

from collections.abc import Iterator

import numpy as np


def batch_table(seed: int, steps: int, n: int, batch_size: int, start: int = 0) -> np.ndarray:
    """The examples of `steps` batches in a row.

    The batches are cut from an endless row of epochs, each a permutation of all n examples drawn from (seed, epoch).
    So every example comes once per epoch, none is dropped, and a batch may hold the end of one epoch and the start of
    the next.

    Args:
      seed: non-negative.
      steps: number of batches.
      n: number of examples.
      batch_size: at most n.
      start: the first batch, counted from the start of training.

    Returns:
      int32 [steps, batch_size], values in 0..n-1.
    """
    if not 1 <= batch_size <= n:
        raise ValueError(f"batch_size is {batch_size}, expected 1 to {n}, the number of training images")
    if steps < 0 or start < 0:
        raise ValueError(f"steps is {steps} and start is {start}, expected 0 or more")
    first, last = start * batch_size, (start + steps) * batch_size
    epochs = range(first // n, -(-last // n))
    if not epochs:
        return np.empty((0, batch_size), np.int32)
    order = np.concatenate([_permutation(seed, epoch, n) for epoch in epochs])
    offset = epochs[0] * n
    return order[first - offset : last - offset].reshape(steps, batch_size)


def batch_rows(seed: int, step: int, n: int, batch_size: int) -> np.ndarray:
    """The examples of one batch, int32 [batch_size]; row `step` of `batch_table`."""
    return batch_table(seed, 1, n, batch_size, start=step)[0]


def balanced_table(seed: int, steps: int, labels: np.ndarray, batch_size: int, start: int = 0) -> np.ndarray:
    """The examples of `steps` batches in a row, every class equally often.

    The batches are cut from an endless row of rounds, each with one example of every class, in an order of its own. The
    examples of a class take turns: each comes once before one comes again. So after n rounds every example of a class
    of n has been seen, and those of smaller classes more often.

    Args:
      seed: non-negative.
      steps: number of batches.
      labels: int [N]; a class without an example has no turn.
      batch_size: at least 1.
      start: the first batch, counted from the start of training.

    Returns:
      int32 [steps, batch_size], values in 0..N-1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more")
    if steps < 0 or start < 0:
        raise ValueError(f"steps is {steps} and start is {start}, expected 0 or more")
    members = [np.flatnonzero(labels == label).astype(np.int32) for label in np.unique(labels)]
    k = len(members)
    first, last = start * batch_size, (start + steps) * batch_size
    rounds = range(first // k, -(-last // k))
    if not rounds:
        return np.empty((0, batch_size), np.int32)
    columns = []
    for number, rows in enumerate(members):
        n = len(rows)
        epochs = range(rounds[0] // n, rounds[-1] // n + 1)
        turns = _permutations((seed, 1 + number), epochs, n).reshape(-1)
        offset = epochs[0] * n
        columns.append(rows[turns[rounds[0] - offset : rounds[-1] + 1 - offset]])
    order = _permutations((seed, 0), rounds, k)
    flat = np.take_along_axis(np.stack(columns, axis=1), order, axis=1).reshape(-1)
    return flat[first - rounds[0] * k : last - rounds[0] * k].reshape(steps, batch_size)


def padded_batches(n: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Covers n examples once, in order, in batches of one shape.

    Yields:
      rows int32 [batch_size] and mask float32 [batch_size]: 1 for an example, 0 for the padding of the last batch,
      whose rows are 0.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more")
    for start in range(0, n, batch_size):
        rows = np.arange(start, start + batch_size, dtype=np.int32)
        inside = rows < n
        yield np.where(inside, rows, np.int32(0)), inside.astype(np.float32)


def _permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    # RandomState, because NumPy promises its stream for all versions and Generator's for none: see NEP 19.
    bits = np.random.MT19937(np.random.SeedSequence([seed, epoch]))
    return np.random.RandomState(bits).permutation(n).astype(np.int32)


# Numbers drawn at once: to seed a stream for each permutation of three examples would take longer than to train.
_BLOCK = 4096


def _permutations(key: tuple[int, ...], numbers: range, n: int) -> np.ndarray:
    """Of an endless row of permutations of n those with these numbers, int64 [len(numbers), n]."""
    per_block = max(1, _BLOCK // n)
    blocks = range(numbers[0] // per_block, numbers[-1] // per_block + 1)
    drawn = []
    for block in blocks:
        bits = np.random.MT19937(np.random.SeedSequence([*key, block]))
        drawn.append(np.random.RandomState(bits).random_sample((per_block, n)).argsort(axis=1, kind="stable"))
    offset = blocks[0] * per_block
    return np.concatenate(drawn)[numbers[0] - offset : numbers[-1] + 1 - offset]
