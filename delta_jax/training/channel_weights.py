"""The channel weights of DELTA's published code (github.com/lixingjian/DELTA): a JSON file of gaps, read and written.

One list per tap with one mean gap per filter, before any normalisation. Taps have no names there: their order counts.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from delta_jax.training.config import ConfigError

_LARGEST = float(np.finfo(np.float32).max)


def read(path: str | Path, channels: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The gaps of such a file by tap.

    Args:
      path: written by `write`, or by the published channel_eval.py.
      channels: {tap: C}, in the order of the lists.

    Returns:
      {tap: float64 [C]}, to be normalised as they are: the published code has float64 z-scores.

    Raises:
      ConfigError: there is no such file, it is not a JSON list of lists of finite numbers, or it is of other taps.
    """
    path = Path(path)
    try:
        lists = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; expected a JSON file with a list of gaps per tap") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON ({error}); expected a list of gaps per tap") from error
    if not isinstance(lists, list) or not all(isinstance(one, list) for one in lists):
        raise ConfigError(f"{path} holds {_shape(lists)}; expected a list of lists of numbers: a gap per filter")
    if len(lists) != len(channels):
        raise ConfigError(
            f"{path} has gaps of {len(lists)} taps ({_lengths(lists)} filters); "
            f"expected {len(channels)}: {', '.join(channels)}. Choose the --config.taps that it was made for"
        )
    gaps = {}
    for number, (found, (tap, filters)) in enumerate(zip(lists, channels.items(), strict=True), start=1):
        if len(found) != filters:
            raise ConfigError(
                f"{path} has {len(found)} gaps for tap {number}, {tap}; expected {filters}, one per filter. Its taps "
                f"have {_lengths(lists)} filters, those of --config.taps {', '.join(map(str, channels.values()))}"
            )
        gaps[tap] = _numbers(found, f"{path}: tap {number}, {tap}")
    return gaps


def write(path: str | Path, gaps: Mapping[str, np.ndarray]) -> None:
    """Writes mean gaps, {tap: [C]}, as lists in the order of the mapping; float32 values come back the same to the bit.

    Raises:
      ConfigError: a gap is not finite, or they are not one per filter.
      OSError: the file cannot be written.
    """
    path = Path(path)
    for tap, gap in gaps.items():
        if np.ndim(gap) != 1:
            raise ConfigError(
                f"{tap}: gaps of shape {np.shape(gap)}, expected one per filter, averaged over the images"
            )
    lists = [_numbers(np.asarray(gap).tolist(), tap).astype(np.float32).tolist() for tap, gap in gaps.items()]
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text(json.dumps(lists) + "\n", encoding="utf-8")
    unfinished.replace(path)


def _numbers(values: list[Any], where: str) -> np.ndarray:
    for number, value in enumerate(values):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (is_number and abs(value) <= _LARGEST):  # not of NaN, Infinity and 1e300 either
            raise ConfigError(f"{where}: the gap of filter {number} is {value!r:.40}; expected a finite number")
    return np.array(values, np.float64)


def _lengths(lists: list[list[Any]]) -> str:
    return ", ".join(str(len(one)) for one in lists)


def _shape(value: Any) -> str:
    if isinstance(value, list):
        return "a list of " + " and ".join(sorted({type(one).__name__ for one in value}))
    return f"a {type(value).__name__}"
