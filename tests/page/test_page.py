"""The page of sweeps and runs: what stands on it, that nothing breaks out of it, and what it says of missing files."""

import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from delta_jax import page
from delta_jax.page import __main__, confusions, naming, plots, reading, rendering, repeat, results, series
from tests import synthetic_sweep
from tests.page.shown_page import one_run, shown
from tests.synthetic_sweep import CLASSES, METHODS, record, write_json

SEEDS = 3


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return synthetic_sweep.make(
        tmp_path_factory.mktemp("page") / "sweep", seeds=SEEDS, steps=400, filters=32, images=60
    )


@pytest.fixture(scope="module")
def parsed(sweep):
    return shown(sweep)


def test_ids_are_unique_and_what_refers_to_them_finds_them(parsed):
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) > 20
    wanted = [a["href"][1:] for a in parsed.all("a")]
    wanted += [name for _, a in parsed.elements for name in a.get("aria-labelledby", "").split()]
    assert set(wanted) <= set(ids)


def test_every_picture_has_words_and_comes_with_the_page(parsed):
    images = parsed.all("img")
    # Six photos with two taps of a source's map and five methods' each, and eight mistakes of five methods.
    assert len(images) == 6 * (1 + 2 * (1 + 5)) + 5 * 8
    assert all(len(one["alt"]) > 10 and one["src"].startswith("data:image/jpeg;base64,") for one in images)
    assert all(one.get("aria-label") or one.get("aria-hidden") for one in parsed.all("svg"))
    loaded = [a.get(key) or "" for tag, a in parsed.elements for key in ("src", "href", "srcset", "data", "action")]
    assert all(one == "" or one.startswith(("#", "data:")) for one in loaded)
    style = (Path(page.__file__).parent / "style.css").read_text()
    assert "url(" not in style
    assert "@import" not in style


def test_a_name_that_looks_like_html_stays_text(parsed, sweep):
    text = (sweep / page.PAGE).read_text()
    for name in CLASSES:
        assert name in parsed.text
    assert '<b>"x"' not in text
    assert "</script>'" not in text
    assert {one["lang"] for one in parsed.all("html")} == {"en"}
    assert "width=device-width, initial-scale=1" in {one.get("content") for one in parsed.all("meta")}
    for script, attributes in zip(parsed.scripts, parsed.all("script"), strict=True):
        if attributes.get("type") == "application/json":
            assert json.loads(script)["lines"]


def test_a_name_in_the_numbers_of_a_picture_does_not_end_the_script(tmp_path):
    one_run(tmp_path, "</script><i>")
    lines = [{"phase": "fine_tune", "step": step, "time": 0.0, "loss": 1.0} for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    parsed = shown(tmp_path)
    (numbers,) = [s for s, a in zip(parsed.scripts, parsed.all("script"), strict=True) if a.get("type")]
    assert json.loads(numbers)["lines"][0]["name"] == "</script><i>"
    assert not parsed.all("i")


def test_mean_spread_and_interval_over_the_seeds(parsed, sweep):
    records = [json.loads(line) for line in (sweep / "results.jsonl").read_text().splitlines()]
    rows = {cells[0].strip(): [cell.strip() for cell in cells] for cells in parsed.cells if len(cells) == 10}
    assert list(rows) == ["Method", *map(naming.label, METHODS)]
    for method in METHODS:
        top1 = [100 * one["test"]["top1"] for one in records if one["kind"] == "final" and one["method"] == method]
        mean, std = np.mean(top1), np.std(top1, ddof=1)
        half = 4.302653 * std / np.sqrt(SEEDS)  # Student's t at 97.5 % with 2 degrees of freedom, from a printed table
        row = rows[naming.label(method)]
        assert row[1] == f"{mean:.1f} ± {std:.1f}"
        assert row[2] == f"{mean - half:.1f} to {mean + half:.1f}"
    # Table 1 of the paper, ResNet-101 on Stanford Dogs.
    assert [rows[naming.label(m)][3] for m in METHODS] == [
        "84.7 ± 0.1",
        "83.3 ± 0.2",
        *["88.3 ± 0.2"] * 2,
        "88.7 ± 0.1",
    ]


def test_better_is_said_only_where_the_comparisons_say_so(parsed, sweep, tmp_path):
    # By the made-up accuracies: 0.9 against 0.85, 0.84, 0.883 and 0.884.
    assert "DELTA is better than L²-FE (+5.0), L² (+6.0), L²-SP (+1.7) and DELTA (w/o ATT) (+1.6)." in parsed.text
    assert len(parsed.all("strong")) == 1
    assert "For the other pair of methods no difference is shown." in parsed.text
    study = reading.read(sweep)
    untested = reading.Study(study.folder, study.kind, study.settings, study.experiments, {})
    html = rendering.render(untested)
    assert " is better than" not in html
    assert "<strong>" not in html
    assert "have not been tested" in html


def test_variants_stand_with_the_variant_that_they_compare(sweep):
    study = reading.read(sweep)
    (experiment,) = study.experiments
    interval = {"difference": 0.0123, "low": 0.004, "high": 0.021}
    shared = {"data": experiment.data, "network": experiment.network, "method": "delta", "verdict": "better"}
    pairs = [("step", "exponential"), ("step", "co<sine"), ("exponential", "co<sine")]
    rows = [{**shared, "first": a, "second": b, "seeds": interval, "images": interval} for a, b in pairs]
    step = dataclasses.replace(experiment, variant="step")
    html = rendering.render(dataclasses.replace(study, experiments=[step], comparisons={"variants": rows}))
    assert "2 comparisons with other variants of the same method" in html
    assert (
        html.count('<td class="number" data-value="0.0123">+1.2<span class="spread"> (+0.4 to +2.1)</span></td>') == 4
    )
    assert "<td>exponential</td>" in html
    assert "<td>co&lt;sine</td>" in html
    assert "other variants" not in rendering.render(study)


def test_curves_are_means_over_seeds_of_at_most_200_points(sweep):
    (experiment,) = reading.read(sweep).experiments
    charts = series.learning_curves(experiment, "x")
    assert charts[0].title == "Validation accuracy"
    line = next(one for one in charts[0].readout["lines"] if one["name"] == "DELTA")
    logs = [one.records() for one in experiment.runs["delta"]]
    at_400 = [one["top1"] for log in logs for one in log if one["phase"] == "validation" and one["step"] == 400]
    assert line["x"][-1] == 400
    assert line["y"][-1] == pytest.approx(np.mean(at_400), rel=1e-3)
    assert [line["low"][-1], line["high"][-1]] == pytest.approx([min(at_400), max(at_400)], rel=1e-3)
    # 9,000 steps with a record every 20 would be 450 points.
    positions, values = plots.thinned(np.arange(450.0), average=True)
    assert len(values) == 200
    assert values.mean() == pytest.approx(224.5, abs=0.5)
    np.testing.assert_array_equal(positions, values)
    positions, values = plots.thinned(np.arange(5000.0), average=False)
    assert (len(values), values[0], values[-1]) == (200, 0, 4999)


def test_distances_stand_in_falling_order_per_stage(sweep):
    (experiment,) = reading.read(sweep).experiments
    charts = series.drift(experiment, "x")
    assert [chart.title for chart in charts] == ["layer1", "layer2", "layer3", "layer4"]
    (line,) = [one for one in charts[1].readout["lines"] if one["name"] == "L²-SP"]
    files = [json.loads((run.folder / "drift.json").read_text()) for run in experiment.runs["l2_sp"]]
    largest = [max(d for one in file["layers"] if one["stage"] == "layer2" for d in one["distance"]) for file in files]
    assert line["x"] == list(range(1, 65))  # two layers of 32 filters
    assert line["y"] == sorted(line["y"], reverse=True)
    assert line["y"][0] == pytest.approx(np.mean(largest), rel=1e-3)
    shares = []
    for one, other in zip(experiment.runs["delta"], experiment.runs["l2_sp"], strict=True):
        a, b = ([d for layer in run.file("drift.json")["layers"] for d in layer["distance"]] for run in (one, other))
        shares.append(np.mean(np.array(a) > np.array(b)))
    assert series.farther(experiment, "delta", "l2_sp") == pytest.approx(np.mean(shares))
    assert series.farther(experiment, "delta", "l2_fe") is None


def test_strengths_are_shown_by_value_with_their_folds(sweep):
    (experiment,) = reading.read(sweep).experiments
    charts = dict(series.strengths(experiment, "x"))
    assert list(charts) == ["l2_sp", "delta"]
    assert charts["delta"].readout["xNames"] == ["0.1", "1", "10"]
    assert len(charts["delta"].paths[0]["marks"]) == 15
    folds = [run.validation["top1"] for run in experiment.choices["delta"] if run.strength["alpha_relative"] == 1.0]
    assert charts["delta"].readout["lines"][0]["y"][1] == pytest.approx(np.mean(folds), rel=1e-3)
    assert series.chosen(experiment, "delta") == "alpha_relative = 1"


def test_settings_that_differ_stand_apart(sweep):
    runs = reading.read(sweep).runs()
    write_json(runs[0].folder / "config.json", {**runs[0].file("config.json"), "learning_rate": 0.001})
    columns, differing, same = repeat.settings(runs)
    assert columns == [naming.label(method) for method in METHODS]
    # One of three seeds of the first method; the others as they were.
    assert differing == [("learning_rate", ["0.001 | 0.01", *["0.01"] * 4])]
    assert dict(same)["data.name"] == "tfds/dogs"


def test_commands_once_each_the_sweep_first(sweep, parsed):
    found = repeat.commands(reading.read(sweep))
    assert found[0] == (
        "python -m delta_jax.sweep --config=configs/paper/table1.py --workdir=runs/t1",
        ["the whole sweep"],
    )
    assert len(found) == 1 + len(METHODS) * SEEDS
    assert found[0][0] in parsed.text
    assert "15 more commands" in parsed.text


def test_of_many_classes_the_most_confused_pairs():
    counts = np.diag(np.full(30, 10))
    counts[4, 5], counts[7, 1], counts[2, 3] = 5, 9, 1
    found = confusions.Confusion([f"c{i}" for i in range(30)], counts, 1)
    # Shares of the true class's images: 9 of 19, 5 of 15, 1 of 11.
    assert found.pairs() == [("c7", "c1", 9, 9 / 19), ("c4", "c5", 5, 5 / 15), ("c2", "c3", 1, 1 / 11)]


def test_many_classes_become_a_table_of_pairs(tmp_path):
    names = [f"class {i}" for i in range(30)]
    counts = np.diag(np.full(30, 3))
    counts[4, 5] = 7
    one_run(tmp_path, classes=names, confusion_matrix=counts.tolist())
    parsed = shown(tmp_path)
    assert ["class 4", "class 5", "7", "70.0 %"] in parsed.cells
    assert "confusion" not in {one.get("class") for one in parsed.all("table")}


@pytest.mark.parametrize("method", ["l2_fe", "delta"])
def test_what_a_run_does_not_have_is_said(tmp_path, method):
    one_run(tmp_path, method)
    parsed = shown(tmp_path)
    for said in (
        "No gallery",
        "There are none: these runs train a head only",
        "Not measured",
        "No profile",
        "no command.txt",
    ):
        assert said in parsed.text
    assert f"{naming.label(method)} on birds" in parsed.text
    assert ["a", "2", "0"] in parsed.cells
    # The head on the frozen source is the baseline of every method.
    tops = {cells[0].strip(): cells[1] for cells in parsed.cells if cells[0].strip() in ("L²-FE", "DELTA")}
    assert tops == ({"L²-FE": "75.0"} if method == "l2_fe" else {"L²-FE": "50.0", "DELTA": "75.0"})


def test_the_page_says_whether_more_steps_would_pay(tmp_path):
    def ended(folder, verdict, said):
        one_run(folder, "l2", convergence={"verdict": verdict, "said": said})
        (folder / "metrics.jsonl").write_text(
            '{"phase": "validation", "step": 5, "time": 1.0, "top1": 0.5, "cross_entropy": 0.7, "n": 9.0}\n'
        )

    ended(tmp_path / "a", "improving", "still improving: <more> steps pay; it fell")
    text = shown(tmp_path / "a").text
    assert "L²: still improving: <more> steps pay; it fell." in " ".join(text.split())
    assert "Validation: cross-entropy" in text
    ended(tmp_path / "b", "improving", "still improving: it fell, too")
    ended(tmp_path / "c", "converged", "converged at step 5")
    ended(tmp_path / "d", "another one", "of a later version")
    text = " ".join(shown(tmp_path).text.split())
    assert "L²: 2 runs still improving: more steps pay; 1 run converged; 1 run cannot be told." in text


def test_a_folder_of_workdirs_is_one_page_with_all_of_them(tmp_path):
    for name, method in (("one", "l2"), ("two", "delta")):
        one_run(tmp_path / name, method)
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    write_json(tmp_path / "three" / "config.json", {**config, "method": "l2_sp"})
    parsed = shown(tmp_path)
    assert [cells[0].strip() for cells in parsed.cells[1:4]] == ["L²", "L²-SP", "DELTA"]
    assert "there is no summary.json" in parsed.text


def test_half_a_sweep_and_failed_runs(tmp_path):
    write_json(tmp_path / "sweep.json", {**synthetic_sweep.SETTINGS, "seeds": [0, 1], "small": True})
    assert "No run of this sweep has finished" in shown(tmp_path).text
    done = record("l2", 0, "runs/l2", test={"top1": 0.8, "balanced_accuracy": 0.8, "cross_entropy": 0.6, "n": 10})
    diverged = record("delta", 1, "runs/delta", error="the loss is nan at step 7")
    lines = [
        json.dumps(record("l2", 0, "runs/l2", error="no space")),
        json.dumps(done),
        json.dumps(diverged),
        '{"kind": ',
        "[]",
    ]
    (tmp_path / "results.jsonl").write_text("\n".join(lines))
    parsed = shown(tmp_path)
    assert "1 of 10 final runs have numbers" in parsed.text
    assert "the loss is nan at step 7" in parsed.text
    assert "no space" not in parsed.text  # the run was repeated
    assert "Line 4 of results.jsonl" in parsed.text
    assert "Line 5 of results.jsonl" in parsed.text
    assert "A stand-in." in parsed.text
    assert "88.7" not in parsed.text  # the paper's number, beside a stand-in's


def test_several_data_sets_have_an_overview(sweep, tmp_path):
    for name in ("results.jsonl", "sweep.json", "comparisons.json"):
        shutil.copy(sweep / name, tmp_path)
    lines = (sweep / "results.jsonl").read_text()
    other = lines.replace('"data": "stanford_dogs"', '"data": "cub200"')
    (tmp_path / "results.jsonl").write_text(lines + other.replace('"workdir": "', '"workdir": "cub/'))
    parsed = shown(tmp_path)
    assert ["Data, network", *map(naming.label, METHODS)] in parsed.cells
    # Table 1 of the paper, DELTA with ResNet-101.
    row = next(cells for cells in parsed.cells if cells[0] == "CUB-200-2011 · ResNet-101")
    assert "80.5 ± 0.1" in row[-1]


def test_a_page_knows_how_many_runs_a_sweep_has():
    # Two data sets with one network and one with another, three methods, two seeds, two variants: (2 + 1) x 3 x 2 x 2.
    settings = {
        "data_sets": {"a": {}, "b": {}},
        "networks": {"n": {}, "m": {"data_sets": ["a"]}},
        "variants": {"x": {}, "y": {}},
        "methods": ["l2", "l2_sp", "delta"],
        "seeds": [0, 1],
    }
    assert results.expected_runs(settings) == 36
    assert results.expected_runs({}) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.05, "0.05"), (1e-4, "10⁻⁴"), (2.5e-5, "2.5·10⁻⁵"), (1234.0, "1234"), (3e6, "3·10⁶")],
)
def test_numbers_on_axes(value, text):
    assert plots.number(value) == text


def test_a_line_is_lifted_over_what_is_not_finite():
    y = np.array([1.0, np.nan, 3.0, 4.0])
    (path,) = plots.draw("x", "t", [plots.Line("l2", np.arange(4.0), y, y, y)], x_label="x", y_label="y").paths
    assert re.findall("[ML]", path["line"]) == ["M", "M", "L"]


def test_the_command(tmp_path, monkeypatch, capsys):
    one_run(tmp_path / "run")
    monkeypatch.setattr(sys, "argv", ["page", str(tmp_path / "run"), "--output", str(tmp_path / "page.html")])
    __main__.main()
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}\n"
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    monkeypatch.setattr(sys, "argv", ["page", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit, match=r"nothing holds neither a sweep \(sweep.json\) nor a run"):
        __main__.main()
