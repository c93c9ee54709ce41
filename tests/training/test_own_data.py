"""A run on a table of one's own images: names in any script, rare classes, an image that is in two splits."""

import contextlib
import csv
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from delta_jax.training import compiled_step, config_checks, fine_tune, fine_tune_phase, trainer
from delta_jax.training import config as configs
from delta_jax.training.classifier import Classifier
from delta_jax.training.image_sets import ImageSet
from delta_jax.training.state import TrainState
from delta_jax.workdir import logs
from tests import small_network
from tests.small_run import fit_and_show, noise, run, small_config, unwatched, weights_of

NAMES = {"blue": "bläulich, 1", "red": 'rot "x"', "green": "緑"}
COUNTS = {"blue": 30, "red": 12, "green": 9}  # for training


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Manifest of a folder with blanks; the last test image is a copy of the first training image."""
    root, rng = tmp_path_factory.mktemp("own") / "meine Bilder", np.random.default_rng(0)
    root.mkdir()
    rows = []
    for colour, name in NAMES.items():
        for i in range(COUNTS[colour] + 6):
            file = f"{name} {i}.png"
            noise(colour, rng).save(root / file)
            rows.append((file, name, "train" if i < COUNTS[colour] else "test"))
    shutil.copy(root / rows[0][0], root / rows[-1][0])
    with (root / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    small_network.save_weights(weights_of(root / "labels.csv"))
    return root / "labels.csv"


def config_of(table, **changed):
    fields = {"method": "l2", "steps": 4, "data__name": "manifest", "data__validation_fraction": 1 / 3, **changed}
    return small_config(table, **fields)


@pytest.fixture(scope="module")
def trained(table):
    workdir = table.parents[1] / "run"
    fit_and_show(config_of(table, imbalance="weighted_loss"), workdir)
    return workdir


def test_class_names_recalls_and_confusion_of_the_test_images(trained, table):
    assert Classifier(trained).class_names == tuple(NAMES.values())
    text = (trained / "summary.json").read_text()
    summary = json.loads(text)
    with (trained / "predictions.csv").open(encoding="utf-8", newline="") as file:
        predictions = [(row["true"], row["predicted"]) for row in csv.DictReader(file)]
    assert len(predictions) == summary["test"]["n"] == 18
    names = list(NAMES.values())
    expected = [[predictions.count((true, taken)) for taken in names] for true in names]
    assert summary["confusion_matrix"] == expected
    assert "[\n    [" + ", ".join(map(str, expected[0])) + "],\n" in text  # a table to read
    assert summary["per_class_recall"] == {name: expected[k][k] / 6 for k, name in enumerate(names)}
    assert summary["test"]["balanced_accuracy"] == pytest.approx(np.mean(list(summary["per_class_recall"].values())))
    assert (trained / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_a_weighted_loss_is_that_of_the_training_images(table, tmp_path, monkeypatch, capsys):
    seen = {}

    def stop(_, __, ___, ____, chosen):
        seen["weights"] = chosen.label_weights
        raise KeyboardInterrupt

    monkeypatch.setattr(compiled_step.CompiledStep, "__call__", lambda *arguments: stop(*arguments[1:]))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(config_of(table, imbalance="weighted_loss"), tmp_path)
    # Two of three folds of 30, 12 and 9: 20, 8 and 6 of 34.
    np.testing.assert_allclose(seen["weights"], [34 / 60, 34 / 24, 34 / 18], rtol=1e-6)
    output = capsys.readouterr().out
    rows = [line.split() for line in output.splitlines()]
    assert ["緑", "6", "3", "6"] in rows
    assert "warning: 1 image has the same bytes as one of another split" in output
    assert "test 緑 14.png (緑) is" in output
    assert "bläulich, 1 0.png (bläulich, 1)" in output


def test_evaluate_with_other_images_of_some_classes(trained, tmp_path):
    rng = np.random.default_rng(5)
    for colour in ("blue", "red"):
        folder = tmp_path / "andere Bilder" / NAMES[colour]
        folder.mkdir(parents=True)
        for i in range(3):
            noise(colour, rng).save(folder / f"ä {i}.png")
    (tmp_path / "andere Bilder" / "phone.heic").write_bytes(b"of a kind that is not read")
    finished = run("evaluate", f"--workdir={trained}", f"--root={tmp_path / 'andere Bilder'}", "--json")
    assert finished.returncode == 0, finished.stderr
    assert "left out of andere Bilder: 1 .heic, pictures that are not read" in finished.stderr
    found = json.loads(finished.stdout)
    classifier = Classifier(trained)
    photos = sorted((tmp_path / "andere Bilder").glob("*/*.png"))
    taken = classifier.probabilities([classifier.decode(photo) for photo in photos]).argmax(-1)
    right = [classifier.class_names[k] == photo.parent.name for k, photo in zip(taken, photos, strict=True)]
    assert found["n"] == 6
    assert found["top1"] == pytest.approx(np.mean(right))


class Unequal(ImageSet):
    """Ten images of class 0 and two of class 1, which are told apart by their number only."""

    def __init__(self):
        self.labels = np.array([0] * 10 + [1] * 2, np.int32)
        self.resident = True

    def __len__(self):
        return 12

    def batch(self, picked):
        return {"index": jnp.asarray(picked)}


def test_balanced_sampling_goes_on_where_it_stopped(tmp_path):
    def drawn(workdir, last):
        seen = []

        def train_step(state, batch):
            if int(state.step) == last:
                raise KeyboardInterrupt
            seen.append(batch["index"].tolist())
            return TrainState(state.step + 1, {"w": jnp.float32(0)}, {}, {}), jnp.ones(5)

        loop = fine_tune.Loop(
            steps=12, batch_size=4, seed=0, log_every=2, checkpoint_every=3, eval_every=0, select="last", balanced=True
        )
        start = TrainState(jnp.int32(0), {"w": jnp.float32(0)}, {}, {})
        with logs.MetricsLog(workdir) as log, contextlib.suppress(KeyboardInterrupt):
            fine_tune.fine_tune(loop, start, train_step, Unequal(), None, unwatched(12, workdir), workdir, log)
        return seen

    whole = drawn(tmp_path / "whole", 99)
    np.testing.assert_array_equal(np.bincount(Unequal().labels[np.array(whole).ravel()]), [24, 24])
    first = drawn(tmp_path / "parts", 6)
    assert first + drawn(tmp_path / "parts", 99) == whole


@pytest.mark.parametrize("imbalance", config_checks.IMBALANCE)
def test_balanced_sampling_reaches_the_loop_where_it_is_asked_for(table, tmp_path, monkeypatch, imbalance):
    seen = []

    def stop(loop, *_):
        seen.append(loop.balanced)
        raise KeyboardInterrupt

    monkeypatch.setattr(fine_tune_phase, "fine_tune", stop)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(config_of(table, imbalance=imbalance), tmp_path)
    assert seen == [imbalance == "balanced_sampling"]


def test_an_unknown_way_with_imbalance_is_refused(table):
    with pytest.raises(configs.ConfigError, match="imbalance='balanced': expected one of ignore, weighted_loss"):
        configs.resolve(config_of(table, imbalance="balanced"))
