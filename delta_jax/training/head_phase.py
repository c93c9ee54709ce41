"""The head of L2-FE: trained on the frozen source's features, or taken from a run before that trained the same."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from delta_jax.training import distributed, evaluation, logs, provenance, report
from delta_jax.training.head import fit_head, get_head, logits, put_head
from delta_jax.training.image_sets import ImageSet
from delta_jax.training.setup import Setup
from delta_jax.training.state import Variables
from delta_jax.training.variable_files import kept_variables, save_variables

# To be raised when `train` finds another head than before, so that old ones are not taken for new ones.
VERSION = 1
HEAD, FACTS = "head.safetensors", "head.json"

Head = dict[str, jax.Array]  # {"kernel": [D, K], "bias": [K]}


def l2_fe(setup: Setup, workdir: Path) -> Variables:
    """The source network with the head of L2-FE, which is head.safetensors of the workdir from then on."""
    path, like = workdir / HEAD, get_head(setup.source["params"], setup.spec.head)
    head = kept_variables(path, like)
    if head is None:
        head, facts = train(setup)
        # The file that says that the phase is done comes last.
        report.write_json(workdir / FACTS, facts)
        save_variables(path, head)
    return {**setup.source, "params": put_head(setup.source["params"], setup.spec.head, head)}


def train(setup: Setup) -> tuple[Head, dict[str, Any]]:
    """The head with the least validation loss, and {"l2", "validation": its measures, "seconds"}.

    It lies in a folder of the cache that is named after all it depends on; runs with other seeds, methods or taps share
    it.
    """
    like = get_head(setup.source["params"], setup.spec.head)
    depends = {
        "version": VERSION,
        "arch": provenance.of_network(setup),
        "variables": provenance.of_variables(setup.source),
        "classes": setup.num_classes,
        "train": provenance.of_examples(setup.train),
        "validation": provenance.of_examples(setup.validation),
        "strengths": list(_strengths(setup)),
        "imbalance": setup.config.imbalance,
        **provenance.of_pixels(setup),
    }
    if not setup.config.data.mirror:
        depends["mirror"] = False
    folder = setup.cache_dir / "heads" / provenance.key(depends)
    kept = kept_variables(folder / HEAD, like)
    if kept is not None:
        facts = report.read_json(folder / FACTS)
        logs.say(f"head (L2-FE): penalty {facts['l2']:g}{_top1(facts['validation'])}, trained before, {folder}")
        return kept, facts
    began = time.monotonic()
    views, validation = _features(setup)
    labels = distributed.replicate(np.tile(setup.train.labels, len(views)), setup.mesh)
    views = distributed.replicate(views.reshape(-1, views.shape[-1]), setup.mesh)
    held_out = (validation[0], setup.validation.labels) if len(setup.validation) else None
    head, l2, measures = choose(views, labels, held_out, _strengths(setup), like, setup.label_weights)
    head = distributed.as_on_first(head, setup.mesh)
    facts = {"l2": l2, "validation": measures, "seconds": time.monotonic() - began}
    report.write_json(folder / "depends_on.json", depends)
    report.write_json(folder / FACTS, facts)
    save_variables(folder / HEAD, head)
    logs.say(f"head (L2-FE): penalty {l2:g}{_top1(measures)}, {facts['seconds']:.1f} s")
    return head, facts


def choose(
    views: jax.Array,
    labels: jax.Array,
    held_out: tuple[np.ndarray, np.ndarray] | None,
    strengths: Sequence[float],
    start: Head,
    label_weights: np.ndarray | None = None,
) -> tuple[Head, float, dict[str, float]]:
    """Fits a head for every strength of the penalty and takes the one with the least loss on what was held out.

    Args:
      views: [N, D], what the head gets to see.
      labels: int32 [N].
      held_out: features [M, D] and labels [M]; None if there are none, then there is one strength.
      strengths: weights of 1/2 ||head||^2, > 0.
      start: of the strongest penalty's fit; each other one starts from the one before.
      label_weights: [K], of the cross-entropies by true class, in the fit and in the choice.

    Returns:
      (head, its strength, its `evaluation.score` on what was held out).
    """
    tried = []
    for l2 in sorted(strengths, reverse=True):
        start = fit_head(views, labels, start, np.float32(l2), label_weights)
        measures, loss = {}, 0.0
        if held_out:
            found = logits({name: np.asarray(leaf) for name, leaf in start.items()}, held_out[0])
            measures = evaluation.score(np.asarray(jax.nn.softmax(found)), held_out[1])
            each = np.asarray(optax.losses.softmax_cross_entropy_with_integer_labels(found, held_out[1]))
            loss = float(np.average(each, weights=None if label_weights is None else label_weights[held_out[1]]))
        tried.append((loss, l2, start, measures))
    _, l2, head, measures = min(tried, key=lambda one: one[0])
    return head, l2, measures


def _strengths(setup: Setup) -> tuple[float, ...]:
    # Without validation images there is nothing to choose by: then it is beta, the weight Eq. 4 gives the head.
    given = tuple(setup.config.head_l2)
    return given if len(setup.validation) or len(given) == 1 else (setup.config.beta or 1e-2,)


def _features(setup: Setup) -> tuple[np.ndarray, np.ndarray]:
    """[V, M, D] of the training and of the validation images: as they are and, if that is on, mirrored."""
    compute = setup.head_features()

    def of(images: ImageSet) -> np.ndarray:
        parts = []
        for _, mask, batch in images.batches(setup.config.eval_batch_size):
            kept = int(mask.sum())
            parts.append(distributed.on_host(compute(setup.source, batch["image"]))[:, :kept])
            bar.advance(kept)
        return np.concatenate(parts, axis=1) if parts else np.zeros((2, 0, 0), np.float32)

    with logs.progress(len(setup.train) + len(setup.validation), "features for the head") as bar:
        return of(setup.train), of(setup.validation)


def _top1(measures: Mapping[str, float]) -> str:
    return f", validation top-1 {measures['top1']:.2%}" if measures else ""
