"""A folder of small photos, a config of a few steps on a small network, and the commands in their own processes."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from delta_jax import reports
from delta_jax.configs.default import get_config
from delta_jax.training import fine_tune_phase, trainer
from delta_jax.training.course import Course
from delta_jax.training.watch import Watch
from tests import small_network
from tests.forked import JAX, ROOT, Forked

CLASSES = ("blue", "green", "red")
TAPS = tuple(small_network.FILTERS)
STEPS = 8
# What python is told in place of `-m delta_jax.train`, where nobody looks at pictures and page: half of a small run.
TRAIN_UNSEEN = (
    "-c",
    "import runpy; from delta_jax import reports; reports.show = lambda found: None; "
    "runpy.run_module('delta_jax.train', run_name='__main__', alter_sys=True)",
)

_HUES = {"blue": (60, 60, 160), "green": (60, 160, 60), "red": (160, 60, 60)}


def noise(name: str, rng: np.random.Generator, size: int = 48) -> Image.Image:
    """Noise around the colour of a class, so that there is something to learn."""
    pixels = rng.normal(_HUES[name], 40, (size, size, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def make_photos(root: Path, per_class: int = 24) -> Path:
    """root/<class>/*.png, and the network's weights beside it.

    24 per class become 40 training, 14 validation and 18 test images.
    """
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            noise(name, rng).save(root / name / f"{i:02}.png")
    small_network.save_weights(weights_of(root))
    return root


def weights_of(root: Path) -> Path:
    """Where the weights for the images in `root` are."""
    return root.parent / "small_network.safetensors"


def settings(root: Path, **changed: Any) -> dict[str, Any]:
    """Fields, by dotted name, that differ from configs/default.py; dots are written as double underscores here."""
    values = {
        "arch": small_network.ARCH,
        "weights": str(weights_of(root)),
        "taps": TAPS,
        "data.root": str(root),
        "data.cache_dir": str(root.parent / "decoded"),
        "data.resize": 40,
        "data.interpolation": "bilinear",
        "data.crop": 32,
        "data.validation_fraction": 0.25,
        "alpha": 0.005,  # measured, it would not be the same to the last digit on one device and on four
        "steps": STEPS,
        "batch_size": 8,
        "attention_batch": 8,
        "schedule": "exponential",
        "eval_batch_size": 8,
        "eval_every": 4,
        "checkpoint_every": 4,
        "log_every": 2,
    }
    return values | {field.replace("__", "."): value for field, value in changed.items()}


def small_config(root: Path, **changed: Any) -> ConfigDict:
    """configs/default.py with `settings`."""
    config = get_config()
    config.update_from_flattened_dict(settings(root, **changed))
    return config


def unwatched(steps: int, workdir: Path) -> Watch:
    """For a loop of so many steps at rate 0.1 that nothing ends earlier."""
    return Watch(Course(np.full(steps, 0.1, np.float32)), workdir)


def fit_and_show(config: ConfigDict, workdir: Path) -> Mapping[str, Any]:
    """What the command train does, in this process; returns the summary."""
    found = trainer.fit(config, workdir)
    reports.show(found)
    return found.summary


def interrupted(config: ConfigDict, workdir: Path, after: int) -> None:
    """A run that is cut off when so many steps of fine-tuning are done."""
    loop = fine_tune_phase.fine_tune

    def stopping(chosen: Any, state: Any, train_step: Callable[..., Any], *rest: Any) -> Any:
        done = 0

        def step(*arguments: Any) -> Any:
            nonlocal done
            if done == after:
                raise KeyboardInterrupt
            done += 1
            return train_step(*arguments)

        return loop(chosen, state, step, *rest)

    with mock.patch.object(fine_tune_phase, "fine_tune", stopping), contextlib.suppress(KeyboardInterrupt):
        trainer.fit(config, workdir)
        raise AssertionError(f"the run came to its end before {after} steps were done")


def config_flags(root: Path, **changed: Any) -> list[str]:
    """The same on the command line; None leaves a field as it is."""
    given = {field: value for field, value in settings(root, **changed).items() if value is not None}
    return ["--config=configs/default.py", *(f"--config.{field}={value}" for field, value in given.items())]


def environment(devices: int = 1) -> dict[str, str]:
    """Of a command that shares the compiled programs of the tests."""
    count = "--xla_force_host_platform_device_count"
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if not flag.startswith(count)]
    return os.environ | JAX | {"XLA_FLAGS": " ".join([*flags, f"{count}={devices}"])}


def run(module: str, *arguments: object, devices: int = 1) -> subprocess.CompletedProcess[str]:
    """`python -m delta_jax.MODULE ARGUMENTS...` to its end."""
    return run_python("-m", f"delta_jax.{module}", *map(str, arguments), devices=devices)


def run_python(*arguments: str, devices: int = 1) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS...` to its end."""
    with tempfile.TemporaryDirectory() as said:
        started = start(arguments, Path(said), devices)
        try:
            started.wait(300)
        finally:
            started.kill()
        return ended(started, Path(said))


def run_afresh(module: str, *arguments: object, devices: int = 1) -> subprocess.CompletedProcess[str]:
    """`run`, as users start it: in a process that has imported nothing yet."""
    command = [sys.executable, "-m", f"delta_jax.{module}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment(devices), capture_output=True, text=True, timeout=300)


def start(arguments: Sequence[str], said: Path, devices: int = 1) -> Forked:
    """`python ARGUMENTS...`, which writes what it says into the folder."""
    where = {"stdout": said / "stdout", "stderr": said / "stderr"}
    return Forked(arguments, cwd=ROOT, env=environment(devices), **where)


def ended(process: Forked, said: Path) -> subprocess.CompletedProcess[str]:
    """What a process of `start` ended with and said."""
    texts = [(said / name).read_text() for name in ("stdout", "stderr")]
    return subprocess.CompletedProcess(process.args, process.wait(), *texts)
