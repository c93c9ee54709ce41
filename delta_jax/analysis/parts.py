"""How active networks are where the parts of birds are (Table 3 of the paper).

    python -m delta_jax.analysis.parts [--annotations=CUB_200_2011] [--tap=layer4_2/conv3] WORKDIR...

How the table is read. The paper says "average activations on 15 discriminate parts", of normalised activations, and
gives 5.298 for the source. A normalised activation is at most 1, so this can be no mean over parts: it is the sum over
the parts of an image that are visible, up to 15, and the mean of that sum over the test images. What remains open is
chosen here: every filter's map is normalised by itself, with the formula of section 4.4, and the mean over the filters
of a tap is taken; that tap is the last one, its map raw; a part has the value of the cell of the map it lies in. Parts
outside the centre crop are left out, as invisible ones are. Beside the sum stands the mean per part, which does not
depend on how many there are.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from delta_jax import data, features, precision, processes, weights
from delta_jax.analysis import activation_maps
from delta_jax.processes import sharding
from delta_jax.training import config as configs
from delta_jax.training import measured_images, stored_config
from delta_jax.training.classifier import Classifier
from delta_jax.training.setup import Setup
from delta_jax.workdir import logs
from delta_jax.workdir.stored_trees import CheckpointError

SOURCE = "source"


@dataclass(frozen=True)
class PartActivations:
    """A row of Table 3.

    Attributes:
      network: "source", or the method that fine-tuned it.
      workdir: of the run; None for the source.
      sum: over the parts of an image, mean over the images.
      per_part: mean over all parts of all images.
      images: that were looked at.
      parts: visible in them, in all.
    """

    network: str
    workdir: Path | None
    sum: float
    per_part: float
    images: int
    parts: int


def at_points(maps: np.ndarray, points: np.ndarray, crop: int) -> np.ndarray:
    """The values of the maps' cells in which points lie.

    Args:
      maps: [B, h, w], each over a whole image of crop * crop pixels.
      points: [B, P, 2], x and y in pixels of the crop.
      crop: pixels.

    Returns:
      [B, P]; NaN for points outside the crop and for those that are NaN.
    """
    height, width = maps.shape[1:]
    inside = np.all((points >= 0) & (points < crop), axis=-1)
    cells = np.floor(np.where(inside[..., None], points, 0) * np.array([width, height]) / crop).astype(int)
    values = maps[np.arange(len(maps))[:, None], cells[..., 1], cells[..., 0]]
    return np.where(inside, values, np.nan)


def part_activations(workdirs: Sequence[Path], annotations: str = "", tap: str = "") -> list[PartActivations]:
    """Table 3 of finished runs on one data set, from one source network; the source comes first.

    Args:
      workdirs: of the runs.
      annotations: folder CUB_200_2011 with the published lists; "" where the runs are on tfds/cub200_2011.
      tap: module path; the last of the first run's taps if not given.

    Raises:
      ConfigError: a run is not finished, or the runs are of different data or source networks.
      DataError, CheckpointError, WeightsError: annotations, images or parameters cannot be read.
    """
    trained = [Classifier(workdir) for workdir in workdirs]
    stored = [stored_config.read(workdir).to_dict() for workdir in workdirs]
    for workdir, one in zip(workdirs, stored, strict=True):
        for name in ("arch", "weights", "data"):
            if one[name] != stored[0][name]:
                raise configs.ConfigError(
                    f"{name} of {workdir} is {one[name]}, of {workdirs[0]} {stored[0][name]}; "
                    "expected runs on the same data from the same source"
                )
    config = configs.resolve(ConfigDict(stored[0]))
    images = [measured_images.own(workdir, config, "test") for workdir in workdirs]
    measured = [one.take(one.rows("test")) for one in images]
    for workdir, one in zip(workdirs, measured, strict=True):
        if one.contents != measured[0].contents:
            raise configs.ConfigError(f"the test images of {workdir} and {workdirs[0]} differ; expected the same")
    setup = Setup(config, images=images[0], trains=False)
    for note in setup.catalogue.notes:
        logs.say(note)
    tap = tap or setup.config.taps[-1]
    settings = setup.config.data
    points = _points(setup, data.part_locations(settings.name, settings.root, annotations))
    model = setup.network()

    @jax.jit
    def maps_of(variables: Any, pixels: data.Pixels) -> jax.Array:
        with precision.full():
            return features.apply_with_taps(model, variables, setup.centre(pixels), (tap,))[1][tap]

    def row(name: str, workdir: Path | None, variables: Any) -> PartActivations:
        found = []
        with logs.progress(len(setup.test), f"parts, {name}") as bar:
            for rows, mask, batch in setup.test.batches(setup.config.eval_batch_size):
                kept = int(mask.sum())
                maps = sharding.on_host(maps_of(variables, batch["image"]))[:kept]
                found.append(at_points(activation_maps.mean_map(maps), points[rows[:kept]], settings.crop))
                bar.advance(kept)
        values = np.concatenate(found).astype(np.float64)
        seen = np.isfinite(values)
        total, parts = float(np.nansum(values)), int(seen.sum())
        return PartActivations(name, workdir, total / len(values), total / max(parts, 1), len(values), parts)

    rows = [row(SOURCE, None, setup.source)]
    for workdir, one, classifier in zip(workdirs, stored, trained, strict=True):
        rows.append(row(one["method"], workdir, setup.place(classifier.variables)))
    return rows


def _points(setup: Setup, locations: data.PartLocations) -> np.ndarray:
    """Of the test images, in pixels of their centre crops: [M, P, 2], NaN for what is not visible."""
    settings, catalogue = setup.config.data, setup.images.catalogue
    found = np.full((len(setup.test), len(locations.names), 2), np.nan)
    for here, row, file in zip(found, setup.test.rows, setup.test.files, strict=True):
        located = locations.of(file)
        visible = located[:, 2] > 0
        size = data.photo_size(catalogue.read(int(row)))
        here[visible] = data.points_in_crop(
            located[visible, :2], size, settings.resize, settings.crop, aspect=settings.aspect
        )
    return found


def main(arguments: Sequence[str]) -> None:
    """Prints the table of some workdirs: mean and standard deviation over the runs of each method."""
    parser = argparse.ArgumentParser(prog="delta_jax.analysis.parts", description="Activations on parts (Table 3).")
    parser.add_argument("workdirs", nargs="+", type=Path, help="of finished runs on one data set")
    parser.add_argument("--annotations", default="", help="folder CUB_200_2011; not needed for tfds/cub200_2011")
    parser.add_argument("--tap", default="", help="module path; the last tap of the runs if not given")
    given = parser.parse_args(arguments)
    processes.set_up_process()
    try:
        rows = part_activations(given.workdirs, given.annotations, given.tap)
    except (configs.ConfigError, data.DataError, weights.WeightsError, CheckpointError, ValueError) as error:
        sys.exit(f"error: {error}")
    by_network = defaultdict(list)
    for row in rows:
        by_network[row.network].append(row)
    title = f"normalised activation on {rows[0].parts:,} visible parts of {rows[0].images:,} test images"
    lines = [
        [name, len(runs), _spread([run.sum for run in runs]), _spread([run.per_part for run in runs])]
        for name, runs in by_network.items()
    ]
    logs.table(title, ["network", "runs", "sum over parts", "mean per part"], lines)


def _spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


if __name__ == "__main__":
    main(sys.argv[1:])
