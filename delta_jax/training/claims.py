"""Whose a workdir is: a run's from its first lasting result on, with its config, its images and their split."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ml_collections import FrozenConfigDict

from delta_jax import data, processes
from delta_jax.training import attention_phase, classifier, head_phase, report, run_split, setup
from delta_jax.training.config import ConfigError
from delta_jax.training.config_checks import InUseError
from delta_jax.training.stored_config import differences
from delta_jax.workdir import json_files, logs

CONFIG = "config.json"
# What took a run time, and belongs to its config and images. A run that failed before one of them has begun nothing.
_STEPS = ("checkpoints", classifier.MODEL)
_LASTING = (head_phase.HEAD, attention_phase.FILE, report.ALPHA, *_STEPS)


def begun(workdir: Path) -> bool:
    """Whether a run has a result there, so that only the same run may go on."""
    return (workdir / CONFIG).exists() and any((workdir / name).exists() for name in _LASTING)


def images(workdir: Path, config: FrozenConfigDict) -> data.Catalogue | None:
    """The images of the run that has begun in `workdir`, in its split; None where a split is to be drawn.

    Raises:
      ConfigError: they are no longer those that it began with.
    """
    split = run_split.read(workdir) if begun(workdir) else None
    return None if split is None else split.again(setup.found_again(config, split.class_names), workdir)


def check(workdir: Path, config: FrozenConfigDict, catalogue: data.Catalogue, *, resumed: bool) -> None:
    """Compares with the run that has begun in `workdir`, if one has.

    Args:
      workdir: of the run.
      config: resolved, as the run uses it.
      catalogue: as it was found, or as `images` gave it.
      resumed: whether `images` gave it.

    Raises:
      ConfigError: the workdir belongs to a run with another config, and the fields that differ are named, or of an
        older version with other images.
      InUseError: a run has begun there after `images` looked.
    """
    if not begun(workdir):
        return
    if different := differences(config.to_dict(), json.loads((workdir / CONFIG).read_text())):
        listed = "\n  ".join(different)
        raise ConfigError(
            f"{workdir} holds a run with another config:\n  {listed}\n"
            "Choose another --workdir, or go on with the same config"
        )
    older = run_split.is_of_older_version(workdir)
    if not older and not resumed:
        raise InUseError(f"another run has begun in {workdir} meanwhile; the same command again goes on with it")
    if older:
        if not run_split.fits_older_version(workdir, catalogue):
            raise ConfigError(
                f"the images are not those that the run in {workdir} began with: files, labels or sizes differ; "
                "choose another --workdir, or bring the images back"
            )
        logs.say(f"{workdir} has no {run_split.FILE}, as older versions wrote none: the split was drawn anew")


def claim(workdir: Path, found: setup.Setup) -> None:
    """Writes split.csv, data.json and config.json; the images are decoded, and nothing is in the way any more.

    What a run that has begun wrote stays, but for fields of the config that change no number.
    """
    if not begun(workdir) or run_split.is_of_older_version(workdir):
        run_split.write(workdir, run_split.of(found.catalogue, found.images.rows), found.catalogue.fingerprint())
    json_files.write(workdir / CONFIG, found.config.to_dict())


@contextmanager
def given_back(workdir: Path) -> Iterator[None]:
    """Within it an error of the config before the first step leaves the workdir free: its way out is another config.

    Head and gaps are not lost, the cache has them.
    """
    try:
        yield
    except ConfigError:
        if processes.is_first() and not any((workdir / name).exists() for name in _STEPS):
            for name in set(_LASTING) - set(_STEPS):
                (workdir / name).unlink(missing_ok=True)
        raise
