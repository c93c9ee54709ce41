"""Runs that differ in arguments of the step alone share one program, and end as they would by themselves."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from delta_jax.training import compiled_step, step_program, trainer
from tests.small_run import make_photos, small_config

# Beside seed 1 in the others: one program for all; another one of its own for the last.
ALIKE = [
    {"seed": 0},
    {"seed": 1, "steps": 5, "learning_rate": 0.02, "schedule": "cosine", "warmup_steps": 1},
    {"seed": 1, "alpha": 0.1, "beta": 0.1, "head_l2": (0.1,)},
]
OTHER = {"seed": 1, "clip_norm": 0.01}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    # Four folds of as many images each: a validation fold changes no shape.
    return make_photos(tmp_path_factory.mktemp("shared") / "photos", per_class=16)


@pytest.fixture
def traced(monkeypatch):
    """How often the step was traced so far: a list that grows."""
    calls = []
    original = step_program._step

    def step(*arguments):
        calls.append(1)
        return original(*arguments)

    monkeypatch.setattr(step_program, "_step", step)
    return calls


def fit(photos, workdir, changed):
    config = small_config(photos, method="l2_sp", **{"steps": 4, "eval_every": 0, **changed})
    trainer.fit(config, workdir, test=False)
    return load_file(workdir / "model.safetensors")


def test_one_program_serves_all_runs_that_differ_in_its_arguments(photos, traced, tmp_path):
    with compiled_step.shared():
        together = [fit(photos, tmp_path / f"shared-{number}", one) for number, one in enumerate(ALIKE)]
        assert len(traced) == 1
        fit(photos, tmp_path / "other", OTHER)
        assert len(traced) == 2
    alone = [fit(photos, tmp_path / f"alone-{number}", one) for number, one in enumerate(ALIKE[1:])]
    assert len(traced) == 4
    for found, expected in zip(together[1:], alone, strict=True):
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
