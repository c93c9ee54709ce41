"""The same numbers on one device and on four, and from images on the device and streamed."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from delta_jax.training import logs, trainer
from tests.small_run import config_flags, make_photos, run, small_config


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("devices") / "photos")


# With the statistics of the source: those of a batch, over the 8 values that 32 pixels leave of a channel in the last
# layers, amplify the rounding of the last bit tenfold in every step. One step on larger images is compared instead.
FROZEN = {"batch_norm": "frozen_stats", "learning_rate": 1e-3, "log_every": 1}
ONE_STEP = {"method": "l2", "steps": 1, "data__resize": 72, "data__crop": 64}


@pytest.fixture(scope="module")
def four_devices(photos):
    workdir = photos.parent / "four"
    trainer.fit(small_config(photos, **FROZEN), workdir)
    return workdir


def one_device(photos, workdir, **changed):
    finished = run("train", *config_flags(photos, **changed), f"--workdir={workdir}")
    assert finished.returncode == 0, finished.stderr


def assert_same_losses(one, four):
    devices = [json.loads((folder / "versions.json").read_text())["devices"] for folder in (one, four)]
    assert [text.split()[0] for text in devices] == ["1", "4"]
    one, four = ([record for record in logs.read(folder) if record["phase"] == "fine_tune"] for folder in (one, four))
    assert [record["step"] for record in one] == [record["step"] for record in four]
    for a, b in zip(one, four, strict=True):
        for name in ("loss", "cross_entropy", "head_penalty"):
            assert a[name] == pytest.approx(b[name], rel=1e-5), (a["step"], name)
        # Squares of differences between nearly equal maps: fewer of their digits are right.
        assert a["penalty"] == pytest.approx(b["penalty"], rel=1e-3)


def test_one_device_and_four_give_the_same_losses_and_attention(photos, four_devices):
    workdir = photos.parent / "one"
    one_device(photos, workdir, **FROZEN)
    assert_same_losses(workdir, four_devices)
    with np.load(workdir / "attention.npz") as a, np.load(four_devices / "attention.npz") as b:
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_batch_statistics_are_those_of_the_whole_batch_not_of_a_device(photos, tmp_path):
    one_device(photos, tmp_path / "one", **ONE_STEP)
    trainer.fit(small_config(photos, **ONE_STEP), tmp_path / "four")
    assert_same_losses(tmp_path / "one", tmp_path / "four")
    one, four = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "four"))
    for name in one:
        if name.startswith(("batch_stats/stem", "batch_stats/block_0", "batch_stats/block_1/")):
            np.testing.assert_allclose(one[name], four[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_streamed_images_give_the_same_parameters(photos, four_devices, tmp_path):
    trainer.fit(small_config(photos, **FROZEN, data__on_device="no"), tmp_path)
    held, streamed = (load_file(folder / "model.safetensors") for folder in (four_devices, tmp_path))
    assert held.keys() == streamed.keys()
    for name, array in held.items():
        np.testing.assert_array_equal(array, streamed[name], err_msg=name)
