"""Whole runs, and a sweep, with the methods that DELTA is compared with; what cannot work with them."""

import math

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from delta_jax.sweeps import grid
from delta_jax.training import config as configs
from delta_jax.training import trainer
from delta_jax.training.setup import Setup
from delta_jax.workdir import logs
from tests.small_rivals import RIVALS, rival_config
from tests.small_run import interrupted, make_photos
from tests.small_sweep import small_sweep


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("rivals") / "photos", per_class=12)


@pytest.fixture(scope="module")
def source(photos):
    """{name in a file: array} of the source's variables, which are the same for every method."""
    return flatten_dict(Setup(configs.resolve(rival_config(photos, "mars_sp"))).source, sep="/")


@pytest.mark.parametrize("name", ["afd", "lwf", "bi_tuning"])
def test_a_run_with_a_state_of_its_own_goes_on_as_if_nothing_had_been(photos, source, tmp_path, capsys, name):
    config = rival_config(photos, name, alpha=0.01)
    trainer.fit(config, tmp_path / "whole", test=False)
    interrupted(config, tmp_path / "parts", after=3)
    trainer.fit(config, tmp_path / "parts", test=False)
    assert "going on after step 2 of 4" in capsys.readouterr().out
    whole, in_parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    like = {name for name in source if name.startswith("params/")}
    assert {array for array in whole if array.startswith("params")} == like  # the network alone, as others load it
    for array, values in whole.items():
        np.testing.assert_array_equal(values, in_parts[array], err_msg=array)


def test_the_trainer_keeps_mars_sp_within_its_radius(photos, source, tmp_path):
    trainer.fit(rival_config(photos, "mars_sp", radius=0.002, steps=2), tmp_path, test=False)
    found = load_file(tmp_path / "model.safetensors")
    kernels = [name for name in source if name.endswith("/kernel") and "classifier" not in name]
    assert len(kernels) == 5
    rows = [np.abs(found[name] - np.asarray(source[name])).sum((0, 1, 2)).max() for name in kernels]
    np.testing.assert_allclose(max(rows), 0.002, rtol=1e-2)  # the differences of float32 weights


def test_the_trainer_logs_the_spectrum_that_bss_shrinks(photos, tmp_path):
    summary = trainer.fit(rival_config(photos, "bss", singular_values=3, steps=2, log_every=1), tmp_path).summary
    assert summary["alpha"] == 0.001
    records = [record for record in logs.read(tmp_path) if record["phase"] == "fine_tune"]
    assert all(record["penalty"] > 0 for record in records)
    assert all(math.isfinite(record["loss"]) for record in records)


@pytest.mark.parametrize(
    ("method", "changed", "found"),
    [
        ("bss", {"singular_values": 9}, r"singular_values=9: features \[8, 40\] .* take at most 8"),
        ("bss", {"singular_values": 5, "accumulate": 4, "batch_size": 16}, r"features \[4, 40\] .* take at most 4"),
        ("bss", {"singular_values": 0}, "singular_values=0: expected 1 or more"),
        ("bi_tuning", {"accumulate": 2}, "accumulate=2: bi_tuning compares a batch with queues"),
        ("lwf", {"data.mix": (0.2, 0.0)}, "lwf goes by the label or the row of each image"),
        ("bss", {"strength_search": True}, "strength_search=True: expected False: bss has two strengths"),
        (
            "mars_sp",
            {"strength_search": True},
            "strength_search=True: expected False: mars_sp has",
        ),
        ("mars_sp", {"radius": 0.0}, "radius=0.0: expected more than 0"),
        ("mars_sp", {"head_radius": -1.0}, "head_radius=-1.0: expected more than 0"),
        ("attention_transfer", {"taps": ("block_1/conv",), "data__crop": 8, "data__resize": 8}, "are of one pixel"),
        ("delta_cosine", {"attention_per": "image", "attention_images": 5}, "attention_images=5: expected 0"),
    ],
)
def test_what_cannot_work_is_one_error_before_anything_slow(photos, method, changed, found):
    with pytest.raises(configs.ConfigError, match=found):
        Setup(configs.resolve(rival_config(photos, method, **changed)))


def test_a_sweep_takes_them_all_each_with_its_strength(photos):
    strengths = {
        "mars_sp": {"radius": (1.0, 5.0)},
        "bss": {"alpha": (1e-4, 1e-3)},
        "attention_transfer": {"alpha": (100.0, 1000.0)},
        "l2_sp_kernels": {"alpha": (0.01, 0.1)},
        "afd": {"alpha_relative": (0.1, 1.0)},
        "delta_cosine": {"alpha_relative": (0.1, 1.0)},
        **{name: {"alpha": (0.1, 1.0)} for name in ("l2_sp_fisher", "lwf", "co_tuning", "bi_tuning")},
    }
    assert set(strengths) == set(RIVALS)
    sweep = grid.resolve(small_sweep(photos, methods=tuple(strengths), strengths=strengths))
    assert {cell.field for cell in grid.cells(sweep)} == {"radius", "alpha", "alpha_relative"}


def test_strengths_are_the_published_ones_unless_given(photos):
    published = {
        "l2_sp_kernels": 0.1,
        "lwf": 1.0,
        "co_tuning": 2.3,
        "bss": 0.001,
        "attention_transfer": 1000.0,
        "afd": None,
        "delta_cosine": None,
    }
    assert {name: configs.resolve(rival_config(photos, name)).alpha for name in published} == published
