"""What the files of a data set hold that nobody would see in the decoded images: their range of values, more pages."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from delta_jax.data import levels
from delta_jax.data.catalogue import Catalogue
from delta_jax.data.images import BrokenImageError, open_image
from delta_jax.data.levels import Depth

# To be raised when `look` finds others than before, so that what was kept is not taken for new.
VERSION = 1
CHUNK = 256
_ONE_OF_EIGHT_BITS = (b"\xff\xd8\xff", b"BM")  # JPEG and BMP


@dataclasses.dataclass(frozen=True)
class Look:
    """What was found in one file.

    Attributes:
      pages: pages or frames; the first one is what is decoded.
      depth: of more than eight bits a sample, else None.
      lowest: sample of such a picture.
      largest: sample of it.
    """

    pages: int = 1
    depth: Depth | None = None
    lowest: float = 0
    largest: float = 0

    @property
    def has_known_white(self) -> bool:
        """Whether the bits of a sample say what shows white, in a picture of more than eight."""
        depth = self.depth
        return depth is not None and not depth.floating and self.lowest >= 0 and self.largest <= depth.full

    @property
    def nearly_black(self) -> bool:
        """Whether four bits or more of a sample are left unused."""
        return self.has_known_white and self.depth is not None and self.largest <= self.depth.full // 16


def look(data: bytes) -> Look:
    """Looks at an encoded image; raises BrokenImageError where it is none."""
    if data.startswith(_ONE_OF_EIGHT_BITS):
        return Look()
    with open_image(data) as opened:
        pages = getattr(opened, "n_frames", 1)
        depth = levels.depth_of(opened, data)
        if depth is None:
            return Look(pages)
        values = levels.without_alpha(levels.values_of(opened, data, depth))
        return Look(pages, depth, values.min().item(), values.max().item())


def survey(
    catalogue: Catalogue, cache_dir: str | os.PathLike[str], *, progress: Callable[[int], None] | None = None
) -> dict[int, Look]:
    """Looks at every file once; the answer is kept in a folder of `cache_dir`.

    Args:
      catalogue: the examples, with their contents.
      cache_dir: folder for what is kept.
      progress: called with a number of images each time that many more were looked at.

    Returns:
      {row: what was found} of the files with several pages or more than eight bits a sample. Broken ones are left to
      decoding.
    """
    facts = " ".join((str(VERSION), *catalogue.contents))
    path = Path(cache_dir).expanduser() / "survey" / f"{hashlib.sha256(facts.encode()).hexdigest()[:16]}.json"
    try:
        return {int(row): _from_json(found) for row, found in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        pass

    def look_at(row: int) -> Look:
        try:
            return look(catalogue.read(row))
        except (OSError, BrokenImageError):
            return Look()

    found: dict[int, Look] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(catalogue), CHUNK):
            rows = range(start, min(start + CHUNK, len(catalogue)))
            found |= {row: one for row, one in zip(rows, pool.map(look_at, rows), strict=True) if one != Look()}
            if progress is not None:
                progress(len(rows))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not a temporary file of the library's, which only its owner can read: a cache may be shared.
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        unfinished.write_text(json.dumps({row: dataclasses.asdict(one) for row, one in found.items()}))
        unfinished.replace(path)
    except OSError:
        pass  # they are looked at again next time; that the folder cannot be written is said where images are decoded
    return found


def describe_pages(catalogue: Catalogue, found: Mapping[int, Look], at_most: int = 10) -> str:
    """One line on files with several pages or frames; "" where there are none."""
    several = [f"{catalogue.files[row]} ({one.pages})" for row, one in found.items() if one.pages > 1]
    if not several:
        return ""
    more = f" and {len(several) - at_most} more" if len(several) > at_most else ""
    return f"of files with several pages or frames the first is taken: {', '.join(several[:at_most])}{more}"


def _from_json(found: dict) -> Look:
    return Look(**{**found, "depth": found["depth"] and Depth(**found["depth"])})
