"""Signals that ask a run to stop: it saves and ends, and the same command goes on from there.

    signal    sent by                                            exit status
    SIGTERM   Kubernetes, preemptible machines, kill             143
    SIGUSR1   SLURM before its limit: srun --signal=USR1@120     138
    SIGINT    Ctrl-C                                             130

These statuses, 128 + the signal, say: all that was done is on disk, start the same command again. The attention ends
after the batch under way, fine-tuning after the steps that the device was given already, `log_every` of them at most;
elsewhere there is nothing to save, and the process ends at once. A second signal ends it anywhere, and leaves what was
saved before. A signal that is ignored where the run is started, such as SIGINT in a job of the background, stays so.

Several processes have to stop at the same step, or those that go on wait for the others for ever. So each remembers
its signal, and they ask each other where they wait for numbers anyway: after every batch of the attention, with every
record of fine-tuning (`log_every` steps), and between the phases. jax has a service of its own for this; it knows
SIGTERM only, needs several processes, and swallows a second signal.

Only the commands handle signals, by `caught`; elsewhere `asked` is never true, so a program that calls `trainer.fit`,
in any thread, keeps its own handlers.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from delta_jax.processes import group

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
SAME_SECONDS = 1.0  # timeout(1) and others send one signal twice: to the process, and to its group


class Interrupted(BaseException):
    """A signal ended the run; `status` is what the process exits with.

    No Exception, as it is no failure of what it comes out of.
    """

    def __init__(self, number: int, after: str = ""):
        where = f" {after}" if after else ""
        super().__init__(f"stopped by {signal.Signals(number).name}{where}; the same command goes on from there")
        self.status = 128 + number


class _Request:
    """What the handlers leave for the run; there is one, as there is one set of handlers."""

    def __init__(self) -> None:
        self.number, self.since, self.held = 0, 0.0, False
        self.tidies: list[Callable[[], None]] = []

    def handle(self, number: int, _: Any) -> None:
        if self.number:
            if time.monotonic() - self.since > SAME_SECONDS:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self.number, self.since = number, time.monotonic()
        # Not by print: the handler may have come into another one.
        if self.held or group.count() > 1:
            name = signal.Signals(number).name
            os.write(2, f"{name}: the run saves and ends; a second signal ends it at once\n".encode())
            return
        # Nor by an exception: it may come into a callback, such as jax's at garbage collection, which swallows it.
        stopped = Interrupted(number)
        for tidy in self.tidies:
            tidy()
        os.write(2, f"{stopped}\n".encode())
        os._exit(stopped.status)


_request = _Request()


@contextmanager
def caught() -> Iterator[None]:
    """What a command does within, in its main thread, a signal may stop: the process then exits with that status.

    It has to come within `processes.together`: jax takes SIGTERM for itself when processes find each other.
    """
    before = {number: handler for number in SIGNALS if (handler := signal.getsignal(number)) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, _request.handle)
    try:
        yield
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.status)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _request.number = 0


@contextmanager
def held() -> Iterator[None]:
    """Within, a signal is only remembered, for `asked` and `check`; one that nobody asked for counts at the end."""
    _request.held = True
    try:
        yield
    finally:
        _request.held = False
    if group.count() == 1:
        check()


@contextmanager
def tidied(tidy: Callable[[], None]) -> Iterator[None]:
    """Within, `tidy` is called before a signal ends the process at once; it has to be safe in a signal's handler."""
    _request.tidies.append(tidy)
    try:
        yield
    finally:
        _request.tidies.remove(tidy)


def asked() -> int:
    """The signal that asks to stop, 0 for none; all processes call this at the same point, and get the same answer."""
    return max(map(int, group.gather(str(_request.number))))


def check(after: str = "") -> None:
    """Raises Interrupted if there was a signal; all processes call this at the same point.

    Args:
      after: how far the run came, for the message.
    """
    if number := asked():
        raise Interrupted(number, after)
