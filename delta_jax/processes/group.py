"""The processes of a run: how they come together, what they tell each other, and how one that fails ends the others.

They speak through the coordination service of jax.distributed, which the first process runs. That needs no devices, so
it works before there are any and while others wait in a computation, and a process that has failed can still say why.
"""

import contextlib
import itertools
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import jax
from absl import logging

# jax has no public name for the numbers of a process before the devices are there, nor for the service's messages.
from jax._src.distributed import global_state as _jax_state

from delta_jax.processes.cluster import ProcessError, Settings

# A process that is not heard of for so long is given up, and the service ends all others. Beats come from a thread of
# their own, so neither a long compilation nor a slow disk stops them.
HEARTBEAT_S = 60
_SAID_WHEN_S = 60.0  # a process that waits for another one says so
_LOOK_EVERY_S, _GRACE_S = 1.0, 2.0  # for a failure elsewhere; for one's own error, which tells more
_FAREWELL_S = 15.0  # the first process stays for the others: the service ends with it
_JAX_LONGER_S = 600  # than this module waits for the others
_KEYS = "delta_jax"

_messages = itertools.count()
_leaving = threading.Lock()


def is_first() -> bool:
    """Whether this is the process that writes files and speaks to people; starts no devices."""
    return _jax_state.process_id == 0


def count() -> int:
    """How many processes the run has; starts no devices."""
    return _jax_state.num_processes or 1


@contextlib.contextmanager
def together(settings: Settings | None, *, timeout_s: int) -> Iterator[None]:
    """What is done within is done by all processes of a run, which begin and end together.

    An error in one of them is told to the others, which are ended wherever they are, in a computation that waits for
    the failed one, too: all print it and exit. Nothing of this where there is one process.

    Args:
      settings: of `cluster.settings`.
      timeout_s: how long to wait for the others at the start.

    Raises:
      ProcessError: the processes do not come together.
    """
    if settings is None:
        yield
        return
    _join(settings, timeout_s)
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(done,), daemon=True)
    watcher.start()
    try:
        yield
        gather("")  # else the first to finish would leave while the one that writes may still fail
    except BaseException as error:
        _leave(error)
    done.set()
    watcher.join()


def _join(settings: Settings, timeout_s: int) -> None:
    logging.set_verbosity(logging.WARNING)  # jax tells of every address that it opens
    if settings.process == 0 and settings.coordinator:
        _require_free_port(settings.coordinator)
    # When its own time is over jax ends the process with pages of C++.
    timer = threading.Timer(timeout_s, _give_up, [settings, timeout_s])
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            settings.coordinator,
            settings.processes,
            settings.process,
            local_device_ids=settings.local_devices,
            cluster_detection_method=settings.method,
            initialization_timeout=timeout_s + _JAX_LONGER_S,
            heartbeat_timeout_seconds=HEARTBEAT_S,
        )
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise ProcessError(
            f"{settings.source} speaks of several processes, but jax cannot bring them together: {reason}. Say it with "
            "--coordinator=HOST:PORT, --processes=N and --process=I; --processes=1 is a run of its own"
        ) from error
    finally:
        timer.cancel()


def _require_free_port(coordinator: str) -> None:
    port = int(coordinator.rpartition(":")[2])
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise ProcessError(
            f"--coordinator={coordinator}: this process, the first, cannot listen on port {port} "
            f"({os.strerror(error.errno or 0)}); take another port, the same for all processes"
        ) from error


def _give_up(settings: Settings, timeout_s: int) -> None:
    address = settings.coordinator or _jax_state.coordinator_address
    host, _, port = (address or "").rpartition(":")
    what = "it is not known where the first one listens"
    if address:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            what = f"the first one listens at {address}, so others are missing, or count otherwise"
        except OSError as error:
            what = f"the first one cannot be reached at {address} ({error.strerror or error})"
    me = "" if settings.process is None else f" {settings.process}"
    of = "" if settings.processes is None else f" of {settings.processes}"
    print(
        f"error: process{me}{of} ({settings.source}) has not found the others within {timeout_s} s: {what}; start all "
        "of them with the same --coordinator and --processes, or wait longer with --join_timeout",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def gather(said: str) -> list[str]:
    """What every process says, in their order; all have to call it, and it returns when all have."""
    if count() == 1:
        return [said]
    client, prefix = _jax_state.client, f"{_KEYS}/{next(_messages)}"
    assert client is not None
    client.key_value_set(f"{prefix}/{_jax_state.process_id}", said)
    return [_message_of(process, f"{prefix}/{process}") for process in range(count())]


def from_first(said: str) -> str:
    """What the first process says, on all of them; the others may say anything."""
    if count() == 1:
        return said
    client, key = _jax_state.client, f"{_KEYS}/{next(_messages)}"
    assert client is not None
    if is_first():
        client.key_value_set(key, said)
        return said
    return _message_of(0, key)


def _message_of(process: int, key: str) -> str:
    client, began = _jax_state.client, time.monotonic()
    assert client is not None
    while True:
        try:
            return client.blocking_key_value_get(key, int(1000 * _SAID_WHEN_S))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
            waited = time.monotonic() - began
            logging.warning("process %d waits for process %d, for %.0f s now", _jax_state.process_id, process, waited)


def agree(facts: Mapping[str, Any]) -> None:
    """Compares facts that have to be the same on every process.

    Args:
      facts: by name; anything that JSON can hold.

    Raises:
      ProcessError: on every process, with the facts that differ and what each process has.
    """
    if count() == 1:
        return
    told = [json.loads(text) for text in gather(json.dumps(dict(facts)))]
    missing = "(not there)"
    names = dict.fromkeys(name for one in told for name in one)
    different = []
    for name in names:
        holders: dict[str, list[int]] = {}
        for process, one in enumerate(told):
            holders.setdefault(json.dumps(one.get(name, missing)), []).append(process)
        if len(holders) > 1:
            listed = "; ".join(f"{value} on {_named(who)}" for value, who in holders.items())
            different.append(f"{name}: {listed}")
    if different:
        raise ProcessError(
            "the processes of this run differ:\n  " + "\n  ".join(different) + "\n"
            "Start all of them with the same flags, packages, data and weights"
        )


def _named(processes: list[int]) -> str:
    shown = ", ".join(map(str, processes[:8])) + (f" and {len(processes) - 8} more" if len(processes) > 8 else "")
    return f"process{'es' if len(processes) > 1 else ''} {shown}"


def _watch(done: threading.Event) -> None:
    """Ends this process when another one has failed, whatever the main thread waits for."""
    client = _jax_state.client
    assert client is not None
    while not done.wait(_LOOK_EVERY_S):
        try:
            failed = client.key_value_dir_get(f"{_KEYS}/failed")
        except jax.errors.JaxRuntimeError:
            return  # the first process is gone: jax itself ends this one
        if failed and not done.wait(_GRACE_S):
            _exit("\n".join(f"error: {text}" for _, text in failed), 1)


def _leave(error: BaseException) -> NoReturn:
    """Prints the error as Python would, tells the others, and exits without waiting for them."""
    if isinstance(error, SystemExit):
        text, code = ("", error.code or 0) if isinstance(error.code, int | None) else (str(error.code), 1)
        reason = text.removeprefix("error: ") or f"it has left with exit status {code}"
    else:
        text, code = "".join(traceback.format_exception(error)).rstrip(), 1
        reason = traceback.format_exception_only(error)[-1].strip()
    client = _jax_state.client
    assert client is not None
    number = _jax_state.process_id
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # already told, or the service is gone
        client.key_value_set(f"{_KEYS}/failed/{number}", f"process {number}: {reason}")
    _exit(text, int(code))


def _exit(text: str, code: int) -> NoReturn:
    _leaving.acquire()  # and never released: the main thread and the watcher may both come here
    if text:
        print(text, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    client, end = _jax_state.client, time.monotonic() + _FAREWELL_S
    assert client is not None
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        client.key_value_set(f"{_KEYS}/left/{_jax_state.process_id}", "")
        while is_first() and len(client.key_value_dir_get(f"{_KEYS}/left")) < count() and time.monotonic() < end:
            time.sleep(0.1)
    # Not sys.exit: jax would wait for the others, which wait for this one, and for threads within computations.
    os._exit(code)
