"""Writes the network of a finished run for other programs.

    python -m delta_jax.export --workdir=runs/elpv --format=timm [--out=FOLDER] [--overwrite]

A folder with the weights, the classes and the preprocessing; the last lines printed are Python that loads them.
"""

import sys
from pathlib import Path

from absl import app, flags

from delta_jax import command_line, processes
from delta_jax.exports import formats
from delta_jax.training.classifier import Classifier
from delta_jax.training.config import ConfigError
from delta_jax.weights import WeightsError
from delta_jax.workdir import logs
from delta_jax.workdir.stored_trees import CheckpointError

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run.", required=True)
_FORMAT = flags.DEFINE_enum(
    "format",
    None,
    formats.FORMATS,
    "Who is to load it: delta_jax and others of JAX (safetensors, orbax), or PyTorch (torchvision, timm).",
    required=True,
)
_OUT = flags.DEFINE_string("out", "", "Folder to write; WORKDIR/export_FORMAT if not given.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an earlier export.")


def main(_: list[str]) -> None:
    """Prints what was written and how to load it."""
    processes.set_up_process()
    workdir = Path(_WORKDIR.value)
    out = Path(_OUT.value) if _OUT.value else workdir / f"export_{_FORMAT.value}"
    try:
        trained = Classifier(workdir)
        usage = formats.export(trained, _FORMAT.value, out, overwrite=_OVERWRITE.value)
    except (ConfigError, CheckpointError, WeightsError, OSError) as error:
        sys.exit(f"error: {error}")
    logs.say(f"{trained.arch} with {len(trained.class_names)} classes, for {_FORMAT.value}:")
    for path in sorted(out.iterdir()):
        logs.say(f"  {path}")
    print(f"\n{usage}")


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse)
