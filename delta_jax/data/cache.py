"""Every image decoded once, into one array on disk that later runs open in milliseconds."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL

from delta_jax.data.canvas import LONGEST, long_side_first
from delta_jax.data.catalogue import Catalogue
from delta_jax.data.contents import digest_of, identified
from delta_jax.data.decoded import Images
from delta_jax.data.errors import DataError
from delta_jax.data.images import ASPECTS, INTERPOLATIONS, BrokenImageError, decode_image
from delta_jax.data.splits import listed

# To be raised when decode_image gives other pixels than before, so that old caches are not taken for new ones.
DECODER = 2
# Rows decoded between two marks of what is done: what an interrupted run loses at most.
CHUNK = 512


def decode(
    catalogue: Catalogue,
    size: int,
    *,
    interpolation: str = "bilinear",
    aspect: str = "squash",
    white: int | None = None,
    cache_dir: str | os.PathLike[str],
    on_broken: str = "stop",
    progress: Callable[[int], None] | None = None,
) -> Images:
    """Decodes a data set, or opens what an earlier call decoded.

    An interrupted call leaves its work under another name and the next one goes on from there. Of several processes
    that start at once, one decodes and the others wait for it. The array belongs to the contents of the images in their
    order, and not to their names: moved or renamed files are not decoded again, a changed one is, with the rest.

    Args:
      catalogue: the examples.
      size: side of the squares, or the shorter side of the images, in pixels.
      interpolation: "bilinear" or "bicubic".
      aspect: "squash" to squares or "keep", see `decode_image`.
      white: value that shows white in pictures of more than 8 bits a sample, see `decode_image`.
      cache_dir: folder for the array, made if need be; N * size * size * 3 bytes of it are used, times the mean ratio
        of the sides where images keep their aspect.
      on_broken: "stop" raises and names the images that cannot be decoded, "skip" leaves them out.
      progress: called with a number of images each time that many more are ready; not called when all of them were.

    Raises:
      DataError: broken images, images that change meanwhile, no space, or a cache folder that cannot be written.
    """
    if on_broken not in ("stop", "skip"):
        raise DataError(f"on_broken is {on_broken!r}, expected 'stop' or 'skip'")
    if interpolation not in INTERPOLATIONS or aspect not in ASPECTS or size < 1:
        raise DataError(
            f"cannot decode to size {size} with interpolation {interpolation!r} and aspect {aspect!r}; "
            f"expected 1 pixel or more, one of {', '.join(INTERPOLATIONS)}, and one of {', '.join(ASPECTS)}"
        )
    catalogue = identified(catalogue, cache_dir)
    settings = f"{size}-{interpolation}-{aspect}" + ("" if white is None else f"-{white}")
    files = _cache_files(Path(cache_dir).expanduser(), catalogue, settings)

    row_shape = (size if aspect == "squash" else LONGEST * size, size, 3)

    def to_pixels(content: bytes) -> np.ndarray:
        return decode_image(content, size, interpolation=interpolation, aspect=aspect, white=white)

    images = _open(files, catalogue, row_shape)
    if images is None:
        try:
            files.folder.mkdir(parents=True, exist_ok=True)
            with _lock(files.lock):
                images = _open(files, catalogue, row_shape)  # another process may have made it while this one waited
                if images is None:
                    broken = _decode_rows(files, catalogue, row_shape, to_pixels, progress)
                    if broken and on_broken == "stop":
                        raise _broken_error(catalogue, [(catalogue.files[row], why) for row, why in broken.items()])
                    _complete(files, catalogue, broken)
                    images = _open(files, catalogue, row_shape)
        except OSError as error:
            raise DataError(
                f"cannot write the image cache in {files.folder} ({error.strerror or error}); it takes "
                f"{_megabytes(_disk_space(len(catalogue), row_shape))}: choose a folder with --config.data.cache_dir"
            ) from error
        if images is None:
            raise DataError(f"the image cache {files.array} changed while it was made; run again")
    if images.broken and on_broken == "stop":
        raise _broken_error(catalogue, list(images.broken))
    _require_every_class(catalogue, images)
    return images


def decoder() -> str:
    """What pixels depend on beside contents and settings."""
    return f"{DECODER} {PIL.__version__}"


@dataclasses.dataclass(frozen=True)
class _CacheFiles:
    folder: Path
    stem: str
    key: str

    @property
    def array(self) -> Path:
        """The finished array."""
        return self.folder / f"{self.stem}.npy"

    @property
    def index(self) -> Path:
        """Which examples are in it and which are broken."""
        return self.folder / f"{self.stem}.json"

    @property
    def partial(self) -> Path:
        """The array while it is made."""
        return self.folder / f"{self.stem}.partial.npy"

    @property
    def done(self) -> Path:
        """Marks: int32 per row of the partial array, see `_mark`; 0 until it is filled."""
        return self.folder / f"{self.stem}.partial.done"

    @property
    def lock(self) -> Path:
        """Stays behind: to remove it would let two processes hold two locks."""
        return self.folder / f".{self.stem}.lock"


def _cache_files(folder: Path, catalogue: Catalogue, settings: str) -> _CacheFiles:
    """Those of these contents and settings, under whatever name of a data set they were made."""
    facts = " ".join((settings, decoder(), *catalogue.contents))
    key = hashlib.sha256(facts.encode()).hexdigest()
    end = f"-{settings}-{key[:12]}"
    made = sorted(path.name.partition(end)[0] for path in folder.glob(f"*{end}*.npy"))
    name = made[0] if made else re.sub(r"[^\w.-]+", "_", catalogue.name)
    return _CacheFiles(folder, f"{name}{end}", key)


def _mark(pixels: np.ndarray) -> tuple[np.ndarray, int]:
    """An image with its long side first, and how long that is, negative where rows and columns were exchanged."""
    pixels, transposed = long_side_first(pixels)
    return pixels, -len(pixels) if transposed else len(pixels)


def _open(files: _CacheFiles, catalogue: Catalogue, row_shape: tuple[int, ...]) -> Images | None:
    """What is on disk, or None where it is absent or damaged."""
    try:
        index = json.loads(files.index.read_text("utf-8"))
        array = np.load(files.array, mmap_mode="r")
        key, broken_rows, digest = index["key"], dict(index["broken"]), index["sha256"]
        marks = np.array(index["marks"], np.int32) if row_shape[0] != row_shape[1] else None
    except (OSError, ValueError, KeyError):
        return None
    if array.shape != (len(catalogue), *row_shape) or array.dtype != np.uint8 or key != files.key:
        return None
    good = np.setdiff1d(np.arange(len(catalogue)), list(broken_rows))
    if marks is not None and len(marks) != len(good):
        return None
    broken = tuple((catalogue.files[row], reason) for row, reason in broken_rows.items())
    kept = catalogue.take(good) if broken else catalogue
    if marks is None:
        return Images(array[: len(good)], kept, broken, digest=digest, rows=good)
    return Images(array[: len(good)], kept, broken, np.abs(marks), marks < 0, digest, good)


def _decode_rows(
    files: _CacheFiles,
    catalogue: Catalogue,
    row_shape: tuple[int, ...],
    to_pixels: Callable[[bytes], np.ndarray],
    progress: Callable[[int], None] | None,
) -> dict[int, str]:
    """Fills the partial array; returns the reason for each row that stays empty.

    Raises:
      DataError: what was read is not what the catalogue says that the files hold.
    """
    row_bytes = math.prod(row_shape)
    done, offset = _resume_or_start(files, catalogue, row_shape)
    todo = np.flatnonzero(done == 0)
    if progress is not None and len(todo) < len(done):
        progress(len(done) - len(todo))
    needed, free = _disk_space(len(todo), row_shape), shutil.disk_usage(files.folder).free
    if needed > free:
        raise DataError(
            f"the image cache needs {_megabytes(needed)} more in {files.folder}, which has {_megabytes(free)} free; "
            "make room or choose another folder with --config.data.cache_dir"
        )
    broken: dict[int, str] = {}
    changed: list[int] = []
    with (
        files.partial.open("r+b") as array,
        files.done.open("r+b") as marks,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):

        def decode_row(row: int) -> int | str | None:
            try:
                data = catalogue.read(row)
            except OSError as error:
                # What could be read before is not broken, and must not stand in the cache as broken.
                return None if catalogue.contents[row] else f"cannot be read ({error.strerror or error})"
            if digest_of(data) != catalogue.contents[row]:
                return None
            try:
                pixels, mark = _mark(to_pixels(data))
            except BrokenImageError as error:
                return str(error)
            _write(array.fileno(), pixels.tobytes(), offset + row * row_bytes)
            return mark

        # Chunk by chunk, so that an interrupt waits for one chunk only and not for all that is queued.
        for start in range(0, len(todo), CHUNK):
            rows = todo[start : start + CHUNK].tolist()
            for row, result in zip(rows, pool.map(decode_row, rows), strict=True):
                if result is None:
                    changed.append(row)
                elif isinstance(result, int):
                    done[row] = result
                else:
                    broken[row] = result
                if progress is not None:
                    progress(1)
            os.fsync(array.fileno())  # before the marks, or a power cut leaves rows marked that are not on disk
            _write(marks.fileno(), done.tobytes(), 0)
            if changed:
                names = listed([catalogue.files[row] for row in changed])
                raise DataError(
                    f"{len(changed)} images of {catalogue.name} changed, or became unreadable, while the data set was "
                    f"read: {names}; run again when nothing writes there any more"
                )
    return broken


def _resume_or_start(files: _CacheFiles, catalogue: Catalogue, row_shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    """The marks of the rows, int32 [N], and the position of the first byte of the partial array in its file."""
    shape = (len(catalogue), *row_shape)
    none = np.zeros(len(catalogue), np.int32)
    try:
        marks = files.done.read_bytes()
        array = np.load(files.partial, mmap_mode="r")
        if len(marks) == none.nbytes and array.shape == shape:
            return np.frombuffer(marks, np.int32).copy(), array.offset
    except (OSError, ValueError):
        pass
    files.done.unlink(missing_ok=True)  # first: these marks must never be taken for those of the new array
    files.array.unlink(missing_ok=True)  # only there when it is damaged
    array = np.lib.format.open_memmap(files.partial, mode="w+", dtype=np.uint8, shape=shape)
    files.done.write_bytes(none.tobytes())
    return none, array.offset


def _complete(files: _CacheFiles, catalogue: Catalogue, broken: dict[int, str]) -> None:
    """Moves the rows together where some are broken and gives the array its final name."""
    marks = np.frombuffer(files.done.read_bytes(), np.int32)
    files.done.unlink()  # rows are about to move
    good = np.setdiff1d(np.arange(len(catalogue)), list(broken))
    partial = np.load(files.partial, mmap_mode="r")
    if broken:
        offset, row_bytes = partial.offset, partial[0].nbytes
        with files.partial.open("r+b") as array:
            for to, row in enumerate(good.tolist()):
                if to != row:
                    filled = abs(int(marks[row])) * partial[0, 0].nbytes
                    data = os.pread(array.fileno(), filled, offset + row * row_bytes)
                    _write(array.fileno(), data, offset + to * row_bytes)
            os.fsync(array.fileno())
    digest = hashlib.sha256(partial[: len(good)]).hexdigest()
    index = {"key": files.key, "broken": sorted(broken.items()), "sha256": digest}
    if partial.shape[1] != partial.shape[2]:
        index["marks"] = marks[good].tolist()
    files.index.write_text(json.dumps(index), "utf-8")
    files.partial.replace(files.array)


def _write(file: int, data: bytes, position: int) -> None:
    # Not through a memory map: on a full disk that kills the process (SIGBUS) instead of raising.
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, position)
        view, position = view[written:], position + written


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Waits until no other process is within; the system lets go of a lock whose process was killed."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise OSError(error.errno, f"no file locks on this file system: {error.strerror}") from error
        yield


def _broken_error(catalogue: Catalogue, broken: list[tuple[str, str]]) -> DataError:
    shown = "".join(f"\n  {file}: {reason}" for file, reason in broken[:10])
    more = f"\n  and {len(broken) - 10} more" if len(broken) > 10 else ""
    return DataError(
        f"{len(broken)} of {len(catalogue)} images of {catalogue.name} cannot be decoded:{shown}{more}\n"
        "repair or remove them, or leave them out with --config.data.on_broken=skip"
    )


def _require_every_class(before: Catalogue, images: Images) -> None:
    """Skipping must not leave a class without training images, or a split empty."""
    if not images.broken:
        return
    had, has = before.counts(), images.catalogue.counts()
    lost = [f"train/{name}" for name, n in had["train"].items() if n > 0 and has["train"][name] == 0]
    lost += [split for split in ("validation", "test") if any(had[split].values()) and not any(has[split].values())]
    if lost:
        raise DataError(
            f"without the {len(images.broken)} broken images nothing is left of {listed(lost)} in {before.name}; "
            "repair them, add images, or leave that class or split out; "
            f"the first: {images.broken[0][0]}: {images.broken[0][1]}"
        )


def _disk_space(count: int, row_shape: tuple[int, ...]) -> int:
    """Bytes, for images that keep their aspect about: most photos are 3 : 2 or 4 : 3, and what is empty takes none."""
    length = row_shape[0] if row_shape[0] == row_shape[1] else 1.5 * row_shape[1]
    return round(count * length) * math.prod(row_shape[1:])


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
