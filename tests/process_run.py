"""A command in several processes of this machine that find each other."""

import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.small_run import ended, start


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_processes(
    module: str, *arguments: object, own: Sequence[Sequence[object]] = ((), ()), devices: int = 2, timeout: float = 300
) -> list[subprocess.CompletedProcess[str]]:
    """`python -m delta_jax.MODULE ARGUMENTS...` to its end, in one process for each of `own`, which adds to its flags.

    Raises:
      subprocess.TimeoutExpired: one has not ended after `timeout` seconds; none is left behind.
    """
    address = f"--coordinator=127.0.0.1:{free_port()}"
    numbered = [[*more, address, f"--processes={len(own)}", f"--process={n}"] for n, more in enumerate(own)]
    return together([["-m", f"delta_jax.{module}", *arguments, *more] for more in numbered], devices, timeout)


def together(
    commands: Sequence[Sequence[object]], devices: int, timeout: float
) -> list[subprocess.CompletedProcess[str]]:
    """`python COMMAND...` to its end, for each in a process of its own at the same time; raises as `run_processes`."""
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder, str(number)) for number in range(len(commands))]
        for place in places:
            place.mkdir()
        started = [start([*map(str, command)], place, devices) for command, place in zip(commands, places, strict=True)]
        try:
            for process in started:
                process.wait(timeout)
        finally:
            for process in started:
                process.kill()
                process.wait()
        return [ended(process, place) for process, place in zip(started, places, strict=True)]
