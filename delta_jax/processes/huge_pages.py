"""Large pages for the host's memory: on a CPU a step of MobileNetV2 is a fifth shorter with them.

XLA takes the temporary memory of a program, hundreds of megabytes, from malloc for every step and gives it back after
it. Linux then clears it page by page: 140,000 page faults of 4 KiB for one step of MobileNetV2 at 128 px and batch 32,
and 700 with pages of 2 MiB. glibc asks for these where a variable of the environment says so, which it reads once, when
a process starts.
"""

import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "GLIBC_TUNABLES"
TUNABLE = "glibc.malloc.hugetlb"
# "always madvise [never]", the choice in brackets. Only with madvise does it matter what a process asks for.
POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")
FIRST_GLIBC = (2, 35)  # that knows the tunable


def restart() -> None:
    """Replaces this process by one with huge pages, same command and process number, where that would help.

    Returns where it would not: malloc has been told already, the system gives every process huge pages or none, its C
    library knows nothing of them, or jax has an accelerator to compute on. To be called by a command before it has done
    anything; the second start costs about a second.
    """
    environment = improved(os.environ, policy=_policy(), libc=_libc())
    if environment is not None and not _has_accelerator(os.environ):
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def improved(environment: Mapping[str, str], *, policy: str, libc: str) -> dict[str, str] | None:
    """The environment that asks for huge pages; None where that would change nothing.

    Args:
      environment: of this process.
      policy: the text of `POLICY`.
      libc: name and version, "glibc 2.36".
    """
    name, _, version = libc.partition(" ")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    given = environment.get(VARIABLE, "")
    if TUNABLE in given or "[madvise]" not in policy or name != "glibc" or numbers < FIRST_GLIBC:
        return None
    return {**environment, VARIABLE: ":".join(filter(None, (given, f"{TUNABLE}=1")))}


def _policy() -> str:
    try:
        return POLICY.read_text()
    except OSError:  # no Linux, or one without huge pages
        return ""


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):  # no POSIX, or another C library
        return ""


def _has_accelerator(environment: Mapping[str, str]) -> bool:
    # Asking jax would start its backends, before the processes of a run have found each other.
    if environment.get("JAX_PLATFORMS") == "cpu":
        return False
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return bool(plugins) or importlib.util.find_spec("libtpu") is not None
