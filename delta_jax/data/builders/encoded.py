"""Encoded images as they are published: looked at before they are stored."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, ImageFile

from delta_jax.data.images import FORMATS, BrokenImageError

STORED_FORMATS = ("JPEG", "PNG")  # what every reader of these data sets decodes


def storable(data: bytes, name: str) -> tuple[bytes, str]:
    """Gives the bytes to store for a published image, and a remark if the file is not what its name says.

    JPEG and PNG stay as they are, byte by byte. Other kinds become PNG; so does an image whose end is missing, with
    grey in place of what is.

    Args:
      data: the file.
      name: of the file; its ending says what is expected.

    Returns:
      (bytes, remark), the remark "" for a file in order.

    Raises:
      BrokenImageError: nothing of it can be decoded.
    """
    try:
        kind = _decode(data)
    except BrokenImageError as error:
        with _lenient():
            kind = _decode(data)
            return _as_png(data), f"a damaged {kind} ({error}); what can be decoded is stored as PNG"
    if kind not in STORED_FORMATS:
        return _as_png(data), f"a {kind}; stored as PNG"
    named = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG"}.get(name.rpartition(".")[2].lower())
    return data, "" if kind == named else f"a {kind}; stored as it is"


def _decode(data: bytes) -> str:
    """Decodes all of an image and gives its kind."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                # A JPEG at an eighth of its size: all of its bytes are read, in a fraction of the time.
                image.draft(None, (1, 1))
                image.load()
                return str(image.format)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on damaged data
        raise BrokenImageError(str(error) or type(error).__name__) from error


def _as_png(data: bytes) -> bytes:
    file = io.BytesIO()
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        image.convert("RGBA" if image.has_transparency_data else "RGB").save(file, "PNG")
    return file.getvalue()


@contextmanager
def _lenient() -> Iterator[None]:
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
