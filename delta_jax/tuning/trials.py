"""The runs of a search on disk: a folder for each, which is done when its result.json is there."""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from delta_jax import processes
from delta_jax.training import trainer
from delta_jax.training.classifier import MODEL
from delta_jax.training.config import ConfigError
from delta_jax.training.config_checks import InUseError
from delta_jax.training.fine_tune import DivergedError
from delta_jax.tuning.pace import Timed
from delta_jax.tuning.space import Setting
from delta_jax.workdir import json_files

TRIALS, REFITS = "trials", "refits"
SETTING, RESULT, PROBABILITIES, TOKEN = "setting.json", "result.json", "validation.npz", "rung-{}.json"
CLAIM = ".claim"  # locked from before a run is set up, which takes seconds, until its result is there
LASTING = (DivergedError, FloatingPointError)  # the same would come out again


@dataclass(frozen=True)
class Run:
    """A run of a setting.

    Attributes:
      setting: its number.
      steps: of its schedule.
      fold: of the validation images.
      seed: of the run.
      refit: whether it trains on the validation images, too.
    """

    setting: int
    steps: int
    fold: int
    seed: int
    refit: bool = False

    @property
    def path(self) -> str:
        """Its workdir, below the folder of the search."""
        if self.refit:
            return f"{REFITS}/{self.setting:04}-steps-{self.steps}-seed-{self.seed}"
        return f"{TRIALS}/{self.setting:04}/steps-{self.steps}-fold-{self.fold}-seed-{self.seed}"


@dataclass(frozen=True)
class Result:
    """What a run found.

    Attributes:
      run: that it is of.
      top1, cross_entropy, n: of its validation images; n is 0 of a refit.
      head_l2: the penalty of its L2-FE head.
      timed: how long it took.
      image_seconds: of one image through the network.
      error: why it has no numbers; "" where it has.
    """

    run: Run
    top1: float
    cross_entropy: float
    n: int
    head_l2: float
    timed: Timed
    image_seconds: float
    error: str = ""

    @property
    def value(self) -> float:
        """What is compared, see `value`; a run that diverged is the worst."""
        return -1.0 if self.error else value({"top1": self.top1, "cross_entropy": self.cross_entropy})


def value(measures: Mapping[str, float]) -> float:
    """What is compared: top-1, and of equal ones less cross-entropy is better."""
    return measures["top1"] - min(measures["cross_entropy"], 100.0) / 1000


def do(folder: Path, run: Run, config: ConfigDict, *, first: bool, lasting: bool) -> None:
    """Does a run, or what is left of it.

    Args:
      folder: of the search.
      run: to do.
      config: of it.
      first: whether no other run of this search had its head, and its attention, before.
      lasting: whether an error of the config is this setting's alone, as where its step takes too much memory.

    Raises:
      InUseError: another process is at it.
      ConfigError, DataError, WeightsError, OSError, jax.errors.JaxRuntimeError: as `trainer.fit`.
    """
    workdir, began = folder / run.path, time.monotonic()
    facts: dict[str, Any] = {**vars(run), "method": config.method, "crop": 0, "error": ""}
    try:
        fitted = trainer.fit(config, workdir, test=False)
        summary, validation = fitted.summary, fitted.setup.validation
        measured = {"top1": 0.0, "cross_entropy": 0.0, "n": 0, **summary["validation"]}
        again = time.monotonic()
        if len(validation):
            # The program is compiled by now: this is also how long an image takes.
            probabilities = fitted.setup.probabilities(fitted.after, validation)
            facts["image_seconds"] = (time.monotonic() - again) / len(validation)
            if processes.is_first():
                _save(workdir / PROBABILITIES, probabilities, validation.labels)
        spent, rate = summary["seconds"], summary["images_per_second"]
        facts["crop"] = fitted.setup.config.data.crop
        facts |= {name: measured[name] for name in ("top1", "cross_entropy", "n")}
        facts["head_l2"] = summary["l2_fe"]["l2"]
        # Where another run had them before, the summary has what they took then.
        facts["once"] = spent["head" if config.method == "l2_fe" else "attention"] if first else 0.0
        facts["step"] = config.batch_size / rate if rate else 0.0
    except InUseError:
        raise
    except LASTING as error:
        facts["error"] = str(error)
    except (ConfigError, jax.errors.JaxRuntimeError) as error:
        if not lasting or not (isinstance(error, ConfigError) or "RESOURCE_EXHAUSTED" in str(error)):
            raise
        facts["error"] = str(error).splitlines()[0]
    facts["seconds"] = time.monotonic() - began
    if facts.get("once", 0.0) > facts["seconds"]:
        facts["once"] = 0.0  # found in the cache, of an earlier run
    json_files.write(workdir / RESULT, facts)
    if processes.is_first():
        shutil.rmtree(workdir / "checkpoints", ignore_errors=True)


def results(folder: Path) -> dict[str, Result]:
    """{path: result} of all runs that are done."""
    files = sorted(folder.glob(f"{TRIALS}/*/*/{RESULT}"), key=_age) + sorted(folder.glob(f"{REFITS}/*/{RESULT}"))
    found = (_result(json.loads(file.read_text())) for file in files)
    return {one.run.path: one for one in found}


def probabilities(folder: Path, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Of the validation images of a run: [M, K], and their labels [M]."""
    with np.load(folder / run.path / PROBABILITIES) as file:
        return file["probabilities"], file["labels"]


def settings(folder: Path) -> list[Setting]:
    """All settings that were begun, in the order of their numbers."""
    files = sorted(folder.glob(f"{TRIALS}/*/{SETTING}"))
    return [Setting(int(file.parent.name), json.loads(file.read_text())) for file in files]


def begin(folder: Path, setting: Setting) -> bool:
    """Makes the setting this search's; False where another process has taken its number."""
    return first_to_write(folder / TRIALS / f"{setting.number:04}" / SETTING, dict(setting.fields))


def climb(folder: Path, setting: int, rung: int) -> bool:
    """Notes that a setting goes on to a rung; False where another process did."""
    return first_to_write(folder / TRIALS / f"{setting:04}" / TOKEN.format(rung), {})


def on_rung(folder: Path, rung: int) -> set[int]:
    """The settings that were sent to a rung."""
    return {int(file.parent.name) for file in folder.glob(f"{TRIALS}/*/{TOKEN.format(rung)}")}


def is_held(folder: Path, run: Run) -> bool:
    """Whether a process is at this run: the lock of a killed one is free."""
    try:
        with (folder / run.path / CLAIM).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def has_model(folder: Path, run: Run) -> bool:
    """Whether the network that it ended with is still there."""
    return (folder / run.path / MODEL).exists()


def forget(folder: Path, run: Run) -> None:
    """Has a run done again: its network is gone."""
    shutil.rmtree(folder / run.path, ignore_errors=True)


def forget_model(folder: Path, run: Run) -> None:
    """Frees its disk."""
    (folder / run.path / MODEL).unlink(missing_ok=True)


def first_to_write(path: Path, content: Mapping[str, Any]) -> bool:
    """Writes a JSON file, unless it is there: then it is left, and this is False."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    unfinished.write_text(json.dumps(content))
    try:
        os.link(unfinished, path)  # whole or not at all, and of several processes one
    except FileExistsError:
        return False
    finally:
        unfinished.unlink()
    return True


def _save(path: Path, found: np.ndarray, labels: np.ndarray) -> None:
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    np.savez(unfinished, probabilities=found, labels=labels)
    unfinished.replace(path)


def _result(facts: Mapping[str, Any]) -> Result:
    run = Run(facts["setting"], facts["steps"], facts["fold"], facts["seed"], facts["refit"])
    step, once = facts.get("step", 0.0), facts.get("once", 0.0)
    steps = run.steps if step else 0
    return Result(
        run,
        facts.get("top1", 0.0),
        facts.get("cross_entropy", 0.0),
        facts.get("n", 0),
        facts.get("head_l2") or 0.0,
        Timed(facts["method"], facts["crop"], steps, run.fold, facts["seconds"], step, once),
        facts.get("image_seconds", 0.0),
        facts["error"],
    )


def _age(file: Path) -> tuple[float, str]:
    return file.stat().st_mtime, str(file)
