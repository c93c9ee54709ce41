"""The looks of a run at its validation images, on disk, and what they make of its course."""

import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np

from delta_jax import processes
from delta_jax.training import convergence
from delta_jax.training.convergence import Looks, Verdict
from delta_jax.training.course import Course, ends_early, plateaus, shortened
from delta_jax.workdir import logs

FILE = "validation_looks.npz"


class Watch:
    """Remembers every look, and ends the run earlier where patience says so.

    Looks and decisions are the first process' alone; the others are told. All decisions follow from the looks, so that
    a run that goes on needs no more than these.

    Attributes:
      course: of the run, as it is now.
    """

    def __init__(self, course: Course, workdir: Path, *, patience: int = 0):
        """Takes the course as configured; `patience` is a number of looks, see `course.ends_early`."""
        self.course = self._configured = course
        self._path, self._patience = Path(workdir) / FILE, patience
        self._looks = Looks.none()

    def go_on(self, step: int) -> None:
        """Takes up what the run knew after `step` steps; later looks were of steps that are run again."""
        if processes.is_first():
            self._looks = _read(self._path).until(step)
        if self._patience:
            found = plateaus(self._configured, self._looks, self._patience) if processes.is_first() else []
            for plateau in json.loads(processes.from_first(json.dumps(found))):
                self.course = shortened(self.course, plateau)

    def look(self, step: int, losses: np.ndarray, right: np.ndarray) -> None:
        """After `step` steps, losses and right [n] of the validation images; the course may be another one then."""
        if processes.is_first():
            self._looks = self._looks.and_one(step, losses, right)
            _write(self._path, self._looks)
        if not self._patience:
            return
        plateau = processes.is_first() and ends_early(self.course, self._looks, self._patience)
        if processes.from_first("plateau" if plateau else ""):
            before, self.course = self.course, shortened(self.course, step)
            logs.say(self._decision(step, before.steps))

    def _decision(self, step: int, planned: int) -> str:
        looks = "one look" if self._patience == 1 else f"{self._patience} looks in a row"
        why = f"{looks} at the validation images without an improvement (--config.patience)"
        if self.course.steps == step:
            return f"stops after step {step} of {planned}: {why}, and no lower learning rate was to come"
        return (
            f"decays from step {step} on: {why}; what was to come of the schedule follows in "
            f"{self.course.steps - step} steps instead of {planned - step}, up to step {self.course.steps}"
        )

    def verdict(self, *, stretches: bool) -> Verdict | None:
        """What `convergence.judge` says of the looks, on the first process; None without any look."""
        if not len(self._looks):
            return None
        found = convergence.judge(self._looks, self.course.rates, stretches=stretches)
        more = ""
        if found.verdict == convergence.IMPROVING:
            more = f"; try --config.steps={2 * self.course.steps}, in another --workdir"
        if found.verdict == convergence.WORSE and not self._patience:
            more = self._would_have_ended()
        if self.course is not self._configured:
            more += f"; ended by --config.patience after {self.course.steps} of {self._configured.steps} steps"
        return dataclasses.replace(found, said=found.said + more)

    def _would_have_ended(self) -> str:
        for patience in (3, 2, 1):
            if found := plateaus(self._configured, self._looks, patience):
                course = self._configured
                for step in found:
                    course = shortened(course, step)
                return f"; --config.patience={patience} would have ended it after step {course.steps}"
        return ""


def _read(path: Path) -> Looks:
    """No looks where there is no such file, as in the workdir of an older version, or it is damaged."""
    try:
        # Opened here: numpy leaves a file open that it cannot read.
        with path.open("rb") as file, np.load(file) as arrays:
            return Looks(arrays["steps"], arrays["losses"], arrays["right"])
    except FileNotFoundError:
        return Looks.none()
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        logs.say(f"{path} cannot be read ({error}): the looks at the validation images so far are not remembered")
        return Looks.none()


def _write(path: Path, looks: Looks) -> None:
    unfinished = path.with_suffix(".tmp.npz")
    np.savez(unfinished, steps=looks.steps, losses=looks.losses, right=looks.right)
    unfinished.replace(path)
