"""Runs of `delta_jax.train` that are watched, stopped and started again, and whether they end as one left alone."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from delta_jax.workdir import logs
from tests import small_network
from tests.forked import Forked
from tests.process_run import free_port
from tests.small_run import ROOT, TRAIN_UNSEEN, environment

# Time enough to be stopped in the middle of the attention and of fine-tuning. With the statistics of the source and a
# small rate rounding stays rounding, see test_devices.py.
SLOW = {
    "attention_batch": 4,
    "attention_chunk": 1,
    "checkpoint_every": 20,
    "log_every": 5,
    "eval_every": 30,
    "batch_norm": "frozen_stats",
    "learning_rate": 1e-3,
    "head_l2": (0.01,),
}
FILTERS = sum(small_network.FILTERS.values())
# A process that is gone is given up within seconds instead of a minute.
TRAIN_IMPATIENTLY = (
    "-c",
    f"from delta_jax.processes import group; group.HEARTBEAT_S = 5; {TRAIN_UNSEEN[1]}",
)
SECONDS = 240  # for a run, or a part of one; on an idle machine it takes ten


signal.signal(signal.SIGINT, signal.default_int_handler)  # else what a background job starts ignores it


class Run:
    """A process that trains in `workdir`; `output` has what it said so far."""

    def __init__(
        self,
        workdir: Path,
        flags: Sequence[str],
        *,
        devices: int = 1,
        program: Sequence[str] = TRAIN_UNSEEN,
    ):
        workdir.mkdir(parents=True, exist_ok=True)
        self.workdir = workdir
        self._said = workdir / f"output-{time.time_ns()}.txt"
        arguments = [*program, *flags, f"--workdir={workdir}"]
        self._said.touch()
        self.process = Forked(arguments, cwd=ROOT, env=environment(devices), stdout=self._said, stderr=self._said)

    @property
    def output(self) -> str:
        return self._said.read_text()

    def wait_until(self, condition: Callable[[], bool]) -> "Run":
        """Returns as soon as the condition holds; it is an error if the process ends before."""
        until = time.monotonic() + SECONDS
        while not condition():
            if self.process.poll() is not None or time.monotonic() > until:
                self.process.kill()
                raise AssertionError(f"never came that far, status {self.process.wait()}\n{self.output}")
            time.sleep(0.002)
        return self

    def stop(self, number: signal.Signals) -> int:
        """Sends a signal; returns the status the process ends with."""
        self.process.send_signal(number)
        return self.end()

    def end(self) -> int:
        """Waits for the end and returns the status."""
        try:
            return self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"no end\n{self.output}") from None


def two_processes(workdir: Path, flags: Sequence[str]) -> list[Run]:
    """A run in two processes with a device each."""
    address = f"--coordinator=127.0.0.1:{free_port()}"
    return [
        Run(workdir, [*flags, address, "--processes=2", f"--process={number}"], program=TRAIN_IMPATIENTLY)
        for number in range(2)
    ]


def checkpoints(workdir: Path) -> list[int]:
    """Steps of the checkpoints on disk, ascending."""
    return sorted(int(file.name) for file in (workdir / "checkpoints").glob("*") if file.name.isdigit())


def attention_rows(cache_dir: Path) -> int:
    """Images whose gaps are on disk."""
    return sum(table.stat().st_size // (4 * FILTERS) for table in cache_dir.glob("attention/*/gaps.f32"))


def steps_recorded(workdir: Path, since: float = 0.0) -> int:
    """The last step of fine-tuning in the metrics: a run is there, or a few steps further.

    Args:
      workdir: of the run.
      since: seconds since 1970; what was written before does not count.
    """
    if not (workdir / logs.METRICS_FILE).exists():
        return 0
    written = [one for one in logs.read(workdir) if one["phase"] == "fine_tune" and one["time"] >= since]
    return max((one["step"] for one in written), default=0)


def records(workdir: Path) -> list[dict[str, Any]]:
    """The metrics, without the time at which they were written."""
    return [{name: value for name, value in record.items() if name != "time"} for record in logs.read(workdir)]


def summary(workdir: Path) -> dict[str, Any]:
    """summary.json without what the clock has to do with."""
    found = json.loads((workdir / "summary.json").read_text())
    assert all(seconds > 0 for seconds in found.pop("seconds").values())
    assert found.pop("images_per_second") > 0
    return found


def assert_same_end(found: Path, expected: Path) -> None:
    """Bit by bit: parameters, attention, metrics of every step, predictions, summary."""
    parameters = [load_file(workdir / "model.safetensors") for workdir in (found, expected)]
    assert parameters[0].keys() == parameters[1].keys()
    for name, array in parameters[1].items():
        assert array.tobytes() == parameters[0][name].tobytes(), name
    with np.load(found / "attention.npz") as one, np.load(expected / "attention.npz") as other:
        assert set(one) == set(other)
        for name in one:
            assert one[name].tobytes() == other[name].tobytes(), name
    assert records(found) == records(expected)
    assert (found / "predictions.csv").read_text() == (expected / "predictions.csv").read_text()
    assert summary(found) == summary(expected)
