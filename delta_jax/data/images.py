"""One encoded image to one uint8 array: a square, or as long as it is."""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from delta_jax.data.canvas import LONGEST
from delta_jax.data.errors import DataError
from delta_jax.data.levels import depth_of, in_eight_bits, repaired

ASPECTS = ("squash", "keep")
INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

# Only these: Pillow also opens formats that start other programs (EPS runs Ghostscript), whatever the file is called.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")

_strict_lock = threading.Lock()
_strict_depth = 0
_strict_filters: warnings.catch_warnings | None = None


class BrokenImageError(DataError):
    """One image cannot be decoded; the message is the reason."""


def decode_image(
    data: bytes, size: int, *, interpolation: str = "bilinear", aspect: str = "squash", white: int | None = None
) -> np.ndarray:
    """Decodes an image as a viewer would show it, and scales it.

    EXIF orientation is applied, CMYK, palettes and grey become RGB, the first frame or page is taken of several. What
    is transparent shows white: the colours stored below it are arbitrary, often black, and white is what pages and most
    photos of single objects have around the object. Of more than 8 bits a sample, 0 to `white` become 0 to 255.

    Args:
      data: the encoded image.
      size: side of the square, or the shorter side, in pixels.
      interpolation: "bilinear" or "bicubic", both with the antialiasing of Pillow.
      aspect: "squash" scales both sides to `size`; "keep" scales the shorter side to it and the longer one in
        proportion, rounded down, as torchvision's Resize does. Of an image more than twice as long as it is wide only
        the middle is kept, twice as long.
      white: the value that shows white in pictures of more than 8 bits a sample; None for the largest that the bits
        of a file allow. It has to be the same for all pictures of a data set: see `choose_white`.

    Returns:
      uint8, RGB: [size, size, 3], or with "keep" [H, W, 3].

    Raises:
      BrokenImageError: not an image, truncated, too large, or of a kind without a known range.
    """
    with open_image(data) as opened:
        depth = depth_of(opened, data)
        ImageOps.exif_transpose(opened, in_place=True)  # without in_place even upright images are copied
        eight_bits = in_eight_bits(opened, data, depth, white) if depth else opened
        return np.asarray(_scale(_to_rgb(eight_bits), size, INTERPOLATIONS[interpolation], aspect))


@contextmanager
def open_image(data: bytes) -> Iterator[Image.Image]:
    """An encoded image, its pixels not loaded yet; what is raised within becomes a BrokenImageError.

    Raises:
      BrokenImageError: not an image of FORMATS, truncated or too large.
    """
    if not data:
        raise BrokenImageError("empty (0 bytes)")
    try:
        with _strict_pillow(), Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            yield repaired(opened)
    except UnidentifiedImageError:
        raise BrokenImageError(_why_not_opened(data)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenImageError(f"too large, shrink it first ({error})") from error
    except (MemoryError, BrokenImageError):
        raise
    except (
        Exception
    ) as error:  # Pillow's readers raise nearly anything on damaged data, struct.error and IndexError too
        raise BrokenImageError(str(error) or type(error).__name__) from error


def _why_not_opened(data: bytes) -> str:
    """Pillow says no more than that nothing fits; the reader of the format that it is knows why."""
    for form in FORMATS:
        reader, accepts = Image.OPEN[form]
        if accepts and accepts(data[:16]) is True:
            try:
                reader(io.BytesIO(data), "")
            except Exception as error:
                return f"a {form} that cannot be read ({error}); save it with 8 or 16 bits a sample and 0 for black"
    return f"not one of {', '.join(FORMATS)} (begins with {data[:12]!r})"


def photo_size(data: bytes) -> tuple[int, int]:
    """Width and height, pixels, of an encoded image as a viewer would show it; its pixels are not decoded.

    Raises:
      BrokenImageError: not an image.
    """
    with open_image(data) as opened:
        width, height = opened.size
        # By a quarter; the size of a TIFF is that of the turned image already.
        turned = opened.format != "TIFF" and opened.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (height, width) if turned else (width, height)


def points_in_crop(
    points: np.ndarray, photo: tuple[int, int], size: int, crop: int, *, aspect: str = "squash"
) -> np.ndarray:
    """Where points of a photo come to lie in the centre crop of what `decode_image` makes of it.

    Args:
      points: [P, 2], x and y in pixels of the photo; (0, 0) is its upper left corner.
      photo: width and height, pixels.
      size: side of the square, or the shorter side, after `decode_image`.
      crop: side of the centre crop, pixels.
      aspect: "squash" or "keep", as in `decode_image`.

    Returns:
      float64 [P, 2] in pixels of the crop: outside of [0, crop) for a point that was cut away.
    """
    found = np.empty(np.shape(points), np.float64)
    for axis, side in enumerate(photo):
        scaled, start, end = (size, 0.0, side) if aspect == "squash" else _kept(side, min(photo), size)
        margin = round((scaled - crop) / 2)  # as `center_crop` rounds it
        found[:, axis] = (np.asarray(points)[:, axis] - start) * scaled / (end - start) - margin
    return found


def _scale(image: Image.Image, size: int, interpolation: Image.Resampling, aspect: str) -> Image.Image:
    if aspect == "squash":
        return image.resize((size, size), interpolation)
    # Only what is kept is scaled: a picture of a single row of pixels would fill the memory.
    (width, left, right), (height, top, bottom) = (_kept(side, min(image.size), size) for side in image.size)
    return image.resize((width, height), interpolation, box=(left, top, right, bottom))


def _kept(side: int, shorter: int, size: int) -> tuple[int, float, float]:
    """How long a side becomes when the shorter one becomes `size`, and from where to where it is kept."""
    whole = size * side // shorter
    kept = min(whole, LONGEST * size)
    start = (whole - kept) // 2
    return kept, start * side / whole, (start + kept) * side / whole


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # which Pillow turns into nothing but LA
        image = image.convert("LA")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy


@contextmanager
def _strict_pillow() -> Iterator[None]:
    """Within it Pillow refuses decompression bombs and keeps its other warnings to itself.

    Warning filters belong to the process, and threads that each save and restore them leave the wrong ones behind.
    So the first thread to enter sets them and the last to leave restores them.
    """
    global _strict_depth, _strict_filters
    with _strict_lock:
        if _strict_depth == 0:
            _strict_filters = warnings.catch_warnings()
            _strict_filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
            warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
        _strict_depth += 1
    try:
        yield
    finally:
        with _strict_lock:
            _strict_depth -= 1
            if _strict_depth == 0 and _strict_filters is not None:
                _strict_filters.__exit__(None, None, None)
                _strict_filters = None
