"""Data sets by name, decoded once to one uint8 array; batches by number; augmentation on the device."""

import sys

from delta_jax.data.augment import center_crop, normalize, random_crop_mirror, ten_crop
from delta_jax.data.batches import batch_rows, batch_table, padded_batches
from delta_jax.data.cache import Images, decode
from delta_jax.data.catalogue import SPLITS, Catalogue
from delta_jax.data.errors import DataError
from delta_jax.data.folder import image_files
from delta_jax.data.images import ASPECTS, INTERPOLATIONS, BrokenImageError, decode_image
from delta_jax.data.preparation import Prepared, prepare
from delta_jax.data.sources import find

# Registers the paper's data sets with tfds. That takes 0.6 s to import and most users of this package do without it, so
# here only where it is imported already; after it is imported later, `import delta_jax.data.builders` does the same.
if "tensorflow_datasets" in sys.modules:
    import delta_jax.data.builders  # noqa: F401

__all__ = [
    "ASPECTS",
    "INTERPOLATIONS",
    "SPLITS",
    "BrokenImageError",
    "Catalogue",
    "DataError",
    "Images",
    "Prepared",
    "batch_rows",
    "batch_table",
    "center_crop",
    "decode",
    "decode_image",
    "find",
    "image_files",
    "normalize",
    "padded_batches",
    "prepare",
    "random_crop_mirror",
    "ten_crop",
]
