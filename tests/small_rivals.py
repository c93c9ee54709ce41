"""The methods that DELTA is compared with, in runs of a few steps over the photos and the network of small_run."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from delta_jax import methods
from tests.small_run import small_config

RIVALS = sorted(set(methods.names()) - {"l2", "l2_fe", "l2_sp", "delta", "delta_without_attention"})


def rival_config(photos: Path, method: str, **changed: Any) -> ConfigDict:
    """Four steps of a method, at the strength that was published unless another one is given."""
    fields = {"method": method, "head_l2": (0.01,), "alpha": None, "steps": 4, "eval_every": 0, "checkpoint_every": 2}
    return small_config(photos, **(fields | changed))
