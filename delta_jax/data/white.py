"""Which value shows white in a data set's pictures of more than eight bits a sample: one for all of them.

It is never taken from the values of a picture, which would make all exposures alike, nor from those of all pictures:
the largest value found is only compared with what the files say, or what their bits allow.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from delta_jax.data.errors import DataError
from delta_jax.data.survey import Look


class UnknownWhiteError(DataError):
    """The values end far below what the bits of the files allow, and nothing says which of them shows white.

    Attributes:
      found: the pictures and their values, for a message of one's own.
    """

    def __init__(self, found: str, way_out: str):
        """Of what was found, and what the user can do."""
        super().__init__(f"{found}: {way_out}")
        self.found = found


def choose_white(found: Mapping[int, Look], files: Sequence[str], white: int | None) -> tuple[int | None, list[str]]:
    """The value to give to `decode_image`, and what is to be said of it.

    Cameras of 10 to 14 bits leave their values as they are in files of 16, which then look black. Where a bit or more
    is unused in all pictures of a kind, a range that all files state alike (PNG's sBIT, TIFF's MaxSampleValue) and
    keep to is believed, and else the user has to say.

    Args:
      found: {row: what `survey` found}, of the whole data set, so that the answer does not depend on its splits.
      files: name of each row.
      white: what the user says; None if nothing.

    Returns:
      The white, None for the largest value that the bits of each file allow, and lines to be said.

    Raises:
      UnknownWhiteError: with the values found and those to choose from.
    """
    deep = {row: one for row, one in found.items() if one.depth}
    if white is not None:
        return white, _about_clipped(deep, files, white)
    # Others have no known white, and are named with the broken images.
    deep = {row: one for row, one in deep.items() if one.has_known_white}
    kinds = _kinds(deep.values())
    dark = [kind for kind in kinds if kind.largest <= kind.full // 2]
    if not dark:
        return None, _about_dark_ones(deep, files)
    stated, largest = {kind.stated for kind in kinds}, max(kind.largest for kind in kinds)
    declared = stated.pop() if len(stated) == 1 else None
    if declared is None or largest > declared:
        raise _question(dark)
    return declared, [
        f"white is {declared} in the {len(deep)} pictures of more than 8 bits a sample: their files say so, and their "
        f"largest value is {largest}; for another, set --config.data.white"
    ]


class _Kind(NamedTuple):
    bits: int
    full: int
    stated: int | None
    pictures: int
    largest: int


def _kinds(looks: Iterable[Look]) -> list[_Kind]:
    largest: dict[tuple[int, int, int | None], list[int]] = {}
    for one in looks:
        assert one.depth
        largest.setdefault((one.depth.bits, one.depth.full, one.depth.declared), []).append(int(one.largest))
    return [_Kind(*kind, len(values), max(values)) for kind, values in largest.items()]


def _question(dark: Sequence[_Kind]) -> UnknownWhiteError:
    kinds = "; ".join(
        f"{kind.pictures} pictures of {kind.bits} bits a sample hold values up to {kind.largest}, "
        f"expected up to {kind.full}" + (f" (the files state {kind.stated})" if kind.stated else "")
        for kind in dark
    )
    top, full = max(1, *(kind.largest for kind in dark)), max(kind.full for kind in dark)
    whole = (1 << top.bit_length()) - 1
    *others, last = sorted({top, whole, full})
    return UnknownWhiteError(
        kinds,
        "they would come out dark. Set --config.data.white to the value that shows white: "
        f"{', '.join(map(str, others))} or {last} ({top} is the largest found, {whole} what {whole.bit_length()} bits "
        f"allow, {full} leaves them dark)",
    )


def _about_clipped(deep: Mapping[int, Look], files: Sequence[str], white: int) -> list[str]:
    outside = [row for row, one in deep.items() if one.largest > white or one.lowest < 0]
    if not outside:
        return []
    lowest, largest = min(deep[row].lowest for row in outside), max(deep[row].largest for row in outside)
    return [
        f"{len(outside)} of {len(deep)} pictures of more than 8 bits a sample hold values outside of 0..{white}, which "
        f"are clipped: {lowest:g} to {largest:g}, such as {files[outside[0]]}"
    ]


def _about_dark_ones(deep: Mapping[int, Look], files: Sequence[str]) -> list[str]:
    dark = [row for row, one in deep.items() if one.nearly_black]
    if not dark:
        return []
    largest = max(deep[row].largest for row in dark)
    return [
        f"warning: {len(dark)} of {len(deep)} pictures of more than 8 bits a sample hold no value above {largest:g} "
        f"and are nearly black, such as {files[dark[0]]}; if their range is not that of the others, scale them first"
    ]
