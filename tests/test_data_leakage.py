"""The same bytes in two splits."""

import dataclasses

import numpy as np

from delta_jax.data import Catalogue, describe_leaks, find_leaks, kept_leaks, suspects

SPLIT = ["train"] * 4 + ["validation"] * 2 + ["test"] * 4 + ["unused"]
CONTENTS = [b"cat", b"cat", b"dogs", b"", b"cat", b"dogs", b"cow", b"cat", b"", b"horse", b"cat"]


def catalogue(contents=tuple(CONTENTS), read=None):
    n = len(contents)
    return Catalogue(
        name="animals",
        files=tuple(f"{i}.jpg" for i in range(n)),
        labels=np.arange(n, dtype=np.int32) % 2,
        split=np.array(SPLIT),
        class_names=("even", "odd"),
        licence="none",
        read=read or (lambda i: contents[i]),
        sizes=np.array([len(content) for content in contents]),
    )


def test_pairs_across_splits_by_hand():
    # Not 1 with 0, both for training; not the empty ones; not 10, which is not used; 7 is 0 though 4 is 0, too.
    assert find_leaks(catalogue()) == [(0, 4), (2, 5), (0, 7)]


def test_only_files_of_a_size_that_two_splits_have_are_read():
    read = []
    shown = []

    def reader(i):
        read.append(i)
        return CONTENTS[i]

    find_leaks(catalogue(read=reader), progress=shown.append)
    assert sorted(read) == suspects(catalogue()).tolist() == [0, 1, 2, 4, 5, 6, 7]  # not "horse", nor "" and unused
    assert shown == [7]


def test_what_cannot_be_read_is_left_to_decoding():
    def reader(i):
        if i == 4:
            raise PermissionError(13, "Permission denied")
        return CONTENTS[i]

    assert find_leaks(catalogue(read=reader)) == [(2, 5), (0, 7)]


def test_it_is_compared_once(tmp_path):
    def refuse(i):
        raise AssertionError("read again")

    assert kept_leaks(catalogue(), tmp_path) == [(0, 4), (2, 5), (0, 7)]
    assert kept_leaks(catalogue(read=refuse), tmp_path) == [(0, 4), (2, 5), (0, 7)]
    (kept,) = (tmp_path / "leaks").iterdir()
    kept.write_text("[[0,")  # as an interrupted copy of the cache leaves it
    assert kept_leaks(catalogue(), tmp_path) == [(0, 4), (2, 5), (0, 7)]
    other = catalogue()
    other.split[7] = "train"
    assert kept_leaks(other, tmp_path) == [(0, 4), (2, 5)]


def test_a_folder_that_cannot_be_written_does_not_stop_it(tmp_path):
    (tmp_path / "leaks").write_text("a file in the way")
    assert len(kept_leaks(catalogue(), tmp_path)) == 3


def test_the_warning_names_ten_pairs():
    text = describe_leaks(catalogue(), [(0, 4), (2, 5)])
    assert text.splitlines()[0].startswith("warning: 2 images have the same bytes as one of another split")
    assert text.splitlines()[1:] == [
        "  validation 4.jpg (even) is train 0.jpg (even)",
        "  validation 5.jpg (odd) is train 2.jpg (even)",
    ]
    lines = describe_leaks(catalogue(), [(0, 4)] * 13).splitlines()
    assert len(lines) == 12
    assert lines[-1] == "  and 3 more"
    assert describe_leaks(catalogue(), []) == ""


def test_more_images_than_are_compared_at_once():
    n = 600
    many = dataclasses.replace(
        catalogue(),
        files=tuple(map(str, range(n))),
        labels=np.zeros(n, np.int32),
        split=np.repeat(["train", "test"], n // 2),
        sizes=np.full(n, 4),
        read=lambda i: b"%04d" % (i % (n // 2)),  # every test image is a training image
    )
    shown = []
    assert find_leaks(many, progress=shown.append) == [(i, i + 300) for i in range(300)]
    assert sum(shown) == n
    assert len(shown) > 1
