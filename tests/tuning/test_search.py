"""A search from its first run to its end, with a stand-in for training and a clock that training turns."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from delta_jax.training import config as configs
from delta_jax.training.config import ConfigError
from delta_jax.training.config_checks import InUseError
from delta_jax.training.fine_tune import DivergedError
from delta_jax.tuning import ending, pace, search, trials
from delta_jax.tuning.budget import Clock
from delta_jax.tuning.plan import Limits
from delta_jax.tuning.search import Search
from delta_jax.tuning.trials import Run
from delta_jax.workdir import json_files
from tests.small_run import make_photos, small_config

pytest.importorskip("optuna", reason="settings are proposed by it: pip install 'delta_jax[tune]'")

IMAGES = 100  # to validate on


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("tune") / "photos", per_class=8)


@pytest.fixture
def config(photos):
    found = small_config(photos, steps=30, learning_rate=0.01, warmup_steps=0)
    found.alpha = None
    return found


class Training:
    """In place of `trainer.fit`: a second a step and five for the rest, and the best accuracy at rate 0.03 and L2."""

    def __init__(self):
        self.now, self.calls, self.fails = 0.0, [], {}
        self.slow = lambda workdir: None
        self.head = 0.5
        self.image = 0.0  # seconds of one through the network
        self.longest = (0, 0.0)  # steps, and how much more accurate runs of so many are

    def fit(self, config, workdir, *, test=True):
        if error := self.fails.get(config.method):
            raise error
        self.calls.append((workdir, config.copy_and_resolve_references(), test))
        head = config.method == "l2_fe"
        rate = 0.0 if head else float(config.learning_rate)
        self.now += 5 + (0 if head else config.steps)
        self.slow(workdir)
        top1 = self.head if head else 0.6 - 0.1 * abs(np.log10(rate / 0.03)) + (0.1 if config.method == "l2" else 0.0)
        top1 += self.longest[1] if config.steps == self.longest[0] and not head else 0.0
        workdir.mkdir(parents=True, exist_ok=True)
        json_files.write(workdir / "config.json", configs.resolve(config).to_dict())
        (workdir / "model.safetensors").write_text(f"{config.seed}")
        labels = np.zeros(0 if config.data.validation_fraction == 0 else IMAGES, int)
        right = np.arange(len(labels)) < round(top1 * IMAGES)
        probabilities = np.stack([right, ~right], -1).astype(np.float32)
        measures = {"top1": top1, "cross_entropy": 1.0, "n": IMAGES} if len(labels) else {}
        summary = {
            "validation": measures,
            "test": {"top1": 0.7, "n": 50} if test else {},
            "l2_fe": {"l2": 0.01, "test": {"top1": 0.6}},
            "seconds": {"head": 0.0, "attention": 0.0},
            "images_per_second": 0.0 if head else float(config.batch_size),
        }
        images = type("Images", (), {"labels": labels, "__len__": lambda self: len(labels)})()

        def looked_at(*_):
            self.now += self.image * len(labels)
            return probabilities

        setup = SimpleNamespace(config=configs.resolve(config), validation=images, probabilities=looked_at)
        return SimpleNamespace(summary=summary, setup=setup, after=None)


@pytest.fixture
def training(monkeypatch):
    found = Training()
    monkeypatch.setattr(trials.trainer, "fit", found.fit)
    monkeypatch.setattr(trials.time, "monotonic", lambda: found.now)
    monkeypatch.setattr(search.gc, "collect", lambda: 0)
    monkeypatch.setattr(search.jax, "clear_caches", lambda: None)
    monkeypatch.setattr(ending.reports, "show", lambda fitted: None)
    monkeypatch.setattr(ending.page, "write", lambda folder: folder / "report.html")

    def compared(setup, workdirs):
        one = {"top1": 0.7, "cross_entropy": 1.0}
        right = {name: np.ones(IMAGES, bool) for name in ("average", "ensemble", "single")}
        better = {"top1": found.average, "cross_entropy": 1.1}
        return {"single": [one] * len(workdirs), "average": better, "ensemble": better, "right": right}

    found.average = 0.71
    monkeypatch.setattr(ending.averaging, "set_up", lambda config, workdir: None)
    monkeypatch.setattr(ending.averaging, "compared", compared)
    monkeypatch.setattr(
        ending.averaging, "load", lambda workdirs, setup: [Path(w, "model.safetensors").read_text() for w in workdirs]
    )
    monkeypatch.setattr(ending.averaging, "average", "+".join)
    monkeypatch.setattr(ending, "save_variables", lambda path, text: path.write_text(text))
    return found


def searched(config, folder, training, limits, given=()):
    with Clock(folder, lambda: training.now) as clock:
        found = Search(config, given, folder, limits, clock)
        found.run()
        ending.finish(found)
    return json.loads((folder / ending.SUMMARY).read_text())


def test_a_search_ends_within_its_budget_with_the_winner_on_all_images_tested_once(config, training, tmp_path):
    found = searched(config, tmp_path, training, Limits(seconds=600))
    assert 450 < training.now <= 600
    assert (found["winner"]["fields"]["method"], found["refit"], found["seeds"]) == ("l2", True, [0, 1, 2])
    assert found["winner"]["top1"] > 0.68
    tested = [(workdir, used) for workdir, used, test in training.calls if test]
    assert [workdir for workdir, _ in tested] == [tmp_path / "final"]
    assert tested[0][1].data.validation_fraction == 0
    assert (tmp_path / "final" / "model.safetensors").read_text() == "0"  # the stand-in for a run wrote it anew
    assert json.loads((tmp_path / "final" / "average.json").read_text()) == {"seeds": [0, 1, 2]}
    # Of the search nothing large is left but what the end is made of.
    left = {file.parent.parent.name for file in tmp_path.glob("trials/*/*/model.safetensors")}
    assert left == {f"{found['winner']['setting']:04}"}
    assert {row["setting"] for row in found["trials"]} == set(range(found["settings"] + 1))


def test_a_process_that_comes_late_to_the_end_finds_it_done(config, training, tmp_path, capsys):
    searched(config, tmp_path, training, Limits(trials=2))
    calls = len(training.calls)
    searched(config, tmp_path, training, Limits(trials=2))  # as one that has not seen summary.json yet
    assert len(training.calls) == calls
    assert "This search has ended" in capsys.readouterr().out


def test_a_search_goes_on_where_it_stopped_and_ends_the_same(config, training, tmp_path):
    whole = searched(config, tmp_path / "one", training, Limits(trials=5))
    runs = len(training.calls)
    training.calls.clear()
    original = trials.trainer.fit

    def stop_after(count):
        def fit(*arguments, **how):
            if len(training.calls) == count:
                raise KeyboardInterrupt
            return original(*arguments, **how)

        return fit

    total = 0
    for count in (3, 4, 1):
        trials.trainer.fit = stop_after(count)
        with pytest.raises(KeyboardInterrupt):
            searched(config, tmp_path / "two", training, Limits(trials=5))
        total += len(training.calls)
        training.calls.clear()
    trials.trainer.fit = original
    again = searched(config, tmp_path / "two", training, Limits(trials=5))
    assert total + len(training.calls) == runs  # nothing is done twice
    assert again["winner"] == whole["winner"]
    assert {row["workdir"]: row["top1"] for row in again["trials"]} == {
        row["workdir"]: row["top1"] for row in whole["trials"]
    }


def test_where_the_runs_became_slower_there_are_fewer_on_all_images_or_none(config, training, tmp_path):
    def slow(factor):
        def step(workdir):
            if "seed-1" in str(workdir):
                training.now += factor * 100

        training.slow = step
        training.now = 0.0

    slow(1)
    assert searched(config, tmp_path / "one", training, Limits(seconds=600))["seeds"] == [0]
    slow(10)
    found = searched(config, tmp_path / "two", training, Limits(seconds=600))
    assert (found["seeds"], found["refit"]) == ([0, 1, 2], False)  # the average of those on the fold costs nothing


def test_while_the_head_alone_leads_the_time_of_its_final_run_is_enough_to_keep(config, training, tmp_path):
    training.head = 0.9
    found = searched(config, tmp_path, training, Limits(seconds=600))
    assert found["winner"]["fields"]["method"] == "l2_fe"
    # By hand: a whole run takes 35 s, which are kept, and no other one began unless it fitted: 15 + 35 s.
    assert 600 - 35 - 50 < training.now <= 600 - 35 + 2 * 5
    assert found["seeds"] == [0]


def test_an_average_that_is_worse_is_not_taken(config, training, tmp_path):
    training.average = 0.69
    found = searched(config, tmp_path, training, Limits(trials=2))
    assert found["seeds"] == [0]
    assert "An average over seeds did not pay." in found["words"]


def test_a_budget_for_the_head_alone_ends_with_the_head_and_says_so(config, training, tmp_path):
    found = searched(config, tmp_path, training, Limits(seconds=20), given=("steps",))
    assert found["winner"]["setting"] == 0
    assert training.now <= 20
    assert found["settings"] == 0
    # By hand: 5 s of the head; 10 + 30 steps, of which nothing is known but the head's 5 s, and a guess of 30 s to
    # compile for each; with the share of the search 0.6.
    assert found["needed_seconds"] == pytest.approx((5 + 2 * 35) / 0.6)
    assert (
        "no time for fine-tuning: the config as it is, short and whole, and then the final run take" in found["words"]
    )


def test_a_setting_that_diverges_loses_and_the_search_goes_on(config, training, tmp_path):
    training.fails["l2"] = DivergedError("the loss is not finite")
    found = searched(config, tmp_path, training, Limits(trials=4))
    assert found["winner"]["fields"]["method"] == "delta"
    assert {row["error"] for row in found["trials"] if row["fields"]["method"] == "l2"} == {"the loss is not finite"}


def test_an_error_of_the_config_is_one_setting_s_own_but_not_of_the_first_ones(config, training, tmp_path):
    training.fails["l2"] = ConfigError("a training step takes more memory than a device has")
    assert searched(config, tmp_path / "one", training, Limits(trials=3))["winner"]["fields"]["method"] == "delta"
    training.fails["delta"] = ConfigError("no such tap")
    with pytest.raises(ConfigError, match="no such tap"):
        searched(config, tmp_path / "two", training, Limits(trials=3))


def test_a_setting_that_needs_too_much_memory_loses_and_other_errors_of_the_device_end_the_command(
    config, training, tmp_path
):
    training.fails["l2"] = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
    assert searched(config, tmp_path / "one", training, Limits(trials=3))["winner"]["fields"]["method"] == "delta"
    training.fails["l2"] = jax.errors.JaxRuntimeError("INTERNAL: the device is gone")
    with pytest.raises(jax.errors.JaxRuntimeError, match="the device is gone"):
        searched(config, tmp_path / "two", training, Limits(trials=3))


def test_images_that_a_data_set_validates_on_are_never_trained_on(config, photos, training, tmp_path):
    for split in ("train", "val", "test"):
        shutil.copytree(photos, tmp_path / "photos" / split)
    config.data.root = str(tmp_path / "photos")
    found = searched(config, tmp_path / "run", training, Limits(trials=3))
    assert (found["refit"], found["seeds"]) == (False, [0, 1, 2])
    assert not (tmp_path / "run" / "refits").exists()
    assert {used.data.validation_fraction for _, used, _ in training.calls} == {0.25}
    assert {used.data.validation_fold for _, used, _ in training.calls} == {0}
    assert "trained on the training images" in found["words"]


def test_the_config_is_run_whole_before_time_is_kept_for_the_end(config, training, tmp_path):
    # By hand: 5 s of the head, 15 of the short run and 35 of the whole one leave 20 s, too few for another 35 s on all
    # images.
    found = searched(config, tmp_path, training, Limits(seconds=75), given=("steps",))
    assert [row["steps"] for row in found["trials"]] == [0, 10, 30]
    assert (found["winner"]["setting"], found["steps"], found["refit"]) == (1, 30, False)


def test_the_end_is_longer_than_the_search_where_that_had_no_time(config, training, tmp_path):
    config.steps = 300
    training.image = 1 / (pace.PASSES["delta"] * config.batch_size)  # so a step of DELTA is foreseen to take a second
    found = searched(config, tmp_path, training, Limits(seconds=900))
    # 305 s are those of the stand-in for the last call, which trains nothing.
    assert training.now - 305 <= 900
    assert found["winner"]["steps"] < 250
    assert found["steps"] == 300
    assert found["refit"]
    (last,) = [used.steps for workdir, used, _ in training.calls if "refits" in str(workdir)]
    assert last == 300
    assert "all images that are not for testing for 300 steps, as the config asks for more" in found["words"]


@pytest.mark.parametrize("better", [True, False])
def test_on_the_images_of_the_search_a_longer_end_has_to_be_better_there(
    config, photos, training, tmp_path, capsys, better
):
    for split in ("train", "val", "test"):
        shutil.copytree(photos, tmp_path / "photos" / split)
    config.data.root = str(tmp_path / "photos")
    config.steps = 300
    training.image = 1 / (pace.PASSES["delta"] * config.batch_size)
    training.longest = (300, 0.1 if better else -0.1)
    found = searched(config, tmp_path / "run", training, Limits(seconds=900))
    assert training.now - (305 if better else 175) <= 900  # the stand-in for the last call, again
    assert not found["refit"]
    assert (found["steps"] == 300) is better
    assert ("300 steps are no better on the validation images than" in capsys.readouterr().out) is not better
    assert ("for 300 steps, as" in found["words"]) is better
    tested = [workdir for workdir, _, test in training.calls if test]
    assert tested == [tmp_path / "run" / "final"]


def test_folds_begin_with_that_of_the_config(config, training, tmp_path):
    config.data.validation_fold = 3
    searched(config, tmp_path, training, Limits(trials=3))
    folds = {
        int(workdir.name.split("-")[3]): used.data.validation_fold
        for workdir, used, _ in training.calls
        if "trials" in str(workdir)
    }
    assert folds == {0: 3, 1: 0, 2: 1}  # of four


def test_steps_may_follow_from_the_number_of_images(config, training, tmp_path):
    config.steps = 0
    searched(config, tmp_path, training, Limits(trials=1))
    # By the rule of training/length.py: 12 images of which 4,800 are to be shown, 8 a step.
    assert {used.steps for _, used, _ in training.calls if used.method == "delta"} == {200, 600}


def test_the_head_alone_is_nothing_to_search(config, training, tmp_path):
    config.method = "l2_fe"
    with pytest.raises(ConfigError, match="trains the head alone, so there is nothing to search"):
        searched(config, tmp_path / "one", training, Limits(trials=2), given=("method",))
    # In a file it is where the search begins.
    assert searched(config, tmp_path / "two", training, Limits(trials=2))["winner"]["fields"]["method"] == "l2"


def test_the_workdir_of_a_run_is_none_for_a_search(config, training, tmp_path):
    for name in ("config.json", "summary.json"):
        (tmp_path / name).write_text("{}")
    assert not ending.shown_again(tmp_path)
    with pytest.raises(ConfigError, match="is the workdir of a run; choose another --workdir"):
        searched(config, tmp_path, training, Limits(trials=1))


def test_another_config_in_the_same_folder_is_refused_and_where_images_are_may_change(config, training, tmp_path):
    searched(config, tmp_path, training, Limits(trials=1))
    config.batch_size = 4
    with pytest.raises(ConfigError, match=r"batch_size: 8 there, 4 here"):
        searched(config, tmp_path, training, Limits(trials=1))


def test_without_validation_images_there_is_nothing_to_choose_by(config, training, tmp_path):
    config.data.validation_fraction = 0.0
    with pytest.raises(ConfigError, match=r"no validation images to choose by; expected .* such as 0\.2"):
        searched(config, tmp_path, training, Limits(trials=1))
    assert not training.calls


def test_a_run_that_another_process_began_meanwhile_is_left_to_it(config, training, tmp_path):
    with Clock(tmp_path, lambda: training.now) as clock:
        found = Search(config, (), tmp_path, Limits(trials=1), clock)
        training.fails["delta"] = InUseError("another run is working there")
        trials.begin(tmp_path, search.Setting(1, {"method": "delta"}))
        found.do(Run(1, 10, 0, 0))
        assert Run(1, 10, 0, 0).path not in trials.results(tmp_path)


def test_of_two_processes_one_takes_a_number(tmp_path):
    assert trials.begin(tmp_path, search.Setting(3, {"method": "l2"}))
    assert not trials.begin(tmp_path, search.Setting(3, {"method": "delta"}))
    assert [one.fields for one in trials.settings(tmp_path)] == [{"method": "l2"}]
    assert trials.climb(tmp_path, 3, 1)
    assert not trials.climb(tmp_path, 3, 1)
    assert trials.on_rung(tmp_path, 1) == {3}
