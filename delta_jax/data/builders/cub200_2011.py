"""CUB-200-2011: photos of 200 kinds of birds, with the bird's box and where 15 parts of it are."""

import functools
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from delta_jax.data import archives
from delta_jax.data.builders.base import ImageSet, Plan, text_lines
from delta_jax.data.errors import DataError
from delta_jax.data.originals import Original

_ARCHIVE = "CUB_200_2011.tgz"
_FOLDER = "CUB_200_2011"
_TABLES = (
    "images.txt",
    "image_class_labels.txt",
    "train_test_split.txt",
    "bounding_boxes.txt",
    "classes.txt",
    "parts/parts.txt",
    "parts/part_locs.txt",
)
PARTS = (
    *("back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing"),
    *("nape", "right eye", "right leg", "right wing", "tail", "throat"),
)


class Cub2002011(ImageSet):
    """Split as published. Boxes are x, y, width, height; parts are x, y and 1 if visible, else 0; all in pixels.

    The row of a part is that of its name in `PARTS`. The x and y of a part that is not visible are 0.
    """

    name = "cub200_2011"
    VERSION = tfds.core.Version("1.0.0")
    ORIGINALS = (
        Original(
            _ARCHIVE,
            (f"https://data.caltech.edu/records/65de6-vp158/files/{_ARCHIVE}",),
            megabytes=1151,
            size=1_150_585_339,
            algorithm="md5",
            digits="97eceeb196236b17998738112f37df78",
        ),
    )
    CLASSES = 200
    COUNTS: ClassVar = {"": {"train": 5_994, "test": 5_794}}

    def _info(self) -> tfds.core.DatasetInfo:
        return self._dataset_info(
            description=str(Cub2002011.__doc__),
            homepage="https://www.vision.caltech.edu/datasets/cub_200_2011/",
            citation="C. Wah, S. Branson, P. Welinder, P. Perona, S. Belongie: The Caltech-UCSD "
            "Birds-200-2011 Dataset. CNS-TR-2011-001, Caltech, 2011.",
            licence="non-commercial research and education; the photos belong to who took them",
            bbox=tfds.features.Tensor(shape=(4,), dtype=np.float32),
            parts=tfds.features.Tensor(shape=(len(PARTS), 3), dtype=np.float32),
        )

    def _plan(self, paths: dict[str, Path]) -> Plan:
        archive = paths[_ARCHIVE]
        contents = dict(archives.read(archive, [f"{_FOLDER}/{table}" for table in _TABLES]))
        rows = {
            table: [line.split(maxsplit=4) for line in text_lines(contents[f"{_FOLDER}/{table}"])] for table in _TABLES
        }
        try:
            return self._joined(rows, archive)
        except (ValueError, KeyError, IndexError) as error:
            raise DataError(f"{archive}: its tables do not fit each other ({error!r}); fetch it again") from error

    def _joined(self, rows: dict[str, list[list[str]]], archive: Path) -> Plan:
        """Every table begins with the number of the image, from 1, but for those of classes and of parts."""
        part_names = tuple(" ".join(words) for _, *words in rows["parts/parts.txt"])
        if part_names != PARTS:
            raise ValueError(f"parts {', '.join(part_names)}")
        labels = {image: int(label) - 1 for image, label in rows["image_class_labels.txt"]}
        trains = {image: train == "1" for image, train in rows["train_test_split.txt"]}
        boxes = {image: np.array(box, np.float32) for image, *box in rows["bounding_boxes.txt"]}
        parts = {image: np.zeros((len(PARTS), 3), np.float32) for image in labels}
        for image, part, x, y, visible in rows["parts/part_locs.txt"]:
            parts[image][int(part) - 1] = float(x), float(y), float(visible)
        splits: dict[str, dict[str, dict[str, object]]] = {"train": {}, "test": {}}
        for image, file in rows["images.txt"]:
            splits["train" if trains[image] else "test"][f"{_FOLDER}/images/{file}"] = {
                "label": labels[image],
                "bbox": boxes[image],
                "parts": parts[image],
            }
        return Plan([name for _, name in rows["classes.txt"]], splits, functools.partial(archives.read, archive))
