"""Commands as README, docs/, configs and scripts have them: their configs take all their fields."""

import ast
import re
import shlex
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from delta_jax import command_line
from delta_jax import train as train  # its flags
from tests.small_run import ROOT

# How ml_collections loads a config file.
pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method:DeprecationWarning")

_COMMAND = re.compile(r"python -m delta_jax\.\w+ (?:[^\n]*\\\n)*[^\n]*")


def texts():
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        yield path, path.read_text()
    for folder in ("configs", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, ast.get_docstring(ast.parse(path.read_text())) or ""


def commands():
    """(file, the flags of the config)."""
    for path, text in texts():
        for command in _COMMAND.findall(text):
            # A line of prose goes on behind the code.
            words = shlex.split(command.split("`")[0].replace("\\\n", " "), comments=True)
            config = [word for word in words if re.match(r"--(no)?config", word)]
            # "..." stands for a part of a command, mine.py for a reader's own config.
            if config and "..." not in words and "--config=mine.py" not in config:
                yield pytest.param(config, id=f"{path.relative_to(ROOT)}: {' '.join(config)[:80]}")


def test_there_are_commands_to_look_at():
    assert len(list(commands())) > 50


@pytest.mark.parametrize("config", list(commands()))
def test_a_config_takes_the_flags(config, monkeypatch):
    monkeypatch.chdir(ROOT)
    argv = ["train", *config, "--workdir=x"]
    monkeypatch.setattr(sys, "argv", argv)  # where ml_collections looks for fields
    with flagsaver.flagsaver():
        command_line.parse(argv)
    flags.FLAGS.unparse_flags()
