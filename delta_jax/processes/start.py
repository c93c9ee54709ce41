"""What every command does before jax has devices."""

import os
from pathlib import Path

import jax
from absl import logging


def set_up_process() -> None:
    """What every command does first: programs compiled by an earlier one are taken from disk, and jax starts quietly.

    Several processes have come together before. JAX_COMPILATION_CACHE_DIR chooses another place than $DELTA_JAX_CACHE
    or ~/.cache/delta_jax.
    """
    logging.set_verbosity(logging.WARNING)  # jax tells of every platform it does not find
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = Path(os.environ.get("DELTA_JAX_CACHE") or Path.home() / ".cache" / "delta_jax")
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
