"""Recipes over learning rates: what splits variants, means and gains by hand, figures by the place of their colours."""

import numpy as np
import pytest
from PIL import Image

from delta_jax.analysis import recipes

VARIANTS = {
    f"{norm}-{rate}": {"learning_rate": rate, "batch_norm": norm, "data": {"crop": 72}}
    for norm in ("train", "frozen_stats")
    for rate in (0.1, 0.01)
}
# Top-1 of two seeds in each of three recipes, one seed of DELTA in one, and a run that diverged.
RUNS = [
    *(("photos", "net", "train-0.1", method, top1) for method, top1 in (("l2", 0.2), ("l2", 0.4), ("delta", 0.5))),
    *(("photos", "net", "train-0.01", method, top1) for method, top1 in (("l2", 0.6), ("l2", 0.6))),
    *(("photos", "net", "train-0.01", "delta", top1) for top1 in (0.59, 0.57)),
    ("photos", "net", "frozen_stats-0.01", "l2", 0.7),
    ("photos", "net", "frozen_stats-0.01", "delta", None),
    ("photos", "net", "another variant", "delta", 0.0),
]


def test_variants_are_split_into_a_rate_and_what_else_differs():
    assert recipes.split(VARIANTS) == {
        "train-0.1": ("batch_norm train", 0.1),
        "train-0.01": ("batch_norm train", 0.01),
        "frozen_stats-0.1": ("batch_norm frozen_stats", 0.1),
        "frozen_stats-0.01": ("batch_norm frozen_stats", 0.01),
    }


@pytest.mark.parametrize(
    "variants",
    [
        {},
        {"step": {"schedule": "step"}, "exponential": {"schedule": "exponential"}},
        {"a": {"learning_rate": 0.1}, "b": {"schedule": "step"}},
        # Each rate has a schedule of its own: no recipe has two rates.
        {"a": {"learning_rate": 0.1, "schedule": "step"}, "b": {"learning_rate": 0.2, "schedule": "cosine"}},
    ],
)
def test_other_variants_are_no_recipes(variants):
    assert recipes.split(variants) == {}
    assert recipes.grids(variants, [("photos", "net", name, "l2", 0.5) for name in variants]) == {}


def test_gains_are_differences_of_means_where_both_have_numbers():
    (grid,) = recipes.grids(VARIANTS, RUNS).values()
    assert grid.rates == (0.01, 0.1)
    assert grid.recipes == ("batch_norm train", "batch_norm frozen_stats")
    assert grid.top1["l2"]["batch_norm train", 0.1].mean == pytest.approx(0.3)
    gains = grid.gains("delta", "l2")
    # 0.5 - (0.2 + 0.4) / 2 of one seed, and (0.59 + 0.57) / 2 - 0.6 of two.
    assert gains == {
        ("batch_norm train", 0.1): (pytest.approx(0.2), 1),
        ("batch_norm train", 0.01): (pytest.approx(-0.02), 2),
    }


@pytest.mark.parametrize(("gains", "extent"), [([0.2, -0.7], 0.1), ([0.03, -0.04], 0.04), ([0.001], 0.01), ([], 0.01)])
def test_colours_are_strongest_at_the_largest_gain_between_one_and_ten_points(gains, extent):
    assert recipes.extent([{("recipe", i): (gain, 2) for i, gain in enumerate(gains)}]) == extent


def test_recipes_that_were_not_run_have_no_place():
    (grid,) = recipes.grids(VARIANTS, [run for run in RUNS if run[2].startswith("train")]).values()
    assert grid.recipes == ("batch_norm train",)


def test_gains_are_measured_on_the_method_named_or_l2_or_the_first():
    (grid,) = recipes.grids(VARIANTS, RUNS).values()
    assert grid.against() == "l2"
    assert grid.against("delta") == "delta"
    (alone,) = recipes.grids(VARIANTS, [run for run in RUNS if run[3] == "delta"]).values()
    assert alone.against("l2") == "delta"


def test_records_of_choice_runs_are_left_out():
    one = {"data": "photos", "network": "net", "variant": "train-0.1", "method": "l2", "test": {"top1": 0.5}}
    choice = {**one, "kind": "choice", "test": {}}
    (grid,) = recipes.of_records(VARIANTS, [{**one, "kind": "final"}, choice]).values()
    assert grid.top1["l2"]["batch_norm train", 0.1].n == 1


def coloured(path, channels):
    """Share of the pixels in which the first of these channels is stronger than the second by far."""
    pixels = np.asarray(Image.open(path).convert("RGB"), np.int32)
    first, second = (pixels[..., channel] for channel in channels)
    return (first - second > 40).mean()


def test_a_gain_is_blue_and_a_loss_red(tmp_path):
    shares = []
    for top1 in (0.9, 0.1):
        runs = [
            ("photos", "net", name, method, value)
            for name in VARIANTS
            for method, value in (("l2", 0.5), ("delta", top1))
        ]
        (grid,) = recipes.grids(VARIANTS, runs).values()
        recipes.plot_gains(grid, "l2", tmp_path / "gains.png")
        shares.append(coloured(tmp_path / "gains.png", (2, 0)) - coloured(tmp_path / "gains.png", (0, 2)))
    assert shares[0] > 0.2
    assert shares[1] < -0.2


def test_lines_of_a_method_are_in_its_colour(tmp_path):
    (grid,) = recipes.grids(VARIANTS, RUNS).values()
    recipes.plot_rates(grid, tmp_path / "both.png", level=0.65)
    (alone,) = recipes.grids(VARIANTS, [run for run in RUNS if run[3] == "l2"]).values()
    recipes.plot_rates(alone, tmp_path / "one.png")
    # The second method's orange: red above blue.
    assert coloured(tmp_path / "both.png", (0, 2)) > 0.001 > coloured(tmp_path / "one.png", (0, 2))
