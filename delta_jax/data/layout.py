"""Whether the folders in a folder are classes or parts of a data set, such as train and test."""

import dataclasses
import itertools
import re
from collections.abc import Collection, Mapping, Sequence

from delta_jax.data import split_words
from delta_jax.data.catalogue import SPLITS
from delta_jax.data.errors import DataError
from delta_jax.data.image_files import Folder
from delta_jax.data.names import look, nfc
from delta_jax.data.splits import counted, listed

LAYOUT = "expected root/<class>/*.jpg or root/{train,val,test}/<class>/*.jpg"
BY_TABLE = "list the images in a manifest (--config.data.name=manifest; docs/data.md has a command that writes it)"
# "fold_1", "images_part_2", "batch3"; a class may well be called set1 or image2.
_NUMBERED = re.compile(r"(?:.*[\W_])?(?:folds?|parts?|batch|chunk|shard|split|subset|train|test)[\W_]*[0-9]+")
_FEW = 10  # of so many images one may lie beside the folders, and it is still the folders that matter


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """How the folders in a folder are to be read.

    Attributes:
      parts: {"train": folder, ...}, each with a folder per class; {"": folder} where nothing is said of splits.
      aside: folders beside the parts that belong to none of them.
      notes: what was taken for something that its name does not quite say.
    """

    parts: dict[str, Folder]
    aside: tuple[Folder, ...] = ()
    notes: tuple[str, ...] = ()


def arrange(top: Folder, needed: str, known: Collection[str] = ()) -> Layout:
    """Finds the splits and classes of a folder by the names in it, and by where images lie.

    Folders are splits if their names say so. If they hold no images themselves but folders of the same names, they
    could be splits with names that are not known, or classes with folders in each: then neither is assumed.

    Args:
      top: the folder.
      needed: the split without which split folders are of no use, such as "train"; "" if any will do.
      known: names of classes; folders called so are classes.

    Raises:
      DataError: no folders, or it cannot be told what they are; with what to rename.
    """
    if not top.folders:
        loose = f"; {counted(len(top.own), 'image lies', 'images lie')} there in no class folder" if top.own else ""
        raise DataError(f"no folders in {top.path}{loose}; {LAYOUT}, or {BY_TABLE}")
    if known and top.filled and all(nfc(folder.name) in known for folder in top.filled):
        return Layout({"": top})
    named = {folder: split for folder in top.folders if (split := split_words.meaning(folder.name))}
    others = [folder for folder in top.folders if folder not in named]
    wanted = [folder for folder, split in named.items() if needed in (split, "")]
    # "train" beside "bus", or "valid" beside "invalid", may well be a class: then it holds images, not class folders.
    if not others or (wanted and wanted[0].filled):
        if not wanted:
            raise DataError(f"found {listed([f.name for f in named])} in {top.path}, but no {needed}; {LAYOUT}")
        parts = _by_split(top, named, known)
        _refuse_strangers(top, parts, others)
        return Layout(parts, tuple(others))
    _refuse_wrapping(top)
    _refuse_splits_below_classes(top)
    worded = {folder: split for folder in top.filled if (split := split_words.of_a_word(folder.name))}
    wanted = [folder for folder, split in worded.items() if needed in (split, "")]
    if len(set(worded.values())) == len(worded) > 1 and wanted and len(_inner(wanted[0], known).filled) > 1:
        parts = _by_split(top, worded, known)
        aside = [folder for folder in top.folders if folder not in worded]
        _refuse_strangers(top, parts, aside)
        taken = ", ".join(f"{folder.name} for {split}" for folder, split in worded.items())
        return Layout(parts, tuple(aside), (f"splits of {top.path.name}: took {taken}",))
    _refuse_splits_in_names(top)
    if alike := _alike(top.filled):
        raise _unclear(top, alike)
    if len(top.filled) > 1 and all(_NUMBERED.fullmatch(folder.name.casefold()) for folder in top.filled):
        raise DataError(
            f"{listed([folder.name for folder in top.filled])} in {top.path} are called like parts of a data set, not "
            f"like classes; sort the images into class folders, or {BY_TABLE}"
        )
    return Layout({"": top})


def _by_split(top: Folder, meanings: Mapping[Folder, str], known: Collection[str]) -> dict[str, Folder]:
    parts: dict[str, Folder] = {}
    names: dict[str, str] = {}
    for folder, split in meanings.items():
        if split in parts:
            raise DataError(f"{names[split]} and {folder.name} in {top.path} both mean {split}; keep one of them")
        part = _inner(folder, known)
        if part.own and not part.filled:
            raise DataError(
                f"{part.path} holds {counted(len(part.own), 'image', 'images')} and no class folders: sort them into "
                f"class folders, move it elsewhere if nobody knows their classes, or {BY_TABLE}"
            )
        parts[split], names[split] = part, folder.name
    return parts


def _inner(folder: Folder, known: Collection[str]) -> Folder:
    """What an archive packed once more, seg_train/seg_train/<class>: there a split has a single folder, of folders."""
    while not folder.own and len(folder.filled) == 1:
        inside = folder.filled[0]
        same = look(inside.name) == look(folder.name)
        if nfc(inside.name) in known or not (same or len(inside.filled) > 1):
            break
        folder = inside
    return folder


def _refuse_strangers(top: Folder, parts: dict[str, Folder], others: Sequence[Folder]) -> None:
    """Raises DataError if a folder beside the splits may be one of them, or a class."""
    classes = {look(folder.name) for part in parts.values() for folder in part.filled}
    with_images = [folder for folder in others if folder in top.filled]
    strangers = with_images if len(parts) < 2 else [f for f in with_images if _names_below(f) & classes]
    if strangers:
        first = parts[min(parts, key=SPLITS.index)]
        names = [folder.name for folder in strangers]
        unclear = [name for name in names if split_words.is_unclear(name)]
        raise DataError(
            f"beside {first.path.relative_to(top.path).parts[0]}/ there is {listed(names)} in "
            f"{top.path}, which is no split; "
            + (f"rename {unclear[0]} to val or to test" if unclear else "rename it to train, val or test")
            + f", or move it elsewhere; if these are classes, {BY_TABLE}"
        )


def _refuse_wrapping(top: Folder) -> None:
    if top.own or len(top.filled) != 1:
        return
    inside = top.filled[0]
    while not inside.own and len(inside.filled) == 1:
        inside = inside.filled[0]
    if not inside.own and inside.filled:
        raise DataError(
            f"{top.path} holds a single folder with images, {top.filled[0].name}, which would be the only class; "
            f"use the folder of the class folders: {inside.path}"
        )


def _refuse_splits_below_classes(top: Folder) -> None:
    for folder in top.filled:
        splits = {split_words.meaning(inside.name): inside.name for inside in folder.filled}
        if _is_bare(folder) and len(splits) > 1 and None not in splits:
            raise DataError(
                f"the folders {listed(sorted(splits.values()))} in {folder.path} are splits below a class; expected "
                f"them above: move {folder.name}/{min(splits.values())} to {min(splits.values())}/{folder.name}, and "
                f"so on, or {BY_TABLE}"
            )


def _refuse_splits_in_names(top: Folder) -> None:
    """For train_cat, train_dog, test_cat, or trainA, trainB, testA: a split and a class in one name."""
    found: dict[str, dict[str, str]] = {}  # {rest of the name: {split: name}}
    for folder in top.filled:
        words = split_words.words(folder.name)
        splits = [split for word in words if (split := split_words.meaning(word))]
        rest = "".join(word for word in words if not split_words.meaning(word))
        if len(splits) == 1 and rest and split_words.of_a_word(folder.name):
            found.setdefault(look(rest), {})[splits[0]] = folder.name
    pair = next((names for names in found.values() if len(names) > 1), None)
    if pair:
        raise DataError(
            f"{listed(sorted(pair.values()))} in {top.path} are not two classes, as it seems, but a class in several "
            f"splits; expected train/<class>/*.jpg and test/<class>/*.jpg, a folder of class folders for each; "
            f"or {BY_TABLE}"
        )


def _alike(folders: Sequence[Folder]) -> list[Folder]:
    """Those that hold no images themselves but mostly the same folders, if most of the images are in them."""
    below = {folder: _names_below(folder) for folder in folders if _is_bare(folder)}
    found = set()
    for one, other in itertools.combinations(below, 2):
        shared = len(below[one] & below[other])
        # A folder "images" in each is no sign of anything, and two patients of the same number are none.
        if len(below[one] | below[other]) > 1 and 2 * shared >= min(len(below[one]), len(below[other])) > 0:
            found |= {one, other}
    inside = sum(len(folder.images) for folder in found)
    return [f for f in folders if f in found] if 2 * inside >= sum(len(f.images) for f in folders) else []


def _is_bare(folder: Folder) -> bool:
    return bool(folder.filled) and len(folder.own) * _FEW <= len(folder.images)


def _names_below(folder: Folder) -> set[str]:
    """What the names of its folders look like; of folders that are all it holds, those of their folders as well."""
    names = {look(inside.name) for inside in folder.filled}
    while not folder.own and len(folder.filled) == 1:
        folder = folder.filled[0]
        names |= {look(inside.name) for inside in folder.filled}
    return names


def _unclear(top: Folder, alike: Sequence[Folder]) -> DataError:
    below = sorted({inside.name for folder in alike for inside in folder.filled})
    return DataError(
        f"splits or classes? {listed([folder.name for folder in alike])} in {top.path} hold no images themselves but "
        f"folders of the same names ({listed(below)}); if they are splits, rename them to train, val and test, or move "
        f"away those that are not to be used; if they are classes, {BY_TABLE}"
    )
