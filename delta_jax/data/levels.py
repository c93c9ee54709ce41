"""Pictures of more than eight bits a sample: what files say of their values, and the values, which Pillow cuts."""

import dataclasses
import io
import struct
import sys
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, ImagePalette, TiffImagePlugin

_TAGS = {
    "bits": 258,
    "photometric": 262,
    "largest": 281,
    "planar": 284,
    "colours": 320,
    "extra": 338,
    "format": 339,
    "s_largest": 341,
}
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}  # of Pillow's raw modes
_WHITE_IS_ZERO, _SIGNED, _PREMULTIPLIED = 0, 2, 1


@dataclasses.dataclass(frozen=True)
class Depth:
    """What the header of a file says of its samples.

    Attributes:
      bits: of a sample.
      signed: whether whole numbers may be negative.
      floating: whether samples are no whole numbers.
      inverted: whether 0 shows white.
      declared: the largest value that the file says it uses, where that is less than its bits allow: PNG's sBIT, TIFF's
        MaxSampleValue or SMaxSampleValue.
      premultiplied: whether colours are stored as their product with alpha.
      coarse: whether Pillow gives no more than the first 8 bits of 16.
    """

    bits: int
    signed: bool = False
    floating: bool = False
    inverted: bool = False
    declared: int | None = None
    premultiplied: bool = False
    coarse: bool = False

    @property
    def full(self) -> int:
        """The value that shows white where nothing else is known; of 32 bits, which nobody uses up, as of 16."""
        return (1 << min(max(self.bits, 8), 16)) - 1


def repaired(image: ImageFile.ImageFile) -> ImageFile.ImageFile:
    """An opened image, before its pixels are loaded, without what Pillow would get wrong.

    Pillow 13 mixes up the bytes of uncompressed 16-bit TIFFs whose colours lie in planes of their own, of compressed
    big-endian ones with signed or floating-point samples, and shows black where a TIFF's colour table holds values of 8
    bits in place of 16, which libtiff takes for what they are.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return image
    if _in_planes(image) and not image.use_load_libtiff:
        _take_byte(image, "high")
    if image.use_load_libtiff:  # which gives samples in the order of this machine
        image.tile = [tile._replace(args=_in_native_order(tile.args)) for tile in image.tile]
    if image.mode in ("P", "PA") and _tag(image, "colours", 256) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(image.tag_v2[_TAGS["colours"]]))
    return image


def depth_of(image: Image.Image, data: bytes) -> Depth | None:
    """Of an opened image and the bytes of its file; None for eight unsigned bits or fewer."""
    if image.format == "PNG":
        bits = _significant_bits(data)
        # IHDR, with the bits of a sample at this place, is a PNG's first chunk.
        return Depth(16, declared=(1 << bits) - 1 if 0 < bits < 16 else None) if data[24] == 16 else None
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.mode == "CMYK":
        return None
    bits = int(_tag(image, "bits", 1))
    signed = _tag(image, "format", 1) == _SIGNED
    if bits <= 8 and not signed:
        return None
    depth = Depth(
        bits,
        signed,
        floating=image.mode == "F",
        inverted=_tag(image, "photometric", _WHITE_IS_ZERO) == _WHITE_IS_ZERO,
        premultiplied=_tag(image, "extra", 0) == _PREMULTIPLIED,
        coarse=_in_planes(image) and image.use_load_libtiff,
    )
    declared = _tag(image, "s_largest", _tag(image, "largest", 0))
    believed = not depth.floating and 0 < declared < depth.full and declared == int(declared)
    return dataclasses.replace(depth, declared=int(declared)) if believed else depth


def values_of(image: Image.Image, data: bytes, depth: Depth) -> np.ndarray:
    """The samples of an image that stands upright: int64 or float64, [H, W] or [H, W, C]; alpha is the last of 2 or 4.

    Args:
      image: opened, and turned as its file asks.
      data: the file.
      depth: of the image.

    Raises:
      ValueError: floating-point samples that are no numbers.
    """
    if depth.floating:
        if not np.isfinite(np.asarray(image)).all():
            raise ValueError("floating-point pixels that are infinite or no numbers")
        return np.asarray(image).astype(np.float64)
    if image.mode == "L":
        return np.asarray(image).view(np.int8).astype(np.int64)
    if image.mode == "I" or image.mode.startswith("I;16"):
        whole = np.asarray(image).astype(np.int64)
        return whole if depth.signed else whole & 0xFFFFFFFF  # Pillow's 32 bits are signed
    if image.format == "PNG" and data[25] == 4:  # IHDR's kind of colour
        return _grey_and_alpha(data)
    values = (_byte_of(data, "high") << 8) + _byte_of(data, "low")
    if depth.premultiplied:
        values[..., :3] = values[..., :3] * 65535 // np.maximum(values[..., 3:], 1)
    return values


def in_eight_bits(image: Image.Image, data: bytes, depth: Depth, white: int | None) -> Image.Image:
    """An image of mode L, LA, RGB or RGBA that shows the samples from 0 (black) to `white`; others are clipped.

    Args:
      image: opened, and turned as its file asks.
      data: the file.
      depth: of the image.
      white: the value that shows white (black where 0 shows white); None for the largest that the bits allow.

    Raises:
      ValueError: no white is given and none is known.
    """
    transparent = image.info.get("transparency")
    if white is None and image.mode in ("RGB", "RGBA") and transparent is None:
        return image  # by the more significant byte
    if white is not None and depth.coarse:
        raise ValueError("16-bit colours in compressed planes are read to 8 bits only: save them interleaved")
    values = values_of(image, data, depth)
    if white is None:
        _require_known_white(values, depth)
    if transparent is not None:  # one colour, in as many bits
        wanted = np.atleast_1d(transparent)
        alpha = np.any(values.reshape(*values.shape[:2], -1) != wanted, -1) * 65535
        values = np.dstack([values, alpha])
    colours = without_alpha(values)
    shown = shades(colours, white or depth.full, inverted=depth.inverted)
    if colours is not values:
        shown = np.dstack([shown, shades(values[..., -1], 65535)])
    return Image.fromarray(shown)


def without_alpha(values: np.ndarray) -> np.ndarray:
    """The colours of `values_of`."""
    return values[..., :-1] if values.ndim == 3 and values.shape[-1] in (2, 4) else values


def shades(values: np.ndarray, white: int, *, inverted: bool = False) -> np.ndarray:
    """round(255 v / white) as uint8, halves up, of values clipped to 0..white; the other way round where inverted."""
    kept = np.clip(values, 0, white)
    kept = white - kept if inverted else kept
    # Whole numbers stay whole: a product with 255 / white would round some halves down.
    scaled = (kept * 255 + white // 2) // white if kept.dtype.kind == "i" else np.floor(kept * 255 / white + 0.5)
    return scaled.astype(np.uint8)


def _require_known_white(values: np.ndarray, depth: Depth) -> None:
    way_out = "set --config.data.white to the value that shows white, or save as 8 or 16 bit"
    lowest, largest = values.min(), values.max()
    if depth.floating:
        raise ValueError(f"floating-point pixels ({lowest:g} to {largest:g}) have no known white, {way_out}")
    if lowest < 0 or largest > depth.full:
        raise ValueError(
            f"{depth.bits}-bit pixels outside 0..{depth.full} ({lowest} to {largest}) have no known white, {way_out}"
        )


def _in_native_order(arguments: Any) -> Any:
    rawmode, *others = arguments
    return (_NATIVE.get(rawmode, rawmode), *others)


def _byte_of(data: bytes, which: str) -> np.ndarray:
    """One byte of each 16-bit sample, "high" or "low", uint8 [H, W, C], upright: Pillow's rules know both orders."""
    image = repaired(Image.open(io.BytesIO(data), formats=("PNG", "TIFF")))
    _take_byte(image, which)
    ImageOps.exif_transpose(image, in_place=True)
    return np.asarray(image).astype(np.int64)


def _take_byte(image: ImageFile.ImageFile, which: str) -> None:
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        rawmode = f"{image.mode};16{'B' if which == 'high' else 'L'}"
        image.tile = [tile._replace(args=rawmode) for tile in image.tile]
        return
    # libtiff gives samples in the order of this machine, and of planes Pillow then always takes the high byte.
    little = sys.byteorder == "little" if image.use_load_libtiff else image.tag_v2.prefix == b"II"
    order = "L" if (which == "high") == little else "B"
    for number, tile in enumerate(image.tile):
        assert isinstance(tile.args, tuple)
        kind = str(tile.args[0]).partition(";")[0].replace("a", "A")
        image.tile[number] = tile._replace(args=(f"{kind};16{order}", *tile.args[1:]))


def _in_planes(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Whether each of several 16-bit colours lies in a plane of its own."""
    return _tag(image, "planar", 1) == 2 and _tag(image, "bits", 1) == 16 and len(image.getbands()) > 1


def _grey_and_alpha(data: bytes) -> np.ndarray:
    """Of a PNG of two 16-bit samples a pixel: read as four of 8 bits, of which Pillow changes nothing; [H, W, 2]."""
    image = Image.open(io.BytesIO(data), formats=("PNG",))
    image.tile = [tile._replace(args="RGBA") for tile in image.tile]
    ImageOps.exif_transpose(image, in_place=True)
    four = np.asarray(image).astype(np.int64)
    return (four[..., ::2] << 8) + four[..., 1::2]


def _tag(image: TiffImagePlugin.TiffImageFile, name: str, otherwise: float) -> float:
    """The largest value of a tag, as most are given once per sample."""
    return float(np.max(image.tag_v2.get(_TAGS[name], otherwise)))


def _significant_bits(data: bytes) -> int:
    """The largest entry of a PNG's chunk sBIT, which comes before the pixels; 0 where there is none."""
    position = 8
    while position + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        if kind == b"sBIT":
            return max(data[position + 8 : position + 8 + length], default=0)
        if kind in (b"PLTE", b"IDAT"):
            break
        position += 12 + length
    return 0
