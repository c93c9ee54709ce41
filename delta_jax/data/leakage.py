"""The same image in two splits, where what is learnt by heart counts as recognised, or under two labels."""

from collections.abc import Sequence

import numpy as np

from delta_jax.data.catalogue import SPLITS, Catalogue
from delta_jax.data.contents import digest_of
from delta_jax.data.splits import counted

# Rows of a catalogue: the image that comes first (for a leak, in the earlier split), and its double.
Leak = tuple[int, int]

# Images that cannot be read, and empty files, are all alike; decoding says their names.
_NOTHING = ("", digest_of(b""))


def find_leaks(catalogue: Catalogue) -> list[Leak]:
    """Which images have the same bytes as one of an earlier split (train, validation, test, in this order).

    Args:
      catalogue: the examples, with their contents.

    Returns:
      For each such image one pair, ascending by the second: (the first image with these bytes, this one).
    """
    used = [row for row in range(len(catalogue)) if catalogue.split[row] in SPLITS]
    first: dict[str, int] = {}
    leaks = []
    for row in sorted(used, key=lambda row: (SPLITS.index(catalogue.split[row]), row)):
        content = catalogue.contents[row]
        known = first.setdefault(content, row)
        if content not in _NOTHING and catalogue.split[known] != catalogue.split[row]:
            leaks.append((known, row))
    return sorted(leaks, key=lambda leak: leak[1])


def find_contradictions(contents: Sequence[str], labels: np.ndarray) -> list[Leak]:
    """Which images have the same bytes as an earlier one, but another label; in whatever splits they are.

    Args:
      contents: SHA-256 of each image, N of them; "" for one that cannot be read.
      labels: int [N].

    Returns:
      For each such image one pair, ascending by the second: (the first image with these bytes, this one).
    """
    first: dict[str, int] = {}
    pairs = [(first.setdefault(content, row), row) for row, content in enumerate(contents) if content not in _NOTHING]
    return [(known, row) for known, row in pairs if labels[known] != labels[row]]


def describe_leaks(catalogue: Catalogue, leaks: list[Leak], at_most: int = 10) -> str:
    """A warning with the names of the first `at_most` pairs; "" where there are none."""
    if not leaks:
        return ""

    return (
        f"warning: {counted(len(leaks), 'image has', 'images have')} "
        f"the same bytes as one of another split, so the accuracy there is too "
        f"high; leave one of each pair out:\n  {_pairs(catalogue, leaks, at_most)}"
    )


def describe_contradictions(catalogue: Catalogue, pairs: list[Leak], at_most: int = 10) -> str:
    """A warning with names and labels of the first `at_most` pairs; "" where there are none."""
    if not pairs:
        return ""
    return (
        f"warning: {counted(len(pairs), 'image has', 'images have')} "
        f"the same bytes as another one and another label, so one of the two labels "
        f"is wrong; correct it, or leave both images out:\n  {_pairs(catalogue, pairs, at_most)}"
    )


def _pairs(catalogue: Catalogue, pairs: list[Leak], at_most: int) -> str:
    def named(row: int) -> str:
        return f"{catalogue.split[row]} {catalogue.files[row]} ({catalogue.class_names[catalogue.labels[row]]})"

    lines = [f"{named(row)} is {named(known)}" for known, row in pairs[:at_most]]
    return "\n  ".join([*lines, *([f"and {len(pairs) - at_most} more"] if len(pairs) > at_most else [])])
