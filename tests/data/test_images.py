"""One image at a time: every kind of file that turns up in folders, and every way it can be broken."""

import io
import struct
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from delta_jax.data import BrokenImageError, DataError, decode_image


def encode(image: Image.Image, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def noise(h: int, w: int, *channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (h, w, *channels), np.uint8)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_rgb_of_the_right_size_is_unchanged(form):
    pixels = noise(8, 8, 3)
    decoded = decode_image(encode(Image.fromarray(pixels), form, **({"lossless": True} if form == "WEBP" else {})), 8)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize(("shape", "scaled"), [((30, 41), (20, 27)), ((70, 40), (35, 20)), ((40, 80), (20, 40))])
def test_keeping_the_aspect_scales_the_shorter_side(shape, scaled):
    # torchvision's Resize(20): the longer side is int(20 * 41 / 30) = 27.
    pixels = noise(*shape, 3)
    found = decode_image(encode(Image.fromarray(pixels)), 20, interpolation="bicubic", aspect="keep")
    np.testing.assert_array_equal(found, Image.fromarray(pixels).resize(scaled[::-1], Image.Resampling.BICUBIC))


def test_of_an_image_more_than_twice_as_long_the_middle_is_kept():
    pixels = noise(40, 100, 3)
    whole = np.asarray(Image.fromarray(pixels).resize((50, 20), Image.Resampling.BILINEAR)).astype(int)
    for turned, expected in ((pixels, whole[:, 5:45]), (pixels.swapaxes(0, 1), whole[:, 5:45].swapaxes(0, 1))):
        found = decode_image(encode(Image.fromarray(turned)), 20, aspect="keep")
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1  # Pillow's order of the two sides is not turned
    # Scaled as a whole it would be 5 million pixels long.
    assert decode_image(encode(Image.fromarray(noise(1, 20000, 3))), 256, aspect="keep").shape == (256, 512, 3)


def test_exif_orientation_comes_before_the_aspect():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.fromarray(noise(30, 45, 3)), "JPEG", exif=exif)
    assert decode_image(data, 20, aspect="keep").shape == (30, 20, 3)


def test_grey_becomes_three_equal_channels():
    pixels = noise(8, 8)
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(pixels)), 8), np.stack([pixels] * 3, -1))


def test_palette_gives_its_colours_and_transparent_entries_are_white():
    image = Image.fromarray(np.array([[0, 1], [2, 0]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    opaque = [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [10, 20, 30]]]
    np.testing.assert_array_equal(decode_image(encode(image), 2), opaque)
    np.testing.assert_array_equal(decode_image(encode(image, "GIF"), 2), opaque)
    white = [[[10, 20, 30], [255, 255, 255]], [[70, 80, 90], [10, 20, 30]]]
    np.testing.assert_array_equal(decode_image(encode(image, transparency=1), 2), white)
    # A table of alphas, of which the second is 0.
    np.testing.assert_array_equal(decode_image(encode(image, transparency=b"\xff\x00\xff"), 2), white)


def test_transparency_is_laid_over_white():
    # c * a + 255 * (1 - a), by hand: opaque, transparent (stored colour ignored), a = 51/255 = 1/5.
    rgba = np.array([[[10, 20, 30, 255], [0, 0, 0, 0], [0, 100, 255, 51], [255, 255, 255, 9]]] * 4, np.uint8)
    expected = [[[10, 20, 30], [255, 255, 255], [204, 224, 255], [255, 255, 255]]] * 4
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(rgba)), 4), expected)


@pytest.mark.parametrize("form", ["TIFF", "JPEG"])
def test_cmyk_no_ink_is_white_and_full_ink_black(form):
    ink = np.zeros((16, 16, 4), np.uint8)
    assert decode_image(encode(Image.fromarray(ink, "CMYK"), form), 16).min() >= 254
    ink[:] = 255
    assert decode_image(encode(Image.fromarray(ink, "CMYK"), form), 16).max() <= 1
    ink[:] = (255, 0, 0, 0)  # cyan takes the red away
    red, green, blue = decode_image(encode(Image.fromarray(ink, "CMYK"), form), 16).mean((0, 1))
    assert red < 3
    assert min(green, blue) > 252


@pytest.mark.parametrize(("form", "dtype"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2")])
def test_16_bit_grey_is_scaled_not_clipped(form, dtype):
    levels = np.array([[0, 257, 128 * 257, 65535], [1000, 20000, 40000, 60000]], dtype).repeat(2, 0)
    # v * 255 / 65535, rounded
    expected = np.array([[0, 1, 128, 255], [4, 78, 156, 233]]).repeat(2, 0)
    decoded = decode_image(encode(Image.fromarray(levels), form), 4)
    np.testing.assert_array_equal(decoded, np.stack([expected] * 3, -1))


def test_pixels_without_a_known_white_are_refused():
    with pytest.raises(BrokenImageError, match="no known white"):
        decode_image(encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), 4)
    with pytest.raises(BrokenImageError, match="no known white"):
        decode_image(encode(Image.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF"), 4)


@pytest.mark.parametrize(
    ("orientation", "shown"),
    # What a viewer shows, from the EXIF table: which stored row and column lie at the top and left.
    [
        (1, lambda x: x),
        (2, lambda x: x[:, ::-1]),
        (3, lambda x: x[::-1, ::-1]),
        (4, lambda x: x[::-1]),
        (5, lambda x: x.transpose(1, 0, 2)),
        (6, lambda x: np.rot90(x, -1)),
        (7, lambda x: x[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda x: np.rot90(x, 1)),
    ],
)
def test_exif_orientation(orientation, shown):
    pixels = noise(8, 8, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for form in ("PNG", "TIFF"):
        decoded = decode_image(encode(Image.fromarray(pixels), form, exif=exif), 8)
        np.testing.assert_array_equal(decoded, shown(pixels))


def test_squash_with_antialiasing():
    row = np.zeros(16)
    row[6] = 240
    pixels = np.broadcast_to(row.astype(np.uint8), (16, 16))
    # Halving with a triangle of half-width 2 weighs the pixels at distance 0.5 by 3/8 and at 1.5 by 1/8; pixel 6 lies
    # in output 3 (pixels 6 and 7) at 0.5 and in output 2 (pixels 4 and 5) at 1.5.
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(pixels)), 8)[4, :, 0], [0, 0, 30, 90, 0, 0, 0, 0])


def test_interpolation_and_aspect_follow_pillow():
    image = Image.fromarray(noise(20, 30, 3))
    for name, filter_ in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)):
        expected = np.asarray(image.resize((7, 7), filter_))
        np.testing.assert_array_equal(decode_image(encode(image), 7, interpolation=name), expected)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP"])
def test_a_cut_photo_is_broken_and_not_half_grey(form):
    whole = encode(Image.fromarray(noise(64, 64, 3)), form)
    with pytest.raises(BrokenImageError) as raised:
        decode_image(whole[: len(whole) // 2], 16)
    assert isinstance(raised.value, DataError)


def test_what_is_no_photo_is_refused():
    with pytest.raises(BrokenImageError, match="0 bytes"):
        decode_image(b"", 8)
    with pytest.raises(BrokenImageError, match=r"begins with b'<html>"):
        decode_image(b"<html><body>404", 8)
    # Pillow would hand this to Ghostscript.
    with pytest.raises(BrokenImageError, match="not one of"):
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n", 8)


@pytest.mark.parametrize("width", [15, 30])  # Pillow warns above the limit and raises above twice the limit
def test_decompression_bomb(monkeypatch, width):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BrokenImageError, match=r"too large.*exceeds limit"):
        decode_image(encode(Image.fromarray(noise(10, width))), 8)


def test_the_smallest_and_far_too_large_images():
    for aspect in ("squash", "keep"):
        tiny = decode_image(encode(Image.new("RGB", (1, 1), (200, 100, 50))), 8, aspect=aspect)
        np.testing.assert_array_equal(tiny, np.broadcast_to([200, 100, 50], (8, 8, 3)))
    # 20,000 x 20,000 pixels of white in 50 MB of zeros, which compress to little: refused before they are unpacked.
    began = time.monotonic()
    with pytest.raises(BrokenImageError, match=r"too large.*exceeds limit"):
        decode_image(white_png(20_000), 8)
    assert time.monotonic() - began < 1


def white_png(side: int) -> bytes:
    """A PNG of one bit per pixel, after the PNG specification: signature, then chunks with their CRC."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\xff" * (side // 8)) * side, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_warnings_of_pillow_stay_inside_and_the_filters_are_restored():
    # An EXIF block that promises entries it does not hold: Pillow warns of it, and the photo is fine.
    damaged = encode(Image.fromarray(noise(8, 8, 3)), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0\x12\x01")
    with pytest.warns(UserWarning, match="(?i)exif"), Image.open(io.BytesIO(damaged)) as image:
        image.getexif()
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert all(pixels.shape == (4, 4, 3) for pixels in pool.map(lambda _: decode_image(damaged, 4), range(200)))
    assert warnings.filters == before
