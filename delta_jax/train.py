"""Fine-tunes a pretrained network on a folder of images or a named data set.

    python -m delta_jax.train --config=configs/elpv.py --workdir=runs/elpv --config.method=delta --config.seed=1

The same command again goes on where it stopped. Told to stop, by Ctrl-C, SIGTERM or SIGUSR1, a run saves and exits
with status 128 + the signal: see training/interruption.py.
"""

import argparse
import runpy
import sys
from pathlib import Path
from typing import Any

import jax
from absl import app, flags
from ml_collections import config_flags

from delta_jax.data import DataError
from delta_jax.training import huge_pages, interruption, process_flags, storage, trainer
from delta_jax.training.cluster import ProcessError
from delta_jax.training.config import ConfigError, check_field
from delta_jax.training.fine_tune import DivergedError
from delta_jax.training.stored_trees import CheckpointError
from delta_jax.weights import WeightsError

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/; its fields are flags.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything that the run writes, or gs://...")
flags.mark_flags_as_required(["config", "workdir"])
flags.adopt_module_key_flags(process_flags)

KNOWN_ERRORS = (
    ConfigError,
    DataError,
    WeightsError,
    CheckpointError,
    DivergedError,
    ProcessError,
    FloatingPointError,  # gaps of the attention
    OSError,  # a full disk, a folder that cannot be written
    jax.errors.JaxRuntimeError,  # no memory left on the device
)


def parse(argv: list[str]) -> list[str]:
    """Parses the flags; a config or a field that does not exist ends in one line instead of a traceback."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    given, others = parser.parse_known_args(argv[1:])
    if given.config:
        file, *argument = given.config.split(":", 1)
        if not Path(file).is_file():
            sys.exit(f"error: --config={file}: no such file; configs/ has default.py and others that start from it")
        config = runpy.run_path(file)["get_config"](*argument)
        try:
            for name in (other.partition("=")[0] for other in others if other.startswith("--config.")):
                check_field(config, name.removeprefix("--config."))
        except ConfigError as error:
            sys.exit(f"error: {error}")
    return app.parse_flags_with_usage(argv)


def main(_: list[str]) -> Any:
    """Hands over to the trainer."""
    with process_flags.set_up(), interruption.caught():
        try:
            with storage.opened(str(_WORKDIR.value)) as workdir:
                trainer.fit(_CONFIG.value, workdir)
        except KNOWN_ERRORS as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    huge_pages.restart()
    app.run(main, flags_parser=parse)
