"""Cells and effects of benchmarks/corner_map.py on eight cells of a few images, every number by hand."""

import json
import math

import numpy as np
import pytest

from delta_jax.configs.map.corners import get_config
from delta_jax.sweeps import grid
from tests import benchmark_scripts

corner_map = benchmark_scripts.load("corner_map")
IMAGES = {"caltech101": 4, "stanford_dogs": 8}


def right(setting, method):
    """Test images answered rightly: DELTA has one more with 5 photos of Caltech-101, two more in a harsh cell."""
    corner = corner_map.corner(setting)
    if method == "l2":
        return 1
    return 1 + (corner.data == "caltech101" and corner.photos == 5) + 2 * (corner.recipe == "harsh")


def write_run(folder, images, correct, classes):
    folder.mkdir(parents=True)
    lines = ["file,true,predicted,p(a),p(b)"]
    for number in range(images):
        lines.append(f"{number}.jpg,a,a,0.75,0.25" if number < correct else f"{number}.jpg,a,b,0.25,0.75")
    (folder / "predictions.csv").write_text("\n".join(lines) + "\n")
    summary = {"l2_fe": {"test": {"top1": 0.5}}, "classes": list("abc")[:classes]}
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def folder(tmp_path):
    records = []
    for cell in grid.cells(get_config()):
        data, images = next(one for one in IMAGES.items() if cell.data.startswith(one[0]))
        workdir = f"runs/{cell.data}/{cell.network}/{cell.method}"
        correct = right(f"{cell.data}/{cell.network}", cell.method)
        write_run(tmp_path / workdir, images, correct, 2 if data == "caltech101" else 3)
        names = {"data": cell.data, "network": cell.network, "variant": "", "method": cell.method, "workdir": workdir}
        test = {"top1": correct / images, "n": images}
        records.append({**names, "kind": "final", "seed": 0, "validation": {}, "test": test, "error": ""})
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    (tmp_path / "sweep.json").write_text(json.dumps({"variants": {}}))
    return tmp_path


def test_the_eight_cells_are_a_quarter_in_which_no_effect_is_another():
    corners = sorted({corner_map.corner(f"{cell.data}/{cell.network}") for cell in grid.cells(get_config())})
    assert len(corners) == 8
    signs = np.array(
        [[2 * levels.index(getattr(one, name)) - 1 for name, levels in corner_map.EFFECTS.items()] for one in corners]
    )
    # Balanced, and each factor across each other one: the columns of an orthogonal design.
    assert (signs.T @ signs == 8 * np.eye(5)).all()
    assert (signs.sum(0) == 0).all()
    # The recipe that a name stands for is the one that its config has.
    sets = get_config().data_sets
    for cell in grid.cells(get_config()):
        harsh = corner_map.corner(f"{cell.data}/{cell.network}").recipe == "harsh"
        assert sets[cell.data].batch_norm == ("train" if harsh else "frozen_stats")


def test_a_cell_has_the_gain_and_its_interval_over_test_images(folder):
    table = corner_map.cell_table(corner_map.Sweep(folder)).splitlines()
    assert len(table) == 2 + 8
    (line,) = (one for one in table if "| caltech101 | 5 | mobilenet_v2 | 1500 |" in one)
    # One image of four and two: of the differences 0, 1, 0 and 0 the variance is 1/4, and over the images 1/16.
    half = 100 * 1.959964 * math.sqrt(1 / 16)
    gain = f"+25.0 [{25 - half:+.1f}, {25 + half:+.1f}]"
    assert line.startswith("| caltech101 | 5 | mobilenet_v2 | 1500 | gentle | 50.0 | 25.0 | 50.0 | 50.0 |")
    assert line.count(gain) == 2


def test_effects_are_means_of_four_cells_minus_the_four_others(folder):
    table = corner_map.effect_table(corner_map.Sweep(folder), "delta").splitlines()
    # Gains: Caltech-101 with 5 photos (gentle) 1/4, with 30 (harsh) 2/4, Dogs with 5 (harsh) 2/8, with 30 (gentle) 0.
    values = {line.split("|")[1].strip(): float(line.split("|")[2].replace("*", "").split()[0]) for line in table[2:]}
    assert values == {
        "mean of 8 cells": 25.0,
        "data: stanford_dogs instead of caltech101": -25.0,
        "photos: 30 instead of 5": 0.0,
        "network: efficientnet_lite0 instead of mobilenet_v2": 0.0,
        "steps: 1500 instead of 300": 0.0,
        "recipe: harsh instead of gentle": 25.0,
    }


def test_effects_wait_for_all_cells(folder):
    lines = (folder / "results.jsonl").read_text().splitlines()
    (folder / "results.jsonl").write_text("\n".join(lines[:-1]))
    sweep = corner_map.Sweep(folder)
    assert not corner_map.effect_table(sweep, "delta")
    assert corner_map.effect_table(sweep, "delta_without_attention")
    assert "| - |" in corner_map.cell_table(sweep)
    gone = json.loads(lines[0])["workdir"].rpartition("/")[0]
    others = [line for line in lines if gone not in line]
    (folder / "results.jsonl").write_text("\n".join(others))
    assert not corner_map.effect_table(corner_map.Sweep(folder), "delta_without_attention")


def test_images_of_two_sets_are_drawn_apart():
    ones = corner_map.Predictions(np.array([1.0, 0.0, 1.0, 0.0]), np.zeros(4), np.zeros(4))
    cells = {("caltech101_5/a_300", "l2"): 1.0, ("stanford_dogs_5/a_300", "l2"): -1.0}
    found = corner_map.difference(cells, {cell: [ones] for cell in cells})
    # The same images would cancel; those of two sets have twice the variance, (1/3) / 4 each.
    assert found.value == 0
    assert found.high == pytest.approx(1.959964 * math.sqrt(2 * (1 / 3) / 4), rel=1e-6)


def test_what_is_kept_gives_the_same_tables(folder, tmp_path, capsys):
    kept = tmp_path / "kept"
    kept.mkdir()
    corner_map.main(["--sweep", str(folder), "--keep", str(kept)])
    of_workdir = capsys.readouterr().out
    assert of_workdir.startswith("seeds a cell: 1; intervals over test images")
    corner_map.main(["--sweep", str(kept / "map_corners.jsonl")])
    assert capsys.readouterr().out == of_workdir
