"""A folder of images: root/<class>/* or root/{train,val,test}/<class>/*."""

import os
from pathlib import Path

import numpy as np

from delta_jax.data import splits
from delta_jax.data.catalogue import SPLITS, Catalogue
from delta_jax.data.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
SPLIT_FOLDERS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
LAYOUT = "expected root/<class>/*.jpg or root/{train,val,test}/<class>/*.jpg"


def find(*, root: str, seed: int, validation_fraction: float, test_fraction: float, fold: int) -> Catalogue:
    """Lists the images below `root`; see `delta_jax.data.find`.

    The classes are the names of the folders, sorted; sub-folders of a class belong to it; links are followed; hidden
    files and __MACOSX are left out. The order depends on the names only, not on the file system.
    """
    if not root:
        raise DataError(f"the data set 'folder' needs root: the folder with your images; {LAYOUT}")
    top = Path(root).expanduser()
    if not top.is_dir():
        raise DataError(f"root {root} is {'a file' if top.exists() else 'not there'}; {LAYOUT}")

    per_split = {split: _classes(path) for split, path in _split_folders(top).items()}
    for split, classes in per_split.items():
        empty = [name for name, paths in classes.items() if not paths]
        if empty:
            raise DataError(
                f"no images ({', '.join(SUFFIXES)}) in the class folders {_list(empty)} of {top} ({split}); "
                "add images or remove the folders"
            )
        _require_same_classes(set(per_split["train"]), set(classes), split)
    class_names = tuple(sorted(per_split["train"]))
    if len(class_names) < 2:
        raise DataError(f"found {len(class_names)} class folders in {top} ({_list(class_names)}), need two; {LAYOUT}")

    paths, labels, split_names = [], [], []
    for split in SPLITS:
        for label, name in enumerate(class_names):
            found = per_split.get(split, {}).get(name, [])
            paths += found
            labels += [label] * len(found)
            split_names += [split] * len(found)
    label_array = np.array(labels, np.int32)
    stats = [_stat(path) for path in paths]
    return Catalogue(
        name=f"folder/{top.resolve().name}",
        files=tuple(path.relative_to(top).as_posix() for path in paths),
        labels=label_array,
        split=splits.fill(
            np.array(split_names),
            label_array,
            class_names,
            seed=seed,
            validation_fraction=validation_fraction,
            test_fraction=test_fraction,
            fold=fold,
        ),
        class_names=class_names,
        licence="your own images",
        read=lambda i: paths[i].read_bytes(),
        sizes=np.array([size for size, _ in stats], np.int64),
        newest_ns=max(time for _, time in stats),
    )


def _split_folders(top: Path) -> dict[str, Path]:
    """{"train": folder, ...}; {"train": top} where the folders in `top` are classes."""
    folders = _sub_folders(top)
    if not folders:
        raise DataError(f"no folders in {top}; {LAYOUT}")
    split_folders = [path for path in folders if path.name.lower() in SPLIT_FOLDERS]
    others = [path.name for path in folders if path.name.lower() not in SPLIT_FOLDERS]
    train = [path for path in split_folders if path.name.lower() == "train"]
    # "train" beside "bus", or "valid" beside "invalid", may well be a class: then it holds images, not class folders.
    if others and not (train and _sub_folders(train[0])):
        return {"train": top}
    if others:
        raise DataError(
            f"beside {train[0].name}/ there is {_list(others)} in {top}, which is no split; move it elsewhere"
        )
    if not train:
        raise DataError(f"found {_list([p.name for p in split_folders])} in {top}, but no train; {LAYOUT}")
    by_split: dict[str, Path] = {}
    for path in split_folders:
        split = SPLIT_FOLDERS[path.name.lower()]
        if split in by_split:
            raise DataError(f"{by_split[split].name} and {path.name} in {top} both mean {split}; keep one of them")
        by_split[split] = path
    return by_split


def _require_same_classes(train: set[str], other: set[str], split: str) -> None:
    if train != other:
        raise DataError(
            f"the classes of train and {split} differ; only in train: {_list(sorted(train - other)) or 'none'}; "
            f"only in {split}: {_list(sorted(other - train)) or 'none'}; rename or complete the folders"
        )


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


def _stat(path: Path) -> tuple[int, int]:
    """Bytes and time of the last change; zeros for a dead link, which decoding will report by name with the others."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _unreadable(error: OSError) -> DataError:
    return DataError(f"cannot read the folder {error.filename} ({error.strerror}); check its permissions")


def _list(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
