"""Classifies photos with a trained network.

    python -m delta_jax.predict --workdir=runs/elpv PHOTO_OR_FOLDER... [--json] [--top=3]

Photos that cannot be read, and pictures in a folder that are of another kind, are named at the end, and the exit status
is 1; the others are classified.
"""

import json
import sys
from functools import partial
from pathlib import Path

from absl import app, flags

from delta_jax import command_line, data, processes
from delta_jax.training.classifier import Classifier
from delta_jax.training.config import ConfigError
from delta_jax.workdir import logs, storage
from delta_jax.workdir.stored_trees import CheckpointError

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run, or gs://...", required=True)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object per photo instead of a table.")
_TOP = flags.DEFINE_integer("top", 1, "How many classes to show per photo, the most probable first.", lower_bound=1)

BATCH = 32


def main(argv: list[str]) -> None:
    """Prints a class and its probability for every photo."""
    if _JSON.value:
        logs.leave_stdout()
    processes.set_up_process()
    try:
        classifier = Classifier(storage.fetched(_WORKDIR.value))
        photos, unread = _photos(argv[1:])
    except (ConfigError, CheckpointError, data.DataError, storage.StorageError) as error:
        sys.exit(f"error: {error}")
    broken = [f"{photo}: not read, save it as .jpg or .png" for photo in unread]
    rows, remarks = [], []
    for start in range(0, len(photos), BATCH):
        good, pixels = [], []
        for photo in photos[start : start + BATCH]:
            try:
                pixels.append(classifier.decode(photo))
                good.append(photo)
                if remark := classifier.remark(photo):
                    remarks.append(f"{photo}: {remark}")
            except data.DataError as error:
                broken.append(f"{photo}: {error}")
        # One shape for every batch, so that the network is compiled once.
        padded = pixels + pixels[:1] * (BATCH - len(pixels))
        probabilities = list(classifier.probabilities(padded)[: len(good)]) if good else []
        for photo, one in zip(good, probabilities, strict=True):
            best = one.argsort()[::-1][: _TOP.value]
            found = {classifier.class_names[k]: round(float(one[k]), 6) for k in best}
            if _JSON.value:
                name = classifier.class_names[best[0]]
                print(
                    json.dumps({"file": str(photo), "class": name, "probability": found[name], "probabilities": found})
                )
            rows += [[str(photo), name, f"{p:.2%}"] for name, p in found.items()]
    if not _JSON.value and rows:
        logs.table(f"{classifier.arch} of {_WORKDIR.value}", ["photo", "class", "probability"], rows)
    if remarks:
        more = [f"and {len(remarks) - 10} more"] if len(remarks) > 10 else []
        print("not all is seen:\n  " + "\n  ".join(remarks[:10] + more), file=sys.stderr)
    if broken:
        sys.exit("not classified:\n  " + "\n  ".join(broken))


def _photos(names: list[str]) -> tuple[list[Path], list[Path]]:
    """The photos named, and those in the folders named; and pictures there of kinds that are not read."""
    if not names:
        raise data.DataError("no photos given; name image files or folders after the flags")
    photos: list[Path] = []
    unread: list[Path] = []
    for name in map(data.existing, names):
        if not name.exists():
            raise data.DataError(f"{name} does not exist")
        if not name.is_dir():
            photos.append(name)
            continue
        found = data.look_through(name)
        left_out = "; ".join(data.left_out(found.walk()))
        if not found.images:
            raise data.DataError(f"{name} holds no images" + (f"; found there: {left_out}" if left_out else ""))
        if left_out:
            print(f"left out of {name}: {left_out}", file=sys.stderr)
        photos += found.images
        unread += sorted(path for folder in found.walk() for path in folder.pictures)
    return photos, unread


if __name__ == "__main__":
    app.run(main, flags_parser=partial(command_line.parse, positional=True))
