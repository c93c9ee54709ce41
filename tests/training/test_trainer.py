"""The whole loop on a folder of small photos: every method, the files it leaves, and what they hold."""

import csv
import json
import shutil

import numpy as np
import pytest

from delta_jax.data import cache
from delta_jax.training import config as configs
from delta_jax.training import (
    fine_tune_phase,
    head_phase,
    stored_config,
    trainer,
)
from delta_jax.workdir import logs
from delta_jax.workdir.checkpoints import Checkpoints
from tests.small_run import CLASSES, STEPS, TAPS, fit_and_show, make_photos, small_config

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("trainer") / "photos")


@pytest.fixture(scope="module")
def run(photos):
    """A finished run of delta as the published code does it, and what `fit` returned."""
    workdir = photos.parent / "run"
    return workdir, fit_and_show(small_config(photos), workdir)


@pytest.fixture
def go_on(run, photos, tmp_path):
    """Another config from where the head is done: copies what does not depend on method and preset."""

    def fit(**changed):
        for name in ("head.safetensors", "head.json"):
            shutil.copy(run[0] / name, tmp_path)
        return trainer.fit(small_config(photos, steps=4, eval_every=2, **changed), tmp_path).summary

    return fit


def read_csv(workdir):
    with (workdir / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_summary_has_the_fields_that_others_read(run):
    workdir, returned = run
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary == returned
    assert summary["method"] == "delta"
    assert summary["seed"] == 0
    assert summary["steps"] == summary["selected_step"] == STEPS
    assert summary["images_per_second"] > 0
    assert set(summary["seconds"]) == {"head", "attention", "fine_tune", "evaluate"}
    assert all(seconds > 0 for seconds in summary["seconds"].values())
    # 24 photos per class: a quarter is tested on, a quarter of the rest validated on (14 of 54, rounded per class).
    for split, n in (("test", 18), ("validation", 14)):
        for measured in (summary[split], summary["l2_fe"][split]):
            assert measured["n"] == n
            assert 0 <= measured["top1"] <= 1
            assert 0 <= measured["balanced_accuracy"] <= 1
    gain = summary["test"]["top1"] - summary["l2_fe"]["test"]["top1"]
    assert summary["gain"]["top1"]["difference"] == pytest.approx(gain)
    assert "with the head alone" in summary["gain"]["said"]


def test_colours_are_learnt_by_the_head_alone(run):
    assert run[1]["l2_fe"]["test"]["top1"] > 0.9


def test_the_predictions_add_up_to_the_summary(run, photos):
    workdir, summary = run
    rows = read_csv(workdir)
    assert list(rows[0]) == ["file", "true", "predicted", *(f"p({name})" for name in CLASSES)]
    assert len({row["file"] for row in rows}) == len(rows) == 18
    likelihoods = []
    for row in rows:
        assert row["file"].split("/")[0] == row["true"]
        assert (photos / row["file"]).is_file()
        probabilities = {name: float(row[f"p({name})"]) for name in CLASSES}
        assert sum(probabilities.values()) == pytest.approx(1, abs=3e-6)
        assert row["predicted"] == max(CLASSES, key=lambda name: probabilities[name])
        likelihoods.append(probabilities[row["true"]])
    hits = {name: [row["predicted"] == name for row in rows if row["true"] == name] for name in CLASSES}
    assert summary["test"]["top1"] == pytest.approx(sum(map(sum, hits.values())) / 18)
    assert summary["test"]["balanced_accuracy"] == pytest.approx(np.mean([np.mean(hit) for hit in hits.values()]))
    assert summary["test"]["cross_entropy"] == pytest.approx(-np.log(likelihoods).mean(), rel=1e-4)


def test_the_metrics_tell_of_every_step(run):
    workdir, summary = run
    records = logs.read(workdir)
    steps = [record for record in records if record["phase"] == "fine_tune"]
    assert [record["step"] for record in steps] == [2, 4, 6, 8]
    for record in steps:
        total = record["cross_entropy"] + summary["alpha"] * record["penalty"] + 0.01 * record["head_penalty"]
        assert record["loss"] == pytest.approx(total, rel=1e-5)
    # Every epoch of 40 / 8 = 5 steps the rate is 0.93 times that before; the record of step n tells of the n-th step.
    assert [record["learning_rate"] for record in steps] == pytest.approx([0.01, 0.01, 0.0093, 0.0093])
    assert steps[-1]["loss"] < steps[0]["loss"]
    looks = [record for record in records if record["phase"] == "validation"]
    assert [record["step"] for record in looks] == [4, 8]
    assert looks[-1]["top1"] == summary["validation"]["top1"]


def test_pictures_tensorboard_versions_and_the_command_are_there(run):
    workdir, _ = run
    for name in ("curves.png", "filters.png"):
        assert (workdir / name).read_bytes().startswith(PNG)
    assert (workdir / "report.html").read_text().startswith("<!doctype html>")
    assert any(file.stat().st_size > 500 for file in (workdir / "tensorboard").glob("events.out.tfevents.*"))
    versions = json.loads((workdir / "versions.json").read_text())
    assert {"jax", "flax", "delta_jax"} <= set(versions["packages"])
    assert versions["devices"].startswith("4 x")
    assert (workdir / "command.txt").read_text().startswith("python")
    assert stored_config.read(workdir).taps == TAPS
    assert list(workdir.rglob("*.tmp*")) == []


def test_a_finished_run_started_again_only_evaluates(run, photos, monkeypatch):
    workdir, summary = run

    def never(*_, **__):
        raise AssertionError("this phase is on disk")

    monkeypatch.setattr(fine_tune_phase, "fine_tune", never)
    monkeypatch.setattr(trainer.head_phase, "train", never)
    monkeypatch.setattr(trainer.attention_phase, "measure", never)
    again = trainer.fit(small_config(photos), workdir).summary
    for seconds in (summary["seconds"], again["seconds"]):
        assert seconds.pop("evaluate") > 0
    assert again == summary


def test_another_config_in_the_same_workdir_is_refused(run, photos):
    with pytest.raises(configs.ConfigError, match="seed: 0 there, 1 here"):
        trainer.fit(small_config(photos, seed=1), run[0])


def test_two_runs_in_one_workdir_are_refused(photos, tmp_path):
    with trainer._alone(tmp_path), pytest.raises(configs.ConfigError, match="another run is working in"):
        trainer.fit(small_config(photos), tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_the_split_is_that_of_the_predictions(run):
    with (run[0] / "split.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows if row["split"] == "test"] == [row["file"] for row in read_csv(run[0])]
    assert [sum(row["split"] == split for row in rows) for split in ("train", "validation", "test")] == [40, 14, 18]


def test_a_run_goes_on_with_its_images_wherever_they_are(run, photos, tmp_path, monkeypatch):
    shutil.copytree(photos, tmp_path / "moved")
    (tmp_path / "moved" / "red" / "00.png").rename(tmp_path / "moved" / "red" / "zz.png")
    shutil.copytree(run[0], tmp_path / "run")
    monkeypatch.setattr(cache, "decode_image", None)  # they are decoded already
    monkeypatch.setattr(fine_tune_phase, "fine_tune", None)
    again = trainer.fit(small_config(photos, data__root=str(tmp_path / "moved")), tmp_path / "run").summary
    for split in ("validation", "test"):
        assert again[split] == run[1][split]


def test_other_images_in_the_same_workdir_are_refused(run, photos):
    extra = shutil.copy(photos / "red" / "00.png", photos / "red" / "99.png")
    try:
        with pytest.raises(configs.ConfigError, match=r"images are not those .*: 1 new: red/99.png; choose another"):
            trainer.fit(small_config(photos), run[0])
    finally:
        (photos / "red" / extra.name).unlink()


def test_l2_fe_is_its_own_baseline(go_on, tmp_path):
    summary = go_on(method="l2_fe")
    assert summary["test"] == summary["l2_fe"]["test"]
    assert summary["validation"] == summary["l2_fe"]["validation"]
    # Of a network that comes from its file, too, as when a search has copied it.
    assert summary["gain"] == go_on(method="l2_fe")["gain"] == {}
    assert summary["steps"] == 0
    assert not (tmp_path / "attention.npz").exists()
    assert not (tmp_path / "curves.png").exists()


def test_l2_decays_every_parameter_and_has_no_penalty(go_on, tmp_path):
    summary = go_on(method="l2", schedule="constant", beta=0.02, data__on_device="no")
    assert summary["steps"] == 4
    records = [record for record in logs.read(tmp_path) if record["phase"] == "fine_tune"]
    assert all(record["penalty"] == record["head_penalty"] == 0 for record in records)


def test_l2_sp_and_the_best_step_on_the_validation_images(go_on, tmp_path):
    summary = go_on(method="l2_sp", select="best", learning_rate=0.05)
    looks = {record["step"]: record["top1"] for record in logs.read(tmp_path) if record["phase"] == "validation"}
    assert set(looks) == {2, 4}
    best = max(looks, key=lambda step: (looks[step], step))  # the later of equals
    assert summary["selected_step"] == best
    assert summary["validation"]["top1"] == looks[best]
    penalties = [record["penalty"] for record in logs.read(tmp_path) if record["phase"] == "fine_tune"]
    assert 0 <= penalties[0] < penalties[-1]  # the parameters leave those of the source


def test_fine_tuning_goes_on_from_the_trained_head(go_on):
    summary = go_on(
        method="delta_without_attention",
        alpha=None,  # measured
        head_init="l2_fe",
        batch_norm="frozen_stats",
        learning_rate=1e-4,
    )
    assert summary["test"]["top1"] > 0.9
    assert summary["alpha"] > 0


def test_without_validation_images_the_head_takes_beta(photos, tmp_path):
    config = small_config(
        photos, method="l2", schedule="constant", data__validation_fraction=0.0, beta=0.02, steps=1, checkpoint_every=9
    )
    summary = trainer.fit(config, tmp_path).summary
    assert summary["validation"] == summary["l2_fe"]["validation"] == {}
    assert summary["l2_fe"]["l2"] == 0.02
    assert summary["test"]["n"] == 18
    assert summary["images_per_second"] == 0  # the one step was that which compiles
    assert {record["phase"] for record in logs.read(tmp_path)} == {"fine_tune"}
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [1]  # the last step, whatever checkpoint_every is


def test_runs_that_need_the_same_head_train_it_once(run, photos, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(head_phase, "choose", lambda *_: asked.append(1) or pytest.fail("this head is in the cache"))
    trainer.fit(small_config(photos, seed=5, method="l2_fe"), tmp_path / "a")
    for name in ("head.safetensors", "head.json"):
        assert (tmp_path / "a" / name).read_bytes() == (run[0] / name).read_bytes()
    for number, changed in enumerate(({"head_l2": (0.5,)}, {"data.crop": 36}, {"data.validation_fold": 1})):
        with pytest.raises(pytest.fail.Exception, match="in the cache"):
            trainer.fit(small_config(photos, method="l2_fe", **changed), tmp_path / str(number))
    assert len(asked) == 3
