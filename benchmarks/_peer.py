"""Another implementation's training step, timed by its own script in a process of its own."""

import re
import subprocess
from collections.abc import Sequence

LINE = re.compile(r"^step (\S+) (\d+)px batch (\d+) (\S+): ([\d.]+) images/s$", re.MULTILINE)


def parse(text: str, methods: Sequence[str]) -> dict[str, float]:
    """{method: images per second} of lines `step ARCH SIZEpx batch N METHOD: X images/s`."""
    found = {match[4]: float(match[5]) for match in LINE.finditer(text)}
    return {method: found[method] for method in methods if method in found}


def measure(command: Sequence[str], *, arch: str, size: int, batch: int, classes: int, bfloat16: bool) -> str:
    """What one run of the script prints.

    Args:
      command: the interpreter and the script.
      arch: network, by the name that both sides use.
      size: height and width of the images, pixels.
      batch: images per step.
      classes: outputs of the head.
      bfloat16: whether it computes in bfloat16.

    Raises:
      SystemExit: it cannot be started, or fails: it may not know the network.
    """
    sizes = [f"--size={size}", f"--batch={batch}", f"--classes={classes}"]
    called = [*command, "step", f"--arch={arch}", *sizes, *(["--bf16"] if bfloat16 else [])]
    try:
        done = subprocess.run(called, capture_output=True, text=True, check=False)
    except OSError as error:
        raise SystemExit(f"error: {called[0]} cannot be started: {error}; --peer-python names an interpreter") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SystemExit(f"error: {' '.join(called)} failed: {last}")
    return done.stdout
