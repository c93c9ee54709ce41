"""The programs in examples/ do what they say."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from delta_jax.training import trainer
from delta_jax.training.classifier import FACTS, Classifier
from delta_jax.training.config import ConfigError
from examples import own_loop, own_model
from tests.small_run import CLASSES, fit_and_show, make_photos, small_config


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("own") / "photos")


@pytest.fixture(scope="module")
def settings(photos):
    weights = photos.parent / "own.safetensors"
    own_model.save_weights(str(weights))
    return {
        "arch": "examples.own_model:spec",
        "weights": str(weights),
        "taps": ("default",),
        "learning_rate": 1e-3,
        "head_learning_rate_factor": 10.0,
        "head_init": "l2_fe",
        "dropout": 0.1,
        "batch_norm": "frozen",  # scale and bias of GroupNorm and LayerNorm
    }


@pytest.fixture(scope="module")
def run(photos, settings):
    workdir = photos.parent / "run"
    return workdir, fit_and_show(small_config(photos, **settings), workdir)


def test_a_network_of_ones_own_in_the_trainer(run, photos):
    """Head, attention, fine-tuning, evaluation, and the classifier in the workdir."""
    workdir, summary = run
    assert summary["arch"] == "examples.own_model:spec"
    assert summary["l2_fe"]["test"]["top1"] > 0.9  # the classes are colours
    assert summary["test"]["top1"] > 0.9
    with np.load(workdir / "attention.npz") as attention:
        for tap in own_model.spec().taps:
            np.testing.assert_allclose(attention[f"weight/{tap}"].sum(), 1.0, rtol=1e-5)
            assert attention[f"weight/{tap}"].std() > 0
    classifier = Classifier(workdir)
    files = [sorted((photos / name).iterdir())[0] for name in CLASSES]
    probabilities = classifier.probabilities([classifier.decode(file) for file in files])
    assert [classifier.class_names[k] for k in probabilities.argmax(-1)] == list(CLASSES)
    assert classifier.variables.keys() == {"params"}


def test_what_was_trained(run, settings):
    """Normalisation layers are as in the weights file, everything else has moved, the head from where L2-FE ended."""
    before, after = load_file(settings["weights"]), load_file(run[0] / "model.safetensors")
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert {name for name in before if "/norm" in name} == set(before) - moved
    head = load_file(run[0] / "head.safetensors")
    distance = np.abs(after["params/classifier/logits/kernel"] - head["kernel"]).max()
    assert 0 < distance < 0.5 * np.abs(head["kernel"]).max()


def test_a_classifier_whose_network_cannot_be_found(run, tmp_path):
    facts = json.loads((run[0] / FACTS).read_text())
    for name in (FACTS, "model.safetensors"):
        (tmp_path / name).write_bytes((run[0] / name).read_bytes())
    (tmp_path / FACTS).write_text(json.dumps(facts | {"arch": "somewhere_else:spec"}))
    with pytest.raises(ConfigError, match="No module named 'somewhere_else'; start from the folder that holds"):
        Classifier(tmp_path)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"arch": "examples.own_model:specs"}, r"has no function 'specs'; it has .*spec"),
        ({"arch": "examples.own_modle:spec"}, r"No module named 'examples.own_modle'"),
        ({"compute_dtype": "bfloat16"}, r"OwnNet takes .*, but no dtype; .*--config.compute_dtype=float32"),
        ({"taps": ("encoder/stage_1/block_1",)}, r"no tap called 'encoder/stage_1/block_1'.*encoder/stage_1/block_0"),
    ],
)
def test_a_run_that_cannot_work_is_refused_at_once(photos, settings, tmp_path, changed, complaint):
    with pytest.raises(ConfigError, match=complaint):
        trainer.fit(small_config(photos, **(settings | changed)), tmp_path / "workdir")
    assert not (tmp_path / "workdir").exists()


def test_delta_in_a_loop_of_ones_own():
    free, bound = own_loop.main(alpha=0.0), own_loop.main(alpha=10.0)
    assert bound[0][1] < 1e-9  # it starts at the source
    assert bound[-1][0] < 0.7 * bound[0][0]
    assert 0 < bound[-1][1] < 0.5 * free[-1][1]
