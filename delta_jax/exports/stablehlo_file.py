"""model.stablehlo: what jax.export writes, read by jax.export.deserialize wherever jax is."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax import export

from delta_jax.exports import programs
from delta_jax.training.classifier import Classifier

FILE = "model.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")


def missing() -> str:
    """What to install, "" if all is there."""
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:  # jax.export says it in the middle of its work
        return f"stablehlo needs {error.name}; run: pip install flatbuffers (or delta_jax[stablehlo])"
    return ""


def write(trained: Classifier, folder: Path, *, pixels: bool) -> None:
    """Writes FILE, for any number of images and for all PLATFORMS."""
    (count,) = export.symbolic_shape("batch")
    program = jax.jit(programs.program(trained, pixels=pixels))
    exported = export.export(program, platforms=PLATFORMS)(programs.images_of(trained, count, pixels=pixels))
    (folder / FILE).write_bytes(exported.serialize())


def reader(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The file as a function: images as they were declared -> probabilities."""
    call = jax.jit(export.deserialize(bytearray((folder / FILE).read_bytes())).call)
    return lambda images: np.asarray(call(images))
