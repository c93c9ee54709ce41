"""The network of a finished run as a folder that other programs load: one format for each kind of program."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict

from delta_jax import models, weights
from delta_jax.exports import hub, instructions, litert_file, onnx_file, stablehlo_file, trial
from delta_jax.exports.errors import ExportError
from delta_jax.training import classifier
from delta_jax.training.classifier import Classifier
from delta_jax.training.config import ConfigError
from delta_jax.weights import name_tables
from delta_jax.workdir import json_files, logs
from delta_jax.workdir.checkpoints import save_orbax
from delta_jax.workdir.stored_trees import CheckpointError, reason

# Programs that need nothing of delta_jax: the modules that write and read them.
PROGRAMS = {"onnx": onnx_file, "stablehlo": stablehlo_file, "litert": litert_file}
FORMATS = ("safetensors", "torchvision", "timm", "orbax", "hub", *PROGRAMS)
CONFIG, ORBAX = "config.json", instructions.WEIGHTS_FOLDER
# All that an export may hold.
_ENTRIES = {classifier.MODEL, classifier.FACTS, CONFIG, ORBAX, hub.CARD, *(one.FILE for one in PROGRAMS.values())}


def export(
    trained: Classifier,
    form: str,
    out: Path,
    *,
    workdir: Path | None = None,
    overwrite: bool = False,
    pixels: bool = True,
    opset: int = onnx_file.OPSET,
    repo: str = "",
    say: Callable[[str], None] = logs.say,
) -> str:
    """Writes the folder `out`, which appears under its name only when it is complete.

    safetensors: model.safetensors with names such as "params/fc/kernel" and with architecture, classes and
      preprocessing in its metadata; `weights.load` reads it, and the folder can be the --workdir of predict.
    torchvision, timm: model.safetensors with their names and layouts, and config.json; timm's is what its
      "local-dir:" models are made from.
    orbax: an Orbax checkpoint of {"params", "batch_stats"} in checkpoint/, and classifier.json.
    hub: what timm has, and a model card, README.md: a repository of the Hugging Face Hub.
    onnx, stablehlo, litert: one file, images in and probabilities out, and classifier.json. It is tried on the run's
      test photos by the runtime that it is for; what does not agree is not kept.

    Args:
      trained: what a run ended with.
      form: one of FORMATS.
      out: the folder.
      workdir: of the run, for its test photos and what it measured; None where there is none.
      overwrite: replace an export that lies there.
      pixels: of onnx, stablehlo and litert: uint8 as decoded and cropped go in, or normalised float32.
      opset: of onnx.
      repo: of hub: "user/name", for the lines that load it.
      say: called with each line on what was tried and found.

    Returns:
      A few lines of Python that load it and classify a photo as `predict` does.

    Raises:
      ConfigError: something is in the way.
      WeightsError: the network does not exist in torchvision or timm.
      CheckpointError: the files cannot be written.
      ExportError: a package is missing, or what was written computes something else.
    """
    _refuse_what_is_in_the_way(out, overwrite)
    if form in PROGRAMS and (problem := PROGRAMS[form].missing()):
        raise ExportError(problem)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        if form in PROGRAMS:
            _write_program(trained, form, unfinished, workdir, pixels, opset, say)
        else:
            _write(trained, form, unfinished)
        if form == "hub":
            about = hub.about(trained, workdir)
            lines = instructions.of_repository(trained, repo or hub.NO_NAME)
            (unfinished / hub.CARD).write_text(hub.card(trained, about, repo or hub.NO_NAME, *lines), encoding="utf-8")
        if out.exists():
            replaced = out.with_name(f".{out.name}.{os.getpid()}.old")
            out.rename(replaced)
            unfinished.rename(out)
            shutil.rmtree(replaced)
        else:
            unfinished.rename(out)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{out} could not be written: {reason(error)}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return instructions.usage(trained, form, out, pixels=pixels)


def _refuse_what_is_in_the_way(out: Path, overwrite: bool) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir() or out.is_symlink():
        raise ConfigError(f"{out} is no folder; name another --out")
    entries = {path.name for path in out.iterdir()}
    if others := sorted(entries - _ENTRIES):
        raise ConfigError(f"{out} holds other files, such as {others[0]}; name another --out")
    if entries and not overwrite:
        raise ConfigError(f"{out} holds an export already; replace it with --overwrite, or name another --out")


def _write(trained: Classifier, form: str, folder: Path) -> None:
    facts = classifier.describe(trained.arch, trained.class_names, trained.preprocessing)
    if form in ("torchvision", "timm", "hub"):
        tensors = weights.to_torch(trained.variables, trained.arch, "timm" if form == "hub" else form)
        config = {"architecture": trained.arch} | _classes(trained) if form == "torchvision" else _timm_config(trained)
        json_files.write(folder / CONFIG, config | {"preprocessing": facts["preprocessing"]})
        # Not save_file, which makes files that only their owner can read.
        (folder / classifier.MODEL).write_bytes(safetensors.numpy.save(tensors, {"format": "pt"}))
        return
    json_files.write(folder / classifier.FACTS, facts)
    if form == "orbax":
        save_orbax(folder / ORBAX, trained.variables)
        return
    leaves = flatten_dict(trained.variables, sep="/")
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in leaves.items()}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
    (folder / classifier.MODEL).write_bytes(safetensors.numpy.save(arrays, {"format": "flax", **texts}))


def _write_program(
    trained: Classifier,
    form: str,
    folder: Path,
    workdir: Path | None,
    pixels: bool,
    opset: int,
    say: Callable[[str], None],
) -> None:
    seen, module = trained.preprocessing, PROGRAMS[form]
    facts = classifier.describe(trained.arch, trained.class_names, seen)
    what = "uint8 RGB, resized and cropped" if pixels else "float32 RGB, resized, cropped, / 255, - mean, / std"
    facts["input"] = {"shape": ["batch", seen.crop, seen.crop, 3], "values": what}
    facts["output"] = {"shape": ["batch", len(trained.class_names)], "values": "probabilities of the classes"}
    if form == "onnx":
        onnx_file.write(trained, folder, pixels=pixels, facts=facts, opset=opset)
    else:
        {"stablehlo": stablehlo_file, "litert": litert_file}[form].write(trained, folder, pixels=pixels)
    json_files.write(folder / classifier.FACTS, facts)
    photos = trial.photos_of(workdir, trained) if workdir else trial.made_up(trained, "no run")
    try:
        found = trial.tried(trained, module.reader(folder), photos, pixels=pixels)
    except ExportError:
        raise
    except Exception as error:  # each runtime has its own
        raise ExportError(f"the runtime of {form} does not run what was written: {reason(error)}") from error
    say(str(found))
    weights_alone = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(trained.variables))
    size = (folder / module.FILE).stat().st_size
    say(f"{module.FILE}: {size / 1e6:,.2f} MB, the run's weights {weights_alone / 1e6:,.2f} MB")


def _classes(trained: Classifier) -> dict[str, Any]:
    return {"num_classes": len(trained.class_names), "label_names": list(trained.class_names)}


def _timm_config(trained: Classifier) -> dict[str, Any]:
    """What timm makes a model and its preprocessing from: config.json beside model.safetensors."""
    spec, seen = models.spec(trained.arch), trained.preprocessing
    kernels = {path: leaf for path, leaf in flatten_dict(trained.variables).items() if path[-1] == "kernel"}
    names = name_tables.torch_names(spec, kernels, "timm")
    modules = {path: name.removesuffix(".weight") for name, path in names.items()}
    pretrained = {
        **_classes(trained),
        "input_size": [3, seen.crop, seen.crop],
        "interpolation": seen.interpolation,
        # timm resizes a side to floor(crop / crop_pct): half a pixel more, so that rounding cannot take one away.
        "crop_pct": seen.crop / (seen.resize + 0.5),
        "crop_mode": {"squash": "squash", "keep": "center"}[seen.aspect],
        "mean": seen.mean,
        "std": seen.std,
        "first_conv": next(modules[path] for path, kernel in kernels.items() if kernel.shape[2:3] == (3,)),
        "classifier": modules["params", *spec.head.split("/"), "kernel"],
    }
    made_with = {"model_args": {"aux_logits": True}} if trained.auxiliary else {}
    return {
        "architecture": instructions.timm_name(trained.arch),
        **_classes(trained),
        **made_with,
        "pretrained_cfg": pretrained,
    }
