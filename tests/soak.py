"""A run that is killed 20 times in a row, at random moments of all phases, ends with the bits of one left alone.

    make soak
    python -m tests.soak --kills=20 --seed=7

Half of the kills are SIGKILL, half signals that let it save; a third of those in fine-tuning come while a checkpoint is
being written. After every one the run has to go on from where the disk says it was. It takes a few minutes.
"""

import argparse
import random
import re
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.disturbed import SLOW, Run, assert_same_end, attention_rows, checkpoints, steps_recorded
from tests.small_run import config_flags, make_photos

STEPS = 100
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

    def wait(self, run: Run, phase: str, share: float) -> None:
        """Returns at a random moment when `share` of the phase is done, or when the process has ended."""
        saving = phase == "fine-tune" and self._chance.random() < 1 / 3

        def far_enough() -> bool:
            if run.process.poll() is not None:
                return True
            if phase == "attention":
                return self.phase() != "start" and self.rows() >= share * IMAGES
            if phase == "fine-tune":
                writes = not saving or any(self.workdir.glob("checkpoints/*tmp*"))
                return (steps_recorded(self.workdir) >= share * STEPS and writes) or self.phase() == "evaluate"
            return phase == "start" or (self.phase() == "evaluate" and "attention at" in run.output)

        run.wait_until(far_enough)
        time.sleep(self._chance.uniform(0, {"start": 6.0, "evaluate": 1.0}.get(phase, 0.05 if saving else 0.3)))


def soak(folder: Path, kills: int, seed: int) -> None:
    """Raises AssertionError with the first thing that was lost."""
    chance = random.Random(seed)
    photos = make_photos(folder / "photos")
    began = time.monotonic()
    undisturbed = Run(folder / "undisturbed", config_flags(photos, **SLOW, steps=STEPS))
    assert undisturbed.end() == 0, undisturbed.output
    print(f"left alone: {time.monotonic() - began:.0f} s", flush=True)

    disturbed, told = Soak(folder, photos, chance), Counter()
    moments = [(chance.choices(list(PHASES), PHASES.values())[0], chance.random()) for _ in range(kills)]
    moments.sort(key=lambda moment: (list(PHASES).index(moment[0]), moment[1]))
    for number, (phase, share) in enumerate(moments, start=1):
        rows, step = disturbed.rows(), disturbed.step()
        run = disturbed.start()
        disturbed.wait(run, phase, share)
        name = signal.SIGKILL if chance.random() < 0.5 else chance.choice(POLITE)
        status = run.stop(name)
        check(run, name, status, step)
        assert disturbed.rows() >= rows, f"{rows} images of the attention before, {disturbed.rows()} after"
        assert disturbed.step() >= step, f"checkpoint {step} before, {disturbed.step()} after"
        where = disturbed.phase()
        unfinished = "while a checkpoint was written, " if any(disturbed.workdir.glob("checkpoints/*tmp*")) else ""
        print(
            f"{number:3} {name.name:8} in {where:10} {unfinished}status {status:4}: "
            f"{disturbed.rows()} images of the attention, checkpoints {checkpoints(disturbed.workdir)}",
            flush=True,
        )
        told[name.name, where] += 1
    last = disturbed.start()
    assert last.end() == 0, last.output
    check(last, None, 0, disturbed.step())
    assert_same_end(disturbed.workdir, folder / "undisturbed")
    counts = ", ".join(f"{n} {name} in {where}" for (name, where), n in sorted(told.items()))
    print(f"{kills} kills ({counts}), nothing lost, every bit the same: {time.monotonic() - began:.0f} s")


def check(run: Run, name: signal.Signals | None, status: int, before: int) -> None:
    """Whether the process went on from checkpoint `before`, and ended as the signal asks for."""
    # While Python itself still imports, Ctrl-C is what it always is.
    assert "Traceback" not in run.output or "KeyboardInterrupt" in run.output, run.output
    assert "damaged" not in run.output, run.output
    found = re.search(r"going on after step (\d+)", run.output)
    assert found is None or int(found[1]) == before, f"checkpoint {before} before\n{run.output}"
    if name is None or status == 0:
        assert status == 0, run.output  # it had ended before the signal came
    elif name != signal.SIGKILL and "stopped by" in run.output:
        assert status == 128 + name, run.output
        saved = re.search(r"stopped by \w+ after step (\d+) of", run.output)
        assert saved is None or int(saved[1]) == max(checkpoints(run.workdir)), run.output
    else:
        assert status == -name, run.output  # a signal before the run was set up to handle any


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
