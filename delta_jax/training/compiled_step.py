"""The training step of a run, compiled while images are decoded, head and attention computed; what memory it takes."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax

from delta_jax.processes import sharding
from delta_jax.training import step_program
from delta_jax.training.config import ConfigError, flat
from delta_jax.training.setup import Setup
from delta_jax.training.state import TrainState
from delta_jax.workdir import logs

# Fields that reach the program as arguments, or not at all: runs that differ in these alone can share it.
_ARGUMENTS = (
    *("seed", "steps", "learning_rate", "schedule", "warmup_steps", "decay_at", "decay_factor", "epoch_decay_factor"),
    *("alpha", "alpha_relative", "beta", "head_l2", "select", "eval_every", "patience", "effort"),
    *("checkpoint_every", "log_every", "layer_decay", "unfreeze", "head_restarts"),
    *("data.validation_fold", "data.validation_fraction"),
)
_kept: dict[str, Any] | None = None  # programs, within `shared`


@contextmanager
def shared() -> Iterator[None]:
    """Within, runs of this process that differ in arguments of the step alone have one program.

    The compilation cache on disk spares them the compiler, and this what comes before it: tracing.
    """
    global _kept
    before, _kept = _kept, {}
    try:
        yield
    finally:
        _kept = before


def _key(setup: Setup, shapes: Any) -> str:
    fields = {name: value for name, value in flat(setup.config.to_dict()).items() if name not in _ARGUMENTS}
    return f"{sorted(fields.items())} {jax.tree.flatten(shapes)}"


class CompiledStep:
    """Compiles a step in a thread, for the shapes that are to be expected, and tells what memory it takes."""

    def __init__(
        self,
        setup: Setup,
        name: str = "a training step",
        function: Any = None,
        arguments: Callable[[Setup], tuple[Any, ...] | None] = step_program.expected_arguments,
    ):
        """Takes the run whose training step it is, or another program that is made of the same arguments.

        Args:
          setup: of the run.
          name: of the program.
          function: jitted; not given: the training step.
          arguments: their shapes; None where these depend on images that are not decoded yet.
        """
        self._setup, self._name = setup, name
        self._function, self._arguments = function or step_program.function(setup), arguments
        self._expected: Any = None
        self._future: Future | None = None
        self._told = False

    def start(self) -> None:
        """Begins, unless shapes depend on images that are not decoded yet."""
        self._expected = self._arguments(self._setup)
        if self._expected is not None:
            # A thread that the interpreter waits for at its end: one that is in the compiler cannot be stopped.
            executor = ThreadPoolExecutor(1, "compile")
            self._future = executor.submit(self._compile, self._expected)
            executor.shutdown(wait=False)

    def check(self) -> None:
        """Raises what went wrong so far; waits for the end where the device may prove too small.

        Raises:
          ConfigError: the step takes more memory than a device has.
        """
        if self._future and (self._future.done() or sharding.device_memory_bytes() is not None):
            self._awaited(self._future)

    def __call__(self, *arguments: Any) -> Callable[..., tuple[TrainState, jax.Array]]:
        """The program for (state, source, batch, attention, hyperparameters) like these; the state is donated to it.

        Raises:
          ConfigError: as `check`.
        """
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), arguments)
        if self._future is not None and _alike(shapes, self._expected):
            return self._awaited(self._future)
        program, cost = self._compile(shapes)
        logs.say(cost)
        return program

    def _awaited(self, future: Future) -> Any:
        program, cost = future.result()
        if not self._told:
            # Not by the thread: it may end after an error, which is to be the last that a run says.
            logs.say(cost)
            self._told = True
        return program

    def _compile(self, shapes: Any) -> tuple[Any, str]:
        """The program, and what it costs in words."""
        if _kept is None:
            return self._compiled(shapes)
        key = f"{self._name} {_key(self._setup, shapes)}"
        if key not in _kept:
            _kept[key] = self._compiled(shapes)
        return _kept[key]

    def _compiled(self, shapes: Any) -> tuple[Any, str]:
        began = time.monotonic()
        try:
            program = self._function.lower(*shapes).compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise _too_large(self._setup, "more memory than a device has") from error
        seconds = time.monotonic() - began
        planned: Any = program.memory_analysis()
        if planned is None:  # not every platform says
            return program, f"{self._name} is compiled ({seconds:.1f} s)"
        arguments, temporary = planned.argument_size_in_bytes, planned.temp_size_in_bytes
        needed = arguments + temporary + planned.output_size_in_bytes - planned.alias_size_in_bytes
        limit = sharding.device_memory_bytes()
        there = "" if limit is None else f", which has {_gigabytes(limit)}"
        found = f"{_gigabytes(needed)} of memory on each device{there}"
        if limit is not None and needed > limit:
            raise _too_large(self._setup, found)
        return program, (
            f"{self._name} takes {found}: {_gigabytes(arguments)} for state, source and batch, "
            f"{_gigabytes(temporary)} while it works (compiled in {seconds:.1f} s)"
        )


def _too_large(setup: Setup, what: str) -> ConfigError:
    config = setup.config
    ways = ["a smaller --config.batch_size", f"--config.accumulate={2 * config.accumulate}"]
    ways += [] if config.remat else ["--config.remat=True"]
    ways += [] if config.compute_dtype == "bfloat16" else ["--config.compute_dtype=bfloat16"]
    return ConfigError(f"a training step takes {what}; try {', '.join(ways[:-1])} or {ways[-1]}")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"


def _alike(some: Any, others: Any) -> bool:
    ours, theirs = (jax.tree.leaves_with_path(shapes) for shapes in (some, others))
    return len(ours) == len(theirs) and all(
        path == other and a.shape == b.shape and a.dtype == b.dtype and a.sharding.is_equivalent_to(b.sharding, a.ndim)
        for (path, a), (other, b) in zip(ours, theirs, strict=True)
    )
