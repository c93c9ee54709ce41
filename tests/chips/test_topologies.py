"""Names of chips: which there are, and one line for each mistake, before a compiler is asked."""

import importlib.util
import os

import pytest

from delta_jax import chips
from delta_jax.chips import figures, topologies
from delta_jax.chips.topologies import TopologyError


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("v5e", "no chips called 'v5e'; did you mean v5e"),
        ("V5e:2x2", "did you mean v5e:2x2"),
        ("v5litepod-16", "Some that there are: v5e:1x1"),
        ("a100x8", "did you mean h100x8"),
        ("h100", "did you mean h100x"),
        ("h100x0", "no chips called 'h100x0'"),
        ("cpu:0", "no chips called 'cpu:0'"),
        ("v5e:2x2x1", "a slice of v5e has 2 sides, at most 16x16; such as v5e:"),
        ("v5p:4x4", "a slice of v5p has 3 sides"),
        ("v5e:16x32", "at most 16x16"),
        ("v5e:0x2", "at most 16x16"),
        ("v5e:3x3", "hosts have 2x2 chips, so the first two sides are even; such as v5e:2x2, or v5e:1x1 for a single"),
        ("v5p:1x2x4", "v5p:1x1x1 for a single chip"),
    ],
)
def test_a_name_that_is_none(name, complaint):
    with pytest.raises(TopologyError) as error:
        chips.find(name)
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_to_be_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TopologyError, match=r"TPUs is not installed; pip install 'delta_jax\[aot\]', or 'jax\[tpu\]'"):
        chips.find("v5e:2x2")
    with pytest.raises(TopologyError, match=r"GPUs is not installed; pip install 'delta_jax\[aot\]', or jax-cuda13"):
        chips.find("h100x8")


def test_a_gpu_without_ptxas(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(topologies, "_finds_ptxas", lambda: False)
    with pytest.raises(TopologyError, match="no ptxas, which the compiler for GPUs calls; install CUDA 13, or pip"):
        chips.find("h100x1")


def test_flags_of_the_users_are_kept(monkeypatch):
    pytest.importorskip("jax_cuda13_plugin", reason="the compiler for GPUs is not installed")
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    assert len(chips.find("h100x2").devices) == 2
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=x --xla_gpu_autotune_level=0"


def test_the_stand_in_is_what_there_is_of_cpus():
    found = chips.find("cpu:4")
    assert (found.platform, len(found.devices), found.chip) == ("cpu", 4, figures.CHIPS["cpu"])
    with pytest.raises(TopologyError, match="cpu:64: this process has 4 CPU devices already, expected 64"):
        chips.find("cpu:64")


def test_clocks_follow_from_the_peak():
    # Products of a cycle, multiplications and additions: matrix units times their area, by Google's pages on each; a
    # core of v3 has 2 of 128 x 128, a chip of v4 and v5p 8, v5e 4.
    products = {"TPU v3": 2 * 128**2, "TPU v4": 8 * 128**2, "TPU v5": 8 * 128**2, "TPU v5 lite": 4 * 128**2}
    for kind, number in products.items():
        chip = figures.CHIPS[kind]
        assert chip.clock == pytest.approx(chip.flops / (2 * number), rel=0.01)


@pytest.mark.parametrize(("name", "devices"), [("v5e:1x1", 1), ("v5e:2x4", 8), ("v4:2x2x1", 4), ("v3:2x2", 8)])
def test_tpus_that_are_not_here(name, devices):
    pytest.importorskip("libtpu", reason="the compiler for TPUs is not installed")
    found = chips.find(name)
    assert (found.platform, len(found.devices)) == ("tpu", devices)
    assert found.chip.name == f"TPU {name.partition(':')[0]}"
