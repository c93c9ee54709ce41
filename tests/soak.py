"""A run that is killed 20 times in a row, at random moments of all phases, ends with the bits of one left alone.

    make soak
    python -m tests.soak --kills=20 --seed=7

Half of the kills are SIGKILL, half signals that let it save; a third of those in fine-tuning come while a checkpoint is
being written. After every one the run has to go on from where the disk says it was. It takes a few minutes.
"""

import argparse
import contextlib
import random
import re
import signal
import tempfile
import time
from pathlib import Path

from tests.disturbed import SLOW, Run, assert_same_end, attention_rows, checkpoints, steps_recorded
from tests.small_run import config_flags, make_photos

STEPS = 200
PHASES = {"start": 3, "attention": 5, "fine-tune": 9, "evaluate": 3}  # how many of 20 kills, about
POLITE = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
IMAGES = 40  # of training


class Soak:
    """One run, and what its disk says of how far it is."""

    def __init__(self, folder: Path, photos: Path, chance: random.Random):
        self.workdir, self._cache, self._chance = folder / "run", folder / "cache", chance
        self._flags = config_flags(photos, **SLOW, steps=STEPS, data__cache_dir=str(self._cache))

    def start(self) -> Run:
        return Run(self.workdir, self._flags)

    def rows(self) -> int:
        return attention_rows(self._cache)

    def step(self) -> int:
        return max(checkpoints(self.workdir), default=0)

    def phase(self) -> str:
        if (self.workdir / "model.safetensors").exists():
            return "evaluate"
        if (self.workdir / "attention.npz").exists():
            return "fine-tune"
        return "attention" if (self.workdir / "head.safetensors").exists() else "start"

    def unfinished(self) -> set[int]:
        """Folders of checkpoints being written, or that were when the process was killed."""
        found = set()
        for folder in self.workdir.glob("checkpoints/*tmp*"):
            with contextlib.suppress(FileNotFoundError):
                found.add(folder.stat().st_ino)
        return found

    def kill(self, phase: str, share: float, number: signal.Signals) -> str:
        """Starts the run, sends the signal at a random moment after `share` of the phase, and checks what is left.

        Returns:
          What happened, for people.
        """
        rows, step, left, began = self.rows(), self.step(), self.unfinished(), time.time()
        saving = phase == "fine-tune" and self._chance.random() < 1 / 3
        run = self.start()

        def far_enough() -> bool:
            if run.process.poll() is not None or phase == "start":
                return True
            if self.phase() == "evaluate":
                return "attention at" in run.output
            if phase == "attention":
                return self.rows() >= max(min(rows + 1, IMAGES), share * IMAGES)
            if phase == "fine-tune":
                writes = not saving or bool(self.unfinished() - left)
                return writes and steps_recorded(self.workdir, began) >= max(1, share * STEPS)
            return False

        run.wait_until(far_enough)
        time.sleep(self._chance.uniform(0, {"start": 6.0, "evaluate": 1.0}.get(phase, 0.05)))
        status = run.stop(number)
        check(run, number, status, step)
        assert self.rows() >= rows, f"{rows} images of the attention before, {self.rows()} after"
        assert self.step() >= step, f"checkpoint {step} before, {self.step()} after"
        saved = ", a checkpoint being written" if self.unfinished() - left else ""
        return (
            f"{number.name:7} in {self.phase():9} status {status:3}, {self.rows()} images of the attention, "
            f"checkpoints {checkpoints(self.workdir)}{saved}"
        )


def soak(folder: Path, kills: int, seed: int) -> None:
    """Raises AssertionError with the first thing that was lost."""
    chance = random.Random(seed)
    photos = make_photos(folder / "photos")
    began = time.monotonic()
    undisturbed = Run(folder / "undisturbed", config_flags(photos, **SLOW, steps=STEPS))
    assert undisturbed.end() == 0, undisturbed.output
    print(f"left alone: {time.monotonic() - began:.0f} s", flush=True)

    disturbed = Soak(folder, photos, chance)
    moments = [(chance.choices(range(len(PHASES)), PHASES.values())[0], chance.random()) for _ in range(kills)]
    for count, (phase, share) in enumerate(sorted(moments), start=1):
        number = signal.SIGKILL if chance.random() < 0.5 else chance.choice(POLITE)
        print(f"{count:3} {disturbed.kill(list(PHASES)[phase], share, number)}", flush=True)
    last = disturbed.start()
    assert last.end() == 0, last.output
    check(last, None, 0, disturbed.step())
    assert_same_end(disturbed.workdir, folder / "undisturbed")
    print(f"{kills} kills, nothing lost, every bit the same: {time.monotonic() - began:.0f} s")


def check(run: Run, name: signal.Signals | None, status: int, before: int) -> None:
    """Whether the process went on from checkpoint `before`, and ended as the signal asks for."""
    assert "Traceback" not in run.output or "KeyboardInterrupt" in run.output, run.output
    assert "damaged" not in run.output, run.output
    found = re.search(r"going on after step (\d+)", run.output)
    assert found is None or int(found[1]) == before, f"checkpoint {before} before\n{run.output}"
    if name is None or status == 0:
        assert status == 0, run.output  # it had ended before the signal came
    elif name != signal.SIGKILL and "stopped by" in run.output:
        assert status == 128 + name, (name, status, run.output)
        saved = re.search(r"stopped by \w+ after step (\d+) of", run.output)
        assert saved is None or int(saved[1]) == max(checkpoints(run.workdir)), run.output
    else:  # before the run was set up to handle signals; Python's start has many ways to end on Ctrl-C
        assert status == -name or name == signal.SIGINT, (name, status, run.output)


def main() -> None:
    """Prints the seed, one line per kill, and what came out."""
    flags = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    flags.add_argument("--kills", type=int, default=20)
    flags.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = flags.parse_args()
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        soak(Path(folder), given.kills, given.seed)


if __name__ == "__main__":
    main()
