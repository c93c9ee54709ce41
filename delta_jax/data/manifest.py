"""A table of images: a CSV file, or JSON lines, with the columns path, label and perhaps split or a group."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from delta_jax.data import tables
from delta_jax.data.catalogue import Catalogue
from delta_jax.data.errors import DataError
from delta_jax.data.listing import Listing
from delta_jax.data.names import existing, nfc, problem, shown
from delta_jax.data.splits import Splitting, counted
from delta_jax.data.table_columns import said_by
from delta_jax.data.tables import Table


def find(root: str, how: Splitting, *, split_column: str = "", group: str = "") -> Catalogue:
    """Lists the images that the file `root` names; see `delta_jax.data.find`.

    The classes are the texts of the column label, sorted; by value where all of them are whole numbers.
    """
    found = read(root, split_column=split_column, group=group)
    return found.to_train_on(found.classes_to_train_on(root), how)


def read(root: str, *, split_column: str = "", group: str = "", flags: str = "--config.data.") -> Listing:
    """The images of a manifest, in its order.

    Paths are relative to the folder of the manifest; absolute ones, and ones that lead out of that folder, are taken as
    they are. Blanks around a label or a split are left out. A split is one of the words of `split_words`, for all
    images or for none.

    Args:
      root: the file.
      split_column: which column says the split, "COLUMN" or "COLUMN:VALUE=SPLIT,..."; "" for the one called split, and
        "none" if no column does.
      group: the column of what images share that are to be kept together; "" for none.
      flags: what stands before split_column and group on the command line, for messages.

    Raises:
      DataError: one error for all lines with the same thing wrong; or another column may say the split.
    """
    if not root:
        raise DataError(f"the data set 'manifest' needs root: the file that lists your images; {tables.LAYOUT}")
    path = existing(Path(root).expanduser())
    if path.suffix.lower() not in tables.SUFFIXES:
        raise DataError(f"root {root} does not end in {', '.join(tables.SUFFIXES)}; {tables.LAYOUT}")
    table = tables.read(path)
    names = table.names

    def column(name: str) -> list[str]:
        rows = zip(table.numbers, table.cells, strict=True)
        return [_text(path, number, name, row.get(name)) for number, row in rows]

    files, labels = column("path"), [t.strip() for t in column("label")]
    for name, texts in (("path", files), ("label", labels)):
        expected = f"expected a {name} in every line"
        expected += "" if name in names else f"; {tables.way_out(names)}"
        table.refuse([not text.strip() for text in texts], f"no {name}", expected)
    labels = [nfc(label) for label in labels]
    for reason in {problem(label) for label in set(labels)} - {""}:
        wrong = [problem(label) == reason for label in labels]
        table.refuse(wrong, f"a label that is {reason}", "expected plain text", [*map(shown, labels)])
    columns_say = said_by(
        table, labels, ("path", "label"), split_column=split_column, group=group, flags=flags, name=path.name
    )
    folders: dict[Path, dict[str, str]] = {}
    paths = [existing(Path(os.path.normpath(path.parent / file)), folders) for file in files]
    _refuse_duplicates(table, paths, files, labels)
    absent = [not _is_file(file) for file in paths]
    where = f"expected files; paths are relative to {path.parent}"
    if any("\\" in file for file, gone in zip(files, absent, strict=True) if gone):
        where += ", and their folders are parted by / and not by \\"
    table.refuse(absent, "images that are not there", where, files)
    return Listing(
        name=f"manifest/{path.stem}",
        files=tuple(files),
        paths=tuple(paths),
        classes=np.array(labels, object),
        split=np.array(columns_say.split),
        notes=columns_say.notes,
        group=columns_say.group,
        alike=columns_say.alike,
    )


def _text(path: Path, number: int, name: str, value: Any) -> str:
    """The text of a cell; "" where there is none."""
    if value is None:
        return ""
    if name == "label" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        kind = "a text or a whole number" if name == "label" else "a text"
        raise DataError(f"{path}, line {number}: {name} is {json.dumps(value)[:80]}, expected {kind}")
    return value


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that may not be looked into
        return False


def _refuse_duplicates(table: Table, paths: list[Path], files: list[str], labels: list[str]) -> None:
    first: dict[Path, int] = {}
    places = []
    for i, file in enumerate(paths):
        j = first.setdefault(file, i)
        if j != i:
            other = f", as {labels[j]!r} and as {labels[i]!r}" if labels[i] != labels[j] else ""
            places.append(f"lines {table.numbers[j]} and {table.numbers[i]}: {files[i]}{other}")
    if places:
        raise DataError(
            f"{table.path}: {counted(len(places), 'image is', 'images are')} "
            f"listed twice; keep one line of each\n  {tables.lines(places)}"
        )
