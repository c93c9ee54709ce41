"""The same image in two splits: what is learnt by heart then counts as recognised."""

from delta_jax.data.catalogue import SPLITS, Catalogue
from delta_jax.data.contents import digest_of

Leak = tuple[int, int]  # rows of a catalogue: the image in the earlier split, and its double in a later one

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


def describe_leaks(catalogue: Catalogue, leaks: list[Leak], at_most: int = 10) -> str:
    """A warning with the names of the first `at_most` pairs; "" where there are none."""
    if not leaks:
        return ""

    def named(row: int) -> str:
        return f"{catalogue.split[row]} {catalogue.files[row]} ({catalogue.class_names[catalogue.labels[row]]})"

    lines = [f"{named(row)} is {named(known)}" for known, row in leaks[:at_most]]
    lines += [f"and {len(leaks) - at_most} more"] if len(leaks) > at_most else []
    return (
        f"warning: {len(leaks)} images have the same bytes as one of another split, so the accuracy there is too "
        "high; leave one of each pair out:\n  " + "\n  ".join(lines)
    )
