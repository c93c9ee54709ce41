"""Distances of filters against loops and numbers worked out by hand; the figure by the place of its colours."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from delta_jax.analysis import drift


def params(rng):
    """A depthwise, a full and a 1x1 convolution, and what is none."""
    return {
        "layer1_0": {"conv1": {"kernel": rng.normal(size=(3, 3, 1, 4))}, "bn1": {"scale": rng.normal(size=4)}},
        "layer1_10": {"conv1": {"kernel": rng.normal(size=(3, 3, 4, 6)), "bias": rng.normal(size=6)}},
        "layer1_2": {"conv1": {"kernel": rng.normal(size=(1, 1, 6, 2))}},
        "fc": {"kernel": rng.normal(size=(2, 3))},
    }


def test_the_distance_of_every_filter_in_loops():
    rng = np.random.default_rng(0)
    source, trained = params(rng), params(rng)
    found = drift.filter_drift(source, trained)
    assert list(found) == ["layer1_0/conv1", "layer1_2/conv1", "layer1_10/conv1"]
    for name, distances in found.items():
        block, layer = name.split("/")
        before, after = (one[block][layer]["kernel"] for one in (source, trained))
        assert distances.shape == (before.shape[3],)
        for j, distance in enumerate(distances):
            vectors = zip(before[..., j].ravel().tolist(), after[..., j].ravel().tolist(), strict=True)
            assert distance == pytest.approx(math.sqrt(sum((a - b) ** 2 for a, b in vectors)))


def test_a_filter_that_moved_by_three_and_four_is_five_away():
    kernel = np.ones((1, 2, 1, 2), np.float32)
    moved = kernel.copy()
    moved[0, :, 0, 1] += [3, 4]
    found = drift.filter_drift({"conv": {"kernel": kernel}}, {"conv": {"kernel": moved}})
    np.testing.assert_array_equal(found["conv"], [0, 5])


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("conv1", "conv1"),
        ("layer3_22/conv2", "layer3"),
        ("layer3_0/downsample_conv", "layer3"),
        ("Mixed_6e/branch7x7_1/conv", "Mixed_6"),
        ("block_12/project_conv", "block_12"),
        ("stem_conv", "stem_conv"),
    ],
)
def test_the_stage_of_a_convolution(name, stage):
    assert drift.stages(["other_conv", name])[name] == stage
    # A network inside of another module has the same stages.
    assert drift.stages(["net/body/other_conv", f"net/body/{name}"])[f"net/body/{name}"] == stage


A = {"layer1_0/conv1": np.array([1.0, 5.0]), "layer1_1/conv1": np.array([3.0]), "layer2_0/conv1": np.array([2.0, 2.0])}
B = {"layer1_0/conv1": np.array([2.0, 4.0]), "layer1_1/conv1": np.array([2.0]), "layer2_0/conv1": np.array([1.0, 1.5])}


def test_stages_are_sorted_and_compared_filter_by_filter():
    found = drift.by_stage(A)
    np.testing.assert_array_equal(found["layer1"], [5, 3, 1])
    np.testing.assert_array_equal(found["layer2"], [2, 2])
    # 5 > 4, 3 > 2, 2 > 1 and 2 > 1.5 of five filters; 2 of 3 in layer1.
    assert drift.share_farther(A, B) == pytest.approx({"all": 4 / 5, "layer1": 2 / 3, "layer2": 1})
    assert drift.share_farther(A, A)["all"] == 0
    np.testing.assert_array_equal(drift.mean([A, B])["layer1_0/conv1"], [1.5, 4.5])


def test_what_is_written_is_read_with_four_digits(tmp_path):
    one = {"layer1_0/conv1": np.array([0.0123456, 0.0]), "stem_conv": np.array([123.456])}
    (tmp_path / drift.FILE).write_text(json.dumps(drift.record(one)))
    assert json.loads((tmp_path / drift.FILE).read_text())["layers"][0] == {
        "name": "layer1_0/conv1",
        "stage": "layer1",
        "distance": [0.01235, 0],
    }
    found = drift.read(tmp_path)
    np.testing.assert_array_equal(found["layer1_0/conv1"], [0.01235, 0])
    np.testing.assert_array_equal(found["stem_conv"], [123.5])


def test_networks_that_do_not_go_together(tmp_path):
    kernel = {"conv": {"kernel": np.zeros((1, 1, 2, 3))}}
    with pytest.raises(ValueError, match=r"different convolutions, such as \('conv', \(1, 1, 2, 3\)\)"):
        drift.filter_drift(kernel, {"conv": {"kernel": np.zeros((1, 1, 2, 4))}})
    with pytest.raises(ValueError, match="no convolutions"):
        drift.filter_drift({"fc": {"kernel": np.zeros((2, 3))}}, {"fc": {"kernel": np.zeros((2, 3))}})
    with pytest.raises(ValueError, match=r"two networks.*'layer2_0/conv1', \(2,\)"):
        drift.share_farther(A, {name: one for name, one in B.items() if name != "layer2_0/conv1"})
    with pytest.raises(ValueError, match="not for l2_fe"):
        drift.read(tmp_path)


def test_the_figure_shows_the_farther_method_above(tmp_path):
    names = [f"layer{stage}_{block}/conv1" for stage in (1, 2, 3, 4) for block in (0, 1)]
    far, near = ({"conv1": np.full(2, d), **{name: np.full(20, d) for name in names}} for d in (3.0, 1.0))
    drift.plot({"l2_sp": near, "delta": far}, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    # The first two colours of matplotlib's cycle.
    blue, orange = (np.argwhere((pixels == colour).all(-1)) for colour in ((31, 119, 180), (255, 127, 14)))
    for quarter in range(4):  # the four stages; the stem has no panel
        inside = [where[where[:, 1] * 4 // pixels.shape[1] == quarter][:, 0] for where in (blue, orange)]
        lines = [np.bincount(rows).argmax() for rows in inside]
        assert lines[1] < lines[0] - 50


def test_the_command_averages_seeds_and_compares_with_the_first(tmp_path, capsys):
    for number, (method, one) in enumerate([("l2_sp", B), ("delta", A), ("delta", A)]):
        workdir = tmp_path / str(number)
        workdir.mkdir()
        (workdir / "summary.json").write_text(json.dumps({"method": method}))
        (workdir / drift.FILE).write_text(json.dumps(drift.record(one)))
    drift.main([f"--out={tmp_path / 'a.png'}", *(str(tmp_path / str(n)) for n in range(3))])
    told = capsys.readouterr().out
    assert "2, 80.0%" in told  # the median of 1, 5, 3, 2, 2; 4 of 5 as above
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "1" / drift.FILE).unlink()
    with pytest.raises(SystemExit, match="is not there"):
        drift.main([str(tmp_path / "1")])
