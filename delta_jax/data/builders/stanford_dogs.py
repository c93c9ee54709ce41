"""Stanford Dogs: 20,580 photos of 120 breeds out of ImageNet, with the lists of its authors."""

import functools
import io
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from delta_jax.data import archives
from delta_jax.data.builders.base import ImageSet, Plan
from delta_jax.data.errors import DataError
from delta_jax.data.originals import Original

_ADDRESS = "http://vision.stanford.edu/aditya86/ImageNetDogs/"
_LISTS = {"train": "train_list.mat", "test": "test_list.mat"}


class StanfordDogs(ImageSet, skip_registration=True):  # type: ignore[call-arg]
    """Split by the published lists, 100 of each breed to train.

    All images are in ImageNet's training set: a source network that was trained there has seen the test images.
    """

    name = "stanford_dogs"
    # No version of tfds' own builder of that name, beside whose files these lie.
    VERSION = tfds.core.Version("120.0.0")
    ORIGINALS = (
        Original(
            "images.tar",
            (f"{_ADDRESS}images.tar",),
            megabytes=794,
            size=793_579_520,
            digits="a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58",
        ),
        Original(
            "lists.tar",
            (f"{_ADDRESS}lists.tar",),
            megabytes=0.5,
            digits="34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c",
        ),
    )
    CLASSES = 120
    COUNTS: ClassVar = {"": {"train": 12_000, "test": 8_580}}

    def _info(self) -> tfds.core.DatasetInfo:
        return self._dataset_info(
            description=str(StanfordDogs.__doc__),
            homepage="http://vision.stanford.edu/aditya86/ImageNetDogs/main.html",
            citation="A. Khosla, N. Jayadevaprakash, B. Yao, L. Fei-Fei: Novel Dataset for Fine-Grained Image "
            "Categorization. FGVC workshop, CVPR 2011.",
            licence="ImageNet's: non-commercial research and education; the photos belong to who took them",
        )

    def _plan(self, paths: dict[str, Path]) -> Plan:
        splits = {split: _entries(paths["lists.tar"], file) for split, file in _LISTS.items()}
        # In the lists, breeds are numbered in the order of their folders.
        folders = {label: name.split("/")[1] for rows in splits.values() for name, label in rows.items()}
        class_names = [folders[label] for label in sorted(folders)]
        if class_names != sorted(set(class_names)) or sorted(folders) != list(range(len(folders))):
            raise DataError(
                f"{paths['lists.tar']}: the labels are not those of the folders; delete it and fetch it again"
            )
        return Plan(
            class_names,
            {split: {name: {"label": label} for name, label in rows.items()} for split, rows in splits.items()},
            functools.partial(archives.read, paths["images.tar"]),
        )


def _entries(lists: Path, file: str) -> dict[str, int]:
    """{name in images.tar: label from 0}."""
    import scipy.io

    try:
        table = scipy.io.loadmat(io.BytesIO(dict(archives.read(lists, [file]))[file]))
        files = [str(cell[0].item()) for cell in table["file_list"]]
        labels = [int(label) - 1 for label in table["labels"].reshape(-1)]
        return {f"Images/{name}": label for name, label in zip(files, labels, strict=True)}
    except DataError:
        raise
    except Exception as error:  # scipy raises nearly anything on damaged data
        raise DataError(f"{lists}: {file} is no list of images ({error}); delete it and fetch it again") from error
