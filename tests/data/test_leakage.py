"""The same bytes in two splits, or under two labels."""

import numpy as np

from delta_jax.data import (
    Catalogue,
    describe_contradictions,
    describe_leaks,
    find_contradictions,
    find_leaks,
    identified,
)

SPLIT = ["train"] * 4 + ["validation"] * 2 + ["test"] * 4 + ["unused"]
CONTENTS = [b"cat", b"cat", b"dogs", b"", b"cat", b"dogs", b"cow", b"cat", b"", b"horse", b"cat"]


def catalogue(contents=tuple(CONTENTS), read=None):
    n = len(contents)
    found = Catalogue(
        name="animals",
        files=tuple(f"{i}.jpg" for i in range(n)),
        labels=np.arange(n, dtype=np.int32) % 2,
        split=np.array(SPLIT),
        class_names=("even", "odd"),
        licence="none",
        read=read or (lambda i: contents[i]),
        sizes=np.array([len(content) for content in contents]),
    )
    return identified(found, "no folder is needed for what are no files")


def test_pairs_across_splits_by_hand():
    # Not 1 with 0, both for training; not the empty ones; not 10, which is not used; 7 is 0 though 4 is 0, too.
    assert find_leaks(catalogue()) == [(0, 4), (2, 5), (0, 7)]


def test_what_cannot_be_read_is_left_to_decoding():
    def reader(i):
        if i in (4, 2, 5):
            raise PermissionError(13, "Permission denied")
        return CONTENTS[i]

    assert find_leaks(catalogue(read=reader)) == [(0, 7)]


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


def test_the_same_bytes_under_two_labels_by_hand():
    found = catalogue()
    # "cat" is 0 (even), 1 (odd, the same split), 4, 7 (odd) and 10; "dogs" 2 (even) and 5; not the empty ones, 3 and 8.
    assert find_contradictions(found.contents, found.labels) == [(0, 1), (2, 5), (0, 7)]
    text = describe_contradictions(found, [(0, 1)] * 12)
    assert text.splitlines()[0].startswith("warning: 12 images have the same bytes as another one and another label")
    assert text.splitlines()[1] == "  train 1.jpg (odd) is train 0.jpg (even)"
    assert text.splitlines()[-1] == "  and 2 more"
    assert describe_contradictions(found, []) == ""
