"""Images of one's own, files or rows of tables, and what is said of each: its class, perhaps its split."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from delta_jax.data import filling, names, splits
from delta_jax.data.catalogue import Catalogue
from delta_jax.data.errors import DataError
from delta_jax.data.grouping import Groups


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """N encoded images that are no files of their own.

    Attributes:
      read: gives the bytes of image i.
      sizes: int64 [N], bytes.
      contents: SHA-256 of each.
    """

    read: Callable[[int], bytes]
    sizes: np.ndarray
    contents: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """N images.

    Attributes:
      name: of the data set, in logs and cache files.
      files: how each one is called in messages and tables.
      paths: where each one lies; () where they are `records`.
      classes: object [N], the name of each one's class.
      split: str [N], "train", "validation" or "test"; "" for all of them where nothing is said.
      notes: what was left out or taken for something else, a line each; the catalogue has them, too.
      group: which images are to be kept together where splits are drawn; None for none.
      alike: what looks like such groups.
      records: the images where they are no files.
      order: names of classes in the order that the data set has for them; () for none.
      licence: of the images.
    """

    name: str
    files: tuple[str, ...]
    paths: tuple[Path, ...]
    classes: np.ndarray
    split: np.ndarray
    notes: tuple[str, ...] = ()
    group: Groups | None = None
    alike: tuple[Groups, ...] = ()
    records: Records | None = None
    order: tuple[str, ...] = ()
    licence: str = "your own images"

    def classes_to_train_on(self, where: str) -> list[str]:
        """The classes of the training images: in the order of the data set, else sorted; by value where all of them are
        whole numbers.

        Args:
          where: the data set as its user gave it, for messages.

        Raises:
          DataError: there are none, or only one, or other splits have more.
        """
        train = set(self.classes[np.isin(self.split, ("", "train"))])
        if not train:
            raise DataError(
                f"{where}: no image is of the split train, expected some; or leave out the column that says so"
            )
        if lacking := sorted(set(self.classes) - train):
            hint = names.alike([*lacking, *train])
            raise DataError(
                f"{where}: no training images of the classes {splits.listed(lacking)}, which other splits have; "
                f"{f'{hint}; ' if hint else ''}add some, or leave out these classes"
            )
        if len(train) < 2:
            raise DataError(f"{where}: all images have the label {min(train)!r}, need two classes")
        if self.order:
            return [name for name in self.order if name in train]
        if all(re.fullmatch(r"[+-]?[0-9]+", name) for name in train):
            return sorted(train, key=lambda name: (int(name), name))
        return sorted(train)

    def to_train_on(self, class_names: Sequence[str], how: splits.Splitting) -> Catalogue:
        """The catalogue with the splits that are missing drawn from train, or from all."""
        labels = self._labels(class_names)
        own = np.where(self.split == "", "train", self.split)
        split, notes = filling.fill(own, labels, tuple(class_names), how, group=self.group, alike=self.alike)
        return self._catalogue(class_names, labels, split, notes)

    def grouped(self, pattern: str) -> "Listing":
        """With the groups that a regular expression finds in `files`: its first group in brackets, or the whole match.

        Raises:
          DataError: no regular expression, or a file in which it finds nothing.
        """
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise DataError(f"group is {pattern!r}, which is no regular expression ({error})") from error
        matches = [compiled.search(file) for file in self.files]
        names = [(match[min(1, compiled.groups)] or "") if match else "" for match in matches]
        without = [file for file, name in zip(self.files, names, strict=True) if not name]
        if without:
            raise DataError(
                f"group is {pattern!r}, which finds nothing in {len(without)} of the {len(self.files)} paths of "
                f"{self.name}: {splits.listed(without)}; expected a match in all of them, as '([^/]+)_[0-9]+[.]' finds "
                "p1 in cat/p1_003.jpg"
            )
        return dataclasses.replace(self, group=Groups.of(pattern, names))

    def to_test_on(self, class_names: Sequence[str], unsaid: str = "test", *, more_classes: bool = False) -> Catalogue:
        """The catalogue for a network that knows these classes: nothing is drawn, images without a split are `unsaid`.

        With `more_classes` others come behind them, else they are an error. That some of these are absent is fine.

        Raises:
          DataError: images of a class that the network does not know.
        """
        if more_classes:
            known = {names.nfc(name) for name in class_names}
            class_names = (*class_names, *sorted(set(self.classes) - known))
        return self._catalogue(class_names, self._labels(class_names), np.where(self.split == "", unsaid, self.split))

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

    def _catalogue(
        self, class_names: Sequence[str], labels: np.ndarray, split: np.ndarray, notes: tuple[str, ...] = ()
    ) -> Catalogue:
        twins = names.alike(class_names)
        records = self.records or Records(
            lambda i: self.paths[i].read_bytes(), np.array([_size(path) for path in self.paths], np.int64), ()
        )
        return Catalogue(
            name=self.name,
            files=self.files,
            labels=labels,
            split=split,
            class_names=tuple(class_names),
            licence=self.licence,
            read=records.read,
            sizes=records.sizes,
            paths=self.paths,
            contents=records.contents,
            notes=(*self.notes, *([f"two classes, or one written in two ways? {twins}"] if twins else []), *notes),
        )


def _size(path: Path) -> int:
    """Bytes; 0 for a dead link, which decoding will report by name with the others."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
