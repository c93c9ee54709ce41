"""From a config to a trained classifier: head, attention, fine-tuning, evaluation; each on disk before the next."""

import dataclasses
import fcntl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from delta_jax import processes
from delta_jax.processes import interruption
from delta_jax.training import (
    agreement,
    attention_phase,
    checks,
    claims,
    classifier,
    config_checks,
    evaluation,
    fine_tune_phase,
    gain,
    head_phase,
    length,
    report,
)
from delta_jax.training import config as configs
from delta_jax.training.attention_phase import Attention
from delta_jax.training.setup import Setup
from delta_jax.training.state import Variables
from delta_jax.workdir import environment, json_files, logs
from delta_jax.workdir.variable_files import kept_variables, save_variables


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What a run found, and where its files are.

    Attributes:
      setup: of the run.
      workdir: of the run.
      summary: what workdir/summary.json holds.
      before: the source network with the L2-FE head.
      after: what the run ended with; the same object where only the head was trained.
      probabilities: [M, K] of the test images; None where these were not looked at.
    """

    setup: Setup
    workdir: Path
    summary: Mapping[str, Any]
    before: Variables
    after: Variables
    probabilities: np.ndarray | None


def fit(config: Any, workdir: Path, *, test: bool = True) -> Fitted:
    """Trains and evaluates one classifier; the same call again goes on where it stopped.

    Nothing is drawn: `reports.show` makes the pictures and the page of what this returns.

    Args:
      config: of configs/default.py, not yet resolved.
      workdir: for everything that the run writes.
      test: whether the test images are looked at; a run that serves a choice leaves them alone.

    Returns:
      What the run found; all but the two networks and the probabilities is in the workdir, too.

    Raises:
      ConfigError, DataError, WeightsError: bad input, before anything slow.
      DivergedError, FloatingPointError: the loss, or a gap of the attention, is not finite.
      CheckpointError, OSError: something cannot be written or read.
      Interrupted: by a signal, which only the commands handle; the same call goes on from there.
    """
    workdir = Path(workdir)
    with _begin(config, workdir) as (setup, log):
        # The programs of 5 are compiled while images are decoded and 3 and 4 go on.
        compiled = fine_tune_phase.Compiled(setup)
        if setup.method.trains_backbone and not (workdir / classifier.MODEL).exists():
            compiled.start()
        _claim(setup, workdir)
        # 3. A head on the frozen source: the baseline L2-FE, and the network the attention is measured on.
        l2_fe = head_phase.l2_fe(setup, workdir)
        interruption.check("after the head")
        compiled.check()
        # 4. How much each filter matters to the target.
        weights = attention_phase.weights(setup, l2_fe, workdir) if setup.method.uses_attention else None
        # 5. Fine-tuning. model.safetensors is what the run ends with; classifier.json says how to use it.
        facts = classifier.describe(setup.config.arch, setup.catalogue.class_names, setup.preprocessing)
        json_files.write(workdir / classifier.FACTS, facts)
        final = kept_variables(workdir / classifier.MODEL, l2_fe)
        if final is None:
            final = l2_fe
            if setup.method.trains_backbone:
                final = fine_tune_phase.run(setup, l2_fe, weights, workdir, log, compiled)
            save_variables(workdir / classifier.MODEL, final)
        interruption.check("after fine-tuning")
        # 6. The test images are looked at once, at the end.
        return (_evaluate if test else _validate)(setup, l2_fe, final, workdir)


def attend(config: Any, workdir: Path) -> Attention:
    """The head and the attention of `fit`, and no more; `fit` in the same workdir goes on from there.

    Raises:
      As `fit`; ConfigError for a method without attention, or one that takes it from a file.
    """
    workdir = Path(workdir)
    with _begin(config, workdir) as (setup, _):
        if not setup.method.uses_attention or setup.config.attention_file:
            given = setup.config.attention_file
            why = f"takes its attention from {given}" if given else "has no attention"
            raise configs.ConfigError(f"this run, {setup.config.method}, {why}; expected --config.method=delta")
        _claim(setup, workdir)
        return attention_phase.measure(setup, head_phase.l2_fe(setup, workdir), workdir)


@contextmanager
def _begin(config: Any, workdir: Path) -> Iterator[tuple[Setup, logs.MetricsLog]]:
    # 1. Everything that can be wrong is looked at first: fields, data, weights, taps.
    resolved = configs.resolve(config)
    agreement.on_config(resolved)
    images = claims.images(workdir, resolved)
    if images is not None:
        resolved = length.as_begun(resolved, json_files.read(workdir / claims.CONFIG), len(images.rows("train")))
    setup = Setup(resolved, images=images)
    if setup.method.trains_backbone:
        checks.batch_statistics(setup.config, setup.network(), setup.source, setup.frozen)
    agreement.on_setup(setup)
    # 2. The workdir is this run's alone, and of its processes the first one writes.
    with _alone(workdir), logs.MetricsLog(workdir) as log:
        if processes.is_first():
            claims.check(workdir, setup.config, setup.catalogue, resumed=images is not None)
            report.announce(setup, workdir)
        agreement.on_workdir(workdir)
        interruption.check()
        with claims.given_back(workdir):
            yield setup, log


def _claim(setup: Setup, workdir: Path) -> None:
    """The last that can be wrong with images, their decoding; then what the run is stands in the workdir."""
    _ = setup.images
    if processes.is_first():
        claims.claim(workdir, setup)
        environment.write(workdir)


@contextmanager
def _alone(workdir: Path) -> Iterator[None]:
    if not processes.is_first():
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise config_checks.InUseError(
                f"another run is working in {workdir}; wait for it, or choose another --workdir"
            ) from None
        yield


def _validate(setup: Setup, l2_fe: Variables, final: Variables, workdir: Path) -> Fitted:
    began = time.monotonic()
    measured = {"validation": setup.measures(final, setup.validation, "validation"), "test": {}}
    summary = report.summarize(setup, workdir, measured, {}, None, time.monotonic() - began)
    json_files.write(workdir / report.SUMMARY, summary)
    return Fitted(setup, workdir, summary, l2_fe, final, None)


def _evaluate(setup: Setup, l2_fe: Variables, final: Variables, workdir: Path) -> Fitted:
    began = time.monotonic()
    probabilities = setup.probabilities(final, setup.test, "test")
    tuned = evaluation.look(probabilities, setup.test.labels)
    measured = {"validation": setup.measures(final, setup.validation, "validation"), "test": tuned.measures}
    head, baseline = tuned, dict[str, Any](measured)
    if final is not l2_fe:
        head = evaluation.look(setup.probabilities(l2_fe, setup.test, "test, L2-FE"), setup.test.labels)
        baseline = {
            "validation": setup.measures(l2_fe, setup.validation, "validation, L2-FE"),
            "test": head.measures,
        }
    if setup.method.trains_backbone:
        baseline["gain"] = gain.against(tuned, head)
    confusion = evaluation.confusion_matrix(probabilities, setup.test.labels)
    summary = report.summarize(setup, workdir, measured, baseline, confusion, time.monotonic() - began)
    if processes.is_first():
        report.write_predictions(workdir / "predictions.csv", setup, probabilities)
        # The file that says that all was measured comes last.
        json_files.write(workdir / report.SUMMARY, summary)
    return Fitted(setup, workdir, summary, l2_fe, final, probabilities)
