"""model.tflite: written by LiteRT's own converter from StableHLO, without TensorFlow and torch; run by LiteRT."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from delta_jax.exports import programs
from delta_jax.exports.errors import ExportError
from delta_jax.training.classifier import Classifier

FILE = "model.tflite"
IMAGES, PROBABILITIES = "images", "probabilities"  # names of input and output
_SIGNATURE = "serving_default"
# litert-converter 0.5.0 makes of a Dense layer on [B, H, W, C] a product of batches whose shape it then refuses.
_RULES = {"dot_general": programs.dense_as_convolution}


def missing() -> str:
    """What to install, "" if all is there."""
    try:
        import ai_edge_litert.interpreter  # noqa: F401
        import litert_converter  # noqa: F401
    except ImportError as error:
        return f"litert needs {error.name}; run: pip install litert-converter ai-edge-litert (or delta_jax[litert])"
    return ""


def write(trained: Classifier, folder: Path, *, pixels: bool) -> None:
    """Writes FILE, for one image at a time.

    Raises:
      ExportError: the converter cannot write some operation of the network.
    """
    from litert_converter.mlir import ir, passmanager
    from litert_converter.mlir._mlir_libs import converter_api_ext as converter

    one = programs.images_of(trained, 1, pixels=pixels)
    plain = programs.plain(programs.program(trained, pixels=pixels), one, _RULES)
    bytecode = io.BytesIO()
    lowered: Any = jax.jit(plain).lower(one).compiler_ir("stablehlo")
    lowered.operation.write_bytecode(bytecode)
    context = ir.Context()
    converter.prepare_mlir_context(context)
    try:
        with context:
            module = ir.Module.parse(bytecode.getvalue())
            converter.set_signature(
                module.operation, signature_name=_SIGNATURE, input_names=[IMAGES], output_names=[PROBABILITIES]
            )
            converter.run_convert_to_tfl_passes(module, passmanager.PassManager(), converter.ConvertToTFLConfig())
            content = converter.export_flatbuffer_to_bytes(module.operation)
    except Exception as error:  # MLIR's, and nanobind's for what it does not know
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"LiteRT's converter cannot write {trained.arch}: {line}") from error
    (folder / FILE).write_bytes(content)


def reader(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The file as a function: images as they were declared, one at a time inside -> probabilities."""
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_content=(folder / FILE).read_bytes()).get_signature_runner(_SIGNATURE)
    return lambda images: np.concatenate([run(**{IMAGES: image[None]})[PROBABILITIES] for image in images])
