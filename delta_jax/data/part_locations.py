"""Where annotated parts lie in photos: CUB-200-2011's 15 parts of birds (Table 3 of the DELTA paper)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from delta_jax.data.errors import DataError

_OWN = "tfds/cub200_2011"
_TABLES = ("images.txt", "parts/parts.txt", "parts/part_locs.txt")


@dataclass(frozen=True, eq=False)
class PartLocations:
    """Annotated points of a data set.

    Attributes:
      names: P parts.
      points: {"class folder/file name": float32 [P, 3]}: x and y in pixels of the photo, and 1 if visible, else 0.
    """

    names: tuple[str, ...]
    points: dict[str, np.ndarray]

    def of(self, file: str) -> np.ndarray:
        """[P, 3] of a file of a catalogue, whatever folders its class folder lies in.

        Raises:
          DataError: nothing is known of it.
        """
        found = self.points.get(_key(file))
        if found is None:
            known = next(iter(self.points), "none")
            raise DataError(
                f"no parts are annotated of {file}; those of {len(self.points)} images are known, such as {known}: "
                "give the annotations of this data set"
            )
        return found


def part_locations(name: str, root: str = "", folder: str = "") -> PartLocations:
    """Where the parts are, from the lists in a folder, or from a data set that `delta_jax.prepare` has made.

    Args:
      name: of the data set, "tfds/cub200_2011" where there is no folder.
      root: where that one lies, as in `find`.
      folder: CUB_200_2011 of the published archive, with images.txt, parts/parts.txt and parts/part_locs.txt; "" for
        what was prepared.

    Raises:
      DataError: there are no annotations, or they do not fit each other.
    """
    if folder:
        return read(Path(folder).expanduser())
    if name.partition(":")[0] != _OWN:
        raise DataError(
            f"{name} brings no annotated parts along; give the folder CUB_200_2011 of the published archive, or train "
            f"on {_OWN}"
        )
    return _prepared(root)


def read(folder: Path) -> PartLocations:
    """The lists of the published archive; see `part_locations`.

    A line of images.txt is "image file", of parts/parts.txt "part name", of parts/part_locs.txt "image part x y
    visible"; images and parts are numbered from 1. A part without a line is not visible.
    """
    try:
        images, parts, places = ((folder / table).read_text("utf-8").splitlines() for table in _TABLES)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{folder} has no annotated parts ({error}); expected {', '.join(_TABLES)} as in CUB_200_2011.tgz"
        ) from error
    try:
        names = tuple(name for _, name in (line.split(maxsplit=1) for line in _filled(parts)))
        files = {number: _key(file) for number, file in (line.split(maxsplit=1) for line in _filled(images))}
        points = {file: np.zeros((len(names), 3), np.float32) for file in files.values()}
        for image, part, *place in map(str.split, _filled(places)):
            if not 1 <= int(part) <= len(names):
                raise ValueError(f"image {image} has a part {part}, and there are {len(names)} parts")
            x, y, visible = map(float, place)
            points[files[image]][int(part) - 1] = x, y, visible
    except (ValueError, KeyError) as error:
        raise DataError(
            f"{folder}: {', '.join(_TABLES)} do not fit each other ({error!r}); expected lines of image and file, part "
            "and name, and image, part, x, y, visible: unpack CUB_200_2011.tgz again"
        ) from error
    return PartLocations(names, points)


def _prepared(root: str) -> PartLocations:
    import tensorflow_datasets as tfds

    from delta_jax.data.builders.cub200_2011 import PARTS, Cub2002011

    builder = Cub2002011(data_dir=root or None)
    if not builder.info.splits:
        raise DataError(f"{_OWN} is not prepared in {builder.data_dir}; run: python -m delta_jax.prepare --data={_OWN}")
    points = {}
    for split in builder.info.splits:
        source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        for i in range(len(source)):
            example = source[i]
            points[_key(example["file"].decode())] = np.asarray(example["parts"], np.float32)
    return PartLocations(PARTS, points)


def _key(file: str) -> str:
    return "/".join(file.split("/")[-2:])


def _filled(lines: list[str]) -> list[str]:
    return [line for line in lines if line.strip()]
