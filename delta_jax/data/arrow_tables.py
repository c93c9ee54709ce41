"""One Parquet or Arrow file: its columns, and the cells of one column by number without the others in memory.

pyarrow reads both formats; the package `datasets` would bring a copy of all data in a cache of its own, and reads by
pyarrow as well.
"""

import contextlib
import json
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from delta_jax.data.arrow_columns import is_picture
from delta_jax.data.arrow_files import ARROW, features_of
from delta_jax.data.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

# Cells of a Parquet file are read so many at a time, and so many times as many are kept: of the threads of all cores,
# which read in turn, none is to find its cell gone.
TOGETHER = 16
KEPT = 3 + 2 * (os.cpu_count() or 1) // TOGETHER


class ArrowTable:
    """A file that was opened.

    Attributes:
      path: of the file.
      types: {column: type of its cells}, "outer.inner" for what is in objects other than images; of an extension that
        of what is stored, of a dictionary that of its entries.
      features: what the package datasets wrote of them, {column: {"_type": "ClassLabel", "names": [...]}}.
      rows: how many there are.
    """

    def __init__(self, path: Path):
        """Reads what the file says of itself.

        Raises:
          DataError: it cannot be read, is of no such format, or has two columns of one name.
        """
        self.path = path
        with _readable(path):
            self._file: _Arrow | _Parquet = (_Arrow if path.suffix.lower() in ARROW else _Parquet)(path)
        schema, self.rows = self._file.schema, self._file.rows
        found = list(_flat(schema, ()))
        names = [".".join(inner).strip().casefold() for inner, _ in found]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"{path}: there are two columns {twice[0]!r}; rename one of them")
        self._inner = {".".join(inner): inner for inner, _ in found}
        self.types = {".".join(inner): kind for inner, kind in found}
        try:
            self.features = features_of(json.loads((schema.metadata or {})[b"huggingface"])["info"])
        except (KeyError, TypeError, ValueError):
            self.features = {}

    def columns(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """{name: its cells, None for nothing}."""
        import pyarrow.compute as pc

        with _readable(self.path):
            table = self._file.read(sorted({self._inner[name][0] for name in names}))
            table.validate(full=True)  # texts are to end within the file
            inner = {name: self._inner[name] for name in names}
            return {
                name: (pc.struct_field(table.column(top), rest) if rest else table.column(top)).to_pylist()
                for name, (top, *rest) in inner.items()
            }

    def cell(self, name: str, row: int) -> Any:
        """One cell of a column that is in no object; several threads may ask. Quick for rows in rising order."""
        if not 0 <= row < self.rows:
            raise IndexError(row)
        with _readable(self.path):
            return self._file.cell(name, row)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(
            f"{path} cannot be read ({why}); it was cut short or changed, or is of another format than its name says"
        ) from error


def _flat(fields: Iterable["pa.Field"], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], "pa.DataType"]]:
    import pyarrow as pa

    for field in fields:
        kind = field.type.storage_type if isinstance(field.type, pa.BaseExtensionType) else field.type
        if pa.types.is_struct(kind) and not is_picture(kind):
            yield from _flat(kind, (*above, field.name))
        else:
            yield (*above, field.name), kind.value_type if pa.types.is_dictionary(kind) else kind


class _Parquet:
    def __init__(self, path: Path):
        import pyarrow.parquet as pq

        # Mapped and without buffers of its own: of a group of rows only what is asked for comes into memory.
        self._file = pq.ParquetFile(path, memory_map=True, pre_buffer=False)
        self.schema = self._file.schema_arrow
        groups = self._file.metadata
        self._starts = np.cumsum([0, *(groups.row_group(i).num_rows for i in range(groups.num_row_groups))])
        self.rows = int(self._starts[-1])
        self._lock = threading.Lock()
        self._kept: dict[str, deque[tuple[int, pa.Array]]] = {}  # {column: (first row, cells)}
        self._running: dict[str, tuple[int, int, Iterator[pa.RecordBatch]]] = {}  # group, next row, what comes

    def read(self, names: list[str]) -> "pa.Table":
        return self._file.read(columns=names, use_threads=False)

    def cell(self, name: str, row: int) -> Any:
        with self._lock:
            kept = self._kept.setdefault(name, deque(maxlen=KEPT))
            for first, cells in kept:
                if first <= row < first + len(cells):
                    return cells[row - first].as_py()
            group = int(np.searchsorted(self._starts, row, "right")) - 1
            running, at, batches = self._running.get(name, (-1, 0, iter(())))
            if running != group or at > row:
                at, batches = int(self._starts[group]), iter(())
                self._running.pop(name, None)  # its pages, before others come into memory
                batches = self._file.iter_batches(TOGETHER, row_groups=[group], columns=[name], use_threads=False)
            for batch in batches:
                cells = batch.column(name)
                cells.validate(full=True)  # texts may be none
                kept.append((at, cells))
                first, at = at, at + len(cells)
                if row < at:
                    self._running[name] = (group, at, batches)
                    return cells[row - first].as_py()
        raise OSError(f"row {row} is not there, though the file says that it has {self.rows}")


class _Arrow:
    """A stream, as datasets writes, or a file with a table of contents, as Feather is: both mapped into memory."""

    def __init__(self, path: Path):
        import pyarrow as pa

        mapped = pa.memory_map(str(path))
        beginning = mapped.read(6)
        mapped.seek(0)
        opened = pa.ipc.open_file(mapped) if beginning == b"ARROW1" else pa.ipc.open_stream(mapped)
        self._table = opened.read_all()  # where it is not compressed, only what is used comes into memory
        self.schema, self.rows = self._table.schema, self._table.num_rows
        self._checked: set[str] = set()

    def read(self, names: list[str]) -> "pa.Table":
        return self._table.select(names)

    def cell(self, name: str, row: int) -> Any:
        column = self._table.column(name)
        if name not in self._checked:
            column.validate(full=True)  # each is to lie within the file
            self._checked.add(name)
        return column[row].as_py()
