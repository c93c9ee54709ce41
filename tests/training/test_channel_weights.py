"""The published code's JSON of channel weights; its files are lists of lists of Python floats, as written out here."""

import json
import re

import numpy as np
import pytest

from delta_jax.training import channel_weights
from delta_jax.training.attention_pass import Normalization
from delta_jax.training.config import ConfigError

CHANNELS = {"layer1_2/conv3": 3, "layer2_3/conv3": 2}


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "channel_wei.json"
        path.write_text(text)
        return path

    return write


def test_lists_become_taps_in_their_order(file):
    gaps = channel_weights.read(file("[[-2.884e-09, 0.0, 1], [0.25, -1.3452864462329495e-05]]"), CHANNELS)
    assert list(gaps) == list(CHANNELS)
    assert {gap.dtype for gap in gaps.values()} == {np.dtype(np.float64)}
    np.testing.assert_array_equal(gaps["layer1_2/conv3"], [-2.884e-09, 0, 1])
    np.testing.assert_array_equal(gaps["layer2_3/conv3"], [0.25, -1.3452864462329495e-05])


@pytest.mark.parametrize("offset", [0.0, 0.25])
def test_weights_from_a_file_are_those_of_the_published_code(file, offset):
    # Written down from its lines, (js - np.mean(js)) / np.std(js) and F.softmax of the float32 z-scores over 5, run
    # with torch 2.14.1 on a CPU, whose float32 softmax is itself within 2 units of the last place. With z-scores in
    # float32 the second case is off by 80.
    gaps = [-2.884e-09, 3.1e-06, -1.3452864462329495e-05, 0.00021, 1.1e-05, -7.7e-07]
    expected = [
        0.14909709990024567,
        0.15027888119220734,
        0.1440809667110443,
        0.2544064223766327,
        0.15333019196987152,
        0.1488063484430313,
    ]
    read = channel_weights.read(file(json.dumps([[offset + gap for gap in gaps]])), {"tap": 6})
    found = Normalization("standardized_softmax", 5.0)(read)["tap"]
    assert found.dtype == np.float32
    np.testing.assert_array_max_ulp(found, np.array(expected, np.float32), maxulp=2)
    z = (np.array(gaps) - np.mean(gaps)) / np.std(gaps)
    if not offset:
        np.testing.assert_array_equal(found, (np.exp(z / 5) / np.exp(z / 5).sum()).astype(np.float32))


def test_float32_comes_back_to_the_bit(tmp_path):
    # Every kind of float32: any bits but those of NaN and infinity, the smallest, the largest, minus zero.
    bits = np.random.default_rng(0).integers(0, 2**32, 4000, dtype=np.uint32).view(np.float32)
    limits = np.finfo(np.float32)
    edges = np.array([limits.smallest_subnormal, limits.tiny, limits.max, limits.min, -0.0], np.float32)
    gaps = {"b": np.concatenate([bits[np.isfinite(bits)], edges]), "a": np.array([0.1], np.float32)}
    path = tmp_path / "gaps.json"
    channel_weights.write(path, gaps)
    found = channel_weights.read(path, {tap: len(gap) for tap, gap in gaps.items()})
    assert list(found) == ["b", "a"]
    for tap, gap in gaps.items():
        np.testing.assert_array_equal(found[tap].astype(np.float32).view(np.uint32), gap.view(np.uint32))
    assert [len(one) for one in json.loads(path.read_text())] == [len(gap) for gap in gaps.values()]


def test_a_write_that_fails_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "gaps.json"
    channel_weights.write(path, {"a": np.zeros(2)})
    before = path.read_text()

    def full(self, *_, **__):
        self.write_bytes(b"[[1.0")  # as far as there is room
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        channel_weights.write(path, {"a": np.ones(2)})
    monkeypatch.undo()
    assert path.read_text() == before
    channel_weights.write(path, {"a": np.ones(2)})
    assert json.loads(path.read_text()) == [[1.0, 1.0]]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ("is not JSON", "line 1 column 1")),
        ("[[1, 2, 3], [4,", ("is not JSON", "expected a list of gaps per tap")),
        ("[" * 100_000, ("is not JSON",)),
        ('{"layer1_2/conv3": [1, 2, 3]}', ("holds a dict", "list of lists of numbers")),
        ("[1, 2, 3]", ("holds a list of int", "list of lists of numbers")),
        ("[[1, 2, 3], null]", ("holds a list of NoneType and list",)),
        ("[[1, 2, 3]]", ("of 1 taps (3 filters)", "expected 2: layer1_2/conv3, layer2_3/conv3", "--config.taps")),
        ("[[1], [1, 2], [1, 2, 3]]", ("of 3 taps (1, 2, 3 filters)", "expected 2")),
        (
            "[[1, 2], [1, 2, 3]]",
            ("2 gaps for tap 1, layer1_2/conv3; expected 3", "Its taps have 2, 3 filters", "--config.taps 3, 2"),
        ),
        ("[[1, 2, 3], []]", ("0 gaps for tap 2, layer2_3/conv3; expected 2",)),
        ('[[1, "2", 3], [1, 2]]', ("tap 1, layer1_2/conv3: the gap of filter 1 is '2'; expected a finite number",)),
        ("[[1, 2, 3], [1, [2]]]", ("tap 2, layer2_3/conv3: the gap of filter 1 is [2];",)),
        ("[[1, 2, true], [1, 2]]", ("filter 2 is True",)),
        ("[[NaN, 2, 3], [1, 2]]", ("filter 0 is nan",)),
        ("[[1, 2, 3], [1, -Infinity]]", ("tap 2, layer2_3/conv3: the gap of filter 1 is -inf",)),
        ("[[1, 2, 3], [1, 1e300]]", ("filter 1 is 1e+300",)),  # no float32
        (f"[[1, 2, 3], [1, 1{'0' * 400}]]", ("filter 1 is 1000", "expected a finite number")),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_a_file_of_other_content_is_refused_in_one_line(file, text, parts):
    path = file(text)
    with pytest.raises(ConfigError, match=re.escape(str(path))) as caught:
        channel_weights.read(path, CHANNELS)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 200


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.json does not exist"):
        channel_weights.read(tmp_path / "nothing.json", CHANNELS)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(ConfigError, match=r"picture\.png is not JSON"):
        channel_weights.read(tmp_path / "picture.png", CHANNELS)


@pytest.mark.parametrize(
    ("gap", "says"),
    [
        (np.array([0.0, np.nan], np.float32), "layer1: the gap of filter 1 is nan"),
        (np.array([np.inf, 0.0], np.float32), "layer1: the gap of filter 0 is inf"),
        (np.ones((4, 2), np.float32), r"layer1: gaps of shape \(4, 2\), expected one per filter"),
    ],
)
def test_gaps_that_cannot_be_written_are_refused_and_leave_no_file(tmp_path, gap, says):
    with pytest.raises(ConfigError, match=says):
        channel_weights.write(tmp_path / "gaps.json", {"layer1": gap})
    assert not list(tmp_path.iterdir())
