"""Lines of a CSV file or of JSON lines, column by column, with their numbers for messages."""

import csv
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from delta_jax.data import columns
from delta_jax.data.errors import DataError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
DELIMITERS = (",", ";", "\t")
LAYOUT = (
    "expected a .csv file whose first line names the columns path,label[,split], or a .jsonl file with an object "
    '{"path": ..., "label": ...[, "split": ...]} per line'
)

Row = tuple[int, Mapping[str, Any]]  # line in the file, from 1, and what stands there by column


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as it was read.

    Attributes:
      path: of the file.
      numbers: of each of the N lines, from 1.
      cells: what stands in each line, by column; of CSV texts, of JSON anything.
      unit: what a line is called.
      places: of each line, for messages, where its number does not say it.
    """

    path: Path
    numbers: tuple[int, ...]
    cells: tuple[Mapping[str, Any], ...]
    unit: str = "line"
    places: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The columns, in small letters and in the order of the file; "outer.inner" for an object within an object."""
        return list(dict.fromkeys(name for row in self.cells for name in row))

    def texts(self, name: str) -> list[str]:
        """A column without blanks around; numbers and truth values of JSON as they stand there, "" for nothing."""
        cells = [row.get(name) for row in self.cells]
        texts = [cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False) for cell in cells]
        return ["" if cell is None else text.strip() for cell, text in zip(cells, texts, strict=True)]

    def refuse(self, wrong: Sequence[bool], what: str, expected: str, shown: Sequence[str] = ()) -> None:
        """One error for all lines of which something is wrong, with their numbers and what stands there."""
        places = [
            (self.places[i] if self.places else f"{self.unit} {number}") + (f": {shown[i]}" if shown else "")
            for i, (number, bad) in enumerate(zip(self.numbers, wrong, strict=True))
            if bad
        ]
        if places:
            raise DataError(
                f"{self.path}: {what} in {len(places)} of {len(self.numbers)} {self.unit}s; {expected}\n"
                f"  {lines(places)}"
            )


def lines(places: list[str]) -> str:
    """The first ten places, one below the other, and how many more there are."""
    return "\n  ".join([*places[:10], *([f"and {len(places) - 10} more"] if len(places) > 10 else [])])


def way_out(names: Sequence[str]) -> str:
    """What a manifest is to look like; first what to rename, where columns look like path and label."""
    renaming = columns.renaming(names)
    return f"{renaming}; {LAYOUT}" if renaming else LAYOUT


def read(path: Path) -> Table:
    """Reads a whole file.

    Raises:
      DataError: it cannot be read, holds nothing, or is not a table.
    """
    rows = list(_rows(path))
    if not rows:
        raise DataError(f"{path} lists no images; {LAYOUT}")
    numbers, cells = zip(*rows, strict=True)
    return Table(path, numbers, cells)


def _rows(path: Path) -> Iterator[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from (_json_rows if path.suffix.lower() in (".jsonl", ".ndjson") else _csv_rows)(path, file)
    except OSError as error:
        raise DataError(f"the manifest {path} cannot be read ({error.strerror}); {LAYOUT}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 (byte {error.start}); save it as UTF-8") from error


def _csv_rows(path: Path, file: Any) -> Iterator[Row]:
    header = file.readline()
    found = {d: [name.strip().casefold() for name in next(csv.reader([header], delimiter=d), [])] for d in DELIMITERS}
    delimiter = next((d for d, names in found.items() if {"path", "label"} <= set(names)), None)
    if delimiter is None:
        most = max(found.values(), key=len)
        raise DataError(f"{path}: the first line is {header.strip()[:80]!r}; {way_out(most)}")
    names = found[delimiter]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: there are two columns {twice[0]}; rename one of them")
    lines = csv.reader(file, delimiter=delimiter, strict=True)
    try:
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(names):
                raise DataError(
                    f"{path}, line {lines.line_num + 1}: {len(cells)} cells, expected {len(names)}: "
                    f"{', '.join(names)}; put a cell that holds {delimiter!r} in quotes"
                )
            yield lines.line_num + 1, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {lines.line_num + 1}: {error}; check the quotes there") from error


def _json_rows(path: Path, file: Any) -> Iterator[Row]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number} is not JSON ({error}); {LAYOUT}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: found {line.strip()[:80]!r}; {LAYOUT}")
        flat = _flat(row)
        names = [name for name, _ in flat]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{path}, line {number}: there are two values of {twice}; rename one of them")
        yield number, dict(flat)


def _flat(row: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """What an object holds, with what objects in it hold as "outer.inner"; names in small letters."""
    cells: list[tuple[str, Any]] = []
    for name, value in row.items():
        name = f"{before}{name.strip().casefold()}"
        cells += _flat(value, f"{name}.") if isinstance(value, dict) else [(name, value)]
    return cells
