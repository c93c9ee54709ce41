"""The attention of a run: measured, or taken from a run before that measured the same, or from a file."""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from delta_jax import processes
from delta_jax.processes import interruption, sharding
from delta_jax.training import (
    attention_images,
    attention_pass,
    attention_program,
    channel_weights,
    provenance,
    two_phase,
)
from delta_jax.training.attention_pass import AttentionPass, Normalization
from delta_jax.training.attention_program import CHEAP, EXACT, Estimator, Gaps
from delta_jax.training.setup import Setup
from delta_jax.training.state import Variables
from delta_jax.workdir import json_files, logs, storage
from delta_jax.workdir.gap_table import GapTable

# To be raised when `filter_gaps` gives other gaps than before, so that old tables are not taken for new ones.
VERSION = 4
FILE, FACTS = "attention.npz", "attention.json"
_MORE_SIGNAL_THAN_NOISE = 0.5  # of the whole; two halves then agree by a third
_CHECKED_FILTERS = 32  # per tap, and a batch of images: how far an estimate is from the exact gaps


class Attention(NamedTuple):
    """What `measure` found.

    Attributes:
      gaps: {tap: float32 [M, C]}, loss increase per image and filter.
      images: int [M], which training examples.
      weights: {tap: float32 [C]}, from the mean gaps; shrunk, where the config says so.
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
    shrink, labels = config.attention_shrink, setup.train.labels
    chosen = found.weights(normalization, config.attention_per, labels, setup.num_classes, shrink=shrink)
    signal = found.signal()
    if line := unsure(signal, len(found.images), config):
        logs.say(line)
    facts |= {"signal": signal, "shrunk": bool(shrink and config.attention_per == "data_set")}
    # The file that says that the phase is done comes last.
    json_files.write(workdir / FACTS, facts)
    attention_pass.save(workdir / FILE, chosen, found.mean(), found.standard_error(), found.images)
    of_data_set = found.weights(normalization, "data_set", labels, setup.num_classes, shrink=shrink)
    return Attention(found.gaps, found.images, of_data_set)


def unsure(signal: Mapping[str, float], images: int, config: Any) -> str:
    """One line on the taps whose mean gaps are more noise than signal, and what becomes of them; "" for none."""
    taps = [f"{tap} ({share:.2f})" for tap, share in signal.items() if share < _MORE_SIGNAL_THAN_NOISE]
    if not taps or config.attention_normalization == "uniform":
        return ""
    found = (
        f"attention: two halves of the {images:,} images do not agree which filters matter at {', '.join(taps)}: in "
        "brackets the share of the mean gaps' spread that is no noise"
    )
    if config.attention_per != "data_set":
        return f"{found}; weights per {config.attention_per} are taken as they are"
    if config.attention_shrink:
        return f"{found}, by which the weights of every tap are shrunk towards uniform"
    return f"{found}; the weights are taken as they are, --config.attention_shrink=True shrinks them towards uniform"


def _gaps(setup: Setup, l2_fe: Variables, workdir: Path) -> tuple[AttentionPass, dict[str, Any]]:
    """The gaps of the training images, and facts about them: "images", "seconds", "table" and "error"."""
    config, there, began = setup.config, len(setup.train), time.monotonic()
    chosen = attention_images.number(setup, there)
    if line := attention_images.described(chosen, there, config):
        logs.say(line)
    # Always in the same order: a number of images is a random sample, and a beginning of every larger one.
    order, gaps_of = attention_images.order(setup.train.labels), Gaps(setup, l2_fe)
    depends, passes = _depends_on(setup, l2_fe), []
    told: dict[str, Any] = {}
    for estimator, images in zip(attention_program.estimators(config), chosen.of_estimators, strict=True):
        if images:
            found, table = _pass(setup, gaps_of, estimator, order[:images], depends, workdir)
            passes.append(found)
            told["table"] = str(table)
    found = passes[0]
    if len(passes) > 1:
        told["exact_images"] = len(passes[1].images)
        found = AttentionPass(
            {tap: two_phase.combined(passes[1].gaps[tap], gaps) for tap, gaps in found.gaps.items()}, found.images
        )
    elif config.attention_estimator != "exact":
        told["error"] = _check(gaps_of, found, setup)
    return found, {"images": len(found.images), **told, "seconds": time.monotonic() - began}


def _pass(
    setup: Setup, gaps_of: Gaps, estimator: Estimator, images: np.ndarray, depends: Mapping[str, Any], workdir: Path
) -> tuple[AttentionPass, Path]:
    """The gaps of these images by one estimator, and the folder that keeps them."""
    config = setup.config
    # Of `mixed` alone the number counts.
    facts = {**depends, "estimator": estimator.name, "exact_filters": estimator.exact_filters}
    facts = {"key": provenance.key(facts), **facts}
    # The cache of a host that comes and goes is lost with it: there the table lies where the results lie.
    tables = workdir / "gaps" if storage.is_mirrored(workdir) else setup.cache_dir / "attention"
    table = GapTable(tables / facts["key"], sum(setup.channels.values()))

    def run() -> AttentionPass:
        what = "estimates" if estimator == CHEAP else "attention"
        description = f"{what}, {sum(setup.channels.values()):,} filters"
        with interruption.held(), logs.progress(len(images), description, initial=0) as bar:
            return attention_pass.measure(
                table,
                setup.channels,
                images,
                attention_program.images_per_pass(config, setup.mesh),
                partial(gaps_of, estimator),
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
    return found, table.folder


def _normalization(config: Any) -> Normalization:
    return Normalization(config.attention_normalization, config.attention_temperature, config.attention_over)


def _depends_on(setup: Setup, l2_fe: Variables) -> dict[str, Any]:
    """What the gaps depend on, beside the estimator."""
    return {
        "version": VERSION,
        "arch": provenance.of_network(setup),
        "variables": provenance.of_variables(l2_fe),
        "examples": provenance.of_examples(setup.train),
        "taps": list(setup.config.taps),
        **provenance.of_pixels(setup),
    }


def _error_of(found: AttentionPass, config: Any) -> str:
    error = attention_pass.WeightError({t: g.shape[1] for t, g in found.gaps.items()}, _normalization(config))
    error.add(np.concatenate(list(found.gaps.values()), axis=1))
    return f"{error.relative():.3g} at the worst tap"


def _check(gaps_of: Gaps, found: AttentionPass, setup: Setup) -> dict[str, dict[str, float]]:
    """{tap: {"rms", "spearman"}} of the estimate against exact gaps of random filters, for the first batch of images.

    "rms" is in units of the exact gaps' standard deviation, "spearman" the rank correlation over filters and images.
    """
    from scipy import stats  # half a second to import, wanted for estimates only

    rng, size = np.random.default_rng(0), attention_program.images_per_pass(setup.config, setup.mesh)
    rows = np.arange(size) % len(found.images)
    filters = {tap: rng.permutation(n)[:_CHECKED_FILTERS] for tap, n in setup.channels.items()}
    exact = gaps_of(EXACT, found.images[rows], filters)
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
