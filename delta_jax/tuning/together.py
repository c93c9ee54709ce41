"""How processes share a search: those of a group do the same, and others leave each other alone."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from delta_jax import processes
from delta_jax.tuning.halving import Promotion
from delta_jax.tuning.space import Setting
from delta_jax.tuning.trials import Run

Todo = Run | Promotion | Setting | str | None  # what `decision.decide` returns


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Whether this process has the lock within, which a process that dies gives back."""
    mine = True
    if processes.is_first():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                mine = False
            mine = processes.from_first("mine" if mine else "") == "mine"
            yield mine
        return
    yield processes.from_first("") == "mine"


def as_first(todo: Todo) -> Todo:
    """What the first process of a group has decided on, on all of them."""
    return _unpacked(json.loads(processes.from_first(json.dumps(_packed(todo)))))


def _packed(todo: Todo) -> Any:
    if isinstance(todo, Run):
        return {"run": vars(todo)}
    if isinstance(todo, Promotion):
        return {"promotion": list(todo)}
    if isinstance(todo, Setting):
        return {"setting": [todo.number, dict(todo.fields)]}
    return todo


def _unpacked(todo: Any) -> Todo:
    if not isinstance(todo, dict):
        return todo
    if "run" in todo:
        return Run(**todo["run"])
    return Promotion(*todo["promotion"]) if "promotion" in todo else Setting(*todo["setting"])
