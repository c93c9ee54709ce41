"""A folder of images: root/<class>/* or root/{train,val,test}/<class>/*."""

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from delta_jax.data import image_files, names
from delta_jax.data.catalogue import SPLITS, Catalogue
from delta_jax.data.errors import DataError
from delta_jax.data.image_files import Folder
from delta_jax.data.layout import BY_TABLE, LAYOUT, Layout, arrange
from delta_jax.data.listing import Listing
from delta_jax.data.splits import Splitting, counted, listed


def find(root: str, how: Splitting, *, group: str = "") -> Catalogue:
    """Lists the images below `root`; see `delta_jax.data.find`.

    The classes are the names of the folders, in composed Unicode, sorted; sub-folders of a class belong to it; links
    are followed; hidden files and folders of systems are left out. The order depends on the names only, not on the
    file system.
    """
    found = read(root, needed="train")
    classes = {split: set(found.classes[found.split == split]) for split in dict.fromkeys(found.split)}
    train = next(iter(classes.values()))  # "train", or "" where there are no split folders
    for split, others in classes.items():
        if others != train:
            hint = names.alike(train ^ others)
            raise DataError(
                f"the classes of train and {split} differ; only in train: {_shown(train - others)}; "
                f"only in {split}: {_shown(others - train)}; {f'{hint}; ' if hint else ''}"
                "rename or complete the folders"
            )
    class_names = tuple(sorted(train))
    if len(class_names) < 2:
        found_there = counted(len(class_names), "class folder", "class folders")
        raise DataError(f"found {found_there} in {root} ({listed(class_names)}), need two; {LAYOUT}, or {BY_TABLE}")
    return (found.grouped(group) if group else found).to_train_on(class_names, how)


def read(root: str, *, needed: str, known: Collection[str] = ()) -> Listing:
    """The images of a folder by split, class and name.

    Args:
      root: the folder.
      needed: the split without which split folders are of no use, such as "train"; "" if any will do.
      known: names of classes, so that folders called so are classes.

    Raises:
      DataError: the folder is not laid out like this, cannot be read, or a class folder is empty.
    """
    if not root:
        raise DataError(f"the data set 'folder' needs root: the folder with your images; {LAYOUT}")
    top = names.existing(Path(root).expanduser())
    if not top.is_dir():
        raise DataError(f"root {root} is {'a file' if top.exists() else 'not there'}; {LAYOUT}")
    tree = image_files.look_through(top)
    layout = arrange(tree, needed, known)
    per_split = {split: _classes(part) for split, part in layout.parts.items()}
    for split, classes in per_split.items():
        _refuse_empty(top, split, classes)
    entries = [
        (path, name, split)
        for split in ("", *SPLITS)
        for name, folders in per_split.get(split, {}).items()
        for path in sorted(path for folder in folders for path in folder.images)
    ]
    paths, classes_of, splits = zip(*entries, strict=True)
    return Listing(
        name=f"folder/{top.resolve().name}",
        files=tuple(path.relative_to(top).as_posix() for path in paths),
        paths=paths,
        classes=np.array(classes_of, object),
        split=np.array(splits),
        notes=(*layout.notes, *_notes(tree, layout, per_split)),
    )


def _classes(part: Folder) -> dict[str, list[Folder]]:
    """{class: its folders}: two where one name is there in two Unicode forms."""
    classes: dict[str, list[Folder]] = {}
    for folder in part.folders:
        if wrong := names.problem(folder.name):
            raise DataError(
                f"the name of the class folder '{names.shown(folder.name)}' in {part.path} is {wrong}, which "
                f"predictions and pages could not show; rename it"
            )
        classes.setdefault(names.nfc(folder.name), []).append(folder)
    return classes


def _refuse_empty(top: Path, split: str, classes: dict[str, list[Folder]]) -> None:
    empty = [name for name, folders in classes.items() if not any(folder.images for folder in folders)]
    if not empty and classes:
        return
    where = f"the class folders {listed(empty)} of {top}" if classes else f"{top}, which has no class folders"
    inside = image_files.left_out(below for name in empty for folder in classes[name] for below in folder.walk())
    found = f"; found there: {'; '.join(inside)}" if inside else ""
    raise DataError(
        f"no images ({', '.join(image_files.SUFFIXES)}) in {where} ({split or 'all'}){found}; "
        "add images or remove the folders"
    )


def _notes(tree: Folder, layout: Layout, per_split: dict[str, dict[str, list[Folder]]]) -> Iterable[str]:
    used = [*(folder for part in layout.parts.values() for folder in part.folders), *layout.aside]
    seen = {id(below) for folder in used for below in folder.walk()}
    loose = [path for folder in tree.walk() if id(folder) not in seen for path in folder.own]
    parts = image_files.left_out(tree.walk())
    parts += (
        [f"{counted(len(loose), 'image', 'images')} beside the class folders, such as {names.shown(loose[0].name)}"]
        if loose
        else []
    )
    parts += [
        f"{counted(len(f.images), 'image', 'images')} in {f.name}/ beside the splits" for f in layout.aside if f.images
    ]
    if parts:
        yield f"left out of {tree.path.name}: {'; '.join(parts)}"
    twice = [name for classes in per_split.values() for name, folders in classes.items() if len(folders) > 1]
    if twice:
        yield f"{len(twice)} class folders are there in two Unicode forms, taken as one class each: {listed(twice)}"


def _shown(some: set[str]) -> str:
    return listed([names.shown(name) for name in sorted(some)]) or "none"
