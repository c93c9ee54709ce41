"""What the columns of a table say of its images, beside their classes: the split, and what belongs together."""

import dataclasses
from collections.abc import Sequence

from delta_jax.data import columns
from delta_jax.data.errors import DataError
from delta_jax.data.grouping import Groups
from delta_jax.data.splits import listed
from delta_jax.data.tables import Table


@dataclasses.dataclass(frozen=True, eq=False)
class Said:
    """What was found for N images.

    Attributes:
      split: "train", "validation" or "test" of each, or "unused"; "" for all where no column says it.
      group: which are to be kept together; None where nothing was asked for.
      alike: what looks like such groups.
      notes: which columns are not read, and what values were taken for, a line each.
    """

    split: list[str]
    group: Groups | None
    alike: tuple[Groups, ...]
    notes: tuple[str, ...]


def said_by(
    table: Table, labels: Sequence[str], read: Sequence[str], *, split_column: str, group: str, flags: str, name: str
) -> Said:
    """Looks through the columns.

    Args:
      table: a line for each image.
      labels: the name of each one's class.
      read: names of columns that are read for something else.
      split_column: as of `manifest.read`.
      group: as of `manifest.read`.
      flags: what stands before split_column and group on the command line, for messages.
      name: of the table, for messages.

    Raises:
      DataError: lines without a split or a group, or another column may say the split.
    """
    by, split, notes = _splits(table, split_column, f"{flags}split_column")
    shared = _groups(table, group, f"{flags}group")
    unread = [column for column in table.names if column not in (*read, by, *([shared.field] if shared else []))]
    others = {column: table.texts(column) for column in unread}
    if unread:
        too = [column for column in unread if by and columns.says_split(column, others[column])]
        too_said = f"; {listed(too)} may say a split, too, which is not followed" if too else ""
        columns_there = listed([column or "(no name)" for column in unread])
        notes.append(f"columns of {name} that are not read: {columns_there}{too_said}")
    alike = (Groups.of(column, cells) for column, cells in others.items() if columns.says_group(column, cells, labels))
    return Said(split, shared, tuple(alike), tuple(notes))


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
    table.refuse(empty, f"no {name}", f"expected one in every {table.unit}, or no column {name} at all; {or_so}")
    unknown = [split is None for split in found]
    table.refuse(unknown, f"an unknown {name}", f"expected train, val or test, or unused; {or_so}", values)
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
    expected = f"expected one in every {table.unit}; an image on its own needs a name of its own"
    table.refuse([not value for value in values], f"no {name}", expected)
    return Groups.of(name, values)
