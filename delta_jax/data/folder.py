"""A folder of images: root/<class>/* or root/{train,val,test}/<class>/*."""

import os
from pathlib import Path

import numpy as np

from delta_jax.data.catalogue import SPLITS, Catalogue
from delta_jax.data.errors import DataError
from delta_jax.data.listing import Listing
from delta_jax.data.splits import Splitting, listed

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
SPLIT_FOLDERS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
LAYOUT = "expected root/<class>/*.jpg or root/{train,val,test}/<class>/*.jpg"


def find(root: str, how: Splitting, *, group: str = "") -> Catalogue:
    """Lists the images below `root`; see `delta_jax.data.find`.

    The classes are the names of the folders, sorted; sub-folders of a class belong to it; links are followed; hidden
    files and __MACOSX are left out. The order depends on the names only, not on the file system.
    """
    found = read(root, needed="train")
    classes = {split: set(found.classes[found.split == split]) for split in dict.fromkeys(found.split)}
    train = next(iter(classes.values()))  # "train", or "" where there are no split folders
    for split, names in classes.items():
        if names != train:
            raise DataError(
                f"the classes of train and {split} differ; only in train: {listed(sorted(train - names)) or 'none'}; "
                f"only in {split}: {listed(sorted(names - train)) or 'none'}; rename or complete the folders"
            )
    class_names = tuple(sorted(train))
    if len(class_names) < 2:
        raise DataError(f"found {len(class_names)} class folders in {root} ({listed(class_names)}), need two; {LAYOUT}")
    return (found.grouped(group) if group else found).to_train_on(class_names, how)


def read(root: str, *, needed: str) -> Listing:
    """The images of a folder by split, class and name.

    Args:
      root: the folder.
      needed: the split without which split folders are of no use, such as "train"; "" if any will do.

    Raises:
      DataError: the folder is not laid out like this, cannot be read, or a class folder is empty.
    """
    if not root:
        raise DataError(f"the data set 'folder' needs root: the folder with your images; {LAYOUT}")
    top = Path(root).expanduser()
    if not top.is_dir():
        raise DataError(f"root {root} is {'a file' if top.exists() else 'not there'}; {LAYOUT}")
    per_split = {split: _classes(path) for split, path in _split_folders(top, needed).items()}
    for split, classes in per_split.items():
        empty = [name for name, paths in classes.items() if not paths]
        if empty or not classes:
            where = f"the class folders {listed(empty)} of {top}" if classes else f"{top}, which has no class folders"
            raise DataError(
                f"no images ({', '.join(SUFFIXES)}) in {where} ({split or 'all'}); add images or remove the folders"
            )
    entries = [
        (path, name, split)
        for split in ("", *SPLITS)
        for name, paths in per_split.get(split, {}).items()
        for path in paths
    ]
    paths, names, splits = zip(*entries, strict=True)
    return Listing(
        name=f"folder/{top.resolve().name}",
        files=tuple(path.relative_to(top).as_posix() for path in paths),
        paths=paths,
        classes=np.array(names, object),
        split=np.array(splits),
    )


def _split_folders(top: Path, needed: str) -> dict[str, Path]:
    """{"train": folder, ...}; {"": top} where the folders in `top` are classes."""
    folders = _sub_folders(top)
    if not folders:
        raise DataError(f"no folders in {top}; {LAYOUT}")
    split_folders = [path for path in folders if path.name.lower() in SPLIT_FOLDERS]
    others = [path.name for path in folders if path.name.lower() not in SPLIT_FOLDERS]
    wanted = [
        path
        for path in split_folders
        if SPLIT_FOLDERS[path.name.lower()] == (needed or SPLIT_FOLDERS[path.name.lower()])
    ]
    # "train" beside "bus", or "valid" beside "invalid", may well be a class: then it holds images, not class folders.
    if others and not (wanted and _sub_folders(wanted[0])):
        return {"": top}
    if others:
        raise DataError(
            f"beside {wanted[0].name}/ there is {listed(others)} in {top}, which is no split; move it elsewhere"
        )
    if not wanted:
        raise DataError(f"found {listed([p.name for p in split_folders])} in {top}, but no {needed}; {LAYOUT}")
    by_split: dict[str, Path] = {}
    for path in split_folders:
        split = SPLIT_FOLDERS[path.name.lower()]
        if split in by_split:
            raise DataError(f"{by_split[split].name} and {path.name} in {top} both mean {split}; keep one of them")
        by_split[split] = path
    return by_split


def _classes(folder: Path) -> dict[str, list[Path]]:
    return {path.name: image_files(path) for path in _sub_folders(folder)}


def _sub_folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not _ignored(path.name))
    except OSError as error:
        raise _unreadable(error) from error


def image_files(folder: Path) -> list[Path]:
    """The images below a folder, sorted by path; hidden ones and __MACOSX are left out, links are followed."""
    found: list[Path] = []
    visited: set[str] = set()

    def stop(error: OSError) -> None:
        raise _unreadable(error) from error

    for place, sub_folders, files in os.walk(folder, onerror=stop, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:  # a link back to a folder above would be walked forever
            sub_folders.clear()
            continue
        visited.add(real)
        sub_folders[:] = sorted(name for name in sub_folders if not _ignored(name))
        found += [Path(place, name) for name in files if name.lower().endswith(SUFFIXES) and not _ignored(name)]
    return sorted(found)


def _ignored(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _unreadable(error: OSError) -> DataError:
    return DataError(f"cannot read the folder {error.filename} ({error.strerror}); check its permissions")
