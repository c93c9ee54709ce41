"""One run in two processes: the numbers of one process, files written once, and errors instead of waiting for ever."""

import json
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from delta_jax import processes
from delta_jax.processes.cluster import ProcessError
from delta_jax.training import agreement
from delta_jax.workdir import logs
from tests.process_run import free_port, run_processes
from tests.small_run import config_flags, make_photos, run

# As in test_devices.py: nothing that makes the rounding of the last bit grow from step to step.
FROZEN = {"batch_norm": "frozen_stats", "learning_rate": 1e-3, "log_every": 1, "head_l2": (0.01,)}
FROZEN |= {"head_init": "l2_fe", "select": "wise_ft"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("processes") / "photos")


def flags(photos, name, **changed):
    """With a cache of its own: heads, gaps and pixels of another run are not to be found."""
    return config_flags(photos, **FROZEN, data__cache_dir=str(photos.parent / f"cache-{name}"), **changed)


@pytest.fixture(scope="module")
def two(photos):
    """Two processes with two devices each."""
    workdir = photos.parent / "two"
    finished = run_processes("train", *flags(photos, "two"), f"--workdir={workdir}")
    assert [one.returncode for one in finished] == [0, 0], finished
    return workdir, finished


@pytest.fixture(scope="module")
def one(photos):
    """One process with one device."""
    workdir = photos.parent / "one"
    finished = run("train", *flags(photos, "one"), f"--workdir={workdir}")
    assert finished.returncode == 0, finished.stderr
    return workdir


def assert_same_run(found, expected):
    records = [logs.read(folder) for folder in (found, expected)]
    steps = [[(record["phase"], record["step"]) for record in of_run] for of_run in records]
    assert steps[0] == steps[1]
    assert ("fine_tune", 8) in steps[0]
    for a, b in zip(*records, strict=True):
        for name in b.keys() - {"phase", "step", "time"}:
            # Squares of differences between nearly equal maps: fewer of their digits are right.
            close = pytest.approx(b[name], rel=1e-3 if name == "penalty" else 1e-5)
            assert a[name] == close, (b["phase"], b["step"], name)
    with np.load(found / "attention.npz") as a, np.load(expected / "attention.npz") as b:
        assert a.files == b.files
        for name in b:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=1e-5, err_msg=name)
    a, b = (json.loads((folder / "summary.json").read_text()) for folder in (found, expected))
    assert a.keys() == b.keys()
    assert a["confusion_matrix"] == b["confusion_matrix"]
    assert a["wise_ft"]["share"] == b["wise_ft"]["share"]
    for measured, truth in ((a, b), (a["l2_fe"], b["l2_fe"])):
        for split in ("test", "validation"):
            assert measured[split] == pytest.approx(truth[split], rel=1e-5)


def test_two_processes_give_the_numbers_of_one(two, one):
    assert_same_run(two[0], one)  # and test_devices.py: one process gives the same on one device and on four


def test_one_process_writes_and_speaks(two, one):
    workdir, (first, second) = two
    assert "test top-1" in first.stdout
    assert "workdir" not in second.stdout
    assert "images" not in second.stdout
    assert "Traceback" not in first.stderr + second.stderr
    assert len((workdir / "command.txt").read_text().splitlines()) == 1
    assert json.loads((workdir / "versions.json").read_text())["devices"].startswith("4 x")
    names = [{str(path.relative_to(folder)) for path in folder.iterdir()} for folder in (workdir, one)]
    assert names[0] == names[1]
    assert len(list((workdir / "tensorboard").iterdir())) == len(list((one / "tensorboard").iterdir()))


def test_two_processes_go_on_where_one_was_stopped(photos, one, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(one, workdir)
    shutil.rmtree(workdir / "checkpoints" / "8")
    for name in ("model.safetensors", "summary.json", "predictions.csv"):
        (workdir / name).unlink()
    finished = run_processes("train", *flags(photos, "resumed", data__on_device="no"), f"--workdir={workdir}")
    assert [each.returncode for each in finished] == [0, 0], finished
    assert "going on after step 4 of 8" in finished[0].stdout
    assert_same_run(workdir, one)


def test_evaluate_in_two_processes(two):
    workdir, _ = two
    first, second = run_processes("evaluate", f"--workdir={workdir}", "--split=validation", "--json")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    (found,) = [json.loads(line) for line in first.stdout.splitlines() if line.startswith("{")]
    assert found == pytest.approx(json.loads((workdir / "summary.json").read_text())["validation"], rel=1e-6)
    assert "{" not in second.stdout


def refused(photos, workdir, *own, **changed):
    """What both processes say when process 1 has flags of its own; it must not take long."""
    began = time.monotonic()
    common = [*flags(photos, "two", **changed), f"--workdir={workdir}"]
    finished = run_processes("train", *common, own=((), own), timeout=120)
    assert [one.returncode for one in finished] == [1, 1], finished
    assert time.monotonic() - began < 60
    assert not (workdir / "config.json").exists()
    for one in finished:
        assert one.stderr.count("error: ") == 1, one.stderr
        assert "Traceback" not in one.stderr
    return [one.stderr for one in finished]


def test_another_config_is_named_by_field(photos, tmp_path):
    for said in refused(photos, tmp_path / "run", "--config.learning_rate=0.5", "--config.steps=9"):
        assert "--config.learning_rate: 0.001 on process 0; 0.5 on process 1" in said
        assert "--config.steps: 8 on process 0; 9 on process 1" in said
        assert "batch_size" not in said


def test_one_photo_with_other_pixels_is_noticed(photos, tmp_path):
    roots = [tmp_path / name for name in ("first", "second")]
    for root, change in zip(roots, (0, 255), strict=True):
        shutil.copytree(photos, root)
        photo = root / "red" / "03.png"
        pixels = np.asarray(Image.open(photo)) ^ np.uint8(change)
        Image.fromarray(pixels).save(photo, compress_level=0)  # of the same size in bytes
    own = (f"--config.data.root={roots[1]}", f"--config.data.cache_dir={tmp_path / 'cache'}")
    for said in refused(photos, tmp_path / "run", *own, data__root=str(roots[0])):
        assert "contents and labels of the images: " in said


def test_a_process_without_the_data_tells_the_others(photos, tmp_path):
    missing = tmp_path / "nowhere"
    first, second = refused(photos, tmp_path / "run", f"--config.data.root={missing}")
    assert "error: process 1: " in first
    assert str(missing) in first
    assert str(missing) in second


def test_a_batch_that_does_not_divide_is_refused_by_all(photos, tmp_path):
    for said in refused(photos, tmp_path / "run", batch_size=6):
        assert "--config.batch_size=6 is not a multiple of the 4 devices; try 4" in said


@pytest.mark.parametrize("shared", [True, False])
def test_a_workdir_that_is_not_shared_is_refused(tmp_path, monkeypatch, shared):
    # This process is the second of two; the first has written its mark, on the same storage or on its own.
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "is_first", lambda: False)
    monkeypatch.setattr(processes, "from_first", lambda _: "mark")
    monkeypatch.setattr(processes, "gather", lambda said: ["", said])
    monkeypatch.setattr(agreement, "_SEEN_WITHIN_S", 0.0)
    if shared:
        (tmp_path / "mark").touch()
        agreement.on_workdir(tmp_path)
        return
    with pytest.raises(ProcessError, match="what process 0 writes there is not seen by process 1; several hosts need"):
        agreement.on_workdir(tmp_path)


def test_a_process_that_waits_alone_gives_up(photos, tmp_path):
    address = f"127.0.0.1:{free_port()}"
    alone = ("--processes=2", f"--coordinator={address}", "--join_timeout=1", f"--workdir={tmp_path}")
    finished = run("train", *flags(photos, "two"), *alone, "--process=1")
    assert finished.returncode == 1
    assert f"the first one cannot be reached at {address} (Connection refused)" in finished.stderr
    assert "Traceback" not in finished.stderr
