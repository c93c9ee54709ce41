"""The files of a data set as its publisher offers them: fetched, or taken from where someone put them by hand."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delta_jax import downloads
from delta_jax.data.errors import DataError


@dataclass(frozen=True)
class Original:
    """One file.

    Attributes:
      name: what it is called on disk.
      urls: addresses of the same bytes, tried in turn.
      megabytes: about how large it is.
      size: bytes, where that is on record.
      algorithm: "sha256", "sha1" or "md5"; whichever is on record.
      digits: the hash in hexadecimal; "" where none is on record, and the content is then checked by what it says.
    """

    name: str
    urls: tuple[str, ...]
    megabytes: float
    size: int | None = None
    algorithm: str = "sha256"
    digits: str = ""

    def hash(self) -> dict[str, Any]:
        """As `downloads.fetch` takes it."""
        return {self.algorithm: self.digits}

    def steps(self) -> str:
        """What to tell someone who is to fetch it by hand."""
        size = f"{self.size:,} bytes" if self.size is not None else f"about {self.megabytes:,.1f} MB"
        check = f", {self.algorithm} {self.digits}" if self.digits else ""
        return f"{self.name} ({size}{check}) from {' or '.join(self.urls)}"

    def problem(self, path: Path) -> str:
        """What is wrong with a file on disk, "" if it is this one."""
        if self.size is not None and path.stat().st_size != self.size:
            return f"has {path.stat().st_size:,} bytes, expected {self.size:,}"
        if self.digits and (found := downloads.digest(path, self.algorithm)) != self.digits:
            return f"has {self.algorithm} {found}, expected {self.digits}"
        return ""


def obtain(
    originals: Sequence[Original],
    folder: Path,
    manual_dir: Path | None = None,
    progress: downloads.Progress | None = None,
) -> dict[str, Path]:
    """Gives {name: path} of verified files.

    Args:
      originals: what is needed.
      folder: where fetched files are kept; what an earlier fetch left there is continued.
      manual_dir: a folder that may hold some of them. It is only read.
      progress: see `downloads.fetch`.

    Raises:
      DataError: one of them cannot be had; with the steps to do it by hand.
    """
    by_hand = _by_hand(originals, manual_dir)
    try:
        return {
            file.name: by_hand.get(file.name)
            or downloads.fetch(file.urls, folder / file.name, size=file.size, progress=progress, **file.hash())
            for file in originals
        }
    except downloads.DownloadError as error:
        rest = [file.name for file in originals]
        raise DataError(
            f"{error}. Or give a folder of yours that holds {', '.join(rest)} with --manual_dir=FOLDER"
        ) from error


def check_manual(originals: Iterable[Original], manual_dir: Path) -> None:
    """Whether all files lie there; what they hold is for `obtain` to check.

    Raises:
      DataError: with the name, the size and the address of each that is missing.
    """
    missing = [file.steps() for file in originals if not (manual_dir / file.name).is_file()]
    if missing:
        raise DataError(
            f"{manual_dir} lacks {len(missing)} of the files; put there " + "; and ".join(missing) + ". Without "
            "--manual_dir they are fetched"
        )


def _by_hand(originals: Sequence[Original], manual_dir: Path | None) -> dict[str, Path]:
    paths = {file.name: manual_dir / file.name for file in originals} if manual_dir else {}
    found = {name: path for name, path in paths.items() if path.is_file()}
    for file in originals:
        try:
            problem = file.problem(found[file.name]) if file.name in found else ""
        except (OSError, downloads.DownloadError) as error:
            raise DataError(f"{found[file.name]} cannot be read ({error})") from error
        if problem:
            raise DataError(f"{found[file.name]} {problem}; it was cut short or changed: get {file.steps()} again")
    return found
