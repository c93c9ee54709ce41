"""Which images a run trains, validates and tests on: written when it begins, and looked up by content ever after."""

import csv
import dataclasses
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delta_jax import data
from delta_jax.training.config import ConfigError

FILE, DATA = "split.csv", "data.json"
_COLUMNS = ("file", "class", "split", "sha256")


@dataclasses.dataclass(frozen=True, eq=False)
class RunSplit:
    """The N images of a run, in its order.

    Attributes:
      class_names: in the order of the network's outputs.
      files: names, as they were when the run began.
      labels: int32 [N], an index into `class_names`.
      split: str [N], as in a catalogue; "unused" for what could not be decoded, too.
      contents: SHA-256 of each encoded image.
    """

    class_names: tuple[str, ...]
    files: tuple[str, ...]
    labels: np.ndarray
    split: np.ndarray
    contents: tuple[str, ...]

    @property
    def used(self) -> np.ndarray:
        """bool [N], which images are in a split."""
        return np.isin(self.split, data.SPLITS)

    def rows_in(self, catalogue: data.Catalogue) -> np.ndarray:
        """Where the images of the run are now: int64 [N], rows of the catalogue, each once; -1 for what is gone.

        Of several with the same content each one goes by its name, as long as it has it; then the first ones left are
        taken, training images before others: what was trained on is not to become a test image.
        """
        rows = np.full(len(self.files), -1)
        by_name: dict[tuple[str, str], list[int]] = defaultdict(list)
        for row in reversed(range(len(catalogue))):
            by_name[catalogue.contents[row], catalogue.files[row]].append(row)
        for i, key in enumerate(zip(self.contents, self.files, strict=True)):
            if by_name[key]:
                rows[i] = by_name[key].pop()
        left: dict[str, list[int]] = defaultdict(list)
        for row in sorted((row for some in by_name.values() for row in some), reverse=True):
            left[catalogue.contents[row]].append(row)
        order = {split: place for place, split in enumerate((*data.SPLITS, "unused"))}
        missing = [(order[str(self.split[i])], int(i)) for i in np.flatnonzero(rows < 0)]
        for _, i in sorted(missing):
            if left[self.contents[i]]:
                rows[i] = left[self.contents[i]].pop()
        return rows

    def splits_of(self, contents: Sequence[str]) -> list[set[str]]:
        """The splits in which images of these contents are; empty sets for those that the run does not know."""
        known: dict[str, set[str]] = defaultdict(set)
        for content, split in zip(self.contents, self.split, strict=True):
            if content:
                known[content].add(str(split))
        return [known.get(content, set()) for content in contents]

    def again(self, catalogue: data.Catalogue, workdir: Path) -> data.Catalogue:
        """The images with which the run goes on: the same, in the same order, wherever they lie and whatever they are
        called now.

        Raises:
          ConfigError: images in a split are gone or changed, there are new ones, or classes are others.
        """
        rows = self.rows_in(catalogue)
        gone = {self.files[i] for i in np.flatnonzero((rows < 0) & self.used)}
        new = {catalogue.files[row] for row in np.setdiff1d(np.arange(len(catalogue)), rows)}
        moved = self.relabelled(catalogue, rows)
        found = {"changed": gone & new, "gone": gone - new, "new": new - gone, "of another class": set(moved)}
        if any(found.values()) or catalogue.class_names != self.class_names:
            what = "; ".join(
                f"{len(files)} {how}: {data.listed(sorted(files))}" for how, files in found.items() if files
            )
            raise ConfigError(
                f"the images are not those that the run in {workdir} began with: {what or 'the classes are others'}; "
                "choose another --workdir, or bring the images back"
            )
        kept = rows >= 0
        return dataclasses.replace(catalogue.take(rows[kept]), split=self.split[kept])

    def relabelled(self, catalogue: data.Catalogue, rows: np.ndarray) -> list[str]:
        """ "file (class then, class now)" of the images whose class has changed; `rows` as `rows_in` gives them."""
        return [
            f"{catalogue.files[row]} ({self.class_names[label]} then, {now} now)"
            for row, label in zip(rows, self.labels, strict=True)
            if row >= 0 and (now := catalogue.class_names[catalogue.labels[row]]) != self.class_names[label]
        ]


def of(catalogue: data.Catalogue, decoded: np.ndarray | None = None) -> RunSplit:
    """The split of a catalogue with its contents, of which the rows `decoded` could be decoded; all if not given."""
    split = catalogue.split
    if decoded is not None:
        split = np.where(np.isin(np.arange(len(catalogue)), decoded), split, "unused")
    return RunSplit(catalogue.class_names, catalogue.files, catalogue.labels, split, catalogue.contents)


def write(workdir: Path, split: RunSplit, fingerprint: str) -> None:
    """split.csv, and data.json with the SHA-256 of that file, each whole or not at all."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(_COLUMNS)
    names = [split.class_names[label] for label in split.labels]
    rows.writerows(zip(split.files, names, split.split, split.contents, strict=True))
    # Names of files need not be UTF-8: their bytes are written as they are.
    content = text.getvalue().encode("utf-8", "surrogateescape")
    facts = {
        "fingerprint": fingerprint,
        "split": hashlib.sha256(content).hexdigest(),
        "classes": split.class_names,
    }
    for file, written in ((FILE, content), (DATA, (json.dumps(facts, indent=2) + "\n").encode())):
        unfinished = workdir / f".{file}.tmp"
        unfinished.write_bytes(written)
        unfinished.replace(workdir / file)


def read(workdir: Path) -> RunSplit | None:
    """The split that a run wrote; None where there is no run, or one of an older version, which wrote none.

    Raises:
      ConfigError: the file is missing, or is not the one that was written.
    """
    facts = _facts(workdir)
    if "split" not in facts:
        return None
    try:
        content = (workdir / FILE).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{workdir / FILE} cannot be read ({error.strerror}), so which images the run was trained on is not known; "
            "bring the file back, or choose another --workdir"
        ) from error
    if hashlib.sha256(content).hexdigest() != facts["split"]:
        raise ConfigError(
            f"{workdir / FILE} is not what the run wrote when it began; bring that back, or choose another --workdir"
        )
    text = io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")
    files, names, split, contents = zip(*list(csv.reader(text))[1:], strict=True)
    class_names = tuple(facts["classes"])
    label_of = {name: label for label, name in enumerate(class_names)}
    labels = np.array([label_of[name] for name in names], np.int32)
    return RunSplit(class_names, files, labels, np.array(split), contents)


def images_of(workdir: Path) -> str:
    """A hash of the images and classes that a run began with; "" where it is not known, or an older version's."""
    facts = _facts(workdir)
    return str(facts["fingerprint"]) if "split" in facts else ""


def is_of_older_version(workdir: Path) -> bool:
    """Whether the run there wrote no split."""
    return "split" not in _facts(workdir)


def fits_older_version(workdir: Path, catalogue: data.Catalogue) -> bool:
    """Whether names, labels and sizes of the images are what a run of an older version wrote down, if it did."""
    digest = hashlib.sha256()
    for names in (catalogue.class_names, catalogue.files):
        digest.update("\0".join(names).encode("utf-8", "surrogateescape") + b"\0\0")
    digest.update(catalogue.labels.astype("<i4").tobytes())
    digest.update(catalogue.sizes.astype("<i8").tobytes())
    return _facts(workdir).get("fingerprint", digest.hexdigest()) == digest.hexdigest()


def _facts(workdir: Path) -> dict[str, Any]:
    path = Path(workdir) / DATA
    return json.loads(path.read_text()) if path.exists() else {}
