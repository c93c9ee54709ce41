"""Runs that patience ends: which steps they make, and that stopping them changes nothing of it."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from delta_jax import processes
from delta_jax.training import config as configs
from delta_jax.training import course, trainer, watch
from delta_jax.training.course import Course
from delta_jax.training.watch import Watch
from delta_jax.workdir import logs
from tests.small_run import make_photos, small_config

TRAINED = {"method": "l2", "head_init": "zeros", "schedule": "step", "eval_every": 2, "checkpoint_every": 3}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("patience") / "photos")


@pytest.fixture(autouse=True)
def _no_look_is_an_improvement(monkeypatch):
    monkeypatch.setattr(course, "without_improvement", lambda looks: len(looks) - 1)


@pytest.fixture(scope="module")
def ended(photos):
    """A run of 30 steps: looks after 2, 4 and 6 steps, decay from 6 to 9, where the rate is constant."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(course, "without_improvement", lambda looks: len(looks) - 1)
        workdir = photos.parent / "ended"
        trainer.fit(small_config(photos, **TRAINED, steps=30, patience=2), workdir)
    return workdir


def parameters(workdir):
    return {name: array.tobytes() for name, array in load_file(workdir / "model.safetensors").items()}


def records(workdir):
    return [{name: value for name, value in record.items() if name != "time"} for record in logs.read(workdir)]


def end_of(workdir):
    return parameters(workdir), records(workdir), json.loads((workdir / "summary.json").read_text())["convergence"]


def test_a_step_schedule_ends_as_the_run_of_fewer_steps(photos, ended, tmp_path):
    shorter = trainer.fit(small_config(photos, **TRAINED, steps=9), tmp_path).summary
    assert parameters(ended) == parameters(tmp_path)
    assert records(ended) == records(tmp_path)
    summary = json.loads((ended / "summary.json").read_text())
    assert summary["steps"] == shorter["steps"] == 9
    assert summary["test"] == shorter["test"]
    rates = [record["learning_rate"] for record in records(ended) if record["phase"] == "fine_tune"]
    assert rates == pytest.approx([0.01, 0.01, 0.01, 0.01, 0.001, 0.001])  # of 2, 3, 4, 6, 8, 9
    assert summary["convergence"]["said"].endswith("; ended by --config.patience after 9 of 30 steps")
    with np.load(ended / watch.FILE) as looks:
        assert looks["steps"].tolist() == [2, 4, 6, 8, 9]
        told = [record["cross_entropy"] for record in records(ended) if record["phase"] == "validation"]
        np.testing.assert_allclose(looks["losses"].mean(axis=1), told, rtol=1e-6)
        top1 = [record["top1"] for record in records(ended) if record["phase"] == "validation"]
        np.testing.assert_allclose(looks["right"].mean(axis=1), top1)


@pytest.mark.parametrize("newest", [0, 6])
def test_a_run_that_was_killed_ends_the_same(photos, ended, tmp_path, newest):
    workdir = tmp_path / "run"
    shutil.copytree(ended, workdir)  # looks and records of later steps than the checkpoint are there, as after a kill
    for folder in (workdir / "checkpoints").iterdir():
        if int(folder.name) > newest:
            shutil.rmtree(folder)
    for name in ("model.safetensors", "summary.json", "fine_tune.json"):
        (workdir / name).unlink()
    trainer.fit(small_config(photos, **TRAINED, steps=30, patience=2), workdir)
    assert end_of(workdir) == end_of(ended)


def test_patience_needs_looks_and_images_to_look_at(photos, tmp_path):
    with pytest.raises(
        configs.ConfigError, match="eval_every=0: expected 1 or more, for looks that patience can count"
    ):
        configs.resolve(small_config(photos, patience=2, eval_every=0))
    with pytest.raises(configs.ConfigError, match="patience=-1: expected 0 or more"):
        configs.resolve(small_config(photos, patience=-1))
    for fraction, images in ((0.0, 0), (1 / 6, 9)):
        config = small_config(photos, patience=2, data__validation_fraction=fraction)
        with pytest.raises(configs.ConfigError, match=f"there are {images} validation images, expected 10 or more"):
            trainer.fit(config, tmp_path)


def test_the_other_processes_are_told(tmp_path, monkeypatch):
    said = []
    whole = Course(np.where(np.arange(30) < 20, 1, 0.1).astype(np.float32))
    first, other = Watch(whole, tmp_path, patience=1), Watch(whole, tmp_path / "nowhere", patience=1)

    def as_first(do):
        monkeypatch.setattr(processes, "from_first", lambda text: said.append(text) or text)
        do()

    def as_other(do):
        monkeypatch.setattr(processes, "is_first", lambda: False)
        monkeypatch.setattr(processes, "from_first", lambda _: said.pop(0))
        do()
        monkeypatch.undo()
        monkeypatch.setattr(course, "without_improvement", lambda looks: len(looks) - 1)

    for step in (5, 10):
        as_first(lambda step=step: first.look(step, np.ones(10), np.ones(10, bool)))
        as_other(lambda step=step: other.look(step, np.zeros(10), np.zeros(10, bool)))  # its own numbers do not count
        assert len(first.course.rates) == len(other.course.rates) == {5: 30, 10: 15}[step]
    again = [Watch(whole, tmp_path, patience=1), Watch(whole, tmp_path / "nowhere", patience=1)]
    as_first(lambda: again[0].go_on(12))
    as_other(lambda: again[1].go_on(12))
    for one in again:
        np.testing.assert_array_equal(one.course.rates, first.course.rates)
    assert not (tmp_path / "nowhere").exists()


def test_what_is_left_of_a_damaged_file_is_said(tmp_path, capsys):
    (tmp_path / watch.FILE).write_bytes(b"PK\3\4 half of it")
    found = Watch(Course(np.ones(9, np.float32)), tmp_path, patience=1)
    found.go_on(5)
    assert found.verdict(stretches=False) is None
    assert "cannot be read" in capsys.readouterr().out
