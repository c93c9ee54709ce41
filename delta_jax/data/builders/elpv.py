"""ELPV as a TensorFlow Data Set: the solar cells of the package elpv-dataset, see `delta_jax.data.elpv`."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from delta_jax.data import elpv
from delta_jax.data.builders.base import ImageSet, Plan
from delta_jax.data.splits import Splitting


class Elpv(ImageSet):
    """Functional and defective cells, split as published; `defect_probability` is 0, 1/3, 2/3 or 1."""

    name = "elpv"
    VERSION = tfds.core.Version("1.0.0")
    CLASSES = 2
    COUNTS: ClassVar = {"": {"train": 1_968, "test": 656}}
    CHANNELS = 1

    def _info(self) -> tfds.core.DatasetInfo:
        return self._dataset_info(
            description=str(Elpv.__doc__),
            homepage="https://github.com/zae-bayern/elpv-dataset",
            citation="C. Buerhop-Lutz et al.: A Benchmark for Visual Identification of Defective Solar Cells in "
            "Electroluminescence Imagery. EU PVSEC 2018.",
            licence=elpv.LICENCE,
            defect_probability=tfds.features.Scalar(np.float32),
        )

    def _plan(self, paths: dict[str, Path]) -> Plan:
        two, four = (
            elpv.find(name, "", Splitting(validation_fraction=0.0, test_fraction=elpv.TEST_FRACTION))
            for name in ("elpv", "elpv_4class")
        )
        rows = {file: row for row, file in enumerate(two.files)}

        def read(names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
            return ((name, two.read(rows[name])) for name in names)

        splits = {
            split: {
                two.files[row]: {"label": int(two.labels[row]), "defect_probability": np.float32(four.labels[row] / 3)}
                for row in two.rows(split)
            }
            for split in ("train", "test")
        }
        return Plan(list(two.class_names), splits, read)
