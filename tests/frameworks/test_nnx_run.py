"""An NNX module in the trainer, from `--config.arch=module:function` to the exported file."""

import json

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from delta_jax import models
from delta_jax.exports import formats
from delta_jax.training import fine_tune_phase, trainer
from delta_jax.training.classifier import Classifier
from delta_jax.training.config import ConfigError
from tests import nnx_network, small_run
from tests.small_run import CLASSES, make_photos, small_config


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = make_photos(tmp_path_factory.mktemp("nnx") / "photos")
    nnx_network.save_weights(root.parent / "nnx.safetensors")
    return root


def config(photos, **changed):
    settings = {
        "arch": nnx_network.ARCH,
        "weights": str(photos.parent / "nnx.safetensors"),
        "taps": ("default",),
        "head_init": "l2_fe",
        "dropout": 0.1,
        "learning_rate": 0.01,
    }
    return small_config(photos, **(settings | changed))


@pytest.fixture(scope="module")
def run(photos):
    workdir = photos.parent / "run"
    return workdir, trainer.fit(config(photos), workdir).summary


def test_it_is_trained_and_used_as_a_linen_module(run, photos):
    workdir, summary = run
    assert summary["arch"] == nnx_network.ARCH
    assert summary["test"]["top1"] > 0.9  # the classes are colours
    assert json.loads((workdir / "config.json").read_text())["arch"] == nnx_network.ARCH
    before, after = load_file(photos.parent / "nnx.safetensors"), load_file(workdir / "model.safetensors")
    assert before.keys() == after.keys()
    assert not np.array_equal(before["batch_stats/blocks/0/norm/mean"], after["batch_stats/blocks/0/norm/mean"])
    with np.load(workdir / "attention.npz") as attention:
        for tap in nnx_network.TAPS:
            np.testing.assert_allclose(attention[f"weight/{tap}"].sum(), 1.0, rtol=1e-5)
    classifier = Classifier(workdir)
    files = [sorted((photos / name).iterdir())[0] for name in CLASSES]
    probabilities = classifier.probabilities([classifier.decode(file) for file in files])
    assert [classifier.class_names[k] for k in probabilities.argmax(-1)] == list(CLASSES)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(run, photos, tmp_path, monkeypatch):
    def until(step, fine_tune=fine_tune_phase.fine_tune):
        def stopped(loop, start, train_step, *rest):
            def one(state, batch):
                if int(state.step) == step:
                    raise KeyboardInterrupt
                return train_step(state, batch)

            return fine_tune(loop, start, one, *rest)

        return stopped

    monkeypatch.setattr(fine_tune_phase, "fine_tune", until(6))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(config(photos), tmp_path)
    monkeypatch.undo()
    trainer.fit(config(photos), tmp_path)
    whole, resumed = (load_file(workdir / "model.safetensors") for workdir in (run[0], tmp_path))
    assert whole.keys() == resumed.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(array, resumed[name])


def test_commands_read_its_workdir(run, photos):
    workdir, _ = run
    found = small_run.run("evaluate", f"--workdir={workdir}")
    assert found.returncode == 0, found.stderr
    photo = sorted((photos / "green").iterdir())[0]
    found = small_run.run("predict", f"--workdir={workdir}", photo)
    assert found.returncode == 0, found.stderr
    assert "green" in found.stdout


def test_it_is_exported_and_created_again(run, photos, tmp_path):
    workdir, _ = run
    formats.export(Classifier(workdir), "safetensors", tmp_path / "out")
    exported = load_file(tmp_path / "out" / "model.safetensors")
    assert exported.keys() == load_file(workdir / "model.safetensors").keys()
    network = models.create(nnx_network.ARCH, num_classes=3)
    assert network == models.create(nnx_network.ARCH, num_classes=3)
    assert network.name == "Net"


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"compute_dtype": "bfloat16"}, r"Net takes num_classes, dropout, but no dtype"),
        ({"taps": ("blocks/2",)}, r"no tap called 'blocks/2'.*blocks/1"),
        ({"remat": True}, r"--config.remat"),
    ],
)
def test_a_run_that_cannot_work_is_refused_at_once(photos, tmp_path, changed, complaint):
    with pytest.raises(ConfigError, match=complaint):
        trainer.fit(config(photos, **changed), tmp_path / "workdir")
    assert not (tmp_path / "workdir").exists()


def test_what_a_spec_may_hold():
    def spec(module, **facts):
        return models.ModelSpec("x", "none", module, {}, "head", taps=("blocks/0",), input_size=32, **facts)

    def create(module, **facts):
        before = nnx_network.spec
        nnx_network.spec = lambda: spec(module, **facts)
        try:
            return models.create(nnx_network.ARCH, num_classes=3)
        finally:
            nnx_network.spec = before

    assert create(nnx_network.Net) == create(lambda num_classes, rngs: nnx_network.Net(num_classes, rngs=rngs))
    with pytest.raises(
        ValueError, match=r"returns Net; expected a Linen module, or an NNX module made with the `rngs`"
    ):
        create(lambda num_classes: nnx_network.Net(num_classes, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"Net is called with \(x\) and has no argument 'is_training'"):
        create(nnx_network.Net, train_argument="is_training")
