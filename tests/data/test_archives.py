"""Archives of all kinds, and those that somebody made to do harm."""

import io
import tarfile

import pytest

from delta_jax.data import DataError, archives
from tests.published_sets import archive


@pytest.fixture
def stored(tmp_path):
    """Writes an archive."""

    def write(content):
        (tmp_path / "a.tar").write_bytes(content)
        return tmp_path / "a.tar"

    return write


def hostile(**fields):
    """A tar with a good file and an entry with these fields."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for given in ({"name": "a/good.txt"}, fields):
            entry = tarfile.TarInfo()
            for field, value in given.items():
                setattr(entry, field, value)
            tar.addfile(entry)
    return out.getvalue()


@pytest.mark.parametrize("packing", ["", "gz", "bz2", "xz"])
def test_files_are_read_in_place(stored, packing, tmp_path):
    path = stored(archive({"./b/2.txt": b"two", "b/1.txt": b"one", "b/._1.txt": b"macOS", "c.txt": b""}, packing))
    assert archives.names(path) == ["b/1.txt", "b/2.txt", "c.txt"]
    assert list(archives.read(path, ["b/1.txt", "b/2.txt"])) == [("b/2.txt", b"two"), ("b/1.txt", b"one")]
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar"]


def test_of_two_files_of_one_name_the_first_counts(stored):
    out = io.BytesIO(archive({"a": b"first"}))
    with tarfile.open(fileobj=out, mode="a") as tar:
        entry = tarfile.TarInfo("a")
        entry.size = 6
        tar.addfile(entry, io.BytesIO(b"second"))
    assert list(archives.read(stored(out.getvalue()), ["a"])) == [("a", b"first")]


def test_files_that_are_missing_are_named(stored):
    path = stored(archive({"a": b"1"}))
    with pytest.raises(DataError, match=r"a.tar lacks b, c, d and 2 more; delete it and fetch it again"):
        list(archives.read(path, ["a", "b", "c", "d", "e", "f"]))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "/etc/passwd"}, "'/etc/passwd' that leads to '/etc/passwd', out of the archive"),
        ({"name": "../x"}, "'../x' that leads to '../x'"),
        ({"name": "a/../../x"}, "'a/../../x'"),
        ({"name": "a\\..\\..\\x"}, "leads to"),
        ({"name": "a/link", "type": tarfile.SYMTYPE, "linkname": "../../x"}, "'a/link' that leads to 'a/../../x'"),
        ({"name": "a/link", "type": tarfile.SYMTYPE, "linkname": "/etc"}, "'a/link' that leads to '/etc'"),
        ({"name": "a/link", "type": tarfile.LNKTYPE, "linkname": "../x"}, "'a/link' that leads to '../x'"),
    ],
)
def test_what_leads_out_is_refused(stored, fields, says):
    path = stored(hostile(**fields))
    with pytest.raises(DataError) as raised:
        archives.names(path)
    assert says in str(raised.value)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_within_and_devices_are_no_files(stored, kind):
    path = stored(hostile(name="a/other", type=kind, linkname="good.txt" if kind == tarfile.SYMTYPE else "a/good.txt"))
    assert archives.names(path) == ["a/good.txt"]
    with pytest.raises(DataError, match="lacks a/other"):
        list(archives.read(path, ["a/other"]))


def test_bombs_are_refused(stored, monkeypatch):
    zeros = archive({"a": bytes(1_000_000), "b": bytes(1_000_000)}, "gz")
    assert len(zeros) < 10_000
    monkeypatch.setattr(archives, "FREE_EXPANSION_BYTES", 1_500_000)
    with pytest.raises(
        DataError, match=r"unpacks to too much: b has 1,000,000 bytes, with 2,000,000 in 2 files so far"
    ):
        list(archives.read(stored(zeros), ["a"]))
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 999_999)
    with pytest.raises(DataError, match=r"unpacks to too much: a has 1,000,000 bytes"):
        archives.names(stored(zeros))
    monkeypatch.setattr(archives, "MAX_FILES", 2)
    with pytest.raises(DataError, match=r"in 3 files so far"):
        archives.names(stored(archive(dict.fromkeys("abc", b""))))


@pytest.mark.parametrize("packing", ["", "gz", "xz"])
def test_a_cut_or_foreign_archive_is_named_with_what_to_do(stored, packing):
    content = archive({name: bytes(range(256)) * 100 for name in "abc"}, packing)
    with pytest.raises(DataError, match=r"a\.tar (is no whole tar archive|cannot be read|lacks)"):
        list(archives.read(stored(content[: len(content) // 2]), "abc"))
    with pytest.raises(
        DataError,
        match=r"is no whole tar archive \(file could not be opened successfully\); delete it and fetch it again",
    ):
        archives.names(stored(b"<html>404</html>" * 100))
