"""One attempt to fetch the rest of a file: one request, its bytes appended to a part file."""

import contextlib
import email.utils
import errno
import json
import re
import shutil
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import requests
import urllib3

from delta_jax.downloads.errors import DownloadError
from delta_jax.downloads.hashes import Expected, digest
from delta_jax.downloads.parts import Interrupted, Part, Progress, Refused

CONNECT_S, SILENCE_S = 15.0, 60.0  # seconds to wait for a connection, and for more bytes
CHUNK = 256 * 1024  # bytes
_AGAIN = {408, 425, 429, 500, 502, 503, 504}  # answers that another attempt may change


def transfer(url: str, part: Part, expected: Expected, progress: Progress | None) -> str:
    """Appends to `part` what is missing of the file.

    Without a hash to check in the end, a part is continued only if the server can tell that the file is still the same.

    Returns:
      The hash of the whole file, by the algorithm of `expected`.

    Raises:
      Interrupted: the part holds what arrived; try again.
      Refused: the address does not give this file.
      DownloadError: the disk is full.
    """
    start, validator = part.size(), part.validator()
    if start and not (validator or expected.digits):
        start = 0
    headers = {"Accept-Encoding": "identity", "User-Agent": "delta_jax"}
    if start:
        headers |= {"Range": f"bytes={start}-"} | ({"If-Range": validator} if validator else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_S, SILENCE_S)) as answer:
            if start and answer.status_code == 416:
                return _nothing_left(answer, part, expected)
            _check_status(answer)
            start = _first_byte(answer, start)
            return _receive(answer, part, start, expected, progress)
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema):
        raise Refused("this is no address of HTTP or HTTPS") from None
    except requests.exceptions.TooManyRedirects:
        raise Refused("it redirects in a circle") from None
    # Their own texts hold the address with what may be secret in it.
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _causes(error)):
            raise Refused(
                "its certificate cannot be verified; is a proxy in between, or a store of old ones?"
            ) from None
        raise Interrupted(_reason(error)) from None


def _nothing_left(answer: requests.Response, part: Part, expected: Expected) -> str:
    """A process was killed between the last byte and the final name, or the file there has become shorter."""
    if answer.headers.get("Content-Range") == f"bytes */{part.size()}":
        return digest(part.path, expected.algorithm)
    part.remove()
    raise Interrupted("the file on the server is shorter than before", wait_s=0.0)


def _check_status(answer: requests.Response) -> None:
    code = answer.status_code
    if code in _AGAIN:
        raise Interrupted(f"the server answered {code} {answer.reason}", _retry_after(answer))
    if code not in (200, 206):
        hint = {401: "; it wants a login", 403: "; it does not give this file to you", 404: "; the link is dead"}
        raise Refused(f"the server answered {code} {answer.reason}{hint.get(code, '')}")


def _first_byte(answer: requests.Response, asked: int) -> int:
    """Where the body begins in the file: 0 if the server sends all of it."""
    if answer.status_code == 200:
        return 0
    found = re.match(r"bytes (\d+)-\d+/", answer.headers.get("Content-Range", ""))
    if not found or int(found[1]) != asked:
        raise Refused(f"the server was asked for the bytes from {asked:,} on and sent others")
    return asked


def _receive(answer: requests.Response, part: Part, start: int, expected: Expected, progress: Progress | None) -> str:
    length = answer.headers.get("Content-Length", "")
    total = start + int(length) if length.isdecimal() else None
    if total is not None and expected.size is not None and total != expected.size:
        raise Refused(f"the file there has {total:,} bytes, expected {expected.size:,}")
    _check_space(part.path.parent, (total or expected.size or start) - start)
    hasher = expected.hasher()
    try:
        with part.path.open("r+b" if start else "wb") as file:
            _feed(hasher, file, start)
            file.truncate()
            _note_version(answer, part)
            done = start
            if progress:
                progress(done, total)
            # The bytes as sent: an archive that a server labels "gzip" must not be unpacked on the way.
            while chunk := answer.raw.read(CHUNK, decode_content=False):
                file.write(chunk)
                hasher.update(chunk)
                done += len(chunk)
                if expected.size is not None and done > expected.size:
                    raise Refused(f"the file there has more than the {expected.size:,} bytes expected")
                if progress:
                    progress(done, total)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(f"the disk of {part.path.parent} is full; make room and run the same again") from error
        raise
    if total is not None and done < total:
        raise Interrupted(f"the connection ended after {done:,} of {total:,} bytes")
    return str(hasher.hexdigest())


def _feed(hasher: Any, file: BinaryIO, size: int) -> None:
    while size > 0 and (chunk := file.read(min(CHUNK, size))):
        hasher.update(chunk)
        size -= len(chunk)


def _note_version(answer: requests.Response, part: Part) -> None:
    tag = answer.headers.get("ETag", "")
    # A weak tag promises the same meaning, not the same bytes.
    validator = tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", "")
    part.about.write_text(json.dumps({"validator": validator}), "utf-8")


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(
            f"{needed / 1e6:,.0f} MB are to be fetched and {folder} has {free / 1e6:,.0f} MB free; make room there or "
            "choose another folder with DELTA_JAX_CACHE"
        )


def _retry_after(answer: requests.Response) -> float | None:
    """Seconds; the header holds a number of them or a date."""
    text = answer.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    with contextlib.suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    return None


def _reason(error: BaseException) -> str:
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return f"no connection within {CONNECT_S:.0f} s"
    if isinstance(error, requests.exceptions.Timeout | urllib3.exceptions.TimeoutError):
        return f"no answer within {SILENCE_S:.0f} s"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy cannot be reached"
    for cause in _causes(error):
        if isinstance(cause, urllib3.exceptions.NameResolutionError):
            return "the name of the server cannot be resolved"
        if isinstance(cause, OSError) and cause.strerror:
            return f"no connection ({cause.strerror})"
    return "the connection was cut"


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
