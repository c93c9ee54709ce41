"""Fetching a file: its addresses in turn, each as often as it makes sense, until the content is the right one."""

import hashlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from delta_jax.downloads.errors import DownloadError
from delta_jax.downloads.files import locked, publish
from delta_jax.downloads.hashes import Expected, expected
from delta_jax.downloads.parts import Interrupted, Part, Progress, Refused
from delta_jax.downloads.urls import OFFLINE, is_offline, is_url, shown

_log = logging.getLogger(__name__)

ATTEMPTS = 6  # in a row without a byte more than ever before
LONGEST_WAIT_S, MOST_PATIENCE_S = 60.0, 600.0  # between two attempts; and where the server says how long


def fetch(
    urls: str | Sequence[str],
    path: Path,
    *,
    sha256: str = "",
    sha1: str = "",
    md5: str = "",
    size: int | None = None,
    progress: Progress | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Fetches a file, unless it is there already.

    The bytes go to a file of another name beside `path`, which gets its name when size and hash are right. An
    interrupted fetch, of this process or of an earlier one, goes on where it stopped. Connections that fail and answers
    like 429 or 503 are tried again, with waits that grow; dead links are not. Of several processes one fetches, and the
    others wait for it.

    Args:
      urls: the address, or several of the same file that are tried in turn.
      path: where the file is to be. A file that lies there is checked and kept if it is right, and replaced if not.
      sha256, sha1, md5: at most one, in hexadecimal. Of a sha256 its first digits will do, 8 at least. Without any, the
        content is not verified.
      size: bytes, if known.
      progress: called with the bytes so far and in all, often.
      sleep: how to wait, in seconds.

    Returns:
      `path`.

    Raises:
      DownloadError: no address gave the file, or the network may not be used (DELTA_JAX_OFFLINE, HF_HUB_OFFLINE), or
        the disk is full; with the steps to do it by hand.
    """
    mirrors = [urls] if isinstance(urls, str) else list(urls)
    wanted = expected(sha256, sha1, md5, size)
    try:
        with locked(path):
            if path.exists() and not (wrong := wanted.problem_of(path)):
                return path
            _refuse_offline(mirrors, path, wanted, f"{path} {wrong}; " if path.exists() else "")
            return _from_mirrors(mirrors, path, wanted, progress, sleep)
    except OSError as error:
        raise DownloadError(f"{path}: cannot be read or written ({error.strerror or error})") from error


def _refuse_offline(mirrors: list[str], path: Path, wanted: Expected, found: str) -> None:
    if is_offline():
        raise DownloadError(
            f"{found}not on this machine, and {' or '.join(OFFLINE)} forbids connections; unset it, or "
            + _by_hand(mirrors, path, wanted)
        )


def _from_mirrors(
    mirrors: list[str], path: Path, wanted: Expected, progress: Progress | None, sleep: Callable[[float], None]
) -> Path:
    parts = [_part(url, path, wanted) for url in mirrors]
    failures = []
    for url, part in zip(mirrors, parts, strict=True):
        try:
            if not is_url(url):
                raise Refused("this is no address of HTTP or HTTPS")
            _complete(url, part, wanted, progress, sleep)
        except Refused as error:
            failures.append(f"{shown(url)}: {error}")
            continue
        publish(part.path, path)
        for left in parts:
            left.remove()
        return path
    raise DownloadError(f"cannot be fetched: {'; '.join(failures)}. To go on, {_by_hand(mirrors, path, wanted)}")


def _part(url: str, path: Path, wanted: Expected) -> Part:
    """Its name belongs to address and hash: the part of another file is never continued with this one."""
    key = hashlib.sha256(f"{url} {wanted.algorithm} {wanted.digits} {wanted.size}".encode()).hexdigest()[:12]
    return Part(path.with_name(f"{path.name}.{key}.part"))


def _complete(
    url: str, part: Part, wanted: Expected, progress: Progress | None, sleep: Callable[[float], None]
) -> None:
    """Leaves the whole, right file under the name of the part, or raises Refused."""
    from delta_jax.downloads.transfer import transfer  # imports requests, which those who have their files do not need

    failures, most, second_chance = 0, part.size(), True
    while True:
        resumed = part.size() > 0
        try:
            found = transfer(url, part, wanted, progress)
        except Interrupted as error:
            failures = 1 if part.size() > most else failures + 1
            most = max(most, part.size())
            if failures >= ATTEMPTS:
                raise Refused(f"{error}, {ATTEMPTS} times in a row") from None
            if error.wait_s is not None and error.wait_s > MOST_PATIENCE_S:
                raise Refused(f"{error} and asks to wait for {error.wait_s:,.0f} s; try again then") from None
            wait = _pause(failures) if error.wait_s is None else error.wait_s
            _log.warning("%s: %s; trying again in %.0f s", shown(url), error, wait)
            sleep(wait)
            continue
        problem = wanted.problem(part.size(), found)
        if not problem:
            return
        part.remove()
        # The beginning of a resumed file may be of an older version, or damaged by a crash: once more, from 0.
        if not (resumed and second_chance):
            raise Refused(f"the file there {problem}; it was changed, or something in between answers in its place")
        second_chance = False


def _pause(failures: int) -> float:
    """Seconds: doubling, and at random, so that many machines do not come back together."""
    return min(LONGEST_WAIT_S, 2.0 ** (failures - 1)) * random.uniform(0.5, 1.0)


def _by_hand(mirrors: list[str], path: Path, wanted: Expected) -> str:
    checked = f"; its {wanted.algorithm} ({wanted}) is checked then" if wanted.digits else ""
    return f"open {' or '.join(map(shown, mirrors))} in a browser and save the file as {path}{checked}"
