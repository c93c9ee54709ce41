"""Fine-tuning: from the source with its trained head to the network that a run ends with."""

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from delta_jax.processes import sharding
from delta_jax.training import evaluation, measured_phase, report, step_program, strength_search, wise_ft
from delta_jax.training.compiled_step import CompiledStep
from delta_jax.training.config import ConfigError
from delta_jax.training.course import Course
from delta_jax.training.fine_tune import Loop, fine_tune
from delta_jax.training.head import get_head, new_head, put_head
from delta_jax.training.optim import STRETCHED
from delta_jax.training.setup import Setup
from delta_jax.training.state import TrainState, Variables
from delta_jax.training.watch import Watch
from delta_jax.workdir import json_files, logs

ALPHA_BATCHES = 4  # of training images, to measure how large the penalty can be


class Compiled:
    """The programs of the phase, compiled in threads of their own while the phases before it go on.

    Attributes:
      step: the training step.
      look: at the validation loss, of a search for the strength; None without one.
    """

    def __init__(self, setup: Setup):
        """Takes the run."""
        self.step = CompiledStep(setup)
        self.look = strength_search.compiled_look(setup) if setup.config.strength_search else None

    def start(self) -> None:
        """Begins."""
        for one in filter(None, (self.step, self.look)):
            one.start()

    def check(self) -> None:
        """Raises ConfigError where the device has proved too small so far."""
        for one in filter(None, (self.step, self.look)):
            one.check()


def run(
    setup: Setup, l2_fe: Variables, weights: Any, workdir: Path, log: logs.MetricsLog, compiled: Compiled
) -> Variables:
    """The network that fine-tuning ends with; what is known of it stands in fine_tune.json.

    Args:
      setup: of the run.
      l2_fe: the source with its trained head.
      weights: attention {tap: [C] or [N, C]}; None for a method without.
      workdir: of the run; its checkpoints are gone on from.
      log: for metrics.
      compiled: the programs.

    Raises:
      As `trainer.fit`.
    """
    config = setup.config
    key = jax.random.key(config.seed)
    start = l2_fe
    if config.head_init != "l2_fe":
        # The step's keys are fold_in(key, step); these lie beyond the last step.
        for number, path in enumerate(setup.heads):
            head_key = jax.random.fold_in(key, config.steps + number)
            head = new_head(config.head_init, get_head(start["params"], path), head_key)
            start = {**start, "params": put_head(start["params"], path, head)}

    rates = step_program.learning_rates(setup, len(setup.train) / config.batch_size)
    alpha = _alpha(setup, weights, workdir)

    @cache
    def chosen(course: Course) -> step_program.Hyperparameters:
        return step_program.hyperparameters(setup, alpha, course.table(len(rates)))

    measured = measured_phase.measured(setup, workdir)
    source = {**l2_fe, "measured": measured} if measured else l2_fe
    watch = Watch(Course(rates[: config.steps]), workdir, patience=config.patience)
    state = step_program.initial_state(setup, start)
    like = setup.train.batch(np.arange(config.batch_size))
    step = compiled.step(state, source, like, weights, chosen(watch.course))

    def validate(state: TrainState) -> evaluation.Look:
        return evaluation.look(
            setup.probabilities(state.found, setup.validation, "validation"), setup.validation.labels
        )

    looks = strength_search.Looks(setup, compiled.look, source, weights) if compiled.look else None

    def before(step: int, state: TrainState, batch: Any) -> TrainState:
        return looks(step, state, batch, chosen(watch.course)) if looks else state

    loop = Loop(
        steps=config.steps,
        batch_size=config.batch_size,
        seed=config.seed,
        log_every=config.log_every,
        checkpoint_every=config.checkpoint_every,
        eval_every=config.eval_every if len(setup.validation) else 0,
        select=config.select,
        balanced=config.imbalance == "balanced_sampling",
    )
    state, facts = fine_tune(
        loop,
        state,
        lambda state, batch: step(state, source, batch, weights, chosen(watch.course)),
        setup.train,
        validate,
        watch,
        workdir,
        log,
        before,
    )
    if state.search is not None:
        facts["strength"] = strength_search.found(setup, alpha, state.search)
        logs.say(strength_search.said(facts["strength"]))
    verdict = watch.verdict(stretches=config.schedule in STRETCHED)
    facts["convergence"] = verdict.as_dict() if verdict else {}
    final: Variables = state.found
    if config.select == "wise_ft":
        final, facts["wise_ft"] = wise_ft.choose(
            l2_fe, final, lambda variables: setup.measures(variables, setup.validation, "validation, WiSE-FT")
        )
        logs.say(wise_ft.said(facts["wise_ft"]))
    json_files.write(workdir / report.FINE_TUNE, facts)
    return final


def _alpha(setup: Setup, weights: Any, workdir: Path) -> float:
    """The weight of the penalty: as configured, or measured so that it means the same for every network.

    A network whose feature maps are all zero, the source forgotten, then pays alpha_relative: alpha is that over the
    penalty of zero maps. With absolute values, what suits ResNet-101 makes EfficientNet-Lite0 diverge.
    """
    if setup.config.alpha is not None:
        return float(setup.config.alpha)
    path = workdir / report.ALPHA
    if not json_files.read(path):
        forgetting = setup.penalty_of_zero_maps()
        paid = [
            sharding.on_host(forgetting(setup.source, weights, batch))[: int(mask.sum())]
            for _, mask, batch in itertools.islice(setup.train.batches(setup.config.eval_batch_size), ALPHA_BATCHES)
        ]
        mean = float(np.mean(np.concatenate(paid), dtype=np.float64))
        if not mean > 0:
            raise ConfigError(f"the feature maps at {setup.config.taps} are all zero; choose other --config.taps")
        json_files.write(path, {"alpha": setup.config.alpha_relative / mean, "penalty_of_zero_maps": mean})
    alpha = json_files.read(path)["alpha"]
    logs.say(f"alpha {alpha:.4g}: zero feature maps would cost {setup.config.alpha_relative:g}")
    return alpha
