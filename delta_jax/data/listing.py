"""Image files of one's own, and what is said of each: its class, perhaps its split."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from delta_jax.data import names, splits
from delta_jax.data.catalogue import Catalogue
from delta_jax.data.errors import DataError


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """N image files.

    Attributes:
      name: of the data set, in logs and cache files.
      files: how each file is called in messages and tables.
      paths: where each one lies.
      classes: object [N], the name of each one's class.
      split: str [N], "train", "validation" or "test"; "" for all of them where nothing is said.
      notes: what was left out or taken for something else, a line each; the catalogue has them, too.
    """

    name: str
    files: tuple[str, ...]
    paths: tuple[Path, ...]
    classes: np.ndarray
    split: np.ndarray
    notes: tuple[str, ...] = ()

    def to_train_on(self, class_names: Sequence[str], how: splits.Splitting) -> Catalogue:
        """The catalogue with the splits that are missing drawn from train, or from all."""
        labels = self._labels(class_names)
        own = np.where(self.split == "", "train", self.split)
        return self._catalogue(class_names, labels, splits.fill(own, labels, tuple(class_names), how))

    def to_test_on(self, class_names: Sequence[str]) -> Catalogue:
        """The catalogue for a network that knows these classes: nothing is drawn, images without a split are "test".

        Raises:
          DataError: images of a class that the network does not know. That some of its classes are absent is fine.
        """
        return self._catalogue(class_names, self._labels(class_names), np.where(self.split == "", "test", self.split))

    def _labels(self, class_names: Sequence[str]) -> np.ndarray:
        # Runs of earlier versions may know their classes in the other Unicode form.
        label_of = {names.nfc(name): label for label, name in enumerate(class_names)}
        unknown = sorted(set(self.classes) - set(label_of))
        if unknown:
            hint = names.alike([*unknown, *label_of])
            raise DataError(
                f"{self.name} has images of the classes {splits.listed([names.shown(name) for name in unknown])}; "
                f"expected only {splits.listed(class_names)}: {f'{hint}; ' if hint else ''}rename these classes or "
                "leave them out"
            )
        return np.array([label_of[name] for name in self.classes], np.int32)

    def _catalogue(self, class_names: Sequence[str], labels: np.ndarray, split: np.ndarray) -> Catalogue:
        stats = [_stat(path) for path in self.paths]
        twins = names.alike(class_names)
        return Catalogue(
            name=self.name,
            files=self.files,
            labels=labels,
            split=split,
            class_names=tuple(class_names),
            licence="your own images",
            read=lambda i: self.paths[i].read_bytes(),
            sizes=np.array([size for size, _ in stats], np.int64),
            newest_ns=max(time for _, time in stats),
            notes=(*self.notes, f"two classes, or one written in two ways? {twins}") if twins else self.notes,
        )


def _stat(path: Path) -> tuple[int, int]:
    """Bytes and time of the last change; zeros for a dead link, which decoding will report by name with the others."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns
