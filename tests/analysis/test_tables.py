"""The table of many runs; the numbers are worked out by hand."""

import json

import pytest

from delta_jax.analysis.tables import method_table, read_summaries


def summary(method, test, validation=0.5, data="elpv"):
    measured = {"top1": test, "balanced_accuracy": test / 2, "n": 100}
    return {
        "method": method,
        "data": data,
        "arch": "resnet18",
        "alpha": 0.01,
        "test": measured,
        "validation": {**measured, "top1": validation} if validation else {},
    }


def test_mean_and_standard_deviation_in_the_order_of_the_methods():
    table = method_table([summary("delta", 0.8), summary("l2", 0.5), summary("delta", 0.9)])
    _, _, first, second = table.splitlines()
    assert first == "| l2 | 0.01 | 1 | 50.00 | 50.00 | 25.00 |"
    # 80 and 90: mean 85, standard deviation 10 / sqrt(2).
    assert second == "| delta | 0.01 | 2 | 50.00 ± 0.00 | 85.00 ± 7.07 | 42.50 ± 3.54 |"


def test_without_validation_images():
    assert method_table([summary("l2", 0.5, validation=None)]).splitlines()[-1].count(" - ") == 1


def test_runs_that_do_not_belong_together():
    with pytest.raises(ValueError, match="one data set"):
        method_table([summary("l2", 0.5), summary("delta", 0.5, data="folder")])
    with pytest.raises(ValueError, match="none"):
        method_table([])


def test_unfinished_runs_are_left_out(tmp_path):
    (tmp_path / "done").mkdir()
    (tmp_path / "killed").mkdir()
    (tmp_path / "done" / "summary.json").write_text(json.dumps(summary("l2", 0.5)))
    assert len(read_summaries([tmp_path / "done", tmp_path / "killed"])) == 1
