"""A command in several processes of this machine that find each other."""

import socket
import subprocess
import sys
from collections.abc import Sequence

from tests.small_run import ROOT, environment


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
    commands = [
        [sys.executable, "-m", f"delta_jax.{module}", *arguments, *more, address, f"--processes={len(own)}"]
        for more in own
    ]
    started = [
        subprocess.Popen(
            [*map(str, command), f"--process={number}"],
            cwd=ROOT,
            env=environment(devices),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, command in enumerate(commands)
    ]
    try:
        said = [process.communicate(timeout=timeout) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *texts)
        for process, texts in zip(started, said, strict=True)
    ]
