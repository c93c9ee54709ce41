"""One network from several seeds of a setting: the average of their weights, if validation images say that it pays.

From one head start and one source network they end in one basin, so that the average is a network, too, and a better
one than each of them (Izmailov et al., 2018; Wortsman et al., Model soups, 2022); at no cost when it is used.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from delta_jax.analysis.statistics import Paired
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
      {"single": [measures], "average": measures, "ensemble": measures}, as `evaluation.score`, and "right": which
      images, "average" and "ensemble" bool [M], "single" the mean over the runs, float [M].
    """
    images, networks = setup.validation, load(workdirs, setup)
    each = [setup.probabilities(setup.place(one), images, "validation, one seed") for one in networks]
    averaged = setup.probabilities(setup.place(average(networks)), images, "validation, the average")
    found = {"average": averaged, "ensemble": np.mean(each, axis=0)}
    return {
        "single": [evaluation.score(one, images.labels) for one in each],
        **{name: evaluation.score(one, images.labels) for name, one in found.items()},
        "right": {
            **{name: one.argmax(-1) == images.labels for name, one in found.items()},
            "single": np.mean([one.argmax(-1) == images.labels for one in each], axis=0),
        },
    }


def pays(measured: Mapping[str, Any], against_single: Paired) -> bool:
    """Whether the average takes the place of a single run.

    Averages of this kind are seldom worse than their parts, and a few hundred images show differences of a point to
    nobody: so it is enough that one of its two measures is no worse, unless the images show that the accuracy is.

    Args:
      measured: as `compared` returns it.
      against_single: accuracy of the average minus the mean of its parts', over the same images.
    """
    single, averaged = measured["single"], measured["average"]
    top1, loss = (float(np.mean([one[name] for one in single])) for name in ("top1", "cross_entropy"))
    return not against_single.high < 0 and (averaged["top1"] >= top1 or averaged["cross_entropy"] <= loss)
