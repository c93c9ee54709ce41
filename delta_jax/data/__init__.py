"""Data sets by name, decoded once to one uint8 array; batches by number; augmentation on the device."""

from delta_jax.data.augment import (
    AUGMENTATIONS,
    center_crop,
    normalize,
    random_crop_mirror,
    random_resized_crop,
    random_view,
    ten_crop,
)
from delta_jax.data.batches import batch_rows, batch_table, padded_batches
from delta_jax.data.cache import decode
from delta_jax.data.canvas import Canvas, Pixels, Strip, from_strip, to_canvas
from delta_jax.data.catalogue import SPLITS, Catalogue
from delta_jax.data.color import color_jitter
from delta_jax.data.decoded import Images
from delta_jax.data.errors import DataError
from delta_jax.data.folder import image_files
from delta_jax.data.images import ASPECTS, INTERPOLATIONS, BrokenImageError, decode_image
from delta_jax.data.sources import find

__all__ = [
    "ASPECTS",
    "AUGMENTATIONS",
    "INTERPOLATIONS",
    "SPLITS",
    "BrokenImageError",
    "Canvas",
    "Catalogue",
    "DataError",
    "Images",
    "Pixels",
    "Strip",
    "batch_rows",
    "batch_table",
    "center_crop",
    "color_jitter",
    "decode",
    "decode_image",
    "find",
    "from_strip",
    "image_files",
    "normalize",
    "padded_batches",
    "random_crop_mirror",
    "random_resized_crop",
    "random_view",
    "ten_crop",
    "to_canvas",
]
