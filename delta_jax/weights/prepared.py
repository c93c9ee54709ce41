"""Fetched weights in the cache: converted once into safetensors, checked whenever they are used.

`$DELTA_JAX_CACHE/weights/NAME.safetensors` holds the tensors as `reading.read` gives them, in PyTorch's names and
layouts; `NAME.safetensors.json` beside it says what they were made from and which content both files must have.
"""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.numpy

from delta_jax import downloads
from delta_jax.weights.errors import WeightsError
from delta_jax.weights.origins import HubFile, Original, UrlFile, is_commit
from delta_jax.weights.reading import Content, read_content

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """What is known about converted weights.

    Attributes:
      source: name of the source, or the address.
      url: where the original came from.
      original_sha256: of the original.
      revision: its commit, "" where there are none.
      licence: of the weights, "" if unknown.
      sha256: of the converted file.
    """

    source: str
    url: str
    original_sha256: str
    revision: str
    licence: str
    sha256: str


def converted_path(name: str) -> Path:
    """Where the converted weights of the source `name` are, or will be."""
    return downloads.cache_folder("weights") / f"{name.replace('/', '--')}.safetensors"


def record(name: str) -> Record | None:
    """What is known about the weights of the source `name`; None if they were never converted here."""
    try:
        return Record(**json.loads(_record_path(name).read_text("utf-8")))
    except (OSError, ValueError, TypeError):  # a record that cannot be read is as good as none
        return None


def prepared(
    name: str, origin: UrlFile | HubFile, licence: str, progress: downloads.Progress | None = None, *, choice: str = ""
) -> tuple[Path, Record]:
    """Fetches and converts weights, unless that was done before; of several processes one does it.

    Where nothing pins the content, what the first fetch gave is noted, and a later fetch must give the same.

    Args:
      name: of the source.
      origin: its file on the network.
      licence: of the weights.
      progress: called with the bytes so far and in all.
      choice: which state of a checkpoint is meant, see `reading.read`.

    Returns:
      The converted file, checked, and its record.

    Raises:
      WeightsError: the file cannot be had, is not the right one, is no weights file, or cannot be stored.
    """
    path = converted_path(name)
    try:
        with downloads.locked(path):
            known = record(name)
            if known and _is_of(known, origin) and path.exists() and downloads.digest(path) == known.sha256:
                return path, known
            return path, _prepare(name, origin, licence, path, known, progress, choice)
    except OSError as error:
        raise WeightsError(
            f"{name}: its file cannot be read or stored ({error.strerror or error}; {error.filename or path.parent}); "
            "make room, or choose another folder with DELTA_JAX_CACHE"
        ) from error


def _prepare(
    name: str,
    origin: UrlFile | HubFile,
    licence: str,
    path: Path,
    known: Record | None,
    progress: downloads.Progress | None,
    choice: str,
) -> Record:
    pinned = bool(origin.sha256) or is_commit(origin.revision)
    trusted = known if not pinned else None
    original = _get(name, origin, path, trusted, progress)
    if not pinned and not trusted:
        _log.warning(
            "%s: no hash of %s is on record, so its content is not verified; it has sha256 %s, and later fetches are "
            "compared with that",
            name,
            origin.address,
            original.sha256,
        )
    try:
        content = read_content(f"{original.path}#{choice}" if choice else original.path)
    except WeightsError:
        if original.ours:  # or it would be found there, whole, the next time
            original.path.unlink(missing_ok=True)
        raise
    for remark in content.remarks:
        _log.warning("%s", remark.replace(str(original.path), name))
    made = _convert(name, origin, licence, original, content, path)
    if original.ours:
        original.path.unlink(missing_ok=True)
    return made


def _get(
    name: str, origin: UrlFile | HubFile, path: Path, trusted: Record | None, progress: downloads.Progress | None
) -> Original:
    place = path.with_suffix(".original")
    try:
        if trusted:
            return origin.get(place, trusted.original_sha256, trusted.revision, progress)
        return origin.get(place, origin.sha256, origin.revision, progress)
    except WeightsError as error:
        hint = f". The sha256 is that of the first fetch; to accept another, remove {_record_path(name)}"
        raise WeightsError(f"{name}: {error}{hint if trusted else ''}") from error


def _convert(
    name: str,
    origin: UrlFile | HubFile,
    licence: str,
    original: Original,
    content: Content,
    path: Path,
) -> Record:
    about = {
        "source": name,
        "url": origin.address,
        "sha256": original.sha256,
        "revision": original.revision,
        "licence": licence,
    }
    if content.says:  # what the original says of its network is to be known later, too
        about["says"] = json.dumps(content.says)
    with downloads.replacing(path) as draft:
        # Not save_file, which makes files that only their owner can read: a cache may be shared.
        draft.write_bytes(safetensors.numpy.save(content.tensors, about))
        sha256 = downloads.digest(draft)
    made = Record(name, origin.address, original.sha256, original.revision, licence, sha256)
    with downloads.replacing(_record_path(name)) as draft:
        draft.write_text(json.dumps(asdict(made), indent=2) + "\n", "utf-8")
    return made


def _is_of(known: Record, origin: UrlFile | HubFile) -> bool:
    """False once a later version of this library pins other content than was converted."""
    if origin.sha256:
        return known.original_sha256.startswith(origin.sha256)
    return not is_commit(origin.revision) or known.revision == origin.revision


def _record_path(name: str) -> Path:
    path = converted_path(name)
    return path.with_name(f"{path.name}.json")
