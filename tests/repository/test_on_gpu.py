"""benchmarks/on_gpu.sh: its parts, limits and summary, with an interpreter that makes up the numbers of its parts."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmark_scripts import BENCHMARKS, load

SCRIPT = BENCHMARKS / "on_gpu.sh"

# What each part is called with is noted; numbers come out as the real scripts write them.
PYTHON = """#!/usr/bin/env bash
echo "$*" >> "$CALLS"
case "$*" in
  -c*) echo "${FOUND:-cpu}" ;;
  *_predicted.py*) exec "$REAL" "$@" ;;
  *) [[ -z "${BROKEN:-}" ]] || exit 1 ;;&
  *step.py*float32*) [[ -z "${HANGS:-}" ]] || exec sleep 30; cp "$CALLS.step" "${!###*=}" ;;
  *step.py*) cp "$CALLS.step" "${!###*=}" ;;
  *attention.py*exact*) printf 'exact resnet50, 4 filters\\nseconds per image:\\n0.02500\\n' ;;
  *attention.py*) echo "out of memory" >&2; exit 1 ;;
  *--program=attention*) echo '{"programs": {"attention": {"images": 8, "least_seconds": 0.1}}}' ;;
  *delta_jax.plan*) echo '{"programs": {"step": {"least_seconds": 0.004, "held": 3e8, "temporary": 2e9}}}' ;;
esac
"""
METHOD = {"images_per_second": 3200.0, "bytes": {"held": 300_000_000, "temporary": 3_000_000_000}, "share_of_peak": 0.2}
STEP = {"batch": 64, "methods": {"l2": {**METHOD, "time_over_l2": 1.0}, "delta": {**METHOD, "time_over_l2": 1.25}}}


@pytest.fixture
def run(tmp_path):
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    (tmp_path / "calls.step").write_text(json.dumps(STEP))

    def call(**environment):
        calls = tmp_path / "calls"
        calls.write_text("")
        env = {**os.environ, "PYTHON": str(python), "REAL": sys.executable, "CALLS": str(calls), "DEVICE": "cpu"}
        done = subprocess.run(
            ["bash", str(SCRIPT), str(tmp_path / "out")],
            env=env | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done, calls.read_text().splitlines()

    return call


def summary(text):
    lines = [line.rsplit(maxsplit=3) for line in text.splitlines() if " float" in line or "bfloat16, " in line]
    return {line[0]: line[1:] for line in lines if len(line) == 4}


def test_shellcheck_finds_nothing():
    found = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), SCRIPT], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout


def test_a_part_that_fails_does_not_take_the_others_with_it(run, tmp_path):
    done, calls = run()
    assert done.returncode == 1
    assert "attention-first_order: failed after" in done.stdout
    assert done.stdout.splitlines()[-1] == "failed: attention-first_order"
    assert (tmp_path / "out" / "attention-first_order.log").read_text() == "out of memory\n"
    assert len(calls) == 10  # the device, versions, 2 steps, 2 attentions, 3 plans, the summary

    # By hand: 64 images at 3,200 a second are 20 ms, five times the predicted 4; the attention 0.1 s for 8 images.
    found = summary((tmp_path / "out" / "summary.txt").read_text())
    assert found["step delta bfloat16, ms"] == ["4", "20", "5"]
    assert found["step l2 bfloat16, GB temporary"] == ["2", "3", "1.5"]
    assert found["step l2 bfloat16, GB held"] == ["0.3", "0.3", "1"]
    assert found["step delta float32, ms"] == ["-", "20", "-"]
    assert found["attention exact float32, ms an image"] == ["12.5", "25", "2"]
    assert found["attention first_order float32, ms an image"] == ["-", "-", "-"]
    assert "bfloat16: time of delta over l2" in done.stdout


def test_a_part_that_hangs_is_ended_and_the_others_run(run):
    done, calls = run(HANGS="1", LIMIT="1")
    assert "step-float32: failed after 1 s of 1 with status 124" in done.stdout
    assert "attention-exact: 0 s" in done.stdout
    assert sum("delta_jax.plan" in call for call in calls) == 3
    assert summary(done.stdout)["step l2 float32, ms"] == ["-", "-", "-"]


def test_where_there_is_no_gpu_nothing_is_measured(run):
    done, calls = run(DEVICE="gpu")
    assert done.returncode == 2
    assert "jax finds no gpu here but cpu" in done.stderr
    assert len(calls) == 1


def test_the_parts_take_their_flags(run):
    _, calls = run(ARCH="resnet18", SIZE="32", BATCH="4", CLASSES="5", REPEATS="1")
    steps = [call.split()[1:] for call in calls if "step.py" in call]
    found = [load("step").parse(flags) for flags in steps]
    assert [(one.arch, one.size, one.batch, one.classes, one.dtype, one.methods, one.repeats) for one in found] == [
        ("resnet18", 32, 4, 5, dtype, ["l2", "delta"], 1) for dtype in ("bfloat16", "float32")
    ]
    plans = [call for call in calls if "delta_jax.plan" in call]
    assert [("--program=step" in call, "--config.method=delta" in call) for call in plans] == [
        (True, False),
        (True, True),
        (False, True),
    ]


def test_its_limits_are_less_than_ten_minutes_together(run):
    done, _ = run(BROKEN="1")
    limits = list(map(int, re.findall(r"failed after \d+ s of (\d+) with", done.stdout)))
    assert len(limits) == 8
    assert sum(limits) + 10 <= 600  # 10 s are nvidia-smi's
    assert done.stdout.splitlines()[-1].split()[1:] == re.findall(r"^(\S+): failed", done.stdout, re.MULTILINE)
