"""What a run leaves for pages: the choice of photos by hand, files and numbers of a run on small photos."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from delta_jax.training import gallery, trainer
from tests.small_network import FILTERS
from tests.small_run import TAPS, make_photos, small_config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Workdirs of delta, and of a head alone."""
    photos = make_photos(tmp_path_factory.mktemp("gallery") / "photos")
    for method in ("delta", "l2_fe"):
        config = small_config(photos, method=method, steps=2, eval_every=0, checkpoint_every=2, attention_images=8)
        trainer.fit(config, photos.parent / method)
    return {method: photos.parent / method for method in ("delta", "l2_fe")}


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


@pytest.mark.parametrize("method", ["delta", "l2_fe"])
def test_the_gallery_tells_what_the_predictions_say(runs, method):
    workdir = runs[method]
    found, predicted = content(workdir), predictions(workdir)
    assert len(found["photos"]) == 6
    assert {photo["true"] for photo in found["photos"]} == {"blue", "green", "red"}
    wrong = [row for row in predicted.values() if row["true"] != row["predicted"]]
    assert len(found["mistakes"]) == min(len(wrong), 12)
    for one in [*found["photos"], *found["mistakes"]]:
        row = predicted[one["name"]]
        assert (one["true"], one["predicted"]) == (row["true"], row["predicted"])
        assert one["probability"] == pytest.approx(float(row[f"p({row['predicted']})"]), abs=1e-4)
    for photo in found["photos"]:
        assert [maps["tap"] for maps in photo["maps"]] == list(TAPS)
        for file in [photo["photo"], *(maps[kind] for maps in photo["maps"] for kind in ("source", "trained"))]:
            with Image.open(workdir / "gallery" / file) as image:
                assert (image.format, image.size) == ("JPEG", (160, 160))


def test_methods_show_the_same_photos_over_the_same_source(runs):
    galleries = [content(runs[method])["photos"] for method in ("delta", "l2_fe")]
    for delta, head in zip(*galleries, strict=True):
        assert (delta["name"], delta["photo"]) == (head["name"], head["photo"])
        for of_delta, of_head in zip(delta["maps"], head["maps"], strict=True):
            pictures = [
                (runs[method] / "gallery" / maps[kind]).read_bytes()
                for method, maps in (("delta", of_delta), ("l2_fe", of_head))
                for kind in ("source", "trained")
            ]
            # delta's source, l2_fe's source and l2_fe's end are one network; delta has moved.
            assert pictures[0] == pictures[2] == pictures[3] != pictures[1]


def test_the_drift_is_that_of_the_stored_parameters(runs):
    assert not (runs["l2_fe"] / "drift.json").exists()
    layers = json.loads((runs["delta"] / "drift.json").read_text())["layers"]
    source = load_file(runs["delta"].parent / "small_network.safetensors")
    trained = load_file(runs["delta"] / "model.safetensors")
    kernels = [name for name, array in trained.items() if name.endswith("/kernel") and array.ndim == 4]
    assert {layer["name"] for layer in layers} == {
        name.removeprefix("params/").removesuffix("/kernel") for name in kernels
    }
    for layer in layers:
        name = f"params/{layer['name']}/kernel"
        change = trained[name].astype(np.float64) - source[name]
        expected = [np.sqrt((change[..., j] ** 2).sum()) for j in range(change.shape[-1])]
        np.testing.assert_allclose(layer["distance"], expected, rtol=1e-3, atol=1e-9)
        assert max(layer["distance"]) > 0


def test_the_profile_is_of_the_stored_attention(runs):
    assert not (runs["l2_fe"] / "attention_profile.json").exists()
    taps = json.loads((runs["delta"] / "attention_profile.json").read_text())["taps"]
    with np.load(runs["delta"] / "attention.npz") as file:
        for one, (tap, filters) in zip(taps, FILTERS.items(), strict=True):
            expected = sorted((filters * file[f"weight/{tap}"]).tolist(), reverse=True)
            assert one["name"] == tap
            np.testing.assert_allclose(one["scaled"], expected, rtol=1e-3)
            assert np.mean(one["scaled"]) == pytest.approx(1, rel=1e-3)
