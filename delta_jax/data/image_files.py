"""What lies below a folder: images, pictures of kinds that are not read, other files, and what systems leave there."""

import dataclasses
import mimetypes
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

from delta_jax.data.errors import DataError
from delta_jax.data.names import shown
from delta_jax.data.splits import counted

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo"),
    *(".png", ".apng", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff"),
)
# Of pictures in formats that are not read, besides those that Python's mimetypes calls images.
_PICTURES = (
    *(
        ".heic",
        ".heif",
        ".hif",
        ".avif",
        ".jxl",
        ".jp2",
        ".j2k",
        ".jpx",
        ".jxr",
        ".psd",
        ".xcf",
        ".tga",
        ".eps",
        ".exr",
    ),
    *(".dcm", ".dicom", ".nii", ".svs", ".ndpi", ".fits"),
    # Raw formats of cameras.
    *(".dng", ".raw", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".orf", ".raf", ".rw2", ".pef"),
    *(".srw", ".rwl", ".3fr", ".fff", ".iiq", ".kdc", ".dcr", ".mrw", ".x3f", ".erf", ".mef", ".mos", ".gpr"),
)
_BEGINNING = re.compile(  # of JPEG, PNG, GIF, BMP, TIFF and most raw formats, WebP, HEIC and AVIF, JPEG XL, JPEG 2000
    rb"\xff\xd8\xff|\x89PNG|GIF8[79]a|BM.{4}\0{4}|II[*+]\0|MM\0[*+]|RIFF.{4}WEBP|"
    rb".{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1|avi[fs])|\xff\x0a|\0\0\0\x0c(JXL |jP  )",
    re.DOTALL,
)
# Of Synology, QNAP and other NAS boxes, Windows, Unix, macOS, Android, FrontPage and Python, in small letters; those
# that begin with a dot are left out as hidden, and those with @, which the boxes keep to themselves, as well.
_SYSTEM = frozenset(
    {
        *("#recycle", "#snapshot", "~snapshot", "$recycle.bin", "recycler", "recycled", "system volume information"),
        *("lost+found", "lost.dir", "network trash folder", "temporary items", "thevolumesettingsfolder"),
        *("resource.frk", "__macosx", "_vti_cnf", "_vti_pvt", "__pycache__", "ipod photo cache", "_gsdata_", "_thumbs"),
        *("wpsystem", "windowsapps", "recycle bin"),
    }
)
_TYPES = mimetypes.MimeTypes()  # Python's own table, without those of the system, which differ
_FOUND = re.compile(r"found\.\d{3}")  # what Windows' chkdsk rescued


@dataclasses.dataclass(frozen=True, eq=False)
class Folder:
    """A folder that was looked through; links are followed.

    Attributes:
      path: of the folder.
      own: images that lie in it, not in folders of it, sorted.
      pictures: files in it that are pictures of kinds that are not read, or whose names do not say so; sorted.
      others: files in it that are no pictures.
      skipped: names of folders in it that systems made or that are hidden, which were not looked into; and "hidden
        images" for each of these.
      folders: the others in it, sorted by name.
    """

    path: Path
    own: tuple[Path, ...]
    pictures: tuple[Path, ...]
    others: tuple[Path, ...]
    skipped: tuple[str, ...]
    folders: tuple["Folder", ...]

    @property
    def name(self) -> str:
        """Of the folder alone."""
        return self.path.name

    def walk(self) -> Iterator["Folder"]:
        """This folder and all below it, each once, whatever links there are."""
        visited: set[str] = set()
        waiting = [self]
        while waiting:
            folder = waiting.pop()
            real = os.path.realpath(folder.path)
            if real not in visited:
                visited.add(real)
                yield folder
                waiting += reversed(folder.folders)

    @cached_property
    def images(self) -> tuple[Path, ...]:
        """All images below it, sorted by path."""
        return tuple(sorted(path for folder in self.walk() for path in folder.own))

    @cached_property
    def filled(self) -> tuple["Folder", ...]:
        """The folders in it with images somewhere below them."""
        return tuple(folder for folder in self.folders if any(inner.own for inner in folder.walk()))


def look_through(path: Path) -> Folder:
    """Everything below a folder; hidden files and folders, and those that systems make, are not looked into.

    Raises:
      DataError: a folder cannot be read.
    """
    return _look_through(path, frozenset())


def _look_through(path: Path, above: frozenset[str]) -> Folder:
    above |= {os.path.realpath(path)}
    own: list[Path] = []
    pictures: list[Path] = []
    others: list[Path] = []
    skipped: list[str] = []
    folders: list[Folder] = []
    try:
        with os.scandir(path) as found:
            entries = sorted((entry.name, _is_folder(entry)) for entry in found)
    except OSError as error:
        raise DataError(f"cannot read the folder {error.filename} ({error.strerror}); check its permissions") from error
    for name, is_folder in entries:
        inside = path / name
        if is_folder:
            if name.startswith((".", "@", "SYNO@")) or name.lower() in _SYSTEM or _FOUND.fullmatch(name.lower()):
                skipped.append(name)
            elif os.path.realpath(inside) not in above:  # a link back to a folder above would be walked forever
                folders.append(_look_through(inside, above))
        elif name.startswith("."):
            skipped += ["hidden images"] if name.lower().endswith(SUFFIXES) else []
        elif name.lower().endswith(SUFFIXES):
            own.append(inside)
        else:
            (pictures if _is_picture(inside) else others).append(inside)
    return Folder(path, tuple(own), tuple(pictures), tuple(others), tuple(skipped), tuple(folders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_picture(path: Path) -> bool:
    suffix = path.suffix.lower()
    kind = next((types[suffix] for types in _TYPES.types_map if suffix in types), "")
    if kind or suffix in _PICTURES:
        return kind.startswith("image/") or suffix in _PICTURES
    try:
        with path.open("rb") as file:
            return _BEGINNING.match(file.read(16)) is not None
    except OSError:
        return False


def left_out(folders: Iterable[Folder]) -> list[str]:
    """What is no image in these folders (not in those below them), by suffix and count, a few words for each kind."""
    folders, parts = list(folders), []
    if pictures := [path for folder in folders for path in folder.pictures]:
        parts.append(f"{by_suffix(pictures)}, pictures that are not read: save them as .jpg or .png")
    if skipped := Counter(name for folder in folders for name in folder.skipped):
        hidden = skipped.pop("hidden images", 0)
        parts += [f"folders of systems, not looked into: {_counted(skipped)}"] if skipped else []
        parts += [counted(hidden, "hidden image", "hidden images")] if hidden else []
    if others := [path for folder in folders for path in folder.others]:
        parts.append(
            f"{counted(len(others), 'file that is no picture', 'files that are no pictures')} ({by_suffix(others)})"
        )
    return parts


def by_suffix(paths: Iterable[Path]) -> str:
    """ "12 .heic, 3 without a suffix"."""
    return _counted(Counter(path.suffix.lower() or "without a suffix" for path in paths))


def _counted(counts: Counter[str]) -> str:
    kinds = [f"{count} {shown(name)}" for name, count in counts.most_common()]
    return ", ".join(kinds[:10]) + (f" and {len(kinds) - 10} more kinds" if len(kinds) > 10 else "")
