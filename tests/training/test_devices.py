"""The same numbers on one device and on four, and from images on the device and streamed."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from delta_jax.training import trainer
from delta_jax.workdir import logs
from tests.small_run import TRAIN_UNSEEN, config_flags, make_photos, run_python, small_config


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("devices") / "photos")


# With the statistics of the source: those of a batch amplify the rounding of the last bit. And with a head that has one
# clear optimum.
FROZEN = {"batch_norm": "frozen_stats", "learning_rate": 1e-3, "log_every": 1, "head_l2": (0.01,)}


@pytest.fixture(scope="module")
def four_devices(photos):
    workdir = photos.parent / "four"
    trainer.fit(small_config(photos, **FROZEN), workdir)
    return workdir


def one_device(photos, workdir, **changed):
    finished = run_python(*TRAIN_UNSEEN, *config_flags(photos, **changed), f"--workdir={workdir}")
    assert finished.returncode == 0, finished.stderr


def fine_tuning(one, four):
    """Pairs of records: on one device, on four."""
    devices = [json.loads((folder / "versions.json").read_text())["devices"] for folder in (one, four)]
    assert [text.split()[0] for text in devices] == ["1", "4"]
    found = [[record for record in logs.read(folder) if record["phase"] == "fine_tune"] for folder in (one, four)]
    assert [record["step"] for record in found[0]] == [record["step"] for record in found[1]]
    return zip(*found, strict=True)


def test_one_device_and_four_give_the_same_losses_and_attention(photos, four_devices):
    workdir = photos.parent / "one"
    one_device(photos, workdir, **FROZEN)
    for one, four in fine_tuning(workdir, four_devices):
        for name in ("loss", "cross_entropy", "head_penalty"):
            assert one[name] == pytest.approx(four[name], rel=1e-5), (one["step"], name)
        # Squares of differences between nearly equal maps: fewer of their digits are right.
        assert one["penalty"] == pytest.approx(four["penalty"], rel=1e-3)
    with np.load(workdir / "attention.npz") as a, np.load(four_devices / "attention.npz") as b:
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_batch_statistics_are_those_of_the_whole_batch_not_of_a_device(photos, tmp_path):
    fields = {"method": "delta_without_attention", "steps": 1}
    one_device(photos, tmp_path / "one", **fields)
    trainer.fit(small_config(photos, **fields), tmp_path / "four")
    ((one, four),) = fine_tuning(tmp_path / "one", tmp_path / "four")
    assert one["loss"] == pytest.approx(four["loss"], rel=1e-4)
    stats = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "four")]
    names = [name for name in stats[0] if name.startswith(("batch_stats/stem", "batch_stats/block_0"))]
    assert names
    for name in names:
        np.testing.assert_allclose(stats[0][name], stats[1][name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_streamed_images_give_the_same_parameters(photos, four_devices, tmp_path):
    trainer.fit(small_config(photos, **FROZEN, data__on_device="no"), tmp_path)
    held, streamed = (load_file(folder / "model.safetensors") for folder in (four_devices, tmp_path))
    assert held.keys() == streamed.keys()
    for name, array in held.items():
        np.testing.assert_array_equal(array, streamed[name], err_msg=name)
