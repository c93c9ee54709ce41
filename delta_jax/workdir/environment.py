"""What a run ran with: the command, interpreter, packages and devices."""

import json
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax

_PACKAGES = ("delta_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "ml-collections", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Of the packages that results depend on."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def write(workdir: Path) -> None:
    """Appends to command.txt, and writes versions.json: interpreter, packages, devices."""
    line = shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]])
    with (workdir / "command.txt").open("a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(line + "\n")
    device = jax.devices()[0]
    facts = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "packages": versions(),
    }
    (workdir / "versions.json").write_text(json.dumps(facts, indent=2) + "\n")
