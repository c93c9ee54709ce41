"""How long it may take, and how long it took: over restarts, and with several processes at work."""

import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from delta_jax import processes
from delta_jax.training.config import ConfigError
from delta_jax.workdir import json_files

FOLDER = "clock"
BEAT_S = 10.0  # a process that is killed loses no more than this
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def seconds(text: str) -> float | None:
    """ "30m", "2h", "90s" or "1h30m" in seconds; None for "".

    Raises:
      ConfigError: none of these.
    """
    if not text:
        return None
    found = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text)
    parts = (
        [float(part) * unit for part, unit in zip(found.groups(), _UNITS.values(), strict=True) if part]
        if found
        else []
    )
    if not parts or not sum(parts) > 0:
        raise ConfigError(f"--budget={text}: expected a time with its unit, such as 30m, 2h, 90s or 1h30m")
    return sum(parts)


def union(intervals: Iterable[tuple[float, float]]) -> float:
    """How long at least one of the intervals (from, to) lasted."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


class Clock:
    """Adds up the time in which at least one process worked in a folder; within it, a thread keeps the file fresh."""

    def __init__(self, folder: Path, now: Callable[[], float] = time.time):
        """Starts.

        Args:
          folder: that all processes share.
          now: seconds.
        """
        self._now, self._began = now, now()
        self._folder = Path(folder) / FOLDER
        self._file = self._folder / f"{socket.gethostname()}-{os.getpid()}-{int(self._began)}.json"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Clock":
        self.tick()
        if processes.is_first():
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self.tick()

    def tick(self) -> None:
        """Writes that this process is at work."""
        json_files.write(self._file, {"from": self._began, "to": self._now()})

    def spent(self) -> float:
        """Seconds so far, of all processes and those before them."""
        intervals = [(self._began, self._now())]
        for file in self._folder.glob("*.json"):
            if file != self._file:
                one = json.loads(file.read_text())
                intervals.append((one["from"], one["to"]))
        return union(intervals)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            self.tick()


def shown(length: float) -> str:
    """ "45 s", "12 min" or "1.5 h"."""
    if length < 100:
        return f"{length:.0f} s"
    return f"{length / 60:.0f} min" if length < 6000 else f"{length / 3600:.1f} h"
