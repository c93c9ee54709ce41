"""Data sets by name, decoded once to one uint8 array; batches by number; augmentation on the device."""

# First: `tfds.builder("caltech256/l2sp-30")` is to work after `import delta_jax.data`.
from delta_jax.data import builders  # isort: skip
from delta_jax.data.augment import (
    AUGMENTATIONS,
    center_crop,
    normalize,
    quarter_turns,
    random_crop_mirror,
    random_resized_crop,
    random_view,
    ten_crop,
)
from delta_jax.data.batches import balanced_table, batch_rows, batch_table, padded_batches
from delta_jax.data.cache import decode, decoder
from delta_jax.data.canvas import LONGEST, Canvas, Pixels, Strip, from_strip, to_canvas
from delta_jax.data.catalogue import SPLITS, Catalogue
from delta_jax.data.color import color_jitter
from delta_jax.data.contents import identified
from delta_jax.data.decoded import DARK, Images
from delta_jax.data.erasing import random_erasing
from delta_jax.data.errors import DataError
from delta_jax.data.filling import absent
from delta_jax.data.image_files import Folder, left_out, look_through
from delta_jax.data.images import ASPECTS, INTERPOLATIONS, BrokenImageError, decode_image, photo_size, points_in_crop
from delta_jax.data.leakage import describe_contradictions, describe_leaks, find_contradictions, find_leaks
from delta_jax.data.mixtures import mix_batch
from delta_jax.data.names import existing, nfc, shown
from delta_jax.data.near_doubles import describe_near_doubles, find_near_doubles
from delta_jax.data.part_locations import PartLocations, part_locations
from delta_jax.data.preparation import Prepared, prepare
from delta_jax.data.rand_augment import rand_augment
from delta_jax.data.sources import find, find_other, is_own
from delta_jax.data.splits import counted, listed
from delta_jax.data.streaming import stream
from delta_jax.data.survey import Look, describe_pages, look, survey
from delta_jax.data.white import UnknownWhiteError, choose_white

__all__ = [
    "ASPECTS",
    "AUGMENTATIONS",
    "DARK",
    "INTERPOLATIONS",
    "LONGEST",
    "SPLITS",
    "BrokenImageError",
    "Canvas",
    "Catalogue",
    "DataError",
    "Folder",
    "Images",
    "Look",
    "PartLocations",
    "Pixels",
    "Prepared",
    "Strip",
    "UnknownWhiteError",
    "absent",
    "balanced_table",
    "batch_rows",
    "batch_table",
    "builders",
    "center_crop",
    "choose_white",
    "color_jitter",
    "counted",
    "decode",
    "decode_image",
    "decoder",
    "describe_contradictions",
    "describe_leaks",
    "describe_near_doubles",
    "describe_pages",
    "existing",
    "find",
    "find_contradictions",
    "find_leaks",
    "find_near_doubles",
    "find_other",
    "from_strip",
    "identified",
    "is_own",
    "left_out",
    "listed",
    "look",
    "look_through",
    "mix_batch",
    "nfc",
    "normalize",
    "padded_batches",
    "part_locations",
    "photo_size",
    "points_in_crop",
    "prepare",
    "quarter_turns",
    "rand_augment",
    "random_crop_mirror",
    "random_erasing",
    "random_resized_crop",
    "random_view",
    "shown",
    "stream",
    "survey",
    "ten_crop",
    "to_canvas",
]
