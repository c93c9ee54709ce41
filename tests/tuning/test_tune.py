"""The command: killed, started twice, and its end a classifier like any other."""

import json
import re
import signal

import pytest

from tests.disturbed import Run, checkpoints
from tests.small_run import make_photos, run

pytest.importorskip("optuna", reason="settings are proposed by it: pip install 'delta_jax[tune]'")

CONFIG = """
from pathlib import Path

from tests.small_run import small_config


def get_config():
    config = small_config(
        Path({photos!r}), method="l2_sp", steps=27, learning_rate=0.003, batch_norm="frozen_stats", head_init="l2_fe"
    )
    config.alpha = None
    return config
"""
PROGRAM = (
    "-c",
    "import runpy; from delta_jax import reports; reports.show = lambda found: None; "
    "runpy.run_module('delta_jax.tune', run_name='__main__', alter_sys=True)",
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    photos = make_photos(tmp_path_factory.mktemp("tuned") / "photos")
    file = photos.parent / "config.py"
    file.write_text(CONFIG.format(photos=str(photos)))
    return file


def test_killed_in_a_trial_and_started_twice_a_search_ends_with_a_classifier(config, tmp_path):
    workdir = tmp_path / "search"
    flags = [f"--config={config}", "--trials=2"]

    run_of = workdir / "trials/0001/steps-27-fold-0-seed-0"
    killed = Run(workdir, flags, program=PROGRAM).wait_until(lambda: bool(checkpoints(run_of)))
    assert killed.stop(signal.SIGKILL) == -signal.SIGKILL
    both = [Run(workdir, flags, program=PROGRAM) for _ in range(2)]
    assert [one.end() for one in both] == [0, 0], "\n".join(one.output for one in both)
    assert re.search(r"going on after step \d+ of 27", (run_of / "said.txt").read_text())
    output = "\n".join(one.output for one in both)
    # Each run once, by whichever of the two.
    lines = re.findall(r"^ +\d+  .*", output, re.MULTILINE)
    assert len({re.sub(":.*", "", line) for line in lines}) == len(lines)
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["words"] in output
    assert (workdir / "report.html").exists()
    assert {row["setting"] for row in summary["trials"]} == {0, 1, 2}

    again = run("tune", *flags, f"--workdir={workdir}")
    assert again.returncode == 0
    assert "This search has ended, and its test images were looked at" in again.stdout
    photo = next((config.parent / "photos").rglob("*.png"))
    predicted = run("predict", f"--workdir={workdir / 'final'}", photo)
    assert predicted.returncode == 0, predicted.stderr


@pytest.mark.parametrize(
    ("flag", "error"),
    [
        ("--budget=30", "error: --budget=30: expected a time with its unit, such as 30m, 2h, 90s or 1h30m"),
        ("--trials=0", "error: --trials=0: expected 1 (the config as it is) or more"),
        (
            "--config.data.validation_fraction=0.0",
            "error: --config.data.validation_fraction=0: there are no validation",
        ),
    ],
)
def test_bad_input_is_one_line(config, tmp_path, flag, error):
    ended = run("tune", f"--config={config}", f"--workdir={tmp_path}", flag)
    assert ended.returncode == 1
    assert ended.stderr.strip().splitlines()[-1].startswith(error)
