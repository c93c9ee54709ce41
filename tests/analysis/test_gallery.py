"""What a run leaves for pages: the choice of photos by hand, files and numbers of runs on small photos."""

import csv
import json

import jax
import numpy as np
import pytest
from PIL import Image

from delta_jax.analysis import gallery
from delta_jax.training import attention_pass, report
from delta_jax.training import config as configs
from delta_jax.training.setup import Setup
from tests.small_network import FILTERS
from tests.small_run import CLASSES, TAPS, fit_and_show, make_photos, small_config


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("gallery") / "photos")


@pytest.fixture(scope="module")
def head(photos):
    """Workdir of a run that trains a head alone, as `fit` leaves it."""
    fit_and_show(small_config(photos, method="l2_fe", head_l2=(0.01,)), photos.parent / "l2_fe")
    return photos.parent / "l2_fe"


@pytest.fixture(scope="module")
def delta(photos):
    """What is written for a network that a run of delta might have ended with: (workdir, setup, network)."""
    setup, workdir = Setup(configs.resolve(small_config(photos))), photos.parent / "delta"
    workdir.mkdir()
    rng = np.random.default_rng(0)
    trained = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32), setup.source)
    weights = {tap: rng.dirichlet(np.ones(filters), 40).astype(np.float32) for tap, filters in FILTERS.items()}
    attention_pass.save(workdir / "attention.npz", weights, weights)
    probabilities = rng.dirichlet(np.ones(3), len(setup.test)).astype(np.float32)
    report.write_predictions(workdir / "predictions.csv", setup, probabilities)
    gallery.write(setup, workdir, setup.source, trained, probabilities)
    return workdir, setup, trained


def content(workdir):
    return json.loads((workdir / "gallery" / "gallery.json").read_text())


def predictions(workdir):
    with (workdir / "predictions.csv").open(newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def test_photos_are_of_classes_evenly_spread():
    # Ten classes of two images, the later class first: image 2 * (9 - k) is the first of class k.
    labels = np.repeat(np.arange(10)[::-1], 2)
    # Classes 0, 1.8, 3.6, 5.4, 7.2 and 9, rounded.
    np.testing.assert_array_equal(gallery.representatives(labels, 6), [2 * (9 - k) for k in (9, 7, 5, 4, 2, 0)])


def test_few_classes_have_several_photos():
    # Classes 0 and 2 alone; of class 2 images 1, 3, 4, of class 0 images 0, 2, 5.
    labels = np.array([0, 2, 0, 2, 2, 0])
    np.testing.assert_array_equal(gallery.representatives(labels, 4), [0, 1, 2, 3])
    np.testing.assert_array_equal(gallery.representatives(labels, 5), [0, 1, 2, 3, 5])  # the third of class 0
    np.testing.assert_array_equal(gallery.representatives(labels, 9), np.arange(6))


def test_the_taps_shown_are_one_in_the_middle_and_the_last():
    assert gallery.shown_taps(["a"]) == ("a",)
    assert gallery.shown_taps(["a", "b"]) == ("a", "b")
    assert gallery.shown_taps(["a", "b", "c", "d"]) == ("b", "d")


@pytest.mark.parametrize("run", ["delta", "head"])
def test_the_gallery_tells_what_the_predictions_say(run, delta, head):
    workdir = delta[0] if run == "delta" else head
    found, predicted = content(workdir), predictions(workdir)
    assert len(found["photos"]) == 6
    assert {photo["true"] for photo in found["photos"]} == set(CLASSES)
    for one in [*found["photos"], *found["mistakes"]]:
        row = predicted[one["name"]]
        assert (one["true"], one["predicted"]) == (row["true"], row["predicted"])
        assert one["probability"] == pytest.approx(float(row[f"p({row['predicted']})"]), abs=1e-4)
    for photo in found["photos"]:
        assert [maps["tap"] for maps in photo["maps"]] == list(TAPS)
        for file in [photo["photo"], *(maps[kind] for maps in photo["maps"] for kind in ("source", "trained"))]:
            with Image.open(workdir / "gallery" / file) as image:
                assert (image.format, image.size) == ("JPEG", (160, 160))


def test_mistakes_are_the_most_confident_ones(delta, photos):
    workdir, _, _ = delta
    wrong = [row for row in predictions(workdir).values() if row["true"] != row["predicted"]]
    sure = sorted((max(float(row[f"p({name})"]) for name in CLASSES) for row in wrong), reverse=True)
    found = content(workdir)["mistakes"]
    assert len(found) == min(len(wrong), 12) > 3
    assert [one["probability"] for one in found] == pytest.approx(sure[:12], abs=1e-4)
    with Image.open(workdir / "gallery" / found[0]["photo"]) as image, Image.open(photos / found[0]["name"]) as photo:
        assert image.size == (128, 128)
        shown = np.asarray(image.convert("RGB")).mean((0, 1))
        # The middle 32 of 40 pixels that the photo becomes.
        seen = np.asarray(photo.resize((40, 40), Image.Resampling.BILINEAR))[4:36, 4:36].mean((0, 1))
    np.testing.assert_allclose(shown, seen, atol=3)


def test_methods_show_the_same_photos_over_the_same_source(delta, head):
    moved = same = 0
    for of_delta, of_head in zip(*(content(workdir)["photos"] for workdir in (delta[0], head)), strict=True):
        assert (of_delta["name"], of_delta["photo"]) == (of_head["name"], of_head["photo"])
        for maps in of_head["maps"]:
            shown = [(delta[0] / "gallery" / maps[kind]).read_bytes() for kind in ("source", "trained")]
            shown += [(head / "gallery" / maps[kind]).read_bytes() for kind in ("source", "trained")]
            # delta's source, l2_fe's source and l2_fe's end are one network; delta's end is another.
            same += shown[0] == shown[2] == shown[3]
            moved += shown[0] != shown[1]
    assert same == moved == 12


def test_the_drift_is_that_of_the_parameters(delta, head):
    workdir, setup, trained = delta
    layers = json.loads((workdir / "drift.json").read_text())["layers"]
    assert {(layer["name"], layer["stage"]) for layer in layers} == {
        *(("stem_conv", "stem_conv"), ("block_0/depthwise_conv", "block_0"), ("block_0/project_conv", "block_0")),
        *(("block_1/conv", "block_1"), ("block_1/around_conv", "block_1")),
    }
    for layer in layers:
        before, after = setup.source["params"], trained["params"]
        for name in layer["name"].split("/"):
            before, after = before[name], after[name]
        change = np.asarray(after["kernel"], np.float64) - np.asarray(before["kernel"])
        expected = [np.sqrt((change[..., j] ** 2).sum()) for j in range(change.shape[-1])]
        np.testing.assert_allclose(layer["distance"], expected, rtol=1e-3)
    assert not (head / "drift.json").exists()


def test_the_profile_is_the_mean_over_the_images(delta, head):
    workdir, _, _ = delta
    taps = json.loads((workdir / "attention_profile.json").read_text())["taps"]
    with np.load(workdir / "attention.npz") as file:
        for one, (tap, filters) in zip(taps, FILTERS.items(), strict=True):
            expected = sorted((filters * file[f"weight/{tap}"].mean(0)).tolist(), reverse=True)
            assert one["name"] == tap
            np.testing.assert_allclose(one["scaled"], expected, rtol=1e-3)
    assert not (head / "attention_profile.json").exists()
