"""The attention as a program: gaps of a batch of images, dealt to the devices; fewer filters when memory runs out."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from delta_jax import attention, processes
from delta_jax.processes import sharding
from delta_jax.training.programs import Programs
from delta_jax.training.setup import Setup
from delta_jax.training.state import Variables
from delta_jax.workdir import logs

_FILTERS_AFTER_OOM = 8  # fewer than any device takes by itself
_IMAGES = 8  # per pass, where the config names no number; on more devices one for each


def images_per_pass(config: Any, mesh: sharding.Mesh) -> int:
    """Over all devices: that of the config, or else 8, rounded up to a multiple of the devices."""
    return config.attention_batch or -(-_IMAGES // mesh.size) * mesh.size


class Estimator(NamedTuple):
    """Of the gaps: arguments of `attention.filter_gaps`."""

    name: str
    exact_filters: int | None = None  # of mixed


EXACT = Estimator("exact")
# Linear logits, but for the taps whose exact gaps cost next to nothing.
CHEAP = Estimator("mixed", 0)


def estimators(config: Any) -> tuple[Estimator, ...]:
    """Those that a run measures gaps with: two for two_phase, the one with more images first."""
    name = config.attention_estimator
    if name == "two_phase":
        return CHEAP, EXACT
    return (Estimator(name, config.attention_exact_filters if name == "mixed" else None),)


def program(programs: Programs, estimator: Estimator, chunk: int | None) -> Any:
    """((variables with the L2-FE head, filters), normalised images [B, ...], labels [B]) -> gaps {tap: [B, C]}.

    Args:
      programs: of the run.
      estimator: see `attention.filter_gaps`, as the filters {tap: [n]}, None for all.
      chunk: filters that run together; None for as many as pay and fit.
    """
    config, model = programs.config, programs.network()

    def gaps(whole: Any, images: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        variables, filters = whole
        return attention.filter_gaps(
            model,
            variables,
            images,
            labels,
            taps=config.taps,
            estimator=estimator.name,
            filters=filters,
            exact_filters=estimator.exact_filters or 0,
            chunk=chunk,
        )

    return sharding.per_device(gaps, programs.mesh)


def arguments(programs: Programs) -> tuple[Any, ...]:
    """Shapes of what `program` takes for a batch and all filters, and how they lie on the devices."""
    batch, crop = images_per_pass(programs.config, programs.mesh), programs.config.data.crop
    parts = (jax.ShapeDtypeStruct((batch, crop, crop, 3), jnp.float32), jax.ShapeDtypeStruct((batch,), jnp.int32))
    return (programs.source, None), *sharding.planned(parts, programs.mesh, split=True)


class Gaps:
    """Examples -> gaps, with the images split over the devices; with fewer filters at once when memory runs out."""

    def __init__(self, setup: Setup, l2_fe: Variables):
        self._setup, self._l2_fe = setup, l2_fe
        self._centre, self._chunk = jax.jit(setup.centre), setup.config.attention_chunk
        self._programs: dict[Any, Any] = {}

    def __call__(
        self, estimator: Estimator, picked: np.ndarray, filters: Mapping[str, np.ndarray] | None = None
    ) -> Mapping[str, np.ndarray]:
        """{tap: [B, C]}, or the exact gaps of some filters {tap: [n]}: {tap: [B, n]}."""
        batch = self._setup.train.batch(picked)
        images = self._centre(batch["image"])
        while True:
            try:
                found = self._compiled(estimator)((self._l2_fe, filters), images, batch["label"])
                return sharding.on_host(jax.block_until_ready(found))
            except jax.errors.JaxRuntimeError as error:
                # One of several processes cannot go on with a program that the others do not run.
                if "RESOURCE_EXHAUSTED" not in str(error) or self._chunk == 1 or processes.count() > 1:
                    raise
                self._chunk = max(1, (self._chunk or 2 * _FILTERS_AFTER_OOM) // 2)
                logs.say(f"attention: out of memory; going on with {self._chunk} filters at once")

    def _compiled(self, estimator: Estimator) -> Any:
        key = (estimator, self._chunk)
        if key not in self._programs:
            self._programs[key] = program(self._setup, estimator, self._chunk)
        return self._programs[key]
