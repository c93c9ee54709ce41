"""One network from several seeds of a setting: the average of their weights, if validation images say that it pays.

From one head start and one source network they end in one basin, so that the average is a network, too, and a better
one than each of them (Izmailov et al., 2018; Wortsman et al., Model soups, 2022); at no cost when it is used.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from delta_jax.training import claims, evaluation
from delta_jax.training import config as configs
from delta_jax.training.classifier import MODEL
from delta_jax.training.setup import Setup
from delta_jax.training.state import Variables
from delta_jax.workdir.variable_files import load_variables


def average(networks: Sequence[Variables]) -> Variables:
    """The mean of every array, in float64, as the arrays were."""

    def mean(*leaves: Any) -> np.ndarray:
        return np.mean([np.asarray(leaf, np.float64) for leaf in leaves], axis=0).astype(np.asarray(leaves[0]).dtype)

    return jax.tree.map(mean, *networks)


def load(workdirs: Sequence[Path], setup: Setup) -> list[Variables]:
    """The networks that runs ended with."""
    return [load_variables(workdir / MODEL, setup.source) for workdir in workdirs]


def set_up(config: ConfigDict, workdir: Path) -> Setup:
    """The setup of a run that is done."""
    resolved = configs.resolve(config)
    return Setup(resolved, images=claims.images(workdir, resolved))


def compared(setup: Setup, workdirs: Sequence[Path]) -> dict[str, Any]:
    """Measures of the validation images: of each run, of their average, and of the mean of their probabilities.

    Returns:
      {"single": [measures], "average": measures, "ensemble": measures}, as `evaluation.score`, and "right":
      {"average", "ensemble"}: bool [M], which images.
    """
    images, networks = setup.validation, load(workdirs, setup)
    each = [setup.probabilities(setup.place(one), images, "validation, one seed") for one in networks]
    averaged = setup.probabilities(setup.place(average(networks)), images, "validation, the average")
    found = {"average": averaged, "ensemble": np.mean(each, axis=0)}
    return {
        "single": [evaluation.score(one, images.labels) for one in each],
        **{name: evaluation.score(one, images.labels) for name, one in found.items()},
        "right": {name: one.argmax(-1) == images.labels for name, one in found.items()},
    }
