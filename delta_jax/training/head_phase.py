"""The head of L2-FE: trained on the frozen source's features, or taken from a run before that trained the same."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delta_jax import processes
from delta_jax.processes import sharding
from delta_jax.training import evaluation, head_features, head_fit, provenance
from delta_jax.training.head import get_head, logits, put_head
from delta_jax.training.head_features import Features
from delta_jax.training.setup import Setup
from delta_jax.training.state import Variables
from delta_jax.workdir import json_files, logs
from delta_jax.workdir.variable_files import kept_variables, save_variables

# To be raised when `train` finds another head than before, so that old ones are not taken for new ones.
VERSION = 3
# Penalties whose validation losses lie nearer to the least one than this share of it, or this many times as far as any
# moved on its last way to the optimum, go that way too before one is chosen.
_UNDECIDED, _TIMES_MOVED = 1e-3, 3
HEAD, FACTS = "head.safetensors", "head.json"

Head = dict[str, Any]  # {"kernel": float32 [D, K], "bias": [K]}


def l2_fe(setup: Setup, workdir: Path) -> Variables:
    """The source network with the head of L2-FE, which is head.safetensors of the workdir from then on."""
    path, like = workdir / HEAD, get_head(setup.source["params"], setup.spec.head)
    head = kept_variables(path, like)
    if head is None:
        head, facts = train(setup)
        # The file that says that the phase is done comes last.
        json_files.write(workdir / FACTS, facts)
        save_variables(path, head)
    elif "suboptimality" not in json_files.read(workdir / FACTS):
        logs.say(
            f"head (L2-FE): {path} is of an earlier version, which did not check that it is at its optimum; a new "
            "--workdir fits it anew"
        )
    return {**setup.source, "params": put_head(setup.source["params"], setup.spec.head, head)}


def train(setup: Setup, features: Features | None = None) -> tuple[Head, dict[str, Any]]:
    """The head with the least validation loss, and what `choose` says of it with the "seconds" that it took.

    The last "fit_seconds" of these are without the features, which are computed where they are not given. The head lies
    in a folder of the cache that is named after all it depends on; runs with other seeds, methods or taps share it.
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
        facts = json_files.read(folder / FACTS)
        logs.say(f"head (L2-FE): penalty {facts['l2']:g}{_top1(facts['validation'])}, trained before, {folder}")
        _say_what_is_missing(facts)
        return kept, facts
    began = time.monotonic()
    views, validation = features or head_features.compute(setup)
    fit_began = time.monotonic()
    head: Head = {name: np.zeros(leaf.shape, np.float32) for name, leaf in like.items()}
    facts = {}
    if processes.is_first():  # one fit takes all cores of a host; the others wait
        held_out = (validation[0], setup.validation.labels) if len(setup.validation) else None
        labels = np.tile(setup.train.labels, len(views))
        flat = views.reshape(-1, views.shape[-1])
        head, facts = choose(flat, labels, held_out, _strengths(setup), head, setup.label_weights)
        facts |= {"seconds": time.monotonic() - began, "fit_seconds": time.monotonic() - fit_began}
    facts = json.loads(processes.from_first(json.dumps(facts)))
    head = sharding.replicate(sharding.tree_from_first(head), setup.mesh)
    json_files.write(folder / "depends_on.json", depends)
    json_files.write(folder / FACTS, facts)
    save_variables(folder / HEAD, head)
    logs.say(f"head (L2-FE): penalty {facts['l2']:g}{_top1(facts['validation'])}, {facts['seconds']:.1f} s")
    _say_what_is_missing(facts)
    return head, facts


def choose(
    views: np.ndarray,
    labels: np.ndarray,
    held_out: tuple[np.ndarray, np.ndarray] | None,
    strengths: Sequence[float],
    start: Head,
    label_weights: np.ndarray | None = None,
) -> tuple[Head, dict[str, Any]]:
    """Fits a head for every strength of the penalty and takes the one with the least loss on what was held out.

    All are fitted to within `head_fit.AT_OPTIMUM`, the chosen one, and those that might have been, to within
    `head_fit.TOLERANCE`.

    Args:
      views: [N, D], what the head gets to see.
      labels: int [N].
      held_out: features [M, D] and labels [M]; None if there are none, then there is one strength.
      strengths: weights of 1/2 ||head||^2, > 0.
      start: of the strongest penalty's fit; each other one starts from those before.
      label_weights: [K], of the cross-entropies by true class, in the fit and in the choice.

    Returns:
      The head and, for JSON, "l2": its strength, "validation": its `evaluation.score` on what was held out, "loss",
      "gradient_norm" and "suboptimality" as `head_fit.Fit` has them, and "tried": the same of every strength, with the
      "validation_loss" that chose.
    """
    descending = sorted(set(strengths), reverse=True)
    # What is not chosen need only be as near to its optimum as the choice can tell.
    tolerance = head_fit.TOLERANCE if len(descending) == 1 else 0.8 * head_fit.AT_OPTIMUM
    tried: list[tuple[Head, dict[str, Any]]] = []
    for number, l2 in enumerate(descending):
        starts = [head for head, _ in tried[-1:]] or [start]
        if number > 1:
            # Where penalties are weak, heads grow by as much for every factor.
            (before, _), (last, _) = tried[-2:]
            further = np.log(descending[number - 1] / l2) / np.log(descending[number - 2] / descending[number - 1])
            starts.append({name: last[name] + further * (last[name] - before[name]) for name in last})
        tried.append(_fitted(views, labels, held_out, l2, starts, label_weights, tolerance))
    rough = set(range(len(tried))) if len(tried) > 1 else set()
    moved = 0.0
    while True:
        losses = [facts["validation_loss"] for _, facts in tried]
        best = min(range(len(tried)), key=losses.__getitem__)
        within = losses[best] + max(_UNDECIDED * losses[best], _TIMES_MOVED * moved)
        near = [number for number in sorted(rough, key=losses.__getitem__) if losses[number] <= within]
        if not near:
            break
        number = near[0]
        head, facts = tried[number]
        tried[number] = _fitted(views, labels, held_out, facts["l2"], [head], label_weights, head_fit.TOLERANCE)
        moved = max(moved, abs(tried[number][1]["validation_loss"] - losses[number]))
        rough.remove(number)
    chosen = {name: value for name, value in tried[best][1].items() if name != "validation_loss"}
    return tried[best][0], {
        **chosen,
        "tried": [{name: value for name, value in one.items() if name != "validation"} for _, one in tried],
    }


def _fitted(
    views: np.ndarray,
    labels: np.ndarray,
    held_out: tuple[np.ndarray, np.ndarray] | None,
    l2: float,
    starts: Sequence[Head],
    label_weights: np.ndarray | None,
    tolerance: float,
) -> tuple[Head, dict[str, Any]]:
    """The head of one strength, and what is said of it."""
    tell = _Patience(f"head, penalty {l2:g}")
    found = head_fit.fit(views, labels, starts[0], l2, label_weights, also=starts[1:], tolerance=tolerance, tell=tell)
    facts: dict[str, Any] = {"l2": float(l2), "validation": {}, "validation_loss": 0.0}
    if held_out:
        wide = {name: leaf.astype(np.float64) for name, leaf in found.head.items()}
        log_p = _log_softmax(logits(wide, held_out[0]))
        facts["validation"] = evaluation.score(np.exp(log_p), held_out[1])
        weights = None if label_weights is None else label_weights[held_out[1]]
        each = -log_p[np.arange(len(log_p)), held_out[1]]
        facts["validation_loss"] = float(np.average(each, weights=weights))
    facts |= {"loss": found.loss, "gradient_norm": found.gradient_norm, "suboptimality": found.suboptimality}
    return found.head, facts


def _log_softmax(found: np.ndarray) -> np.ndarray:
    shifted = found - found.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


class _Patience:
    """Says how far a fit is, if it takes long."""

    def __init__(self, what: str):
        self._what, self._said = what, time.monotonic()

    def __call__(self, how_far: str) -> None:
        if time.monotonic() - self._said > logs.SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            logs.say(f"{self._what}: {how_far}")


def _say_what_is_missing(facts: Mapping[str, Any]) -> None:
    far = [one for one in facts["tried"] if not one["suboptimality"] <= head_fit.AT_OPTIMUM]
    if far:
        listed = ", ".join(f"{one['l2']:g} (by up to {one['suboptimality']:.2g} of it)" for one in far)
        chosen = "; the chosen one is among them" if any(one["l2"] == facts["l2"] for one in far) else ""
        logs.say(
            f"head (L2-FE): not at the optimum, the loss is too large with penalty {listed}{chosen}; such a head "
            "depends on where the fit began: leave penalties that weak out of --config.head_l2"
        )


def _strengths(setup: Setup) -> tuple[float, ...]:
    # Without validation images there is nothing to choose by: then it is beta, the weight Eq. 4 gives the head.
    given = tuple(setup.config.head_l2)
    return given if len(setup.validation) or len(given) == 1 else (setup.config.beta or 1e-2,)


def _top1(measures: Mapping[str, float]) -> str:
    return f", validation top-1 {measures['top1']:.2%}" if measures else ""
