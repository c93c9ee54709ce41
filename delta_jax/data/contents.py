"""What the files of a data set hold, as hashes: an image is the same where its bytes are, whatever it is called."""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from delta_jax.data.catalogue import Catalogue

CHUNK = 512
SECONDS_BETWEEN_SAVES = 30.0  # of the index, while files are read
# A file that changes twice within one tick of a file system's clock has the same times before and after. So what was
# changed less than this before it was read is read again by the next run; FAT's ticks are the longest, of two seconds.
SETTLED_NS = 3 * 10**9

State = tuple[int, int, int, int]  # bytes, times of the last change of content and of anything in ns, inode


def identified(
    catalogue: Catalogue, cache_dir: str | os.PathLike[str], *, progress: Callable[[int], None] | None = None
) -> Catalogue:
    """The catalogue with the SHA-256 of each example's encoded bytes, "" where they cannot be read.

    An index in the folder `contents` of `cache_dir` says what the files held, and a file of the same size, times and
    inode is not read again. That `os.utime` sets back the time of a changed file does not help it: the time of that
    call remains. Without a folder that can be written everything is read each time.

    Args:
      catalogue: the examples; as it is where their contents are known.
      cache_dir: what runs share.
      progress: called with a number of examples each time that many more are known; not called when all of them were.
    """
    if catalogue.contents or not len(catalogue):
        return catalogue
    if not catalogue.paths:
        return dataclasses.replace(catalogue, contents=_read_all(catalogue, progress))
    index = _Index(catalogue, Path(cache_dir).expanduser())
    with ThreadPoolExecutor(_threads()) as pool:
        # Many to a task: where the files are here, a task takes longer than to look at a file.
        parts = [catalogue.paths[start : start + CHUNK] for start in range(0, len(catalogue), CHUNK)]
        found = [digest for some in pool.map(index.known, parts) for digest in some]
        todo = [row for row, digest in enumerate(found) if digest is None]
        if progress is not None and 0 < len(todo) < len(found):
            progress(len(found) - len(todo))
        try:
            for start in range(0, len(todo), CHUNK):
                rows = todo[start : start + CHUNK]
                for row, digest in zip(rows, pool.map(index.read, (catalogue.paths[row] for row in rows)), strict=True):
                    found[row] = digest
                if progress is not None:
                    progress(len(rows))
                index.save_now_and_then()
        finally:
            if todo:
                index.save()
    return dataclasses.replace(catalogue, contents=tuple(digest or "" for digest in found))


def digest_of(content: bytes) -> str:
    """As it stands in `Catalogue.contents`."""
    return hashlib.sha256(content).hexdigest()


def _read_all(catalogue: Catalogue, progress: Callable[[int], None] | None) -> tuple[str, ...]:
    """Of examples that are no files."""

    def digest(row: int) -> str:
        try:
            return digest_of(catalogue.read(row))
        except OSError:
            return ""

    found: list[str] = []
    with ThreadPoolExecutor(_threads()) as pool:
        for start in range(0, len(catalogue), CHUNK):
            some = range(start, min(start + CHUNK, len(catalogue)))
            found += pool.map(digest, some)
            if progress is not None:
                progress(len(some))
    return tuple(found)


class _Index:
    """{path: state and digest} of one data set in one place; only what is found again is kept."""

    def __init__(self, catalogue: Catalogue, cache_dir: Path):
        paths = [str(path.absolute()) for path in catalogue.paths]
        place = f"{catalogue.name}\0{os.path.commonpath(paths)}".encode("utf-8", "surrogateescape")
        self._file = cache_dir / "contents" / f"{hashlib.sha256(place).hexdigest()[:16]}.json"
        self._before = _load(self._file)
        self._now: dict[str, list[Any]] = {}
        self._saved = time.monotonic()

    def known(self, paths: Sequence[Path]) -> list[str | None]:
        """The digests of those files that have not changed since they were read."""
        return [self._known(path) for path in paths]

    def _known(self, path: Path) -> str | None:
        try:
            state = _state(path.stat())
        except OSError:
            return None
        name = str(path.absolute())
        entry = self._before.get(name)
        if not isinstance(entry, list) or len(entry) != 5 or tuple(entry[:4]) != state:
            return None
        self._now[name] = entry
        return str(entry[4])

    def read(self, path: Path) -> str:
        """The digest of what a file holds; "" if it cannot be read."""
        began = time.time_ns()
        try:
            with path.open("rb", buffering=0) as file:
                before = _state(os.fstat(file.fileno()))
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                after = _state(os.fstat(file.fileno()))
        except OSError:
            return ""
        if before == after and after[2] + SETTLED_NS < began:
            self._now[str(path.absolute())] = [*after, digest]
        return digest

    def save_now_and_then(self) -> None:
        if time.monotonic() - self._saved > SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self) -> None:
        self._saved = time.monotonic()
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            # Not a temporary file of the library's, which only its owner can read: a cache may be shared.
            unfinished = self._file.with_name(f".{self._file.name}.{os.getpid()}.tmp")
            unfinished.write_text(json.dumps(dict(self._now)))
            unfinished.replace(self._file)
        except OSError:
            pass  # it is read again next time; that the folder cannot be written is said where images are decoded


def _load(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _state(stat: os.stat_result) -> State:
    # Without the device: its number changes with every mount of a network's storage.
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def _threads() -> int:
    # Twice the cores: on storage in a network most of them wait.
    return 2 * (os.cpu_count() or 1)
