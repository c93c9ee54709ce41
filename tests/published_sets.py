"""The paper's data sets in small: their archives and lists laid out exactly as the real ones, with made-up images."""

import bz2
import dataclasses
import gzip
import hashlib
import io
import lzma
import tarfile
from collections.abc import Callable, Mapping

import numpy as np
import scipy.io
from PIL import Image

from delta_jax.data import builders

PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gz": lambda data: gzip.compress(data, mtime=0),
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


def picture(value: int, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """A small image of one grey."""
    file = io.BytesIO()
    Image.new("RGB", (9, 6), (value % 256,) * 3).convert(mode).save(file, kind)
    return file.getvalue()


def archive(files: Mapping[str, bytes], packing: str = "") -> bytes:
    """A tar with an entry for each folder too, as tar itself makes it; the same bytes each time."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        folders = set()
        for name, content in files.items():
            for depth in range(1, name.count("/") + 1):
                folder = "/".join(name.split("/")[:depth])
                if folder not in folders:
                    folders.add(folder)
                    entry = tarfile.TarInfo(folder)
                    entry.type = tarfile.DIRTYPE
                    tar.addfile(entry)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return PACKINGS[packing](out.getvalue())


def caltech256() -> dict[str, bytes]:
    """Two classes and the clutter, of 63, 61 and 62 files; the stray file and the stray folder of the real archive."""
    files = {}
    for folder, count in (("002.american-flag", 63), ("001.ak47", 61), ("257.clutter", 62)):
        for k in reversed(range(1, count + 1)):
            files[f"256_ObjectCategories/{folder}/{folder[:3]}_{k:04d}.jpg"] = picture(k)
    files["256_ObjectCategories/001.ak47/RENAME2"] = b"#!/bin/sh"
    files["256_ObjectCategories/001.ak47/greg/vision309/001_0001.jpg"] = picture(99)
    return {"256_ObjectCategories.tar": archive(files)}


def mit_indoor67() -> dict[str, bytes]:
    """Two classes. Listed: a GIF and a PNG under .jpg, and a name whose case differs; not listed: one image."""
    files = {
        "Images/airport_inside/airport_inside_0001.jpg": picture(1),
        "Images/airport_inside/airport_inside_0002.jpg": picture(2, "GIF"),
        "Images/airport_inside/._airport_inside_0002.jpg": b"macOS",
        "Images/airport_inside/not_listed.jpg": picture(3),
        "Images/kitchen/Int474.jpg": picture(4),
        "Images/kitchen/caf\udce9.jpg": picture(8),  # a byte of Latin-1
        "Images/kitchen/twin.jpg": picture(5),
        "Images/kitchen/Twin.jpg": picture(6),
        "Images/kitchen/last.jpg": picture(7, "PNG"),
    }
    train = ["airport_inside/airport_inside_0001.jpg", "airport_inside/airport_inside_0002.jpg", "kitchen/int474.jpg"]
    test = ["kitchen/twin.jpg", "kitchen/last.jpg", "kitchen/caf\udce9.jpg"]
    return {
        "indoorCVPR_09.tar": archive(files),
        "TrainImages.txt": "\r\n".join(train).encode(),
        "TestImages.txt": ("\n".join(test) + "\n\n").encode("utf-8", "surrogateescape"),
    }


def cub200_2011() -> dict[str, bytes]:
    """Four images of two classes, numbered as in the real tables: of image i, part p lies at (10 i + p, p)."""
    names = [
        *("001.Black_footed_Albatross/Black_footed_Albatross_0046_18.jpg", "002.Laysan_Albatross/Laysan_0002_1027.jpg"),
        *("001.Black_footed_Albatross/Black_footed_Albatross_0009_34.jpg", "002.Laysan_Albatross/Laysan_0003_1033.jpg"),
    ]
    parts = [
        *("back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing"),
        *("nape", "right eye", "right leg", "right wing", "tail", "throat"),
    ]
    images = range(1, 5)
    tables = {
        "images.txt": [f"{i} {names[i - 1]}" for i in images],
        "image_class_labels.txt": [f"{i} {int(names[i - 1][:3])}" for i in images],
        "train_test_split.txt": [f"{i} {int(i != 3)}" for i in images],
        "bounding_boxes.txt": [f"{i} {i}.0 27.0 325.5 304.0" for i in images],
        "classes.txt": ["1 001.Black_footed_Albatross", "2 002.Laysan_Albatross"],
        "parts/parts.txt": [f"{p} {part}" for p, part in enumerate(parts, start=1)],
        "parts/part_locs.txt": [
            f"{i} {p} 0.0 0.0 0" if p == 7 else f"{i} {p} {10 * i + p}.0 {p}.0 1" for i in images for p in range(1, 16)
        ],
    }
    files = {f"CUB_200_2011/{name}": "".join(f"{line}\n" for line in lines).encode() for name, lines in tables.items()}
    files |= {f"CUB_200_2011/images/{name}": picture(i) for i, name in enumerate(names, start=1)}
    files["CUB_200_2011/README"] = np.random.default_rng(0).bytes(50_000)  # of a size to be cut in the middle
    return {"CUB_200_2011.tgz": archive({"attributes.txt": b"1 x\n"} | files, "gz")}


def stanford_dogs() -> dict[str, bytes]:
    """Two breeds; Matlab's lists hold columns of cells."""
    breeds = ["n02085620-Chihuahua", "n02085782-Japanese_spaniel"]
    lists = {"train_list.mat": [(0, 10), (0, 11), (1, 20)], "test_list.mat": [(1, 21), (0, 12)]}
    images, tables = {}, {}
    for file, entries in lists.items():
        names = [f"{breeds[label]}/{breeds[label][:9]}_{number}.jpg" for label, number in entries]
        images |= {f"Images/{name}": picture(number) for name, (_, number) in zip(names, entries, strict=True)}
        content = io.BytesIO()
        cells = np.empty((len(names), 1), object)
        cells[:, 0] = names
        labels = np.array([[label + 1] for label, _ in entries], np.float64)
        scipy.io.savemat(content, {"file_list": cells, "annotation_list": cells, "labels": labels})
        tables[file] = content.getvalue()
    return {"images.tar": archive(images), "lists.tar": archive(tables)}


def food101() -> dict[str, bytes]:
    """Two dishes."""
    lists = {"train": ["apple_pie/1005649", "apple_pie/1014775", "waffles/971843"], "test": ["waffles/1011328"]}
    files = {f"food-101/images/{name}.jpg": picture(7) for names in lists.values() for name in names}
    files |= {f"food-101/meta/{split}.txt": "\n".join(names).encode() for split, names in lists.items()}
    files |= {"food-101/meta/classes.txt": b"apple_pie\nwaffles\n", "food-101/meta/labels.txt": b"Apple pie\nWaffles\n"}
    return {"food-101.tar.gz": archive(files, "gz")}


MAKERS = {make.__name__: make for make in (caltech256, cub200_2011, food101, mit_indoor67, stanford_dogs)}
# Counted by hand in the functions above.
COUNTS = {
    "caltech256": {
        "l2sp-30": {"train": 90, "test": 6},  # 3 + 1 + 2 files from 61 on
        "l2sp-60": {"train": 180, "test": 6},
        "random-30-seed0": {"train": 60, "test": 4},
        "random-30-seed1": {"train": 60, "test": 4},
        "random-60-seed0": {"train": 120, "test": 4},
    },
    "cub200_2011": {"": {"train": 3, "test": 1}},
    "food101": {"": {"train": 3, "test": 1}},
    "mit_indoor67": {"": {"train": 3, "test": 3}},
    "stanford_dogs": {"": {"train": 3, "test": 2}},
}


def publish(name: str, url: Callable[[str], str], replace: Callable[[object, str, object], None]) -> dict[str, bytes]:
    """Makes a builder expect the small files at these addresses, with their hashes where the real ones have one.

    Args:
      name: of the data set.
      url: from the name of a file to its address.
      replace: setattr, or that of a monkeypatch.

    Returns:
      {name of the file: content}.
    """
    builder, files = builders.BUILDERS[name], MAKERS[name]()
    originals = [
        dataclasses.replace(
            file,
            urls=tuple(url(file.name) for _ in file.urls),
            megabytes=len(files[file.name]) / 1e6,
            size=len(files[file.name]) if file.size is not None else None,
            digits=hashlib.new(file.algorithm, files[file.name]).hexdigest() if file.digits else "",
        )
        for file in builder.ORIGINALS
    ]
    replace(builder, "ORIGINALS", tuple(originals))
    replace(builder, "COUNTS", COUNTS[name])
    replace(builder, "CLASSES", 3 if name == "caltech256" else 2)
    return files
