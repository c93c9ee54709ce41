"""The images to measure a finished run on: its own ones as they are now, or others, but none that it was trained on."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from ml_collections import FrozenConfigDict

from delta_jax import data
from delta_jax.training import run_split
from delta_jax.training.config import ConfigError
from delta_jax.training.run_split import RunSplit
from delta_jax.training.setup import found, found_again, identified

# By which images a run may have become good at those of a split that is measured.
_SEEN = {"train": frozenset[str](), "validation": frozenset({"train"}), "test": frozenset({"train", "validation"})}
_NO_SPLIT = f"has no {run_split.FILE}, as older versions wrote none"


def own(workdir: Path, config: FrozenConfigDict, split: str) -> data.Catalogue:
    """The images of the run in `workdir`, in its own split; the catalogue's notes say what is gone and what is new.

    Args:
      workdir: of the run.
      config: of the run, resolved; data.root is where to look.
      split: the one that is to be measured.

    Raises:
      ConfigError, DataError: nothing of that split is left, or it is not known which images were trained on.
    """
    root = config.data.root
    if root and not data.existing(Path(root).expanduser()).exists():
        raise data.DataError(f"the images of {workdir} are not in {root} any more; say where they are by --root")
    recorded = run_split.read(workdir)
    if recorded is None:
        try:
            catalogue = identified(found(config), config)
        except data.DataError as error:  # an older version did not ask which column says the split
            raise data.DataError(str(error).replace("--config.data.split_column", "--split_column")) from error
        if not run_split.fits_older_version(workdir, catalogue):
            raise ConfigError(
                f"{workdir} {_NO_SPLIT}, and the images are not those that the run began with (files, labels or sizes "
                "differ), so it is not known which ones it was trained on; bring the images back, or give others "
                "with --root"
            )
        return _with_notes(catalogue, [f"{workdir} {_NO_SPLIT}: the split was drawn anew"])
    catalogue = found_again(config, recorded.class_names, more_classes=True)
    rows, where = recorded.rows_in(catalogue), root or config.data.name
    notes = []
    if gone := _files(recorded, (rows < 0) & recorded.used, first=split):
        of_split = int(((rows < 0) & (recorded.split == split)).sum())
        notes.append(
            f"{data.counted(len(gone), 'image of the run is', 'images of the run are')} "
            f"gone, {of_split} of them of the split {split}: {data.listed(gone)}"
        )
    if new := [catalogue.files[row] for row in np.setdiff1d(np.arange(len(catalogue)), rows)]:
        notes.append(
            f"{data.counted(len(new), 'image is', 'images are')} "
            f"new since the run began and left out, without a split: {data.listed(new)}"
        )
    return _in_its_split(recorded, _of_its_classes(recorded, catalogue, rows), rows, split, where, notes)


def others(
    workdir: Path,
    config: FrozenConfigDict,
    root: str,
    class_names: Sequence[str],
    split: str,
    **columns: str,
) -> data.Catalogue:
    """The images in `root`, a folder or a table, that may be measured as `split`.

    What has the content of an image that the run was trained on, or validated on where `split` is "test", is left out.
    Where most are images of the run, they are its data moved: then its own split says what is measured, and images that
    it does not know are only taken where folder or table say themselves that they are of that split.

    Args:
      workdir: of the run.
      config: of the run, resolved.
      root: where the images are.
      class_names: of the network.
      split: the one that is to be measured.
      columns: split_column, image_column and label_column, as of `data.find`; those of the run where not given.

    Raises:
      DataError: nothing is left, or there are images of other classes.
    """
    own = {field: config.data.get(field, "") for field in ("image_column", "label_column")}
    given = own | {field: column for field, column in columns.items() if column}
    look = partial(data.find_other, root, class_names, split="", unsaid="unused", **given)
    catalogue = identified(look(more_classes=True), config)
    recorded, notes = _split_of(workdir, config, root)
    known = recorded.splits_of(catalogue.contents) if recorded else [set[str]()] * len(catalogue)
    if recorded and 2 * sum(map(bool, known)) > len(catalogue):
        return _moved(recorded, catalogue, known, split, root, notes)
    if len(catalogue.class_names) > len(class_names):
        look()  # says which classes the network does not know
    if split == "test" and (catalogue.split == "unused").all():
        catalogue = dataclasses.replace(catalogue, split=np.full(len(catalogue), "test"))
    wanted = catalogue.split == split
    seen = wanted & np.array([bool(splits & _SEEN[split]) for splits in known])
    if seen.any():
        names = [catalogue.files[row] for row in np.flatnonzero(seen)]
        notes.append(
            f"{data.counted(len(names), 'image is', 'images are')} "
            f"left out, seen by the run in training: {data.listed(names)}"
        )
        if not (wanted & ~seen).any():
            raise data.DataError(f"nothing is left of {root}: {notes[-1]}; give a --root with other images")
    return _with_notes(catalogue.take(np.flatnonzero(~seen)), notes)


def _moved(
    recorded: RunSplit, catalogue: data.Catalogue, known: list[set[str]], split: str, root: str, notes: list[str]
) -> data.Catalogue:
    rows = recorded.rows_in(catalogue)
    counts = ", ".join(f"{int(((rows >= 0) & (recorded.split == one)).sum())} {one}" for one in data.SPLITS)
    notes.append(f"{root} holds images of the run ({counts}): its own split says what is measured")
    if gone := _files(recorded, (rows < 0) & (recorded.split == split)):
        notes.append(
            f"{data.counted(len(gone), f'{split} image of the run is', f'{split} images of the run are')} not there: "
            f"{data.listed(gone)}"
        )
    unknown = np.array([not splits for splits in known])
    wanted = (catalogue.split == split) & (catalogue.labels < len(recorded.class_names))
    catalogue = _of_its_classes(recorded, catalogue, rows)
    taken = np.flatnonzero(unknown & wanted)
    if len(taken):
        notes.append(
            f"{data.counted(len(taken), 'image', 'images')} "
            f"unknown to the run and there of the split {split}: measured, too"
        )
    if left := [catalogue.files[row] for row in np.flatnonzero(unknown & ~wanted)]:
        notes.append(
            f"{data.counted(len(left), 'image is', 'images are')} "
            f"left out, without a split in the run: {data.listed(left)}; to measure them, give a --root with them alone"
        )
    if not len(taken):
        return _in_its_split(recorded, catalogue, rows, split, f"{root}, which holds others of it ({counts})", notes)
    kept = np.flatnonzero((rows >= 0) & (recorded.split == split))
    notes += _of_labels_and_doubles(recorded, catalogue, rows, split)
    picked = catalogue.take(np.concatenate([rows[kept], taken]))
    return _with_notes(dataclasses.replace(picked, split=np.full(len(picked), split)), notes)


def _of_its_classes(recorded: RunSplit, catalogue: data.Catalogue, rows: np.ndarray) -> data.Catalogue:
    """With the classes of the run alone: images of others may be there that the run does not know."""
    strange = catalogue.labels >= len(recorded.class_names)
    if changed := recorded.relabelled(catalogue, np.where(strange[rows], rows, -1)):
        raise data.DataError(
            f"images of the run are of classes now that the network does not know: {data.listed(changed)}; name "
            "the classes as they were, or give other images with --root"
        )
    return dataclasses.replace(catalogue, class_names=recorded.class_names) if strange.any() else catalogue


def _in_its_split(
    recorded: RunSplit, catalogue: data.Catalogue, rows: np.ndarray, split: str, where: str, notes: list[str]
) -> data.Catalogue:
    here, wanted = rows >= 0, recorded.split == split
    if wanted.any() and not (here & wanted).any():
        raise data.DataError(
            f"none of the {int(wanted.sum())} {split} images of the run is in {where}: "
            f"{data.listed(_files(recorded, wanted))}; bring them back, or give a --root with other images"
        )
    # All of them, where all are there: these are decoded already.
    kept = np.flatnonzero(here if here.all() else here & wanted)
    picked = dataclasses.replace(catalogue.take(rows[kept]), split=recorded.split[kept])
    return _with_notes(picked, notes + _of_labels_and_doubles(recorded, catalogue, rows, split))


def _of_labels_and_doubles(recorded: RunSplit, catalogue: data.Catalogue, rows: np.ndarray, split: str) -> list[str]:
    notes = []
    measured = np.where(recorded.split == split, rows, -1)
    if changed := recorded.relabelled(catalogue, measured):
        notes.append(
            f"{data.counted(len(changed), 'image is', 'images are')} "
            f"of another class than in the run: {data.listed(changed)}"
        )
    both = [bool(splits & _SEEN[split]) for splits in recorded.splits_of(recorded.contents)]
    if doubles := _files(recorded, (measured >= 0) & np.array(both)):
        notes.append(
            f"warning: {data.counted(len(doubles), f'{split} image has', f'{split} images have')} "
            f"the same bytes as an image that "
            f"the run has seen in training, so the accuracy is too high: {data.listed(doubles)}"
        )
    return notes


def _split_of(workdir: Path, config: FrozenConfigDict, root: str) -> tuple[RunSplit | None, list[str]]:
    """The split of a run; of one of an older version drawn anew, where its images are found as they were."""
    if recorded := run_split.read(workdir):
        return recorded, []
    for place in (config.data.root, root):
        values = config.to_dict()
        values["data"]["root"] = place
        try:
            catalogue = found(FrozenConfigDict(values))
        except data.DataError:
            continue
        if run_split.fits_older_version(workdir, catalogue):
            drawn = run_split.of(identified(catalogue, config))
            return drawn, [f"{workdir} {_NO_SPLIT}: the split was drawn anew from {place}"]
    return None, [f"warning: {workdir} {_NO_SPLIT}: whether it was trained on some of these images is not known"]


def _files(recorded: RunSplit, chosen: np.ndarray, first: str = "") -> list[str]:
    rows = sorted(np.flatnonzero(chosen), key=lambda row: recorded.split[row] != first)
    return [recorded.files[row] for row in rows]


def _with_notes(catalogue: data.Catalogue, notes: Sequence[str]) -> data.Catalogue:
    return dataclasses.replace(catalogue, notes=(*catalogue.notes, *notes))
