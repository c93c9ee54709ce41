"""What methods and measures are called on the page, and which of its colours a method has throughout."""

import re

from delta_jax import methods
from delta_jax.analysis import published

_LABELS = {
    "l2_fe": "L²-FE",
    "l2": "L²",
    "l2_sp": "L²-SP",
    "delta_without_attention": "DELTA (w/o ATT)",
    "delta": "DELTA",
    "l2_sp_kernels": "L²-SP (kernels)",
    "l2_sp_fisher": "L²-SP-Fisher",
    "mars_sp": "MARS-SP",
    "bss": "BSS",
    "attention_transfer": "AT",
    "afd": "AFD",
    "delta_cosine": "DELTA (cosine)",
    "lwf": "LwF",
    "co_tuning": "Co-Tuning",
    "bi_tuning": "Bi-Tuning",
}
COLOURS = 16  # m0 to m15 of style.css; the last is for methods that it does not know


def label(method: str) -> str:
    """The name of a method in the paper's tables; that of an unknown one is its own."""
    return _LABELS.get(method, method)


def setting(*names: str) -> str:
    """Data set, network and variant for a heading, those of the paper by its names for them; "" is left out."""
    known = {**published.DATA_SETS, **published.NETWORKS}
    return " · ".join(known.get(name, name) for name in names if name)


def colour(method: str) -> str:
    """The class in style.css with the colour and dashes of a method."""
    known = methods.names()
    return f"m{known.index(method) if method in known else COLOURS - 1}"


def slug(text: str) -> str:
    """A part of an id: letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"


def duration(seconds: float) -> str:
    """As 1 h 20 min, 3 min, 12 s."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


def plural(number: int, noun: str) -> str:
    """As 1 run, 2 runs, 3 classes."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"
