"""A table of images: a CSV file, or JSON lines, with the columns path, label and perhaps split or a group."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from delta_jax.data import columns, tables
from delta_jax.data.catalogue import Catalogue
from delta_jax.data.errors import DataError
from delta_jax.data.grouping import Groups
from delta_jax.data.listing import Listing
from delta_jax.data.names import alike, existing, nfc, problem, shown
from delta_jax.data.splits import Splitting, counted, listed
from delta_jax.data.tables import Table


def find(root: str, how: Splitting, *, split_column: str = "", group: str = "") -> Catalogue:
    """Lists the images that the file `root` names; see `delta_jax.data.find`.

    The classes are the texts of the column label, sorted; by value where all of them are whole numbers.
    """
    found = read(root, split_column=split_column, group=group)
    train = sorted(set(found.classes[np.isin(found.split, ("", "train"))]), key=_order(found.classes))
    if not train:
        raise DataError(f"{root}: no image is of the split train, expected some; or leave out the column that says so")
    lacking = sorted(set(found.classes) - set(train))
    if lacking:
        hint = alike([*lacking, *train])
        raise DataError(
            f"{root}: no training images of the classes {listed(lacking)}, which other splits have; "
            f"{f'{hint}; ' if hint else ''}add some, or leave out these classes"
        )
    if len(train) < 2:
        raise DataError(f"{root}: all images have the label {train[0]!r}, need two classes")
    return found.to_train_on(train, how)


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
    by, split, notes = _splits(table, split_column, f"{flags}split_column")
    shared = _groups(table, group, f"{flags}group")
    unread = [name for name in names if name not in ("path", "label", by, *([shared.field] if shared else []))]
    others = {name: table.texts(name) for name in unread}
    if unread:
        too = [name for name in unread if by and columns.says_split(name, others[name])]
        said = f"; {listed(too)} may say a split, too, which is not followed" if too else ""
        columns_there = listed([name or "(no name)" for name in unread])
        notes.append(f"columns of {path.name} that are not read: {columns_there}{said}")
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
        split=np.array(split),
        notes=tuple(notes),
        group=shared,
        alike=tuple(
            Groups.of(name, cells) for name, cells in others.items() if columns.says_group(name, cells, labels)
        ),
    )


def _splits(table: Table, given: str, flag: str) -> tuple[str, list[str], list[str]]:
    """Which column says the split ("" for none), what it says of each image, and what is to be said of it."""

    def values_of(name: str) -> list[str]:
        return [columns.part_of(text) for text in table.texts(name)] if name == "path" else table.texts(name)

    names, nothing = table.names, [""] * len(table.numbers)
    if given.strip().casefold() == columns.IGNORE:
        return "", nothing, []
    name, told = columns.chosen(given, names, flag) if given else ("split", {})
    values = values_of(name)
    if not given and not any(values):
        near = [n for n in names if n != "label" and columns.says_split(n, values_of(n))]
        near.sort(key="path".__eq__)
        if near:
            shown = [f"{n} ({listed([v or 'nothing' for v in sorted(set(values_of(n)))])})" for n in near]
            raise DataError(
                f"{table.path}: no column is called split, but which images are for training and which for testing may "
                f"stand in {listed(shown)}; say so by {flag}={near[0]}, or {flag}={columns.IGNORE} if no column says it"
            )
        return "", nothing, []
    found = [columns.as_split(name, value, told) for value in values]
    unclear = [value for value, split in zip(values, found, strict=True) if split is None]
    meant = columns.example(unclear, [split for split in found if split])
    or_so = f'or say what is meant, as by {flag}="{name}:{meant}"'
    empty = [not value and split is None for value, split in zip(values, found, strict=True)]
    table.refuse(empty, f"no {name}", f"expected one in every line, or no column {name} at all; {or_so}")
    unknown = [split is None for split in found]
    table.refuse(unknown, f"an unknown {name}", f"expected train, val or test; {or_so}", values)
    split = [one or "" for one in found]
    pairs = sorted(set(zip(values, split, strict=True)))
    said = [f"{value or 'nothing'} is {one} ({values.count(value)})" for value, one in pairs]
    return name, split, [f"the splits are those of the column {name}: {listed(said)}"] if given else []


def _groups(table: Table, given: str, flag: str) -> Groups | None:
    name = given.strip().casefold()
    if not name:
        return None
    if name not in table.names:
        raise DataError(f"{flag}={given}: {table.path} has no column {name}; it has {listed(table.names)}")
    values = table.texts(name)
    expected = "expected one in every line; an image on its own needs a name of its own"
    table.refuse([not value for value in values], f"no {name}", expected)
    return Groups.of(name, values)


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


def _order(labels: np.ndarray) -> Any:
    if all(re.fullmatch(r"[+-]?[0-9]+", label) for label in set(labels)):
        return lambda label: (int(label), label)
    return None


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
