"""The command plan as users start it, on the stand-in for chips."""

import json
import os
import subprocess
import sys

from tests.small_network import ARCH
from tests.small_run import ROOT


def command(*arguments, cache):
    flags = ["--config=configs/default.py", f"--config.arch={ARCH}", "--config.weights=not_here.safetensors"]
    flags += ["--config.data.crop=32", "--config.data.resize=40", *map(str, arguments)]
    # What it sets itself is not set.
    names = ("XLA_FLAGS", "JAX_PLATFORMS")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"DELTA_JAX_CACHE": str(cache), "CI": "1"}
    started = [sys.executable, "-m", "delta_jax.plan", *flags]
    return subprocess.run(started, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_without_weights_data_and_chips(tmp_path):
    counts = ("--classes=3", "--images=100,20,30", "--topology=cpu:2", "--program=step", "--nolargest", "--json")
    done = command(*counts, cache=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["topology"], found["devices"], found["images"]["validation"]) == ("cpu:2", 2, 20)
    assert "step, 64 images: compiling for cpu:2" in done.stderr
    again = command(*counts, cache=tmp_path)
    assert json.loads(again.stdout) == found
    assert "compiling" not in again.stderr


def test_mistakes_are_one_line(tmp_path):
    for arguments, complaint in (
        (("--topology=v5e:3x3", "--classes=3", "--images=100"), "error: v5e:3x3: hosts have 2x2 chips"),
        (("--topology=cpu:2", "--classes=3", "--images=many"), "error: --images=many: expected one to three numbers"),
        (("--topology=cpu:2",), "error: how many classes and training images the run has is not known"),
        ((), "error: --topology is not given: chips to compile for"),
    ):
        done = command(*arguments, cache=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith(complaint), done.stderr
        assert len(done.stderr.splitlines()) == 1
