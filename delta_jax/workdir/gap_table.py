"""The gaps of a pass over the data on disk: a table that grows batch by batch and survives any interruption."""

import errno
import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

TABLE, FACTS = "gaps.f32", "about.json"


class GapTable:
    """float32 [rows, columns] in one file, row after row; a row that a crash cut off does not count.

    float32, since gaps go below what float16 can hold.
    """

    def __init__(self, folder: Path, columns: int):
        """Opens or makes the table in `folder`, which belongs to it alone."""
        self.folder, self._columns = folder, columns
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / TABLE

    def __len__(self) -> int:
        return self._path.stat().st_size // (4 * self._columns) if self._path.exists() else 0

    def read(self, rows: int) -> np.ndarray:
        """The first rows, [rows, columns], mapped from the file."""
        if not rows:
            return np.zeros((0, self._columns), np.float32)
        return np.memmap(self._path, np.float32, mode="r", shape=(rows, self._columns))

    def require_space(self, rows: int) -> None:
        """Raises OSError unless the disk has room for a table of so many rows: before hours of work, not after."""
        needed, free = 4 * self._columns * max(0, rows - len(self)), shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(
                errno.ENOSPC,
                f"no space left for the table of gaps: it takes {needed / 1e6:,.1f} MB more, {self.folder} has "
                f"{free / 1e6:,.1f} MB",
            )

    def append(self, rows: np.ndarray) -> None:
        """Writes more rows [n, columns]; OSError where there is no space."""
        whole = len(self)
        with self._path.open("ab") as file:
            file.truncate(4 * self._columns * whole)
            file.write(np.ascontiguousarray(rows, np.float32).tobytes())

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Writes what the table holds, for people who find it."""
        (self.folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n")

    @contextmanager
    def alone(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Keeps other processes out; calls `waiting` when one is in already, and waits for it."""
        with (self.folder / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
