"""Caltech-256: 30,607 photos of 256 kinds of things and of clutter; no split was published with it."""

import functools
import hashlib
import re
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from delta_jax.data import archives
from delta_jax.data.builders.base import ImageSet, Plan
from delta_jax.data.originals import Original

_ARCHIVE = "256_ObjectCategories.tar"
# The archive also holds a stray file and somebody's folder, which nobody counts.
_IMAGE = re.compile(r"256_ObjectCategories/((\d{3})\.[^/]+)/\2_\d{4}\.jpg")
_CLUTTER = "257.clutter"
SEEDS = range(5)  # the paper repeats each of its runs five times
_LARGEST = 60  # images per class that any config trains on


class Caltech256(ImageSet):
    """l2sp-K: the first K files of each of the 257 folders to train, all from 61 on to test, as L2-SP's code does.

    random-K-seedS: K random files of each of the 256 classes without clutter, as the papers put it. They leave open
    what to test on; here it is what neither K = 30 nor K = 60 trains on (20 or more of each class), so that both are
    tested on the same images. The 30 of a seed are among its 60.
    """

    name = "caltech256"
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (
        *(
            tfds.core.BuilderConfig(name=f"l2sp-{k}", description=f"Files 1-{k} of 257 folders; tested on 61 and on.")
            for k in (30, 60)
        ),
        *(
            tfds.core.BuilderConfig(
                name=f"random-{k}-seed{seed}", description=f"{k} random files of 256 classes; tested on the same rest."
            )
            for k in (30, 60)
            for seed in SEEDS
        ),
    )
    ORIGINALS = (
        Original(
            _ARCHIVE,
            (f"https://data.caltech.edu/records/nyy15-4j048/files/{_ARCHIVE}",),
            megabytes=1200,
            algorithm="md5",
            digits="67b4f42ca05d46448c6bb8ecd2220f6d",
        ),
    )
    CLASSES = 257
    COUNTS: ClassVar = {
        "l2sp-30": {"train": 7_710, "test": 15_187},
        "l2sp-60": {"train": 15_420, "test": 15_187},
        **{f"random-30-seed{seed}": {"train": 7_680, "test": 14_420} for seed in SEEDS},
        **{f"random-60-seed{seed}": {"train": 15_360, "test": 14_420} for seed in SEEDS},
    }

    def _info(self) -> tfds.core.DatasetInfo:
        return self._dataset_info(
            description=str(Caltech256.__doc__),
            homepage="https://data.caltech.edu/records/nyy15-4j048",
            citation="G. Griffin, A. Holub, P. Perona: Caltech-256 Object Category Dataset. Caltech, 2007.",
            licence="stated on https://data.caltech.edu/records/nyy15-4j048; the photos belong to who took them",
        )

    def _classes(self) -> int:
        return self.CLASSES - (self._protocol()[0] == "random")

    def _protocol(self) -> tuple[str, int, str]:
        """("l2sp" or "random", images per class, "" or the seed)."""
        kind, per_class, *seed = self.builder_config.name.split("-")
        return kind, int(per_class), seed[0] if seed else ""

    def _plan(self, paths: dict[str, Path]) -> Plan:
        kind, per_class, seed = self._protocol()
        folders: dict[str, list[str]] = {}
        for name in archives.names(paths[_ARCHIVE]):
            if match := _IMAGE.fullmatch(name):
                folders.setdefault(match[1], []).append(name)
        if kind == "random":
            folders.pop(_CLUTTER, None)
        class_names = sorted(folders)
        rows: dict[str, dict[str, dict[str, int]]] = {"train": {}, "test": {}}
        for label, folder in enumerate(class_names):
            files = sorted(folders[folder], key=functools.partial(_lot, seed) if kind == "random" else None)
            rows["train"].update({name: {"label": label} for name in files[:per_class]})
            rows["test"].update({name: {"label": label} for name in files[_LARGEST:]})
        return Plan(class_names, rows, functools.partial(archives.read, paths[_ARCHIVE]))


def _lot(seed: str, name: str) -> bytes:
    """Random, and the same on any machine and with any version of numpy."""
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()
