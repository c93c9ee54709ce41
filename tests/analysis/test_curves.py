"""Learning curves: means and spreads by hand, the figure by the place of its colours."""

import json

import numpy as np
import pytest
from PIL import Image

from delta_jax.analysis.curves import Curve, learning_curve, main, over_runs, plot, read
from delta_jax.training.config import ConfigError


def validations(points):
    return [{"phase": "validation", "step": step, "time": 0.0, "top1": top1} for step, top1 in points]


def make_run(workdir, points, **config):
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps({"method": "delta", "data": {"augment": "crop"}} | config))
    records = [{"phase": "fine_tune", "step": 1, "time": 0.0, "loss": 1.0}, *validations(points)]
    (workdir / "metrics.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return workdir


def test_of_two_records_at_a_step_the_later_counts():
    curve = learning_curve(validations([(4, 0.25), (8, 0.5), (4, 0.75)]))
    np.testing.assert_array_equal(curve.steps, [4, 8])
    np.testing.assert_array_equal(curve.mean, [0.75, 0.5])
    with pytest.raises(ValueError, match="eval_every"):
        learning_curve([{"phase": "fine_tune", "step": 1}])


def test_mean_and_standard_deviation_at_the_steps_that_all_have():
    runs = [learning_curve(validations(points)) for points in ([(2, 0.5), (4, 0.8), (6, 1)], [(4, 0.9), (2, 0.7)])]
    found = over_runs(runs)
    np.testing.assert_array_equal(found.steps, [2, 4])
    np.testing.assert_allclose(found.mean, [0.6, 0.85])
    # Of 0.5 and 0.7: sqrt((0.1^2 + 0.1^2) / (2 - 1)).
    np.testing.assert_allclose(found.spread, [0.1 * 2**0.5, 0.05 * 2**0.5])
    assert found.runs == 2
    assert over_runs(runs[:1]).spread.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match=r"different steps \(2, 4, 6, ...; 3, ...\)"):
        over_runs([runs[0], learning_curve(validations([(3, 1.0)]))])


def test_runs_are_told_apart_by_method_and_by_a_field(tmp_path):
    workdirs = [
        make_run(tmp_path / f"{schedule}-{method}-{seed}", [(5, 0.1 * seed)], method=method, schedule=schedule)
        for schedule in ("step", "exponential")
        for method in ("l2_sp", "delta")
        for seed in (1, 2)
    ]
    found = read(workdirs, "schedule")
    assert list(found) == ["schedule: step", "schedule: exponential"]
    assert [list(curves) for curves in found.values()] == [["l2_sp", "delta"]] * 2
    assert found["schedule: step"]["delta"].mean.tolist() == pytest.approx([0.15])
    assert list(read(workdirs[:1], "data.augment")) == ["data.augment: crop"]
    assert read(workdirs)[""]["delta"].runs == 4
    with pytest.raises(ConfigError, match="did you mean schedule"):
        read(workdirs, "shedule")
    with pytest.raises(ConfigError, match=r"does not exist; is .* the workdir of a run"):
        read([tmp_path / "none"])
    with pytest.raises(ValueError, match="empty: no validation records"):
        read([make_run(tmp_path / "empty", [])])


def test_the_command_draws_and_tells_where_curves_end(tmp_path, capsys):
    runs = [make_run(tmp_path / str(seed), [(5, 0.5), (10, 0.7 + 0.1 * seed)], seed=seed) for seed in (1, 2)]
    main([f"--out={tmp_path / 'a.png'}", *map(str, runs)])
    assert "85.00% ± 7.07%" in capsys.readouterr().out  # of 80 and 90: 10 / sqrt(2)
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (605, 418)  # 5.5 by 3.8 inches at 110 dots
    with pytest.raises(SystemExit, match="does not exist"):
        main([str(tmp_path / "none")])


def test_a_method_has_its_colour_in_every_panel(tmp_path):
    def flat(value):
        return Curve(np.array([0, 100]), np.full(2, value), np.zeros(2), 1)

    plot({"a": {"l2_sp": flat(0.2), "delta": flat(0.8)}, "b": {"delta": flat(0.8)}}, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    blue, orange = (np.argwhere((pixels == colour).all(-1)) for colour in ((31, 119, 180), (255, 127, 14)))
    half = pixels.shape[1] // 2
    assert (blue[:, 1] < half).all()
    rows = [np.bincount(orange[side][:, 0]).argmax() for side in (orange[:, 1] < half, orange[:, 1] >= half)]
    assert rows[0] == rows[1] < np.bincount(blue[:, 0]).argmax() - 50  # one scale for both panels
