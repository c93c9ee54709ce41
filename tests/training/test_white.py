"""The value that shows white in 16-bit photos, from the config to training, evaluation and prediction."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from delta_jax import data
from delta_jax.training import classifier, report
from delta_jax.training import config as configs
from delta_jax.training.classifier import Classifier
from delta_jax.training.setup import Setup
from tests import small_network
from tests.exports.test_export import SEEN, encoded, finished
from tests.small_run import small_config, weights_of

LARGEST = 619


@pytest.fixture(scope="module")
def dim(tmp_path_factory):
    """Photos of a 10-bit camera in files of 16 bits, in two classes of 12; one reaches LARGEST."""
    root, rng = tmp_path_factory.mktemp("dim") / "photos", np.random.default_rng(0)
    for name, low in (("high", 300), ("low", 20)):
        (root / name).mkdir(parents=True)
        for i in range(12):
            values = rng.integers(low, low + 300, (40, 40)).astype("<u2")
            values[0, 0] = LARGEST if (name, i) == ("high", 7) else values[0, 0]
            Image.fromarray(values).save(root / name / f"{i:02}.png")
    small_network.save_weights(weights_of(root))
    return root


def setup(root, **changed):
    return Setup(configs.resolve(small_config(root, batch_size=4, **changed)))


def test_a_run_on_dim_photos_stops_before_anything_slow(dim):
    with pytest.raises(
        data.DataError, match=rf"^24 pictures of 16 bits.*up to {LARGEST}, expected.*data.white.*1023 or"
    ):
        setup(dim)
    with pytest.raises(configs.ConfigError, match=r"--config.data.white=0: expected 1 or more"):
        setup(dim, data__white=0)


def test_all_that_a_run_looks_at_is_shown_by_its_white(dim, capfd):
    found = setup(dim, data__white=1023)
    assert found.preprocessing.white == 1023
    row = found.images.catalogue.files.index("high/07.png")
    values = np.asarray(Image.open(dim / "high" / "07.png")).astype(int)
    expected = np.floor(values * 255 / 1023 + 0.5)
    np.testing.assert_array_equal(found.images.take(np.array([row]))[0, ..., 0], expected)
    other = setup(dim, data__white=600)
    assert "of 24 pictures of more than 8 bits a sample hold values outside of 0..600" in capfd.readouterr().out
    # Neither the images nor what was measured on them is that of another white.
    assert other.images.digest != found.images.digest
    # On other images the white of the network stays.
    elsewhere = data.find_other(str(dim), found.catalogue.class_names, "test")
    resolved = configs.resolve(small_config(dim, batch_size=4))
    assert Setup(resolved, images=elsewhere, trains=False).preprocessing.white is None
    assert f"warning: 24 pictures of 16 bits a sample hold values up to {LARGEST}" in capfd.readouterr().out


def test_photos_of_few_levels_are_said(tmp_path, capfd):
    root = tmp_path / "photos"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for i in range(12):
            levels = np.random.default_rng(i).integers(0, 16, (40, 40), dtype=np.uint8)
            Image.fromarray(levels).save(root / name / f"{i:02}.png")
    small_network.save_weights(weights_of(root))
    found = setup(root, data__white=15)
    report.announce(found, tmp_path)
    assert "--config.data.white=15 has no effect: no image has more than 8 bits" in capfd.readouterr().out
    assert found.images.brightest() == 15
    assert "warning: no pixel of all images is above 15 of 255, so they are nearly black" in capfd.readouterr().out


def test_predict_shows_photos_as_the_run_did_and_says_what_it_leaves_out(tmp_path):
    trained = Classifier(finished(tmp_path / "run", "resnet18", dataclasses.replace(SEEN, white=1023)))
    assert trained.preprocessing.white == 1023
    values = np.full((72, 72), 500, "<u2")
    photo = tmp_path / "photo.png"
    photo.write_bytes(encoded(Image.fromarray(values)))
    assert (trained.decode(photo) == 125).all()  # 255 * 500 / 1023 = 124.6
    assert trained.remark(photo) == ""
    values[0, 0] = 2000
    photo.write_bytes(encoded(Image.fromarray(values)))
    assert trained.remark(photo) == "values from 500 to 2000, clipped to 0..1023"
    pages = [Image.fromarray(values)] * 3
    photo.write_bytes(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    assert trained.remark(photo).startswith("the first of 3 pages or frames, values from")


def test_classifiers_of_before_see_what_they_were_trained_on(tmp_path):
    workdir = finished(tmp_path / "run", "resnet18")
    facts = json.loads((workdir / classifier.FACTS).read_text())
    assert facts["preprocessing"].pop("white", 0) is None
    trained, photo = Classifier(workdir), tmp_path / "photo.png"
    photo.write_bytes(encoded(Image.fromarray(np.full((72, 72), 4095, "<u2"))))
    assert trained.preprocessing.white is None
    assert trained.remark(photo) == "values up to 4095 of 65535, which are nearly black"
    # Their files have no such key, and what had 12 bits was shown as of 16.
    (workdir / classifier.FACTS).write_text(json.dumps(facts))
    assert Classifier(workdir).preprocessing.white == 65535
