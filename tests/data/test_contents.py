"""The contents of files: what is read, what is taken from the index, and when the index must not be believed."""

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from delta_jax.data import Catalogue, contents, find, identified


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """Two classes of five files whose contents are their names, and clocks with ticks that are short enough."""
    monkeypatch.setattr(contents, "SETTLED_NS", 0)
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(5):
            (tmp_path / "data" / name / f"{i}.png").write_text(f"{name}/{i}.png")
    return tmp_path / "data"


@pytest.fixture
def look(root, tmp_path, monkeypatch):
    """Identifies the files: {name: what it holds, by its hash}, and the names of those that were read for it."""
    names = {hashlib.sha256(f"{n}/{i}.png".encode()).hexdigest(): f"{n}/{i}.png" for n in "ab" for i in range(9)}
    read: list[str] = []
    hashed = contents._Index.read
    monkeypatch.setattr(
        contents._Index, "read", lambda self, path: read.append(f"{path.parent.name}/{path.name}") or hashed(self, path)
    )

    def looked(where=root, **how):
        read.clear()
        found = identified(find("folder", root=str(where), validation_fraction=0), tmp_path / "cache", **how)
        held = {file: names.get(digest, digest) for file, digest in zip(found.files, found.contents, strict=True)}
        return held, sorted(read)

    return looked


ALL = [f"{name}/{i}.png" for name in "ab" for i in range(5)]
ITSELF = {file: file for file in ALL}


def test_files_are_read_once(look):
    shown: list[int] = []
    assert look(progress=shown.append) == (ITSELF, ALL)
    assert shown == [10]
    assert look(progress=shown.append) == (ITSELF, [])
    assert shown == [10]  # no bar where there is no work


def test_what_changes_is_read_again_and_nothing_else(look, root):
    look()
    (root / "a" / "1.png").write_text("a/6.png")  # in place, as long as before
    times = (root / "b" / "2.png").stat()
    (root / "b" / "2.png").write_text("b/7.png")
    os.utime(root / "b" / "2.png", ns=(times.st_atime_ns, times.st_mtime_ns))  # and back to its old time
    (root / "new").write_text("b/8.png")
    os.utime(root / "new", ns=(1, 1))
    (root / "new").replace(root / "b" / "3.png")  # another file under the name, from another time
    (root / "b" / "4.png").unlink()
    (root / "b" / "5.png").write_text("b/5.png")
    held, read = look()
    assert held == {
        **{file: file for file in ALL[:9]},
        "a/1.png": "a/6.png",
        "b/2.png": "b/7.png",
        "b/3.png": "b/8.png",
        "b/5.png": "b/5.png",
    }
    assert read == ["a/1.png", "b/2.png", "b/3.png", "b/5.png"]
    assert look()[1] == []


def test_what_changed_a_moment_ago_is_not_believed(look, monkeypatch):
    monkeypatch.setattr(contents, "SETTLED_NS", 3600 * 10**9)
    look()
    assert look()[1] == ALL
    monkeypatch.setattr(contents, "SETTLED_NS", 0)
    look()
    assert look()[1] == []


def test_a_moved_folder_is_read_there(look, root):
    look()
    assert look(root.rename(root.parent / "moved")) == (ITSELF, ALL)


def test_links_are_those_files_that_they_lead_to(look, root):
    (root / "a" / "0.png").unlink()
    (root / "a" / "0.png").symlink_to(root / "a" / "1.png")
    (root / "b" / "0.png").unlink()
    (root / "b" / "0.png").symlink_to("nowhere")
    assert look()[0] == ITSELF | {"a/0.png": "a/1.png", "b/0.png": ""}
    (root / "a" / "0.png").unlink()
    (root / "a" / "0.png").symlink_to(root / "a" / "2.png")
    held, read = look()
    assert held["a/0.png"] == "a/2.png"
    assert read == ["a/0.png", "b/0.png"]


@pytest.mark.parametrize("damage", ["", "[]", '{"x": 1}', "{", "null"])
def test_a_damaged_index_is_made_again(look, tmp_path, damage):
    look()
    (index,) = (tmp_path / "cache" / "contents").iterdir()
    index.write_text(damage)
    assert look() == (ITSELF, ALL)
    assert look()[1] == []


def test_without_a_folder_that_can_be_written_everything_is_read(look, tmp_path):
    (tmp_path / "cache").write_text("a file in the way")
    assert look() == (ITSELF, ALL)
    assert look() == (ITSELF, ALL)


def test_what_was_read_before_an_interruption_is_kept(look, monkeypatch):
    monkeypatch.setattr(contents, "CHUNK", 4)

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look(progress=stop)
    shown: list[int] = []
    assert look(progress=shown.append) == (ITSELF, ALL[4:])
    assert shown == [4, 4, 2]


def test_examples_that_are_no_files_are_read_and_known_ones_left_alone(tmp_path):
    def read(i):
        if i == 1:
            raise OSError("gone")
        return b"abc"

    catalogue = Catalogue(
        "made", ("x", "y"), np.zeros(2, np.int32), np.array(["train"] * 2), ("c",), "", read, np.ones(2)
    )
    found = identified(catalogue, tmp_path)
    # SHA-256 of "abc" as in FIPS 180-2, appendix B.1.
    assert found.contents == ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "")
    assert identified(dataclasses.replace(found, read=None), tmp_path) is not None
    assert found.take(np.array([1, 0])).contents == found.contents[::-1]
    assert list(tmp_path.iterdir()) == []
