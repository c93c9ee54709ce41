"""MIT Indoor 67: photos of 67 kinds of rooms, 80 of each to train and 20 to test by the lists of its authors."""

import functools
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from delta_jax.data import archives
from delta_jax.data.builders.base import ImageSet, Plan, text_lines
from delta_jax.data.errors import DataError
from delta_jax.data.originals import Original

_ARCHIVE = "indoorCVPR_09.tar"
_LISTS = {"train": "TrainImages.txt", "test": "TestImages.txt"}


class MitIndoor67(ImageSet):
    """The published lists of 5,360 and 1,340 images; the archive's other 8,920 images belong to neither.

    Some files are GIF or PNG under a .jpg name. GIF is stored as PNG. Some names in the lists differ from those in the
    archive by the case of letters.
    """

    name = "mit_indoor67"
    VERSION = tfds.core.Version("1.0.0")
    ORIGINALS = (
        Original(
            _ARCHIVE,
            tuple(
                f"{scheme}://groups.csail.mit.edu/vision/LabelMe/NewImages/{_ARCHIVE}" for scheme in ("https", "http")
            ),
            megabytes=2600,
            algorithm="sha1",
            digits="0b252516e746ba428b96af408d2e8162d9b08ac5",
        ),
        *(
            Original(file, tuple(f"{scheme}://web.mit.edu/torralba/www/{file}" for scheme in ("https", "http")), 0.2)
            for file in _LISTS.values()
        ),
    )
    CLASSES = 67
    COUNTS: ClassVar = {"": {"train": 5_360, "test": 1_340}}

    def _info(self) -> tfds.core.DatasetInfo:
        return self._dataset_info(
            description=str(MitIndoor67.__doc__),
            homepage="https://web.mit.edu/torralba/www/indoor.html",
            citation="A. Quattoni, A. Torralba: Recognizing Indoor Scenes. CVPR 2009.",
            licence="research only; the photos belong to who took them",
        )

    def _plan(self, paths: dict[str, Path]) -> Plan:
        lists = {split: text_lines(paths[file].read_bytes()) for split, file in _LISTS.items()}
        class_names = sorted({line.split("/")[0] for lines in lists.values() for line in lines})
        names = archives.names(paths[_ARCHIVE])
        exact = set(names)
        folded: dict[str, list[str]] = {}
        for name in names:
            folded.setdefault(name.lower(), []).append(name)
        splits: dict[str, dict[str, dict[str, int]]] = {}
        missing = []
        for split, lines in lists.items():
            splits[split] = {}
            for line in lines:
                wanted = f"Images/{line}"
                same = [wanted] if wanted in exact else folded.get(wanted.lower(), [])
                if len(same) == 1:
                    splits[split][same[0]] = {"label": class_names.index(line.split("/")[0])}
                else:
                    missing.append(line)
        if missing:
            raise DataError(
                f"{paths[_ARCHIVE]} lacks {len(missing):,} of the images in {' and '.join(_LISTS.values())}, such as "
                f"{missing[0]}; delete all three and fetch them again"
            )
        return Plan(class_names, splits, functools.partial(archives.read, paths[_ARCHIVE]))
