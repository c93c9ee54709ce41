"""Writes the network of a finished run for other programs.

    python -m delta_jax.export --workdir=runs/elpv --format=timm [--out=FOLDER] [--overwrite]
    python -m delta_jax.export --workdir=runs/elpv --format=onnx [--input=pixels|images] [--opset=18]
    python -m delta_jax.export --workdir=runs/elpv --format=hub [--push=USER/NAME]

A folder with the weights, the classes and the preprocessing; the last lines printed are Python that loads them.
Programs (onnx, stablehlo, litert) are tried on the run's test photos, by the runtime that they are for, before they get
their name.
"""

import sys
from pathlib import Path

from absl import app, flags

from delta_jax import command_line, processes
from delta_jax.exports import formats, hub, onnx_file
from delta_jax.exports.errors import ExportError
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
    "Who is to load it: delta_jax and others of JAX (safetensors, orbax), PyTorch (torchvision, timm), the Hugging "
    "Face Hub (hub: as timm, with a card), or a runtime that needs no code of the network (onnx, stablehlo, litert).",
    required=True,
)
_OUT = flags.DEFINE_string("out", "", "Folder to write; WORKDIR/export_FORMAT if not given.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an earlier export.")
_INPUT = flags.DEFINE_enum(
    "input",
    "pixels",
    ["pixels", "images"],
    "Of onnx, stablehlo and litert: uint8 as decoded, resized and cropped go in, or float32 that is normalised, too.",
)
_OPSET = flags.DEFINE_integer("opset", onnx_file.OPSET, "Of onnx: version of its operators.", lower_bound=1)
_PUSH = flags.DEFINE_string("push", "", "Of hub: USER/NAME on the Hugging Face Hub to upload the folder to.")


def main(_: list[str]) -> None:
    """Prints what was written and how to load it."""
    processes.set_up_process()
    workdir = Path(_WORKDIR.value)
    out = Path(_OUT.value) if _OUT.value else workdir / f"export_{_FORMAT.value}"
    try:
        _refuse_flags_of_other_formats()
        if _PUSH.value:
            hub.check_name(_PUSH.value)
        trained = Classifier(workdir)
        usage = formats.export(
            trained,
            _FORMAT.value,
            out,
            workdir=workdir,
            overwrite=_OVERWRITE.value,
            pixels=_INPUT.value == "pixels",
            opset=_OPSET.value,
            repo=_PUSH.value,
        )
        if _PUSH.value:
            hub.push(out, _PUSH.value, logs.say)
    except (ConfigError, CheckpointError, WeightsError, ExportError, OSError) as error:
        sys.exit(f"error: {error}")
    logs.say(f"{trained.arch} with {len(trained.class_names)} classes, for {_FORMAT.value}:")
    for path in sorted(out.iterdir()):
        logs.say(f"  {path}")
    print(f"\n{usage}")


def _refuse_flags_of_other_formats() -> None:
    for flag, forms in ((_INPUT, tuple(formats.PROGRAMS)), (_OPSET, ("onnx",)), (_PUSH, ("hub",))):
        if flag.present and _FORMAT.value not in forms:
            raise ExportError(f"--{flag.name} is of --format={' or '.join(forms)}, not of {_FORMAT.value}")


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse)
