"""The looks of a search for the strength at the validation loss: one program, its images, what came of them."""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from delta_jax import data, precision
from delta_jax.training import optim, step_program, steps, strength
from delta_jax.training.compiled_step import CompiledStep
from delta_jax.training.programs import Programs
from delta_jax.training.setup import Setup
from delta_jax.training.state import TrainState, Variables


def _look(
    programs: Programs,
    state: TrainState,
    source: Variables,
    batch: steps.Batch,
    validation: steps.Batch,
    attention: Any,
    chosen: step_program.Hyperparameters,
) -> strength.Search:
    """The search after a look, before the step of this state and batch."""
    assert state.search is not None
    config, method, factor = programs.config, programs.method, state.search.factor
    step_key = jax.random.fold_in(chosen.key, state.step)
    # The views and the dropout of the training step that follows; those of the validation images are drawn alike.
    crop_key, dropout_key = jax.random.split(step_key)
    validation_key, validation_dropout = jax.random.split(jax.random.fold_in(step_key, 2))

    def part(tree: Any) -> Any:
        # Where a batch is cut into parts, more than one of them would not fit.
        return jax.tree.map(lambda leaf: leaf[:: config.accumulate], tree)

    own = step_program.make_loss(programs, dataclasses.replace(chosen, alpha=chosen.alpha * factor))

    def loss(params: Any, arguments: tuple[Any, ...]) -> jax.Array:
        images, labels, weights, dropout, shares = arguments
        total, (found, _) = own(params, state.batch_stats, source, images, labels, weights, dropout)
        penalty, head = found["penalty"], found["head_penalty"]
        if method.decays_weights:
            penalty = 0.5 * optax.tree.norm(params, squared=True)
            total += config.weight_decay * factor * penalty
        return shares[0] * total + shares[1] * penalty.astype(total.dtype) + shares[2] * head.astype(total.dtype)

    step = optim.make_optimizer(
        state.params,
        optax.constant_schedule(1.0),
        head=programs.heads,
        momentum=0.0,
        head_learning_rate_factor=config.head_learning_rate_factor,
        freeze_norm=config.batch_norm == "frozen",
        frozen=programs.frozen,
    )
    weights = steps.attention_of(attention, part(batch["index"]))
    ours = (*part((programs.augment(crop_key, batch["image"]), batch["label"])), weights, dropout_key)
    # The attention is not theirs; the penalty, which alone reads it, is taken off again.
    theirs = part((programs.augment(validation_key, validation["image"]), validation["label"]))
    theirs = (*theirs, weights, validation_dropout)
    inside = (config.weight_decay if method.decays_weights else chosen.alpha) * factor
    shares = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, -inside, -chosen.beta]])
    three = jax.tree.map(lambda *leaves: jnp.stack(leaves), ours, ours, theirs)
    with precision.of(config.matmul_precision):
        _, cosine = strength.make_slope(loss, step)(state.params, (*three, shares))
    peak = jnp.max(chosen.learning_rates)
    pace = chosen.learning_rates[state.step] / jnp.where(peak > 0, peak, 1)
    return strength.move(state.search, cosine, pace)


def function(programs: Programs) -> Any:
    """The look, jitted: (state, source, batch, validation batch, attention, hyperparameters) -> search."""
    return jax.jit(partial(_look, programs))


def arguments(of_step: tuple[Any, ...]) -> tuple[Any, ...]:
    """Shapes of a look's arguments, from those of a training step: batches lie alike."""
    return *of_step[:3], *of_step[2:]


def _expected_arguments(setup: Setup) -> tuple[Any, ...] | None:
    expected = step_program.expected_arguments(setup)
    return None if expected is None else arguments(expected)


def compiled_look(setup: Setup) -> CompiledStep:
    """The look of a run, to be compiled in a thread."""
    return CompiledStep(setup, "a look for the strength", function(setup), _expected_arguments)


class Looks:
    """The looks of a run, one before every `strength.EVERY`-th step but the first.

    Which validation images look n sees is a function of the seed and n; they are drawn as those to train on are.
    """

    def __init__(self, setup: Setup, compiled: CompiledStep, source: Variables, attention: Any):
        """Takes the run, its program, and what this needs beside state and batches."""
        self._setup, self._compiled = setup, compiled
        self._source, self._attention = source, attention
        self._batches: Iterator[Mapping[str, Any]] | None = None
        self._program: Any = None

    def __call__(self, step: int, state: TrainState, batch: Any, chosen: step_program.Hyperparameters) -> TrainState:
        """The state with which the step after `step` steps begins; other than in its search it is the one given."""
        if step == 0 or step % strength.EVERY:
            return state
        if self._batches is None:
            self._batches = self._setup.validation.stream(self._table(step // strength.EVERY - 1))
        arguments = (state, self._source, batch, next(self._batches), self._attention, chosen)
        if self._program is None:
            self._program = self._compiled(*arguments)
        return dataclasses.replace(state, search=self._program(*arguments))

    def _table(self, done: int) -> np.ndarray:
        config, images = self._setup.config, self._setup.validation
        left = strength.looks(config.steps) - done
        if config.imbalance == "balanced_sampling":
            return data.balanced_table(config.seed, left, images.labels, config.batch_size, start=done)
        return data.batch_table(config.seed, left, len(images), config.batch_size, start=done)


def found(setup: Setup, alpha: float, search: strength.Search) -> dict[str, Any]:
    """What came of a search that began at `alpha`, or at l2's weight decay.

    Returns:
      "field" of the config, "start" and "found", values of it; "looks", and "images", how many validation images these
      saw, one as often as it came; "at_edge", whether it is at the end of its range. Where alpha was measured,
      "alpha_relative" is what the config would say for it.
    """
    config = setup.config
    factor, looks = float(search.factor), int(search.looks)
    field, start = ("weight_decay", config.weight_decay) if setup.method.decays_weights else ("alpha", alpha)
    facts = {
        "field": field,
        "start": start,
        "found": start * factor,
        "looks": looks,
        "images": looks * (config.batch_size // config.accumulate),
        "at_edge": bool(abs(np.log10(factor)) > 0.99 * strength.RANGE),
    }
    if field == "alpha" and config.alpha is None:
        facts["alpha_relative"] = config.alpha_relative * factor
    return facts


def said(facts: Mapping[str, Any]) -> str:
    """The same in a line."""
    relative = f" (alpha_relative {facts['alpha_relative']:.3g})" if "alpha_relative" in facts else ""
    field = "alpha_relative" if relative else facts["field"]
    value = facts.get("alpha_relative", facts["found"])
    edge = f"; that is as far as it goes: begin the next search there, --config.{field}={value:.2g}"
    return (
        f"strength: {facts['field']} {facts['found']:.4g}{relative}, begun at {facts['start']:.4g}, after "
        f"{facts['looks']:,} looks at {facts['images']:,} validation images{edge if facts['at_edge'] else ''}"
    )
