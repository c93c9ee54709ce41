"""Class names in pictures: cut to a length, in fonts that have their letters, or numbered where none has."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache

import matplotlib
from matplotlib import font_manager

from delta_jax import data

LONGEST = 30  # letters of a name
# Between letters and behind emoji; without them a name reads as well.
_JOINERS = "\u200c\u200d\ufe0e\ufe0f"
# Its glyphs are boxes with the number of a letter.
_LAST_RESORT = "Last Resort High-Efficiency"
# Before, matplotlib wrote letters one by one from left to right, Arabic and Hebrew, too.
_WRITES_RIGHT_TO_LEFT = matplotlib.__version_info__ >= (3, 11)


def labels(names: Sequence[str]) -> list[str]:
    """What stands for each class in a picture: its name, or "class 3" for one that is not `legible`, counted from 0."""
    short = [_short(name) if legible(name) else f"class {number}" for number, name in enumerate(names)]
    twice = {text for text, count in Counter(short).items() if count > 1}  # long ones with the same beginning
    return [f"{text[: LONGEST - 8]}… {number}" if text in twice else text for number, text in enumerate(short)]


def legible(name: str) -> bool:
    """Whether the fonts installed can show a name."""
    name = _short(name)
    if not _WRITES_RIGHT_TO_LEFT and any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in name):
        return False
    missing = _missing(name)
    return not missing or missing <= frozenset().union(*(_letters(path) for path in _others().values()))


def families(texts: Iterable[str]) -> list[str] | None:
    """Names of fonts for matplotlib, the usual one first; None where that has all letters of the texts."""
    missing, chosen = _missing("".join(texts)), ["sans-serif"]
    while missing:
        best, path = max(_others().items(), key=lambda font: len(missing & _letters(font[1])))
        if not missing & _letters(path):
            break
        chosen.append(best)
        missing -= _letters(path)
    return chosen if len(chosen) > 1 else None


def _short(name: str) -> str:
    name = data.shown("".join(letter for letter in name if letter not in _JOINERS))
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def _missing(text: str) -> frozenset[int]:
    """The letters that the usual font lacks."""
    usual = font_manager.findfont(font_manager.FontProperties())
    return frozenset(ord(letter) for letter in text if not letter.isspace()) - _letters(usual)


@cache
def _others() -> dict[str, str]:
    """The files of all upright fonts of normal weight and width, by name; which matplotlib finds again by the name."""
    entries = font_manager.fontManager.ttflist
    plain = (entry for entry in entries if (entry.style, entry.weight, entry.stretch) == ("normal", 400, "normal"))
    return {entry.name: entry.fname for entry in reversed([*plain]) if entry.name != _LAST_RESORT}


@cache
def _letters(path: str) -> frozenset[int]:
    """What a font has glyphs for; nothing where it has only pictures of one size, as many fonts of emoji."""
    try:
        font = font_manager.get_font(path)
    except (OSError, RuntimeError):  # damaged, or gone since the list was made
        return frozenset()
    return frozenset(font.get_charmap()) if font.scalable else frozenset()
