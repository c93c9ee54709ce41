"""Batches read from disk ahead of their use, for data sets that do not fit on the device."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from delta_jax.data.decoded import Images

# Batches that wait, read but not used: more only takes memory, the disk is either fast enough or it is not.
AHEAD = 4
MOST_THREADS = 8


def stream(images: Images, rows: np.ndarray, table: np.ndarray) -> Iterator[Any]:
    """The images of many batches, each read by threads while the one before is used.

    Args:
      images: decoded, on disk.
      rows: int [M], where the examples of a split lie in them.
      table: int [T, B], for each of T batches the examples 0 to M - 1 it consists of; or the part of each batch that
        this process is to read.

    Yields:
      T times uint8 [B, S, S, 3], or a Canvas, in order: what `Images.take` gives.
    """
    import grain  # 0.5 s; most runs keep their images on the device

    batches = grain.MapDataset.source(_Batches(images, rows, table))
    options = grain.ReadOptions(
        num_threads=min(os.cpu_count() or 1, MOST_THREADS, max(len(table), 1)), prefetch_buffer_size=AHEAD
    )
    return iter(batches.to_iter_dataset(options))


class _Batches:
    """A source of grain: batch i of the table, read when it is asked for."""

    def __init__(self, images: Images, rows: np.ndarray, table: np.ndarray):
        self._images, self._rows, self._table = images, rows, table

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, step: int) -> Any:
        return self._images.take(self._rows[self._table[step]])
