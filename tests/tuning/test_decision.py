"""What a search does next: rungs, promotions, predicted times, and the end of the budget."""

import math

import pytest
from ml_collections import ConfigDict

from delta_jax.configs.default import get_config
from delta_jax.tuning import decision, halving, pace, plan, space
from delta_jax.tuning.decision import State
from delta_jax.tuning.halving import Promotion, Rung
from delta_jax.tuning.pace import Timed
from delta_jax.tuning.plan import Plan
from delta_jax.tuning.space import Setting, Space
from delta_jax.tuning.trials import Result, Run

SPACE = Space(("delta", "l2"), (0.001, 0.1), {"delta": ("alpha_relative", 0.01, 1.0)})
PLAN = Plan(30, (Rung(10), Rung(30), Rung(30, 3)), SPACE, 5, True, 1.0, 32)


def config(**changed):
    found = get_config()
    found.update(ConfigDict(changed))
    return found


def setting(number):
    return Setting(number, {"method": "l2_fe" if number == 0 else "l2", "learning_rate": 0.01 * number})


def result(number, steps, top1, fold=0, *, step=1.0, cross_entropy=0.0, error=""):
    """One second a step, and five for the rest."""
    run = Run(number, steps, fold, 0)
    timed = Timed("l2" if steps else "l2_fe", 32, steps, fold, 5 + step * steps, step if steps else 0.0, 0.0)
    return Result(run, top1, cross_entropy, 100, 0.01, timed, 0.01, error)


def state(results, *, settings, begun=((), (), ()), held=()):
    found = {one.run.path: one for one in results}
    return State(PLAN, [setting(n) for n in range(settings)], [set(one) for one in begun], found, held, 0)


def decide(found, left=math.inf, trials=None):
    return decision.decide(found, left, trials, setting)


# Rungs.


@pytest.mark.parametrize(
    ("runs", "longer", "expected"),
    [
        (6, True, [Rung(100), Rung(300)]),
        (15, True, [Rung(100), Rung(300), Rung(300, 3)]),
        (40, True, [Rung(100), Rung(300), Rung(900), Rung(900, 3)]),
        (40, False, [Rung(100), Rung(300), Rung(300, 3)]),
        (90, True, [Rung(33), Rung(100), Rung(300), Rung(900), Rung(900, 3)]),
    ],
)
def test_more_time_brings_folds_then_longer_runs_then_a_shorter_first_rung(runs, longer, expected):
    assert halving.rungs(300, runs, 5, longer=longer) == expected


def test_with_images_of_its_own_to_validate_on_a_data_set_has_one_fold():
    assert halving.rungs(300, 15, 1, longer=True) == [Rung(100), Rung(300)]
    assert halving.rungs(2, 90, 1, longer=False) == [Rung(1), Rung(2)]


# Promotions. Expected ones by hand from the paper's rule: the best third of a rung, floored, may be on the next one.


def test_two_of_a_rung_are_too_few_and_of_three_the_best_goes_on():
    assert halving.promotion([{1: 0.5, 2: 0.6}, {}], [{1, 2}, ()]) is None
    assert halving.promotion([{1: 0.5, 2: 0.7, 3: 0.6}, {}], [{1, 2, 3}, ()]) == Promotion(2, 1)


def test_one_that_was_left_behind_goes_on_when_there_is_a_second_place():
    values = {1: 0.5, 2: 0.7, 3: 0.6, 4: 0.1, 5: 0.2}
    assert halving.promotion([values, {}], [set(values), {2}]) is None  # five: still one place
    assert halving.promotion([{**values, 6: 0.3}, {}], [{*values, 6}, {2}]) == Promotion(3, 1)


def test_one_that_went_on_and_was_overtaken_keeps_its_place():
    # 2 went on; 4 and 5 are better since, but of five there is one place.
    assert halving.promotion([{1: 0.5, 2: 0.7, 3: 0.6, 4: 0.8, 5: 0.9}, {}], [{1, 2, 3, 4, 5}, {2}]) is None


def test_the_highest_rung_comes_first_and_what_all_are_compared_with_comes_along():
    values = [{n: 0.1 * n for n in range(1, 8)}, {5: 0.5, 6: 0.6, 7: 0.7}, {}]
    begun = [set(range(1, 8)), {5, 6, 7}, set()]
    assert halving.promotion(values, begun) == Promotion(7, 2)
    values[1][1] = 0.1
    assert halving.promotion(values, [begun[0], {1, 5, 6, 7}, set()], always=1) == Promotion(1, 2)
    # It takes nobody's place.
    assert halving.promotion(values, [begun[0], {1, 5, 6, 7}, {1}], always=1) == Promotion(7, 2)


# Times.

TIMED = [
    Timed("l2_fe", 96, 0, 0, 20.0, 0.0, 12.0),
    Timed("l2", 96, 10, 0, 40.0, 2.0, 0.0),  # compiles: 20 s beside its steps
    Timed("l2", 96, 10, 0, 27.0, 2.0, 0.0),
]


@pytest.mark.parametrize(
    ("method", "crop", "steps", "fold", "expected"),
    [
        ("l2", 96, 30, 0, 30 * 2.0 + 7.0),  # the program is there by now
        ("delta", 96, 30, 0, 30 * 2.0 * 5 / 4 + 20.0),  # one of its own to compile, a fifth pass
        ("l2", 192, 30, 0, 30 * 8.0 + 20.0),  # four times the pixels, and a program of its own
        ("l2_fe", 96, 0, 1, 8.0 + 12.0),  # a head for this fold
        ("l2_fe", 96, 0, 0, 8.0),
        ("l2_fe", 192, 30, 0, 8.0 + 4 * 12.0),  # four times the pixels for the head; it takes no steps
    ],
)
def test_a_run_takes_what_those_before_it_took(method, crop, steps, fold, expected):
    assert pace.predicted(TIMED, method, crop, steps, fold) == pytest.approx(expected)


def test_before_any_run_had_steps_they_are_guessed_from_the_speed_of_the_head():
    assert pace.predicted(TIMED[:1], "l2", 96, 30, 0, step=0.5) == pytest.approx(30 * 0.5 + 8 + 30)


# The plan.


def planned(seconds, *given, image_seconds=0.008, size=(128, 144), **changed):
    return plan.make(
        config(batch_size=16, **{"steps": 2000, **changed}),
        given,
        seconds,
        folds=5,
        refit=True,
        size=size,
        native=224,
        image_seconds=image_seconds,
        overhead=20.0,
    )


def test_a_plan_makes_runs_as_long_as_three_of_them_fit():
    # By hand: 16 images of 0.008 s, five passes with DELTA: 0.64 s a step; 600 s / 3 - 20 s = 180 s: 281 steps.
    made = planned(600.0)
    assert (made.steps, made.rungs) == (281, (Rung(94), Rung(281)))
    assert (made.space.methods, made.space.crops) == (("delta", "l2"), ())
    assert made.step_seconds == pytest.approx(0.512)


def test_steps_that_are_given_are_not_changed():
    assert planned(600.0, "steps").steps == 2000


def test_images_become_smaller_where_there_would_be_too_few_steps():
    # By hand: at 224 px 0.024 s an image, 1.92 s a step: (300 / 3 - 20) / 1.92 = 41 steps. At 192 px 56, and at 160 px
    # 81 steps, which are enough.
    made = planned(300.0, image_seconds=0.024, size=(224, 256))
    assert (made.space.crops, made.steps, made.crop) == ((160,), 81, 224)
    assert space.first(config(), made.space)[1].fields["data.crop"] == 160
    assert space.first(config(), made.space)[1].fields["data.resize"] == 183  # 160 * 256 / 224, rounded
    given = planned(300.0, "data.crop", image_seconds=0.024, size=(224, 256))
    assert (given.space.crops, given.steps) == ((), 60)


def test_a_larger_size_is_tried_where_there_is_time_and_never_above_that_of_the_weights():
    assert planned(3600.0, steps=300).space.crops == (128, 192)
    assert planned(3600.0, steps=300, size=(224, 256)).space.crops == ()
    assert planned(3600.0, "data.resize", steps=300).space.crops == ()
    assert planned(None).space.crops == ()
    # The head alone is tried at both larger sizes in any case.
    assert planned(600.0).space.heads == planned(None).space.heads == (192, 224)
    assert planned(600.0, "data.crop").space.heads == planned(600.0, size=(224, 256)).space.heads == ()
    found = [one.fields for one in space.first(config(), planned(600.0).space)]
    assert found[2:4] == [{"method": "l2_fe", "data.crop": c, "data.resize": r} for c, r in ((192, 216), (224, 252))]


def test_a_plan_is_the_same_when_it_is_read(tmp_path):
    plan.write(tmp_path, PLAN)
    assert plan.read(tmp_path) == PLAN
    assert plan.read(tmp_path / "elsewhere") is None


def test_what_is_given_is_not_searched():
    assert space.space(config(), (), wide=True).methods == ("delta", "l2", "delta_without_attention", "l2_sp")
    narrow = space.space(config(), ("method", "learning_rate", "alpha_relative"), wide=True)
    assert narrow == Space(("delta",), None, {})
    assert [one.fields for one in space.first(config(), narrow)] == [{"method": "l2_fe"}, {"method": "delta"}]


def test_the_head_alone_and_the_config_as_it_is_come_first():
    found = space.first(config(learning_rate=0.01), space.space(config(learning_rate=0.01), (), wide=False))
    assert found[0].fields == {"method": "l2_fe"}
    assert found[1].fields == {"method": "delta", "learning_rate": 0.01, "alpha_relative": 1.0}
    assert found[2].fields == {"method": "l2", "learning_rate": 0.01}
    assert found[3].fields == {"method": "delta", "learning_rate": 0.02, "alpha_relative": 0.3}
    assert [one.number for one in found] == list(range(len(found)))


def test_a_shorter_run_has_its_own_schedule():
    base = config(steps=900, warmup_steps=90, eval_every=100, select="best", checkpoint_every=500)
    found = space.configured(base, Setting(2, {"method": "l2", "learning_rate": 0.5}), steps=300, fold=2, seed=7)
    assert (found.steps, found.warmup_steps, found.learning_rate, found.seed) == (300, 30, 0.5, 7)
    assert (found.select, found.eval_every, found.checkpoint_every, found.data.validation_fold) == ("last", 0, 60, 2)
    refit = space.configured(base, Setting(2, {"method": "l2"}), steps=300, fold=0, seed=7, refit=0.001)
    assert (refit.data.validation_fraction, refit.head_l2) == (0.0, (0.001,))
    assert base.steps == 900


# What is next.


def test_a_search_begins_with_the_config_as_it_is_first_short_then_whole():
    head = result(0, 0, 0.5)
    assert decide(state([head], settings=1)) == setting(1)
    assert decide(state([head], settings=2)) == Run(1, 10, 0, 0)
    short = result(1, 10, 0.6)
    assert decide(state([head, short], settings=2)) == Promotion(1, 1)
    assert decide(state([head, short], settings=2, begun=((), {1}, ()))) == Run(1, 30, 0, 0)
    whole = result(1, 30, 0.7)
    assert decide(state([head, short, whole], settings=2, begun=((), {1}, ()))) == setting(2)


def test_folds_are_added_with_the_head_on_them_first():
    done = [
        result(0, 0, 0.5),
        *(result(n, 10, 0.1 * n) for n in range(1, 10)),
        *(result(n, 30, 0.1 * n) for n in (1, 7, 8, 9)),
    ]
    begun = ((), {1, 7, 8, 9}, set())
    assert decide(state(done, settings=10, begun=begun)) == Promotion(1, 2)
    begun = ((), {1, 7, 8, 9}, {1})
    assert decide(state(done, settings=10, begun=begun)) == Run(0, 0, 1, 0)
    done += [result(0, 0, 0.5, fold) for fold in (1, 2)]
    assert decide(state(done, settings=10, begun=begun)) == Run(1, 30, 1, 0)
    assert decide(state(done, settings=10, begun=begun, held=(Run(1, 30, 1, 0).path,))) == Run(1, 30, 2, 0)


def test_what_others_are_at_is_left_to_them_and_waited_for_at_the_end():
    head, short, whole = result(0, 0, 0.5), result(1, 10, 0.6), result(1, 30, 0.7)
    at_it = state([head, short, whole], settings=3, begun=((), {1}, ()), held=(Run(2, 10, 0, 0).path,))
    assert decide(at_it) == setting(3)
    assert decide(at_it, trials=2) == decision.WAIT


def test_a_number_of_trials_ends_a_search_with_the_best_of_them_run_to_the_end():
    done = [result(0, 0, 0.5), *(result(n, 10, 0.1 * n) for n in (1, 2, 3)), result(1, 30, 0.2)]
    assert decide(state(done[:-1][:3] + done[-1:], settings=3, begun=((), {1}, ())), trials=3) == setting(3)
    assert decide(state(done, settings=4, begun=((), {1}, ())), trials=3) == Promotion(3, 1)
    done.append(result(3, 30, 0.3))
    # The second best may still win where it would not have earned its place among so few.
    assert decide(state(done, settings=4, begun=((), {1, 3}, ())), trials=3) == Promotion(2, 1)
    done.append(result(2, 30, 0.1))
    assert decide(state(done, settings=4, begun=((), {1, 2, 3}, ())), trials=3) == Promotion(1, 2)


def test_without_a_limit_a_search_ends_when_it_does_not_pay():
    # The second setting is the best one; ten more were no better.
    done = [result(0, 0, 0.5), *(result(n, 10, 0.9 if n == 2 else 0.5) for n in range(1, 13))]
    whole = {1, 2, 3, 4, 5}
    done += [result(n, 30, 0.9 if n == 2 else 0.5, fold) for n in whole for fold in range(3)]
    done += [result(0, 0, 0.5, fold) for fold in (1, 2)]
    begun = ((), whole, whole)
    assert decide(state(done, settings=13, begun=begun)) is None
    assert decide(state(done[:-1], settings=12, begun=begun), trials=20) is not None


def test_at_the_end_of_the_budget_the_best_short_run_is_made_whole_instead_of_a_new_setting():
    # A short run takes 15 s, a whole one 35 s: for both there is time with 50 s, and with less for one of them.
    done = [result(0, 0, 0.5), result(1, 10, 0.6), result(1, 30, 0.6), result(2, 10, 0.7)]
    found = state(done, settings=3, begun=((), {1}, ()))
    assert decide(found, left=51.0) == setting(3)
    assert decide(found, left=49.0) == Promotion(2, 1)
    assert decide(found, left=34.0) is None
    # What was begun and does not fit is left.
    assert decide(state(done, settings=3, begun=((), {1, 2}, ())), left=34.0) is None


def test_a_budget_that_has_no_time_for_the_config_ends_with_the_head():
    assert decide(state([result(0, 0, 0.5)], settings=2), left=3.0) is None
