"""Where filters are active in photos, source beside fine-tuned networks (section 4.4 of the paper, Fig. 4)."""

import numpy as np
from matplotlib import colormaps
from PIL import Image

LOW_SHARE = 0.25  # of the filters of a tap: so many count as those of low activation


def unit_range(maps: np.ndarray, axes: tuple[int, ...] | None = None) -> np.ndarray:
    """(a - min) / (max - min), the normalisation of section 4.4; a constant map is all zero.

    Args:
      maps: real numbers of any shape.
      axes: those of one map, which is scaled by itself; all of them if not given.

    Returns:
      float32, the shape of `maps`.
    """
    maps = np.asarray(maps, np.float32)  # bfloat16 is no type of matplotlib's
    low, high = maps.min(axes, keepdims=True), maps.max(axes, keepdims=True)
    return (maps - low) / np.where(high > low, high - low, np.float32(1))


def low_filters(source_maps: np.ndarray, share: float = LOW_SHARE) -> np.ndarray:
    """The filters on which the source has low activation: what the paper looks at for "unactivated channel re-usage".

    The activation of a filter is the mean over images and positions of what is positive of its map. The paper does not
    say how many filters it takes.

    Args:
      source_maps: [B, h, w, C] of the source network.
      share: of the C filters, at least one.

    Returns:
      int [n], ascending.
    """
    if source_maps.ndim != 4 or not source_maps.size:
        raise ValueError(f"maps of shape {source_maps.shape}, expected (images, h, w, filters), one of each at least")
    activation = np.maximum(source_maps, 0).mean((0, 1, 2), dtype=np.float64)
    count = max(1, round(share * len(activation)))
    return np.sort(np.argsort(activation, kind="stable")[:count])


def mean_map(maps: np.ndarray, filters: np.ndarray | None = None) -> np.ndarray:
    """The mean of the normalised maps of some filters, in [0, 1]: each counts alike, however large its outputs are.

    Args:
      maps: [B, h, w, C].
      filters: int [n]; all C if not given.

    Returns:
      float32 [B, h, w].
    """
    return unit_range(maps if filters is None else maps[..., filters], (1, 2)).mean(-1)


def overlay(photo: np.ndarray, activation: np.ndarray) -> np.ndarray:
    """The grey photo under the colours of a map, half and half: violet is its minimum, yellow its maximum (viridis).

    Args:
      photo: uint8 [H, W, 3].
      activation: [h, w] of any size; it is stretched over the whole photo.

    Returns:
      uint8 [H, W, 3].
    """
    height, width = photo.shape[:2]
    stretched = Image.fromarray(unit_range(activation)).resize((width, height), Image.Resampling.BILINEAR)
    colours = colormaps["viridis"](np.asarray(stretched))[..., :3]
    grey = photo.mean(axis=-1, keepdims=True) / 255
    return np.rint(255 * (0.5 * grey + 0.5 * colours)).astype(np.uint8)
