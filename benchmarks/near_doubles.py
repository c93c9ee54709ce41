"""What `data.near_doubles` finds, what it takes for a double, and what it costs, on a folder of photos.

    python benchmarks/near_doubles.py PHOTOS [--size=256] [--copies=400]
    python benchmarks/near_doubles.py [--noise=2000] [--size=256]    # seconds for so many images of noise

Copies of photos drawn at random are made as thumbnails and programs make them, and compared with their originals. Then
all pairs of the photos themselves are counted: which of those are doubles is for people to say.
"""

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from delta_jax import data
from delta_jax.data.near_doubles import ALIKE, grey_fields

THRESHOLDS = (0.98, 0.99, ALIKE, 0.998)


def saved(photo: Image.Image, quality: int, part: float = 1.0) -> Image.Image:
    """As a JPEG, at a part of its sides."""
    sides = [max(1, round(side * part)) for side in photo.size]
    file = io.BytesIO()
    photo.resize((sides[0], sides[1]), Image.Resampling.LANCZOS).save(file, "JPEG", quality=quality)
    return Image.open(file)


def cropped(photo: Image.Image, part: float) -> Image.Image:
    """Without a margin on each side."""
    (width, height), left, top = photo.size, round(photo.width * part), round(photo.height * part)
    return photo.crop((left, top, width - left, height - top))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half size, quality 75": lambda photo: saved(photo, 75, 1 / 2),
    "quarter size, quality 60": lambda photo: saved(photo, 60, 1 / 4),
    "longer side 64 px, quality 75": lambda photo: saved(photo, 75, 64 / max(photo.size)),
    "same size, quality 30": lambda photo: saved(photo, 30),
    "grey": lambda photo: photo.convert("L"),
    "brighter by 5 % and 3 levels": lambda photo: photo.point(lambda level: min(255, round(level * 1.05 + 3))),
    "2 % cut off each side": lambda photo: cropped(photo, 0.02),
    "mirrored": lambda photo: photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def vector(photo: Image.Image, size: int) -> np.ndarray:
    """What is compared, scaled to length 1."""
    file = io.BytesIO()
    photo.save(file, "BMP")
    fields = grey_fields(data.decode_image(file.getvalue(), size)[None])[0]
    fields -= fields.mean()
    return fields / max(float(np.linalg.norm(fields)), 1e-6)


def seconds_for(count: int, size: int) -> float:
    """What a run with `count` images of `size` pixels waits for, once they are decoded."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    catalogue = data.Catalogue(
        name="noise",
        files=tuple(map(str, range(count))),
        labels=rng.integers(0, 10, count, np.int32),
        split=rng.choice(data.SPLITS, count),
        class_names=tuple(map(str, range(10))),
        licence="",
        read=lambda _: b"",
        sizes=np.ones(count, np.int64),
    )
    began = time.perf_counter()
    data.find_near_doubles(data.Images(pixels, catalogue, ()))
    return time.perf_counter() - began


def main() -> None:
    """Prints a table of the copies and the pairs of the photos, or seconds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path, nargs="?")
    parser.add_argument("--noise", type=int, default=2000, help="images to be timed, where there are no photos")
    parser.add_argument("--size", type=int, default=256, help="pixels, as data.resize")
    parser.add_argument("--copies", type=int, default=400, help="photos of which copies are made")
    given = parser.parse_args()
    if given.photos is None:
        print(f"{given.noise:,} images of {given.size} px: {seconds_for(given.noise, given.size):.1f} s")
        return
    paths = data.look_through(given.photos).images
    originals = np.stack([vector(Image.open(path).convert("RGB"), given.size) for path in paths])
    drawn = np.random.default_rng(0).choice(len(paths), min(given.copies, len(paths)), replace=False)
    print(f"{len(paths)} photos, {len(drawn)} copies of each kind; found with a correlation above")
    print(f"{'':32}" + "".join(f"{threshold:>9}" for threshold in THRESHOLDS) + "   least")
    for name, make in COPIES.items():
        copies = [vector(make(Image.open(paths[i]).convert("RGB")).convert("RGB"), given.size) for i in drawn]
        alike = (np.stack(copies) * originals[drawn]).sum(axis=1)
        print(f"{name:32}" + "".join(f"{np.mean(alike > t):>9.2%}" for t in THRESHOLDS) + f"{alike.min():>8.4f}")
    pairs = (originals @ originals.T)[np.triu_indices(len(paths), 1)]
    print(f"pairs of the photos ({len(pairs):,})   " + "".join(f"{int((pairs > t).sum()):>9}" for t in THRESHOLDS))


if __name__ == "__main__":
    main()
