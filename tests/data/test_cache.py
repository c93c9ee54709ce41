"""The decoded array: what is in it, and that kills, full disks and second processes leave no half of it behind."""

import dataclasses
import errno
import io
import os
import shutil
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delta_jax.data import Catalogue, DataError, cache, decode, find, identified
from tests import killed_decode
from tests.process_run import together


@pytest.fixture
def root(tmp_path) -> Path:
    """Ten images of class a (colours 0..9) and ten of class b (colours 100..109)."""
    for name, first in (("a", 0), ("b", 100)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(np.full((6, 9, 3), first + i, np.uint8)).save(tmp_path / "data" / name / f"{i}.png")
    return tmp_path / "data"


def colours(catalogue: Catalogue) -> list[int]:
    """What is in each file, from its name."""
    return [100 * file.startswith("b/") + int(file[2]) for file in catalogue.files]


def require_right(images: cache.Images, size: int) -> None:
    expected = np.array(colours(images.catalogue), np.uint8)[:, None, None, None]
    np.testing.assert_array_equal(images.array, np.broadcast_to(expected, (len(images.catalogue), size, size, 3)))


def test_rows_follow_the_catalogue_and_are_kept(root, tmp_path, monkeypatch):
    found = find("folder", root=str(root))
    finished: list[int] = []
    images = decode(found, 5, cache_dir=tmp_path / "cache", progress=finished.append)
    require_right(images, 5)
    assert sum(finished) == 20
    assert isinstance(images.array, np.memmap)
    assert not images.array.flags.writeable
    assert images.broken == ()

    monkeypatch.setattr(cache, "decode_image", None)  # the second time nothing is decoded, whatever the split
    again = decode(find("folder", root=str(root), seed=9), 5, cache_dir=tmp_path / "cache", progress=finished.append)
    require_right(again, 5)
    assert sum(finished) == 20
    assert sorted(path.suffix for path in (tmp_path / "cache").glob("[!.]*.*")) == [".json", ".npy"]


def test_other_settings_and_other_data_have_other_arrays(root, tmp_path):
    found = find("folder", root=str(root))
    decode(found, 5, cache_dir=tmp_path / "cache")
    assert decode(found, 4, cache_dir=tmp_path / "cache").array.shape == (20, 4, 4, 3)
    decode(found, 5, interpolation="bicubic", cache_dir=tmp_path / "cache")
    (root / "a" / "0.png").rename(root / "a" / "9z.png")
    images = decode(find("folder", root=str(root)), 5, cache_dir=tmp_path / "cache")
    assert images.array[:, 0, 0, 0].tolist() == [*range(1, 10), 0, *range(100, 110)]
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 4


def kept_or_made(root: Path, cache_dir: Path) -> tuple[cache.Images, int]:
    """The decoded images, and how many of them were decoded now."""
    made: list[int] = []
    return decode(find("folder", root=str(root)), 5, cache_dir=cache_dir, progress=made.append), sum(made)


@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".png"])
def test_one_image_of_the_same_length_with_an_older_time_is_decoded_again(root, tmp_path, suffix):
    for path in sorted(root.glob("a/*.png")):  # without compression, so that another picture has as many bytes
        content = Image.open(path).copy()
        path.unlink()
        content.save(path.with_suffix(suffix), **({"compress_level": 0} if suffix == ".png" else {}))
    images, _ = kept_or_made(root, tmp_path / "cache")
    require_right(images, 5)
    changed = root / "a" / f"3{suffix}"
    size = changed.stat().st_size
    other = Image.fromarray(np.full((6, 9, 3), 77, np.uint8))
    other.save(changed, **({"compress_level": 0} if suffix == ".png" else {}))
    os.utime(changed, (1_000_000_000, 1_000_000_000))
    assert changed.stat().st_size == size
    images, _ = kept_or_made(root, tmp_path / "cache")
    assert images.array[3, 0, 0, 0] == 77


def test_what_is_touched_moved_or_copied_is_not_decoded_again(root, tmp_path):
    assert kept_or_made(root, tmp_path / "cache")[1] == 20
    for path in root.glob("*/*.png"):
        path.touch()
    assert kept_or_made(root, tmp_path / "cache")[1] == 0
    shutil.copytree(root, tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "a").rename(tmp_path / "elsewhere" / "aa")  # nor do names and labels matter
    images, made = kept_or_made(tmp_path / "elsewhere", tmp_path / "cache")
    assert made == 0
    assert images.catalogue.class_names == ("aa", "b")
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1


def test_two_sets_of_the_same_names_and_sizes_never_share_pixels(root, tmp_path):
    for path in root.glob("*/*.png"):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    shutil.copytree(root, tmp_path / "old" / "data")
    for i in range(10):  # the classes exchanged, and every file older
        for one, other in (("a", "b"), ("b", "a")):
            shutil.copy(root / one / f"{i}.bmp", tmp_path / "old" / "data" / other / f"{i}.bmp")
            os.utime(tmp_path / "old" / "data" / other / f"{i}.bmp", (1, 1))
    require_right(kept_or_made(root, tmp_path / "cache")[0], 5)
    images, _ = kept_or_made(tmp_path / "old" / "data", tmp_path / "cache")
    assert images.array[:, 0, 0, 0].tolist() == [*range(100, 110), *range(10)]


def test_an_image_that_changes_between_the_look_at_it_and_its_decoding_stops(root, tmp_path):
    found = identified(find("folder", root=str(root)), tmp_path / "cache")
    Image.fromarray(np.full((6, 9, 3), 77, np.uint8)).save(root / "a" / "3.png")
    (root / "b" / "5.png").unlink()
    with pytest.raises(DataError, match=r"2 images of .* changed, .*: a/3.png, b/5.png; run again"):
        decode(found, 5, cache_dir=tmp_path / "cache", on_broken="skip")
    images, made = kept_or_made(root, tmp_path / "cache")
    assert made == len(images.catalogue) == 19
    assert images.array[3, 0, 0, 0] == 77


def break_files(root: Path) -> None:
    data = (root / "a" / "2.png").read_bytes()
    (root / "a" / "2.png").write_bytes(data[:40])
    (root / "b" / "0.png").write_bytes(b"")
    (root / "b" / "5.png").unlink()
    (root / "b" / "5.png").symlink_to("nowhere")


def test_broken_images_stop_with_all_their_names(root, tmp_path):
    break_files(root)
    found = find("folder", root=str(root))
    with pytest.raises(DataError) as raised:
        decode(found, 5, cache_dir=tmp_path / "cache")
    message = str(raised.value)
    assert "3 of 20 images" in message
    assert "a/2.png: " in message
    assert "b/0.png: empty (0 bytes)" in message
    assert "b/5.png: cannot be read (No such file or directory)" in message
    assert "--config.data.on_broken=skip" in message


def test_broken_images_are_skipped(root, tmp_path, monkeypatch):
    break_files(root)
    found = find("folder", root=str(root))
    with pytest.raises(DataError):
        decode(found, 5, cache_dir=tmp_path / "cache")
    finished: list[int] = []
    first = decode(found, 5, cache_dir=tmp_path / "cache", on_broken="skip", progress=finished.append)
    assert finished == [17, 1, 1, 1]  # the good ones were done already
    monkeypatch.setattr(cache, "decode_image", None)
    again = decode(found, 5, cache_dir=tmp_path / "cache", on_broken="skip")
    for images in (first, again):
        require_right(images, 5)
        assert len(images.catalogue) == len(images.catalogue.labels) == 17
        assert [file for file, _ in images.broken] == ["a/2.png", "b/0.png", "b/5.png"]
        kept = [found.files.index(file) for file in images.catalogue.files]
        np.testing.assert_array_equal(images.catalogue.split, found.split[kept])
        assert images.catalogue.read(2) == (root / "a" / "3.png").read_bytes()
    with pytest.raises(DataError, match="3 of 20 images"):
        decode(found, 5, cache_dir=tmp_path / "cache")


def test_more_than_ten_broken_images_are_counted(root, tmp_path):
    for path in root.glob("*/*.png"):
        path.write_bytes(b"?")
    with pytest.raises(DataError, match=r"(?s)20 of 20 images.*and 10 more"):
        decode(find("folder", root=str(root)), 5, cache_dir=tmp_path / "cache")
    with pytest.raises(DataError, match=r"nothing is left of train/a, train/b, validation, test"):
        decode(find("folder", root=str(root)), 5, cache_dir=tmp_path / "cache", on_broken="skip")


def test_damaged_array_is_made_again(root, tmp_path):
    found = find("folder", root=str(root))
    decode(found, 5, cache_dir=tmp_path / "cache")
    path = next((tmp_path / "cache").glob("*.npy"))
    path.write_bytes(path.read_bytes()[:500])
    require_right(decode(found, 5, cache_dir=tmp_path / "cache"), 5)
    next((tmp_path / "cache").glob("*.json")).write_text("{")
    require_right(decode(found, 5, cache_dir=tmp_path / "cache"), 5)


def decode_until_killed(root: Path, cache_dir: Path, aspect: str) -> None:
    """Two chunks of four are finished, and half of the third."""
    (killed,) = together([("-m", killed_decode.__name__, root, cache_dir, aspect)], devices=1, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr


def test_a_killed_process_is_taken_up_where_it_was(root, tmp_path):
    decode_until_killed(root, tmp_path / "cache", "squash")
    # Two chunks of four were marked; the array does not have its final name.
    assert all("partial" in path.name for path in (tmp_path / "cache").glob("*.npy"))
    finished: list[int] = []
    images = decode(find("folder", root=str(root)), 5, cache_dir=tmp_path / "cache", progress=finished.append)
    assert finished == [8] + [1] * 12
    require_right(images, 5)


def test_work_left_over_is_used_for_the_same_contents_only(root, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "CHUNK", 4)
    finished: list[int] = []

    def stop(count):
        finished.append(count)
        if len(finished) == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode(find("folder", root=str(root)), 5, cache_dir=tmp_path / "cache", progress=stop)
    content = (root / "a" / "3.png").read_bytes()
    (root / "a" / "3.png").write_bytes((root / "a" / "4.png").read_bytes())
    finished.clear()
    decode(find("folder", root=str(root)), 5, cache_dir=tmp_path / "cache", progress=finished.append)
    assert finished == [1] * 20
    (root / "a" / "3.png").write_bytes(content)
    finished.clear()
    require_right(decode(find("folder", root=str(root)), 5, cache_dir=tmp_path / "cache", progress=finished.append), 5)
    assert finished == [8] + [1] * 12


def test_of_two_at_once_one_waits_for_the_other(root, tmp_path):
    found = find("folder", root=str(root))
    second_finished: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        second: Future[cache.Images] | None = None

        def progress(count: int) -> None:
            nonlocal second
            if second is None:  # the first is in the middle of its work when the second starts, and gives it time
                second = pool.submit(decode, found, 5, cache_dir=tmp_path / "cache", progress=second_finished.append)
                time.sleep(0.3)

        first = decode(found, 5, cache_dir=tmp_path / "cache", progress=progress)
        require_right(first, 5)
        assert second is not None
        require_right(second.result(), 5)
    assert second_finished == []


def test_no_space(root, tmp_path, monkeypatch):
    found = find("folder", root=str(root))
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(DataError, match=r"needs 0.0 MB more in .*cache, which has 0.0 MB free.*config.data.cache_dir"):
        decode(found, 5, cache_dir=tmp_path / "cache")
    monkeypatch.undo()

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)  # somebody else filled the disk meanwhile
    with pytest.raises(DataError, match=r"cannot write the image cache in .*No space left on device"):
        decode(found, 5, cache_dir=tmp_path / "cache")
    monkeypatch.undo()
    require_right(decode(found, 5, cache_dir=tmp_path / "cache"), 5)


def test_cache_that_cannot_be_written(root, tmp_path, monkeypatch):
    found = find("folder", root=str(root))
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"cannot write the image cache in .*file/cache \(Not a directory\)"):
        decode(found, 5, cache_dir=tmp_path / "file" / "cache")

    def read_only(self, *args, **kwargs):  # chmod does not stop root, who runs the tests in containers
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", read_only)
        with pytest.raises(DataError, match=r"cannot write the image cache in .*\(Read-only file system\).*cache_dir"):
            decode(found, 5, cache_dir=tmp_path / "new")
    with monkeypatch.context() as patched:
        (tmp_path / "there").mkdir()
        patched.setattr(Path, "open", read_only)
        with pytest.raises(DataError, match=r"\(Read-only file system\).*--config.data.cache_dir"):
            decode(found, 5, cache_dir=tmp_path / "there")

    def no_locks(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(cache.fcntl, "flock", no_locks)
    with pytest.raises(DataError, match="no file locks on this file system"):
        decode(found, 5, cache_dir=tmp_path / "cache")


def test_settings_that_cannot_be(root, tmp_path):
    found = find("folder", root=str(root))
    with pytest.raises(DataError, match="on_broken is 'ignore', expected 'stop' or 'skip'"):
        decode(found, 5, cache_dir=tmp_path, on_broken="ignore")
    with pytest.raises(DataError, match=r"interpolation 'nearest' and .*bilinear, bicubic"):
        decode(found, 5, cache_dir=tmp_path, interpolation="nearest")
    with pytest.raises(DataError, match="size 0"):
        decode(found, 0, cache_dir=tmp_path)


def test_pixels_come_through_unchanged(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3), np.uint8)

    def read(i: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels[i]).save(file, "PNG")
        return file.getvalue()

    catalogue = Catalogue(
        name="made here/with a slash",
        files=tuple("abcdef"),
        labels=np.zeros(6, np.int32),
        split=np.array(["train"] * 6),
        class_names=("only",),
        licence="none",
        read=read,
        sizes=np.arange(6),
    )
    np.testing.assert_array_equal(decode(catalogue, 5, cache_dir=tmp_path / "~ ü").array, pixels)
    taken = dataclasses.replace(catalogue, name="taken").take(np.array([4, 1]))
    np.testing.assert_array_equal(decode(taken, 5, cache_dir=tmp_path).array, pixels[[4, 1]])


@pytest.fixture
def mixed(tmp_path) -> Path:
    """Images of one color each, wide, high, square and very long: class a (colors 0..9) and b (100..109)."""
    sides = [(6, 9), (9, 6), (7, 7), (30, 5), (12, 17)]
    for name, first in (("a", 0), ("b", 100)):
        (tmp_path / "mixed" / name).mkdir(parents=True)
        for i in range(10):
            pixels = np.full((*sides[i % 5], 3), first + i, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "mixed" / name / f"{i}.png")
    return tmp_path / "mixed"


# Of each of the five shapes at size 5: long side (5 * 9 // 6, ..., capped at 10, 5 * 17 // 12), wider than high.
LENGTHS, WIDE = np.array([7, 7, 5, 10, 7]), np.array([True, False, False, False, True])


def require_whole(images: cache.Images) -> None:
    """Every image whole: its color from start to end, nothing beyond, and as one strip."""
    colors = np.array(colours(images.catalogue))
    assert images.lengths is not None
    np.testing.assert_array_equal(images.lengths, LENGTHS[colors % 5])
    np.testing.assert_array_equal(images.transposed, WIDE[colors % 5])
    assert images.array.shape == (len(colors), 10, 5, 3)
    rows = np.arange(len(colors))[::-1]
    taken, strip = images.take(rows), images.strip(rows)
    assert images.nbytes(rows) == images.lengths.sum() * 5 * 3
    assert taken.pixels.shape == (len(colors), *images.shape)
    for n, row in enumerate(rows):
        length = images.lengths[row]
        expected = np.where(np.arange(images.shape[0]) < length, colors[row], 0)
        np.testing.assert_array_equal(taken.pixels[n], np.broadcast_to(expected[:, None, None], images.shape))
        assert (strip.pixels[strip.starts[n] : strip.starts[n] + length] == colors[row]).all()
    assert len(strip.pixels) == images.lengths.sum() + images.shape[0]
    for found in (taken, strip):
        np.testing.assert_array_equal(found.lengths, images.lengths[rows])
        np.testing.assert_array_equal(found.transposed, images.transposed[rows])


def test_images_that_keep_their_aspect(mixed, tmp_path, monkeypatch):
    found = find("folder", root=str(mixed))
    require_whole(decode(found, 5, aspect="keep", cache_dir=tmp_path / "cache"))
    monkeypatch.setattr(cache, "decode_image", None)
    require_whole(decode(found, 5, aspect="keep", cache_dir=tmp_path / "cache"))
    monkeypatch.undo()
    squares = decode(found, 5, cache_dir=tmp_path / "cache")
    require_right(squares, 5)
    assert squares.lengths is None
    assert squares.shape == (5, 5, 3)
    assert squares.nbytes(np.arange(4)) == 4 * 5 * 5 * 3


def test_broken_ones_among_images_that_keep_their_aspect(mixed, tmp_path):
    for name in ("a/3.png", "b/0.png"):  # a long one, whose place a short one takes
        (mixed / name).write_bytes(b"?")
    found = find("folder", root=str(mixed))
    with pytest.raises(DataError, match="2 of 20 images"):
        decode(found, 5, aspect="keep", cache_dir=tmp_path / "cache")
    for _ in range(2):
        images = decode(found, 5, aspect="keep", cache_dir=tmp_path / "cache", on_broken="skip")
        assert len(images.catalogue) == 18
        require_whole(images)


def test_a_killed_process_leaves_lengths_behind(mixed, tmp_path):
    decode_until_killed(mixed, tmp_path / "cache", "keep")
    finished: list[int] = []
    found = find("folder", root=str(mixed))
    images = decode(found, 5, aspect="keep", cache_dir=tmp_path / "cache", progress=finished.append)
    assert finished == [8] + [1] * 12
    require_whole(images)
