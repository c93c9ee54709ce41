"""Tags of timm that are in no table here: asked of a stand-in for Hugging Face, which answers as that does."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import safetensors.numpy
from huggingface_hub import constants

from delta_jax import models, weights
from delta_jax.training import config as configs
from delta_jax.weights import WeightsError, timm_tags
from delta_jax.weights.merging import variable_shapes
from delta_jax.weights.name_tables import to_torch_layout, torch_names
from tests.training.test_config import changed

COMMIT, LATER = "1" * 40, "2" * 40
# What `timm.models._hub.save_config_for_hf(timm.create_model(NAME), FILE)` of timm 1.0.31 writes.
CONFIG = json.loads("""
{"architecture": "resnet18", "num_classes": 1000, "num_features": 512, "global_pool": "avg",
 "model_args": {"in_chans": 3, "num_classes": 1000, "global_pool": "avg"},
 "pretrained_cfg": {"tag": "a3_in1k", "custom_load": false, "input_size": [3, 160, 160],
  "test_input_size": [3, 224, 224], "fixed_input_size": false, "interpolation": "bicubic", "crop_pct": 0.95,
  "test_crop_pct": 0.95, "crop_mode": "center", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
  "num_classes": 1000, "pool_size": [5, 5], "first_conv": "conv1", "classifier": "fc", "license": "apache-2.0",
  "origin_url": "https://github.com/huggingface/pytorch-image-models", "paper_ids": "arXiv:2110.00476"}}
""")
NAME = "timm/resnet18.a3_in1k"


class Hub(ThreadingHTTPServer):
    """Attributes: files {"COMMIT/FILE": bytes} of the one repository, head, the commit of main, and paths asked for."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.head, self.asked = {}, COMMIT, []


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_): ...

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub = self.server
        hub.asked.append(self.path)
        repository, _, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        commit = hub.head if revision == "main" else revision
        content = hub.files.get(f"{commit}/{file}") if repository == NAME else None
        self.send_response(404 if content is None else 200)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound" if repository == NAME else "RepoNotFound")
        content = content or b""
        for name, value in {
            "Content-Length": str(len(content)),
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": commit,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with Hub() as server:
        address = f"http://127.0.0.1:{server.server_port}"
        places = {
            "ENDPOINT": address,
            "HUGGINGFACE_CO_URL_TEMPLATE": f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
            "HF_HUB_CACHE": str(tmp_path / "hub"),
        }
        for name, value in places.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("DELTA_JAX_CACHE", str(tmp_path / "cache"))
        for variable in ("DELTA_JAX_OFFLINE", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(variable, raising=False)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        put(server)
        yield server
        server.shutdown()


def put(hub, commit=COMMIT, cfg=(), **changes):
    """The config.json of a repository, perhaps changed."""
    config = CONFIG | changes | {"pretrained_cfg": CONFIG["pretrained_cfg"] | dict(cfg)}
    hub.files[f"{commit}/config.json"] = json.dumps(config).encode()


def of_21_classes():
    """The tensors of timm's ResNet-18 with another head."""
    rng, shapes = np.random.default_rng(0), variable_shapes("resnet18", 21)
    names = torch_names(models.spec("resnet18"), shapes, "timm")
    return {n: rng.random(to_torch_layout(np.empty(shapes[p]), p[-1]).shape, np.float32) for n, p in names.items()}


def test_a_tag_that_is_in_no_table(hub, caplog):
    source = weights.named(NAME)
    assert (source.arch, source.licence, source.classes, source.top1) == ("resnet18", "apache-2.0", 1000, None)
    # resolve_data_config of timm 1.0.31 for this tag: floor(160 / 0.95).
    assert (source.resize, source.crop, source.interpolation, source.aspect) == (168, 160, "bicubic", "keep")
    assert (source.mean, source.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert source.pin == f"commit {COMMIT[:8]}"
    assert f"taken as its repository is now (commit {COMMIT})" in caplog.text
    assert [source.name for source in timm_tags.known()] == [NAME]
    put(hub, LATER, {"input_size": [3, 320, 320]})
    hub.head, asked = LATER, len(hub.asked)
    assert weights.named(NAME) == source  # noted: main may move on
    assert len(hub.asked) == asked
    tensors = of_21_classes()
    hub.files[f"{COMMIT}/model.safetensors"] = safetensors.numpy.save(tensors)
    found = weights.load(NAME, "resnet18", num_classes=3)
    assert all(COMMIT in path for path in hub.asked[asked:])
    np.testing.assert_array_equal(found["params"]["conv1"]["kernel"], tensors["conv1.weight"].transpose(2, 3, 1, 0))
    assert found["params"]["fc"]["kernel"].shape == (512, 3)
    assert not np.asarray(found["params"]["fc"]["kernel"]).any()
    with pytest.raises(WeightsError, match="holds weights of resnet18, not of resnet34; set arch to resnet18"):
        weights.load(NAME, "resnet34", num_classes=3)


def test_a_run_takes_its_preprocessing_and_asks_nobody_for_what_is_known(hub, monkeypatch):
    found = configs.resolve(changed(arch="resnet18", weights=NAME)).data
    assert (found.resize, found.crop, found.interpolation) == (168, 160, "bicubic")
    given = {"data__mean": (0.5,), "data__std": (0.5,), "data__resize": 64, "data__crop": 64}
    other = "timm/resnet18.a1_in1k"
    monkeypatch.setenv("DELTA_JAX_OFFLINE", "1")
    configs.resolve(changed(arch="resnet18", weights=other, data__interpolation="bilinear", **given))
    with pytest.raises(WeightsError, match="connections are forbidden"):
        configs.resolve(changed(arch="resnet18", weights=other))
    assert configs.resolve(changed(arch="resnet18", weights=NAME)).data == found


@pytest.mark.parametrize(
    ("cfg", "changes", "says"),
    [
        ({}, {"architecture": "resnet50"}, "says that it is 'resnet50', expected a name of resnet18"),
        ({}, {"architecture": "resnetblur18"}, "expected a name of resnet18"),
        ({}, {"architecture": None}, "says that it is None"),
        ({}, {"model_args": {"output_stride": 8}}, "made with output_stride=8, which is not supported"),
        ({"mean": [123.0, 116.0, 103.0]}, {}, "images from 0 to 255"),
        ({"mean": [0.5]}, {}, "expected three numbers"),
        ({"input_size": [3, 224, 192]}, {}, r"images of \[3, 224, 192\]"),
        ({"input_size": [1, 28, 28]}, {}, "expected 3, N, N"),
        ({"input_size": []}, {}, "does not say how images were prepared"),
        ({"interpolation": "random"}, {}, r"does not say how images were prepared \(KeyError: 'interpolation'"),
    ],
)
def test_what_does_not_fit_is_refused_and_not_noted(hub, cfg, changes, says):
    put(hub, cfg=cfg, **changes)
    with pytest.raises(WeightsError, match=says):
        weights.named(NAME)
    put(hub)
    hub.head = COMMIT
    assert not timm_tags.known()


def test_a_file_that_is_none_of_json_and_one_that_is_not_there(hub):
    hub.files[f"{COMMIT}/config.json"] = b"<html>"
    with pytest.raises(WeightsError, match="cannot be read"):
        weights.named(NAME)
    with pytest.raises(WeightsError, match=r"has no repository timm/resnet18\.b_in1k"):
        weights.named("timm/resnet18.b_in1k")


@pytest.mark.parametrize(
    "name", ["resnet18", "timm/resnet18", "timm/vit_base_patch16_224.mae", "w.pth", "timm/a/b.c", ""]
)
def test_what_is_no_such_name(hub, name):
    assert timm_tags.find(name) is None
    assert not hub.asked


def test_what_was_noted_in_halves_is_asked_again(hub, tmp_path):
    weights.named(NAME)
    noted = tmp_path / "cache" / "weights" / "timm--resnet18.a3_in1k.config.json"
    noted.write_text(noted.read_text()[:100])
    assert not timm_tags.known()
    assert weights.named(NAME).crop == 160
    assert json.loads(noted.read_text())["revision"] == COMMIT
