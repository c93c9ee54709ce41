"""What the bytes of a file have to be."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Digits of a whole hash. A sha256 may be given by its beginning: PyTorch's file names carry the first 8 digits.
_DIGITS = {"sha256": 64, "sha1": 40, "md5": 32}
_SHORTEST = 8


@dataclass(frozen=True)
class Expected:
    """A hash, "" for none, and a size in bytes, None where it is not known."""

    algorithm: str = "sha256"
    digits: str = ""
    size: int | None = None

    def __post_init__(self) -> None:
        whole = _DIGITS[self.algorithm]
        shortest = _SHORTEST if self.algorithm == "sha256" else whole
        if self.digits and not (shortest <= len(self.digits) <= whole and re.fullmatch("[0-9a-f]+", self.digits)):
            raise ValueError(f"{self.digits!r} is no {self.algorithm}: {whole} digits 0-9 and a-f, in lower case")

    def hasher(self) -> Any:
        """A hash object of hashlib, to be fed with the bytes of the file."""
        return hashlib.new(self.algorithm)

    def problem(self, size: int, found: str) -> str:
        """What is wrong with a file of `size` bytes and the hash `found`; "" if it is the right one."""
        if self.size is not None and size != self.size:
            return f"has {size:,} bytes, expected {self.size:,}"
        if self.digits and not found.startswith(self.digits):
            return f"has {self.algorithm} {found}, expected {self}"
        return ""

    def problem_of(self, path: Path) -> str:
        """The same for a file on disk."""
        return self.problem(path.stat().st_size, digest(path, self.algorithm) if self.digits else "")

    def __str__(self) -> str:
        return self.digits + ("..." if self.digits and len(self.digits) < _DIGITS[self.algorithm] else "")


def expected(sha256: str, sha1: str, md5: str, size: int | None) -> Expected:
    """From at most one hash, in either case."""
    given = {name: digits for name, digits in (("sha256", sha256), ("sha1", sha1), ("md5", md5)) if digits}
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are given; one hash is enough")
    for algorithm, digits in given.items():
        return Expected(algorithm, digits.lower(), size)
    return Expected(size=size)


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Hexadecimal hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
