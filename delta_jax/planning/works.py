"""The programs of a run, what they are called with, and how often."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from ml_collections import FrozenConfigDict

from delta_jax.planning.amounts import Amounts
from delta_jax.training import (
    attention_images,
    attention_program,
    image_sets,
    step_program,
    strength,
    strength_search,
)
from delta_jax.training.programs import Programs

NAMES = FEATURES, ESTIMATES, ATTENTION, STEP, LOOK, EVALUATION = (
    *("features", "estimates", "attention", "step", "look", "evaluation"),
)


@dataclass(frozen=True)
class Work:
    """A program of a run.

    Attributes:
      name: one of those above.
      images: per call.
      calls: {phase of the run: how often}.
      beside: bytes that a device holds meanwhile and that are none of the program's.
      split: whether the function is traced for all devices together; else each runs it on a part of its own.
      make: () -> (jitted function, shapes of its arguments).
    """

    name: str
    images: int
    calls: Mapping[str, int]
    beside: int
    make: Callable[[], tuple[Any, tuple[Any, ...]]]
    split: bool = True


def works(programs: Programs, amounts: Amounts, memory: float) -> list[Work]:
    """Those that matter, in the order of the run; `memory` is what a device has, bytes.

    Left out is what is called a few times: how large the penalty can be (alpha), how good an estimate of the gaps is,
    and gathering a batch from the images on the device.
    """
    config, batch = programs.config, programs.config.eval_batch_size
    kept = bytes_of_images(programs, amounts, memory)
    both = -(-amounts.train // batch) + -(-amounts.validation // batch)
    found = [Work(FEATURES, batch, {"head": both}, kept, lambda: (programs.head_features(), _of_source(programs)))]
    if programs.method.uses_attention and not config.attention_file:
        chosen = attention_images.number(programs, amounts.train)
        together = attention_program.images_per_pass(config, programs.mesh)
        estimators = attention_program.estimators(config)
        names = (ESTIMATES, ATTENTION)[-len(estimators) :]
        for name, estimator, images in zip(names, estimators, chosen.of_estimators, strict=True):
            calls = {"attention": -(-images // together)}
            found.append(Work(name, together, calls, kept, partial(_attention, programs, estimator), split=False))
    validation, test = (-(-n // batch) for n in (amounts.validation, amounts.test))
    # At the end both splits with the network that was trained and, to compare, with the one before.
    calls = {"evaluation": validation + test}
    if programs.method.trains_backbone:
        found.append(step(programs, amounts, memory))
        if config.strength_search:
            found.append(look(programs, amounts, memory))
        calls = {"evaluation": 2 * calls["evaluation"]}
        if looks := config.eval_every and -(-config.steps // config.eval_every):
            calls = {"validation while it trains": looks * validation, **calls}
        kept += _bytes(step_program.arguments(programs, programs.pixels(config.batch_size), 1)[:2])
        kept -= _bytes(programs.source)
    return [*found, Work(EVALUATION, batch, calls, kept, lambda: (programs.predict, _of_source(programs)))]


def step(programs: Programs, amounts: Amounts, memory: float) -> Work:
    """The training step."""
    batch = programs.config.batch_size

    def make() -> tuple[Any, tuple[Any, ...]]:
        arguments = step_program.arguments(programs, programs.pixels(batch), amounts.train)
        return step_program.function(programs), arguments

    kept = bytes_of_images(programs, amounts, memory)
    return Work(STEP, batch, {"fine-tuning": programs.config.steps}, kept, make)


def look(programs: Programs, amounts: Amounts, memory: float) -> Work:
    """At the validation loss, of a search for the strength."""
    batch = programs.config.batch_size

    def make() -> tuple[Any, tuple[Any, ...]]:
        arguments = step_program.arguments(programs, programs.pixels(batch), amounts.train)
        return strength_search.function(programs), strength_search.arguments(arguments)

    calls = {"fine-tuning": strength.looks(programs.config.steps)}
    return Work(LOOK, batch, calls, bytes_of_images(programs, amounts, memory), make)


def changed(programs: Programs, **fields: Any) -> Programs:
    """The same run with other values of fields that change no variable: batch_size, accumulate, remat and such."""
    other = copy.copy(programs)
    other.__dict__.pop("predict", None)
    other.config = FrozenConfigDict({**programs.config.to_dict(), **fields})
    return other


def bytes_of_images(programs: Programs, amounts: Amounts, memory: float) -> int:
    """What decoded images take on each device: 0 where they are read batch by batch."""
    one: Any = jax.tree.leaves(programs.pixels(programs.mesh.size))[0]
    size = amounts.images * int(np.prod(one.shape[1:]))
    return size if image_sets.stay_on_device(size, programs.config.data.on_device, memory) else 0


def _of_source(programs: Programs) -> tuple[Any, Any]:
    return programs.source, programs.pixels(programs.config.eval_batch_size)


def _attention(programs: Programs, estimator: attention_program.Estimator) -> tuple[Any, tuple[Any, ...]]:
    program = attention_program.program(programs, estimator, programs.config.attention_chunk)
    return program, attention_program.arguments(programs)


def _bytes(tree: Any) -> int:
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
