"""A run whose host is gone, disk and all, goes on from its storage: the same bits as a run that nobody disturbed."""

import shutil
import signal
import time

import pytest
from safetensors.numpy import load_file

from delta_jax.workdir import logs
from tests.process_run import together
from tests.small_run import config_flags, make_photos, run, start

# One image per pass and many steps: time enough to be killed in the middle of either.
SLOW = {"attention_batch": 1, "steps": 40, "checkpoint_every": 5, "log_every": 2, "eval_every": 20}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("storage") / "photos")


@pytest.fixture(scope="module")
def undisturbed(photos):
    workdir = photos.parent / "undisturbed"
    finished = run("train", *config_flags(photos, **SLOW), f"--workdir={workdir}")
    assert finished.returncode == 0, finished.stderr
    return workdir


def kill_when(command, condition, said):
    """Starts the command and kills it as soon as `condition` holds; what it had written so far stays."""
    process = start(command, said)
    try:
        until = time.monotonic() + 200
        while not condition():
            assert process.poll() is None, (said / "stderr").read_text()
            assert time.monotonic() < until, "never came that far"
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL


def checkpoints(workdir):
    folder = workdir / "checkpoints"
    return [int(file.name) for file in folder.glob("*") if file.name.isdigit()]


def records(workdir):
    return [{name: value for name, value in record.items() if name != "time"} for record in logs.read(workdir)]


def test_a_run_that_lost_its_disk_goes_on_from_the_storage(photos, undisturbed, tmp_path, monkeypatch):
    """Killed with a checkpoint in the storage; all that its host had is gone; the same command ends the same."""
    host, bucket = tmp_path / "host", tmp_path / "bucket"
    monkeypatch.setenv("DELTA_JAX_CACHE", str(host))
    fields = config_flags(photos, **SLOW, data__cache_dir=str(host))
    # The command, with as many uploads between two checkpoints as in a run of hours.
    script = (
        "import runpy, time; from delta_jax.workdir import checkpoints, storage; "
        "storage.SECONDS_BETWEEN_UPLOADS = 0.05; "
        "save = checkpoints.Checkpoints.save; "
        "checkpoints.Checkpoints.save = lambda *given, **named: (save(*given, **named), time.sleep(0.5)); "
        "runpy.run_module('delta_jax.train', run_name='__main__')"
    )
    workdir = f"local://{bucket}"  # fsspec's name for folders, in place of gs://
    command = ["-c", script, *fields, f"--workdir={workdir}"]

    # Two of them: under the name of the newest there may be half a file, which a bucket would not show.
    kill_when(command, lambda: len([*bucket.glob("checkpoints/*/files.json")]) == 2, tmp_path)
    assert not (bucket / "model.safetensors").exists()
    assert (bucket / "attention.npz").exists()
    assert any((bucket / "gaps").glob("*/gaps.f32"))
    shutil.rmtree(host)

    (finished,) = together([command], devices=1, timeout=300)
    assert finished.returncode == 0, finished.stderr
    assert "going on after step" in finished.stdout
    expected, found = (load_file(folder / "model.safetensors") for folder in (undisturbed, bucket))
    for name, array in expected.items():
        assert array.tobytes() == found[name].tobytes(), name
    assert records(bucket) == records(undisturbed)
    assert (bucket / "predictions.csv").read_text() == (undisturbed / "predictions.csv").read_text()
    assert len((bucket / "command.txt").read_text().splitlines()) == 2
