"""The answers of benchmarks/recipe_map.py on a sweep of a few images, every number by hand."""

import json
import math

import numpy as np
import pytest

from tests import benchmark_scripts

VARIANTS = {"slow": {"learning_rate": 0.01}, "fast": {"learning_rate": 0.2}}
# {(variant, method): (validation top-1, [test images right, of four] of each seed)}
RIGHT = {
    ("slow", "l2"): (0.5, [[1, 1, 0, 0], [1, 1, 0, 0]]),
    ("slow", "delta"): (0.5, [[1, 1, 0, 0], [1, 1, 0, 0]]),
    ("fast", "l2"): (0.25, [[0, 0, 0, 0], [1, 0, 0, 0]]),
    ("fast", "delta"): (0.75, [[1, 1, 1, 0], [1, 1, 1, 1]]),
}


recipe_map = benchmark_scripts.load("recipe_map")


def write_run(folder, right, certain):
    """predictions.csv of images of class a; what is wrong is called b."""
    folder.mkdir(parents=True)
    lines = ["file,true,predicted,p(a),p(b)"]
    for number, one in enumerate(right):
        answered = certain if one else 1 - certain
        lines.append(f"{number}.jpg,a,{'a' if one else 'b'},{answered:.6f},{1 - answered:.6f}")
    (folder / "predictions.csv").write_text("\n".join(lines) + "\n")
    summary = {"l2_fe": {"test": {"top1": 0.5}}, "classes": ["a", "b"]}
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def folder(tmp_path):
    records: list[dict[str, object]] = []
    for (variant, method), (validation, seeds) in RIGHT.items():
        one = {"data": "photos", "network": "net", "variant": variant, "method": method, "error": ""}
        # The weaker of two strengths was not chosen.
        for top1 in (validation, validation - 0.1):
            measures = {"top1": top1, "cross_entropy": 1.0}
            records.append(
                {**one, "kind": "choice", "seed": 0, "validation": measures, "test": {}, "workdir": "choice"}
            )
        for seed, right in enumerate(seeds):
            workdir = f"runs/{variant}/{method}/{seed}"
            write_run(tmp_path / workdir, right, 0.75 if method == "delta" else 0.875)  # exact in float16, too
            test = {"top1": sum(right) / 4, "n": 4}
            records.append({**one, "kind": "final", "seed": seed, "validation": {}, "test": test, "workdir": workdir})
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    (tmp_path / "sweep.json").write_text(json.dumps({"variants": VARIANTS}))
    return tmp_path


def test_answers_are_differences_over_recipes_and_of_those_that_validation_images_choose(folder, capsys):
    found = {one.question: one for one in recipe_map.answers(recipe_map.Sweep(folder), None, None)}
    # (0 + (7 - 1) / 8) / 2; the second recipe's spread over seeds is 1/32 a method, with t of 2 degrees of freedom.
    assert found["1"].seeds.difference == pytest.approx(0.375)
    half = 4.302653 * math.sqrt(2 * 0.25 * (1 / 32) / 2)
    assert found["1"].seeds.high == pytest.approx(0.375 + half, rel=1e-6)
    # Image by image: half of 1 - 0.5, 1 - 0, 1 - 0 and 0.5 - 0.
    assert found["1"].images.difference == pytest.approx(np.mean([0.25, 0.5, 0.5, 0.25]))
    # Worst by validation: DELTA's slow, 1/2, and L2's fast, 1/8; best: DELTA's fast, 7/8, and L2's slow, 1/2.
    assert found["2"].seeds.difference == pytest.approx(3 / 8)
    assert found["3"].seeds.difference == pytest.approx(3 / 8)
    assert "slow minus fast" in found["2"].what
    # Only the slow recipe has the same accuracy: -log(3/4) against -log(7/8) of what is right, of 1/4 and 1/8 else.
    entropy = (math.log(0.875 / 0.75) + math.log(0.125 / 0.25)) / 2
    assert found["5"].seeds.difference == pytest.approx(entropy, abs=1e-6)
    # All answers have one probability, so the error is |accuracy - it|: |0.5 - 0.75| - |0.5 - 0.875|.
    assert "calibration error there: -12.50 points" in capsys.readouterr().out


def test_calibration_error_of_two_bins_by_hand():
    confidence, correct = np.array([0.95, 0.95, 0.55, 0.55]), np.array([1.0, 0.0, 1.0, 1.0])
    # Half of the images each: |0.5 - 0.95| and |1 - 0.55|.
    assert recipe_map.calibration_error(confidence, correct) == pytest.approx(0.45)


def test_the_script_prints_tables_and_draws(folder, monkeypatch, capsys):
    out = folder / "answers.json"
    monkeypatch.setattr("sys.argv", ["recipe_map.py", f"--sweep={folder}", f"--figures={folder}", f"--json={out}"])
    recipe_map.main()
    text = capsys.readouterr().out
    assert "the head alone: 50.00%" in text
    assert "| slow | 50.0 | 50.0 | +0.0" in text
    assert "| fast | 12.5 | 87.5 | +75.0" in text.replace("**", "")
    assert [one["question"] for one in json.loads(out.read_text())] == ["1", "2", "3", "5"]
    assert {"map-rates.png", "map-gains.png"} <= {path.name for path in folder.iterdir()}


def test_what_diverged_is_wrong_on_every_image_and_the_worst_recipe(folder):
    lines = (folder / "results.jsonl").read_text().splitlines()
    changed = []
    for one in map(json.loads, lines):
        cell = one["variant"], one["method"]
        if cell == ("slow", "delta") and one["kind"] == "choice":
            changed.append({**one, "validation": {}, "error": "not finite"})
        elif cell == ("fast", "l2") and one["kind"] == "final" and one["seed"] == 1:
            changed.append({**one, "test": {}, "error": "not finite"})
        elif cell != ("slow", "delta"):
            changed.append(one)
    (folder / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in changed))
    sweep = recipe_map.Sweep(folder)
    found = {one.question: one for one in recipe_map.answers(sweep, None, None)}
    # DELTA's slow recipe diverged with every strength: 0; L2's worst is the fast one: none right, and a run lost.
    assert "slow minus fast" in found["2"].what
    assert found["2"].seeds.difference == 0
    assert found["1"].seeds.difference == pytest.approx(((0 - 0.5) + (7 / 8 - 0)) / 2)
    assert "| slow | 50.0 | diverged | -50.0" in recipe_map.recipe_table(sweep).replace("**", "")
    assert "| fast | 0.0 (1 of 2 diverged) | 87.5 |" in recipe_map.recipe_table(sweep)


def test_what_is_no_sweep_is_said_in_a_line(tmp_path):
    with pytest.raises(SystemExit, match=r"has no sweep\.json and results\.jsonl; give the --workdir of a sweep"):
        recipe_map.Sweep(tmp_path)
    (tmp_path / "sweep.json").write_text(json.dumps({"variants": VARIANTS}))
    (tmp_path / "results.jsonl").write_text("")
    with pytest.raises(SystemExit, match="no final run of the sweep"):
        recipe_map.Sweep(tmp_path)
    kept = tmp_path / "records.jsonl"
    kept.write_text("")
    with pytest.raises(SystemExit, match=r"has no records\.npz beside it"):
        recipe_map.Sweep(kept)


def test_what_is_kept_of_a_sweep_gives_its_answers(folder, tmp_path, capsys):
    kept = tmp_path / "kept"
    kept.mkdir()
    recipe_map.main(["--sweep", str(folder), "--keep", str(kept)])
    assert "| slow |" in capsys.readouterr().out
    assert sorted(path.name for path in kept.iterdir()) == ["map_recipes.jsonl", "map_recipes.npz"]
    of_workdir, of_file = recipe_map.Sweep(folder), recipe_map.Sweep(kept / "map_recipes.jsonl")
    assert recipe_map.recipe_table(of_file) == recipe_map.recipe_table(of_workdir)
    found, again = (recipe_map.answers(one, None, None) for one in (of_workdir, of_file))
    assert [one.what for one in again] == [one.what for one in found]
    for one, other in zip(found, again, strict=True):
        # Cross-entropies have three digits in the file.
        assert np.allclose([*one.seeds, *one.images], [*other.seeds, *other.images], atol=5e-4)
    for cell, runs in of_workdir.answered("delta", "l2").items():
        for one, other in zip(runs, of_file.predictions(cell), strict=True):
            assert np.allclose(one.confidence, other.confidence, atol=5e-4)
    of_file.keep(tmp_path / "again.jsonl")
    assert (tmp_path / "again.npz").read_bytes() == (kept / "map_recipes.npz").read_bytes()


def test_wrong_labels_compare_the_two_methods_on_the_worse_set(folder):
    lines = (folder / "results.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    noisy = [
        {**one, "variant": "", "data": f"noisy{20 if one['variant'] == 'slow' else 40}", "kind": "final"}
        for one in records
        if one["kind"] == "final"
    ]
    (folder / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in noisy))
    noise = recipe_map.Sweep(folder)
    (folder / "results.jsonl").write_text("\n".join(lines))
    found = {one.question: one for one in recipe_map.answers(recipe_map.Sweep(folder), None, noise)}
    # The fast recipe's runs: 7/8 and 1/8.
    assert found["6"].seeds.difference == pytest.approx(6 / 8)


def test_a_cell_of_which_only_records_are_left_is_in_the_table_and_in_no_answer(folder, tmp_path):
    def renamed(record):
        return {**record, "method": "delta_without_attention", "workdir": record["workdir"].replace("delta", "plain")}

    records = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    records += [renamed(one) for one in records if one["method"] == "delta"]
    (folder / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    write_run(folder / "runs/slow/plain/0", [1, 1, 1, 0], 0.75)
    write_run(folder / "runs/slow/plain/1", [1, 1, 1, 0], 0.75)
    sweep = recipe_map.Sweep(folder)
    assert "| fast | 12.5 | 87.5 | 87.5 |" in recipe_map.recipe_table(sweep)
    found = {one.question: one for one in recipe_map.answers(sweep, None, None)}
    assert found["1, beside it"].what == "delta_without_attention minus l2, mean of 1 recipes"
    assert found["1, beside it"].seeds.difference == pytest.approx(3 / 4 - 1 / 2)
    sweep.keep(tmp_path / "kept.jsonl")
    kept = recipe_map.Sweep(tmp_path / "kept.jsonl")
    assert recipe_map.recipe_table(kept) == recipe_map.recipe_table(sweep)
    assert [one.what for one in recipe_map.answers(kept, None, None)] == [one.what for one in found.values()]
    (folder / "runs/fast/l2/0/predictions.csv").unlink()
    with pytest.raises(SystemExit, match="question 2: the answers of fast l2 are gone"):
        recipe_map.answers(recipe_map.Sweep(folder), None, None)
