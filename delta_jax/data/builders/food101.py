"""Food-101: 1,000 photos of each of 101 dishes; those to train on are not cleaned of wrong labels."""

import functools
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from delta_jax.data import archives
from delta_jax.data.builders.base import ImageSet, Plan, text_lines
from delta_jax.data.errors import DataError
from delta_jax.data.originals import Original

_ARCHIVE = "food-101.tar.gz"
_LISTS = {split: f"food-101/meta/{split}.txt" for split in ("train", "test")}
_CLASSES = "food-101/meta/classes.txt"


class Food101(ImageSet, skip_registration=True):  # type: ignore[call-arg]
    """Split as published; what tfds' own builder calls "validation" is the test split."""

    name = "food101"
    # No version of tfds' own builder of that name, beside whose files these lie.
    VERSION = tfds.core.Version("101.0.0")
    ORIGINALS = (
        Original(
            _ARCHIVE,
            tuple(f"{scheme}://data.vision.ee.ethz.ch/cvl/{_ARCHIVE}" for scheme in ("https", "http")),
            megabytes=4996,
            size=4_996_278_331,
            algorithm="md5",
            digits="85eeb15f3717b99a5da872d97d918f87",
        ),
    )
    CLASSES = 101
    COUNTS: ClassVar = {"": {"train": 75_750, "test": 25_250}}

    def _info(self) -> tfds.core.DatasetInfo:
        return self._dataset_info(
            description=str(Food101.__doc__),
            homepage="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
            citation="L. Bossard, M. Guillaumin, L. Van Gool: Food-101 - Mining Discriminative Components with Random "
            "Forests. ECCV 2014.",
            licence="the photos belong to who put them on foodspotting.com; scientific fair use",
        )

    def _plan(self, paths: dict[str, Path]) -> Plan:
        archive = paths[_ARCHIVE]
        contents = dict(archives.read(archive, [_CLASSES, *_LISTS.values()]))
        class_names = text_lines(contents[_CLASSES])
        labels = {name: label for label, name in enumerate(class_names)}
        splits: dict[str, dict[str, dict[str, int]]] = {}
        for split, file in _LISTS.items():
            splits[split] = {}
            for line in text_lines(contents[file]):
                label = labels.get(line.split("/")[0])
                if label is None:
                    raise DataError(
                        f"{archive}: {file} names {line}, which is of no class in {_CLASSES}; fetch it again"
                    )
                splits[split][f"food-101/images/{line}.jpg"] = {"label": label}
        return Plan(class_names, splits, functools.partial(archives.read, archive))
