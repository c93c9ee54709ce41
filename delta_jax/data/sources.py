"""Data sets by name."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from delta_jax.data import arrow_files, arrow_source, elpv, folder, hub_folders, manifest, tables, tfds_source
from delta_jax.data.catalogue import Catalogue
from delta_jax.data.errors import DataError
from delta_jax.data.image_files import look_through
from delta_jax.data.listing import Listing
from delta_jax.data.names import existing, nfc
from delta_jax.data.splits import Splitting

NAMES = ("elpv", "elpv_4class", "folder", "manifest", "parquet")
_TABLES = "a manifest, parquet or hf/NAME"


def is_own(name: str) -> bool:
    """Whether a data set is one's own images, whose folder or file may be given anywhere, and not one that is known."""
    return name in ("folder", "manifest", "parquet") or name.startswith("hf/")


def find(
    name: str,
    *,
    root: str = "",
    seed: int = 0,
    validation_fraction: float = 0.2,
    test_fraction: float = 0.25,
    fold: int = 0,
    shots: int = 0,
    train_fraction: float = 1.0,
    split_column: str = "",
    group: str = "",
    image_column: str = "",
    label_column: str = "",
) -> Catalogue:
    """Lists a data set, checks it and splits it; no image is decoded.

    Args:
      name: "elpv", "elpv_4class", "folder", "manifest", "parquet", "hf/[ORGANISATION/]NAME[:CONFIG]" or
        "tfds/NAME[/CONFIG]".
      root: where the images lie, for "manifest" the file that lists them, for "parquet" a file or folder; those three
        need it, others have a default.
      seed: draws the splits that the data set does not bring along.
      validation_fraction: part of the training images to validate on, 1/k for k folds; 0 for none.
      test_fraction: part of the images to test on, where the data set has no test images; 0 for none.
      fold: which of the k validation folds, 0 to k - 1; the folds are disjoint.
      shots: images per class to train on, those of the validation folds included; 0 for all.
      train_fraction: the same as a fraction of every class; 1 for all.
      split_column: of a table, the column that says the split, see `manifest.read`; "" for the one called split.
      group: what images share that are kept together wherever a split is drawn: a column of a table, a feature of a
        tfds data set, or a regular expression for the paths of a folder, see `folder.find`; "" for none.
      image_column: of "parquet" and "hf/", the column of the images, where types and names do not tell.
      label_column: of the same, the column of the classes.

    Raises:
      DataError: unknown name, images missing, or classes too small to split.
    """
    how = Splitting(
        seed=seed,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        fold=fold,
        shots=shots,
        train_fraction=train_fraction,
    )
    columns = {"image_column": image_column, "label_column": label_column}
    if split_column and (name == "folder" or not is_own(name)):
        raise DataError(f"split_column is {split_column!r}, but only {_TABLES} has columns; the data set is {name!r}")
    given = [f"{field} is {column!r}" for field, column in columns.items() if column]
    if given and (name in ("folder", "manifest") or not is_own(name)):
        raise DataError(f"{given[0]}, but only parquet and hf/NAME have such columns; the data set is {name!r}")
    if name in ("elpv", "elpv_4class"):
        if group:
            raise DataError(f"group is {group!r}, but nothing is known of which cells of {name} belong together")
        return elpv.find(name, root, how)
    if name == "folder":
        return folder.find(root, how, group=group)
    if name == "manifest":
        return manifest.find(root, how, split_column=split_column, group=group)
    if name == "parquet" or name.startswith("hf/"):
        found = read_table(name, root, split_column=split_column, group=group, **columns)
        return found.to_train_on(found.classes_to_train_on(root or name), how)
    if name.startswith("tfds/") and len(name) > len("tfds/"):
        return tfds_source.find(name.removeprefix("tfds/"), root, how, group=group)
    near = difflib.get_close_matches(name, NAMES, n=2, cutoff=0.5)
    raise DataError(
        f"no data set is called {name!r}; {f'did you mean {near[0]}? ' if near else ''}"
        f"Names: {', '.join(NAMES)}, tfds/NAME for NAME in TensorFlow Datasets, hf/NAME for NAME on the "
        "Hugging Face Hub"
    )


def read_table(name: str, root: str, **how: str) -> Listing:
    """The rows of "parquet" or "hf/NAME"; see `arrow_source.read` for the rest."""
    if name == "parquet":
        if not root:
            raise DataError(f"the data set 'parquet' needs root; {arrow_files.LAYOUT}")
        place = existing(Path(root).expanduser())
        return arrow_source.read(
            place, name=f"parquet/{place.stem if place.is_file() else place.resolve().name}", **how
        )
    place, config = hub_folders.locate(name.removeprefix("hf/"), root)
    return arrow_source.read(place, name=name, config=config, **how)


def find_other(
    root: str,
    class_names: Sequence[str],
    split: str = "test",
    unsaid: str = "test",
    *,
    name: str = "",
    split_column: str = "",
    image_column: str = "",
    label_column: str = "",
    more_classes: bool = False,
) -> Catalogue:
    """Lists images for a network that is trained, to measure it on; nothing is drawn at random.

    Args:
      root: a folder, `root/<class>/*` or `root/{train,val,test}/<class>/*`, a manifest, or Parquet or Arrow files.
      class_names: what the network knows; images of only some of these classes will do.
      split: which images are wanted: split folders without it are refused; "" for whatever there is.
      unsaid: the split of all images where there are neither split folders nor a column split.
      name: "hf/NAME" where root is as of `find`; "" for what root itself says.
      split_column: as of `find`.
      image_column: as of `find`.
      label_column: as of `find`.
      more_classes: whether classes that the network does not know come behind the others, instead of an error.

    Raises:
      DataError: images missing, or of other classes.
    """
    if Path(root).suffix.lower() in tables.SUFFIXES and not Path(root).expanduser().is_dir():
        listed = manifest.read(root, split_column=split_column, flags="--")
        return listed.to_test_on(class_names, unsaid, more_classes=more_classes)
    place = existing(Path(root).expanduser())
    if name.startswith("hf/") or (arrow_files.is_set(place) and not (place.is_dir() and look_through(place).images)):
        name = name if name.startswith("hf/") else "parquet"
        columns = {"split_column": split_column, "image_column": image_column, "label_column": label_column}
        return read_table(name, root, flags="--", **columns).to_test_on(class_names, unsaid, more_classes=more_classes)
    if split_column:
        raise DataError(f"split_column is {split_column!r}, but only {_TABLES} has columns, and {root} is none")
    known = {nfc(name) for name in class_names}
    return folder.read(root, needed=split, known=known).to_test_on(class_names, unsaid, more_classes=more_classes)
