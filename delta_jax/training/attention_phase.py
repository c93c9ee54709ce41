"""The attention of a run: measured, or taken from a run before that measured the same, or from a file."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from delta_jax import attention, processes
from delta_jax.processes import interruption, sharding
from delta_jax.training import attention_pass, channel_weights, provenance
from delta_jax.training.attention_pass import AttentionPass, Normalization
from delta_jax.training.programs import Programs
from delta_jax.training.setup import Setup
from delta_jax.training.state import Variables
from delta_jax.workdir import json_files, logs, storage
from delta_jax.workdir.gap_table import GapTable

# To be raised when `filter_gaps` gives other gaps than before, so that old tables are not taken for new ones.
VERSION = 3
FILE, FACTS = "attention.npz", "attention.json"
_CHECKED_FILTERS = 32  # per tap, and a batch of images: how far an estimate is from the exact gaps
_FILTERS_AFTER_OOM = 8  # fewer than any device takes by itself
_IMAGES = 8  # per pass, where the config names no number; on more devices one for each


class Attention(NamedTuple):
    """What `measure` found.

    Attributes:
      gaps: {tap: float32 [M, C]}, loss increase per image and filter.
      images: int [M], which training examples.
      weights: {tap: float32 [C]}, from the mean gaps.
    """

    gaps: Mapping[str, np.ndarray]
    images: np.ndarray
    weights: Mapping[str, np.ndarray]


def weights(setup: Setup, l2_fe: Variables, workdir: Path) -> dict[str, jax.Array]:
    """{tap: [C]} for the data set, or {tap: [N, C]} for each training image; in attention.npz of the workdir.

    Raises:
      FloatingPointError, OSError: as `measure`.
    """
    config, path = setup.config, workdir / FILE
    if not processes.from_first("there" if path.exists() else ""):
        if config.attention_file:
            gaps = channel_weights.read(config.attention_file, setup.channels)
            attention_pass.save(path, _normalization(config)(gaps), gaps)
        else:
            measure(setup, l2_fe, workdir)
    rows = () if config.attention_per == "data_set" else (len(setup.train),)
    like = {tap: np.zeros((*rows, filters), np.float32) for tap, filters in setup.channels.items()}
    first = processes.is_first()
    found = sharding.tree_from_first(attention_pass.load_weights(path, config.taps) if first else like)
    for tap, weight in found.items():
        relative = weight.shape[-1] * weight
        logs.say(f"attention at {tap}: {weight.shape[-1]} filters, C * W {relative.min():.3g} to {relative.max():.3g}")
    return sharding.replicate(found, setup.mesh)


def measure(setup: Setup, l2_fe: Variables, workdir: Path) -> Attention:
    """Measures the gaps of the training images and writes attention.json and attention.npz into the workdir.

    The gaps themselves lie in a folder of the cache that is named after all that they depend on: source weights and
    head, images, taps, estimator. Runs with other seeds, methods or normalisations share it, and a pass over more
    images goes on from one over fewer.

    Raises:
      FloatingPointError, OSError: as `attention_pass.measure`.
    """
    config, normalization = setup.config, _normalization(setup.config)
    found, facts = _gaps(setup, l2_fe, workdir)
    chosen = found.weights(normalization, config.attention_per, setup.train.labels, setup.num_classes)
    # The file that says that the phase is done comes last.
    json_files.write(workdir / FACTS, facts)
    attention_pass.save(workdir / FILE, chosen, found.mean(), found.standard_error(), found.images)
    return Attention(found.gaps, found.images, normalization(found.mean()))


def _gaps(setup: Setup, l2_fe: Variables, workdir: Path) -> tuple[AttentionPass, dict[str, Any]]:
    """The gaps of the training images, and facts about them: "images", "seconds", "table" and "error"."""
    config = setup.config
    began = time.monotonic()
    facts = _depends_on(setup, l2_fe)
    # The cache of a host that comes and goes is lost with it: there the table lies where the results lie.
    tables = workdir / "gaps" if storage.is_mirrored(workdir) else setup.cache_dir / "attention"
    table = GapTable(tables / facts["key"], sum(setup.channels.values()))
    # Always in the same random order: any number of images is a random sample, and a beginning of a larger one.
    images = np.random.default_rng(0).permutation(len(setup.train))
    if config.attention_images:
        images = images[: config.attention_images]
    gaps_of = _Gaps(setup, l2_fe)

    def run() -> AttentionPass:
        description = f"attention, {sum(setup.channels.values()):,} filters"
        with interruption.held(), logs.progress(len(images), description, initial=0) as bar:
            return attention_pass.measure(
                table,
                setup.channels,
                images,
                images_per_pass(config, setup.mesh),
                gaps_of.estimate,
                bar.advance,
                tolerance=config.attention_tolerance,
                normalization=_normalization(config),
            )

    if processes.is_first():
        with table.alone(lambda: logs.say(f"waiting for another process that measures this attention: {table.folder}")):
            before = len(table)
            table.describe(facts)
            found = run()
    else:
        before, found = 0, run()
    done = len(found.images)
    if before >= done:
        logs.say(f"attention of {done} images: measured before, {table.folder}")
    elif config.attention_tolerance:
        logs.say(
            f"attention: {done} of {len(images)} images, the standard error of C * W is {_error_of(found, config)}"
        )
    told: dict[str, Any] = {"images": done, "table": str(table.folder)}
    if config.attention_estimator != "exact":
        told["error"] = _check(gaps_of, found, setup)
    return found, told | {"seconds": time.monotonic() - began}


def images_per_pass(config: Any, mesh: sharding.Mesh) -> int:
    """Over all devices: that of the config, or else 8, rounded up to a multiple of the devices."""
    return config.attention_batch or -(-_IMAGES // mesh.size) * mesh.size


def _normalization(config: Any) -> Normalization:
    return Normalization(config.attention_normalization, config.attention_temperature, config.attention_over)


def program(programs: Programs, estimator: str, chunk: int | None) -> Any:
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
            estimator=estimator,
            filters=filters,
            exact_filters=config.attention_exact_filters,
            chunk=chunk,
        )

    return sharding.per_device(gaps, programs.mesh)


def arguments(programs: Programs) -> tuple[Any, ...]:
    """Shapes of what `program` takes for a batch and all filters, and how they lie on the devices."""
    batch, crop = images_per_pass(programs.config, programs.mesh), programs.config.data.crop
    parts = (jax.ShapeDtypeStruct((batch, crop, crop, 3), jnp.float32), jax.ShapeDtypeStruct((batch,), jnp.int32))
    return (programs.source, None), *sharding.planned(parts, programs.mesh, split=True)


class _Gaps:
    """Examples -> gaps, with the images split over the devices; with fewer filters at once when memory runs out."""

    def __init__(self, setup: Setup, l2_fe: Variables):
        self._setup, self._l2_fe = setup, l2_fe
        self._centre, self._chunk = jax.jit(setup.centre), setup.config.attention_chunk
        self._programs: dict[Any, Any] = {}

    def estimate(self, picked: np.ndarray) -> Mapping[str, np.ndarray]:
        """By the estimator of the config: {tap: [B, C]}."""
        return self._run(picked, self._setup.config.attention_estimator)

    def exact(self, picked: np.ndarray, filters: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """The exact gaps of some filters {tap: [n]}: {tap: [B, n]}."""
        return self._run(picked, "exact", filters)

    def _run(self, picked: np.ndarray, estimator: str, filters: Mapping[str, np.ndarray] | None = None) -> Any:
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

    def _compiled(self, estimator: str) -> Any:
        key = (estimator, self._chunk)
        if key not in self._programs:
            self._programs[key] = program(self._setup, estimator, self._chunk)
        return self._programs[key]


def _depends_on(setup: Setup, l2_fe: Variables) -> dict[str, Any]:
    """What the gaps depend on, and "key": a hash of it."""
    config = setup.config
    facts = {
        "version": VERSION,
        "arch": provenance.of_network(setup),
        "variables": provenance.of_variables(l2_fe),
        "examples": provenance.of_examples(setup.train),
        "taps": list(config.taps),
        "estimator": config.attention_estimator,
        "exact_filters": config.attention_exact_filters if config.attention_estimator == "mixed" else None,
        **provenance.of_pixels(setup),
    }
    return {"key": provenance.key(facts), **facts}


def _error_of(found: AttentionPass, config: Any) -> str:
    error = attention_pass.WeightError({t: g.shape[1] for t, g in found.gaps.items()}, _normalization(config))
    error.add(np.concatenate(list(found.gaps.values()), axis=1))
    return f"{error.relative():.3g} at the worst tap"


def _check(gaps_of: _Gaps, found: AttentionPass, setup: Setup) -> dict[str, dict[str, float]]:
    """{tap: {"rms", "spearman"}} of the estimate against exact gaps of random filters, for the first batch of images.

    "rms" is in units of the exact gaps' standard deviation, "spearman" the rank correlation over filters and images.
    """
    from scipy import stats  # half a second to import, wanted for estimates only

    rng, size = np.random.default_rng(0), images_per_pass(setup.config, setup.mesh)
    rows = np.arange(size) % len(found.images)
    filters = {tap: rng.permutation(n)[:_CHECKED_FILTERS] for tap, n in setup.channels.items()}
    exact = gaps_of.exact(found.images[rows], filters)
    told = {}
    for tap, numbers in filters.items():
        kept = min(size, len(found.images))
        truth, estimate = exact[tap][:kept], found.gaps[tap][rows[:kept]][:, numbers]
        rms = float(np.sqrt(np.mean(np.square(estimate - truth))) / (truth.std() or 1.0))
        order = float(stats.spearmanr(truth.ravel(), estimate.ravel()).statistic) if np.ptp(truth) else 1.0
        told[tap] = {"rms": rms, "spearman": order}
        logs.say(
            f"attention at {tap}: rank correlation of the estimate with exact gaps {order:.2f}, error {rms:.2f} sd"
        )
    return told
