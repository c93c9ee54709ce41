"""Pictures of more than 8 bits a sample: what is shown of them, what is found in a set, and which white is chosen."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from delta_jax.data import (
    BrokenImageError,
    Catalogue,
    Look,
    UnknownWhiteError,
    choose_white,
    decode_image,
    describe_pages,
    look,
    photo_size,
    survey,
)
from delta_jax.data.levels import Depth, shades

OFFSETS, SAMPLES, BYTES, PLANAR = 273, 277, 279, 284


def tiff(shape: tuple[int, int], pixels: bytes, order: str = "<", **tags: int | tuple[int, ...]) -> bytes:
    """An uncompressed TIFF after its specification: header, one directory of shorts, their lists, the pixels.

    Tags are written t258=16, or as a tuple for lists. Planes lie one after the other.
    """
    numbers = {
        256: (shape[1],),
        257: (shape[0],),
        259: (1,),
        262: (1,),
        SAMPLES: (1,),
        278: (shape[0],),
    }
    numbers |= {int(name[1:]): value if isinstance(value, tuple) else (value,) for name, value in tags.items()}
    planes = numbers[SAMPLES][0] if numbers.get(PLANAR) == (2,) else 1
    begin = 8 + 2 + 12 * (len(numbers) + 2) + 4
    lists, longer = b"", {}
    for tag, values in numbers.items():
        if len(values) > 2:
            longer[tag] = begin + len(lists)
            lists += struct.pack(f"{order}{len(values)}H", *values)
    each = len(pixels) // planes
    places = [begin + len(lists) + 8 * planes + each * plane for plane in range(planes)]
    strips = {OFFSETS: places, BYTES: [each] * planes}
    entries = b""
    for tag in sorted({*numbers, *strips}):
        if tag in strips:
            at = begin + len(lists) + (0 if tag == OFFSETS else 4 * planes)
            value = struct.pack(f"{order}I", at if planes > 1 else strips[tag][0])
            entries += struct.pack(f"{order}HHI", tag, 4, planes) + value
        else:
            values = numbers[tag]
            short = struct.pack(f"{order}{len(values)}H", *values).ljust(4, b"\0")
            value = struct.pack(f"{order}I", longer[tag]) if tag in longer else short
            entries += struct.pack(f"{order}HHI", tag, 3, len(values)) + value
    directory = struct.pack(f"{order}H", len(numbers) + 2) + entries + b"\0" * 4
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return head + directory + lists + struct.pack(f"{order}{2 * planes}I", *places, *strips[BYTES]) + pixels


def png(values: np.ndarray, **chunks: bytes) -> bytes:
    """A 16-bit PNG of [H, W, C] samples after its specification; C of 1 to 4, and chunks before the pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, channels = values.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
        + b"".join(chunk(kind.encode(), content) for kind, content in chunks.items())
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def packed_12(values: np.ndarray) -> bytes:
    """Two values in three bytes, the more significant bits first."""
    bits = "".join(f"{value:012b}" for value in values.ravel())
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


def catalogue_of(files: list[bytes], *, readable: bool = True) -> Catalogue:
    """Files named 0, 1, ..., of one class."""

    def read(row: int) -> bytes:
        assert readable
        return files[row]

    count = len(files)
    return Catalogue(
        name="few",
        files=tuple(map(str, range(count))),
        labels=np.zeros(count, np.int32),
        split=np.full(count, "train"),
        class_names=("one",),
        licence="",
        read=read,
        sizes=np.array([len(file) for file in files]),
    )


def grey(data: bytes, **how) -> list[list[int]]:
    """The first channel of a picture of 2 by 4 pixels, which are not scaled; the others are the same."""
    found = decode_image(data, 2, aspect="keep", **how)
    assert (found == found[..., :1]).all()
    return found[..., 0].tolist()


TWELVE = np.array([[0, 1, 2048, 4095], [1000, 2000, 3000, 4000]])
# round(255 v / 4095) by hand: 2048 -> 127.53, 1000 -> 62.27, 2000 -> 124.54, 3000 -> 186.81, 4000 -> 249.08.
SHOWN = [[0, 0, 128, 255], [62, 125, 187, 249]]
INVERTED = [[255 - one for one in row] for row in SHOWN]


def test_12_bit_tiff_is_shown_from_black_to_white():
    data = tiff(TWELVE.shape, packed_12(TWELVE), t258=12)
    assert look(data) == Look(depth=Depth(12), lowest=0, largest=4095)
    assert grey(data) == SHOWN
    # What `white` says holds for every file: 12 bits in a set of 14.
    assert grey(data, white=16383) == [[0, 0, 32, 64], [16, 31, 47, 62]]


@pytest.mark.parametrize("order", "<>")
def test_values_end_at_white_in_files_of_16_bits(order):
    for data in (
        tiff(TWELVE.shape, TWELVE.astype(f"{order}u2").tobytes(), order, t258=16),
        tiff(TWELVE.shape, TWELVE.astype(f"{order}i2").tobytes(), order, t258=16, t339=2),
        tiff(TWELVE.shape, TWELVE.astype(f"{order}f4").tobytes(), order, t258=32, t339=3),
        png(TWELVE[..., None]),
    ):
        assert grey(data, white=4095) == SHOWN
        assert grey(data, white=2000) == [[0, 0, 255, 255], [128, 255, 255, 255]]  # 127.5 is rounded up
        assert look(data).largest == 4095
    # The issue's own: 600 levels, of which 16 bits leave 3.
    few = png(np.array([[20, 128, 129, 619]] * 2)[..., None])
    assert grey(few)[0] == [0, 0, 1, 2]
    assert grey(few, white=619)[0] == [8, 53, 53, 255]  # 8.24, 52.73, 53.14


def test_pixels_of_32_bits_keep_their_levels():
    data = tiff(TWELVE.shape, TWELVE.astype("<u4").tobytes(), t258=32)
    assert grey(data, white=4095) == SHOWN
    # Pillow's are signed: 3e9 would be negative.
    large = tiff(TWELVE.shape, (TWELVE * 1_000_000).astype("<u4").tobytes(), t258=32)
    assert look(large).largest == 4_095_000_000
    assert grey(large, white=4_095_000_000) == SHOWN
    with pytest.raises(BrokenImageError, match=r"outside 0..65535 \(0 to 4095000000\).*set --config.data.white"):
        decode_image(large, 2)


def test_zero_shows_white_where_the_file_says_so():
    for white, expected in ((4095, INVERTED), (None, 255 - np.array(grey(png(TWELVE[..., None]))))):
        data = tiff(TWELVE.shape, TWELVE.astype("<u2").tobytes(), t258=16, t262=0)
        np.testing.assert_array_equal(grey(data, white=white), expected)
    eight = (TWELVE >> 4).astype(np.uint8)
    np.testing.assert_array_equal(grey(tiff(eight.shape, eight.tobytes(), t258=8, t262=0)), 255 - eight)
    floating = tiff(TWELVE.shape, TWELVE.astype("<f4").tobytes(), t258=32, t339=3, t262=0)
    assert grey(floating, white=4095) == INVERTED


def test_negative_pixels_need_a_white_and_are_black():
    around = TWELVE - 2000
    for kind, sample_format, bits in (("<i2", 2, 16), ("<i4", 2, 32), ("<f4", 3, 32)):
        data = tiff(around.shape, around.astype(kind).tobytes(), t258=bits, t339=sample_format)
        with pytest.raises(BrokenImageError, match=r"\(-2000 to 2095\) have no known white"):
            decode_image(data, 2)
        assert grey(data, white=2095) == [[0, 0, 6, 255], [0, 0, 122, 243]]
        assert (look(data).lowest, look(data).largest) == (-2000, 2095)
    signed_8 = np.array([[-128, -1, 0, 127]] * 2, np.int8)
    with pytest.raises(BrokenImageError, match=r"8-bit pixels outside 0..255 \(-128 to 127\)"):
        decode_image(tiff(signed_8.shape, signed_8.tobytes(), t258=8, t339=2), 2)
    nan = np.array([[0, np.nan, 1, 2]] * 2, "<f4")
    with pytest.raises(BrokenImageError, match="no numbers"):
        decode_image(tiff(nan.shape, nan.tobytes(), t258=32, t339=3), 2, white=2)


@pytest.mark.parametrize(("kind", "sample_format"), [("i2", 2), ("i4", 2), ("f4", 3)])
@pytest.mark.parametrize("order", "<>")
def test_compressed_samples_with_a_sign_in_both_orders(kind, sample_format, order):
    around, bits = TWELVE - 2000, 8 * int(kind[1])
    packed = zlib.compress(around.astype(order + kind).tobytes())
    data = tiff(around.shape, packed, order, t258=bits, t259=8, t339=sample_format)
    assert grey(data, white=2095) == [[0, 0, 6, 255], [0, 0, 122, 243]]  # as above, of raw samples
    assert (look(data).lowest, look(data).largest) == (-2000, 2095)


COLOURS_16 = np.random.default_rng(0).integers(0, 4096, (2, 4, 4))


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colours_of_16_bits_in_png(channels):
    samples = COLOURS_16[..., :channels].copy()
    if channels != 3:
        samples[..., -1] *= 16  # alpha always ends at 65535
    found = decode_image(png(samples), 2, aspect="keep", white=4095).astype(int)
    expected = np.floor(samples * 255 / 4095 + 0.5)
    if channels != 3:
        alpha = np.floor(samples[..., -1:] / 257 + 0.5)
        expected = (expected[..., :-1] * alpha + 255 * (255 - alpha)) / 255
    assert np.abs(found - expected).max() <= 0.5
    assert look(png(samples)).largest == samples[..., : channels - (channels != 3)].max()
    # Without a white, as before: the more significant byte.
    if channels == 3:
        np.testing.assert_array_equal(decode_image(png(samples * 16), 2, aspect="keep"), samples >> 4)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("planes", [False, True])
def test_colours_of_16_bits_in_tiff(order, planes):
    samples = COLOURS_16[..., :3]
    pixels = (samples.transpose(2, 0, 1) if planes else samples).astype(f"{order}u2").tobytes()
    tags = {"t258": (16, 16, 16), "t262": 2, "t277": 3, "t284": 2 if planes else 1}
    data = tiff((2, 4), pixels, order, **tags)
    expected = np.floor(samples * 255 / 4095 + 0.5)
    np.testing.assert_array_equal(decode_image(data, 2, aspect="keep", white=4095), expected)
    # Pillow 13.0 alone mixes the bytes of planes up.
    np.testing.assert_array_equal(decode_image(data, 2, aspect="keep"), samples >> 8)


def test_turned_pictures_of_16_bits():
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = np.rot90(COLOURS_16[..., :3], -1)
    turned = png(COLOURS_16[..., :3], eXIf=exif.tobytes().removeprefix(b"Exif\0\0"))
    expected = np.floor(upright * 255 / 4095 + 0.5)
    np.testing.assert_array_equal(decode_image(turned, 2, aspect="keep", white=4095), expected)
    tags = {"t258": (16, 16, 16), "t262": 2, "t277": 3, "t274": 6}
    turned = tiff((2, 4), COLOURS_16[..., :3].astype("<u2").tobytes(), **tags)
    np.testing.assert_array_equal(decode_image(turned, 2, aspect="keep", white=4095), expected)


def test_one_transparent_value_of_16_bits():
    # The second has the same high byte as the transparent one, which is all that Pillow compares.
    values = np.array([[512, 513, 65535, 0]] * 2)
    assert grey(png(values[..., None], tRNS=struct.pack(">H", 512)))[0] == [255, 2, 255, 0]
    rgb = np.stack([values] * 3, -1)
    assert grey(png(rgb, tRNS=struct.pack(">HHH", 512, 512, 512)))[0] == [255, 2, 255, 0]


def test_colour_tables_of_8_bits_in_place_of_16():
    # libtiff takes a table without a value above 255 for one of 8 bits; OpenCV 5.0 shows the same.
    pixels, ramp = np.array([[0, 1, 2, 255]] * 2, np.uint8), np.arange(256)
    for table in (ramp, ramp * 257):
        data = tiff(pixels.shape, pixels.tobytes(), t258=8, t262=3, t320=tuple(np.tile(table, 3).tolist()))
        assert grey(data)[0] == [0, 1, 2, 255]


@pytest.mark.parametrize(("form", "shown"), [("TIFF", (20, 30)), ("PNG", (20, 30)), ("JPEG", (20, 30))])
def test_the_size_of_a_turned_photo(form, shown):
    exif = Image.Exif()
    for orientation in (6, 8, 5, 1):
        exif[0x0112] = orientation
        file = io.BytesIO()
        Image.new("RGB", (30, 20)).save(file, form, exif=exif)
        assert photo_size(file.getvalue()) == (shown if orientation > 4 else shown[::-1])


def test_kinds_that_pillow_does_not_read_are_named_by_their_reason():
    fourteen = tiff((2, 4), bytes(14), t258=14)
    with pytest.raises(
        BrokenImageError, match=r"a TIFF that cannot be read \(unknown pixel mode\); save it with 8 or 16"
    ):
        decode_image(fourteen, 2)


def test_shades_against_a_loop():
    for white in (1, 255, 619, 4095, 65535):
        values = np.unique(np.linspace(0, white, 700).astype(int))
        # Halves up, in whole numbers: floor(255 v / white + 1/2).
        np.testing.assert_array_equal(
            shades(values, white), [(2 * 255 * int(v) + white) // (2 * white) for v in values]
        )


def sixteen(largest: float, declared: int | None = None, bits: int = 16, lowest: float = 0) -> Look:
    return Look(depth=Depth(bits, declared=declared), lowest=lowest, largest=largest)


def white_of(*looks: Look, given: int | None = None) -> tuple[int | None, list[str]]:
    return choose_white(dict(enumerate(looks)), [f"{i}.png" for i in range(len(looks))], given)


def test_the_white_is_asked_for_where_a_bit_is_unused():
    assert white_of() == (None, [])
    assert white_of(Look(pages=3)) == (None, [])
    assert white_of(sixteen(32768), sixteen(30000)) == (None, [])
    with pytest.raises(
        UnknownWhiteError, match=r"2 pictures of 16 bits a sample hold values up to 619, expected up to 65"
    ):
        white_of(sixteen(619), sixteen(400))
    with pytest.raises(
        UnknownWhiteError, match=r"--config.data.white to the value that shows white: 619, 1023 or 65535 "
    ):
        white_of(sixteen(619), sixteen(400))
    with pytest.raises(UnknownWhiteError, match=r"white: 4095 or 65535 \(4095 is the largest"):
        white_of(sixteen(4095))
    # Every kind by its own: of 12 bits all are used.
    with pytest.raises(UnknownWhiteError, match=r"^1 pictures of 16 bits"):
        white_of(sixteen(4095, bits=12), sixteen(619))
    with pytest.raises(
        UnknownWhiteError, match=r"^1 pictures of 32 bits a sample hold values up to 619, expected up to 65"
    ):
        white_of(sixteen(619, bits=32))
    with pytest.raises(UnknownWhiteError, match=r"12 bits a sample hold values up to 1000, expected up to 4095"):
        white_of(sixteen(1000, bits=12))
    assert white_of(sixteen(4095, bits=12), sixteen(60000)) == (None, [])


def test_what_all_files_state_is_believed():
    white, said = white_of(sixteen(619, 1023), sixteen(1000, 1023))
    assert white == 1023
    assert said[0].startswith("white is 1023 in the 2 pictures of more than 8 bits a sample: their files say so")
    # PNG's sBIT where the values were scaled up to 16 bits, as its specification wants it.
    assert white_of(sixteen(65535, 4095)) == (None, [])
    for looks in ((sixteen(619, 1023), sixteen(619)), (sixteen(619, 1023), sixteen(619, 700)), (sixteen(5000, 4095),)):
        with pytest.raises(UnknownWhiteError, match=r"the files state (1023|4095)"):
            white_of(*looks)


def test_the_depth_that_a_file_states_is_found():
    twelve = png(TWELVE[..., None], sBIT=b"\x0c")
    assert look(twelve).depth == Depth(16, declared=4095)
    assert look(png(COLOURS_16[..., :3], sBIT=b"\x0a\x0c\x0a")).depth == Depth(16, declared=4095)
    assert look(png(TWELVE[..., None], sBIT=b"\x10")).depth == Depth(16)
    pixels = TWELVE.astype("<u2").tobytes()
    assert look(tiff(TWELVE.shape, pixels, t258=16, t281=4095)).depth == Depth(16, declared=4095)
    assert look(tiff(TWELVE.shape, pixels, t258=16, t281=65535)).depth == Depth(16)


def test_some_dark_pictures_and_clipped_ones_are_said():
    white, said = white_of(sixteen(60000), sixteen(4095), sixteen(700))
    assert white is None
    assert said[0].startswith("warning: 2 of 3 pictures of more than 8 bits a sample hold no value above 4095")
    assert said[0].endswith("such as 1.png; if their range is not that of the others, scale them first")
    assert white_of(sixteen(619), given=619) == (619, [])
    white, said = white_of(sixteen(500), sixteen(619), sixteen(30, lowest=-5), given=600)
    assert white == 600
    assert said == [
        "2 of 3 pictures of more than 8 bits a sample hold values outside of 0..600, which are clipped: -5 to 619, "
        "such as 1.png"
    ]


def test_pages_and_frames_beyond_the_first_are_counted():
    pages, frames = io.BytesIO(), io.BytesIO()
    some = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (0, 100, 200)]
    some[0].save(pages, "TIFF", save_all=True, append_images=some[1:])
    some[0].save(frames, "GIF", save_all=True, append_images=some[1:2])
    assert look(pages.getvalue()).pages == 3
    assert look(frames.getvalue()).pages == 2
    assert look(png(TWELVE[..., None])).pages == 1
    assert decode_image(pages.getvalue(), 4).max() == 0
    catalogue = catalogue_of([pages.getvalue(), frames.getvalue()])
    found = {0: Look(pages=3), 1: Look(pages=2)}
    said = "of files with several pages or frames the first is taken: 0 (3), 1 (2)"
    assert describe_pages(catalogue, found) == said
    assert describe_pages(catalogue, {0: Look(depth=Depth(16))}) == ""
    many = catalogue_of([b""] * 12)
    assert describe_pages(many, {i: Look(pages=2) for i in range(12)}).endswith("9 (2) and 2 more")


def test_a_data_set_is_looked_at_once(tmp_path):
    files = [png(TWELVE[..., None], sBIT=b"\x0c"), b"\xff\xd8\xff damaged", b"none", tiff((2, 4), bytes(8), t258=8)]
    catalogue, counted = catalogue_of(files), []
    found = survey(catalogue, tmp_path, progress=counted.append)
    assert found == {0: Look(depth=Depth(16, declared=4095), lowest=0, largest=4095)}
    assert sum(counted) == 4
    unread = catalogue_of(files, readable=False)
    assert survey(unread, tmp_path, progress=counted.append) == found
    assert sum(counted) == 4
    next(tmp_path.glob("survey/*.json")).write_text("[")
    assert survey(catalogue, tmp_path) == found
