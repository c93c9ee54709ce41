"""A table of images: a CSV file, or JSON lines, with the columns path, label and perhaps split."""

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from delta_jax.data.catalogue import Catalogue
from delta_jax.data.errors import DataError
from delta_jax.data.listing import Listing
from delta_jax.data.names import alike, existing, nfc, problem, shown
from delta_jax.data.splits import Splitting, listed

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
DELIMITERS = (",", ";", "\t")
SPLIT_FOLDERS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
LAYOUT = (
    "expected a .csv file whose first line names the columns path,label[,split], or a .jsonl file with an object "
    '{"path": ..., "label": ...[, "split": ...]} per line'
)

Row = tuple[int, Mapping[str, Any]]  # line in the file, from 1, and what stands there by column


def find(root: str, how: Splitting) -> Catalogue:
    """Lists the images that the file `root` names; see `delta_jax.data.find`.

    The classes are the texts of the column label, sorted; by value where all of them are whole numbers.
    """
    found = read(root)
    train = sorted(set(found.classes[np.isin(found.split, ("", "train"))]), key=_order(found.classes))
    if not train:
        raise DataError(f"{root}: no image is of the split train, expected some; or leave out the column split")
    lacking = sorted(set(found.classes) - set(train))
    if lacking:
        hint = alike([*lacking, *train])
        raise DataError(
            f"{root}: no training images of the classes {listed(lacking)}, which other splits have; "
            f"{f'{hint}; ' if hint else ''}add some, or leave out these classes"
        )
    if len(train) < 2:
        raise DataError(f"{root}: all images have the label {train[0]!r}, need two classes")
    return found.to_train_on(
        train,
        how,
    )


def read(root: str) -> Listing:
    """The images of a manifest, in its order.

    Paths are relative to the folder of the manifest; absolute ones, and ones that lead out of that folder, are taken as
    they are. Blanks around a label or a split are left out. A split is train, val, valid, validation or test, for all
    images or for none.

    Raises:
      DataError: one error for all lines with the same thing wrong.
    """
    if not root:
        raise DataError(f"the data set 'manifest' needs root: the file that lists your images; {LAYOUT}")
    path = Path(root).expanduser()
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"root {root} does not end in {', '.join(SUFFIXES)}; {LAYOUT}")
    rows = list(_rows(path))
    if not rows:
        raise DataError(f"{path} lists no images; {LAYOUT}")

    def column(name: str) -> list[str]:
        return [_text(path, number, name, row.get(name)) for number, row in rows]

    files, labels, given = column("path"), [t.strip() for t in column("label")], [t.strip() for t in column("split")]
    for name, texts in (("path", files), ("label", labels)):
        _refuse(path, rows, [not text.strip() for text in texts], f"no {name}", f"expected a {name} in every line")
    if any(given):
        missing = [not text for text in given]
        _refuse(path, rows, missing, "no split", "expected one in every line, or no column split at all")
    wrong = [bool(text) and text.lower() not in SPLIT_FOLDERS for text in given]
    _refuse(path, rows, wrong, "an unknown split", f"expected {', '.join(SPLIT_FOLDERS)}", given)
    labels = [nfc(label) for label in labels]
    for reason in {problem(label) for label in set(labels)} - {""}:
        wrong = [problem(label) == reason for label in labels]
        _refuse(
            path, rows, wrong, f"a label that is {reason}", "expected plain text", [shown(label) for label in labels]
        )
    folders: dict[Path, dict[str, str]] = {}
    paths = [existing(Path(os.path.normpath(path.parent / file)), folders) for file in files]
    _refuse_duplicates(path, rows, paths, files, labels)
    absent = [not _is_file(file) for file in paths]
    where = f"expected files; paths are relative to {path.parent}"
    _refuse(path, rows, absent, "images that are not there", where, files)
    return Listing(
        name=f"manifest/{path.stem}",
        files=tuple(files),
        paths=tuple(paths),
        classes=np.array(labels, object),
        split=np.array([SPLIT_FOLDERS[text.lower()] if text else "" for text in given]),
    )


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
    for delimiter in DELIMITERS:
        names = [name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter), [])]
        if {"path", "label"} <= set(names):
            break
    else:
        raise DataError(f"{path}: the first line is {header.strip()[:80]!r}; {LAYOUT}")
    twice = sorted({name for name in names if names.count(name) > 1} & {"path", "label", "split"})
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
        yield number, row


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


def _refuse(
    path: Path, rows: list[Row], wrong: list[bool], what: str, expected: str, shown: list[str] | None = None
) -> None:
    """One error for all lines of which something is wrong, with their numbers and what stands there."""
    places = [
        f"line {number}" + (f": {shown[i]}" if shown else "")
        for i, ((number, _), bad) in enumerate(zip(rows, wrong, strict=True))
        if bad
    ]
    if places:
        raise DataError(f"{path}: {what} in {len(places)} of {len(rows)} lines; {expected}\n  {_lines(places)}")


def _refuse_duplicates(path: Path, rows: list[Row], paths: list[Path], files: list[str], labels: list[str]) -> None:
    first: dict[Path, int] = {}
    places = []
    for i, file in enumerate(paths):
        j = first.setdefault(file, i)
        if j != i:
            other = f", as {labels[j]!r} and as {labels[i]!r}" if labels[i] != labels[j] else ""
            places.append(f"lines {rows[j][0]} and {rows[i][0]}: {files[i]}{other}")
    if places:
        raise DataError(f"{path}: {len(places)} images are listed twice; keep one line of each\n  {_lines(places)}")


def _lines(places: list[str]) -> str:
    return "\n  ".join([*places[:10], *([f"and {len(places) - 10} more"] if len(places) > 10 else [])])
