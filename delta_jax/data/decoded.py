"""A decoded data set: the array on disk, and the images of a batch or of a whole split in memory."""

import dataclasses

import numpy as np

from delta_jax.data.canvas import Canvas, Strip
from delta_jax.data.catalogue import Catalogue

DARK = 64  # images without a value as large as this are nearly black


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """A decoded data set.

    Attributes:
      array: uint8 [N, size, size, 3], RGB, read-only and on disk; row i is example i of the catalogue. Of images that
        keep their aspect [N, 2 size, size, 3]: see `Canvas`; what lies beyond an image takes no space on the disk.
      catalogue: the N examples that could be decoded.
      broken: (file, reason) for each example left out.
      lengths: int32 [N], long side of each image in pixels; None where all are squares.
      transposed: bool [N], whether rows and columns are exchanged; None where all are squares.
      digest: SHA-256 of all pixels, as they were when they were decoded.
      rows: int64 [N], which examples these are of the catalogue that was decoded; None where these are all.
    """

    array: np.memmap
    catalogue: Catalogue
    broken: tuple[tuple[str, str], ...]
    lengths: np.ndarray | None = None
    transposed: np.ndarray | None = None
    digest: str = ""
    rows: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image in `take`: the size, or the longest side of all and the shorter one; and 3."""
        length, size, channels = self.array.shape[1:]
        return (length if self.lengths is None else int(self.lengths.max()), size, channels)

    def take(self, rows: np.ndarray) -> np.ndarray | Canvas:
        """The images `rows` [B] in memory: uint8 [B, size, size, 3], or a Canvas that fits the longest of all."""
        if self.lengths is None or self.transposed is None:
            return np.asarray(self.array[rows])
        pixels = np.zeros((len(rows), *self.shape), np.uint8)
        for canvas, row in zip(pixels, rows, strict=True):
            canvas[: self.lengths[row]] = self.array[row, : self.lengths[row]]
        return Canvas(pixels, self.lengths[rows], self.transposed[rows])

    def strip(self, rows: np.ndarray) -> Strip:
        """The images `rows` [M], which keep their aspect, in memory and one below the other."""
        assert self.lengths is not None
        assert self.transposed is not None
        ends = np.cumsum(self.lengths[rows], dtype=np.int64)
        starts, rest = ends - self.lengths[rows], self.shape
        pixels = np.zeros((int(ends[-1] if len(rows) else 0) + rest[0], *rest[1:]), np.uint8)
        for row, start, end in zip(rows, starts, ends, strict=True):
            pixels[start:end] = self.array[row, : end - start]
        return Strip(pixels, starts.astype(np.int32), self.lengths[rows], self.transposed[rows])

    def brightest(self) -> int:
        """The largest value of all; as soon as one is DARK or more, that."""
        spread = np.linspace(0, len(self.array) - 1, min(len(self.array), 64)).astype(int)
        for rows in (spread, *np.array_split(np.arange(len(self.array)), -(-len(self.array) // 256))):
            found = int(self.array[rows].max(initial=0))
            if found >= DARK:
                return found
        return int(self.array.max(initial=0))

    def nbytes(self, rows: np.ndarray) -> int:
        """What the images `rows` [M] take in memory."""
        lengths = np.full(len(rows), self.array.shape[1]) if self.lengths is None else self.lengths[rows]
        return int(lengths.sum()) * int(np.prod(self.array.shape[2:]))
