"""The loop of optimizer steps: checkpoints, metrics, looks at the validation images; goes on where it was stopped."""

import dataclasses
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from delta_jax import data, processes
from delta_jax.processes import interruption, sharding
from delta_jax.training.evaluation import Look
from delta_jax.training.image_sets import ImageSet
from delta_jax.training.state import TrainState
from delta_jax.training.steps import METRICS
from delta_jax.training.watch import Watch
from delta_jax.workdir import logs
from delta_jax.workdir.checkpoints import Checkpoints
from delta_jax.workdir.stored_trees import CheckpointError

STRENGTH = "strength_factor"  # of a search, over the strength it began with


class DivergedError(RuntimeError):
    """The loss is not finite any more; the message has the steps and the last good checkpoint."""


@dataclasses.dataclass(frozen=True)
class Loop:
    """How long, how often, how many.

    Attributes:
      steps: optimizer steps.
      batch_size: images per step.
      seed: of the order of the examples.
      log_every, checkpoint_every, eval_every: steps; eval_every 0 for no looks at the validation images.
      select: "last", or "best" on the validation images.
      balanced: whether every class is drawn equally often, instead of every image.
    """

    steps: int
    batch_size: int
    seed: int
    log_every: int
    checkpoint_every: int
    eval_every: int
    select: str
    balanced: bool = False


def fine_tune(
    loop: Loop,
    state: TrainState,
    train_step: Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, jax.Array]],
    images: ImageSet,
    validate: Callable[[TrainState], Look],
    watch: Watch,
    workdir: Path,
    log: logs.MetricsLog,
    before: Callable[[int, TrainState, dict[str, jax.Array]], TrainState] = lambda step, state, batch: state,
) -> tuple[TrainState, dict[str, Any]]:
    """Runs the steps that are left.

    Args:
      loop: see there; the watch may end it earlier.
      state: before the first step; its buffers are given away.
      train_step: (state, batch) -> (state, metrics float32 [M] in the order of `steps.METRICS`; where the strength is
        searched, the factor on it comes after them).
      images: to train on.
      validate: state -> measures of the validation images, of which top1 selects, and what they are means of.
      watch: is told of these, and has the learning rates and the last step, which may become an earlier one.
      workdir: checkpoints go to workdir/checkpoints.
      log: where the metrics go.
      before: (steps done, state, batch) -> the state to take the next step with: a search for the strength.

    Returns:
      The state after the last step, or the selected one, and facts: "steps", "selected_step", "images_per_second" (0
      where only the step that compiles was run) and "seconds", those of earlier parts of an interrupted run included.

    Raises:
      DivergedError: the loss or a parameter is not finite; no checkpoint of such a state is written.
      CheckpointError: there is no space for a checkpoint, which is looked at before the first step too.
      Interrupted: by a signal; the last step that was run is in a checkpoint.
    """
    with interruption.held(), Checkpoints(workdir / "checkpoints") as checkpoints:
        meta: dict[str, Any] = {"seconds": 0.0, "timed_images": 0, "timed_seconds": 0.0, "unwritten": []}
        processes.agree({"steps of the checkpoints to go on from": checkpoints.steps()})
        if checkpoints.latest_step() is not None:
            state, meta = checkpoints.restore(state)
        step = int(jax.device_get(state.step))
        watch.go_on(step)
        if checkpoints.latest_step() is not None:
            logs.say(f"going on after step {step} of {watch.course.steps}")
        if step < watch.course.steps:
            _require_space(checkpoints, state)
        log.rewind("fine_tune", step)
        log.rewind("validation", step)
        steps_left = watch.course.steps - step
        if loop.balanced:
            order = data.balanced_table(loop.seed, steps_left, images.labels, loop.batch_size, start=step)
        else:
            order = data.batch_table(loop.seed, steps_left, len(images), loop.batch_size, start=step)
        began = time.monotonic()
        waiting: list[Any] = [np.array(one, np.float32) for one in meta.get("unwritten", ())]
        intervals: list[tuple[int, list[Any]]] = []  # of metrics, with their last step
        # The clock of images per second starts when the first step is done.
        timer, timed_from, first = began, step, step + 1

        with logs.progress(loop.steps * loop.batch_size, "fine-tune", initial=step * loop.batch_size) as bar:
            for batch in images.stream(order):
                state, metrics = train_step(before(step, state, batch), batch)
                step += 1
                metrics.copy_to_host_async()
                waiting.append(metrics)
                if step == first:
                    jax.block_until_ready(metrics)
                    timer, timed_from = time.monotonic(), step
                ends = step == watch.course.steps
                saves = step % loop.checkpoint_every == 0 or ends
                looks = bool(loop.eval_every) and (step % loop.eval_every == 0 or ends)
                writes = step % loop.log_every == 0 or saves or looks
                shown = {}
                if writes:
                    intervals.append((step, waiting))
                    waiting = []
                # The newest metrics are left to arrive while the device works on: to ask for them would be to wait for
                # all steps so far. Before a checkpoint all are looked at.
                while len(intervals) > (0 if saves or looks else 1):
                    shown = _write(log, *intervals.pop(0), watch, checkpoints)
                bar.advance(loop.batch_size, **shown)
                metric = None
                if looks:
                    pause = time.monotonic()
                    found = validate(state)
                    log.write("validation", step, found.measures)
                    metric = found.measures["top1"] if loop.select == "best" else None
                    watch.look(step, found.losses, found.right)
                    ends = step == watch.course.steps
                    saves = saves or ends
                    timer += time.monotonic() - pause
                # Several processes ask each other, for which they wait: only where they write, too.
                stops = interruption.asked() if writes or processes.count() == 1 else 0
                if saves or stops or metric is not None:
                    for interval in intervals:
                        _write(log, *interval, watch, checkpoints)
                    intervals = []
                    if not jax.device_get(_is_finite(state)):
                        raise _diverged(f"the parameters are not finite after step {step}", checkpoints)
                    _require_space(checkpoints, state)
                    now = time.monotonic()
                    done = {
                        "seconds": meta["seconds"] + now - began,
                        "timed_images": meta["timed_images"] + (step - timed_from) * loop.batch_size,
                        "timed_seconds": meta["timed_seconds"] + now - timer,
                        # So that the next record is the one of an undisturbed run.
                        "unwritten": [one.tolist() for one in sharding.on_host(waiting)],
                    }
                    checkpoints.save(step, state, done, metric=metric)
                if stops:
                    checkpoints.wait()
                    raise interruption.Interrupted(stops, f"after step {step} of {watch.course.steps}")
                if ends:
                    break
            meta = done if len(order) else meta
        checkpoints.wait()
        selected = step
        best = checkpoints.best_step() if loop.select == "best" else None
        if best is not None and best != step:
            selected = best
            state, _ = checkpoints.restore(state, best)
    rate = meta["timed_images"] / meta["timed_seconds"] if meta["timed_seconds"] else 0.0
    return state, {
        "steps": step,
        "selected_step": selected,
        "seconds": meta["seconds"],
        "images_per_second": rate,
    }


def _write(
    log: logs.MetricsLog,
    step: int,
    waiting: list[jax.Array],
    watch: Watch,
    checkpoints: Checkpoints,
) -> dict[str, float]:
    """The mean of the metrics since the last record goes to the log; not finite ones end the run."""
    values = np.stack(sharding.on_host(waiting))
    names = (*METRICS, STRENGTH)[: values.shape[1]]
    means = dict(zip(names, map(float, values.mean(axis=0)), strict=True))
    log.write("fine_tune", step, means | {"learning_rate": float(watch.course.rates[step - 1])})
    if not math.isfinite(means["loss"]):
        start = step - len(values)
        bad = int(np.argmin(np.isfinite(values[:, METRICS.index("loss")])))
        raise _diverged(
            f"the loss is not finite at step {start + bad + 1} (steps {start + 1} to {step} were looked at)",
            checkpoints,
        )
    return {"loss": means["loss"], "top1": means["top1"]}


@jax.jit
def _is_finite(state: TrainState) -> jax.Array:
    # A loss tells of the parameters before its step: the last step may have broken what a checkpoint is to keep.
    leaves = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))


def _require_space(checkpoints: Checkpoints, state: TrainState) -> None:
    """Asks before writing: a disk that fills up under orbax ends in hundreds of lines beside the error."""
    checkpoints.wait()
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    free = shutil.disk_usage(checkpoints.directory.parent).free
    if free < needed:
        raise CheckpointError(
            f"no space left for a checkpoint: it takes {needed / 1e6:,.1f} MB, {checkpoints.directory} has "
            f"{free / 1e6:,.1f} MB; those before it are untouched: make room, and start again"
        )


def _diverged(what: str, checkpoints: Checkpoints) -> DivergedError:
    good = checkpoints.latest_step()
    kept = f"the checkpoint of step {good} is kept" if good is not None else "there is no checkpoint yet"
    return DivergedError(
        f"{what}; {kept}. "
        "Try a lower learning_rate or alpha, clip_norm=1, or float32; a new --workdir starts from the beginning"
    )
