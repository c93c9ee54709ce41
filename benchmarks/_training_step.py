"""The training step that the benchmarks run or only compile: as `delta_jax.train` makes it, without augmentation."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from delta_jax import features, methods, models
from delta_jax.chips import flops
from delta_jax.training import optim, state, steps


class Step(NamedTuple):
    """A step and what it is called with.

    Attributes:
      function: (*arguments) -> (state, metrics); to be jitted with its first argument donated.
      arguments: (variables of the source, images, labels) -> (state, source, batch, attention, key).
    """

    function: Callable[..., Any]
    arguments: Callable[..., tuple[Any, ...]]


def build(spec: models.ModelSpec, model: Any, source: Any, images: Any, *, method: str, platform: str = "") -> Step:
    """The step of a method as for a platform; `source` and `images` may be shapes, nothing is computed."""
    shapes = features.list_taps(model, source, images)
    chosen = methods.create(method, scale="reference", rectify=False)
    tx = optim.make_optimizer(
        source["params"], lambda step: 1e-4, head=spec.head, weight_decay=1e-4 if chosen.decays_weights else 0.0
    )
    keep = models.keep_products_and_sums if platform in ("gpu", "cuda") else None
    loss = steps.make_loss(model, model, chosen, taps=spec.taps, head=spec.head, alpha=0.01, beta=0.01, keep=keep)

    def arguments(source: Any, images: jax.Array, labels: jax.Array) -> tuple[Any, ...]:
        attention = {tap: jnp.full((shapes[tap][-1],), 1.0 / shapes[tap][-1]) for tap in spec.taps}
        batch = {"image": images, "label": labels, "index": jnp.arange(len(labels))}
        return state.init_state(source, tx), source, batch, attention, jax.random.key(2)

    return Step(steps.make_train_step(loss, tx, lambda key, images: images), arguments)


class Running:
    """One method's step, compiled, with its state.

    Attributes:
      method: its name.
      compile_seconds: tracing and lowering included; next to nothing where a cache of compiled programs has it.
      seconds: of each timed step.
    """

    def __init__(self, method: str, spec: models.ModelSpec, model: Any, source: Any, images: Any, labels: Any):
        self.method, self.seconds = method, []
        step = build(spec, model, source, images, method=method, platform=jax.default_backend())
        self._state, *self._rest = step.arguments(source, images, labels)
        began = time.perf_counter()
        self._compiled = jax.jit(step.function, donate_argnums=0).lower(self._state, *self._rest).compile()
        self.compile_seconds = time.perf_counter() - began

    @property
    def program(self) -> str:
        """The text of the compiled program."""
        return self._compiled.as_text() or ""

    def run(self) -> float:
        """Seconds of one step."""
        began = time.perf_counter()
        self._state, metrics = self._compiled(self._state, *self._rest)
        jax.block_until_ready(metrics)
        return time.perf_counter() - began

    def memory(self) -> dict[str, int]:
        """Bytes by what the compiler set aside: arguments and results (where they do not share), and the rest."""
        found = self._compiled.memory_analysis()
        if found is None:
            return {}
        held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
        return {"held": held, "temporary": found.temp_size_in_bytes, "in all": held + found.temp_size_in_bytes}

    def executed_flops(self) -> float | None:
        """As the compiler counts them, elementwise operations included; None where it does not."""
        costs = self._compiled.cost_analysis()
        return (costs or {}).get("flops")


def counted_flops(model: Any, source: Any, images: Any, method: methods.Method) -> int:
    """Of a step, as published figures count: three forward passes, and one of the source where it runs along."""
    forward = flops.count(model.apply, source, images)
    return forward * (3 + method.uses_source_maps)
