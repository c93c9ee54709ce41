"""What a run leaves for pages and figures that compare methods: photos with activation maps, drift, attention.

The photos are the same for every method, seed and strength on one data set, so that runs can be laid side by side.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from delta_jax import data, features, precision
from delta_jax.analysis import activation_maps, attentions, drift, fonts, pictures
from delta_jax.processes import sharding
from delta_jax.training import attention_pass, attention_phase
from delta_jax.training.setup import Setup
from delta_jax.training.state import Variables
from delta_jax.workdir import json_files

FOLDER, FILE, PROFILE = "gallery", "gallery.json", "attention_profile.json"
PHOTOS, MISTAKES = 6, 12
PHOTO_SIDE, MISTAKE_SIDE, QUALITY = 160, 128, 80  # pixels, and JPEG's scale of 1 to 95
ROWS, FILTERS = 4, 3  # photos and filters of filters.png
KINDS = ("source", "trained")


def representatives(labels: np.ndarray, count: int) -> np.ndarray:
    """Which images stand for a split: a rule that knows nothing but the labels.

    With `count` classes or more that have images: the first image of each of `count` classes, evenly spread over them.
    With fewer: the first image of each class, then the second of each, and so on.

    Args:
      labels: int [M].
      count: how many, at most M are found.

    Returns:
      int [min(count, M)], ascending.
    """
    classes, first = np.unique(labels, return_index=True)
    if len(classes) >= count:
        return np.sort(first[np.linspace(0, len(classes) - 1, count).round().astype(int)])
    order = np.argsort(labels, kind="stable")
    rank = np.empty(len(labels), int)
    rank[order] = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])
    return np.sort(np.lexsort((labels, rank))[:count])


def shown_taps(taps: Sequence[str]) -> tuple[str, ...]:
    """The middle one, or the one before, and the last one."""
    return tuple(dict.fromkeys((taps[(len(taps) - 1) // 2], taps[-1])))


def write(setup: Setup, workdir: Path, before: Variables, after: Variables, probabilities: np.ndarray) -> None:
    """Writes filters.png, gallery/, drift.json and attention_profile.json; the first process calls it, alone.

    Args:
      setup: of the run.
      workdir: of the run.
      before: the source network with the L2-FE head.
      after: what the run ended with; the same object where only the head was trained.
      probabilities: [M, K] of the test images.
    """
    source = sharding.own_copy(before)
    trained = source if after is before else sharding.own_copy(after)
    if setup.method.trains_backbone:
        json_files.write(workdir / drift.FILE, drift.record(drift.filter_drift(source["params"], trained["params"])))
    if setup.method.uses_attention:
        weights = attention_pass.load_weights(workdir / attention_phase.FILE, setup.config.taps)
        json_files.write(workdir / PROFILE, attentions.profile(weights))
    picked = representatives(setup.test.labels, PHOTOS)
    pixels = setup.images.take(setup.test.rows[picked])
    photos = np.asarray(data.center_crop(pixels, setup.config.data.crop))
    maps = _maps(setup, pixels, source, trained)
    _write_filters(setup, workdir / "filters.png", picked, photos, maps)
    folder = workdir / FOLDER
    folder.mkdir(exist_ok=True)
    content = {
        "photos": _write_photos(setup, folder, picked, photos, maps, probabilities),
        "mistakes": _write_mistakes(setup, folder, probabilities),
    }
    json_files.write(folder / FILE, content)


def _maps(setup: Setup, pixels: data.Pixels, *networks: Variables) -> list[dict[str, np.ndarray]]:
    """Of each network {tap: [P, h, w, C]} at the taps of filters.png and of the gallery."""
    taps = setup.config.taps
    wanted = tuple(dict.fromkeys((taps[len(taps) // 2], *shown_taps(taps))))
    model = setup.network()

    @jax.jit
    def maps_of(variables: Variables, pixels: data.Pixels) -> dict[str, jax.Array]:
        with precision.full():  # maps of two networks are subtracted
            return features.apply_with_taps(model, variables, setup.centre(pixels), wanted)[1]

    return [jax.tree.map(np.asarray, maps_of(variables, pixels)) for variables in networks]


def _write_filters(setup: Setup, path: Path, picked: np.ndarray, photos: np.ndarray, maps: list[Any]) -> None:
    """filters.png: what the filters that changed most see in a few test photos."""
    tap = setup.config.taps[len(setup.config.taps) // 2]
    before, after = (one[tap][:ROWS] for one in maps)
    change = np.square(after - before).sum((0, 1, 2))
    activity = np.maximum(before, 0).sum((0, 1, 2))
    chosen = np.argsort(-(change if change.any() else activity))[:FILTERS]
    names = fonts.labels(setup.catalogue.class_names)
    pictures.filters(
        photos[:ROWS],
        {tap: before[..., chosen]},
        {tap: after[..., chosen]},
        {tap: chosen.tolist()},
        path,
        [names[label] for label in setup.test.labels[picked[:ROWS]]],
    )


def _write_photos(
    setup: Setup, folder: Path, picked: np.ndarray, photos: np.ndarray, maps: list[Any], probabilities: np.ndarray
) -> list[dict[str, Any]]:
    """photo-0.jpg and so on, and the maps over them: the mean over the filters on which the source has low activation.

    Low is meant over these very photos, at this tap. Both networks show the same filters.
    """
    told = [
        {**_facts(setup, row, probabilities), "photo": f"photo-{number}.jpg", "maps": []}
        for number, row in enumerate(picked)
    ]
    small = [_resized(photo, PHOTO_SIDE) for photo in photos]
    for one, photo in zip(told, small, strict=True):
        _save(photo, folder / one["photo"])
    for tap in shown_taps(setup.config.taps):
        chosen = activation_maps.low_filters(maps[0][tap])
        shown = {name: activation_maps.mean_map(one[tap], chosen) for name, one in zip(KINDS, maps, strict=True)}
        for number, (one, photo) in enumerate(zip(told, small, strict=True)):
            files = {name: f"photo-{number}-{tap.replace('/', '-')}-{name}.jpg" for name in KINDS}
            for name, file in files.items():
                _save(activation_maps.overlay(photo, shown[name][number]), folder / file)
            one["maps"].append({"tap": tap, **files})
    return told


def _write_mistakes(setup: Setup, folder: Path, probabilities: np.ndarray) -> list[dict[str, Any]]:
    """mistake-0.jpg and so on: the test images of which the network is most sure, and wrong."""
    sure = probabilities.max(-1)
    wrong = np.flatnonzero(probabilities.argmax(-1) != setup.test.labels)
    rows = wrong[np.argsort(-sure[wrong], kind="stable")][:MISTAKES]
    if not len(rows):
        return []
    photos = np.asarray(data.center_crop(setup.images.take(setup.test.rows[rows]), setup.config.data.crop))
    told = [{**_facts(setup, row, probabilities), "photo": f"mistake-{number}.jpg"} for number, row in enumerate(rows)]
    for one, photo in zip(told, photos, strict=True):
        _save(_resized(photo, MISTAKE_SIDE), folder / one["photo"])
    return told


def _facts(setup: Setup, row: int, probabilities: np.ndarray) -> dict[str, Any]:
    names, best = setup.catalogue.class_names, int(probabilities[row].argmax())
    return {
        # Names of files need not be UTF-8, JSON is.
        "name": setup.test.files[row].encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
        "true": names[setup.test.labels[row]],
        "predicted": names[best],
        "probability": round(float(probabilities[row, best]), 4),
    }


def _resized(photo: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(photo).resize((side, side), Image.Resampling.BICUBIC))


def _save(picture: np.ndarray, path: Path) -> None:
    Image.fromarray(picture).save(path, "JPEG", quality=QUALITY)
