"""What is there of a file that is being fetched, and how an attempt to fetch the rest can end."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all or None where the server does not say


class Interrupted(Exception):
    """The attempt failed in a way that another one may not; `wait_s` is what the server asks for."""

    def __init__(self, reason: str, wait_s: float | None = None):
        super().__init__(reason)
        self.wait_s = wait_s


class Refused(Exception):
    """This address will not give the file, however often it is asked."""


@dataclass(frozen=True)
class Part:
    """The bytes that arrived so far, and beside them which version of the file they belong to."""

    path: Path

    @property
    def about(self) -> Path:
        """JSON: {"validator": what If-Range takes}."""
        return self.path.with_name(f"{self.path.name}.json")

    def size(self) -> int:
        """Bytes that are there."""
        return self.path.stat().st_size if self.path.exists() else 0

    def validator(self) -> str:
        """What tells the server which version the bytes are of; "" if it never said."""
        try:
            return str(json.loads(self.about.read_text("utf-8"))["validator"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def remove(self) -> None:
        """Forgets it."""
        self.path.unlink(missing_ok=True)
        self.about.unlink(missing_ok=True)
