"""The network of a finished run as a folder that other programs load: one format for each kind of program."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict

from delta_jax import models, weights
from delta_jax.exports import instructions
from delta_jax.training import classifier
from delta_jax.training.classifier import Classifier
from delta_jax.training.config import ConfigError
from delta_jax.workdir import json_files
from delta_jax.workdir.checkpoints import save_orbax
from delta_jax.workdir.stored_trees import CheckpointError, reason

FORMATS = ("safetensors", "torchvision", "timm", "orbax")
CONFIG, ORBAX = "config.json", instructions.WEIGHTS_FOLDER
_ENTRIES = {classifier.MODEL, classifier.FACTS, CONFIG, ORBAX}  # all that an export may hold

# Per family: names in timm of the first convolution and of the classifier.
_TIMM_ENDS = {
    "resnet": ("conv1", "fc"),
    "inception": ("Conv2d_1a_3x3.conv", "fc"),
    "mobilenet_v2": ("conv_stem", "classifier"),
    "efficientnet_lite": ("conv_stem", "classifier"),
    "timm_efficientnet_lite": ("conv_stem", "classifier"),
    "timm_mobilenet_v3": ("conv_stem", "classifier"),
    "efficientnet": ("conv_stem", "classifier"),
    "timm_efficientnet": ("conv_stem", "classifier"),
    "convnext": ("stem.0", "head.fc"),
    "resnetv2": ("stem.conv", "head.fc"),
    "xception": ("conv1", "fc"),
}


def export(trained: Classifier, form: str, out: Path, *, overwrite: bool = False) -> str:
    """Writes the folder `out`, which appears under its name only when it is complete.

    safetensors: model.safetensors with names such as "params/fc/kernel" and with architecture, classes and
      preprocessing in its metadata; `weights.load` reads it, and the folder can be the --workdir of predict.
    torchvision, timm: model.safetensors with their names and layouts, and config.json; timm's is what its
      "local-dir:" models are made from.
    orbax: an Orbax checkpoint of {"params", "batch_stats"} in checkpoint/, and classifier.json.

    Args:
      trained: what a run ended with.
      form: one of FORMATS.
      out: the folder.
      overwrite: replace an export that lies there.

    Returns:
      A few lines of Python that load it and classify a photo as `predict` does.

    Raises:
      ConfigError: something is in the way.
      WeightsError: the network does not exist in torchvision or timm.
      CheckpointError: the files cannot be written.
    """
    _refuse_what_is_in_the_way(out, overwrite)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        _write(trained, form, unfinished)
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
    return instructions.usage(trained, form, out)


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
    if form in ("torchvision", "timm"):
        tensors = weights.to_torch(trained.variables, trained.arch, form)
        config = _timm_config(trained) if form == "timm" else {"architecture": trained.arch} | _classes(trained)
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


def _classes(trained: Classifier) -> dict[str, Any]:
    return {"num_classes": len(trained.class_names), "label_names": list(trained.class_names)}


def _timm_config(trained: Classifier) -> dict[str, Any]:
    """What timm makes a model and its preprocessing from: config.json beside model.safetensors."""
    spec, seen = models.spec(trained.arch), trained.preprocessing
    first, last = _TIMM_ENDS[spec.family]
    pretrained = {
        **_classes(trained),
        "input_size": [3, seen.crop, seen.crop],
        "interpolation": seen.interpolation,
        # timm resizes a side to floor(crop / crop_pct): half a pixel more, so that rounding cannot take one away.
        "crop_pct": seen.crop / (seen.resize + 0.5),
        "crop_mode": {"squash": "squash", "keep": "center"}[seen.aspect],
        "mean": seen.mean,
        "std": seen.std,
        "first_conv": first,
        "classifier": last,
    }
    made_with = {"model_args": {"aux_logits": True}} if trained.auxiliary else {}
    return {
        "architecture": instructions.timm_name(trained.arch),
        **_classes(trained),
        **made_with,
        "pretrained_cfg": pretrained,
    }
