"""Against a server on this machine that misbehaves as told; hashes come from hashlib, or from the standards."""

import concurrent.futures
import contextlib
import email.utils
import errno
import gzip
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from delta_jax import downloads
from delta_jax.downloads import fetching, transfer
from tests.file_server import Answer, serving

CONTENT = np.random.default_rng(0).integers(0, 256, 700_000, np.uint8).tobytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # sha256 of "abc", from FIPS 180-2

# A process that fetches, without the rest of the library, which takes seconds to import.
CHILD = """
import sys, types
package = types.ModuleType("delta_jax")
package.__path__ = [sys.argv[1]]
sys.modules["delta_jax"] = package
from pathlib import Path
from delta_jax import downloads
downloads.fetch(sys.argv[2], Path(sys.argv[3]), sha256=sys.argv[4])
"""


@pytest.fixture
def server(monkeypatch):
    for name in ("DELTA_JAX_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as running:
        running.files = {"w.bin": CONTENT, "abc.bin": b"abc"}
        yield running


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights" / "w.bin"


@pytest.fixture
def waits():
    return []


@pytest.fixture
def fetch(server, path, waits):
    """Fetches w.bin to `path`; waits are noted, not waited."""

    def run(urls=None, **how):
        return downloads.fetch(urls or server.url("w.bin"), path, sleep=waits.append, **how)

    return run


def failure(fetch, *arguments, **how):
    with pytest.raises(downloads.DownloadError) as error:
        fetch(*arguments, **how)
    return str(error.value)


def names(folder):
    return [file.name for file in folder.iterdir()]


def child(server, path):
    package = Path(downloads.__file__).parents[1]
    return subprocess.Popen([sys.executable, "-c", CHILD, package, server.url("w.bin"), path, SHA256])


def test_a_file_is_fetched_once(fetch, path, server):
    shown = []
    assert fetch(sha256=SHA256, size=700_000, progress=lambda *counts: shown.append(counts)) == path
    assert path.read_bytes() == CONTENT
    assert shown[0] == (0, 700_000)
    assert shown[-1] == (700_000, 700_000)
    assert shown == sorted(shown)
    assert names(path.parent) == ["w.bin"]  # neither part nor lock
    fetch(sha256=SHA256)
    fetch()
    assert len(server.requests) == 1


def test_a_wrong_file_is_replaced(fetch, path):
    path.parent.mkdir()
    path.write_bytes(b"an older version")
    fetch(sha256=SHA256)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("how", [{"sha256": SHA256}, {}])
def test_cut_connections_resume(fetch, path, server, waits, how):
    server.answers = [Answer(cut=300_000), Answer(cut=100_000), Answer(cut=0)]
    fetch(**how)
    assert path.read_bytes() == CONTENT
    assert server.ranges_asked() == [None, "bytes=300000-", "bytes=400000-", "bytes=400000-"]
    assert [headers.get("If-Range") for _, headers in server.requests] == [None, '"1"', '"1"', '"1"']
    assert len(waits) == 3
    assert 0.5 <= waits[0] <= 1
    assert names(path.parent) == ["w.bin"]


def test_a_server_without_ranges_sends_all_of_it_again(fetch, path, server):
    server.ranges = False
    server.answers = [Answer(cut=300_000)]
    fetch(sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert server.ranges_asked() == [None, "bytes=300000-"]


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(path, server, header):
    server.validator = {header: "Mon, 01 Jan 2024 00:00:00 GMT"}
    server.answers = [Answer(cut=300_000)]

    def change(_):
        server.files["w.bin"] = CONTENT[::-1]
        server.validator = {header: "Tue, 02 Jan 2024 00:00:00 GMT"}

    downloads.fetch(server.url("w.bin"), path, sleep=change)
    assert path.read_bytes() == CONTENT[::-1]
    assert server.ranges_asked() == [None, "bytes=300000-"]


def test_without_hash_and_version_nothing_is_resumed(fetch, path, server):
    server.validator = {"ETag": 'W/"1"'}  # weak: the same meaning, perhaps other bytes
    server.answers = [Answer(cut=300_000)]
    fetch()
    assert path.read_bytes() == CONTENT
    assert server.ranges_asked() == [None, None]


def test_a_damaged_part_is_fetched_again(fetch, path, server):
    server.answers = [Answer(cut=300_000), Answer(404)]
    failure(fetch, sha256=SHA256)
    (part,) = path.parent.glob("*.part")
    part.write_bytes(b"\0" * 300_000)  # as after a power cut
    fetch(sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert server.ranges_asked()[2:] == ["bytes=300000-", None]


def test_a_part_that_was_whole_already(fetch, path, server):
    server.answers = [Answer(cut=300_000), Answer(404)]
    failure(fetch, sha256=SHA256)
    (part,) = path.parent.glob("*.part")
    part.write_bytes(CONTENT)  # as if killed right before it got its name
    fetch(sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_a_part_longer_than_the_file_is_dropped(fetch, path, server):
    server.answers = [Answer(cut=300_000), Answer(404)]
    failure(fetch)
    server.files["w.bin"] = CONTENT[:1000]
    fetch()
    assert path.read_bytes() == CONTENT[:1000]


def test_the_part_of_another_file_is_not_continued(fetch, path, server):
    server.answers = [Answer(cut=300_000), Answer(404)]
    failure(fetch, sha256=SHA256)
    server.files["v.bin"] = CONTENT[::-1]
    fetch(server.url("v.bin"), sha256=hashlib.sha256(CONTENT[::-1]).hexdigest())
    assert server.ranges_asked()[2:] == [None]
    assert path.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"sha256": "0" * 64}, [f"has sha256 {ABC}", f"expected {'0' * 64}"]),
        ({"sha256": "00000000"}, [f"has sha256 {ABC}", "expected 00000000..."]),
        ({"md5": "0" * 32}, ["has md5 900150983cd24fb0d6963f7d28e17f72"]),  # RFC 1321
        ({"sha1": "0" * 40}, ["has sha1 a9993e364706816aba3e25717850c26c9cd0d89d"]),  # FIPS 180-2
        ({"size": 2}, ["has 3 bytes, expected 2"]),
    ],
)
def test_a_wrong_content_never_gets_the_name(fetch, path, server, how, says):
    message = failure(fetch, server.url("abc.bin"), **how)
    assert all(text in message for text in [*says, f"save the file as {path}", server.url("abc.bin")])
    assert len(server.requests) == 1
    assert names(path.parent) == []


@pytest.mark.parametrize(
    "how", [{"sha256": ABC}, {"sha256": ABC[:8].upper()}, {"md5": "900150983cd24fb0d6963f7d28e17f72"}, {"size": 3}]
)
def test_a_file_with_the_right_hash_or_size_is_kept(fetch, path, server, how):
    fetch(server.url("abc.bin"), **how)
    assert path.read_bytes() == b"abc"


@pytest.mark.parametrize("how", [{"sha256": "abc"}, {"md5": ABC[:8]}, {"sha256": ABC, "sha1": "0" * 40}])
def test_a_hash_that_is_none(fetch, server, how):
    with pytest.raises(ValueError, match=r"digits|one hash"):
        fetch(**how)
    assert not server.requests


@pytest.mark.parametrize(("status", "says"), [(404, "the link is dead"), (403, "does not give"), (401, "a login")])
def test_a_dead_link_ends_at_once_with_the_steps(fetch, path, server, waits, status, says):
    server.answers = [Answer(status)]
    message = failure(fetch, sha256=SHA256)
    assert all(text in message for text in (str(status), says, f"save the file as {path}", f"sha256 ({SHA256})"))
    assert "\n" not in message
    assert len(server.requests) == 1
    assert waits == []


def test_errors_that_pass_are_tried_again_with_growing_waits(fetch, path, server, waits):
    server.answers = [Answer(500), Answer(502), Answer(503), Answer(429), Answer(408)]
    fetch(sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert all(2**n / 2 <= wait <= 2**n for n, wait in enumerate(waits))
    assert len(waits) == 5


def test_the_server_says_how_long_to_wait(fetch, server, waits):
    date = email.utils.format_datetime(email.utils.localtime()).replace("-0000", "+0000")
    server.answers = [Answer(429, {"Retry-After": "7"}), Answer(503, {"Retry-After": date})]
    fetch(sha256=SHA256)
    assert waits == [7.0, 0.0]
    server.files["v.bin"] = b""
    server.answers = [Answer(503, {"Retry-After": "86400"})]
    assert "asks to wait for 86,400 s" in failure(fetch, server.url("v.bin"), sha256=ABC)


def test_it_gives_up_in_the_end(fetch, server, waits):
    server.answers = [Answer(500)] * 99
    assert "500 Internal Server Error, 6 times in a row" in failure(fetch)
    assert len(server.requests) == fetching.ATTEMPTS == len(waits) + 1


def test_it_gives_up_where_every_attempt_starts_from_nothing(fetch, server):
    server.ranges = False
    server.answers = [Answer(cut=1000)] * 99
    assert "times in a row" in failure(fetch)
    assert len(server.requests) <= fetching.ATTEMPTS + 1


def test_a_redirected_address_is_followed(fetch, path, server):
    server.answers = [Answer(302, {"Location": "/w.bin"})]
    fetch(server.url("moved"), sha256=SHA256)
    assert path.read_bytes() == CONTENT
    path.unlink()
    server.answers = [Answer(302, {"Location": "/circle"})] * 99
    assert "redirects in a circle" in failure(fetch, server.url("circle"))


def test_a_silent_server_is_left_and_asked_again(fetch, path, server, monkeypatch):
    monkeypatch.setattr(transfer, "SILENCE_S", 0.1)
    server.answers = [Answer(silence=0.5)]
    fetch(sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_an_address_where_nobody_answers_is_told_after_six_tries(fetch, path, server):
    url = server.url("w.bin")
    server.server_close()
    message = failure(fetch, url)
    assert "no connection (Connection refused), 6 times in a row" in message
    assert "this is no address of HTTP" in failure(fetch, "ftp://127.0.0.1/w.bin")


def test_mirrors_are_tried_in_turn(fetch, path, server):
    server.files["bad.bin"] = b"an error page"
    mirrors = [server.url(name) for name in ("gone.bin", "bad.bin", "w.bin")]
    fetch(mirrors, sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert [asked for asked, _ in server.requests] == ["/gone.bin", "/bad.bin", "/w.bin"]
    path.unlink()
    message = failure(fetch, mirrors[:2], sha256=SHA256)
    assert "404" in message
    assert f"expected {SHA256}" in message


@pytest.mark.parametrize("variable", ["DELTA_JAX_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_nothing_is_fetched_and_files_in_place_are_used(fetch, path, server, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    message = failure(fetch, sha256=SHA256)
    assert all(text in message for text in (variable, server.url("w.bin"), f"save the file as {path}"))
    path.write_bytes(b"abc")
    assert ABC in failure(fetch, sha256=SHA256)
    path.write_bytes(CONTENT)
    assert fetch(sha256=SHA256) == path
    assert not server.requests


def test_a_full_disk_is_told_before_the_fetch(fetch, path, server, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 600_000, 600_000))
    message = failure(fetch)
    assert "1 MB are to be fetched" in message
    assert "DELTA_JAX_CACHE" in message
    assert not path.exists()


def test_a_disk_that_is_full_in_the_middle(fetch, server, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(transfer, "_note_version", full)
    assert "is full; make room" in failure(fetch)


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "weights").write_text("a file, not a folder")
    with pytest.raises(downloads.DownloadError, match="cannot be read or written"):
        downloads.fetch(server.url("w.bin"), tmp_path / "weights" / "w.bin")


def test_secrets_in_an_address_are_used_and_never_shown(fetch, path, server, caplog):
    url = server.url("gone.bin?token=hidden").replace("http://", "http://someone:pa55word@")
    server.answers = [Answer(500)]
    message = failure(fetch, url, sha256=SHA256)
    for text in (message, caplog.text):
        assert "127.0.0.1" in text
        assert not any(secret in text for secret in ("someone", "pa55word", "hidden"))
    path_asked, headers = server.requests[-1]
    assert path_asked == "/gone.bin?token=hidden"
    assert headers["Authorization"] == "Basic c29tZW9uZTpwYTU1d29yZA=="  # base64 of someone:pa55word


def test_archives_are_not_unpacked_on_the_way(fetch, path, server):
    server.files["w.gz"] = gzip.compress(CONTENT)
    server.validator |= {"Content-Encoding": "gzip"}
    fetch(server.url("w.gz"), sha256=hashlib.sha256(server.files["w.gz"]).hexdigest())
    assert path.read_bytes() == server.files["w.gz"]


def test_two_processes_fetch_once(path, server):
    server.pause, server.piece = 0.05, 50_000
    children = [child(server, path) for _ in range(2)]
    assert [process.wait(30) for process in children] == [0, 0]
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert names(path.parent) == ["w.bin"]


def test_killed_in_the_middle_and_started_again(fetch, path, server):
    server.pause, server.piece = 0.1, 100_000
    process = child(server, path)
    deadline = time.monotonic() + 30
    while not any(part.stat().st_size for part in path.parent.glob("*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    assert not path.exists()
    server.pause = 0.0
    fetch(sha256=SHA256)
    assert path.read_bytes() == CONTENT
    first, second = server.ranges_asked()
    assert first is None
    assert int(second.removeprefix("bytes=").removesuffix("-")) >= 100_000
    assert names(path.parent) == ["w.bin"]


def test_locks_hold_between_threads_and_leave_nothing(tmp_path):
    inside, most = [], []

    def enter(_):
        with downloads.locked(tmp_path / "x"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(16)))
    assert most == [1] * 16
    assert names(tmp_path) == []


def test_replacing_leaves_the_old_file_after_an_error(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with contextlib.suppress(RuntimeError), downloads.replacing(path) as draft:
        draft.write_text("half of it")
        raise RuntimeError
    assert path.read_text() == "old"
    with downloads.replacing(path) as draft:
        draft.write_text("new")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["x"]
