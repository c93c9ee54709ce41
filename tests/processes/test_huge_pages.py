"""Huge pages: what the environment has to say for them, and that a process starts again once, with the same command."""

import os
import subprocess
import sys

import pytest

from delta_jax.processes import huge_pages
from delta_jax.processes.huge_pages import TUNABLE, VARIABLE, improved

MADVISE = "always [madvise] never\n"


def asked(environment, policy=MADVISE, libc="glibc 2.36"):
    return improved(environment, policy=policy, libc=libc)


def test_other_tunables_stay():
    assert asked({"A": "1"}) == {"A": "1", VARIABLE: f"{TUNABLE}=1"}
    assert asked({VARIABLE: "glibc.malloc.arena_max=2"}) == {VARIABLE: f"glibc.malloc.arena_max=2:{TUNABLE}=1"}


@pytest.mark.parametrize(
    "change",
    [
        {"environment": {VARIABLE: f"{TUNABLE}=0"}},  # somebody has decided
        {"policy": "[always] madvise never"},
        {"policy": "always madvise [never]"},
        {"policy": ""},  # not Linux
        {"libc": "glibc 2.34"},
        {"libc": "musl 1.2"},
        {"libc": ""},
    ],
)
def test_where_it_would_change_nothing(change):
    assert asked(**{"environment": {}, **change}) is None


def test_a_process_starts_again_once_with_the_same_command():
    program = (
        "import os, sys; from delta_jax.processes import huge_pages; "
        f"huge_pages._policy = lambda: {MADVISE!r}; huge_pages._libc = lambda: 'glibc 2.36'; "
        "print('start', os.getpid(), flush=True); huge_pages.restart(); "
        f"print(os.environ['{VARIABLE}'], *sys.argv[1:])"
    )
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", program, "--a b", "c"],
        env={**environment, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    first, second, last = done.stdout.splitlines()
    assert first == second  # the same process number: whoever waits for it or signals it need not know
    assert last == f"{TUNABLE}=1 --a b c"


def test_it_does_not_start_again_with_an_accelerator(monkeypatch):
    monkeypatch.setattr(huge_pages, "_policy", lambda: MADVISE)
    monkeypatch.setattr(huge_pages, "_libc", lambda: "glibc 2.36")
    monkeypatch.setattr(huge_pages.importlib.metadata, "entry_points", lambda group: ["cuda"])
    monkeypatch.setattr(huge_pages.os, "execve", lambda *_: pytest.fail("started again"))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("JAX_PLATFORMS")
    huge_pages.restart()
