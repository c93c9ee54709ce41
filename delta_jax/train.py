"""Fine-tunes a pretrained network on a folder of images or a named data set.

    python -m delta_jax.train --config=configs/elpv.py --workdir=runs/elpv --config.method=delta --config.seed=1

The same command again goes on where it stopped. Told to stop, by Ctrl-C, SIGTERM or SIGUSR1, a run saves and exits
with status 128 + the signal: see processes/interruption.py.
"""

import sys
from typing import Any

import jax
from absl import app, flags
from ml_collections import config_flags

from delta_jax import command_line, reports
from delta_jax.data import DataError
from delta_jax.processes import huge_pages, interruption, process_flags
from delta_jax.processes.cluster import ProcessError
from delta_jax.training import advice, trainer
from delta_jax.training.config import ConfigError
from delta_jax.training.fine_tune import DivergedError
from delta_jax.weights import WeightsError
from delta_jax.workdir import storage
from delta_jax.workdir.stored_trees import CheckpointError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Name of a config, such as elpv, or a file; its fields are flags.", lock_config=True
)
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


parse = command_line.parse


def main(_: list[str]) -> Any:
    """Has the run done, then shown."""
    with process_flags.set_up(), interruption.caught():
        try:
            with storage.opened(str(_WORKDIR.value)) as workdir:
                advice.say_unread(_CONFIG.value, command_line.given(_CONFIG.value))
                reports.show(trainer.fit(_CONFIG.value, workdir))
        except KNOWN_ERRORS as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    huge_pages.restart()
    app.run(main, flags_parser=parse)
