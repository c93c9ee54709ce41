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


@pytest.fixture(scope="module")
def four_devices(photos):
    workdir = photos.parent / "four"
    trainer.fit(small_config(photos), workdir)
    return workdir


def test_one_device_and_four_give_the_same_losses(photos, four_devices):
    workdir = photos.parent / "one"
    finished = run("train", *config_flags(photos), f"--workdir={workdir}")
    assert finished.returncode == 0, finished.stderr
    devices = [json.loads((folder / "versions.json").read_text())["devices"] for folder in (workdir, four_devices)]
    assert [text.split()[0] for text in devices] == ["1", "4"]

    one, four = logs.read(workdir), logs.read(four_devices)
    assert [record["step"] for record in one] == [record["step"] for record in four]
    for a, b in zip(one, four, strict=True):
        for name in ("loss", "cross_entropy", "penalty", "head_penalty"):
            assert a.get(name) == pytest.approx(b.get(name), rel=1e-5), (a["step"], name)
    with np.load(workdir / "attention.npz") as a, np.load(four_devices / "attention.npz") as b:
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_streamed_images_give_the_same_parameters(photos, four_devices, tmp_path):
    trainer.fit(small_config(photos, data__on_device="no"), tmp_path)
    held, streamed = (load_file(folder / "model.safetensors") for folder in (four_devices, tmp_path))
    for name, array in held.items():
        np.testing.assert_array_equal(array, streamed[name], err_msg=name)
