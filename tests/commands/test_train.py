"""train, evaluate and predict, each as a user starts them."""

import csv
import json
import shutil

import numpy as np
import pytest

from tests.small_run import CLASSES, config_flags, make_photos, noise, run, run_afresh


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("command") / "photos")


@pytest.fixture(scope="module")
def trained(photos):
    workdir = photos.parent / "run"
    finished = run_afresh("train", *config_flags(photos), f"--workdir={workdir}")
    assert finished.returncode == 0, finished.stderr
    return workdir, finished


@pytest.fixture(scope="module")
def summary(trained):
    return json.loads((trained[0] / "summary.json").read_text())


def as_json(finished):
    assert finished.returncode == 0, finished.stderr
    return [json.loads(line) for line in finished.stdout.splitlines() if line.startswith("{")]


def test_train_ends_with_a_table_and_the_paths(trained, summary):
    workdir, finished = trained
    output = finished.stdout
    assert "Traceback" not in finished.stderr
    table = output[output.index("method  validation top-1") :].splitlines()
    for method in ("l2_fe", "delta"):
        row = next(line for line in table if line.startswith(f"{method} "))
        measured = summary if method == "delta" else summary["l2_fe"]
        assert f"{measured['validation']['top1']:.2%}  " in row
        assert f"{measured['test']['top1']:.2%}  " in row
    for name in ("summary.json", "predictions.csv", "curves.png", "filters.png"):
        assert str(workdir / name) in output
    assert "Licence of the images: your own images" in output
    command = (workdir / "command.txt").read_text()
    assert "-m delta_jax.train --config=configs/default.py" in command
    assert "--config.batch_size=8" in command


def test_evaluate_measures_what_the_summary_says(trained, summary):
    (found,) = as_json(run_afresh("evaluate", f"--workdir={trained[0]}", "--json"))
    assert found == pytest.approx(summary["test"], rel=1e-6)


def test_evaluate_with_ten_crops_on_the_validation_images(trained, summary):
    finished = run("evaluate", f"--workdir={trained[0]}", "--crops=10", "--split=validation")
    assert finished.returncode == 0, finished.stderr
    assert "validation, 10 crop(s)" in finished.stdout
    row = finished.stdout.splitlines()[-1].split()
    assert row[-1] == str(summary["validation"]["n"])
    # Other views, other probabilities: the one crop's cross-entropy comes out only if the ten were not used.
    assert float(row[2]) != pytest.approx(summary["validation"]["cross_entropy"], abs=5e-5)


def assert_predictions_are_the_same(workdir, photos):
    """Those of the command, and those that the run wrote for its test images."""
    with (workdir / "predictions.csv").open(newline="") as file:
        known = {str(photos / row["file"]): row for row in csv.DictReader(file)}
    found = {}
    for one in as_json(run("predict", f"--workdir={workdir}", photos, "--json", "--top=3")):
        found[one["file"]] = one
    assert len(found) == 72
    for file, row in known.items():
        one = found[file]
        assert one["class"] == row["predicted"]
        assert one["probability"] == max(one["probabilities"].values())
        assert list(one["probabilities"].values()) == sorted(one["probabilities"].values(), reverse=True)
        expected = [float(row[f"p({name})"]) for name in CLASSES]
        np.testing.assert_allclose([one["probabilities"][name] for name in CLASSES], expected, atol=1e-5)


def test_predict_agrees_with_the_predictions_of_the_run(trained, photos):
    assert_predictions_are_the_same(trained[0], photos)


def test_a_broken_photo_among_good_ones_is_named_and_the_others_are_classified(trained, tmp_path):
    rng = np.random.default_rng(1)
    noise("red", rng).save(tmp_path / "good.png")
    noise("blue", rng).convert("L").save(tmp_path / "grey.jpg")
    (tmp_path / "broken.png").write_bytes(b"no photo")
    (tmp_path / "phone.HEIC").write_bytes(b"of a kind that is not read")
    (tmp_path / "@eaDir").mkdir()
    shutil.copy(tmp_path / "good.png", tmp_path / "@eaDir" / "thumbnail.png")
    finished = run_afresh("predict", f"--workdir={trained[0]}", tmp_path / "good.png", tmp_path)
    assert finished.returncode == 1
    assert f"left out of {tmp_path}: 1 .heic, pictures that are not read" in finished.stderr
    assert f"{tmp_path / 'phone.HEIC'}: not read, save it as .jpg or .png" in finished.stderr
    assert "thumbnail.png" not in finished.stdout
    assert f"{tmp_path / 'broken.png'}: not one of JPEG, PNG" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert finished.stdout.count("good.png") == 2  # once by name, once in the folder
    assert finished.stdout.count("grey.jpg") == 1
    assert any(name in finished.stdout for name in CLASSES)


def test_a_damaged_model_is_refused_by_its_name(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    model = tmp_path / "run" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:1000])
    finished = run("predict", f"--workdir={tmp_path / 'run'}", tmp_path)
    assert finished.returncode == 1
    assert finished.stderr.startswith(f"error: {model} could not be read")


def test_train_again_with_another_seed_shows_what_differs(trained, photos):
    finished = run("train", *config_flags(photos, seed=5), f"--workdir={trained[0]}")
    assert finished.returncode == 1
    assert "seed: 0 there, 5 here" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_network_of_the_library_from_its_weights_to_a_prediction(photos, tmp_path):
    """What the defaults of the configs stand for; the other tests are of what is around the network."""
    chosen = {"arch": "efficientnet_lite0", "weights": "pip/efficientnet-lite0"}
    # The last of its default taps: little is behind it, so the exact attention takes seconds.
    fields = config_flags(photos, **chosen, taps=("head_conv",), alpha=None)
    finished = run("train", *fields, f"--workdir={tmp_path}")
    assert finished.returncode == 0, finished.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["arch"] == "efficientnet_lite0"
    assert summary["alpha"] > 0  # measured
    assert summary["l2_fe"]["test"]["top1"] > 0.9  # colours are learnt by the head alone
    assert_predictions_are_the_same(tmp_path, photos)
