"""Commands in processes of their own that do not import jax again, which takes seconds: forked from one that has it."""

import atexit
import importlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

# Nothing here imports jax: forked_imports.py first says what is to be read then.
ROOT = Path(__file__).parents[1]
# What jax reads when it is imported, as in conftest.py.
JAX = {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
}

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.forked_imports"])


class Forked:
    """`python ARGUMENTS...` for `-m MODULE ...` and `-c PROGRAM ...`, as a subprocess.Popen to those who start it.

    What jax reads when it is imported is `JAX`, whatever `env` says.

    Args:
      arguments: of Python.
      cwd: to start in.
      env: all variables of the environment.
      stdout, stderr: files, which are made; they may be the same.
    """

    def __init__(self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdout: Path, stderr: Path):
        self.args = [sys.executable, *arguments]
        self._process = _PROCESSES.Process(
            target=_become, args=(list(arguments), str(cwd), dict(env), str(stdout), str(stderr))
        )
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _become(arguments: list[str], cwd: str, env: dict[str, str], stdout: str, stderr: str) -> None:
    """Goes on as that process, until its end."""
    for number, path in ((1, stdout), (2, stderr)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(env)
    huge_pages = importlib.import_module("delta_jax.processes.huge_pages")
    os.environ.setdefault(huge_pages.VARIABLE, f"{huge_pages.TUNABLE}=1")  # else it starts again to get them
    os.chdir(cwd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    kind, what, *rest = arguments
    sys.argv, sys.orig_argv = ["-c", *rest], [sys.executable, *arguments]  # of a module runpy puts its file there
    try:
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(what, {"__name__": "__main__"})
    finally:
        # As where the interpreter ends; multiprocessing leaves without.
        threading._shutdown()
        jax = importlib.import_module("jax")
        if jax.distributed.is_initialized():
            jax.distributed.shutdown()  # jax has it in atexit, which the fork server of Python 3.13 empties
        atexit._run_exitfuncs()
