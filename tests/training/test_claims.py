"""Whose a workdir is: nobody's before the first lasting result, then the run's whose config and images stand there."""

import json

import pytest

from delta_jax.training import claims, config_checks, trainer
from delta_jax.training import config as configs
from delta_jax.training.trainer import head_phase
from delta_jax.workdir import json_files
from tests.small_run import make_photos, small_config


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("claims") / "photos", per_class=8)


def config_of(photos, **changed):
    return small_config(photos, method="l2_fe", batch_size=4, **changed)


class DiskIsFullError(OSError):
    pass


@pytest.fixture
def stopped(photos, tmp_path, monkeypatch):
    """A run that claims its workdir and gets no further: the disk is full when it writes its head."""

    def full(*_):
        raise DiskIsFullError

    monkeypatch.setattr(head_phase, "train", full)

    def run(**changed):
        with pytest.raises(DiskIsFullError):
            trainer.fit(config_of(photos, **changed), tmp_path / "run")
        return json.loads((tmp_path / "run" / "config.json").read_text())

    return run


def test_a_run_without_a_result_binds_nobody(stopped, photos, tmp_path):
    assert stopped()["seed"] == 0
    assert stopped(seed=1, data__test_fraction=0.5)["seed"] == 1
    split = (tmp_path / "run" / "split.csv").read_text()
    (photos / "red" / "00.png").unlink()
    stopped(seed=1)
    assert len((tmp_path / "run" / "split.csv").read_text().splitlines()) == len(split.splitlines()) - 1


@pytest.mark.parametrize("result", ["head.safetensors", "checkpoints", "model.safetensors"])
def test_a_result_binds(stopped, photos, tmp_path, result):
    stopped(seed=1)
    (tmp_path / "run" / result).touch()
    with pytest.raises(configs.ConfigError, match="another config:\n  seed: 1 there, 2 here\nChoose another --workdir"):
        trainer.fit(config_of(photos, seed=2), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 1


@pytest.mark.parametrize(("step", "free"), [("", True), ("checkpoints", False), ("model.safetensors", False)])
def test_an_error_of_the_config_before_the_first_step_frees_the_workdir(tmp_path, step, free):
    json_files.write(tmp_path / "config.json", {})
    for name in filter(None, ("head.safetensors", "attention.npz", step)):
        (tmp_path / name).touch()
    assert claims.begun(tmp_path)
    with pytest.raises(OSError), claims.given_back(tmp_path):  # noqa: PT011
        raise OSError
    assert claims.begun(tmp_path)
    with pytest.raises(configs.ConfigError), claims.given_back(tmp_path):
        raise configs.ConfigError("a training step takes more memory than a device has")
    assert claims.begun(tmp_path) != free


def test_a_run_that_began_elsewhere_meanwhile_is_gone_on_with_by_the_next_command(
    stopped, photos, tmp_path, monkeypatch
):
    stopped()
    (tmp_path / "run" / "head.safetensors").touch()
    monkeypatch.setattr(claims, "images", lambda *_: None)
    with pytest.raises(config_checks.InUseError, match="meanwhile; the same command again goes on with it"):
        trainer.fit(config_of(photos), tmp_path / "run")
