"""The same image in two splits: what is learnt by heart then counts as recognised."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from delta_jax.data.catalogue import SPLITS, Catalogue

# To be raised when `find_leaks` finds others than before, so that what was kept is not taken for new.
VERSION = 1
CHUNK = 256

Leak = tuple[int, int]  # rows of a catalogue: the image in the earlier split, and its double in a later one


def suspects(catalogue: Catalogue) -> np.ndarray:
    """The examples that are as long, in bytes, as one of another split; int64 [M]. Only these can be the same."""
    sizes, size_of = np.unique(catalogue.sizes, return_inverse=True)
    seen = np.zeros((len(SPLITS), len(sizes)), bool)
    for number, split in enumerate(SPLITS):
        seen[number, size_of[catalogue.split == split]] = True
    # Empty files are broken, which decoding says by name.
    shared = (seen.sum(0) > 1) & (sizes > 0)
    return np.flatnonzero(shared[size_of] & np.isin(catalogue.split, SPLITS))


def find_leaks(catalogue: Catalogue, *, progress: Callable[[int], None] | None = None) -> list[Leak]:
    """Which images have the same bytes as one of an earlier split (train, validation, test, in this order).

    Files of a size that no other split has are not read. Images that cannot be read are left to decoding.

    Args:
      catalogue: the examples.
      progress: called with a number of images each time that many more of the `suspects` are compared.

    Returns:
      For each such image one pair, ascending by the second: (the first image with these bytes, this one).
    """

    def digest(row: int) -> bytes | None:
        try:
            return hashlib.sha256(catalogue.read(row)).digest()
        except OSError:
            return None

    digests: dict[int, bytes] = {}
    rows = suspects(catalogue).tolist()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(rows), CHUNK):
            some = rows[start : start + CHUNK]
            for row, found in zip(some, pool.map(digest, some), strict=True):
                if found is not None:
                    digests[row] = found
            if progress is not None:
                progress(len(some))
    first: dict[bytes, int] = {}
    leaks = []
    for row in sorted(digests, key=lambda row: (SPLITS.index(catalogue.split[row]), row)):
        known = first.setdefault(digests[row], row)
        if catalogue.split[known] != catalogue.split[row]:
            leaks.append((known, row))
    return sorted(leaks, key=lambda leak: leak[1])


def kept_leaks(
    catalogue: Catalogue, cache_dir: str | os.PathLike[str], *, progress: Callable[[int], None] | None = None
) -> list[Leak]:
    """As `find_leaks`, once for the same files in the same splits: the answer is kept in a folder of `cache_dir`."""
    facts = f"{VERSION} {catalogue.fingerprint()} {catalogue.newest_ns} ".encode()
    key = hashlib.sha256(facts + "\0".join(catalogue.split).encode()).hexdigest()[:16]
    path = Path(cache_dir).expanduser() / "leaks" / f"{key}.json"
    try:
        return [(int(known), int(row)) for known, row in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):
        leaks = find_leaks(catalogue, progress=progress)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(leaks, file)
        Path(file.name).replace(path)
    except OSError:
        pass  # it is found again next time; that the folder cannot be written is said where images are decoded
    return leaks


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
