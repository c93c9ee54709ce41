"""Measures a trained network again: on the run's own splits, or on other images of the same classes.

python -m delta_jax.evaluate --workdir=runs/elpv [--split=validation] [--crops=10] [--root=OTHER_FOLDER_OR_MANIFEST]
"""

import json
import sys
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict

from delta_jax import command_line, data, processes, weights
from delta_jax.processes import process_flags
from delta_jax.processes.cluster import ProcessError
from delta_jax.training import agreement, measured_images, stored_config
from delta_jax.training import config as configs
from delta_jax.training.classifier import Classifier
from delta_jax.training.setup import Setup
from delta_jax.workdir import logs, storage
from delta_jax.workdir.storage import StorageError
from delta_jax.workdir.stored_trees import CheckpointError

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run, or gs://...", required=True)
_SPLIT = flags.DEFINE_enum("split", "test", data.SPLITS, "Which images.")
_CROPS = flags.DEFINE_enum("crops", "", ["", "1", "10"], "Centre crop or ten crops; as the run if not given.")
_ROOT = flags.DEFINE_string(
    "root",
    "",
    "Other images of the same classes, all for testing: a folder root/<class>/*, one with root/test/<class>/*, a "
    "manifest (.csv, .jsonl), or Parquet or Arrow files; for a run on tfds or elpv, where that data set lies. The "
    "run's own if not given. Images that it was trained on are left out; of its own data, moved, its own split is "
    "measured.",
)
_SPLIT_COLUMN = flags.DEFINE_string(
    "split_column", "", "Of a table, such as --root: which column says the split; as --config.data.split_column."
)
_IMAGE_COLUMN = flags.DEFINE_string("image_column", "", "Of Parquet or Arrow files; as --config.data.image_column.")
_LABEL_COLUMN = flags.DEFINE_string("label_column", "", "Of Parquet or Arrow files; as --config.data.label_column.")
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object instead of a table; all else goes to stderr.")
flags.adopt_module_key_flags(process_flags)

_KNOWN_ERRORS = (configs.ConfigError, data.DataError, weights.WeightsError, CheckpointError, ProcessError, StorageError)


def main(_: list[str]) -> None:
    """Prints top-1, balanced accuracy and cross-entropy."""
    if _JSON.value:
        logs.leave_stdout()
    with process_flags.set_up():
        try:
            measured, title = _measure(storage.fetched(_WORKDIR.value))
        except _KNOWN_ERRORS as error:
            sys.exit(f"error: {error}")
        if processes.is_first():
            _show(measured, title)


def _show(measured: dict[str, float], title: str) -> None:
    if _JSON.value:
        print(json.dumps(measured))
        return
    row = [
        f"{measured['top1']:.2%}",
        f"{measured['balanced_accuracy']:.2%}",
        f"{measured['cross_entropy']:.4f}",
        measured["n"],
    ]
    logs.table(title, ["top-1", "balanced", "cross-entropy", "images"], [row])


def _measure(workdir: Path) -> tuple[dict[str, float], str]:
    classifier = Classifier(workdir)
    stored = ConfigDict(stored_config.read(workdir).to_dict())
    if _CROPS.value:
        stored.eval_crops = int(_CROPS.value)
    stored.data.white = classifier.preprocessing.white
    others = bool(_ROOT.value) and data.is_own(stored.data.name)
    if _ROOT.value and not others:
        stored.data.root = _ROOT.value
    columns = {
        "split_column": _SPLIT_COLUMN.value,
        "image_column": _IMAGE_COLUMN.value,
        "label_column": _LABEL_COLUMN.value,
    }
    if not others:
        stored.data.update({field: column for field, column in columns.items() if column})
    resolved = configs.resolve(stored)
    agreement.on_config(resolved, split=_SPLIT.value)
    if others:
        catalogue = measured_images.others(
            workdir, resolved, _ROOT.value, classifier.class_names, _SPLIT.value, **columns
        )
    else:
        catalogue = measured_images.own(workdir, resolved, _SPLIT.value)
    setup = Setup(resolved, images=catalogue, trains=False)
    agreement.on_setup(setup, classifier.variables)
    for note in setup.catalogue.notes:
        logs.say(note)
    # Runs of earlier versions may know their classes in the other Unicode form.
    if [*map(data.nfc, setup.catalogue.class_names)] != [*map(data.nfc, classifier.class_names)]:
        raise data.DataError(
            f"the images have the classes {', '.join(setup.catalogue.class_names)}; "
            f"the network knows {', '.join(classifier.class_names)}"
        )
    images = {"train": setup.train, "validation": setup.validation, "test": setup.test}[_SPLIT.value]
    if not len(images):
        raise data.DataError(f"there are no {_SPLIT.value} images in {_ROOT.value or 'the data of this run'}")
    measured = setup.measures(setup.place(classifier.variables), images, _SPLIT.value)
    which = catalogue.name if others else stored.data.name
    return measured, f"{stored.method} of {_WORKDIR.value}, {which}, {_SPLIT.value}, {stored.eval_crops} crop(s)"


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse)
