"""Which runs a sweep has, what they are told, and how it goes on, shares its work and takes failures."""

import json
import math

import pytest
from ml_collections import ConfigDict

from delta_jax import sweep as command
from delta_jax.sweeps import choice, grid, records, runner
from delta_jax.sweeps.runner import Sweep
from delta_jax.training import config as configs
from delta_jax.training import stored_config
from delta_jax.training.config import ConfigError
from delta_jax.training.config_checks import InUseError
from delta_jax.training.fine_tune import DivergedError
from delta_jax.workdir import json_files
from tests.small_run import make_photos, run_afresh
from tests.small_run import run as run_command
from tests.small_sweep import small_sweep

# Of tests/small_sweep.py, by hand: 2 variants x 3 methods x (2 values x 2 folds) choices, and as many x 2 seeds at the
# end.
CHOICES, FINALS = 24, 12
BEST = {"head_l2": [0.01], "alpha": 0.1, "alpha_relative": 0.1}  # what the stand-in for a run does best with


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("sweep") / "photos")


@pytest.fixture
def fitted(monkeypatch):
    """In place of training: accuracies that depend on the strength, and a list of (workdir, config, test)."""
    calls = []

    def fit(config, workdir, *, test=True):
        calls.append((workdir, config, test))
        resolved, stored = configs.resolve(config).to_dict(), json_files.read(workdir / "config.json")
        if stored and (different := stored_config.differences(resolved, stored)):
            raise ConfigError("\n".join(different))
        good = any(BEST[field] == _json(config[field]) for field in BEST if config[field] is not None)
        workdir.mkdir(parents=True, exist_ok=True)
        measures = {"top1": 0.9 if good else 0.8, "balanced_accuracy": 0.8, "cross_entropy": 0.5, "n": 10}
        summary = {"validation": measures, "test": measures if test else {}, "alpha": 0.1, "seconds": {"head": 1.0}}
        (workdir / "summary.json").write_text(json.dumps(summary))
        json_files.write(workdir / "config.json", resolved)
        for name in ("model.safetensors", "checkpoints/2/state"):
            (workdir / name).parent.mkdir(parents=True, exist_ok=True)
            (workdir / name).write_text("")
        return workdir

    def show(workdir):
        (workdir / "report.html").write_text("")

    def checked(self):
        pass

    monkeypatch.setattr(runner.trainer, "fit", fit)
    monkeypatch.setattr(runner.reports, "show", show)
    monkeypatch.setattr(runner.gc, "collect", lambda: 0)  # takes a fifth of a second here, and nothing was trained
    monkeypatch.setattr(Sweep, "check", checked)
    return calls


def diverge(config, workdir):
    """What `fit` does when a run diverges: by then it has written its config."""
    workdir.mkdir(parents=True, exist_ok=True)
    json_files.write(workdir / "config.json", configs.resolve(config).to_dict())
    raise DivergedError("the loss is not finite")


def _json(value):
    return list(value) if isinstance(value, tuple) else value


def paths(calls, folder):
    return [workdir.relative_to(folder).as_posix() for workdir, _, _ in calls]


def test_a_sweep_has_a_run_for_every_strength_and_fold_and_one_for_every_seed(photos, tmp_path):
    planned = Sweep(small_sweep(photos), tmp_path).planned()
    kinds = [run.kind for run in planned]
    assert (kinds.count("choice"), kinds.count("final")) == (CHOICES, FINALS)
    assert len({run.path for run in planned}) == CHOICES + FINALS
    assert "choice/photos/tiny/slow/delta/alpha_relative=0.1/fold-1" in {run.path for run in planned}
    assert "runs/photos/tiny/fast/l2_fe/seed-1" in {run.path for run in planned}


def test_runs_are_told_what_their_data_set_network_variant_method_and_strength_say(photos):
    sweep = grid.resolve(small_sweep(photos))
    cell = next(one for one in grid.cells(sweep) if (one.variant, one.method) == ("fast", "delta"))
    choosing = grid.config_of(sweep, grid.choice_runs(sweep, cell)[3])
    assert (choosing.method, choosing.alpha_relative, choosing.learning_rate) == ("delta", 1.0, 0.01)
    assert (choosing.data.mirror, choosing.data.validation_fold, choosing.data.validation_fraction) == (False, 1, 0.5)
    final = grid.config_of(sweep, grid.final_runs(sweep, cell, {"alpha_relative": 0.1}, (0.01,))[1])
    assert (final.seed, final.alpha_relative, final.head_l2) == (1, 0.1, (0.01,))
    assert (final.data.validation_fraction, final.data.validation_fold) == (0.0, 0)
    # The sweep's own config is as it was: the next run starts from it.
    assert (sweep.run.data.validation_fraction, sweep.run.data.mirror) == (0.5, True)


def test_runs_that_have_not_begun_are_asked_for_without_making_their_configs(photos, tmp_path, monkeypatch):
    sweep = Sweep(small_sweep(photos), tmp_path)
    monkeypatch.setattr(grid, "config_of", None)  # of a thousand runs, after every one of them, it takes hours
    assert len(sweep.waiting()) == CHOICES + FINALS


def test_runs_of_a_cell_have_one_program_and_those_of_another_their_own(photos, tmp_path, fitted, monkeypatch):
    fit, kept = runner.trainer.fit, []

    def compiling(config, workdir, **more):
        programs = runner.compiled_step._kept
        programs.setdefault("step", config.method)  # what the cell's first run compiles
        kept.append((config.method, programs["step"]))
        return fit(config, workdir, **more)

    monkeypatch.setattr(runner.trainer, "fit", compiling)
    Sweep(small_sweep(photos, methods=("l2_sp", "delta"), variants={}), tmp_path).run()
    assert runner.compiled_step._kept is None
    assert set(kept) == {("l2_sp", "l2_sp"), ("delta", "delta")}


def test_without_refit_final_runs_keep_their_validation_images(photos):
    sweep = grid.resolve(small_sweep(photos, refit=False))
    final = grid.config_of(sweep, grid.final_runs(sweep, grid.cells(sweep)[2], {"alpha_relative": 0.1}, (0.01,))[0])
    assert final.data.validation_fraction == 0.5
    assert len(final.head_l2) > 1


def test_what_needs_validation_images_is_off_where_final_runs_have_none(photos):
    run = small_sweep(photos).run
    run.select, run.eval_every, run.patience = "best", 1, 2
    sweep = grid.resolve(small_sweep(photos, run=run))
    final = grid.config_of(sweep, grid.final_runs(sweep, grid.cells(sweep)[2], {"alpha_relative": 0.1}, (0.01,))[0])
    assert (final.select, final.eval_every, final.patience) == ("last", 0, 0)
    tried = grid.config_of(sweep, grid.choice_runs(sweep, grid.cells(sweep)[2])[0])
    assert (tried.select, tried.eval_every, tried.patience) == ("best", 1, 2)


def test_the_stand_in_takes_the_place_of_what_it_names(photos):
    config = small_sweep(photos, stand_in={"seeds": (7,), "variants": {"only": {}}, "run": {"steps": 1}}, small=True)
    sweep = grid.resolve(config)
    assert (tuple(sweep.seeds), list(sweep.variants), sweep.run.steps) == ((7,), ["only"], 1)
    assert tuple(config.seeds) == (0, 1)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"methods": ("l2_sp", "detla")}, "no method called 'detla'"),
        ({"strengths": {"l2_sp": {"alpha": (0.1, 1.0)}, "delta": {"alpha": (0.1,)}}}, "l2_sp 2, delta 1 values"),
        ({"strengths": {"delta": {"alpah": (0.1,)}}}, "did you mean alpha"),
        ({"strengths": {"delta": {"alpha": 0.1}}}, "expected a tuple of values"),
        ({"networks": {"tiny": {"archh": "resnet50"}}}, "networks.tiny.archh='resnet50'"),
        ({"data_sets": {}}, "data_sets: expected one or more"),
        ({"data_sets": {"a/b": {}}}, "expected names of letters"),
        ({"seeds": (0, 0)}, "expected each once"),
        ({"seeds": (), "strengths": {}}, "seeds: expected one or more, as nothing is to be chosen"),
        ({"stand_in": {"sedes": (0,)}, "small": True}, "stand_in.sedes"),
        ({"run": ConfigDict({"steps": 1})}, "data.validation_fraction: no such field"),
    ],
)
def test_a_sweep_that_cannot_work_ends_before_the_first_run(photos, tmp_path, changed, said):
    with pytest.raises(ConfigError, match=said):
        Sweep(small_sweep(photos, **changed), tmp_path)


def test_without_seeds_a_sweep_is_its_choices_alone(photos, tmp_path):
    planned = Sweep(small_sweep(photos, seeds=()), tmp_path).planned()
    assert len(planned) == 2 * 3 * 2 * 2  # variants, methods, strengths, folds
    assert {run.kind for run in planned} == {"choice"}


def test_the_value_with_the_highest_mean_over_the_folds_is_chosen():
    def record(value, top1, cross_entropy=1.0):
        return {"strength": {"alpha": value}, "validation": {"top1": top1, "cross_entropy": cross_entropy}}

    # Means by hand: 0.65, 0.7, 0.7; of the equal ones the second has less cross-entropy.
    found = [
        *(record(0.1, 0.6), record(0.1, 0.7)),
        *(record(1.0, 0.7, 0.8), record(1.0, 0.7, 1.0)),
        *(record(10.0, 0.8, 1.0), record(10.0, 0.6, 1.0)),
    ]
    tried = choice.tried(found, "alpha", (0.1, 1.0, 10.0))
    assert [one.top1 for one in tried] == pytest.approx([0.65, 0.7, 0.7])
    assert choice.choose(tried).value == 1.0
    # A value that diverged on a fold is out, whatever the other fold says.
    diverged = {"strength": {"alpha": 100.0}, "validation": {}}
    tried = choice.tried([*found, record(100.0, 0.99), diverged], "alpha", (0.1, 100.0))
    assert math.isnan(tried[1].top1)
    assert choice.choose(tried).value == 0.1
    with pytest.raises(ValueError, match="no value of 100"):
        choice.choose(tried[1:])


def test_final_runs_have_the_strengths_that_the_folds_chose(photos, fitted, tmp_path):
    sweep = Sweep(small_sweep(photos), tmp_path)
    assert sweep.run() == []
    assert sweep.waiting() == []
    done = records.read(tmp_path)
    assert len(done) == CHOICES + FINALS
    finals = [record for record in done if record["kind"] == "final" and record["method"] != "l2_fe"]
    chosen = {next(iter(record["strength"].items())) for record in finals}
    assert chosen == {("alpha", 0.1), ("alpha_relative", 0.1)}
    # The head that others start from has the penalty that was chosen for L2-FE.
    assert {tuple(config.head_l2) for _, config, test in fitted if test} == {(0.01,)}
    # Choices neither look at test images nor keep their networks.
    assert all(not record["test"] for record in done if record["kind"] == "choice")
    assert not list(tmp_path.glob("choice/**/model.safetensors"))
    assert len(list(tmp_path.glob("runs/**/model.safetensors"))) == FINALS
    assert not list(tmp_path.glob("**/checkpoints"))


def test_runs_that_are_there_are_not_run_again(photos, fitted, tmp_path):
    Sweep(small_sweep(photos), tmp_path).run()
    before = (tmp_path / "results.jsonl").read_text()
    fitted.clear()
    Sweep(small_sweep(photos), tmp_path).run()
    assert fitted == []
    assert (tmp_path / "results.jsonl").read_text() == before
    # One seed more is one run more of every method.
    Sweep(small_sweep(photos, seeds=(0, 1, 2)), tmp_path).run()
    assert len(fitted) == 2 * 3


def test_runs_of_another_config_are_not_taken_for_these(photos, fitted, tmp_path):
    Sweep(small_sweep(photos), tmp_path).run()
    # Other steps: every run is another one, and the folder of the old one is refused, by the field that differs.
    other = small_sweep(photos)
    other.run.steps = 3
    other = Sweep(other, tmp_path, only=("fast", "l2_sp"))
    assert other.records() == []
    failed = other.run()
    assert len(failed) == 2 * 2  # strengths, folds
    assert "steps: 2 there, 3 here" in failed[0]
    # Another value wins: the final runs with the one before do not count as its own.
    changed = small_sweep(photos)
    changed.strengths.l2_sp.alpha = (0.01, 1.0)
    kept = Sweep(changed, tmp_path, only=("fast",))
    kept.run()
    assert not [one for one in kept.records() if one["kind"] == "final" and one["method"] == "l2_sp"]
    assert len([one for one in kept.records() if one["kind"] == "final" and one["method"] == "delta"]) == 4


def test_images_may_lie_elsewhere(photos, fitted, tmp_path):
    Sweep(small_sweep(photos), tmp_path).run()
    moved = small_sweep(photos)
    moved.run.data.root = "elsewhere"
    assert len(Sweep(moved, tmp_path).records()) == CHOICES + FINALS


def test_runs_on_other_images_are_said(photos, fitted, tmp_path):
    sweep = Sweep(small_sweep(photos), tmp_path)
    sweep.run()
    assert records.describe_other_images(sweep.records()) == []  # these wrote no split
    paths = [record["workdir"] for record in sweep.records()]
    for path in paths:
        image = "first" if path == paths[3] else "second"
        facts = {"fingerprint": image, "split": "0", "classes": ["a"]}
        json_files.write(tmp_path / path / "data.json", facts)
    (line,) = records.describe_other_images(Sweep(small_sweep(photos), tmp_path).records())
    assert "did not all see the same images" in line
    assert f"those of the fewer: {paths[3]}; remove" in line


def test_shards_share_the_runs_and_the_last_one_does_what_is_left(photos, fitted, tmp_path):
    first = Sweep(small_sweep(photos), tmp_path)
    half = first._ready((0, 2))
    assert {run.path for run in half}.isdisjoint({run.path for run in first._ready((1, 2))})
    assert len(half) + len(first._ready((1, 2))) == CHOICES  # final runs are not known yet
    busy = {run.path for run in first._ready((1, 2))}
    fit = runner.trainer.fit

    def with_another(config, workdir, *, test=True):
        if workdir.relative_to(tmp_path).as_posix() in busy:
            raise InUseError("another run is working")
        return fit(config, workdir, test=test)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner.trainer, "fit", with_another)
        assert first.run(shard=(0, 2)) == []
    assert len(first.waiting()) == CHOICES // 2 + FINALS
    assert "waits for 2 choice runs" in first.waiting()[-1]
    Sweep(small_sweep(photos), tmp_path).run(shard=(1, 2))
    assert len(paths(fitted, tmp_path)) == len(set(paths(fitted, tmp_path))) == CHOICES + FINALS
    assert Sweep(small_sweep(photos), tmp_path).waiting() == []


def test_a_run_that_diverged_is_a_result_and_one_that_had_no_space_is_not(photos, fitted, tmp_path):
    fit = runner.trainer.fit

    def failing(config, workdir, *, test=True):
        if config.method == "l2_sp" and config.alpha == 0.1 and config.learning_rate == 0.01:
            diverge(config, workdir)
        if config.method == "delta" and config.seed == 1 and test:
            raise OSError("no space left")
        return fit(config, workdir, test=test)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner.trainer, "fit", failing)
        failed = Sweep(small_sweep(photos), tmp_path).run()
    assert [line.split(": ")[1] for line in failed] == ["no space left"] * 2
    done = records.read(tmp_path)
    assert len(done) == CHOICES + FINALS - 2
    assert {one["error"] for one in done if one["strength"] == {"alpha": 0.1} and one["variant"] == "fast"} == {
        "the loss is not finite"
    }
    best = {
        one["strength"]["alpha"]
        for one in done
        if (one["method"], one["variant"], one["kind"]) == ("l2_sp", "fast", "final")
    }
    assert best == {0.01}
    fitted.clear()
    assert Sweep(small_sweep(photos), tmp_path).run() == []
    assert len(fitted) == 2


def test_a_run_that_was_measured_and_not_shown_is_shown_by_the_same_command(photos, fitted, tmp_path):
    Sweep(small_sweep(photos), tmp_path).run()
    final = next(workdir for workdir, _, test in fitted if test)
    (final / "report.html").unlink()  # as where the machine was taken away before the page was made
    fitted.clear()
    sweep = Sweep(small_sweep(photos), tmp_path)
    assert sweep.waiting() == [str(final.relative_to(tmp_path))]
    sweep.run()
    assert [workdir for workdir, *_ in fitted] == [final]
    assert (final / "report.html").exists()
    assert Sweep(small_sweep(photos), tmp_path).waiting() == []


def test_where_every_strength_diverges_the_others_go_on(photos, fitted, tmp_path):
    fit = runner.trainer.fit

    def failing(config, workdir, *, test=True):
        if config.method == "delta":
            diverge(config, workdir)
        return fit(config, workdir, test=test)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner.trainer, "fit", failing)
        sweep = Sweep(small_sweep(photos), tmp_path)
        sweep.run()
    assert len(sweep.waiting()) == 4
    assert "no value of 0.1, 1.0 has an accuracy on every fold" in sweep.waiting()[0]


def test_only_the_named_ones_are_run(photos, fitted, tmp_path):
    Sweep(small_sweep(photos), tmp_path, only=["slow", "l2_fe", "l2_sp"]).run()
    assert len(fitted) == 2 * (4 + 2)
    assert {config.method for _, config, _ in fitted} == {"l2_fe", "l2_sp"}
    # The results are those of the whole sweep, whatever was run last.
    Sweep(small_sweep(photos), tmp_path, only=["fast", "l2_fe"]).run()
    assert {(one["variant"], one["method"]) for one in records.read(tmp_path)} == {
        ("slow", "l2_fe"),
        ("slow", "l2_sp"),
        ("fast", "l2_fe"),
    }
    with pytest.raises(ConfigError, match="--only=dleta: no such data set"):
        Sweep(small_sweep(photos), tmp_path, only=["slow", "dleta"])


@pytest.mark.parametrize("text", ["2/2", "1", "a/b", "-1/2", "1/0"])
def test_a_share_that_is_none_is_refused(text):
    assert command.shard("2/8") == (2, 8)
    with pytest.raises(ConfigError, match="expected i/n"):
        command.shard(text)


def test_the_command_says_what_it_would_run(tmp_path):
    table = ("--config=configs/paper/table1.py", f"--workdir={tmp_path}", "--config.small=True", "--dry_run")
    finished = run_afresh("sweep", *table, "--only=delta")
    assert finished.returncode == 0, finished.stderr
    # Of the stand-in, by hand: two values on one fold, two seeds.
    assert finished.stdout.split() == [
        *("to", "do", "choice/elpv/efficientnet_lite0/delta/alpha_relative=0.1/fold-0"),
        *("to", "do", "choice/elpv/efficientnet_lite0/delta/alpha_relative=1/fold-0"),
        *("to", "do", "runs/elpv/efficientnet_lite0/delta/seed-0"),
        *("to", "do", "runs/elpv/efficientnet_lite0/delta/seed-1"),
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--only=detla", "error: --only=detla: no such data set, network, variant or method; there are "),
        ("--config.run.stesp=3", "error: --config.run.stesp: no such field; did you mean run.steps"),
    ],
)
def test_the_command_has_one_line_for_what_cannot_work(tmp_path, given, said):
    finished = run_command("sweep", "--config=configs/paper/table1.py", f"--workdir={tmp_path / 'none'}", given)
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1].startswith(said)
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "none" / "runs").exists()
