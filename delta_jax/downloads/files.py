"""Files that several processes share: one folder for them, written whole or not at all, by one process at a time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def cache_folder(part: str) -> Path:
    """$DELTA_JAX_CACHE/part, or ~/.cache/delta_jax/part where that is not set; it may not exist yet."""
    return Path(os.environ.get("DELTA_JAX_CACHE") or Path.home() / ".cache" / "delta_jax").expanduser() / part


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits until no other process is within for the same path; the lock of a killed process is let go of.

    The lock is a file `path`.lock beside it, removed at the end.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f"{path.name}.lock")
    with contextlib.ExitStack() as stack:
        while True:
            file = stack.enter_context(lock.open("w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                raise OSError(error.errno, f"no file locks on this file system: {error.strerror}") from error
            # Whoever held it before has removed the file: this lock is then on a file that nobody else will open.
            with contextlib.suppress(FileNotFoundError):
                if os.path.sameopenfile(file.fileno(), stack.enter_context(lock.open("rb")).fileno()):
                    break
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a name to write to; what is there at the end takes the place of `path`, and after an error nothing does."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield draft
        publish(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def publish(draft: Path, path: Path) -> None:
    """Gives a finished file its final name; its bytes reach the disk first."""
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.replace(path)
