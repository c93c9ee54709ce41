"""Photos with the activation maps of the source and of several methods side by side, from galleries of runs (Fig. 4).

python -m delta_jax.analysis.case_study [--tap=layer4_2/conv3] --out=case_study.png WORKDIR...
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from delta_jax.analysis import fonts, gallery, pictures
from delta_jax.workdir import logs


class CaseStudy(NamedTuple):
    """What a figure shows.

    Attributes:
      tap: module path.
      photos: P of uint8 [H, W, 3].
      columns: {"source" or name of a run: P pictures, uint8 [H, W, 3]}.
      titles: P true classes.
    """

    tap: str
    photos: list[np.ndarray]
    columns: dict[str, list[np.ndarray]]
    titles: list[str]


def read(workdirs: Sequence[Path], tap: str = "") -> CaseStudy:
    """The galleries of finished runs: the maps of the source from the first, then those of each run.

    Args:
      workdirs: of runs on the same data and source network.
      tap: module path; the last one in the galleries if not given.

    Raises:
      ValueError: a run has no gallery, or not of the same photos, or not at this tap.
    """
    folders = [Path(workdir) / gallery.FOLDER for workdir in workdirs]
    for folder in folders:
        if not (folder / gallery.FILE).exists():
            raise ValueError(f"{folder / gallery.FILE} is not there; finish the run with delta_jax.train first")
    found = [json.loads((folder / gallery.FILE).read_text())["photos"] for folder in folders]
    tap = tap or found[0][0]["maps"][-1]["tap"]
    columns: dict[str, list[np.ndarray]] = {}
    for workdir, folder, photos in zip(workdirs, folders, found, strict=True):
        names = [[photo["name"] for photo in one] for one in (photos, found[0])]
        if names[0] != names[1]:
            raise ValueError(
                f"the gallery of {workdir} shows {', '.join(names[0])}, that of {workdirs[0]} {', '.join(names[1])}; "
                "expected runs on the same data"
            )
        known = [maps["tap"] for maps in photos[0]["maps"]]
        if tap not in known:
            raise ValueError(
                f"the gallery of {workdir} has the taps {', '.join(known)}, not {tap}; choose one of these"
            )
        maps = [photo["maps"][known.index(tap)] for photo in photos]
        if not columns:
            columns["source"] = [_picture(folder / one["source"]) for one in maps]
        columns[_label(Path(workdir), columns)] = [_picture(folder / one["trained"]) for one in maps]
    photos = found[0]
    classes = json.loads((Path(workdirs[0]) / "summary.json").read_text()).get("classes", [])
    labels = dict(zip(classes, fonts.labels(classes), strict=True))
    titles = [labels.get(one["true"], one["true"]) for one in photos]
    return CaseStudy(tap, [_picture(folders[0] / one["photo"]) for one in photos], columns, titles)


def main(arguments: Sequence[str]) -> None:
    """Draws the figure of some workdirs."""
    parser = argparse.ArgumentParser(prog="delta_jax.analysis.case_study", description="Activation maps (Fig. 4).")
    parser.add_argument("workdirs", nargs="+", type=Path, help="of finished runs on one data set")
    parser.add_argument("--tap", default="", help="module path; the last one in the galleries if not given")
    parser.add_argument("--out", type=Path, default=Path("case_study.png"), help="picture to write")
    given = parser.parse_args(arguments)
    try:
        found = read(given.workdirs, given.tap)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    pictures.beside(found.photos, found.columns, given.out, found.titles)
    logs.say(f"  {given.out}: filters of {found.tap} on which the source has low activation")


def _label(workdir: Path, taken: dict[str, list[np.ndarray]]) -> str:
    """The method, with its seed where the method alone is taken, and with its folder where that is, too."""
    summary = json.loads((workdir / "summary.json").read_text())
    names = (summary["method"], f"{summary['method']}, seed {summary['seed']}")
    return next((name for name in names if name not in taken), str(workdir))


def _picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


if __name__ == "__main__":
    main(sys.argv[1:])
