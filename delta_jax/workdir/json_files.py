"""Small results of a run as JSON files: there whole or not at all, the same for every process."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delta_jax import processes

_NUMBERS = re.compile(r"\[\s[-+.\deE,\s]*\]")


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a file, and its folder, that is there whole or not at all; the first process alone does."""
    if not processes.is_first():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: runs that start at once write the same files of the cache.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text = json.dumps(values, indent=2)
    # A list of numbers on one line: a confusion matrix is then a table.
    text = _NUMBERS.sub(lambda found: " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]"), text)
    unfinished.write_text(text + "\n")
    unfinished.replace(path)


def exists(path: Path) -> bool:
    """Whether the first process finds this file, on every process."""
    return processes.from_first(str(path.exists() if processes.is_first() else "")) == "True"


def read(path: Path) -> dict[str, Any]:
    """What the first process finds in a file, on every process; {} where there is none."""
    return json.loads(processes.from_first(path.read_text() if processes.is_first() and path.exists() else "{}"))
