"""A workdir in a bucket: the run works in a local folder, and what it writes there goes to gs:// (or s3://, ...).

A file, or a whole checkpoint, is uploaded once it is complete, within seconds and without the run waiting for it. On a
host that lost its disk, or another one, the same command fetches what is there and goes on.

What a run finds there makes sense whenever its predecessor was stopped: a file arrives whole or not at all, files
arrive in the order in which they were written, and a checkpoint counts from the moment when its seal, the list of its
digests, arrives after all else. Only this module imports fsspec.
"""

import fcntl
import hashlib
import os
import shutil
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from delta_jax import processes
from delta_jax.workdir import logs
from delta_jax.workdir.checkpoints import SEAL

SECONDS_BETWEEN_UPLOADS = 10.0
# A large file that changes goes again when it has grown by a quarter, else at the end only: the table of gaps grows to
# hundreds of megabytes over hours.
_LARGE_BYTES, _GROWTH = 8 << 20, 1.25
# A new word after every upload: where here and there agree, the local folder holds all that is there, or more.
_TOKEN = ".mirror"

_State = tuple[int, int]  # mtime in ns, bytes


class StorageError(OSError):
    """The storage cannot be used: a package is missing, no access, or another run writes there."""


def is_url(workdir: str | os.PathLike[str]) -> bool:
    """Whether this is the address of a storage, as gs://bucket/run, and no path."""
    return "://" in os.fspath(workdir)


def is_mirrored(folder: Path) -> bool:
    """Whether `folder` is the local one of a workdir in a storage: what is written elsewhere is lost with the host."""
    return (folder / _TOKEN).exists()


def fetched(workdir: str) -> Path:
    """A folder with the results of a run, for commands that only read; `workdir` itself where it is a path.

    Raises:
      StorageError: see there.
    """
    if not is_url(workdir):
        return Path(workdir)
    # Not the folder that a run on this host may be working in.
    mirror = Mirror(workdir, suffix="-results")
    mirror.fetch(with_checkpoints=False)
    return mirror.folder


@contextmanager
def opened(workdir: str) -> Iterator[Path]:
    """The folder to work in: `workdir` itself or, for an address, a local one that is mirrored there until the end.

    Several processes of one host all make this call: one of them fetches, and the first one uploads. Processes on
    several hosts need a folder that they share.

    Raises:
      StorageError: see there; in the end if something could not be uploaded: the local folder holds it, and the same
        command on this host takes it up.
    """
    if not is_url(workdir):
        yield Path(workdir)
        return
    hosts = sorted(set(processes.gather(socket.gethostname())))
    if len(hosts) > 1:
        raise StorageError(
            f"--workdir={workdir} serves the processes of one host, and these run on {len(hosts)}: "
            f"{', '.join(hosts[:4])}{', ...' if len(hosts) > 4 else ''}; give a folder that all of them share"
        )
    mirror = Mirror(workdir)
    mirror.fetch()
    processes.gather("")  # nobody fetches what the first one writes already
    if not processes.is_first():
        yield mirror.folder
        return
    logs.say(f"{workdir} is kept in {mirror.folder} while the run works")
    with mirror.alone():
        stop = threading.Event()
        uploads = threading.Thread(target=_upload_until, args=(mirror, stop), daemon=True)
        uploads.start()
        try:
            yield mirror.folder
        except BaseException:
            stop.set()
            uploads.join()
            try:
                mirror.push(everything=True)
            except OSError as failure:
                logs.say(f"warning: {failure}")  # the error that ends the run is the one to report
            raise
        stop.set()
        uploads.join()
        mirror.push(everything=True)


def _upload_until(mirror: "Mirror", stop: threading.Event) -> None:
    warned = False
    while not stop.wait(SECONDS_BETWEEN_UPLOADS):
        try:
            mirror.push()
            warned = False
        except OSError as error:
            if not warned:
                logs.say(f"warning: {error}; trying again every {SECONDS_BETWEEN_UPLOADS:.0f} s")
            warned = True


class Mirror:
    """A folder here and its copy in a storage.

    Attributes:
      url: of the copy.
      folder: here; in $DELTA_JAX_CACHE or ~/.cache/delta_jax, named after the address.
    """

    def __init__(self, url: str, *, suffix: str = ""):
        """Opens the storage; raises StorageError where that is not possible."""
        self.url = url.rstrip("/")
        name = f"{PurePosixPath(self.url).name}-{hashlib.sha256(self.url.encode()).hexdigest()[:12]}"
        cache = Path(os.environ.get("DELTA_JAX_CACHE") or Path.home() / ".cache" / "delta_jax")
        self.folder = cache / "workdirs" / f"{name}{suffix}"
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise StorageError(
                f"{self.url} cannot be used: {error}; for gs:// install delta_jax[gcs], for other storages the package "
                "that fsspec has for them"
            ) from error
        self._sent: dict[str, _State] = {}
        self._made: set[str] = set()
        self._token = ""

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other runs of this host out of the folder; raises StorageError where one is in."""
        with _locked(self.folder.with_name(f"{self.folder.name}.run"), fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield

    def fetch(self, *, with_checkpoints: bool = True) -> None:
        """Makes the folder what the copy is, unless it is that already, or is ahead of it after a crash."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        marker = self.folder / _TOKEN
        # One process of a host after the other; the later ones find that all is there.
        with _locked(self.folder.with_name(f"{self.folder.name}.fetch"), fcntl.LOCK_EX), self.alone():
            self._token = self._read_token()
            # Without a token the first upload did not end. What it brought makes sense all the same, by its order.
            names = self._names()
            # What a crash may have kept from being uploaded is not known to be there; what is not here goes.
            self._sent = dict.fromkeys(names, (0, 0))
            if not marker.exists() or marker.read_text() != self._token:
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir(parents=True)
                self._fetch(names, with_checkpoints)
                if self._read_token() != self._token:
                    raise StorageError(
                        f"another run is writing to {self.url}; wait for it, or choose another --workdir"
                    )
                marker.write_text(self._token)

    def _fetch(self, names: set[str], with_checkpoints: bool) -> None:
        with self._failures("could not be fetched"):
            for name in sorted(names):
                checkpoint = _checkpoint_of(name)
                unsealed = checkpoint and f"{checkpoint}/{SEAL}" not in names
                if unsealed or (checkpoint and not with_checkpoints):
                    continue
                path = self.folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                self._fs.get_file(f"{self._root}/{name}", str(path))
                stat = path.stat()
                self._sent[name] = (stat.st_mtime_ns, stat.st_size)

    def _names(self) -> set[str]:
        with self._failures("could not be listed"):
            self._fs.invalidate_cache()
            return {path[len(self._root) :].lstrip("/") for path in self._fs.find(self._root)} - {_TOKEN}

    def push(self, *, everything: bool = False) -> None:
        """Uploads what is new, and removes what is gone; `everything`: also a large file that has hardly grown.

        Raises:
          StorageError: no access, or another run writes there.
        """
        found = self._complete_files()
        due = [name for name, state in found.items() if self._is_due(state, self._sent.get(name), everything)]
        gone = self._sent.keys() - found.keys()
        if not due and not gone:
            return
        with self._failures("could not be written"):
            if self._read_token() != self._token:
                raise StorageError(
                    f"another run has written to {self.url} since this one began; stop one of them, or choose another "
                    "--workdir"
                )
            removed = set()  # checkpoints that were, meanwhile: their seals must not follow half of them
            for name in sorted(due, key=lambda name: _order(name, found[name])):
                checkpoint = _checkpoint_of(name)
                if checkpoint not in removed and not self._send(name, found[name]) and checkpoint:
                    removed.add(checkpoint)
            for name in sorted(gone, key=lambda name: (not name.endswith(f"/{SEAL}"), name)):
                self._remove(name)
            token = uuid.uuid4().hex
            self._fs.pipe_file(f"{self._root}/{_TOKEN}", token.encode())
        self._token = token
        (self.folder / _TOKEN).write_text(token)

    def _complete_files(self) -> dict[str, _State]:
        found = {}
        for directory, folders, files in os.walk(self.folder):
            # What is being written has such names, here and in orbax, and gets its own when it is complete.
            folders[:] = [name for name in folders if not name.startswith(".") and "orbax-checkpoint-tmp" not in name]
            for name in files:
                path = Path(directory, name)
                relative = path.relative_to(self.folder).as_posix()
                if not _checkpoint_of(relative) and (name.startswith(".") or ".tmp" in name):
                    continue
                try:
                    stat = path.stat()
                except FileNotFoundError:  # removed meanwhile, as old checkpoints are
                    continue
                found[relative] = (stat.st_mtime_ns, stat.st_size)
        return found

    def _is_due(self, state: _State, sent: _State | None, everything: bool) -> bool:
        if sent is None or everything or state[1] < _LARGE_BYTES:
            return state != sent
        return state[1] > _GROWTH * sent[1]

    def _send(self, name: str, state: _State) -> bool:
        """Whether the file was still there."""
        target = f"{self._root}/{name}"
        parent = target.rpartition("/")[0]
        if parent not in self._made:
            self._fs.makedirs(parent, exist_ok=True)
            self._made.add(parent)
        path = self.folder / name
        try:
            self._fs.put_file(str(path), target)
        except FileNotFoundError:
            if path.exists():  # then it is the bucket that is not there
                raise
            return False
        self._sent[name] = state
        return True

    def _remove(self, name: str) -> None:
        if self._fs.exists(f"{self._root}/{name}"):
            self._fs.rm_file(f"{self._root}/{name}")
        del self._sent[name]

    def _read_token(self) -> str:
        with self._failures("could not be read"):
            try:
                return self._fs.cat_file(f"{self._root}/{_TOKEN}").decode()
            except FileNotFoundError:
                return ""

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except Exception as error:  # each storage has its own
            reason = str(error).strip() or type(error).__name__
            raise StorageError(f"{self.url} {what}: {reason.splitlines()[0][:300]}") from error


@contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, how)
        except BlockingIOError:
            raise StorageError(
                f"another run on this machine works in this --workdir ({path}); wait for it, or choose another"
            ) from None
        yield


def _checkpoint_of(name: str) -> str:
    """ "checkpoints/20" of "checkpoints/20/state/x"; "" for what is not in a checkpoint."""
    parts = name.split("/")
    return "/".join(parts[:2]) if len(parts) > 2 and parts[0] == "checkpoints" and parts[1].isdigit() else ""


def _order(name: str, state: _State) -> tuple[Any, ...]:
    # The records of the steps before a checkpoint have to be there when it is; its seal comes after the rest of it.
    checkpoint = _checkpoint_of(name)
    step = int(checkpoint.rpartition("/")[2]) if checkpoint else -1
    return step, name.endswith(f"/{SEAL}"), state
