"""What compilers write to stderr, past Python: pages of it, and harmless."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def kept_in(path: Path) -> Iterator[None]:
    """Inside, what is written past Python goes to a file, which says more where a compiler ends the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    before, python = os.dup(2), sys.stderr
    with path.open("w") as file, os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace") as kept:
        os.dup2(file.fileno(), 2)
        sys.stderr = kept
        try:
            yield
        finally:
            sys.stderr = python
            os.dup2(before, 2)
            os.close(before)
