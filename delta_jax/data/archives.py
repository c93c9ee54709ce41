"""Files inside tar archives, read in place.

Nothing is unpacked to disk, so no name in an archive, whatever it is, can lead out of a folder. Archives with names or
links that try to are refused all the same: they are not what their publisher made.
"""

import lzma
import tarfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from delta_jax.data.errors import DataError

# Beyond these an archive is a bomb: the real ones hold photos, which no packing makes smaller, and short lists.
MAX_FILE_BYTES = 64 * 2**20
MAX_FILES = 1_000_000
MAX_EXPANSION, FREE_EXPANSION_BYTES = 20, 64 * 2**20  # in all: times the archive's size, and what any may have on top
_SHOWN = 3


def names(path: Path) -> list[str]:
    """The regular files in an archive, sorted; without "./" in front, without what macOS adds ("._x").

    Raises:
      DataError: see `read`.
    """
    with _opened(path) as archive:
        return sorted(name for name, _ in _files(archive, path))


def read(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Gives (name, content) of the files wanted, in the order of the archive; of several of one name the first.

    Args:
      path: a tar archive, plain or packed by gzip, bzip2 or xz.
      wanted: names as `names` gives them.

    Raises:
      DataError: no archive, damaged, files missing in it, names or links that lead out of it, or far more bytes in it
        than an archive of images unpacks to.
    """
    missing = set(wanted)
    with _opened(path) as archive:
        for name, member in _files(archive, path):
            if name in missing:
                content = archive.extractfile(member)
                assert content is not None  # it is a regular file
                missing.remove(name)
                yield name, content.read()
    if missing:
        some = ", ".join(sorted(missing)[:_SHOWN])
        more = f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
        raise DataError(f"{path} lacks {some}{more}; {_AGAIN}")


_AGAIN = "delete it and fetch it again"


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path) as archive:
            yield archive
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = str(error).partition("\n")[0].rstrip(":")  # tarfile goes on with a line for each packing it tried
        raise DataError(f"{path} is no whole tar archive ({reason}); {_AGAIN}") from error
    except OSError as error:  # gzip and bzip2 report damage as an OSError without a number
        raise DataError(f"{path} cannot be read ({error.strerror or error}); {_AGAIN}") from error


def _files(archive: tarfile.TarFile, path: Path) -> Iterator[tuple[str, tarfile.TarInfo]]:
    count, total = 0, 0
    limit = MAX_EXPANSION * path.stat().st_size + FREE_EXPANSION_BYTES
    for member in archive:
        _check_name(member.name, member.name, path)
        if member.issym():
            # Its target is relative to the folder that the link is in.
            _check_name(str(PurePosixPath(member.name).parent / member.linkname), member.name, path)
        elif member.islnk():
            _check_name(member.linkname, member.name, path)
        count, total = count + 1, total + member.size
        if member.size > MAX_FILE_BYTES or total > limit or count > MAX_FILES:
            raise DataError(
                f"{path} unpacks to too much: {member.name} has {member.size:,} bytes, with {total:,} in {count:,} "
                f"files so far (allowed: {MAX_FILE_BYTES:,}, {limit:,}, {MAX_FILES:,}); it is not the archive that was "
                f"published, {_AGAIN}"
            )
        name = PurePosixPath(member.name)
        if member.isreg() and not name.name.startswith("._"):
            yield str(name), member


def _check_name(name: str, member: str, path: Path) -> None:
    """Refuses what begins outside the archive or climbs out of it on the way."""
    depth = 0
    for part in PurePosixPath(name).parts:
        depth += -1 if part == ".." else 1
        if part == "/" or depth < 0 or "\\" in part:
            raise DataError(
                f"{path} has a file {member!r} that leads to {name!r}, out of the archive; it is not what was "
                f"published, {_AGAIN}"
            )
