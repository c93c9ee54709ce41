"""Summaries against Python's statistics module and textbook formulas; the picture by the place of its colours."""

import io
import math
import statistics

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from delta_jax.analysis.attentions import plot, summarize, table
from delta_jax.workdir import logs

TAPS = {"block_2/project_conv": 24, "block_14/project_conv": 320, "head_conv": 1280}


def random_attention(taps=None, images=10):
    rng = np.random.default_rng(0)
    gaps, weights = {}, {}
    for tap, filters in (taps or TAPS).items():
        gaps[tap] = rng.normal(rng.normal(0, 1e-3, filters), 2e-3, (images, filters)).astype(np.float32)
        weights[tap] = rng.dirichlet(np.full(filters, 4.0)).astype(np.float32)
    return gaps, weights


def summary_of(gaps):
    filters = np.shape(gaps)[1]
    (one,) = summarize({"tap": np.asarray(gaps, np.float32)}, {"tap": np.full(filters, 1 / filters, np.float32)})
    return one


def test_a_small_attention_worked_out_with_the_standard_library():
    # 5 images, 4 filters; powers of two, so that float32 holds them exactly
    columns = [
        [0.5, 0.25, 1.0, 0.75, 0.5],
        [-0.25, -0.5, 0.125, -0.125, -0.25],
        [0.0, 0.0, 0.0, 0.0, 0.0],  # a dead filter
        [2.0, -1.0, 4.0, 0.25, -0.5],
    ]
    weights = [0.125, 0.0, 0.25, 0.625]
    (one,) = summarize({"tap": np.array(columns, np.float32).T}, {"tap": np.array(weights, np.float32)})
    means = [statistics.mean(column) for column in columns]  # 0.6, -0.2, 0, 0.95
    errors = [statistics.stdev(column) / math.sqrt(5) for column in columns]
    assert (one.tap, one.filters, one.images) == ("tap", 4, 5)
    assert one.spread == pytest.approx(statistics.pstdev(means))
    assert one.standard_error == pytest.approx(statistics.median(errors))
    assert one.negative == 0.25  # the second alone: a dead filter is not negative
    assert one.effective_filters == pytest.approx(math.exp(-sum(w * math.log(w) for w in weights if w)))
    assert (one.smallest, one.largest) == (0, 4 * 0.625)
    assert [best.filter for best in one.top] == [3, 0, 2, 1]
    assert [best.gap for best in one.top] == pytest.approx([means[j] for j in (3, 0, 2, 1)])
    assert [best.standard_error for best in one.top] == pytest.approx([errors[j] for j in (3, 0, 2, 1)])
    # Rows 0, 2, 4: means 2/3, -1/8, 0, 11/6, ranks 3 1 2 4. Rows 1, 3: 0.5, -0.3125, 0, -0.375, ranks 4 2 3 1.
    # Spearman: 1 - 6 (1 + 1 + 1 + 9) / (4 (16 - 1)) = -0.2
    assert one.reliability == pytest.approx(-0.2)


def test_summaries_come_per_tap_with_the_eight_best_filters():
    gaps, weights = random_attention()
    for one, (tap, filters) in zip(summarize(gaps, weights), TAPS.items(), strict=True):
        assert (one.tap, one.filters, one.images) == (tap, filters, 10)
        means = [statistics.fmean(column) for column in gaps[tap].T.tolist()]
        assert [best.filter for best in one.top] == sorted(range(filters), key=lambda j: -means[j])[:8]


def test_every_second_image_makes_a_half():
    # Even rows rank the filters one way, odd rows the other: -1. The first and the last rows together agree: 1.
    rising = [1.0, 2.0, 3.0, 4.0]
    assert summary_of([rising, rising[::-1]] * 3).reliability == pytest.approx(-1)
    assert summary_of([rising] * 4).reliability == pytest.approx(1)


def test_uniform_weights_use_every_filter_and_a_single_one_uses_one():
    gaps = {"uniform": np.zeros((4, 6), np.float32), "single": np.zeros((4, 6), np.float32)}
    uniform, single = summarize(gaps, {"uniform": np.full(6, 1 / 6), "single": np.eye(6)[2]})
    assert uniform.effective_filters == pytest.approx(6)
    assert (uniform.smallest, uniform.largest) == pytest.approx((1, 1))
    assert single.effective_filters == pytest.approx(1)
    assert (single.smallest, single.largest) == (0, 6)


def test_a_tap_with_more_than_its_share_has_no_more_filters_for_it():
    # Where the filters of all taps compete, a tap's weights sum to more or less than 1.
    weights = np.array([0.5, 0.25, 0.25])
    gaps = np.zeros((4, 3), np.float32)
    much, little = summarize({"much": gaps, "little": gaps}, {"much": 1.5 * weights, "little": 0.5 * weights})
    assert much.effective_filters == pytest.approx(2**1.5)  # entropy 0.5 * 1 + 2 * 0.25 * 2 = 1.5 bits
    assert little.effective_filters == pytest.approx(2**1.5)
    assert (much.largest, little.largest) == pytest.approx((2.25, 0.75))


@pytest.mark.parametrize(
    "gaps",
    [
        np.arange(12.0).reshape(3, 4),  # three images: a half of one
        np.arange(10.0).reshape(5, 2),  # two filters: any order is perfect or its opposite
        np.zeros((6, 4)),  # all dead: nothing to rank
        np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]] * 2),
    ],
    ids=["images", "filters", "dead", "half dead"],
)
def test_no_reliability_without_something_to_rank(gaps):
    one = summary_of(gaps)
    assert math.isnan(one.reliability)
    assert not math.isnan(one.standard_error)


def test_one_image_has_no_standard_error():
    one = summary_of([[1.0, 2.0, 3.0]])
    assert math.isnan(one.standard_error)
    assert math.isnan(one.top[0].standard_error)
    assert one.top[0][:2] == (2, 3.0)


@pytest.mark.parametrize("function", [summarize, lambda gaps, weights: plot(gaps, weights, "never.png")])
@pytest.mark.parametrize(
    ("gaps", "weights", "says"),
    [
        ({}, {}, "expected the same taps"),
        ({"a": np.ones((2, 3))}, {"b": np.ones(3)}, r"\['a'\] and weights of \['b'\]"),
        ({"a": np.ones(3)}, {"a": np.ones(3)}, r"a: gaps of shape \(3,\), expected \(images, filters\)"),
        ({"a": np.ones((0, 3))}, {"a": np.ones(3)}, r"a: gaps of shape \(0, 3\)"),
        ({"a": np.ones((2, 3))}, {"a": np.ones((2, 3))}, r"weights of shape \(2, 3\), expected \(3,\).*averaged"),
    ],
)
def test_what_does_not_go_together_is_refused(function, gaps, weights, says):
    with pytest.raises(ValueError, match=says):
        function(gaps, weights)


def test_the_table_holds_the_numbers(capsys):
    gaps, weights = random_attention()
    summaries = summarize(gaps, weights)
    table(summaries)
    output = capsys.readouterr().out
    assert "measured on 10 images" in output
    assert max(map(len, output.splitlines())) <= 100
    for one in summaries:
        first, second, third = (line for line in output.splitlines() if line.startswith(f"{one.tap} "))
        shown = first.split()[1:]
        assert shown[0] == f"{one.filters:,}"
        assert float(shown[1]) == pytest.approx(one.spread, rel=0.05)
        assert float(shown[2]) == pytest.approx(one.standard_error, rel=0.05)
        assert shown[3:] == [f"{100 * one.negative:.0f}%", f"{one.reliability:.2f}"]
        assert f"{one.effective_filters:,.0f} of {one.filters:,}" in second
        assert f"{one.smallest:.3g} to {one.largest:.3g}" in second
        assert ", ".join(str(best.filter) for best in one.top) in third
        assert f"{one.top[0].gap:.2g} ± " in third


def test_the_table_of_little_shows_what_is_unknown_as_a_dash(capsys):
    table([summary_of([[1.0, 2.0, 3.0]])])
    output = capsys.readouterr().out
    assert "nan" not in output
    assert "-      0%        -" in output


def test_the_table_fits_a_narrow_terminal(monkeypatch):
    screen = io.StringIO()
    monkeypatch.delenv("CI", raising=False)
    console = Console(file=screen, force_terminal=True, width=80, color_system=None, _environ={})
    monkeypatch.setattr(logs, "_console", console)
    gaps, weights = random_attention({"block_12/project_conv": 1280})
    table(summarize(gaps, weights))
    assert "…" not in screen.getvalue()  # nothing is cut off
    assert max(map(len, screen.getvalue().splitlines())) <= 80


def colours(path):
    """Where matplotlib's first two colours are: rows and columns of the blue and of the orange lines' pixels."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    lines = (31, 119, 180), (255, 127, 14)
    return pixels.shape, *(np.argwhere(np.abs(pixels - line).max(axis=-1) <= 8) for line in lines)


def test_the_picture_shows_gaps_on_the_left_and_weights_on_the_right_falling(tmp_path):
    gaps, weights = random_attention()
    plot(gaps, weights, tmp_path / "a.png")
    plot(gaps, weights, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    (height, width, _), blue, orange = colours(tmp_path / "a.png")
    assert (width, height) == (1210, round((3 * 2.3 + 0.7) * 110))
    assert blue[:, 1].max() < width / 2 < orange[:, 1].min()
    for line in (blue, orange):
        top = line[line[:, 0] < height / 3]  # the row of the first tap
        left, right = top[top[:, 1].argmin()], top[top[:, 1].argmax()]
        assert right[1] - left[1] > width / 4
        assert right[0] - left[0] > 100  # downwards: the largest come first


@pytest.mark.parametrize(
    ("gaps", "weights"),
    [
        (np.array([[0.5, -0.5, 0.25]]), np.array([0.5, 0.2, 0.3])),  # one image: no band
        (np.zeros((4, 16)), np.full(16, 1 / 16)),  # dead: flat lines
        (np.ones((4, 1)), np.ones(1)),  # one filter
    ],
    ids=["one image", "dead", "one filter"],
)
def test_the_picture_of_little(tmp_path, gaps, weights):
    plot({"a $ or _ is no formula": gaps}, {"a $ or _ is no formula": weights}, tmp_path / "a.png")
    shape, _, _ = colours(tmp_path / "a.png")
    assert shape == (330, 1210, 3)
