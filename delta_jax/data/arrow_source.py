"""Images and labels in Parquet or Arrow files, as the package `datasets` and the Hugging Face Hub have them."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from delta_jax.data import arrow_columns, arrow_files
from delta_jax.data.arrow_tables import ArrowTable
from delta_jax.data.columns import IGNORE
from delta_jax.data.contents import CHUNK, digest_of
from delta_jax.data.errors import DataError
from delta_jax.data.listing import Listing, Records
from delta_jax.data.names import existing, problem, shown
from delta_jax.data.splits import counted, listed
from delta_jax.data.table_columns import said_by
from delta_jax.data.tables import Table

EXTRA = "pip install 'delta_jax[parquet]'"


def read(
    root: Path,
    *,
    name: str,
    config: str = "",
    image_column: str = "",
    label_column: str = "",
    split_column: str = "",
    group: str = "",
    flags: str = "--config.data.",
) -> Listing:
    """The rows of all files, in the order of their names; each image is read once, for its hash.

    The parts that files are called after (train, validation, test) are their splits, as if a column split said so.

    Args:
      root: a file or folder, see `arrow_files`.
      name: of the data set.
      config: as of `arrow_files.find`.
      image_column: which column holds the images; "" for the one that is known by its type.
      label_column: which column holds the classes; "" for the one that `datasets` calls so, or that is called label.
      split_column: as of `manifest.read`.
      group: the column of what images share that are to be kept together; "" for none.
      flags: what stands before the names of these fields on the command line, for messages.

    Raises:
      DataError: the files cannot be read, or are those of another task; rows without an image or a label.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise DataError(f"{root}: Parquet and Arrow files are read by pyarrow, which is not here: {EXTRA}") from error
    found = arrow_files.find(root, config)
    tables = [ArrowTable(path) for path, _ in found.files]
    image, label, features = _columns(found, tables, image_column, label_column, flags)
    parts, tables, labels, order, notes = _labelled(found, tables, label, features.get(label, {}))
    names = arrow_files.names_of([table.path for table in tables], found.root)
    rows = [(table, row) for table in tables for row in range(table.rows)]
    places = [f"{file}[{row}]" for file, table in zip(names, tables, strict=True) for row in range(table.rows)]
    if not rows:
        raise DataError(f"{root} holds no images; {arrow_files.LAYOUT}")
    said_by_files = split_column.strip().casefold() != IGNORE
    table = _as_table(root, tables, parts if said_by_files else [""] * len(parts), places, image)
    table.refuse([text is None for text in labels], "no label", f"expected one in every row of {label}")
    texts = [text or "" for text in labels]
    for reason in {problem(text) for text in set(texts)} - {""}:
        wrong = [problem(text) == reason for text in texts]
        table.refuse(wrong, f"a label that is {reason}", "expected plain text", [*map(shown, texts)])
    read_there = (image.casefold(), label.casefold())
    said = said_by(table, texts, read_there, split_column=split_column, group=group, flags=flags, name=root.name)
    kinds = tables[0].types.items()
    if other := [column for column, kind in kinds if column not in (image, label) and not arrow_columns.is_plain(kind)]:
        notes.append(f"columns of {root.name} that are no texts or numbers, not read: {listed(other)}")
    files, paths, records = _images(found.root, rows, places, image, table)
    if absent := [one for one in order if one not in set(texts)]:
        notes.append(f"{counted(len(absent), 'class', 'classes')} of {label} without images left out: {listed(absent)}")
    return Listing(
        name=name,
        files=tuple(files),
        paths=paths,
        classes=np.array(texts, object),
        split=np.array(said.split),
        notes=(*notes, *said.notes),
        group=said.group,
        alike=said.alike,
        records=records,
        order=tuple(one for one in order if one not in absent),
        licence=found.licence or ("not known" if name.startswith("hf/") else "your own images"),
    )


def _columns(
    found: arrow_files.Found, tables: Sequence[ArrowTable], image_column: str, label_column: str, flags: str
) -> tuple[str, str, arrow_columns.Features]:
    """Names of the two columns, and what is known of all."""
    first = tables[0]
    features = {**found.features, **first.features}
    where = str(found.root)
    image = arrow_columns.image_column(first.types, features, image_column, where, f"{flags}image_column")
    whole = [name for name, kind in first.types.items() if str(kind).startswith(("int", "uint", "bool"))]
    numbers = {name: set(cells) - {None} for name, cells in first.columns(whole).items()}
    label = arrow_columns.label_column(
        first.types, features, image, label_column, where, f"{flags}label_column", numbers
    )
    for table in tables[1:]:
        for name in (image, label):
            if table.types.get(name) != first.types[name]:
                there = f"a column {name} of {table.types[name]}" if name in table.types else f"no column {name}"
                raise DataError(
                    f"{table.path} has {there}, and {first.path.name} one of {first.types[name]}; expected one data "
                    f"set: give {flags}root the files that belong together"
                )
        if table.features.get(label) != first.features.get(label):
            raise DataError(
                f"{table.path} and {first.path.name} know other classes of {label}; they are no one data set"
            )
    return image, label, features


def _labelled(
    found: arrow_files.Found, tables: Sequence[ArrowTable], label: str, feature: Any
) -> tuple[list[str], list[ArrowTable], list[str | None], tuple[str, ...], list[str]]:
    """What is left without the parts of which nobody says the labels, such as the test images of a competition: parts,
    tables, labels of all rows, the classes in their order, and what is to be said."""
    per_table: list[list[str | None]] = []
    order: tuple[str, ...] = ()
    for table in tables:
        try:
            names, order = arrow_columns.class_names(table.columns([label])[label], feature)
        except DataError as error:
            raise DataError(f"{table.path}: {error}") from None
        per_table.append(names)
    parts = [part for _, part in found.files]
    has_labels = {part for part, names in zip(parts, per_table, strict=True) if any(name is not None for name in names)}
    without = [part for part in dict.fromkeys(parts) if part not in has_labels]
    notes = []
    if without and has_labels:
        rows = sum(len(names) for part, names in zip(parts, per_table, strict=True) if part in without)
        notes.append(f"left out: {listed(without)}, {counted(rows, 'row', 'rows')} without labels")
    kept = [i for i, part in enumerate(parts) if part in has_labels or not has_labels]
    labels = [name for i in kept for name in per_table[i]]
    return [parts[i] for i in kept], [tables[i] for i in kept], labels, order, notes


def _as_table(
    root: Path, tables: Sequence[ArrowTable], parts: Sequence[str], places: Sequence[str], image: str
) -> Table:
    """The plain columns of all files as those of a manifest; the part that a file is called after as split."""
    cells: list[dict[str, Any]] = []
    for table, part in zip(tables, parts, strict=True):
        plain = [name for name, kind in table.types.items() if name != image and arrow_columns.is_plain(kind)]
        columns = table.columns(plain)
        said = {"split": part} if any(parts) else {}
        names = [name.strip().casefold() for name in plain]
        listed_there = zip(*columns.values(), strict=True) if plain else ((),) * table.rows
        cells += [dict(zip(names, row, strict=True)) | said for row in listed_there]
    return Table(root, tuple(range(len(cells))), tuple(cells), unit="row", places=tuple(places))


def _images(
    root: Path, rows: Sequence[tuple[ArrowTable, int]], places: Sequence[str], image: str, table: Table
) -> tuple[Sequence[str], tuple[Path, ...], Records | None]:
    """What each image is called; and where it lies, if all are files, or how it is read."""
    folder = root if root.is_dir() else root.parent
    folders: dict[Path, dict[str, str]] = {}

    def look(i: int) -> tuple[str, str, int]:
        """Path, SHA-256 and length of an image in the table; of a file the path alone."""
        content, path = _cell(*rows[i], image)
        return (path, "", 0) if content is None else (path, digest_of(content), len(content))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        chunks = (range(start, min(start + CHUNK, len(rows))) for start in range(0, len(rows), CHUNK))
        seen = [found for chunk in chunks for found in pool.map(look, chunk)]
    stated = [path for path, _, _ in seen]
    is_file = [not digest for _, digest, _ in seen]
    table.refuse(
        [so and not path for so, path in zip(is_file, stated, strict=True)], "no image", "expected one in every row"
    )
    addresses = [so and ("://" in path or "::" in path) for so, path in zip(is_file, stated, strict=True)]
    table.refuse(addresses, "addresses in place of images", "expected their bytes, or files; fetch them first", stated)
    # A file beside its table, or below the folder that was given.
    lies = [
        next((p for above in (t.path.parent, folder) if _is_file(p := existing(above / path, folders))), Path(path))
        if so
        else Path()
        for so, path, (t, _) in zip(is_file, stated, rows, strict=True)
    ]
    absent = [so and not _is_file(path) for so, path in zip(is_file, lies, strict=True)]
    table.refuse(absent, "images that are not there", f"expected files; paths are relative to {folder}", stated)
    parted = [f"{part}/{path}" for part, path in zip(table.texts("split"), stated, strict=True)]
    files = next((some for some in (stated, parted) if all(stated) and len(set(some)) == len(some)), places)
    if all(is_file):
        return files, tuple(lies), None
    contents = [
        digest_of(path.read_bytes()) if so else seen[i][1]
        for i, (so, path) in enumerate(zip(is_file, lies, strict=True))
    ]
    sizes = [path.stat().st_size if so else seen[i][2] for i, (so, path) in enumerate(zip(is_file, lies, strict=True))]

    def read(i: int) -> bytes:
        if is_file[i]:
            return lies[i].read_bytes()
        try:
            return _cell(*rows[i], image)[0] or b""
        except DataError as error:
            raise OSError(str(error)) from error

    return files, (), Records(read, np.array(sizes, np.int64), tuple(contents))


def _cell(table: ArrowTable, row: int, image: str) -> tuple[bytes | None, str]:
    """The bytes of an image, or None, and its path, or ""."""
    cell = table.cell(image, row)
    if isinstance(cell, dict):
        return cell.get("bytes"), cell.get("path") or ""
    return (None, cell or "") if isinstance(cell, str | None) else (cell, "")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
