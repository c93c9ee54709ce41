"""A run as a repository of the Hugging Face Hub: its card, and the way there, to a stand-in on this machine."""

import json
import threading

import numpy as np
import pytest
import yaml

from delta_jax import weights
from delta_jax.exports import formats, hub
from delta_jax.exports.errors import ExportError
from delta_jax.training.classifier import Classifier
from delta_jax.workdir import json_files
from tests.exports.test_export import CLASSES, assert_equal, finished
from tests.hub_server import HubServer
from tests.small_run import make_photos, run_afresh, small_config

MEASURED = {
    "test": {"top1": 49 / 57, "balanced_accuracy": 0.8655, "cross_entropy": 0.41234, "n": 57},
    "validation": {"top1": 1.0, "balanced_accuracy": 1.0, "cross_entropy": 0.1, "n": 34},
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Of a run that might have been: resnet18 on photos that are here."""
    folder = tmp_path_factory.mktemp("hub")
    root = make_photos(folder / "photos", per_class=6)
    config = small_config(root, arch="resnet18", weights="torchvision/resnet18-v1", method="delta", seed=3)
    workdir = finished(folder / "run", "resnet18")
    (workdir / "config.json").write_text(config.to_json())
    json_files.write(workdir / "summary.json", MEASURED)
    return workdir


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("DELTA_JAX_OFFLINE", raising=False)
    with HubServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)  # of the commands, which are processes of their own
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        yield server
        server.shutdown()


def parts(card):
    """(header, {heading: text})."""
    _, header, text = card.split("---\n", 2)
    first, *others = text.split("\n## ")
    return yaml.safe_load(header), {"": first} | dict(other.split("\n", 1) for other in others)


def test_the_card_says_what_was_done_and_what_came_of_it(workdir, tmp_path):
    trained = Classifier(workdir)
    formats.export(trained, "hub", tmp_path / "out", workdir=workdir)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.safetensors", "config.json", "README.md"}
    header, said = parts((tmp_path / "out" / "README.md").read_text(encoding="utf-8"))
    assert header["license"] == "bsd-3-clause"  # torchvision's; the images are the user's own
    assert header["library_name"] == "timm"
    assert header["pipeline_tag"] == "image-classification"
    (found,) = header["model-index"][0]["results"]
    assert found["metrics"][0] == {"type": "accuracy", "value": round(49 / 57, 6)}
    assert "3 classes: blue, dark green, rot-weiß" in said[""]
    assert "both sides to 72 pixels (bicubic), cut to 64 x 64" in said["Data"]
    assert (
        "`delta` (reference preset) from the weights `torchvision/resnet18-v1`, 8 steps of 8 images" in said["Method"]
    )
    # Wilson's interval by its formula, z = 1.959964: of 49 in 57 0.7466 to 0.9271, of 34 in 34 0.8985 to 1.
    assert "| test | 57 | 85.96% | 74.68% to 92.71% | 86.55% | 0.4123 |" in said["Accuracy"]
    assert "| validation | 34 | 100.00% | 89.85% to 100.00% |" in said["Accuracy"]
    assert "fine-tuned from: BSD-3-Clause. Images it was fine-tuned on: your own images." in said["Licence"]
    assert "timm.create_model('hf-hub:USER/NAME', pretrained=True)" in said["Load it"]
    assert (
        "dj.weights.load(huggingface_hub.hf_hub_download('USER/NAME', 'model.safetensors'), 'resnet18'"
        in said["Load it"]
    )
    assert str(tmp_path) not in str(said)


def test_a_card_without_a_run_says_so(workdir, tmp_path):
    formats.export(Classifier(workdir), "hub", tmp_path / "out", repo="someone/crabs")
    header, said = parts((tmp_path / "out" / "README.md").read_text(encoding="utf-8"))
    assert header["license"] == "other"
    assert "model-index" not in header
    assert "# crabs" in said[""]
    assert said["Method"].strip() == "Not known: the run was not at hand."
    assert said["Accuracy"].strip() == "Not measured."
    assert "hf-hub:someone/crabs" in said["Load it"]


@pytest.mark.parametrize(
    ("weights_licence", "data_licence", "expected"),
    [
        ("Apache-2.0", "your own images", "apache-2.0"),
        ("Apache-2.0", "CC BY-NC-SA 4.0", "other"),  # those of the images may forbid what Apache allows
        ("not known", "your own images", "other"),
    ],
)
def test_the_licence_in_the_header_is_none_that_is_not_known(workdir, weights_licence, data_licence, expected):
    run = hub.About(weights_licence=weights_licence, data_licence=data_licence)
    header, said = parts(hub.card(Classifier(workdir), run, "a/b", [], []))
    assert header["license"] == expected
    assert ("license_name" in header) == (expected == "other")
    assert weights_licence in said["Licence"]
    assert data_licence in said["Licence"]


def test_the_paths_of_this_machine_are_not_published(workdir):
    config = json.loads((workdir / "config.json").read_text()) | {"weights": "/home/someone/secret/best.pth"}
    _, said = parts(hub.card(Classifier(workdir), hub.About(config=config), "a/b", [], []))
    assert "from the weights `best.pth`" in said["Method"]


@pytest.mark.parametrize(("method", "said_of_steps"), [("l2_fe", False), ("delta", True)])
def test_a_new_head_took_no_steps(workdir, method, said_of_steps):
    config = json.loads((workdir / "config.json").read_text()) | {"method": method}
    _, said = parts(hub.card(Classifier(workdir), hub.About(config=config), "a/b", [], []))
    assert ("steps of" in said["Method"]) == said_of_steps


def test_pushed_is_what_was_written(workdir, tmp_path, server):
    out = tmp_path / "out"
    command = ("export", f"--workdir={workdir}", "--format=hub", f"--out={out}", "--push=someone/crabs")
    ended = run_afresh(*command)
    assert ended.returncode == 0, ended.stderr
    assert f"pushed to {server.endpoint}/someone/crabs" in ended.stdout
    assert server.tokens == {"Bearer hf_of_a_test"}
    (asked,) = server.repositories.values()
    assert asked["visibility"] == "private"
    assert server.files["someone/crabs"] == {path.name: path.read_bytes() for path in out.iterdir()}
    got = tmp_path / "model.safetensors"
    got.write_bytes(server.files["someone/crabs"]["model.safetensors"])
    (tmp_path / "config.json").write_bytes(server.files["someone/crabs"]["config.json"])
    assert_equal(weights.load(str(got), "resnet18", len(CLASSES)), Classifier(workdir).variables)

    server.status = 401
    ended = run_afresh(*command, "--overwrite")
    assert ended.returncode == 1
    assert "was not pushed to someone/crabs" in ended.stderr
    assert f"log in with a token that may write: hf auth login; later: hf upload someone/crabs {out} ." in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("repo", ["crabs", "a/b/c", "a/ b", "https://huggingface.co/a/b", "a/", "ä/b"])
def test_what_names_no_repository_is_refused(repo):
    with pytest.raises(ExportError, match="names no repository; expected user/name"):
        hub.check_name(repo)


def test_nothing_is_pushed_where_connections_are_forbidden(monkeypatch):
    monkeypatch.setenv("DELTA_JAX_OFFLINE", "1")
    with pytest.raises(ExportError, match="--push needs the network"):
        hub.check_name("a/b")


def test_the_interval_is_wilsons():
    # By hand, z = 1.959964: (k + z^2 / 2) / (n + z^2), and to both sides z / (n + z^2) sqrt(k (n - k) / n + z^2 / 4).
    np.testing.assert_allclose(hub._interval(0.5, 2), (0.0945, 0.9055), atol=1e-4)
