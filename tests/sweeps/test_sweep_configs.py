"""The paper's sweeps: how many runs they are, what they are told, and a small one from its start to its tables."""

import functools
import importlib
import json
from collections import Counter
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from delta_jax.analysis import published
from delta_jax.sweeps import grid, records, runner, tables
from delta_jax.sweeps.runner import Sweep
from delta_jax.training.config import ConfigError
from tests.small_run import make_photos, settings


def load(name, small=False):
    config = importlib.import_module(f"configs.paper.{name}").get_config()
    config.small = small
    return config


@functools.cache
def resolved(name, small=False):
    return grid.resolve(load(name, small))


def cell_of(sweep, *names):
    (found,) = (cell for cell in grid.cells(sweep) if (*cell.setting, cell.method) == names)
    return found


def final(sweep, *names, seed=0):
    """The config of a final run: data, network, variant, method."""
    return grid.config_of(sweep, grid.final_runs(sweep, cell_of(sweep, *names), {})[seed])


def planned(name, small=False):
    sweep = resolved(name, small)
    cells = grid.cells(sweep)
    runs = [run for cell in cells for run in (*grid.choice_runs(sweep, cell), *grid.final_runs(sweep, cell, {}))]
    assert len({run.path for run in runs}) == len(runs)
    return Counter(run.kind for run in runs)


@pytest.mark.parametrize(
    ("name", "choices", "finals"),
    [
        # Settings x methods x five values x five folds; settings x methods x seeds. Table 1 has five data sets with
        # ResNet-101, two with Inception-V3 and one with ResNet-50.
        ("table1", (5 + 2 + 1) * 5 * 5 * 5, (5 + 2 + 1) * 5 * 5),
        ("table2", (5 + 2 + 1) * 4 * 5 * 5, (5 + 2 + 1) * 4 * 5),
        ("figure2", 0, 2 * 2 * 3),  # schedules x methods x seeds; nothing is searched
        ("figure3", 3 * 5 * 5, 3),
        ("figure4", 5 * 5 * 5, 5),
        ("table3", 5 * 5 * 5, 5),
    ],
)
def test_a_sweep_of_the_paper_has_as_many_runs_as_its_protocol_says(name, choices, finals):
    assert planned(name) == Counter(choice=choices, final=finals)


@pytest.mark.parametrize(
    ("name", "choices", "finals"),
    [  # one setting: methods x two values x one fold; methods x seeds
        ("table1", 5 * 2, 5 * 2),
        ("table2", 4 * 2, 4 * 2),
        ("figure2", 0, 2 * 2 * 2),
        ("figure3", 3 * 2, 3),
        ("figure4", 5 * 2, 5),
        ("table3", 5 * 2, 5),
    ],
)
def test_a_stand_in_has_few_runs(name, choices, finals):
    assert planned(name, small=True) == Counter(choice=choices, final=finals)


def test_every_config_of_the_paper_has_its_numbers_of_runs_here():
    folder = Path(__file__).parents[2] / "configs" / "paper"
    assert {path.stem for path in folder.glob("*.py")} == {
        "table1",
        "table2",
        "table3",
        "figure2",
        "figure3",
        "figure4",
    }


def test_table_1_trains_as_the_paper_says():
    sweep = resolved("table1")
    delta = final(sweep, "cub200", "resnet101", "", "delta", seed=4)
    # Section 4.2.
    assert (delta.batch_size, delta.steps, delta.learning_rate) == (64, 9000, 0.01)
    assert (delta.momentum, delta.beta, delta.decay_factor) == (0.9, 0.01, 0.1)
    assert round(delta.decay_at * delta.steps) == 6000
    assert (delta.data.aspect, delta.data.resize, delta.data.crop, delta.data.mirror) == ("squash", 256, 224, True)
    assert (delta.arch, delta.seed, delta.data.validation_fraction) == ("resnet101", 4, 0.0)
    inception = final(sweep, "caltech256_30", "inception_v3", "", "l2")
    # The paper crops to "229", a misprint of 299.
    assert (inception.learning_rate, inception.data.resize, inception.data.crop) == (0.001, 320, 299)
    indoor = final(sweep, "indoor67", "resnet50_places365", "", "l2")
    assert (indoor.weights, indoor.data.name) == ("places365/resnet50", "tfds/mit_indoor67")


def test_table_2_keeps_the_aspect_and_tests_ten_crops():
    run = final(resolved("table2"), "food101", "resnet101", "", "l2")
    assert (run.data.aspect, run.eval_crops, run.data.resize) == ("keep", 10, 256)


def test_figure_2_has_both_schedules_and_looks_at_validation_images():
    sweep = resolved("figure2")
    runs = [final(sweep, "stanford_dogs", "resnet101", variant, "delta") for variant in ("step", "exponential")]
    assert [run.schedule for run in runs] == ["step", "exponential"]
    assert {(run.eval_every, run.data.validation_fraction, run.epoch_decay_factor) for run in runs} == {
        (150, 0.2, 0.93)
    }


@pytest.mark.parametrize("name", ["table1", "table2"])
def test_every_row_of_the_papers_table_has_its_numbers_beside_it(name):
    sweep = resolved(name)
    rows = {(cell.data, cell.network) for cell in grid.cells(sweep) if cell.data != "indoor67"}
    assert all(published.accuracy(sweep.table, *row, "delta") for row in rows)
    theirs = {
        (data, network)
        for data in published.DATA_SETS
        for network in published.NETWORKS
        if published.accuracy(sweep.table, data, network, "delta")
    }
    assert theirs - rows == {("indoor67", "resnet101"), ("indoor67", "inception_v3")}


@pytest.mark.parametrize(
    "name", ["study", "study_presets", "study_shots", "study_vgg16", "recipe", "strength", "strength_search", "rivals"]
)
def test_what_all_are_compared_with_is_a_field_of_every_sweep(name):
    assert "against" in importlib.import_module(f"configs.{name}").get_config()


def test_what_all_are_compared_with_is_one_of_them():
    config = load("table1")
    config.against = "bss"
    with pytest.raises(ConfigError, match=r"against: expected one of l2_fe, l2, .*, got 'bss'"):
        grid.resolve(config)
    del config.against  # sweeps that were written before there was such a field
    assert grid.resolve(config).against == ""


def test_a_network_on_a_data_set_that_is_not_there_is_refused():
    config = load("table1")
    config.networks.inception_v3.data_sets = ("dogs",)
    with pytest.raises(ConfigError, match=r"networks.inception_v3.data_sets: expected some of .*, got \['dogs'\]"):
        grid.resolve(config)


def test_a_small_sweep_to_its_tables(tmp_path, monkeypatch):
    """Table 1's stand-in on another network and other photos: the head's penalty is chosen of two, delta's is given."""
    monkeypatch.setattr(runner.jax, "clear_caches", lambda: None)  # these few runs may share what is compiled
    photos = make_photos(tmp_path / "photos")
    config = load("table1", small=True)
    config.methods = ("l2_fe", "delta")
    given = settings(photos, steps=2, eval_every=0, checkpoint_every=2, head_init="l2_fe", attention_images=8)
    arch, _, _ = given.pop("arch"), given.pop("alpha"), given.pop("schedule")
    config.run.update_from_flattened_dict(given)
    config.stand_in.run = ConfigDict({})
    config.stand_in.data_sets = ConfigDict({"photos": {"data": {"name": "folder"}}})
    config.stand_in.networks = ConfigDict({"tiny": {"arch": arch}})
    config.stand_in.seeds = (0,)
    config.stand_in.strengths = ConfigDict(
        {"l2_fe": {"head_l2": ((1e-1,), (1e-3,))}, "delta": {"alpha_relative": (0.1,)}}
    )
    sweep = Sweep(config, tmp_path / "sweep")
    sweep.check()
    assert sweep.run() == []
    found = records.read(sweep.folder)
    assert Counter(one["kind"] for one in found) == Counter(choice=2, final=2)

    tables.write(sweep.folder, found, sweep.config.table)
    content = json.loads((sweep.folder / "comparisons.json").read_text())
    assert [(one["method"], one["n"], one["published"]) for one in content["cells"]] == [
        ("l2_fe", 1, None),
        ("delta", 1, None),
    ]
    (pair,) = content["comparisons"]
    assert (pair["seeds"]["n"], pair["images"]["n"]) == (1, 18)
    # The same difference twice: from summary.json, and from every image of predictions.csv.
    assert pair["seeds"]["difference"] == pytest.approx(pair["images"]["difference"], abs=1e-6)
    assert pair["reason"] == "common seeds: 1; a verdict needs 3"
    text = (sweep.folder / "tables.md").read_text()
    assert "| tiny | L2-FE | DELTA |" in text
    assert "| L2-FE | head\\_l2 |" in text
