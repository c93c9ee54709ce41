"""The page of a search, and of a sweep over learning rates."""

import json

import pytest

from delta_jax import page
from tests.page.shown_page import one_run, shown
from tests.synthetic_sweep import write_json


def tuned(folder):
    """A search that has ended: its final run, and four runs of three settings."""
    one_run(folder / "final", "l2")
    rows = [
        {"setting": 0, "steps": 0, "fields": {"method": "l2_fe"}, "top1": 0.6},
        {
            "setting": 1,
            "steps": 10,
            "fields": {"method": "delta", "learning_rate": 0.01, "alpha_relative": 1.0},
            "top1": 0.7,
        },
        {"setting": 2, "steps": 10, "fields": {"method": "l2", "learning_rate": 0.03}, "top1": 0.8},
        {"setting": 2, "steps": 30, "fields": {"method": "l2", "learning_rate": 0.03}, "top1": 0.9},
        {
            "setting": 3,
            "steps": 10,
            "fields": {"method": "l2", "learning_rate": 0.09},
            "top1": None,
            "error": "<b>diverged",
        },
        {"setting": 2, "steps": 30, "fields": {"method": "l2"}, "top1": None, "refit": True},
    ]
    common = {"fold": 0, "seed": 0, "n": 10, "cross_entropy": 0.5, "seconds": 61.0, "error": "", "refit": False}
    content = {"words": "3 settings & <more> were tried.", "winner": {"setting": 2, "steps": 30}}
    write_json(folder / "summary.json", {**content, "trials": [common | row for row in rows]})
    write_json(folder / "tune.json", {})


def test_a_search_has_what_was_tried_the_best_whole_run_first_and_then_its_final_run(tmp_path):
    tuned(tmp_path)
    parsed = shown(tmp_path)
    assert "3 settings & <more> were tried." in parsed.text
    rows = [[cell.strip() for cell in row] for row in parsed.cells if len(row) == 10][1:]
    assert [(row[0], row[4], row[7]) for row in rows] == [
        ("2", "30", "90.0"),
        ("2", "10", "80.0"),
        ("1", "10", "70.0"),
        ("3", "10", "failed"),
        ("0", "\u2013", "60.0"),
    ]
    assert rows[2][1].endswith("as configured")
    assert not parsed.all("b") or "diverged" not in parsed.text
    # One picture, of the ten steps: with thirty there is one rate.
    assert [one["id"] for one in parsed.all("figure") if one.get("id", "").startswith("trials-")] == ["trials-10"]
    assert "classifies 75.0\u202f% of the test images" in parsed.text


def test_a_search_that_has_not_ended_has_no_page(tmp_path):
    write_json(tmp_path / "tune.json", {})
    with pytest.raises(page.PageError, match=r"has not ended: there is no summary\.json yet"):
        page.write(tmp_path)


def test_a_sweep_over_learning_rates_shows_gains_by_recipe(tmp_path):
    rates = {"slow": {"learning_rate": 0.001}, "fast": {"learning_rate": 0.1}}
    write_json(tmp_path / "sweep.json", {"variants": rates, "against": "l2"})
    one = {"kind": "final", "data": "photos", "network": "net"}
    runs = [
        {
            **one,
            "variant": variant,
            "method": method,
            "seed": seed,
            "test": {"top1": top1},
            "workdir": f"runs/{variant}/{method}/{seed}",
        }
        for variant, method, seed, top1 in (
            ("slow", "l2", 0, 0.5),
            ("slow", "delta", 0, 0.625),
            ("fast", "l2", 0, 0.25),
            ("fast", "l2", 1, 0.75),
            ("fast", "delta", 0, 0.25),
            ("fast", "delta", 1, 0.5),
        )
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in runs))
    parsed = shown(tmp_path)
    assert any(a.get("href") == "#recipes" for a in parsed.all("a"))
    cells = [a for a in parsed.all("td") if "--share" in a.get("style", "")]
    # One seed: 62.5 - 50, in brackets; two: 37.5 - 50. Both are the largest there is.
    assert [(one["class"].split()[-1], one["style"]) for one in cells] == [
        ("up", "--share:1.000"),
        ("down", "--share:1.000"),
    ]
    assert "(+12.5)" in parsed.text
    assert "-12.5" in parsed.text
    assert len([a for tag, a in parsed.elements if tag == "figure" and a.get("id", "").startswith("recipes-")]) == 1
    write_json(tmp_path / "sweep.json", {"variants": {"slow": 0.001}})
    assert "Over learning rates" not in shown(tmp_path).text
