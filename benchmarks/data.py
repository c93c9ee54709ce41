"""What images cost: decoding against plain Pillow, the cache on all cores, and batches against none at all.

    python benchmarks/data.py                                          # 500 x 375, as ImageNet's on average
    python benchmarks/data.py --images 1000 10000 100000 --size 64     # how the cache grows

The photos are made: a few of them, each read again and again from memory, so the disk that is measured is the cache's.
The last lines are training steps of MobileNetV2 (method l2, the fastest), on batches that lie on the device, that are
streamed from the cache, and on one batch that is there already. They take turns, so that all see the same machine.
"""

import argparse
import io
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _random_network
import jax
import numpy as np
from PIL import Image

from delta_jax import data, methods, models
from delta_jax.data.streaming import AHEAD
from delta_jax.processes import huge_pages, sharding
from delta_jax.training import optim, steps
from delta_jax.training.image_sets import ImageSet
from delta_jax.training.state import init_state


def made_photos(count: int, width: int, height: int) -> list[bytes]:
    """JPEGs of quality 90 with large shapes, small ones and grain, every other one upright."""
    rng = np.random.default_rng(0)
    photos = []
    for n in range(count):
        sides = (width, height) if n % 2 else (height, width)
        pixels = np.zeros((sides[1], sides[0], 3))
        for part, strength in ((100, 60), (12, 25), (2, 20)):  # side of a shape in pixels, its contrast
            small = rng.normal(size=(sides[1] // part + 2, sides[0] // part + 2, 3))
            scaled = [
                Image.fromarray(plane).resize(sides, Image.Resampling.BICUBIC) for plane in np.moveaxis(small, 2, 0)
            ]
            pixels += strength * np.stack(scaled, -1)
        file = io.BytesIO()
        Image.fromarray((pixels + 128).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        photos.append(file.getvalue())
    return photos


def plain_pillow(photo: bytes, size: int) -> np.ndarray:
    """The least that gives the same pixels of an upright RGB photo."""
    with Image.open(io.BytesIO(photo)) as image:
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def reduced(photo: bytes, size: int) -> np.ndarray:
    """Decoded at 1/2, 1/4 or 1/8 of its sides by the JPEG reader, to twice `size` at least, and scaled from there."""
    with Image.open(io.BytesIO(photo)) as image:
        image.draft("RGB", (2 * size, 2 * size))
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def per_second(functions: dict[str, Callable[[bytes], object]], photos: list[bytes], repeats: int) -> dict[str, float]:
    """Images per second of the thread's own time, the median over the repeats; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            began = time.thread_time()  # whatever else the machine does
            for photo in photos:
                function(photo)
            times[name].append(time.thread_time() - began)
    return {name: len(photos) / statistics.median(found) for name, found in times.items()}


def catalogue(photos: list[bytes], count: int) -> data.Catalogue:
    """`count` examples that read the photos in turn."""
    return data.Catalogue(
        name="made",
        files=tuple(f"{i}.jpg" for i in range(count)),
        labels=np.zeros(count, np.int32),
        split=np.full(count, "train"),
        class_names=("made",),
        licence="none",
        read=lambda i: photos[i % len(photos)],
        sizes=np.array([len(photos[i % len(photos)]) for i in range(count)]),
    )


def report_decoding(photos: list[bytes], size: int, repeats: int) -> None:
    """One core: plain Pillow against decode_image, and what the reduced reading would cost in grey levels."""
    functions: dict[str, Callable[[bytes], object]] = {
        "plain Pillow": lambda photo: plain_pillow(photo, size),
        "decode_image": lambda photo: data.decode_image(photo, size),
        "decode_image, keep": lambda photo: data.decode_image(photo, size, aspect="keep"),
        "reduced (not used)": lambda photo: reduced(photo, size),
    }
    found = per_second(functions, photos, repeats)
    for name, rate in found.items():
        print(f"  {name:20} {rate:8.1f} images/s on one core, {rate / found['plain Pillow']:.2f} of plain Pillow")
    for name, other in (("decode_image", data.decode_image), ("reduced", reduced)):
        pairs = [(other(photo, size).astype(int), plain_pillow(photo, size)) for photo in photos]
        error = np.abs(np.stack([one - two for one, two in pairs]))
        print(f"  {name} differs from plain Pillow by {error.max()} grey levels at most, {error.mean():.2f} on average")


def report_cache(photos: list[bytes], size: int, counts: list[int], aspect: str, folder: str | None) -> None:
    """All cores: the first decode of a data set, and opening it again."""
    for count in counts:
        with tempfile.TemporaryDirectory(dir=folder) as cache_dir:
            examples, seconds = catalogue(photos, count), []
            for _ in range(2):
                began = time.perf_counter()
                images = data.decode(examples, size, aspect=aspect, cache_dir=cache_dir)
                seconds.append(time.perf_counter() - began)
            stored = sum(file.stat().st_blocks * 512 for file in Path(cache_dir).iterdir())
        print(
            f"  {aspect:6} {count:8,} images: {seconds[0]:8.2f} s, {count / seconds[0]:8.1f} images/s; "
            f"opened again in {seconds[1] * 1000:.1f} ms; {stored / 1e6:,.0f} MB on disk, "
            f"{images.nbytes(np.arange(count)) / 1e6:,.0f} MB of pixels"
        )


def report_training(photos: list[bytes], repeats: int, batch: int = 32, crop: int = 128, steps_each: int = 12) -> None:
    """Time of a training step, the batch included, over that of the step alone."""
    model, variables, _, _ = _random_network.create("mobilenet_v2", dtype="float32", classes=10, batch=batch, size=crop)
    method, head = methods.create("l2"), models.spec("mobilenet_v2").head
    tx = optim.make_optimizer(variables["params"], lambda step: 1e-4, head=head, weight_decay=1e-4)
    loss = steps.make_loss(model, model, method, taps=(), head=head, alpha=0.0, beta=0.0)

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        return data.normalize(data.random_crop_mirror(key, images, crop), (0.5,) * 3, (0.25,) * 3)

    train_step = jax.jit(steps.make_train_step(loss, tx, augment))
    state = init_state(variables, tx)
    with tempfile.TemporaryDirectory() as cache_dir:
        images = data.decode(catalogue(photos, 1024), crop * 9 // 8, cache_dir=cache_dir)
        mesh = sharding.make_mesh()
        sets = {name: ImageSet(images, "train", mesh, on_device=name) for name in ("yes", "no")}
        table = data.batch_table(0, repeats * steps_each, len(images.catalogue), batch)
        same = sets["yes"].batch(table[0])
        sources: dict[str, Iterator[Any]] = {
            "already there": itertools.repeat(same),
            "on the device": sets["yes"].stream(table),
            "streamed": sets["no"].stream(table),
        }
        seconds: dict[str, list[float]] = {name: [] for name in sources}
        for turn in range(repeats):
            for name, batches in sources.items():
                began = time.perf_counter()
                for one in itertools.islice(batches, steps_each):
                    state, metrics = train_step(state, variables, one, None, jax.random.key(0))
                jax.block_until_ready(metrics)
                if turn:  # the first one compiles
                    seconds[name].append((time.perf_counter() - began) / steps_each)
    alone = np.array(seconds["already there"])
    for name, found in seconds.items():
        rate, ratio = batch / statistics.median(found), statistics.median(np.array(found) / alone)
        print(f"  {name:14} {rate:7.1f} images/s, {100 * (ratio - 1):+.1f} % of the step's time")
    print(
        f"  memory: {images.nbytes(np.arange(1024)) / 1e6:.0f} MB on the device, or {AHEAD} batches of "
        f"{batch * images.array[0].nbytes / 1e6:.1f} MB that wait"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=500, help="of the photos, pixels")
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--size", type=int, default=256, help="decoded to, pixels")
    parser.add_argument("--images", type=int, nargs="+", default=[1000], help="sizes of the data sets for the cache")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cache-dir", help="folder on the disk to be measured; the system's for temporary files")
    args = parser.parse_args()

    photos = made_photos(32, args.width, args.height)
    kilobytes = sum(map(len, photos)) / len(photos) / 1000
    print(f"JPEGs of {args.width} x {args.height}, {kilobytes:.0f} kB on average, to {args.size} pixels:")
    report_decoding(photos, args.size, args.repeats)
    print(f"the cache, {os.cpu_count()} cores:")
    for aspect in data.ASPECTS:
        report_cache(photos, args.size, args.images, aspect, args.cache_dir)
    print("training steps of MobileNetV2, 128 pixels, 32 images:")
    report_training(photos, args.repeats + 1)


if __name__ == "__main__":
    huge_pages.restart()
    main()
