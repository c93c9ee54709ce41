"""What a run tells: metrics for machines (JSON lines, TensorBoard), progress and short messages for people."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, Self, SupportsFloat, SupportsInt

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from tensorboardX import SummaryWriter

from delta_jax import processes
from delta_jax.processes import interruption

METRICS_FILE = "metrics.jsonl"
SECONDS_BETWEEN_LINES = 10.0  # of progress, where there is no terminal

_console = Console(highlight=False, markup=False)
_files: list[Path] = []  # of `kept_in`


class MetricsLog:
    """Appends records to workdir/metrics.jsonl and the same scalars to workdir/tensorboard.

    A record is one line: {"phase", "step", "time" (seconds since 1970), and the values by name}. A value that is not
    finite is written as null, which every JSON reader takes, and left out of TensorBoard. Of several processes the
    first one writes; a line that a crash left unfinished is completed or removed.
    """

    def __init__(self, workdir: str | Path):
        self._path = Path(workdir) / METRICS_FILE
        self._events = Path(workdir) / "tensorboard"
        self._writes = processes.is_first()
        if not self._writes:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _end_last_line(self._path)
        self._open()

    def write(self, phase: str, step: SupportsInt, values: Mapping[str, SupportsFloat]) -> None:
        """Appends one record; `values` are numbers or arrays of one element, not named phase, step or time."""
        if not self._writes:
            return
        record: dict[str, Any] = {"phase": phase, "step": int(step), "time": round(time.time(), 3)}
        if clash := record.keys() & values.keys():
            raise ValueError(f"a record has its own {', '.join(sorted(clash))}; give the value another name")
        numbers = {name: float(value) for name, value in values.items()}
        record |= {name: number if math.isfinite(number) else None for name, number in numbers.items()}
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._show(record)

    def rewind(self, phase: str, step: int) -> None:
        """Drops what `phase` wrote after `step`: a resumed run then leaves the records of an undisturbed one."""
        if not self._writes:
            return
        lines = _parsed(self._path)
        kept = [(line, record) for line, record in lines if record["phase"] != phase or record["step"] <= step]
        self.close()
        shorter = self._path.with_suffix(".tmp")
        shorter.write_text("".join(line for line, _ in kept), encoding="utf-8")
        shorter.replace(self._path)
        # TensorBoard cannot take back points of one phase alone, and a crash lost its last minutes: written anew.
        for events in self._events.glob("events.out.tfevents.*"):
            events.unlink()
        self._open()
        for _, record in kept:
            self._show(record)

    def close(self) -> None:
        """Closes both files; what was written is on disk."""
        if self._writes:
            self._file.close()
            self._board.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        self._file = self._path.open("a", encoding="utf-8", buffering=1)  # a line at a time reaches the disk
        # Files are named by the second: another writer within one second would overwrite the first one's file.
        self._board = SummaryWriter(str(self._events), filename_suffix=f".{time.time_ns()}")

    def _show(self, record: Mapping[str, Any]) -> None:
        for name, value in record.items():
            if name not in ("phase", "step", "time") and value is not None:
                self._board.add_scalar(f"{record['phase']}/{name}", value, record["step"], record["time"])


def read(workdir: str | Path) -> list[dict[str, Any]]:
    """Records of workdir/metrics.jsonl in the order written, null as nan; a last line still being written is left out.

    Raises:
      FileNotFoundError: no run has written there.
      ValueError: a line is damaged.
    """
    path = Path(workdir) / METRICS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; is {workdir} the workdir of a run?")
    records = (record for _, record in _parsed(path))
    return [{name: math.nan if value is None else value for name, value in record.items()} for record in records]


def _parsed(path: Path) -> list[tuple[str, dict[str, Any]]]:
    parsed = []
    for number, line in enumerate(
        path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True), start=1
    ):
        if line.endswith("\n"):
            try:
                parsed.append((line, json.loads(line)))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}: line {number} is not JSON; delete that line") from error
    return parsed


def _end_last_line(path: Path) -> None:
    """After a crash: completes the last line if only its end is missing, and removes it if more is."""
    content = path.read_bytes() if path.exists() else b""
    if not content or content.endswith(b"\n"):
        return
    start = content.rfind(b"\n") + 1
    try:
        json.loads(content[start:])
    except ValueError:
        os.truncate(path, start)
    else:
        with path.open("ab") as file:
            file.write(b"\n")


class Advance(Protocol):
    """What `progress` gives to the loop."""

    def advance(self, n: int = 1, **shown: float) -> None:
        """`n` more are done; `shown` values stand beside the bar until the next ones."""


@contextmanager
def progress(total: int, description: str, unit: str = "images", initial: int = 0) -> Iterator[Advance]:
    """Shows how far a loop is, its speed and the time left: as a bar on a terminal, else as a line every ten seconds.

    Args:
      total: how many there are.
      description: what is being done, a word or two.
      unit: of the count and the speed.
      initial: how many were done by an earlier run.
    """
    if _is_interactive():
        with interruption.tidied(_show_cursor), _bar(unit) as bar:
            yield _Bar(bar, bar.add_task(description, total=total, completed=initial, shown=""))
    else:
        lines = _Lines(total, description, unit, initial)
        try:
            yield lines
        finally:
            lines.end()


@contextmanager
def transfer(description: str, unit: str, per_unit: int) -> Iterator[Callable[[int, int | None], None]]:
    """Yields what to tell how much is done, and how much there is in all (None: not known, nothing is shown).

    The bar appears with the first word, and anew for each piece of work: where the count falls or the total changes.

    Args:
      description: what is being done, a word or two.
      unit: shown.
      per_unit: how much of what is told makes one of them.
    """
    with ExitStack() as stack:
        bar: Advance | None = None
        shown = end = 0

        def tell(done: int, total: int | None) -> None:
            nonlocal bar, shown, end
            if total is None:
                return
            now, whole = -(-done // per_unit), -(-total // per_unit)
            if bar is None or now < shown or whole != end:
                stack.close()
                shown, end = now, whole
                bar = stack.enter_context(progress(end, description, unit=unit, initial=now))
            bar.advance(now - shown)
            shown = now

        yield tell


def say(text: str) -> None:
    """Prints a message, above the progress bar if there is one; the first process alone does."""
    if not processes.is_first():
        return
    if _files:
        with _files[-1].open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text + "\n")
    else:
        _console.print(_printable(text), soft_wrap=True)


@contextmanager
def kept_in(path: Path) -> Iterator[None]:
    """Within, messages and the lines of progress are appended to a file; a bar on a terminal stays there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _files.append(path)
    try:
        yield
    finally:
        _files.pop()


def leave_stdout() -> None:
    """From now on messages, bars and tables go to stderr, and stdout is for what a program reads."""
    _console.stderr = True


def _show_cursor() -> None:
    """Shows what a bar hides, for a process that ends without the end of its bar; safe in a signal's handler."""
    os.write(1, b"\x1b[?25h\n")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints rows under a title: as a table on a terminal, else as plain text in columns."""
    if not processes.is_first():
        return
    texts = [[_printable(str(cell)) for cell in row] for row in rows]
    if _is_interactive():
        drawn = Table(*columns, title=title)
        for row in texts:
            drawn.add_row(*map(Text, row))
        _console.print(drawn)
        return
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [columns, *texts]]
    say("\n".join([title, *(line.rstrip() for line in lines)]))


def _printable(text: str) -> str:
    """The text with escapes for what the output cannot take: bytes in names of files that are no UTF-8, above all."""
    encoding = _console.encoding
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _is_interactive() -> bool:
    return processes.is_first() and _console.is_interactive and not os.environ.get("CI")


def _bar(unit: str) -> Progress:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit, markup=False),
        _SpeedColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[shown]}", markup=False),
    )
    return Progress(*columns, console=_console)


class _SpeedColumn(ProgressColumn):
    def __init__(self, unit: str):
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{_number(speed)} {self._unit}/s")


class _Bar:
    def __init__(self, bar: Progress, task: Any):
        self._progress, self._task = bar, task

    def advance(self, n: int = 1, **shown: float) -> None:
        if shown:
            self._progress.update(self._task, shown=_values(shown))
        self._progress.advance(self._task, n)


class _Lines:
    """The same in plain lines, for logs that are kept."""

    def __init__(self, total: int, description: str, unit: str, initial: int):
        self._total, self._description, self._unit = total, description, unit
        self._initial = self._done = self._done_before = initial
        self._start = self._before = time.monotonic()
        self._shown: Mapping[str, float] = {}

    def advance(self, n: int = 1, **shown: float) -> None:
        self._done += n
        self._shown = shown or self._shown
        now = time.monotonic()
        if now - self._before >= SECONDS_BETWEEN_LINES and self._done < self._total:
            # The speed since the last line: the first steps compile, and would spoil the estimate for long.
            speed = (self._done - self._done_before) / (now - self._before)
            self._line(speed, f"{_duration((self._total - self._done) / speed)} left" if speed > 0 else "")
            self._before, self._done_before = now, self._done

    def end(self) -> None:
        seconds = time.monotonic() - self._start
        self._line((self._done - self._initial) / seconds if seconds > 0 else 0.0, f"{_duration(seconds)} in all")

    def _line(self, speed: float, when: str) -> None:
        share = 100 * self._done // self._total if self._total else 100
        count = f"{self._description}: {self._done:,}/{self._total:,} {self._unit} ({share} %)"
        parts = (count, f"{_number(speed)} {self._unit}/s", when, _values(self._shown))
        say(", ".join(part for part in parts if part))


def _values(shown: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {float(value):.4g}" for name, value in shown.items())


def _number(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
