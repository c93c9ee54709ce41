"""A sweep over the photos and the network of small_run."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from tests.small_run import small_config

METHODS = ("l2_fe", "l2_sp", "delta")


def small_sweep(photos: Path, **changed: Any) -> ConfigDict:
    """Two variants, three methods, two strengths on two folds, two seeds; `changed` replaces fields."""
    run = small_config(photos, steps=2, checkpoint_every=2, eval_every=0, log_every=1, data__validation_fraction=0.5)
    run.alpha = None
    fields = {
        "name": "small",
        "title": "A small sweep",
        "table": "",
        "small": False,
        "run": run,
        "data_sets": {"photos": {"data": {"mirror": False}}},
        "networks": {"tiny": {"taps": tuple(run.taps)}},
        "variants": {"slow": {"learning_rate": 0.001}, "fast": {"learning_rate": 0.01}},
        "methods": METHODS,
        "strengths": {
            "l2_fe": {"head_l2": ((1e-1,), (1e-2,))},
            "l2_sp": {"alpha": (0.01, 0.1)},
            "delta": {"alpha_relative": (0.1, 1.0)},
        },
        "folds": (0, 1),
        "seeds": (0, 1),
        "refit": True,
        "stand_in": {},
    }
    return ConfigDict(fields | changed)
