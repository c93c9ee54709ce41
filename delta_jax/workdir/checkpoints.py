"""Checkpoints of a run, written in the background and verified before they are read back.

`Checkpoints` keeps the state of a run per step, as Orbax writes it. One appears under its name only when complete, so
a process killed at any moment leaves those before it intact. Only this module imports orbax.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from delta_jax import processes
from delta_jax.workdir.stored_trees import (
    CheckpointError,
    Signature,
    compare,
    dtype_of,
    named_leaves,
    place,
    reason,
    sharding_of,
    signature_of,
    storable,
)

_log = logging.getLogger(__name__)
SEAL = "files.json"


class Checkpoints:
    """The newest `keep` checkpoints of a run, and the best one, in the numbered subfolders of `directory`.

    Nothing is created or deleted before the first `save`, so a process that only reads never disturbs the one that
    trains. On several hosts all of them make the same calls, and `directory` is one they share.

        with Checkpoints(workdir / "checkpoints") as checkpoints:
            if checkpoints.latest_step() is not None:
                state, meta = checkpoints.restore(state)
            ...
            checkpoints.save(step, state, {"phase": "fine_tune"}, metric=top1)
    """

    def __init__(self, directory: Path, *, keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep is {keep}; at least the newest checkpoint has to be kept, so use 1 or more")
        self.directory = Path(directory).absolute()  # orbax writes nothing, silently, under a relative path
        self._keep = keep
        self._damaged: set[int] = set()
        self._saving: int | None = None
        self._manager: ocp.CheckpointManager
        self._open(writable=False)

    def save(self, step: int, state: Any, meta: dict[str, Any], *, metric: float | None = None) -> None:
        """Starts to write `state` and returns once it is copied: its buffers may then be donated or overwritten.

        Args:
          step: number of the checkpoint, greater than all before.
          state: pytree of arrays and numbers.
          meta: anything that JSON can hold; comes back with the state (tuples as lists).
          metric: validation result, the greater the better; the best checkpoint is kept whatever its age.

        Raises:
          CheckpointError: this state cannot be stored, or the save *before* this one failed in the background.
        """
        self.wait()
        signature = signature_of(state)
        try:
            json.dumps(meta)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"meta of checkpoint {step} cannot be written as JSON: {error}") from error
        if self._damaged or not self._writable:
            self._open(writable=True)
        latest = self._manager.latest_step()
        if latest is not None and step <= latest:
            raise CheckpointError(
                f"checkpoint {step} would be older than the newest, {latest}, in {self.directory}; "
                "go on from that one, or use another directory"
            )
        # A diverged run reports NaN, and one NaN in a comparison makes any checkpoint the best.
        metrics = {"metric": float(metric)} if metric is not None and math.isfinite(metric) else None
        by_name = {"by_name": True} if _alike_to_orbax(state) else {}
        self._saving = step
        with self._writing():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_as_stored(jax.tree.map(storable, state))),
                    meta=ocp.args.JsonSave({"arrays": signature, "meta": meta, **by_name}),
                ),
                metrics=metrics,
                force=True,
            )

    def wait(self) -> None:
        """Returns when the last save is on disk; raises CheckpointError if it failed."""
        if self._saving is not None:
            with self._writing():
                self._manager.wait_until_finished()
            self._saving = None

    def steps(self) -> list[int]:
        """Steps of the checkpoints on disk, oldest first, without those that `restore` found damaged."""
        self.wait()
        return [step for step in self._manager.all_steps() if step not in self._damaged]

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint on disk, None if there is none."""
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """Step of the checkpoint with the greatest metric (the newest of equals), None if none was saved with one."""
        self.wait()
        return self._manager.best_step()

    def restore(self, like: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Reads checkpoint `step`, or the newest that is intact: a damaged one is passed over with a warning.

        Args:
          like: pytree of arrays or `jax.ShapeDtypeStruct` with the structure, shapes and dtypes that were saved. Each
            restored array takes its sharding; where that is open (a ShapeDtypeStruct without one, an uncommitted array,
            a Python number) it goes uncommitted to the default device. numpy arrays come back as numpy arrays.
          step: which one; without it the newest.

        Returns:
          The state, equal bit by bit to the one saved and sharing no buffers with `like`, and its meta.

        Raises:
          CheckpointError: there is none, all (or the one asked for) are damaged, or names, shapes or dtypes differ.
        """
        signature = signature_of(like)
        steps = self.steps()
        if step is not None and step not in steps:
            raise CheckpointError(f"no checkpoint {step} in {self.directory}; intact ones, as far as known: {steps}")
        for candidate in reversed(steps) if step is None else [step]:
            damage = processes.from_first(_damage(self.directory / str(candidate)))
            if not damage:
                return self._read(candidate, like, signature)
            self._damaged.add(candidate)
            message = f"checkpoint {candidate} in {self.directory} is damaged ({damage})"
            if step is not None:
                raise CheckpointError(f"{message}; intact ones, as far as known: {self.steps()}")
            _log.warning("%s; trying the one before, and the next save removes it", message)
        raise CheckpointError(f"no intact checkpoint in {self.directory}, looked at {steps or 'an empty directory'}")

    def close(self) -> None:
        """Waits for the last save and releases the threads; raises CheckpointError if that save failed."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        if error is not None and processes.count() > 1:
            return  # the end of a save waits for the other processes, which may be gone, or wait for this one
        try:
            self.close()
        except CheckpointError as failure:
            if error is None:
                raise
            _log.warning("%s", failure)  # the error that ends the block is the one to report

    def _open(self, *, writable: bool) -> None:
        if writable:
            # Damaged ones first: with one damaged file of metrics orbax cannot tell which checkpoint is the best.
            for step in self._damaged:
                self._manager.delete(step)
            self._damaged.clear()
            self._manager.close()

        def open_manager(**settings: Any) -> ocp.CheckpointManager:
            # orbax's own max_to_keep with best_fn deletes the newest checkpoint if it is not among the best.
            keep = policies.AnyPreservationPolicy(
                [
                    policies.LatestN(self._keep),
                    policies.BestN(get_metric_fn=_metric, n=1, keep_checkpoints_without_metrics=False),
                ]
            )
            options = ocp.CheckpointManagerOptions(
                preservation_policy=keep,
                best_fn=_metric,
                save_root_metadata=False,
                create=writable,
                cleanup_tmp_directories=writable,  # what a killed process left; only the process that trains may do it
                async_options=ocp.options.AsyncOptions(post_finalization_callback=self._seal),
                **settings,
            )
            return ocp.CheckpointManager(self.directory, options=options)

        with self._failures(f"{self.directory} could not be opened for checkpoints"):
            try:
                self._manager = open_manager()
            except json.JSONDecodeError:  # damaged metrics: `restore` finds out which, and can then go back to another
                self._manager = open_manager(lightweight_initialize=True)
        self._writable = writable

    def _seal(self) -> None:
        """Notes the digest of every file of the checkpoint being written, just before it gets its final name."""
        if jax.process_index() != 0:  # orbax's notion of the one that gives the final name
            return
        for unfinished in self.directory.glob(f"{self._saving}.*"):
            # The folders of the items; beside them lies what orbax itself changes later and reading does not need.
            paths = [path for path in unfinished.glob("*/**/*") if path.is_file()]
            files = {str(path.relative_to(unfinished)): _digest(path) for path in paths}
            (unfinished / SEAL).write_text(json.dumps(files, indent=1))

    def _read(self, step: int, like: Any, signature: Signature) -> tuple[Any, dict[str, Any]]:
        where = f"checkpoint {step} in {self.directory}"
        with self._failures(f"{where} could not be read"):
            saved = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
            compare(saved["arrays"], signature, where)  # before orbax, which casts other dtypes without a word
            if (twice := _alike_to_orbax(like)) and not saved.get("by_name"):
                raise CheckpointError(
                    f"{where} was written before such names were kept apart, and holds one array for all called "
                    f"{twice[0]}; use another directory"
                )
            target = ocp.args.StandardRestore(_as_stored(jax.tree.map(_target, like)))
            try:
                restored = self._manager.restore(step, args=ocp.args.Composite(state=target)).state
            except ValueError as error:
                if "tree structures do not match" not in str(error):
                    raise
                # Nodes without arrays, such as the empty states of optax, have no names to compare.
                raise CheckpointError(
                    f"{where} has the arrays that are needed, but in a tree of another form, as other versions of "
                    "delta_jax, optax or flax build it. Use the versions it was written with, or another directory"
                ) from error
            return jax.tree.map(place, _as_given(restored, like), like), saved["meta"]

    @contextlib.contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:
            self._saving = None
            self._writable = False  # the next save opens the directory anew and clears away what this one left
            raise CheckpointError(f"{what}: {reason(error)}") from error

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return self._failures(
            f"checkpoint {self._saving} in {self.directory} could not be written, those before it are untouched"
        )


def save_orbax(directory: Path, tree: Any) -> None:
    """Writes a pytree of arrays for programs that know Orbax alone: `StandardCheckpointer().restore(directory)`.

    The arrays lie there as of numpy, so that they can be restored whatever the devices.

    Raises:
      CheckpointError: the directory exists, or cannot be written; or Orbax would take two arrays for one.
    """
    if twice := _alike_to_orbax(tree):
        raise CheckpointError(
            f"Orbax joins names by dots and would keep one of the arrays called {twice[0]} for both; take "
            "--format=safetensors, or rename a module"
        )
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(Path(directory).absolute(), jax.tree.map(np.asarray, tree))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{directory} could not be written: {reason(error)}") from error


def _target(like: Any) -> Any:
    """What orbax is to make of a leaf: an array with this sharding, or else a numpy array."""
    shape, dtype, sharding = np.shape(like), dtype_of("", like), sharding_of(like)
    return np.empty(shape, dtype) if sharding is None else jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _alike_to_orbax(tree: Any) -> list[str]:
    """Names that Orbax gives to more than one array, of which it keeps one without a word.

    It joins keys by dots: "a.b" beside {"a": {"b": ...}}.
    """
    paths = [path for path, _ in jax.tree.leaves_with_path(tree)]
    counts = Counter(jax.tree_util.keystr(path, simple=True, separator=".") for path in paths)
    return [name for name, count in counts.items() if count > 1]


def _as_stored(tree: Any) -> Any:
    """What orbax is given: the tree itself, or {name: leaf} of one whose arrays it would mix up.

    Of a dataclass without the fields that are None: it counts them, and a field that came later would make all
    checkpoints of before unreadable.
    """
    if _alike_to_orbax(tree):
        return named_leaves(tree)
    if not _is_state(tree):
        return tree
    names = [field.name for field in dataclasses.fields(tree) if field.metadata.get("pytree_node", True)]
    some = {name: value for name in names if (value := getattr(tree, name)) is not None}
    return tree if len(some) == len(names) else some


def _is_state(tree: Any) -> bool:
    return dataclasses.is_dataclass(tree) and not isinstance(tree, type)


def _as_given(restored: Any, like: Any) -> Any:
    """The inverse of `_as_stored`, for a tree like `like`."""
    if not _alike_to_orbax(like):
        return dataclasses.replace(like, **restored) if _is_state(like) and isinstance(restored, dict) else restored
    return jax.tree.unflatten(jax.tree.structure(like), [restored[name] for name in named_leaves(like)])


def _metric(metrics: dict[str, float]) -> float:
    return metrics["metric"]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damage(directory: Path) -> str:
    """What is wrong with the files of a checkpoint; "" for nothing. Orbax reads flipped bits without noticing."""
    try:
        sealed = json.loads((directory / SEAL).read_text())
    except FileNotFoundError:
        return f"no {SEAL}"
    except ValueError:
        return f"{SEAL} is not readable"
    for name, digest in sealed.items():
        file = directory / name
        if not file.is_file():
            return f"{name} is missing"
        if _digest(file) != digest:
            return f"{name} has changed since it was written"
    return ""


class _OrbaxNoise(logging.Filter):
    """Drops orbax's talk: its errors arrive as CheckpointError, and most checkpoints have no metric on purpose."""

    def filter(self, record: logging.LogRecord) -> bool:
        of_orbax = f"{os.sep}orbax{os.sep}" in record.pathname
        return not of_orbax or (record.levelno == logging.WARNING and "tracked_metric" not in str(record.msg))


logging.getLogger("absl").addFilter(_OrbaxNoise())
