"""What goes wrong on real machines, each followed by the same command again: the end is that of an undisturbed run."""

import re
import shutil
import signal

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.disturbed import (
    SLOW,
    Run,
    assert_same_end,
    attention_rows,
    checkpoints,
    records,
    steps_recorded,
    two_processes,
)
from tests.small_run import TRAIN_UNSEEN, config_flags, make_photos

STEPS = 80


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("faults") / "photos")


@pytest.fixture(scope="module")
def undisturbed(photos):
    """The workdir of a finished run."""
    run = Run(photos.parent / "undisturbed", config_flags(photos, **SLOW, steps=STEPS))
    assert run.end() == 0, run.output
    return run.workdir


@pytest.fixture(scope="module")
def flags(photos):
    """Of a run with a cache of its own: in the other run's, head and attention are found already."""
    return config_flags(photos, **SLOW, steps=STEPS, data__cache_dir=str(photos.parent / "cache"))


@pytest.fixture(scope="module")
def stopped(photos, flags):
    """The workdir of a run that was killed and stopped in every phase; the last third of its steps is left."""
    workdir, cache = photos.parent / "run", photos.parent / "cache"

    def rows():
        return attention_rows(cache)

    def newest():
        return max(checkpoints(workdir), default=0)

    run = Run(workdir, flags).wait_until(lambda: rows() > 0)
    assert run.stop(signal.SIGKILL) == -signal.SIGKILL
    killed = rows()
    assert 0 < killed < 40

    run = Run(workdir, flags).wait_until(lambda: rows() > killed)
    assert run.stop(signal.SIGINT) == 130, run.output
    done = int(re.search(r"stopped by SIGINT after (\d+) of 40 images of the attention; the same", run.output)[1])
    assert killed < done == rows() < 40
    assert "Traceback" not in run.output
    assert not (workdir / "attention.npz").exists()

    run = Run(workdir, flags).wait_until(lambda: newest() == 20)
    assert run.stop(signal.SIGKILL) == -signal.SIGKILL
    assert newest() == 20

    run = Run(workdir, flags).wait_until(lambda: steps_recorded(workdir) >= 45)
    run.process.send_signal(signal.SIGSTOP)  # it holds its workdir for as long as it takes another one to come
    second = Run(workdir, flags)
    assert second.end() == 1, second.output
    assert second.output.splitlines()[-1].startswith(f"error: another run is working in {workdir}; wait for it")
    run.process.send_signal(signal.SIGTERM)
    assert run.stop(signal.SIGCONT) == 143, run.output
    step = int(re.search(r"stopped by SIGTERM after step (\d+) of 80; the same command", run.output)[1])
    assert "Traceback" not in run.output
    assert checkpoints(workdir) == [40, step]
    assert 40 < step < STEPS
    return workdir


@pytest.fixture
def again(stopped, flags, tmp_path):
    """Starts the command of the stopped run, in a copy of its workdir."""

    def start(**how):
        return Run(tmp_path / "run", flags, **how)

    shutil.copytree(stopped, tmp_path / "run")
    start.workdir = tmp_path / "run"
    return start


def ends(run, *says):
    assert run.end() == 0, run.output
    for text in says:
        assert text in run.output
    return run.workdir


def test_a_truncated_checkpoint_is_passed_over(undisturbed, again):
    newest = again.workdir / "checkpoints" / str(checkpoints(again.workdir)[-1])
    file = max((newest / "state").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    damaged = f"checkpoint {newest.name} in {newest.parent} is damaged (state/"
    assert_same_end(ends(again(), damaged, "trying the one before", "going on after step 40 of 80"), undisturbed)


def assert_nearly_same_end(workdir, expected):
    """On another number of devices: but for rounding."""
    found, parameters = (load_file(folder / "model.safetensors") for folder in (workdir, expected))
    assert found.keys() == parameters.keys()
    for name, array in parameters.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5, err_msg=name)
    for one, other in zip(records(workdir), records(expected), strict=True):
        assert (one["phase"], one["step"]) == (other["phase"], other["step"])
        if one["phase"] == "fine_tune":
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_stopped_in_every_phase_and_then_on_a_full_disk_a_run_ends_like_one_left_alone(undisturbed, again):
    before = checkpoints(again.workdir)
    # No file above 20 KiB: as a full disk, for the process that saves, and no test needs to be root for it.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20 * 1024, 20 * 1024)); "
    run = again(program=("-c", limit + TRAIN_UNSEEN[1]))
    assert run.end() == 1, run.output
    (error,) = [line for line in run.output.splitlines() if line.startswith("error: ")]
    due = (before[-1] // 20 + 1) * 20
    assert re.match(rf"error: checkpoint {due} in .* could not be written, those before it are untouched: ", error)
    assert checkpoints(again.workdir) == before
    assert_same_end(ends(again(), f"going on after step {before[-1]} of 80"), undisturbed)
    assert len((again.workdir / "command.txt").read_text().splitlines()) == 6  # of those that worked in it


def test_a_run_goes_on_with_other_numbers_of_devices_and_without_a_checkpoint_that_was_deleted(undisturbed, again):
    before, newest = checkpoints(again.workdir)
    shutil.rmtree(again.workdir / "checkpoints" / str(newest))
    run = again(devices=4)
    run.wait_until(lambda: f"going on after step {before} of 80" in run.output)
    assert run.stop(signal.SIGUSR1) == 138, run.output
    after = checkpoints(again.workdir)[-1]
    assert before < after < STEPS
    workdir = ends(again(devices=2), f"going on after step {after} of 80")
    assert_nearly_same_end(workdir, undisturbed)


def test_one_of_two_processes_is_stopped_and_one_is_killed(undisturbed, stopped, flags, tmp_path):
    workdir = tmp_path / "run"
    # With the attention that one process measured, at step 0.
    shutil.copytree(stopped, workdir, ignore=shutil.ignore_patterns("checkpoints", "metrics.jsonl", "output*"))

    both = two_processes(workdir, flags)
    both[0].wait_until(lambda: steps_recorded(workdir) >= 10)
    both[1].process.send_signal(signal.SIGTERM)  # the other process is not told
    assert [run.end() for run in both] == [143, 143], both[0].output + both[1].output
    (step,) = checkpoints(workdir)
    for run in both:
        assert f"stopped by SIGTERM after step {step} of 80; the same command" in run.output
    assert 10 < step < 60

    both = two_processes(workdir, flags)
    both[0].wait_until(lambda: max(checkpoints(workdir)) > step)
    assert both[1].stop(signal.SIGKILL) == -signal.SIGKILL
    assert both[0].end() != 0
    newest = max(checkpoints(workdir))
    assert newest < STEPS

    both = two_processes(workdir, flags)
    assert [run.end() for run in both] == [0, 0], both[0].output + both[1].output
    assert f"going on after step {newest} of 80" in both[0].output
    assert_nearly_same_end(workdir, undisturbed)
