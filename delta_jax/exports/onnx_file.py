"""model.onnx: written by jax2onnx, run by onnxruntime. Neither is needed for anything else."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from delta_jax.exports import programs
from delta_jax.exports.errors import ExportError
from delta_jax.training.classifier import Classifier

FILE = "model.onnx"
OPSET = 18  # read by every onnxruntime since 1.14 (February 2023)
IMAGES, PROBABILITIES = "images", "probabilities"  # names of input and output
# jax2onnx 0.17.1 cannot pad where the size of a batch is not known, and makes of other pools some over four axes, which
# onnxruntime does not run. numpy's padding and flax's pools it knows.
_RULES = {
    "pad": programs.padding_of_numpy,
    "reduce_window_max": programs.pooling_of_flax,
    "reduce_window_sum": programs.pooling_of_flax,
}


def missing() -> str:
    """What to install, "" if all is there."""
    try:
        import jax2onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        return f"onnx needs {error.name}; run: pip install jax2onnx onnxruntime (or delta_jax[onnx])"
    return ""


def write(trained: Classifier, folder: Path, *, pixels: bool, facts: Mapping[str, Any], opset: int) -> None:
    """Writes FILE, for any number of images; its metadata have `facts`, as JSON where they are no text.

    Raises:
      ExportError: jax2onnx cannot write some operation of the network.
    """
    import jax2onnx

    (count,) = jax.export.symbolic_shape("batch")
    images = programs.images_of(trained, count, pixels=pixels)
    plain = programs.plain(programs.program(trained, pixels=pixels), images, _RULES)
    try:
        # What it traces in place of flax and numpy adds integers to floats, whatever the process has said of that.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            model: Any = jax2onnx.to_onnx(
                plain, [images], model_name="network", opset=opset, input_names=[IMAGES], output_names=[PROBABILITIES]
            )
    except Exception as error:  # it raises what it likes
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"jax2onnx cannot write {trained.arch} with opset {opset}: {line}") from error
    for name, value in facts.items():
        model.metadata_props.add(key=name, value=value if isinstance(value, str) else json.dumps(value))
    (folder / FILE).write_bytes(model.SerializeToString())


def reader(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The file as a function: images as they were declared -> probabilities."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    return lambda images: session.run([PROBABILITIES], {IMAGES: images})[0]
