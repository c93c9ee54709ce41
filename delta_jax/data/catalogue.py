"""What a data set is before any image is decoded: names, labels, splits and a way to read each file."""

import dataclasses
import hashlib
from collections.abc import Callable

import numpy as np

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Catalogue:
    """The N examples of a data set in a fixed order.

    Attributes:
      name: what the data set is called in logs and cache files.
      files: readable name of each example, relative to the data set, N of them.
      labels: int32 [N], an index into `class_names`.
      split: str [N], "train", "validation", "test", or "unused" for an image in none of them.
      class_names: one name per label.
      licence: the licence of the images, or where to look for it.
      read: gives the encoded bytes of example i; raises OSError when it cannot.
      sizes: int64 [N], length of each encoded image in bytes.
      newest_ns: time of the last change to any of the files, nanoseconds since 1970; 0 where files cannot change.
      notes: what was left out or taken for something else, a line each, to be said before a run.
    """

    name: str
    files: tuple[str, ...]
    labels: np.ndarray
    split: np.ndarray
    class_names: tuple[str, ...]
    licence: str
    read: Callable[[int], bytes]
    sizes: np.ndarray
    newest_ns: int = 0
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def rows(self, split: str) -> np.ndarray:
        """The examples of one split, int64 [M], ascending; empty where the data set has none."""
        if split not in SPLITS:
            raise ValueError(f"no split is called {split!r}; choose from {', '.join(SPLITS)}")
        return np.flatnonzero(self.split == split)

    def take(self, rows: np.ndarray) -> "Catalogue":
        """The catalogue of these examples only, in this order."""
        return dataclasses.replace(
            self,
            files=tuple(self.files[i] for i in rows),
            labels=self.labels[rows],
            split=self.split[rows],
            sizes=self.sizes[rows],
            read=lambda i: self.read(int(rows[i])),
        )

    def fingerprint(self) -> str:
        """64 hex digits that change with the files' names, labels or sizes, whatever the splits.

        Contents are not read (this runs at every start, over tens of gigabytes for some) and times are left out, so
        that the same data copied to another machine count as the same; the cache looks at times itself.
        """
        digest = hashlib.sha256()
        for names in (self.class_names, self.files):
            digest.update("\0".join(names).encode("utf-8", "surrogateescape") + b"\0\0")
        digest.update(self.labels.astype("<i4").tobytes())
        digest.update(self.sizes.astype("<i8").tobytes())
        return digest.hexdigest()

    def counts(self) -> dict[str, dict[str, int]]:
        """Examples per split and class, zeros included: {"train": {"cat": 10, ...}, "validation": ..., "test": ...}."""
        table = {}
        for split in SPLITS:
            per_class = np.bincount(self.labels[self.split == split], minlength=len(self.class_names))
            table[split] = dict(zip(self.class_names, per_class.tolist(), strict=True))
        return table

    def describe(self, max_classes: int = 20) -> str:
        """A table of the counts to print, with the licence; no more than `max_classes` classes are listed."""
        columns = [split for split in (*SPLITS, "unused") if split in SPLITS or (self.split == split).any()]
        classes = len(self.class_names)
        counts = [np.bincount(self.labels[self.split == split], minlength=classes) for split in columns]
        rows: list[tuple[str, ...]] = [("class", *columns)]
        rows += [(name, *(str(n[i]) for n in counts)) for i, name in enumerate(self.class_names[:max_classes])]
        if classes > max_classes:
            low = [n[max_classes:].min() for n in counts]
            high = [n[max_classes:].max() for n in counts]
            ranges = (f"{a}" if a == b else f"{a}-{b}" for a, b in zip(low, high, strict=True))
            rows.append((f"... {classes - max_classes} more, each", *ranges))
        rows.append(("all", *(str(n.sum()) for n in counts)))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [f"{self.name}: {len(self):,} images, {len(self.class_names)} classes, licence: {self.licence}"]
        for first, *numbers in rows:
            cells = [first.ljust(widths[0]), *(n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True))]
            lines.append(("  " + "  ".join(cells)).rstrip())
        return "\n".join(lines)
