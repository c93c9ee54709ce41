"""The overview of a network as users ask for it."""

import json
import os
import subprocess
import sys

import pytest

from delta_jax import describe as command
from delta_jax import models
from tests.small_run import ROOT


def _command(*arguments):
    # No backend of this name: whatever wants to compute something fails.
    environment = os.environ | {"JAX_PLATFORMS": "none_such"}
    command = [sys.executable, "-m", "delta_jax.describe", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_the_command_computes_nothing():
    done = _command("resnet18", "--size=96", "--classes=7", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # 11,689,512: torchvision's num_params; a head of 7 classes instead of 1,000, of 512 weights and a bias each.
    assert sum(found["parameters"].values()) == 11_689_512 - 993 * 513
    assert found["taps"]["layer1_1/conv2"] == [24, 24, 64]  # 96 pixels, halved twice
    assert found["default_taps"] == list(models.spec("resnet18").taps)


def test_what_the_command_shows(capsys, monkeypatch):
    monkeypatch.setenv("CI", "1")  # plain text, as where there is no terminal
    if not command.flags.FLAGS.is_parsed():
        command.flags.FLAGS.mark_as_parsed()  # other commands' required flags may be defined by now
    command.main(["describe"])
    text = capsys.readouterr().out
    assert [name for name in models.names() if name not in text] == []
    command.main(["describe", "examples.own_model:spec"])
    text = capsys.readouterr().out
    assert "encoder/stage_1/block_0         16 x 16 x 24        default" in text
    assert "classifier/logits, 32 features to 1,000 classes" in text
    assert [word for word in ("source network", "activations", "in all", "GFLOP") if word not in text] == []
    for arguments, complaint in ((["resnet5"], "did you mean resnet50"), (["a", "b"], "expected one network")):
        with pytest.raises(SystemExit, match=f"error: .*{complaint}"):
            command.main(["describe", *arguments])


def test_the_old_spelling_says_where_it_went():
    command = [sys.executable, "-m", "delta_jax.models", "resnet18"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "python -m delta_jax.models is python -m delta_jax.describe now, with the same arguments" in done.stderr
