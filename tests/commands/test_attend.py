"""The command attend, in process, with a measurement that is made up."""

import contextlib
import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image

from delta_jax import attend, train
from delta_jax.training import channel_weights
from tests.small_run import ROOT

# How ml_collections loads a config file.
pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method:DeprecationWarning")

TAPS = {"block_2/project_conv": 24, "block_4/project_conv": 40}


@pytest.fixture
def measured():
    rng = np.random.default_rng(0)
    return SimpleNamespace(
        gaps={tap: rng.normal(0, 1e-3, (6, filters)).astype(np.float32) for tap, filters in TAPS.items()},
        images=np.arange(6),
        weights={tap: np.full(filters, 1 / filters, np.float32) for tap, filters in TAPS.items()},
    )


@pytest.fixture
def asked(monkeypatch, measured):
    """What the trainer was asked for: (config, workdir) per call."""
    calls = []

    def trainer_attend(config, workdir):
        calls.append((config, workdir))
        if isinstance(measured, Exception):
            raise measured
        workdir.mkdir()
        return measured

    monkeypatch.setattr(attend.trainer, "attend", trainer_attend, raising=False)
    return calls


@pytest.fixture
def command(monkeypatch, tmp_path, asked):
    """Runs the command with more arguments, in the workdir tmp_path/run."""

    def run(*arguments):
        argv = ["attend", "--config=configs/elpv.py", f"--workdir={tmp_path / 'run'}", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", argv)  # where ml_collections looks for fields
        attend.main(train.parse(argv))

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(attend.process_flags, "set_up", contextlib.nullcontext)
    with flagsaver.flagsaver():
        yield run


def test_a_table_a_picture_and_their_path(command, asked, tmp_path, capsys):
    command("--config.attention_images=6")
    ((config, workdir),) = asked
    assert (config.attention_images, config.data.name) == (6, "elpv")
    assert workdir == tmp_path / "run"
    output = capsys.readouterr().out
    assert "measured on 6 images" in output
    for tap in TAPS:
        assert f"\n{tap} " in output
    assert output.endswith(f"  {workdir / 'attention.png'}\n")
    with Image.open(workdir / "attention.png") as image:
        assert image.format == "PNG"
    assert [path.name for path in workdir.iterdir()] == ["attention.png"]


def test_the_mean_gaps_are_exported(command, measured, tmp_path, capsys):
    export = tmp_path / "new" / "folder" / "channel_wei.json"
    command(f"--export={export}")
    assert capsys.readouterr().out.endswith(f"  {tmp_path / 'run' / 'attention.png'}\n  {export}\n")
    assert [len(one) for one in json.loads(export.read_text())] == list(TAPS.values())
    for tap, gaps in channel_weights.read(export, TAPS).items():
        expected = [sum(column) / 6 for column in measured.gaps[tap].T.tolist()]
        np.testing.assert_allclose(gaps, expected, rtol=1e-6)


def test_a_folder_to_export_to_is_refused_before_the_measurement(command, asked, tmp_path):
    with pytest.raises(SystemExit, match=re.escape(f"error: --export={tmp_path} is a folder; name a file")):
        command(f"--export={tmp_path}")
    assert not asked


@pytest.mark.parametrize("measured", [FloatingPointError("gaps are not finite"), OSError(28, "No space left")])
def test_an_error_is_one_line(command, measured):
    with pytest.raises(SystemExit, match=re.escape(f"error: {measured}")):
        command()


def test_help_names_every_flag():
    names = {flag.name for flag in flags.FLAGS.get_key_flags_for_module(attend.__name__)}
    assert {"config", "workdir", "export"} <= names
