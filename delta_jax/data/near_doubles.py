"""The same picture once more, smaller or saved again: thumbnails and copies, which no comparison of bytes finds."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from delta_jax.data.catalogue import SPLITS, Catalogue
from delta_jax.data.decoded import Images
from delta_jax.data.splits import counted

SIDE = 16  # of the grey pictures that are compared
ALIKE = 0.995  # least correlation; docs/data.md says what it finds, and what it takes for a double
LEAST_CONTRAST = 2.0  # grey levels, standard deviation: a flat picture has nothing to compare but noise
_CHUNK = 256  # images that are read at once
_BLOCK = 2**25  # correlations at once: 128 MB

Pair = tuple[int, int, float]  # rows of the catalogue, the one of the earlier split first, and their correlation


def find_near_doubles(images: Images, *, progress: Callable[[int], None] | None = None) -> list[Pair]:
    """Which images look like one of another split, or like one of another class.

    Two look alike where 16 x 16 mean grey values correlate by more than ALIKE. What has the same bytes is left out.

    Args:
      images: decoded.
      progress: called with a number of images each time that many more were reduced.

    Returns:
      For each such image one pair, ascending by its second: (the one it is most like of those that come before it in
      train, validation, test, this one, the correlation).
    """
    catalogue = images.catalogue
    rows = np.concatenate([catalogue.rows(split) for split in SPLITS])
    vectors = _grey(images, rows, progress)
    contrast = vectors.std(axis=1)
    rows, vectors = rows[contrast >= LEAST_CONTRAST], vectors[contrast >= LEAST_CONTRAST]
    vectors -= vectors.mean(axis=1, keepdims=True)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    split = np.array([SPLITS.index(name) for name in catalogue.split[rows]])
    labels = catalogue.labels[rows]
    found = []
    start = 0
    while start < len(rows):
        end = min(len(rows), start + max(1, _BLOCK // len(rows)))
        alike = vectors[start:end] @ vectors[:end].T
        same = (split[start:end, None] == split[:end]) & (labels[start:end, None] == labels[:end])
        alike[same | (np.arange(end) >= np.arange(start, end)[:, None])] = -1
        best = alike.argmax(axis=1)
        for own in np.flatnonzero(alike[np.arange(end - start), best] > ALIKE):
            pair = int(rows[best[own]]), int(rows[start + own])
            if not _same_bytes(catalogue, *pair):
                found.append((*pair, float(alike[own, best[own]])))
        start = end
    return sorted(found, key=lambda pair: pair[1])


def describe_near_doubles(catalogue: Catalogue, pairs: list[Pair], at_most: int = 10) -> str:
    """A warning with the names of the `at_most` pairs that are most alike; "" where there are none."""
    if not pairs:
        return ""

    def named(row: int) -> str:
        return f"{catalogue.split[row]} {catalogue.files[row]} ({catalogue.class_names[catalogue.labels[row]]})"

    first = sorted(pairs, key=lambda pair: -pair[2])[:at_most]
    lines = [f"{named(row)} looks like {named(known)}: {alike:.4f}" for known, row, alike in first]
    lines += [f"and {len(pairs) - at_most} more"] if len(pairs) > at_most else []
    return (
        f"warning: {counted(len(pairs), 'image looks', 'images look')} "
        f"like one of another split or class (correlation of {SIDE} x {SIDE} grey "
        f"values above {ALIKE}); look at them, and leave out what is there twice:\n  " + "\n  ".join(lines)
    )


def _grey(images: Images, rows: np.ndarray, progress: Callable[[int], None] | None) -> np.ndarray:
    """float32 [M, SIDE * SIDE]: mean grey levels of the fields of a grid over each image."""
    reduced = np.empty((len(rows), SIDE * SIDE), np.float32)

    def reduce(start: int) -> int:
        chunk = rows[start : start + _CHUNK]
        if images.lengths is None or images.transposed is None:
            reduced[start : start + _CHUNK] = grey_fields(images.array[chunk])
            return len(chunk)
        for i, row in enumerate(chunk, start=start):
            upright = images.array[row, : images.lengths[row]]
            reduced[i] = grey_fields((upright.swapaxes(0, 1) if images.transposed[row] else upright)[None])
        return len(chunk)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for count in pool.map(reduce, range(0, len(rows), _CHUNK)):
            if progress is not None:
                progress(count)
    return reduced


def grey_fields(pixels: np.ndarray) -> np.ndarray:
    """uint8 [B, H, W, 3] -> float32 [B, SIDE * SIDE]; images smaller than the grid have pixels in several fields."""
    rows, columns = (_fields(length) for length in pixels.shape[1:3])
    sums = np.stack([pixels[:, start:end].sum(axis=1, dtype=np.uint32) for start, end in rows], axis=1)
    sums = np.stack([sums[:, :, start:end].sum(axis=2) for start, end in columns], axis=2)
    areas = np.outer([end - start for start, end in rows], [end - start for start, end in columns])
    grey = sums.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return (grey / areas.astype(np.float32)).reshape(len(pixels), -1)


def _fields(length: int) -> list[tuple[int, int]]:
    starts = [length * i // SIDE for i in range(SIDE + 1)]
    return [(start, max(end, start + 1)) for start, end in pairwise(starts)]


def _same_bytes(catalogue: Catalogue, one: int, other: int) -> bool:
    return bool(catalogue.sizes[one] == catalogue.sizes[other]) and catalogue.read(one) == catalogue.read(other)
