"""The scores of one network's features and its L2-FE head: on disk before the next network's turn."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from delta_jax import processes
from delta_jax.processes import interruption
from delta_jax.ranking import scores
from delta_jax.ranking.candidates import Candidate
from delta_jax.training import head_features, head_phase, provenance
from delta_jax.training.config import ConfigError
from delta_jax.training.head import logits
from delta_jax.training.setup import Setup
from delta_jax.workdir import json_files, logs

# To be raised when `measured` finds other numbers than before.
VERSION = 1
FOLDER = "weights"


def measured(candidate: Candidate, setup: Setup, workdir: Path) -> dict[str, Any]:
    """What is said of weights in ranking.json; a file of the workdir that is not measured again.

    Args:
      candidate: the weights.
      setup: their network and images.
      workdir: of the ranking.

    Returns:
      For JSON: "weights", "arch", "features" (D), "train" and "validation" (images), "logme" (null: no bound),
      "h_score", "shrunk_h_score", "shrinkage", "l2_fe" (`evaluation.score` on the validation images, and "l2", the
      strength), "wrong" (which of these the head has wrong, ascending) and "seconds", by what they were spent on.

    Raises:
      ConfigError: the images are of one class, or features are not finite.
    """
    features_name = head_features.identity(setup)
    depends = {
        "version": [VERSION, head_phase.VERSION],
        "features": features_name,
        "strengths": list(setup.config.head_l2),
        "beta": setup.config.beta,
        "imbalance": setup.config.imbalance,
    }
    name = re.sub(r"[^\w.-]+", "-", candidate.name)[-60:].lstrip("-.")
    path = workdir / FOLDER / f"{name}-{provenance.key(depends)}.json"
    if found := json_files.read(path):
        logs.say(f"{candidate.name}: measured before, {path}")
        return found | {"weights": candidate.name}
    logs.say(f"{candidate.name}:")
    features, seconds = head_features.kept(setup, features_name)
    interruption.check("after the features")
    found = {
        "weights": candidate.name,
        "arch": candidate.arch,
        "crop": setup.preprocessing.crop,
        "features": features.train.shape[-1],
        "train": len(setup.train),
        "validation": len(setup.validation),
        **json.loads(processes.from_first(_scored(features.train[0], setup) if processes.is_first() else "")),
    }
    interruption.check("after the scores")
    head, facts = head_phase.train(setup, features)
    found["l2_fe"] = facts["validation"] | {"l2": facts["l2"]}
    found["wrong"] = []
    if processes.is_first():
        host = {part: np.asarray(leaf, np.float64) for part, leaf in head.items()}
        taken = logits(host, features.validation[0].astype(np.float64)).argmax(1)
        found["wrong"] = np.flatnonzero(taken != setup.validation.labels).tolist()
    found["seconds"] |= {"features": seconds, "l2_fe": facts.get("fit_seconds", facts["seconds"])}
    json_files.write(path, found)
    return json_files.read(path)


def _scored(features: np.ndarray, setup: Setup) -> str:
    labels = setup.train.labels
    try:
        logme, of_logme = _timed(lambda: scores.logme(features, labels))
        h, of_h = _timed(lambda: scores.h_scores(features, labels))
    except ValueError as error:
        raise ConfigError(f"{setup.config.weights}: {error}") from error
    return json.dumps(
        {
            "logme": logme if np.isfinite(logme) else None,
            "h_score": h.plain,
            "shrunk_h_score": h.shrunk,
            "shrinkage": h.shrinkage,
            "seconds": {"logme": of_logme, "h_scores": of_h},
        }
    )


def _timed(compute: Callable[[], Any]) -> tuple[Any, float]:
    began = time.monotonic()
    found = compute()
    return found, time.monotonic() - began
