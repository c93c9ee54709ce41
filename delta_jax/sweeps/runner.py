"""Runs a sweep, or a share of it: each run once, going on where it was stopped."""

import gc
import itertools
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from delta_jax import processes, reports
from delta_jax.sweeps import choice, grid, records
from delta_jax.sweeps.grid import Cell, Run
from delta_jax.training import compiled_step, trainer
from delta_jax.training import config as configs
from delta_jax.training.config import ConfigError
from delta_jax.training.config_checks import InUseError
from delta_jax.training.fine_tune import DivergedError
from delta_jax.training.setup import Setup
from delta_jax.workdir import json_files, logs

# The same run again would end the same way; what a full disk or a lost machine ended is tried again.
LASTING = (DivergedError, FloatingPointError)
PASSING = (OSError, jax.errors.JaxRuntimeError)


@dataclass
class _Clock:
    """How long the runs took that this process did, and so how long those that are left may take."""

    seconds: float = 0.0
    runs: int = 0

    def left(self, runs: int) -> str:
        if not self.runs or not runs:
            return ""
        minutes = self.seconds / self.runs * runs / 60
        return f"; about {minutes:.0f} minutes left" if minutes < 120 else f"; about {minutes / 60:.1f} hours left"


class Sweep:
    """The runs of a sweep in a folder.

    Attributes:
      config: of the sweep, resolved.
      folder: of all its files.
      cells: those that `only` names.
    """

    def __init__(self, config: ConfigDict, folder: Path, *, only: Sequence[str] = ()):
        """Checks the whole config; nothing is run yet.

        Args:
          config: of a sweep, see configs/paper/table1.py.
          folder: of all its files.
          only: names of data sets, networks, variants or methods; of each kind that is named, only those are run.

        Raises:
          ConfigError: something cannot work.
        """
        self.config = grid.resolve(config)
        self.folder = Path(folder)
        self._all = grid.cells(self.config)
        self.cells = _only(self._all, only)
        self._done: dict[Run, dict[str, Any]] = {}

    def planned(self) -> list[Run]:
        """The runs of `cells`, choices first in each; final runs have their strengths where these are known."""
        return [run for cell in self.cells for run in self._runs(cell)]

    def records(self) -> list[dict[str, Any]]:
        """Of all runs of the config that are done, those that `only` leaves out included."""
        runs = (run for cell in self._all for run in self._runs(cell))
        return [record for record in map(self._record, runs) if record is not None]

    def check(self) -> None:
        """Looks for data, weights and taps of everything that is not done, before anything slow.

        Raises:
          ConfigError, DataError, WeightsError: one error that says what does not fit.
        """
        seen = set()
        for run in self.planned():
            # Methods and strengths have been checked; these take files.
            if run.cell.setting not in seen and self._record(run) is None:
                seen.add(run.cell.setting)
                Setup(configs.resolve(grid.config_of(self.config, run)))

    def run(self, *, shard: tuple[int, int] = (0, 1)) -> list[str]:
        """Does the runs of a share, then those that nobody else is doing.

        A final run waits for the choice runs of its method, which other shards may have: so the shard that does the
        last of these finds final runs to do, whoever's they were.

        Args:
          shard: (i, n): every n-th run from the i-th on comes first.

        Returns:
          What failed and would be tried again, one line for each run.

        Raises:
          ConfigError, DataError, WeightsError: bad input.
          Interrupted: by a signal; the same call goes on from there.
        """
        json_files.write(self.folder / "sweep.json", self.config.to_dict())
        failed: dict[str, str] = {}
        clock = _Clock()
        # Runs of a cell have one program, those of another their own.
        for _, turns in itertools.groupby(self._turns(shard), key=lambda turn: turn[0].cell):
            with compiled_step.shared():
                for run, left in turns:
                    logs.say(f"\n{run.path}: {left} runs to do{clock.left(left)}")
                    began = time.monotonic()
                    if self._attempt(run, failed):
                        clock = _Clock(clock.seconds + time.monotonic() - began, clock.runs + 1)
                    records.write(self.folder, self.records())
        records.write(self.folder, self.records())
        return [f"{path}: {why}" for path, why in failed.items()]

    def _turns(self, shard: tuple[int, int]) -> Iterator[tuple[Run, int]]:
        """The runs of a share, then all others, each once, and how many of these are to do; asked for one by one."""
        tried = set[str]()
        for share in (shard, (0, 1)):
            while todo := [run for run in self._ready(share) if run.path not in tried]:
                tried.add(todo[0].path)
                yield todo[0], self._undone(share)

    def _attempt(self, run: Run, failed: dict[str, str]) -> bool:
        """Does a run, and notes in `failed` why that did not work; False where another process is at it."""
        config = grid.config_of(self.config, run)
        try:
            # Without a name for what it found: two networks would stay in memory during the next run.
            reports.show(trainer.fit(config, self.folder / run.path, test=run.kind == "final"))
            self._tidy(run)
        except InUseError:
            logs.say("another process is at it")
            return False
        except LASTING as error:
            json_files.write(self.folder / run.path / records.FAILED, {"error": str(error)})
            logs.say(f"error: {error}")
        except (*PASSING, ConfigError) as error:
            # A run with another config, as after a change of the grid: the message names what differs.
            failed[run.path] = str(error)
            logs.say(f"error: {error}")
        # What else it compiled stands in the cache on disk; here it would only grow.
        jax.clear_caches()
        gc.collect()
        return True

    def waiting(self) -> list[str]:
        """Runs that are not done, and why as far as it is known, one line for each."""
        lines = []
        for cell in self.cells:
            chosen = self._strength(cell)
            why = f": {chosen}" if isinstance(chosen, str) else ""
            lines += [f"{run.path}{why}" for run in self._runs(cell) if self._record(run) is None]
        return lines

    def _runs(self, cell: Cell) -> list[Run]:
        return [*grid.choice_runs(self.config, cell), *self._final(cell)[0]]

    def _record(self, run: Run) -> dict[str, Any] | None:
        # A record that is there does not change any more.
        if run not in self._done:
            # Asked of every run after every run: what has not begun costs a look, and not the making of its config.
            if not json_files.exists(self.folder / run.path / "config.json"):
                return None
            found = records.of_run(self.folder, run, grid.config_of(self.config, run))
            if found is None:
                return None
            self._done[run] = found
        return self._done[run]

    def _ready(self, share: tuple[int, int]) -> list[Run]:
        """The runs of a share that are not done and wait for nothing."""
        index, count = share
        return [
            run
            for number, run in enumerate(self.planned())
            if number % count == index and self._record(run) is None and (run.kind == "choice" or self._knows(run.cell))
        ]

    def _undone(self, share: tuple[int, int]) -> int:
        index, count = share
        return sum(self._record(run) is None for run in self.planned()[index::count])

    def _knows(self, cell: Cell) -> bool:
        return self._final(cell)[1]

    def _final(self, cell: Cell) -> tuple[list[Run], bool]:
        """The final runs of a cell, and whether their strength is known."""
        chosen = self._strength(cell)
        known = not isinstance(chosen, str)
        head_l2 = None
        if self.config.refit and cell.method != "l2_fe":
            # Without validation images nothing chooses the head that the others start from, or measure attention with.
            beside = next((one for one in self._all if one.setting == cell.setting and one.method == "l2_fe"), None)
            if beside and beside.field == "head_l2":
                head = self._strength(beside)
                known = known and not isinstance(head, str)
                head_l2 = None if isinstance(head, str) else head["head_l2"]
        return grid.final_runs(self.config, cell, {} if isinstance(chosen, str) else chosen, head_l2), known

    def _strength(self, cell: Cell) -> dict[str, Any] | str:
        """{field: value} as chosen; or why it is not known."""
        runs = grid.choice_runs(self.config, cell)
        if not runs:
            return {cell.field: cell.values[0]} if cell.values else {}
        done = [record for record in map(self._record, runs) if record is not None]
        if len(done) < len(runs):
            return f"waits for {len(runs) - len(done)} choice runs"
        try:
            return {cell.field: choice.choose(choice.tried(done, cell.field, cell.values)).value}
        except ValueError as error:
            return str(error)

    def _tidy(self, run: Run) -> None:
        """Frees the disk of what a finished run does not need: its checkpoints, and the network of a choice."""
        if not processes.is_first():
            return
        workdir = self.folder / run.path
        shutil.rmtree(workdir / "checkpoints", ignore_errors=True)
        if run.kind == "choice":
            (workdir / "model.safetensors").unlink(missing_ok=True)


def _only(cells: list[grid.Cell], names: Sequence[str]) -> list[grid.Cell]:
    known = [{cell.data for cell in cells}, {cell.network for cell in cells}, {cell.variant for cell in cells}]
    known.append({cell.method for cell in cells})
    if unknown := sorted(set(names) - set().union(*known)):
        everything = ", ".join(sorted(set().union(*known) - {""}))
        raise ConfigError(
            f"--only={','.join(unknown)}: no such data set, network, variant or method; there are {everything}"
        )
    for position, group in enumerate(known):
        if wanted := group & set(names):
            cells = [cell for cell in cells if (*cell.setting, cell.method)[position] in wanted]
    return cells
